//! A batch: the units of one stream between two boundary events.
//!
//! A boundary costs about 1 µs of CPU and 2 µs of GPU time (a timing event, measured on an H100), so it comes once in
//! [`TARGET_NS`] of estimated work and not once a launch. One event ends a batch and begins the next. A boundary is
//! drawn *before* a launch, never after it: then a chain of kernels under programmatic dependent launch, whose links
//! announce themselves, is never split.

use crate::budget::Correction;
use crate::concurrency::Concurrency;
use crate::cost::{BOUNDED, Costs, Estimate, FOLLOWED, HELD, Key, Lesson};
use crate::pace::UNEXPLAINED_NS;
use crate::part;

/// Estimated work in a batch, ns. With batches of 1 ms 5 µs kernels got 47.9 % under a cap of 50, with 0.3 ms 49.8 %
/// (measured on an H100).
pub const TARGET_NS: u64 = 300_000;

/// The same where no cap binds, and launches are counted for turns alone: the events of 0.3 ms take 0.6 % of a turn (measured on an H100).
pub const UNCAPPED_TARGET_NS: u64 = 1_000_000;

/// How much work a batch holds beside a tenant of higher priority, ns: what is in flight has to be little, and each end to be seen.
pub const BELOW_TARGET_NS: u64 = 100_000;

/// A stream that has been quiet for this long, ns, has its batch closed by whoever notices: the helper thread, or the
/// next look. Later, and the program's own idle time would be taken for work.
pub const QUIET_NS: u64 = 100_000;

/// GPU time of a boundary, ns (a timing event, measured on an H100 between kernels of 4 µs; 2.1 µs between kernels of 100). It
/// lies in the bracket that it ends; the tenant does not pay for the sensor, where no other stream covers it.
pub const BOUNDARY_NS: u64 = 1_900;

/// What a boundary at the start of a batch adds to the short gap before it, ns: a stream that is synchronised and launched
/// into again has nothing that hides the event's latency and the CPU's time to record it. Measured on an H100: a pair
/// takes 6.5 to 10 µs from each round of a program that launches and synchronises.
pub const LONE_BOUNDARY_NS: u64 = 5_000;

/// Different keys that a batch can learn from. Work of further keys is charged and not learned from; a unit that was
/// never measured has a batch of its own, so all of these were.
pub const KEYS: usize = 8;

/// One call's work on the GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// What its cost is filed under.
    pub key: Key,
    /// It was launched with programmatic dependent launch: it may begin while its predecessor still runs.
    pub continues_chain: bool,
}

/// Why a batch was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// It holds as much work as a batch should.
    Full,
    /// The next unit, or the one inside, was never measured.
    Unknown,
    /// A copy from or to the host, an event or a value waited for, a host function: its waiting is not GPU time. The
    /// next batch begins after it.
    Wait,
    /// The program waits for the stream, so the GPU will have nothing to do.
    Sync,
    /// A launch has to wait for the budget: all open batches of the process are closed, for the thread that waits may be
    /// the one that would have gone on with them, and their streams run dry meanwhile.
    Held,
    /// Nothing was launched for [`QUIET_NS`]. The boundary comes late: see [`Measured::late_ns`].
    Quiet,
    /// The stream or its context goes, or the process ends.
    End,
}

/// Where the next launch on the stream goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Into the open batch.
    Same,
    /// Into a new one: record the boundary first.
    New(Close),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Share {
    key: Key,
    cost_ns: u64,
    units: u32,
}

impl Share {
    const NONE: Self = Self { key: Key { function: 0, shape: 0 }, cost_ns: 0, units: 0 };
}

/// The open, then the closed batch of one stream. Plain data: the caller keeps it where one thread at a time writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Batch {
    cost_ns: u64,
    booked_ns: u64,
    /// How long its stream was dry between its units, as far as that is known.
    idle_ns: u64,
    units: u32,
    unknown: bool,
    is_timed: bool,
    is_hidden: bool,
    /// Those with units; the others are free.
    shares: [Share; KEYS],
}

