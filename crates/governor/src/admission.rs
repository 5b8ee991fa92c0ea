//! Whether a launch goes now, and for what it waits if not.
//!
//! **No launch waits for a completion alone.** A kernel on stream A may spin for one on stream B (NCCL,
//! `cuStreamWaitValue`, NVSHMEM); a limiter that holds B until A has ended has made a deadlock. So what a launch waits for
//! is always a time:
//!
//! 1. *The budget.* The launch was booked when it arrived and was told when it opens ([`crate::budget`]): within
//!    (debt at its arrival ÷ cap) + 1 period. It may go earlier, when batches turned out cheaper than they were booked.
//! 2. *The bound.* While the process has as much on the GPU as [`Bound`] allows, it waits for some of it to end, for one period at most.
//! 3. *The valve.* Where other work of the process is on the GPU and none of it has ended for [`STALL_NS`], it may well be
//!    waiting for this launch: one unit of each stream goes that waits and whose own earlier work has ended, and is debt.
//!
//! So every launch goes within (debt at its arrival ÷ cap) + 2 periods, whatever the GPU does. A unit on the GPU is charged
//! its estimate until it ends: one that spins does not run up the debt that keeps its partner out.

use crate::budget::{Budget, Look, Opening};
use crate::cap::PERIOD_NS;

/// How much of a process may be on the GPU at once. It bounds what is launched on a wrong estimate, and what a
/// neighbour finds in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Estimated work, ns.
    pub in_flight_ns: u64,
    /// Batches that may be there whatever they cost: with 2 the next is there when a long one ends, with 1 the GPU idles
    /// between them.
    pub batches: u32,
}

impl Bound {
    /// As a rule: about 1 ms.
    pub const USUAL: Self = Self { in_flight_ns: 1_000_000, batches: 2 };

    /// Where nobody else is on the GPU: a thread that loses its processor for some ms leaves it nothing to do with 1 ms (measured on an H100:
    /// 5 µs kernels, under a cap of 90 %, got 82 to 90 with 1 ms in flight, as the machine's load would have it).
    pub const ALONE: Self = Self { in_flight_ns: 2_000_000, batches: 2 };

    /// The same while no launch has had to wait: what streams have open counts as in flight until it is closed, also where the GPU has
    /// ended it, and with large batches on eight streams that is 2 to 5 ms. What it guards against is a wrong estimate, and who waits once has 2 ms.
    pub const ROOMY: Self = Self { in_flight_ns: 8_000_000, batches: 2 };

    /// Beside others' work without turns: the driver's slices are 2 ms, and who has less than that waiting may lose the rest of its own.
    /// Starting point, *not measured*.
    pub const SLICED: Self = Self { in_flight_ns: 4_000_000, batches: 2 };

    /// Beside a tenant of high priority, whose first step after a pause waits for all of it: with 2 ms in flight its p99 was eight times that with
    /// 0.5 ms (measured on an H100). One batch beyond this is there at most, so that the GPU has the next when one ends.
    pub const BESIDE_PRIORITY: Self = Self { in_flight_ns: 150_000, batches: 1 };
}

/// What a unit that was never measured counts for in the bound, ns, at least: two of them fill it. Its cost may be
/// anything; it is charged its estimate all the same.
pub const UNKNOWN_IN_FLIGHT_NS: u64 = 500_000;

/// How long nothing may end, ns, while work is on the GPU and launches wait.
pub const STALL_NS: u64 = 50_000_000;

/// The shortest sleep worth its system call, ns.
const NAP_NS: u64 = 50_000;
/// The longest without a look at what has ended, ns.
const LONGEST_NAP_NS: u64 = 1_000_000;

/// A wait for the bound that counts as held, ns: several times what a full bound takes to drain.
const HELD_NS: u64 = 5_000_000;

/// A launch in front of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    arrived_ns: u64,
    opens_ns: u64,
    booked_ns: u64,
    look: Look,
    /// All that was on its stream when it arrived has ended: what is there now has overtaken it.
    stream_drained: bool,
}

/// What the process has on the GPU, and what it has to launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scene {
    /// Batches that were launched, open or closed, and have not ended.
    pub batches: u32,
    /// Their estimated cost, ns: [`weight`] of each.
    pub in_flight_ns: u64,
    /// How much may be there.
    pub bound: Bound,
    /// Whether the launch's own stream has something on the GPU.
    pub own_stream_busy: bool,
    /// Whether any stream of the process has, on this GPU or on another.
    pub process_busy: bool,
    /// When a batch of the process last ended, or began where nothing was there, ns; 0 if none has.
    pub progress_ns: u64,
}

