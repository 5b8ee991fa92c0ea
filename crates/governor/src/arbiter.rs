//! Whose turn it is: of the tenants that want a GPU, the one that is furthest behind what it is entitled to.
//!
//! *Scheme*: weighted fair queueing by virtual finish times (Demers, Keshav, Shenker, "Analysis and simulation of a fair queueing algorithm",
//! SIGCOMM 1989; Parekh, Gallager, "A generalized processor sharing approach", 1993), over turns in place of packets.
//!
//! Each tenant has a *horizon*: the time until which it has had its share. A turn of `t` under a share of φ moves it by t ÷ φ. The shares of
//! those that want the GPU add up to 1, so horizons go with the clock; a tenant that comes back after idle time begins at the horizon of the one
//! that is furthest behind, or now, so time that was not wanted is not owed. The next turn is that of the tenant whose turn would *end* first by
//! this measure: horizon + length ÷ φ.
//!
//! Why finish times and not beginnings: below a busy tenant of high priority the others have a share of half a per cent, and their shortest turn
//! is worth a second of it. By beginnings, whoever comes first would have it at once.
//!
//! *Length*: a tenant's share of a cycle, so that each has one turn in a cycle whatever its share, and the shares are true in each cycle. Where
//! that would be below 5 ms, turns are 5 ms and fewer. A second has a whole number of cycles, and each turn its place in them by the clock, so that every
//! second holds as many turns of each: what threads come late by is made up for by all, in the next cycle.
//!
//! Why not the alternatives: lottery scheduling is fair in the mean of many turns only; stride scheduling with turns of one length gives 10/30/60 in
//! cycles of ten turns, 200 ms; deficit round robin has no place for a tenant that comes back, or for priority.

use crate::entitlement::{Entitlement, Priority, WHOLE_PPM};

/// The most tenants of a GPU that can take turns.
pub const TENANTS: usize = 64;

const MS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MS;

/// A cycle of this length is aimed at.
const CYCLE_NS: u64 = 80 * MS;
/// The bounds of an equal share of it. Turns by the clock on an H100, two tenants together: 94 to 97 % of solo with 5 ms, 98.6 with 10, 99.3
/// with 20.
const EQUAL_NS: [u64; 2] = [5 * MS, 20 * MS];
/// The longest one of two tenants.
const EQUAL_OF_TWO_NS: u64 = 25 * MS;
/// A cycle of two, where neither's turn is longer than the bound by it: in the library a change of tenant takes 0.29 ms in all, which is 1.2 % of turns
/// of 25 ms and 0.9 of 33 (measured on an H100 with 25).
const CYCLE_OF_TWO_NS: u64 = SECOND_NS / 15;
/// The bounds of a turn. The longest is what others wait when its holder dies.
const TURN_NS: [u64; 2] = [5 * MS, 40 * MS];

/// What is left to a tenant below a busy one of higher priority, if it is guaranteed less: so that nobody stands still. With the shortest turn
/// of 5 ms it has one a second.
pub const LEAST_PPM: u32 = 5_000;

/// How far from the clock a horizon counts: what was missed before that is not made up for, what was overrun beyond it is forgiven.
const MEMORY_NS: u64 = 60 * SECOND_NS;

/// Horizons that differ by less than this part of a cycle are taken for equal, so that tenants go round in one order and not in that of how late
/// their threads have woken: in every second each has as many turns. Who is ahead by less than that has a turn so much shorter,
/// by [`SHORTER_PART`] at most.
const EQUAL_PART: u64 = 3;
const SHORTER_PART: u64 = 4;

/// By so small a part of itself a turn is longer or shorter, to end where it has its place.
const PLACE_PART: u64 = 16;

/// A tenant that may want the GPU.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Bid {
    /// Whether it does.
    pub asks: bool,
    /// Until when it has had its share, ns.
    pub horizon_ns: u64,
    /// How long its turn has been running, ns; 0: it has none.
    pub running_ns: u64,
    /// What it is entitled to.
    pub entitlement: Entitlement,
}

/// What the shares of those who ask come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    count: u32,
    guaranteed_ppm: u64,
    top: Priority,
    top_weight: u64,
    top_guaranteed_ppm: u64,
    cycle_ns: u64,
}

