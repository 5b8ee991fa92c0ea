//! When the helper thread looks again, and what it makes of a stream.
//!
//! One round costs 14 to 28 µs of CPU time, whatever is done in it (measured on two H100s' hosts): half a per cent of a core is 180 to 350
//! rounds a second. So the helper looks often only where a stream may have run dry inside an open batch, whose idle
//! time would count as occupied, and seldom while launches keep coming: those look themselves, once in a batch.

use crate::batch::QUIET_NS;
use crate::occupancy::SHORT_GAP_NS;

/// The longest round, ns: 100 a second, 0.14 to 0.28 % of a core. A program that pauses for the first time after it has launched
/// without pause pays for idle time of twice this at most, once; then rounds are short again.
pub const LONGEST_NS: u64 = 10_000_000;

/// The first round with nothing open, ns: nothing runs dry that anybody pays for, but the next batch may be there meanwhile.
const DRAINING_NS: u64 = 1_000_000;

/// How long nothing has come, ns, when an open batch is closed though by the estimates the GPU still has it in front of it.
const LONG_QUIET_NS: u64 = 1_000_000;

/// The open batch of a stream as its watchers know it. Begun with the batch ([`Watch::new`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    opened_ns: u64,
    front_ns: u64,
    units: u32,
    seen_ns: u64,
    fewer_ns: u64,
}

/// What a look at an open batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Units keep coming, and the GPU has them in front of it by their estimates.
    Flowing,
    /// Units have come since the last look, but by their estimates the GPU may have ended them all before.
    MayBeDry,
    /// Nothing has come for [`QUIET_NS`], and by their estimates its units have ended; or for a millisecond: close the batch ([`crate::batch::Close::Quiet`]).
    Quiet {
        /// For [`crate::batch::Measured::late_ns`], ns: since when it may have been idle.
        late_ns: u64,
    },
}

impl Watch {
    /// A batch whose first unit is launched now, behind `front_ns` of estimated work on its stream.
    #[must_use]
    pub const fn new(now_ns: u64, front_ns: u64) -> Self {
        Self { opened_ns: now_ns, front_ns, units: 0, seen_ns: now_ns, fewer_ns: now_ns }
    }

    /// Whether the stream may have been idle inside the batch, which holds so many units, of `cost_ns` of estimated work: for
    /// longer than the short gaps between them can be. Who closes it before a launch asks this too, and tells the helper
    /// ([`Found::Sparse`]); then the next units are measured one by one, as long as they come [`Watch::apart`].
    #[must_use]
    pub const fn may_be_dry(&self, units: u32, cost_ns: u64, now_ns: u64) -> bool {
        let gaps_ns = SHORT_GAP_NS.saturating_mul(units.saturating_sub(1) as u64);
        self.is_past(cost_ns.saturating_add(gaps_ns).saturating_add(QUIET_NS), now_ns)
    }

    /// Whether a unit that is launched now, on a stream that has run dry, comes behind a gap that counts, where the batch before took
    /// `cost_ns`. On a stream whose units come so, one by one, each has a boundary behind it at once: what it takes is known, and the
    /// gap after it is in no bracket, whether a helper looks in time or not.
    #[must_use]
    pub const fn apart(&self, cost_ns: u64, now_ns: u64) -> bool {
        self.is_past(cost_ns.saturating_add(SHORT_GAP_NS), now_ns)
    }

    const fn is_past(&self, ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.opened_ns) > self.front_ns.saturating_add(ns)
    }

    /// The helper's look: the batch holds so many units, of `cost_ns` of estimated work.
    pub const fn look(&mut self, units: u32, cost_ns: u64, now_ns: u64) -> Flow {
        if units != self.units {
            self.units = units;
            self.fewer_ns = self.seen_ns;
            self.seen_ns = now_ns;
        } else {
            let quiet_ns = now_ns.saturating_sub(self.seen_ns);
            // A launch that waits for room on the GPU leaves a batch open behind others.
            if quiet_ns >= LONG_QUIET_NS || quiet_ns >= QUIET_NS && self.is_past(cost_ns, now_ns) {
                return Flow::Quiet { late_ns: now_ns.saturating_sub(self.fewer_ns) };
            }
        }
        if self.may_be_dry(units, cost_ns, now_ns) { Flow::MayBeDry } else { Flow::Flowing }
    }
}

/// What the helper found in a round: the greatest of what it found on each stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Found {
    /// Nothing is in flight, and nothing has looked since the last round.
    Idle,
    /// Nothing is open, but something is in flight, or was since the last round.
    Draining,
    /// Units keep coming into open batches ([`Flow::Flowing`]).
    Flowing,
    /// A stream may have run dry inside an open batch, or one was closed because it had: [`Flow::MayBeDry`],
    /// [`Flow::Quiet`], or somebody has said so since the last round.
    Sparse,
}

/// How long the helper sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nap {
    /// Until somebody launches.
    Parked,
    /// So long, ns.
    For(u64),
}

/// The helper's rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounds {
    open_ns: u64,
    draining_ns: u64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self::new()
    }
}