/// What the events around a closed batch say, the boundary itself included: settling takes it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// From its first boundary to its last, ns.
    pub bracket_ns: u64,
    /// What it adds to the occupied time of the process, ns: [`crate::occupancy::Union::add`] of its interval from the first boundary
    /// on, as long as [`Batch::occupied_ns`].
    pub covered_ns: u64,
    /// Nobody else could run meanwhile: no other process on the GPU, or inside an exclusive turn.
    pub exclusive: bool,
    /// How long the stream may have been idle before the last boundary, ns: 0, unless it was drawn because the stream was
    /// quiet ([`Close::Quiet`]); then the time since units were last seen to come. It is 0 again where the boundary has
    /// not been reached at the helper's next round: the GPU was still busy when it was drawn.
    pub late_ns: u64,
}

impl Measured {
    /// The batch without the boundary at its end, and without one of its own at its start: that lies in the short
    /// gap before the bracket, which the union has added. Where other streams cover the bracket they cover its end too.
    fn without_boundaries(self, is_hidden: bool) -> Self {
        let gap_ns = if is_hidden { 0 } else { self.covered_ns.saturating_sub(self.bracket_ns) };
        let end_ns = part(BOUNDARY_NS, self.covered_ns.min(self.bracket_ns), self.bracket_ns);
        let sensor_ns = end_ns + gap_ns.min(LONE_BOUNDARY_NS);
        let bracket_ns = self.bracket_ns.saturating_sub(BOUNDARY_NS);
        Self { bracket_ns, covered_ns: self.covered_ns.saturating_sub(sensor_ns), ..self }
    }
}

