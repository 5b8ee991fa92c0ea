//! The arena and its tenants as numbers, moved by events.
//!
//! What a tenant gets is the time in which it held the turn and its work ran: the first 150 µs of a turn that came from another are lost, as with a
//! switch of the GPU's, and so is what it does not use.

use cuota_governor::arbiter::{self, Bid, TENANTS};
use cuota_governor::entitlement::{Entitlement, Priority};
use cuota_governor::hand_over::{self, Change, Intent, Move, Scene};
use cuota_governor::turn::{DRAIN_NS, Stage, Turn};

use crate::{MS, SECOND, US};

/// Lost where the turn changes hands, ns.
pub(crate) const LOST_NS: u64 = 150 * US;
/// From a wake-up to the thread that runs, ns.
const WAKE_NS: u64 = 60 * US;
/// One thread in so many comes late to its turn, by 0.6 to 3.5 ms, and of those one in so many by 5: as on an H100's host, a virtual machine whose
/// processors stand still for milliseconds now and then.
const LATE_IN: u64 = 20;
const LATEST_IN: u64 = 50;

/// What a tenant does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Habit {
    /// Always has work.
    Saturates,
    /// Is busy for so long, ns, and idle for so long.
    Bursts { busy_ns: u64, idle_ns: u64 },
    /// Asks always, and launches nothing.
    Lies,
    /// Asks always, and gives up at once, and asks again.
    Flickers,
    /// Has work always, and runs so long past each turn, ns.
    Overruns { by_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    pub(crate) entitlement: Entitlement,
    pub(crate) habit: Habit,
    /// From then on nothing comes from it, ns.
    pub(crate) dies_ns: u64,
    bid: Bid,
    /// The time it had, ns.
    pub(crate) got_ns: u64,
    /// Turns that it held.
    pub(crate) turns: u64,
    /// When its burst began, or the next begins, ns.
    phase_ns: u64,
    is_busy: bool,
    /// Until when its work of a turn before runs on, ns.
    runs_until_ns: u64,
    /// When it began to wait, ns; 0: it does not.
    waits_since_ns: u64,
    /// The longest wait, ns.
    pub(crate) longest_wait_ns: u64,
}

impl Tenant {
    pub(crate) fn new(entitlement: Entitlement, habit: Habit) -> Self {
        Self {
            entitlement,
            habit,
            dies_ns: u64::MAX,
            bid: Bid { entitlement, ..Bid::default() },
            got_ns: 0,
            turns: 0,
            phase_ns: 0,
            is_busy: false,
            runs_until_ns: 0,
            waits_since_ns: 0,
            longest_wait_ns: 0,
        }
    }

    /// What it is entitled to from now on.
    pub(crate) fn set_entitlement(&mut self, entitlement: Entitlement) {
        (self.entitlement, self.bid.entitlement) = (entitlement, entitlement);
    }

    /// Wants the GPU now, or when next, ns.
    fn wants_at(&self, now_ns: u64) -> u64 {
        match self.habit {
            Habit::Bursts { .. } if !self.is_busy => self.phase_ns.max(now_ns),
            _ => now_ns,
        }
    }
}

pub(crate) fn normal(weight: u32) -> Entitlement {
    Entitlement { weight, ..Entitlement::default() }
}

pub(crate) fn guaranteed(percent: u32) -> Entitlement {
    Entitlement { guarantee_ppm: percent * 10_000, ..Entitlement::default() }
}

pub(crate) fn with_priority(priority: Priority, guarantee_percent: u32) -> Entitlement {
    Entitlement { priority, ..guaranteed(guarantee_percent) }
}

pub(crate) struct World {
    pub(crate) tenants: Vec<Tenant>,
    word: u64,
    pub(crate) now_ns: u64,
    /// Nobody's work ran, ns.
    pub(crate) idle_ns: u64,
    random: u64,
    /// Threads come late.
    is_late: bool,
    /// Whose turn was the last that was held.
    held_by: Option<usize>,
}

impl World {
    pub(crate) fn new(tenants: Vec<Tenant>) -> Self {
        assert!(tenants.len() <= TENANTS);
        Self {
            tenants,
            word: 0,
            now_ns: 3_600 * SECOND,
            idle_ns: 0,
            random: 88_172_645_463_325_252,
            is_late: false,
            held_by: None,
        }
    }

    /// A number below `below`.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// From now on threads come late, by chance.
    pub(crate) fn late(mut self, seed: u64) -> Self {
        (self.is_late, self.random) = (true, self.random ^ seed << 20);
        self
    }

    /// From an offer to the thread that accepts it, ns.
    fn wake_ns(&mut self) -> u64 {
        if !self.is_late || self.random(LATE_IN) != 0 {
            return WAKE_NS;
        }
        if self.random(LATEST_IN) == 0 { 5 * MS } else { 600 * US + self.random(2_900 * US) }
    }

    fn turn(&self) -> Turn {
        Turn::from_word(self.word, self.now_ns).expect("nobody writes rubbish here")
    }