impl Rounds {
    /// Short at first.
    #[must_use]
    pub const fn new() -> Self {
        Self { open_ns: QUIET_NS, draining_ns: DRAINING_NS }
    }

    /// After a round. What keeps flowing is looked at half as often each time; one pause, and it is watched closely again.
    pub const fn next(&mut self, found: Found) -> Nap {
        let nap_ns = match found {
            // A tenant that is held back parks its helper in each period: the lengths stay.
            Found::Idle => return Nap::Parked,
            Found::Draining if self.open_ns > self.draining_ns => self.open_ns,
            Found::Draining => self.draining_ns,
            Found::Flowing => self.open_ns,
            Found::Sparse => {
                *self = Self::new();
                QUIET_NS
            }
        };
        let longer = if matches!(found, Found::Draining) { &mut self.draining_ns } else { &mut self.open_ns };
        *longer = if *longer < LONGEST_NS / 2 { *longer * 2 } else { LONGEST_NS };
        Nap::For(nap_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: u64 = 1_000;

    #[test]
    fn launches_without_pause_cost_a_hundred_rounds_a_second() {
        let mut rounds = Rounds::new();
        let naps = (0..20).map(|_| rounds.next(Found::Flowing));
        let total: u64 = naps.map(|nap| if let Nap::For(ns) = nap { ns } else { 0 }).sum();
        assert_eq!(rounds.next(Found::Flowing), Nap::For(LONGEST_NS));
        assert!(total > 70_000 * US, "{total}");
    }

    #[test]
    fn a_program_that_pauses_is_watched_closely_however_long_its_kernels_run() {
        let mut rounds = Rounds::new();
        for _ in 0..10 {
            let _ = rounds.next(Found::Flowing);
        }
        for _ in 0..50 {
            assert_eq!(rounds.next(Found::Sparse), Nap::For(QUIET_NS));
            assert_eq!(rounds.next(Found::Draining), Nap::For(DRAINING_NS));
            assert_eq!(rounds.next(Found::Idle), Nap::Parked);
            assert_eq!(rounds.next(Found::Flowing), Nap::For(2 * QUIET_NS));
        }
    }

    #[test]
    fn with_nothing_in_flight_the_helper_is_parked_and_comes_back_as_it_was() {
        let mut rounds = Rounds::new();
        for _ in 0..10 {
            let _ = rounds.next(Found::Flowing);
        }
        assert_eq!(rounds.next(Found::Idle), Nap::Parked);
        assert_eq!(rounds.next(Found::Flowing), Nap::For(LONGEST_NS));
        assert_eq!(rounds.next(Found::Sparse), Nap::For(QUIET_NS));
    }

    #[test]
    fn a_batch_is_quiet_only_after_a_hundred_microseconds_without_a_unit() {
        let mut watch = Watch::new(1_000 * US, 0);
        assert_eq!(watch.look(3, 150 * US, 1_010 * US), Flow::Flowing);
        assert_eq!(watch.look(3, 150 * US, 1_020 * US), Flow::Flowing);
        assert_eq!(watch.look(4, 200 * US, 1_150 * US), Flow::Flowing);
        assert_eq!(watch.look(4, 200 * US, 1_260 * US), Flow::Quiet { late_ns: 250 * US });
    }

    #[test]
    fn a_batch_that_the_gpu_has_in_front_of_it_is_not_quiet_for_a_millisecond() {
        let mut watch = Watch::new(1_000 * US, 5_000 * US);
        assert_eq!(watch.look(3, 900 * US, 1_010 * US), Flow::Flowing);
        assert_eq!(watch.look(3, 900 * US, 2_000 * US), Flow::Flowing);
        assert_eq!(watch.look(3, 900 * US, 2_010 * US), Flow::Quiet { late_ns: 1_010 * US });
    }

    #[test]
    fn a_batch_behind_long_work_is_not_taken_for_dry() {
        let watch = Watch::new(0, 20_000 * US);
        assert!(!watch.may_be_dry(1, 300 * US, 20_300 * US));
        assert!(watch.may_be_dry(1, 300 * US, 20_401 * US));
    }

    #[test]
    fn a_batch_of_many_units_with_short_gaps_is_not_taken_for_dry() {
        let watch = Watch::new(0, 0);
        assert!(!watch.may_be_dry(60, 300 * US, 60 * 25 * US));
        assert!(watch.may_be_dry(60, 300 * US, 60 * 100 * US));
    }

    proptest! {
        #[test]
        fn what_is_quiet_is_said_to_have_been_so_since_before_its_last_unit(
            steps in prop::collection::vec((1..6_000_000u64, any::<bool>()), 1..60),
        ) {
            let (mut now_ns, mut units, mut last_unit_ns) = (1_000_000u64, 1u32, 1_000_000u64);
            let mut watch = Watch::new(now_ns, 0);
            for (ns, comes) in steps {
                now_ns += ns;
                if comes {
                    units += 1;
                    last_unit_ns = now_ns - ns / 2;
                }
                if let Flow::Quiet { late_ns } = watch.look(units, 0, now_ns) {
                    prop_assert!(now_ns - late_ns <= last_unit_ns && now_ns - last_unit_ns >= QUIET_NS);
                    break;
                }
            }
        }
    }
}