/// The books of a batch that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settlement {
    /// What the tenant pays for it, GPU-ns. Beside others it may be less than they have left us: [`crate::neighbours`].
    pub charge_ns: u64,
    /// What it added to the occupied time of the process, without the boundaries, ns.
    pub covered_ns: u64,
    /// To book into both words of the budget.
    pub correction: Correction,
    /// To keep for the next estimates.
    pub concurrency: Concurrency,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            shares: [Share::NONE; KEYS],
            cost_ns: 0,
            booked_ns: 0,
            idle_ns: 0,
            units: 0,
            unknown: false,
            is_timed: false,
            is_hidden: false,
        }
    }

    /// Whether nothing was launched into it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// Estimated cost of its units alone on the GPU, ns.
    #[must_use]
    pub const fn cost_ns(&self) -> u64 {
        self.cost_ns
    }

    /// What was booked for it, GPU-ns.
    #[must_use]
    pub const fn booked_ns(&self) -> u64 {
        self.booked_ns
    }

    /// Whether the next unit goes into this batch or a new one. A batch is full where one unit more would take it further
    /// from `target_ns` ([`TARGET_NS`] or less) than it is.
    #[must_use]
    pub const fn place(&self, unit: &Unit, estimate: Estimate, target_ns: u64) -> Place {
        if self.is_empty() || unit.continues_chain {
            Place::Same
        } else if self.unknown || !estimate.is_learned() {
            Place::New(Close::Unknown)
        } else if self.cost_ns.saturating_add(self.idle_ns).saturating_add(estimate.cost_ns() / 2) > target_ns
        {
            Place::New(Close::Full)
        } else {
            Place::Same
        }
    }

    /// Units launched into it: where this has not moved in [`QUIET_NS`], the stream is quiet.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// Whether a boundary follows at once, without waiting for the next launch: after a unit that was never measured, so that
    /// what it takes is known however late the next one comes. It can come between such a unit and a dependent launch:
    /// that pair then overlaps from the second time on.
    #[must_use]
    pub const fn ends_here(&self, unit: &Unit) -> bool {
        self.unknown && !unit.continues_chain
    }

    /// Adds a unit that was launched.
    pub fn add(&mut self, unit: &Unit, estimate: Estimate) {
        self.units = self.units.saturating_add(1);
        self.unknown |= !estimate.is_learned();
        self.cost_ns = self.cost_ns.saturating_add(estimate.cost_ns());
        let same = |share: &&mut Share| share.units == 0 || share.key == unit.key;
        if let Some(share) = self.shares.iter_mut().find(same) {
            share.key = unit.key;
            share.units = share.units.saturating_add(1);
            share.cost_ns = share.cost_ns.saturating_add(estimate.cost_ns());
        }
    }

    /// Notes how long the stream was dry before the last unit, ns ([`crate::pace::Pace::launch`]): the batch is timed.
    pub const fn idle(&mut self, ns: u64) {
        self.is_timed = true;
        self.idle_ns = self.idle_ns.saturating_add(ns);
    }

    /// Says that the boundary that begins the batch is hidden: by the program's own pause, since it has not waited for the GPU before, or by
    /// other work of the process on it. The gap in front is then the program's.
    pub const fn begins_behind_a_pause(&mut self) {
        self.is_hidden = true;
    }

    /// Whether a gap may lie between its units that nobody has seen: it took clearly longer than they are known to. It is charged, since
    /// they may have taken longer this time, and teaches nothing; the next batches are timed ([`crate::pace`]).
    #[must_use]
    pub const fn may_have_gaps(&self, measured: Measured) -> bool {
        let known_ns = self.cost_ns.saturating_add(self.cost_ns / 16).saturating_add(UNEXPLAINED_NS);
        measured.late_ns == 0 && !self.is_timed && !self.unknown && measured.bracket_ns > known_ns
    }

    /// Notes what was booked for the batch, GPU-ns.
    pub const fn book(&mut self, gpu_ns: u64) {
        self.booked_ns = self.booked_ns.saturating_add(gpu_ns);
    }

    /// Closes the batch: from now until it ends it is charged its estimate, and neither what was booked and not spent nor
    /// less than what was launched. Returns the correction for both words of the budget.
    pub const fn close(&mut self, concurrency: Concurrency) -> Correction {
        let known_ns = concurrency.scale(self.cost_ns).saturating_add(self.idle_ns);
        let estimate_ns = if self.is_empty() { 0 } else { known_ns };
        let correction = Correction::from(self.booked_ns, estimate_ns);
        self.booked_ns = estimate_ns;
        correction
    }

    /// How much of its bracket the batch is believed to have occupied, from its start, ns: all of it, unless its last boundary is
    /// late. Only this goes into the union ([`crate::occupancy::Union::add`]): else the idle time of a stream
    /// that was closed late would cover what others really did meanwhile.
    #[must_use]
    pub const fn occupied_ns(&self, bracket_ns: u64, late_ns: u64) -> u64 {
        let at_least_ns = bracket_ns.saturating_sub(late_ns);
        if self.unknown || self.cost_ns >= bracket_ns {
            bracket_ns
        } else if self.cost_ns > at_least_ns {
            self.cost_ns
        } else {
            at_least_ns
        }
    }

    /// Settles an ended batch.
    ///
    /// Measured alone, it costs what it added to the occupied time; where its last boundary is late, the estimate
    /// decides how much of that time was idle. Measured beside a neighbour, it costs what was learned, as far as no
    /// other stream of the process covered it, and never more than the time between its boundaries; what nothing is known of costs
    /// that.
    #[must_use]
    pub fn settle(&self, measured: Measured, concurrency: Concurrency) -> Settlement {
        let measured = measured.without_boundaries(self.is_hidden);
        let charge_ns = if !measured.exclusive && !self.unknown {
            self.part_of_cost_ns(measured).min(measured.bracket_ns)
        } else if measured.late_ns == 0 {
            measured.covered_ns
        } else {
            self.occupied_ns(measured.bracket_ns, measured.late_ns).min(measured.covered_ns)
        };
        // A ratio of two times that hold a neighbour's slices alike.
        let concurrency = if measured.late_ns == 0 {
            concurrency.learned(measured.bracket_ns, measured.covered_ns)
        } else {
            concurrency
        };
        let correction = Correction::from(self.booked_ns, charge_ns);
        Settlement { charge_ns, covered_ns: measured.covered_ns, correction, concurrency }
    }

    /// Of what was learned, the part that the batch added to the occupied time of the process. A neighbour's slices lie in both
    /// times alike.
    fn part_of_cost_ns(&self, measured: Measured) -> u64 {
        let occupied_ns = self.occupied_ns(measured.bracket_ns, measured.late_ns);
        part(self.cost_ns, measured.covered_ns.min(occupied_ns), occupied_ns)
    }

    /// Learns from an ended batch, if its last boundary was not late: its time is divided among its units as their estimates were.
    /// Beside a neighbour it is a bound.
    pub fn teach(&self, measured: Measured, costs: &Costs<'_>) {
        self.divide(measured, costs, if measured.exclusive { &FOLLOWED } else { &BOUNDED });
    }

    /// Learns from an ended batch that was on the GPU while launches on *other* streams of the process were held back: it may
    /// have waited for them, and what they waited is not what it costs. It is charged all the same.
    pub fn teach_held(&self, measured: Measured, costs: &Costs<'_>) {
        self.divide(measured, costs, if measured.exclusive { &HELD } else { &BOUNDED });
    }

    // One body for all lessons: the guest is small.
    #[inline(never)]
    fn divide(&self, measured: Measured, costs: &Costs<'_>, lesson: &Lesson) {
        let measured = measured.without_boundaries(self.is_hidden);
        if measured.late_ns != 0 || measured.bracket_ns == 0 || self.cost_ns == 0 {
            return;
        }
        // What its stream was dry meanwhile is not what its units take. Beside a neighbour it may have been the neighbour's slice for which
        // they had not ended: then only the whole is a bound.
        let idle_ns = if measured.exclusive { self.idle_ns } else { 0 };
        let busy_ns = measured.bracket_ns.saturating_sub(idle_ns);
        if busy_ns == 0 {
            return;
        }
        for share in self.shares.iter().filter(|share| share.units != 0) {
            let of_all = part(share.cost_ns, busy_ns, self.cost_ns);
            costs.take(share.key, of_all / u64::from(share.units), lesson);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;
    use proptest::prelude::*;

    fn unit(function: u64) -> Unit {
        Unit { key: Key { function, shape: 0 }, continues_chain: false }
    }

    fn alone(ns: u64) -> Measured {
        let ns = ns + BOUNDARY_NS;
        Measured { bracket_ns: ns, covered_ns: ns, exclusive: true, late_ns: 0 }
    }

    const KNOWN: Estimate = Estimate::Learned(100_000);

    #[test]
    fn a_unit_that_was_never_measured_has_a_batch_of_its_own() {
        let mut batch = Batch::new();
        assert_eq!(batch.place(&unit(1), Estimate::Prior, TARGET_NS), Place::Same);
        batch.add(&unit(1), Estimate::Prior);
        assert_eq!(batch.place(&unit(2), KNOWN, TARGET_NS), Place::New(Close::Unknown));
        let mut batch = Batch::new();
        batch.add(&unit(2), KNOWN);
        assert_eq!(batch.place(&unit(1), Estimate::OfFunction(5), TARGET_NS), Place::New(Close::Unknown));
    }

    #[test]
    fn a_batch_is_full_before_the_unit_that_exceeds_it() {
        let mut batch = Batch::new();
        for _ in 0..3 {
            assert_eq!(batch.place(&unit(1), KNOWN, TARGET_NS), Place::Same);
            batch.add(&unit(1), KNOWN);
        }
        assert_eq!(batch.place(&unit(1), KNOWN, TARGET_NS), Place::New(Close::Full));
    }

    #[test]
    fn a_chain_of_dependent_launches_is_never_split() {
        let mut batch = Batch::new();
        let link = Unit { continues_chain: true, ..unit(1) };
        for estimate in [KNOWN, Estimate::Prior, Estimate::Learned(u64::MAX)] {
            assert_eq!(batch.place(&link, estimate, TARGET_NS), Place::Same);
            batch.add(&link, estimate);
        }
    }

    #[test]
    fn a_batch_alone_costs_what_it_covered_and_teaches_what_its_units_took() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        let mut batch = Batch::new();
        batch.book(300_000);
        batch.add(&unit(1), Estimate::Learned(10_000));
        batch.add(&unit(2), Estimate::Learned(30_000));
        batch.add(&unit(2), Estimate::Learned(30_000));
        let measured = Measured { covered_ns: 100_000 + BOUNDARY_NS, ..alone(140_000) };
        // Others covered a part of it, and so of the boundary at its end.
        let shared_ns = BOUNDARY_NS - BOUNDARY_NS * measured.covered_ns / measured.bracket_ns;
        let refund = Correction::Refund(200_000 - shared_ns);
        assert_eq!(batch.settle(measured, Concurrency::NONE).correction, refund);
        batch.teach(measured, &costs);
        assert_eq!(costs.estimate(unit(1).key), Estimate::Learned(20_000));
        assert_eq!(costs.estimate(unit(2).key), Estimate::Learned(60_000));
    }

    #[test]
    fn a_kernel_that_waited_for_a_launch_that_was_held_does_not_cost_the_wait_the_next_time() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        let mut batch = Batch::new();
        batch.add(&unit(1), KNOWN);
        batch.teach(alone(100_000), &costs);
        batch.teach_held(alone(1_000_000_000), &costs);
        assert!(costs.estimate(unit(1).key).cost_ns() <= 125_001, "{:?}", costs.estimate(unit(1).key));
        assert_eq!(batch.settle(alone(1_000_000_000), Concurrency::NONE).charge_ns, 1_000_000_000);
        // One that has really become dearer is learned all the same.
        for _ in 0..200 {
            batch.teach_held(alone(10_000_000), &costs);
        }
        assert!(costs.estimate(unit(1).key).cost_ns() > 9_000_000, "{:?}", costs.estimate(unit(1).key));
    }

    #[test]
    fn a_first_measurement_that_may_have_waited_is_forgotten_for_the_next() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        let mut batch = Batch::new();
        batch.add(&unit(1), Estimate::Prior);
        batch.teach_held(alone(1_000_000_000), &costs);
        batch.teach(alone(100_000), &costs);
        assert_eq!(costs.estimate(unit(1).key), Estimate::Learned(100_000));
    }

    #[test]
    fn a_boundary_that_other_streams_cover_is_not_taken_out_of_the_charge() {
        let mut batch = Batch::new();
        batch.add(&unit(1), Estimate::Learned(1));
        let quarter = Measured { bracket_ns: 400_000, covered_ns: 100_000, exclusive: true, late_ns: 0 };
        assert_eq!(batch.settle(quarter, Concurrency::NONE).charge_ns, 100_000 - BOUNDARY_NS / 4);
        let covered = Measured { covered_ns: 0, ..quarter };
        assert_eq!(batch.settle(covered, Concurrency::NONE).charge_ns, 0);
    }

    #[test]
    fn a_batch_after_a_short_gap_does_not_pay_for_the_boundary_at_its_start() {
        let mut batch = Batch::new();
        batch.add(&unit(1), Estimate::Learned(1));
        let after = |gap_ns: u64| {
            let measured =
                Measured { covered_ns: 130_000 + gap_ns, bracket_ns: 130_000, exclusive: true, late_ns: 0 };
            batch.settle(measured, Concurrency::NONE).charge_ns
        };
        assert_eq!(after(12_000), 142_000 - BOUNDARY_NS - LONE_BOUNDARY_NS);
        assert_eq!(after(1_000), 130_000 - BOUNDARY_NS);
    }

    #[test]
    fn beside_a_neighbour_a_batch_costs_the_part_that_no_other_of_the_process_covered() {
        let mut batch = Batch::new();
        batch.add(&unit(1), Estimate::Learned(400_000));
        let beside = Measured { exclusive: false, ..alone(800_000) };
        let whole = batch.settle(beside, Concurrency::NONE).charge_ns;
        assert_eq!(whole, 400_000);
        let in_the_shadow = Measured { covered_ns: 0, ..beside };
        assert_eq!(batch.settle(in_the_shadow, Concurrency::NONE).charge_ns, 0);
        // Whatever else overlaps in the process, this one does not.
        let low = (0..40).fold(Concurrency::NONE, |low, _| low.learned(2_000, 0));
        assert_eq!(batch.settle(beside, low).charge_ns, whole);
    }

    #[test]
    fn beside_a_neighbour_a_bound_is_learned_and_its_slices_are_not_charged() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        let mut batch = Batch::new();
        batch.book(100_000);
        batch.add(&unit(1), KNOWN);
        let measured = Measured { exclusive: false, ..alone(2_490_000) };
        batch.teach(measured, &costs);
        assert_eq!(costs.estimate(unit(1).key), Estimate::Learned(2_490_000));
        for _ in 0..20 {
            batch.teach(Measured { exclusive: false, ..alone(100_000) }, &costs);
            batch.teach(measured, &costs);
        }
        assert!(matches!(costs.estimate(unit(1).key), Estimate::Learned(100_000..150_000)));
        assert_eq!(batch.settle(measured, Concurrency::NONE).charge_ns, 100_000);
        let shorter = Measured { exclusive: false, ..alone(60_000) };
        assert_eq!(batch.settle(shorter, Concurrency::NONE).correction, Correction::Refund(40_000));
    }

    #[test]
    fn beside_a_neighbour_what_its_slices_delayed_is_not_taken_for_a_dry_stream() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        costs.learn(unit(1).key, 7_000);
        // A slow CPU launches each 12 µs; the driver runs all of it in the last 280 µs, at once.
        for _ in 0..20 {
            let mut batch = Batch::new();
            let estimate = costs.estimate(unit(1).key);
            for _ in 0..40 {
                batch.add(&unit(1), estimate);
                batch.idle(12_000 - estimate.cost_ns().min(12_000));
            }
            batch.teach(Measured { exclusive: false, ..alone(280_000) }, &costs);
        }
        assert_eq!(costs.estimate(unit(1).key), Estimate::Learned(7_000));
    }

    #[test]
    fn the_idle_time_before_a_late_boundary_is_neither_charged_nor_learned() {
        let words = [const { AtomicU64::new(0) }; 64];
        let costs = Costs::new(&words);
        let mut batch = Batch::new();
        batch.add(&unit(1), KNOWN);
        let measured = Measured { late_ns: 2 * QUIET_NS, ..alone(260_000) };
        batch.teach(measured, &costs);
        assert_eq!(costs.estimate(unit(1).key), Estimate::Prior);
        assert_eq!(batch.settle(measured, Concurrency::NONE).charge_ns, 100_000);
        // No more than can have been idle.
        let longer = Measured { late_ns: 2 * QUIET_NS, ..alone(900_000) };
        assert_eq!(batch.settle(longer, Concurrency::NONE).charge_ns, 700_000);
    }

    #[test]
    fn a_unit_that_was_never_measured_has_its_boundary_at_once_unless_a_chain_would_be_split() {
        let mut batch = Batch::new();
        batch.add(&unit(1), KNOWN);
        assert!(!batch.ends_here(&unit(1)));
        let link = Unit { continues_chain: true, ..unit(2) };
        batch.add(&link, Estimate::Prior);
        assert!(!batch.ends_here(&link));
        assert!(batch.ends_here(&unit(3)));
    }

    #[test]
    fn what_was_booked_and_not_spent_is_given_back_when_the_batch_is_closed() {
        let mut batch = Batch::new();
        batch.book(300_000);
        batch.add(&unit(1), KNOWN);
        assert_eq!(batch.close(Concurrency::NONE), Correction::Refund(200_000));
        assert_eq!(batch.booked_ns(), 100_000);
        assert_eq!(Batch::new().close(Concurrency::NONE), Correction::None);
    }

    #[test]
    fn what_was_launched_beyond_the_lease_is_booked_when_the_batch_is_closed() {
        let mut batch = Batch::new();
        batch.book(150_000);
        batch.add(&unit(1), KNOWN);
        batch.add(&unit(1), KNOWN);
        assert_eq!(batch.close(Concurrency::NONE), Correction::Owed(50_000));
    }

    proptest! {
        #[test]
        fn no_measurement_makes_books_that_do_not_add_up(
            booked: u64, bracket_ns: u64, covered_ns: u64, exclusive: bool, late_ns: u64, costs: Vec<(u64, u64)>,
        ) {
            let mut batch = Batch::new();
            batch.book(booked);
            for (function, cost_ns) in costs {
                batch.add(&unit(function), Estimate::Learned(cost_ns));
            }
            let settled = batch.settle(Measured { bracket_ns, covered_ns, exclusive, late_ns }, Concurrency::NONE);
            let paid = match settled.correction {
                Correction::None => booked,
                Correction::Owed(more) => booked + more,
                Correction::Refund(less) => booked - less,
            };
            prop_assert_eq!(paid, settled.charge_ns);
        }
    }
}