impl Shares {
    /// Of these bids, at most [`TENANTS`].
    #[must_use]
    pub fn of(bids: &[Bid]) -> Self {
        let mut shares = Self {
            count: 0,
            guaranteed_ppm: 0,
            top: Priority::Low,
            top_weight: 0,
            top_guaranteed_ppm: 0,
            cycle_ns: 0,
        };
        for bid in bids.iter().filter(|bid| bid.asks) {
            shares.count += 1;
            shares.top = shares.top.max(bid.entitlement.priority);
        }
        for Entitlement { guarantee_ppm, weight, priority } in
            bids.iter().filter(|bid| bid.asks).map(|bid| bid.entitlement)
        {
            if priority == shares.top {
                shares.top_weight += u64::from(weight);
                shares.top_guaranteed_ppm += u64::from(guarantee_ppm);
                shares.guaranteed_ppm += u64::from(guarantee_ppm);
            } else {
                shares.guaranteed_ppm += u64::from(guarantee_ppm.max(LEAST_PPM));
            }
        }
        shares.cycle_ns = cycle_ns(shares.count);
        let most_ppm = TURN_NS[1] * u64::from(WHOLE_PPM) / CYCLE_OF_TWO_NS;
        let fits = |bid: &Bid| !bid.asks || shares.share_ppm(bid.entitlement) <= most_ppm;
        if shares.count == 2 && bids.iter().all(fits) {
            shares.cycle_ns = CYCLE_OF_TWO_NS;
        }
        shares
    }

    /// How many ask.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The share of one who asks, parts per million: 1 at least. All of them together have [`WHOLE_PPM`], but for rounding.
    #[must_use]
    pub fn share_ppm(&self, of: Entitlement) -> u64 {
        let whole = u64::from(WHOLE_PPM);
        let is_top = of.priority == self.top;
        let mut share = u64::from(if is_top { of.guarantee_ppm } else { of.guarantee_ppm.max(LEAST_PPM) });
        if self.guaranteed_ppm > whole {
            // More than there is: the operator's tool refuses that, so somebody wrote it who should not.
            share = share * whole / self.guaranteed_ppm;
        } else if is_top {
            let rest = whole - self.guaranteed_ppm;
            share += match (self.top_weight, self.top_guaranteed_ppm) {
                (0, 0) => rest / u64::from(self.count.max(1)),
                (0, guaranteed) => rest * u64::from(of.guarantee_ppm) / guaranteed,
                (weights, _) => rest * u64::from(of.weight) / weights,
            };
        }
        share.max(1)
    }

    /// The length of a turn under this share, ns.
    #[inline(never)]
    #[must_use]
    pub fn turn_ns(&self, share_ppm: u64) -> u64 {
        let length_ns = self.cycle_ns * share_ppm / u64::from(WHOLE_PPM);
        length_ns.clamp(TURN_NS[0], TURN_NS[1])
    }

    /// How often one under this share has a turn, ns.
    #[must_use]
    pub fn period_ns(&self, share_ppm: u64) -> u64 {
        worth_ns(self.turn_ns(share_ppm), share_ppm)
    }

    /// A turn's length, ns, so much longer or shorter that it ends nearer to its place: in each cycle by the clock those who ask have their turns one
    /// after the other.
    fn placed_ns(&self, bids: &[Bid], index: usize, begin_ns: u64, length_ns: u64) -> u64 {
        let cycle_ns = self.cycle_ns;
        let mut until_ppm = 0;
        for bid in bids.iter().take(index + 1).filter(|bid| bid.asks) {
            until_ppm += self.share_ppm(bid.entitlement);
        }
        let place_ns = cycle_ns * until_ppm / u64::from(WHOLE_PPM);
        // Half a cycle is where a turn ends that ends at its place.
        let half_ns = cycle_ns / 2;
        let ends_ns = (begin_ns + length_ns + half_ns + cycle_ns - place_ns) % cycle_ns;
        let most_ns = length_ns / PLACE_PART;
        let placed_ns = (length_ns + half_ns).saturating_sub(ends_ns);
        placed_ns.max(length_ns - most_ns).min(length_ns + most_ns).min(TURN_NS[1])
    }