impl Scene {
    /// Estimated work for which there is still room, ns.
    #[must_use]
    pub const fn room_ns(&self) -> u64 {
        self.bound.in_flight_ns.saturating_sub(self.in_flight_ns)
    }

    /// In how long the first of the batches in flight should end, ns, if they are alike.
    fn first_ends_ns(&self, now_ns: u64, batches: u32) -> u64 {
        let each_ns = self.in_flight_ns / u64::from(batches);
        each_ns.saturating_sub(now_ns.saturating_sub(self.progress_ns))
    }

    /// What is left of the work in flight, ns. The clock says so where one batch is there: it began when the last one ended, or the process had
    /// nothing on the GPU. With more of them wrong estimates could let in many, so one is to be seen to end.
    const fn left_ns(&self, now_ns: u64) -> u64 {
        let done_ns = if self.batches == 1 { now_ns.saturating_sub(self.progress_ns) } else { 0 };
        self.in_flight_ns.saturating_sub(done_ns)
    }
}

/// Why a launch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// The budget has room, and the bound.
    Room,
    /// It has waited a period for the bound.
    BoundTimedOut,
    /// Nothing has ended for [`STALL_NS`]. Book the next unit of this stream as a new arrival.
    Stalled,
    /// The clock is behind the launch's arrival: what it was told means nothing.
    ClockWentBack,
}

/// For what a launch waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// For the clock to earn what is owed.
    Budget,
    /// For work on the GPU to end, or for a period.
    Bound,
}

/// The verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Launch.
    Go(Pass),
    /// Sleep, and ask again.
    Wait {
        /// Ask again then, ns, or when a batch has ended or the cap was changed, whichever comes first.
        look_ns: u64,
        /// It goes then, ns, whatever happens, unless the cap is lowered.
        latest_ns: u64,
        /// For what.
        cause: Cause,
    },
}

/// What a batch counts for in the bound, ns.
#[must_use]
pub const fn weight(cost_ns: u64, learned: bool) -> u64 {
    if learned || cost_ns > UNKNOWN_IN_FLIGHT_NS { cost_ns } else { UNKNOWN_IN_FLIGHT_NS }
}

impl Arrival {
    /// A launch that arrived at the time of `look`, for which `booked_ns` GPU-ns were booked, and what the booking
    /// said (of both rules, joined by [`Opening::and`]).
    #[must_use]
    pub const fn new(look: Look, booked_ns: u64, opening: Opening) -> Self {
        let opens_ns = match opening {
            Opening::Now { .. } => look.now_ns,
            Opening::At { opens_ns } => opens_ns,
        };
        Self { arrived_ns: look.now_ns, opens_ns, booked_ns, look, stream_drained: false }
    }

    /// When the budget opens for it, ns.
    #[must_use]
    pub const fn opens_ns(&self) -> u64 {
        self.opens_ns
    }

    /// When it arrived, ns: what it waited since then is time throttled.
    #[must_use]
    pub const fn arrived_ns(&self) -> u64 {
        self.arrived_ns
    }

    /// Whether it has waited so long that a kernel on another stream which waits for it may be believed dearer than it is, with
    /// what the verdict says it waits for. What is on the GPU meanwhile teaches little: [`crate::batch::Batch::teach_held`].
    #[must_use]
    pub const fn is_held(&self, look: Look, cause: Cause) -> bool {
        match cause {
            Cause::Budget => true,
            // A program with several streams waits a little for room all the time.
            Cause::Bound => look.now_ns.saturating_sub(self.arrived_ns) >= HELD_NS,
        }
    }

    /// Judges it, now: at its arrival, and again whenever it wakes. `budget` is both words as they stand.
    pub fn judge(&mut self, look: Look, budget: Budget, scene: &Scene) -> Verdict {
        if look.clock_went_back || look.now_ns < self.look.now_ns {
            return Verdict::Go(Pass::ClockWentBack);
        }
        self.follow_cap(look);
        if look.now_ns < self.opens_ns && !self.opens_early(look, budget) {
            return self.wait_for_budget(look, scene);
        }
        // From here it counts as open, so the period of waiting for the bound begins now at the latest.
        self.opens_ns = self.opens_ns.min(look.now_ns);
        let latest_ns = self.opens_ns.saturating_add(PERIOD_NS);
        let left_ns = scene.left_ns(look.now_ns);
        if left_ns <= scene.bound.in_flight_ns || scene.batches < scene.bound.batches {
            Verdict::Go(Pass::Room)
        } else if look.now_ns >= latest_ns {
            Verdict::Go(Pass::BoundTimedOut)
        } else {
            let bound_ns = scene.bound.in_flight_ns;
            let nap_ns = match scene.batches {
                0 | 1 => (left_ns - bound_ns).min(LONGEST_NAP_NS),
                // The first of them is to be seen to end. Who may have one more only, and looks too soon, looks again when both have. An estimate that is
                // too long costs two bounds.
                batches if scene.bound.batches < 2 => {
                    scene.first_ends_ns(look.now_ns, batches).min(2 * bound_ns)
                }
                // When it does is not known.
                _ => (left_ns - bound_ns).min(LONGEST_NAP_NS.min(bound_ns)),
            };
            let nap_ns = nap_ns.clamp(NAP_NS, LONGEST_NAP_NS);
            let look_ns = look.now_ns.saturating_add(nap_ns).min(latest_ns);
            Verdict::Wait { look_ns, latest_ns, cause: Cause::Bound }
        }
    }

