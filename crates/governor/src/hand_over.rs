//! From one turn to the next: what a tenant does that wants to launch, and one that is done.
//!
//! A turn ends in one of four ways, and one tenant alone succeeds in changing the word, so each turn is charged once:
//!
//! 1. Its holder hands it over, or goes on if it would be next again.
//! 2. It is not accepted, or not handed over in time: a waiter ends it. The holder is killed, stopped, in a debugger or far behind; it is
//!    charged, and not asked again until it asks itself. So it costs the others one turn, once. What of it runs on into the turns of others is
//!    charged twice, since they have paid for that time too ([`late_worth_ns`]).
//! 3. A tenant of higher priority takes it. The holder is charged what it had, and asks on.
//! 4. Nobody wants one: the word says so, and whoever comes next takes it without waiting for anybody.

use crate::arbiter::{self, Bid, Shares};
use crate::turn::{Stage, Turn};

/// What a tenant sees when it looks.
#[derive(Debug)]
pub struct Scene<'a> {
    /// All tenants.
    pub bids: &'a mut [Bid],
    /// The turn.
    pub turn: Turn,
    /// Who looks.
    pub me: usize,
    /// When, ns.
    pub now_ns: u64,
}

/// A turn that ends with a change of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Whose it was.
    pub holder: usize,
    /// How long it lasted, ns.
    pub used_ns: u64,
    /// What that moves its horizon by, ns.
    pub worth_ns: u64,
    /// Whether it is out until it asks again.
    pub is_out: bool,
}

/// A change of the word, to be made at one with the check that it is as it was seen. Only who makes it does what follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// What is to stand there.
    pub turn: Turn,
    /// The turn that is to be charged.
    pub ended: Option<Ended>,
}

/// What a tenant does that wants to launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// It has the turn, until then, ns.
    Go {
        /// See the variant.
        until_ns: u64,
    },
    /// Change the word, and look again.
    Change(Change),
    /// Sleep until then, ns, or until it is woken.
    Wait {
        /// See the variant.
        until_ns: u64,
    },
}

/// What it moves a horizon by that work has run on for `late_ns` after others had ended its turn, under this share, ns.
#[must_use]
pub fn late_worth_ns(late_ns: u64, share_ppm: u64) -> u64 {
    arbiter::worth_ns(late_ns.saturating_mul(2), share_ppm)
}

impl Scene<'_> {
    /// Who looks wants to launch, and its bid asks.
    #[must_use]
    pub fn admit(mut self) -> Move {
        let (turn, me, now_ns) = (self.turn, self.me, self.now_ns);
        let Some(holder) = turn.holder else {
            return self.pass_on(None);
        };
        if holder == me {
            return match turn.stage {
                Stage::Offered => Move::Change(Change { turn: turn.accepted(), ended: None }),
                Stage::Held if now_ns < turn.until_ns() => Move::Go { until_ns: turn.until_ns() },
                // Another thread or process of the tenant waits for what is in flight, and hands over.
                Stage::Drains if now_ns < turn.free_ns() => Move::Wait { until_ns: turn.free_ns() },
                Stage::Held | Stage::Drains => self.end_mine(true),
            };
        }
        if now_ns >= turn.free_ns() {
            let ended = self.end(holder, true);
            return self.pass_on(Some(ended));
        }
        if let Some(bid) = self.bids.get_mut(holder) {
            bid.running_ns = now_ns.saturating_sub(turn.begin_ns);
        }
        if arbiter::preempts(self.bids, me, holder) {
            let ended = self.end(holder, false);
            return self.pass_on(Some(ended));
        }
        Move::Wait { until_ns: turn.free_ns() }
    }

    /// Who looks has the turn, and ends it: it goes on asking, or does not want more for now. `None`: it has no turn.
    #[must_use]
    pub fn release(mut self, asks_on: bool) -> Option<Change> {
        let me = self.me;
        if self.turn.holder != Some(me) {
            return None;
        }
        match self.end_mine(asks_on) {
            Move::Change(change) => Some(change),
            Move::Go { .. } | Move::Wait { .. } => None,
        }
    }

    fn end_mine(&mut self, asks_on: bool) -> Move {
        let ended = self.end(self.me, !asks_on);
        self.pass_on(Some(ended))
    }

    /// Who looks has launched its last in this turn, and that has not ended yet. `None`: it has no turn, or others know.
    #[must_use]
    pub fn drain(&self) -> Option<Change> {
        let change = Change { turn: self.turn.draining(), ended: None };
        self.turn.is_of(self.me).then_some(change)
    }

    /// Charges the holder, and takes it out or leaves it in.
    fn end(&mut self, holder: usize, is_out: bool) -> Ended {
        let used_ns = self.now_ns.saturating_sub(self.turn.begin_ns);
        let mut ended = Ended { holder, used_ns, worth_ns: used_ns, is_out };
        if let Some(bid) = self.bids.get_mut(holder) {
            bid.asks = true;
            let entitlement = bid.entitlement;
            ended.worth_ns = arbiter::worth_ns(used_ns, Shares::of(self.bids).share_ppm(entitlement));
        }
        if let Some(bid) = self.bids.get_mut(holder) {
            bid.asks = !is_out;
            bid.running_ns = 0;
            bid.horizon_ns = bid.horizon_ns.saturating_add(ended.worth_ns);
        }
        ended
    }

    fn pass_on(&self, ended: Option<Ended>) -> Move {
        let last = self.turn.holder.unwrap_or(self.me);
        let turn = self.turn.next(self.now_ns, arbiter::pick(self.bids, last), self.me);
        Move::Change(Change { turn, ended })
    }
}