    /// When the turn of a bid would end by its own measure, ns.
    fn finish_ns(&self, bid: &Bid) -> u64 {
        let share_ppm = self.share_ppm(bid.entitlement);
        bid.horizon_ns.saturating_add(worth_ns(bid.running_ns + self.turn_ns(share_ppm), share_ppm))
    }
}

/// How long a cycle of `count` tenants takes, ns; two that have about as much have a longer one.
#[inline(never)]
#[must_use]
pub const fn cycle_ns(count: u32) -> u64 {
    let count = if count == 0 { 1 } else { count as u64 };
    let longest_ns = if count > 2 { EQUAL_NS[1] } else { EQUAL_OF_TWO_NS };
    let mut equal_ns = CYCLE_NS / count;
    if equal_ns < EQUAL_NS[0] {
        equal_ns = EQUAL_NS[0];
    } else if equal_ns > longest_ns {
        equal_ns = longest_ns;
    }
    let cycles = SECOND_NS / (equal_ns * count);
    SECOND_NS / if cycles == 0 { 1 } else { cycles }
}

/// What time on the GPU is worth to one who has this share, ns of its horizon.
#[must_use]
pub fn worth_ns(used_ns: u64, share_ppm: u64) -> u64 {
    // A minute × 10^6 needs 56 bits.
    used_ns.min(MEMORY_NS) * u64::from(WHOLE_PPM) / share_ppm.max(1)
}

/// A horizon as it counts: neither too far behind the clock nor too far ahead.
#[must_use]
pub fn horizon_ns(word: u64, now_ns: u64) -> u64 {
    word.clamp(now_ns.saturating_sub(MEMORY_NS), now_ns.saturating_add(MEMORY_NS))
}

/// The horizon at which one begins that has not asked until now: that of the one furthest behind, or now.
#[must_use]
pub fn entry_ns(bids: &[Bid], now_ns: u64) -> u64 {
    let asking = bids.iter().filter(|bid| bid.asks);
    asking.map(|bid| bid.horizon_ns).min().unwrap_or(now_ns)
}

/// Whose turn is next that begins at `begin_ns`, and how long it is, ns. Of about equals the higher priority, then the first behind `last` in a circle.
/// `None`: nobody asks.
#[must_use]
pub fn pick(bids: &[Bid], last: usize, begin_ns: u64) -> Option<(usize, u64)> {
    let shares = Shares::of(bids);
    let equal_ns = shares.cycle_ns / EQUAL_PART;
    let mut best: Option<(usize, u64)> = None;
    let mut index = last;
    for _ in bids {
        index = if index + 1 < bids.len() { index + 1 } else { 0 };
        let Some(bid) = bids.get(index).filter(|bid| bid.asks) else { continue };
        let finish_ns = shares.finish_ns(bid);
        let is_better = best.is_none_or(|(other, at_ns)| {
            let priority = |index: usize| bids.get(index).map(|bid| bid.entitlement.priority);
            let is_equal = finish_ns.abs_diff(at_ns) <= equal_ns;
            if is_equal { priority(index) > priority(other) } else { finish_ns < at_ns }
        });
        if is_better {
            best = Some((index, finish_ns));
        }
    }
    let (index, _) = best?;
    let bid = bids.get(index)?;
    let share_ppm = shares.share_ppm(bid.entitlement);
    let turn_ns = shares.turn_ns(share_ppm);
    let ahead_ns = bid.horizon_ns.saturating_sub(entry_ns(bids, bid.horizon_ns));
    let shorter_ns = if ahead_ns <= equal_ns { ahead_ns * share_ppm / u64::from(WHOLE_PPM) } else { 0 };
    let length_ns = turn_ns - shorter_ns.min(turn_ns / SHORTER_PART);
    Some((index, shares.placed_ns(bids, index, begin_ns, length_ns)))
}

/// Whether `me` takes the turn from its holder at once: it has the higher priority, and the turn would be its own.
#[must_use]
pub fn preempts(bids: &[Bid], me: usize, holder: usize, now_ns: u64) -> bool {
    let priority = |index: usize| bids.get(index).map(|bid| bid.entitlement.priority);
    priority(me) > priority(holder) && pick(bids, holder, now_ns).is_some_and(|(index, _)| index == me)
}