    fn bids(&self) -> Vec<Bid> {
        let bid = |tenant: &Tenant| Bid {
            horizon_ns: arbiter::horizon_ns(tenant.bid.horizon_ns, self.now_ns),
            ..tenant.bid
        };
        self.tenants.iter().map(bid).collect()
    }

    fn lives(&self, index: usize) -> bool {
        self.now_ns < self.tenants[index].dies_ns
    }

    fn ask(&mut self, index: usize) {
        let entry_ns = arbiter::entry_ns(&self.bids(), self.now_ns);
        let now_ns = self.now_ns;
        let tenant = &mut self.tenants[index];
        if !tenant.bid.asks {
            tenant.bid.asks = true;
            tenant.bid.horizon_ns = tenant.bid.horizon_ns.max(entry_ns);
            tenant.waits_since_ns = now_ns;
        }
    }

    fn change(&mut self, change: Change) {
        self.word = change.turn.to_word();
        if let Some(ended) = change.ended {
            let holder = &mut self.tenants[ended.holder];
            holder.bid.horizon_ns = holder.bid.horizon_ns.saturating_add(ended.worth_ns);
            holder.bid.asks = !ended.is_out;
            if !ended.is_out {
                holder.waits_since_ns = self.now_ns;
            }
        }
    }

    /// `index` wants to launch. Whether it may.
    fn admit(&mut self, index: usize) -> bool {
        self.ask(index);
        for _ in 0..8 {
            let mut bids = self.bids();
            let scene = Scene { bids: &mut bids, turn: self.turn(), me: index, now_ns: self.now_ns };
            match scene.step(Intent::Launch) {
                Move::Go { .. } => {
                    let now_ns = self.now_ns;
                    let tenant = &mut self.tenants[index];
                    if tenant.waits_since_ns != 0 {
                        let waited_ns = now_ns - tenant.waits_since_ns;
                        tenant.longest_wait_ns = tenant.longest_wait_ns.max(waited_ns);
                        tenant.waits_since_ns = 0;
                    }
                    return true;
                }
                Move::Change(change) => self.change(change),
                Move::Wait { .. } => return false,
            }
        }
        panic!("the word never settles");
    }

    fn release(&mut self, index: usize, asks_on: bool) {
        let mut bids = self.bids();
        let scene = Scene { bids: &mut bids, turn: self.turn(), me: index, now_ns: self.now_ns };
        if let Move::Change(change) = scene.step(Intent::Release { asks_on }) {
            self.change(change);
        }
    }

    /// The next time at which a tenant that does not ask begins to want the GPU, and who: those who could change something now.
    fn next_arrival(&self) -> Option<(u64, usize)> {
        let all = self.tenants.iter().enumerate();
        all.filter(|(index, tenant)| !tenant.bid.asks && self.lives(*index))
            .map(|(index, tenant)| (tenant.wants_at(self.now_ns), index))
            .min()
    }

    fn arrive(&mut self, index: usize) {
        if let Habit::Bursts { busy_ns, .. } = self.tenants[index].habit
            && !self.tenants[index].is_busy
        {
            self.tenants[index].is_busy = true;
            self.tenants[index].phase_ns = busy_ns;
        }
        self.admit(index);
    }

    /// Somebody who waits looks.
    fn waiter_looks(&mut self, holder: usize) {
        let waiting = |index: &usize| *index != holder && self.tenants[*index].bid.asks && self.lives(*index);
        if let Some(index) = (0..self.tenants.len()).find(waiting) {
            self.admit(index);
        }
    }

    /// Until when the holder would keep the turn if nobody came, ns, and whether it then gives it up itself.
    fn plan(&mut self, holder: usize, turn: Turn) -> (u64, End) {
        let until_ns = turn.until_ns();
        let late_ns = self.random(200 * US);
        if !self.lives(holder) {
            return (turn.free_ns().max(self.now_ns) + WAKE_NS, End::Waiter);
        }
        let died_ns = self.tenants[holder].dies_ns;
        let (end_ns, end) = match self.tenants[holder].habit {
            Habit::Saturates => (until_ns + late_ns, End::Hands),
            Habit::Lies => (until_ns, End::Hands),
            Habit::Flickers => (self.now_ns + 200 * US, End::GivesUp),
            Habit::Bursts { .. } => {
                let left_ns = self.tenants[holder].phase_ns;
                let done_ns = self.now_ns + left_ns + LOST_NS;
                if done_ns < until_ns { (done_ns, End::GivesUp) } else { (until_ns + late_ns, End::Hands) }
            }
            Habit::Overruns { by_ns } => {
                let drained_ns = until_ns + by_ns;
                // It says that it drains when its time is over.
                match turn.stage {
                    Stage::Held => (until_ns, End::Drains),
                    _ if by_ns < DRAIN_NS => (drained_ns, End::Hands),
                    _ => (turn.free_ns() + WAKE_NS, End::Waiter),
                }
            }
        };
        if died_ns < end_ns { (died_ns, End::Dies) } else { (end_ns.max(self.now_ns), end) }
    }