    fn wait_for_budget(&mut self, look: Look, scene: &Scene) -> Verdict {
        self.stream_drained |= !scene.own_stream_busy;
        let stalled_from_ns = scene.progress_ns.max(self.arrived_ns).saturating_add(STALL_NS);
        let may_be_waited_for = scene.process_busy && self.stream_drained;
        if may_be_waited_for && look.now_ns >= stalled_from_ns {
            return Verdict::Go(Pass::Stalled);
        }
        // At each boundary: batches that ended meanwhile may have been cheaper than booked.
        let boundary_ns = look.now_ns.saturating_add(PERIOD_NS - look.now_ns % PERIOD_NS);
        let mut look_ns = self.opens_ns.min(boundary_ns);
        if may_be_waited_for {
            look_ns = look_ns.min(stalled_from_ns);
        }
        let latest_ns = self.opens_ns.saturating_add(PERIOD_NS);
        Verdict::Wait { look_ns, latest_ns, cause: Cause::Budget }
    }

    /// With its own booking taken out, and everybody else's left in, the budget is open: then it may go.
    fn opens_early(&self, look: Look, budget: Budget) -> bool {
        matches!(budget.peek_booked(look, self.booked_ns), Opening::Now { .. })
    }

    /// Under a changed cap, what is left of the wait is earned at the new rate.
    fn follow_cap(&mut self, look: Look) {
        let before = core::mem::replace(&mut self.look, look);
        if before.cap == look.cap || self.opens_ns <= look.now_ns {
            return;
        }
        let owed_ns = before.cap.earned_in(self.opens_ns - look.now_ns);
        let opens_ns = look.now_ns.saturating_add(look.cap.time_to_earn(owed_ns));
        self.opens_ns = opens_ns.checked_next_multiple_of(PERIOD_NS).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{book_period, book_window};
    use crate::cap::Cap;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const QUIET: Scene = Scene {
        batches: 0,
        in_flight_ns: 0,
        bound: Bound::USUAL,
        own_stream_busy: false,
        process_busy: false,
        progress_ns: 0,
    };

    fn look(now_ns: u64, ppm: u32) -> Look {
        Look { now_ns, cap: Cap::from_ppm(ppm).expect("a cap"), clock_went_back: false, takes_turns: false }
    }

    fn arrive(budget: &mut Budget, look: Look, booked_ns: u64) -> Arrival {
        let (window, opening) = book_window(budget.window, look, booked_ns);
        let (period, opening) = book_period(budget.period, look, booked_ns, opening);
        *budget = Budget { window, period };
        Arrival::new(look, booked_ns, opening)
    }

    /// A launch behind a debt of 100 ms at 10 %: 1 s.
    fn behind_a_debt() -> (Budget, Arrival) {
        let mut budget = Budget::default();
        let at = look(100 * PERIOD_NS, 100_000);
        arrive(&mut budget, at, 102 * MS);
        let arrival = arrive(&mut budget, at, MS);
        assert_eq!(arrival.opens_ns(), 150 * PERIOD_NS);
        (budget, arrival)
    }

    #[test]
    fn a_launch_that_the_bound_holds_goes_after_a_period_whatever_the_gpu_does() {
        let mut budget = Budget::default();
        let now_ns = 100 * PERIOD_NS;
        let mut arrival = arrive(&mut budget, look(now_ns, 100_000), MS);
        let full =
            Scene { batches: 9, in_flight_ns: u64::MAX, own_stream_busy: true, process_busy: true, ..QUIET };
        let held = arrival.judge(look(now_ns, 100_000), budget, &full);
        let Verdict::Wait { latest_ns, cause: Cause::Bound, .. } = held else { panic!("{held:?}") };
        assert_eq!(latest_ns, now_ns + PERIOD_NS);
        let after = arrival.judge(look(latest_ns, 100_000), budget, &full);
        assert_eq!(after, Verdict::Go(Pass::BoundTimedOut));
    }

    #[test]
    fn the_valve_opens_only_for_a_stream_with_nothing_on_the_gpu_and_only_while_something_is() {
        let (budget, arrival) = behind_a_debt();
        let judge = |scene: &Scene| {
            let mut arrival = arrival;
            arrival.judge(look(100 * PERIOD_NS + STALL_NS, 100_000), budget, scene)
        };
        let held = |verdict| matches!(verdict, Verdict::Wait { cause: Cause::Budget, .. });
        assert!(held(judge(&QUIET)));
        let own = Scene { own_stream_busy: true, process_busy: true, ..QUIET };
        assert!(held(judge(&own)));
        let progress = Scene { process_busy: true, progress_ns: 100 * PERIOD_NS + 1, ..QUIET };
        assert!(held(judge(&progress)));
        let stalled = Scene { process_busy: true, ..QUIET };
        assert_eq!(judge(&stalled), Verdict::Go(Pass::Stalled));
    }

    #[test]
    fn the_valve_opens_for_who_was_overtaken_on_its_stream() {
        let (budget, mut arrival) = behind_a_debt();
        let early = look(100 * PERIOD_NS + 1, 100_000);
        let spinner = Scene { process_busy: true, ..QUIET };
        assert!(matches!(arrival.judge(early, budget, &spinner), Verdict::Wait { .. }));
        let overtaken = Scene { own_stream_busy: true, ..spinner };
        let late = look(100 * PERIOD_NS + STALL_NS, 100_000);
        assert_eq!(arrival.judge(late, budget, &overtaken), Verdict::Go(Pass::Stalled));
    }

    #[test]
    fn a_waiter_goes_earlier_when_what_it_waits_for_was_cheaper_than_booked() {
        use crate::budget::{Correction, Rule};
        let (mut budget, mut arrival) = behind_a_debt();
        let soon = look(101 * PERIOD_NS, 100_000);
        budget.window = Rule::Window.correct(budget.window, soon, Correction::Refund(101 * MS));
        budget.period = Rule::Period.correct(budget.period, soon, Correction::Refund(101 * MS));
        assert_eq!(arrival.judge(soon, budget, &QUIET), Verdict::Go(Pass::Room));
    }

    #[test]
    fn a_raised_cap_shortens_the_wait_of_who_waits_already() {
        let (budget, mut arrival) = behind_a_debt();
        let raised = look(100 * PERIOD_NS, 500_000);
        assert!(matches!(arrival.judge(raised, budget, &QUIET), Verdict::Wait { .. }));
        assert_eq!(arrival.opens_ns(), 110 * PERIOD_NS);
    }

    #[test]
    fn a_clock_behind_the_arrival_stops_nobody() {
        let (budget, mut arrival) = behind_a_debt();
        assert_eq!(arrival.judge(look(5, 100_000), budget, &QUIET), Verdict::Go(Pass::ClockWentBack));
    }

    proptest! {
        #[test]
        fn every_wait_ends_at_its_latest_time_whatever_the_words_and_the_scene_say(
            now in 0..u64::MAX / 2, ppm in 1..1_000_000u32, booked in 1..100 * MS, words: (u64, u64),
            in_flight_ns: u64, bound_ns in 0..u64::MAX / 2, busy: (bool, bool), progress_ns: u64, batches: u32, allowed in 1..3u32,
        ) {
            let mut budget = Budget { window: words.0, period: words.1 };
            let mut arrival = arrive(&mut budget, look(now, ppm), booked);
            let scene = Scene {
                batches, in_flight_ns, own_stream_busy: busy.0, process_busy: busy.1, progress_ns,
                bound: Bound { in_flight_ns: bound_ns, batches: allowed },
            };
            let promised = arrival.opens_ns() + PERIOD_NS;
            let mut at = look(now, ppm);
            for _ in 0..1_000_000 {
                let Verdict::Wait { look_ns, latest_ns, .. } = arrival.judge(at, budget, &scene) else { break };
                prop_assert!(look_ns > at.now_ns && latest_ns <= promised);
                // Most looks on the way change nothing; the test leaps over them.
                at.now_ns = if look_ns - now > MS { look_ns.max(latest_ns - 2 * PERIOD_NS) } else { look_ns };
            }
            prop_assert!(at.now_ns <= promised);
            prop_assert!(matches!(arrival.judge(at, budget, &scene), Verdict::Go(_)));
        }
    }
}
