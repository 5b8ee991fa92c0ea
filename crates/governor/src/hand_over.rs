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
use crate::turn::{NEAR_NS, Stage, Turn};

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

/// What a tenant wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// To launch; its bid asks.
    Launch,
    /// To say that it has launched its last in this turn, and that this has not ended.
    Drain,
    /// To pass on a turn that it was offered and has not accepted; its bid asks no more.
    Decline,
    /// To end its turn.
    Release {
        /// It goes on asking for turns; else it does not want more for now.
        asks_on: bool,
    },
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// Launch, until then, ns.
    Go {
        /// See the variant.
        until_ns: u64,
    },
    /// Change the word; who wants to launch looks again after it.
    Change(Change),
    /// Nothing; who wants to launch sleeps until then, ns, or until it is woken.
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
    /// What a tenant does with what it sees.
    #[must_use]
    pub fn step(mut self, intent: Intent) -> Move {
        let (turn, me, now_ns) = (self.turn, self.me, self.now_ns);
        let is_mine = turn.holder == Some(me);
        let wait = Move::Wait { until_ns: turn.free_ns() };
        let change = |turn| Move::Change(Change { turn, ended: None });
        let is_out = match (intent, turn.stage) {
            (Intent::Release { asks_on }, _) if is_mine => !asks_on,
            (Intent::Decline, Stage::Offered) if is_mine => true,
            (Intent::Drain, Stage::Held) if is_mine => return change(turn.draining()),
            (Intent::Release { .. } | Intent::Drain | Intent::Decline, _) => return wait,
            (Intent::Launch, Stage::Offered) if is_mine => return change(turn.accepted(now_ns)),
            (Intent::Launch, Stage::Held) if is_mine && now_ns < turn.until_ns() => {
                return Move::Go { until_ns: turn.until_ns() };
            }
            // Another thread or process of the tenant waits for what is in flight, and hands over.
            (Intent::Launch, Stage::Drains) if is_mine && now_ns < turn.free_ns() => return wait,
            (Intent::Launch, _) if is_mine => false,
            (Intent::Launch, _) if now_ns >= turn.free_ns() => true,
            (Intent::Launch, _) if self.preempts() => false,
            (Intent::Launch, _) => return wait,
        };
        let ended = turn.holder.map(|holder| self.end(holder, is_out));
        let next = arbiter::pick(self.bids, turn.holder.unwrap_or(me), turn.next_begin_ns(now_ns));
        Move::Change(Change { turn: turn.next(now_ns, next, me), ended })
    }

    /// Whether a higher priority takes the turn of another, which has not ended.
    fn preempts(&mut self) -> bool {
        let Some(holder) = self.turn.holder else { return false };
        if let Some(bid) = self.bids.get_mut(holder) {
            bid.running_ns = self.now_ns.saturating_sub(self.turn.begin_ns);
        }
        arbiter::preempts(self.bids, self.me, holder, self.now_ns)
    }

    /// Charges the holder, and takes it out or leaves it in.
    fn end(&mut self, holder: usize, is_out: bool) -> Ended {
        let mut used_ns = self.now_ns.saturating_sub(self.turn.begin_ns);
        // Late by a little, and nothing ran on that anybody saw, or the turn would drain; or it was never held.
        let is_late = self.turn.stage == Stage::Held && used_ns < self.turn.length_ns + NEAR_NS;
        if is_late || self.turn.stage == Stage::Offered {
            used_ns = used_ns.min(self.turn.length_ns);
        }
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
}