    fn account(&mut self, holder: usize, from_ns: u64, is_new: bool) {
        let lost_ns = if is_new { LOST_NS } else { 0 };
        let others_until_ns = self.tenants.iter().map(|tenant| tenant.runs_until_ns).max().unwrap_or(0);
        let from_ns = (from_ns + lost_ns).max(others_until_ns.min(self.now_ns));
        let used_ns = self.now_ns.saturating_sub(from_ns);
        let tenant = &mut self.tenants[holder];
        if matches!(tenant.habit, Habit::Lies | Habit::Flickers) {
            self.idle_ns += used_ns;
            return;
        }
        tenant.got_ns += used_ns;
        if let Habit::Bursts { .. } = tenant.habit {
            tenant.phase_ns = tenant.phase_ns.saturating_sub(used_ns);
        }
    }

    /// Moves on.
    pub(crate) fn run_until(&mut self, end_ns: u64) {
        while self.now_ns < end_ns {
            let arrival = self.next_arrival();
            let turn = self.turn();
            let Some(holder) = turn.holder else {
                match arrival {
                    Some((at_ns, index)) => {
                        let at_ns = at_ns.min(end_ns);
                        self.idle_ns += at_ns.saturating_sub(self.now_ns);
                        self.now_ns = at_ns;
                        self.arrive(index);
                    }
                    None => self.now_ns = end_ns,
                }
                continue;
            };
            if turn.stage == Stage::Offered {
                // Offered: accepted when its thread has woken, else somebody notices.
                let accepted_ns = self.now_ns + self.wake_ns();
                if self.lives(holder) && accepted_ns < turn.free_ns() {
                    self.now_ns = accepted_ns;
                    self.admit(holder);
                } else {
                    self.now_ns = self.now_ns.max(turn.free_ns()) + WAKE_NS;
                    self.waiter_looks(holder);
                }
                continue;
            }
            let began_ns = self.now_ns;
            let is_new = self.held_by != Some(holder);
            self.tenants[holder].turns += u64::from(is_new);
            self.held_by = Some(holder);
            let lived = self.lives(holder);
            let (plan_ns, end) = self.plan(holder, turn);
            let next_ns = arrival.map_or(u64::MAX, |(at_ns, _)| at_ns);
            self.now_ns = plan_ns.min(next_ns.max(began_ns)).min(end_ns);
            if lived {
                self.account(holder, began_ns, is_new);
            }
            if self.now_ns == plan_ns {
                self.end_turn(holder, turn, end);
            } else if let Some((at_ns, index)) = arrival
                && at_ns <= self.now_ns
            {
                self.arrive(index);
            }
        }
    }

    fn end_turn(&mut self, holder: usize, turn: Turn, end: End) {
        match end {
            End::Hands => self.release(holder, true),
            End::GivesUp => {
                self.release(holder, false);
                if let Habit::Bursts { idle_ns, .. } = self.tenants[holder].habit {
                    let jitter_ns = self.random(idle_ns / 4);
                    let tenant = &mut self.tenants[holder];
                    (tenant.is_busy, tenant.phase_ns) = (false, self.now_ns + idle_ns + jitter_ns);
                }
            }
            End::Dies => {}
            End::Drains => {
                let mut bids = self.bids();
                let scene = Scene { bids: &mut bids, turn, me: holder, now_ns: self.now_ns };
                let Move::Change(change) = scene.step(Intent::Drain) else { panic!("it has the turn") };
                self.change(change);
            }
            End::Waiter => {
                if let (Habit::Overruns { by_ns }, true) = (self.tenants[holder].habit, self.lives(holder)) {
                    let drained_ns = turn.until_ns() + by_ns;
                    let ousted_ns = self.now_ns;
                    let bids = self.bids();
                    let share = arbiter::Shares::of(&bids).share_ppm(self.tenants[holder].entitlement);
                    self.waiter_looks(holder);
                    let tenant = &mut self.tenants[holder];
                    tenant.runs_until_ns = drained_ns;
                    // It asks again when it has drained, and charges itself what it took beyond its turn.
                    let over_ns = drained_ns.saturating_sub(ousted_ns);
                    tenant.got_ns += over_ns;
                    tenant.bid.horizon_ns += hand_over::late_worth_ns(over_ns, share);
                } else {
                    self.waiter_looks(holder);
                }
            }
        }
    }

    /// The time that each had within the next `ns`.
    pub(crate) fn measure(&mut self, ns: u64) -> Vec<f64> {
        let before: Vec<u64> = self.tenants.iter().map(|tenant| tenant.got_ns).collect();
        self.run_until(self.now_ns + ns);
        let got = self.tenants.iter().zip(before);
        got.map(|(tenant, before)| (tenant.got_ns - before) as f64 / ns as f64).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Hands,
    GivesUp,
    Drains,
    Dies,
    Waiter,
}

/// Jain's index of what was had by what was due.
pub(crate) fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    sum * sum / (values.len() as f64 * squares)
}

/// Saturating tenants with these entitlements.
pub(crate) fn saturating(entitlements: impl IntoIterator<Item = Entitlement>) -> World {
    let mut world =
        World::new(entitlements.into_iter().map(|of| Tenant::new(of, Habit::Saturates)).collect());
    world.run_until(world.now_ns + 2 * SECOND + 7 * MS);
    world
}
