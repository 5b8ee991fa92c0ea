//! Whether a launch goes now, and for what it waits if not.
//!
//! **No launch waits for a completion alone.** A kernel on stream A may spin for one on stream B (NCCL,
//! `cuStreamWaitValue`, NVSHMEM); a limiter that holds B until A has ended has made a deadlock. So what a launch waits for
//! is always a time:
//!
//! 1. *The budget.* The launch was booked when it arrived and was told when it opens ([`crate::budget`]): within
//!    (debt at its arrival ÷ cap) + 1 period. It may go earlier, when batches turned out cheaper than they were booked.
//! 2. *The bound.* While more than [`IN_FLIGHT_NS`] of estimated work of the process is on the GPU, it waits for some of
//!    it to end, for one period at most.
//! 3. *The valve.* Where other work of the process is on the GPU and none of it has ended for [`STALL_NS`], it may well be
//!    waiting for this launch: one unit of each stream that waits, and has nothing on the GPU, goes and is debt.
//!
//! So every launch goes within (debt at its arrival ÷ cap) + 2 periods, whatever the GPU does. A unit on the GPU is charged
//! its estimate until it ends: one that spins does not run up the debt that keeps its partner out.

use crate::budget::{Budget, Look, Opening};
use crate::cap::PERIOD_NS;

/// Estimated work of a process on the GPU at once, ns. It bounds what is launched on a wrong estimate, and what a
/// neighbour finds in front of it.
pub const IN_FLIGHT_NS: u64 = 1_000_000;

/// The same beside a tenant of high priority: with 2 ms its p99 was eight times that with 0.5 ms (measured on an
/// H100).
pub const IN_FLIGHT_BESIDE_PRIORITY_NS: u64 = 500_000;

/// What a unit that was never measured counts for in the bound, ns, at least: two of them fill it. Its cost may be
/// anything; it is charged its estimate all the same.
pub const UNKNOWN_IN_FLIGHT_NS: u64 = 500_000;

/// How long nothing may end, ns, while work is on the GPU and launches wait.
pub const STALL_NS: u64 = 50_000_000;

/// The shortest sleep worth its system call, ns.
const NAP_NS: u64 = 50_000;

/// A launch in front of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    arrived_ns: u64,
    opens_ns: u64,
    booked_ns: u64,
    look: Look,
}

/// What the process has on the GPU, and what it has to launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scene {
    /// Estimated cost of what was launched and has not ended, ns; [`weight`] of each batch.
    pub in_flight_ns: u64,
    /// The bound, ns: [`IN_FLIGHT_NS`] or [`IN_FLIGHT_BESIDE_PRIORITY_NS`].
    pub bound_ns: u64,
    /// Whether the launch's own stream has something on the GPU.
    pub own_stream_busy: bool,
    /// Whether any stream of the process has, on this GPU or on another.
    pub process_busy: bool,
    /// When a batch of the process last ended, ns; 0 if none has.
    pub progress_ns: u64,
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
        Self { arrived_ns: look.now_ns, opens_ns, booked_ns, look }
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
        if scene.in_flight_ns <= scene.bound_ns {
            Verdict::Go(Pass::Room)
        } else if look.now_ns >= latest_ns {
            Verdict::Go(Pass::BoundTimedOut)
        } else {
            let excess_ns = (scene.in_flight_ns - scene.bound_ns).clamp(NAP_NS, IN_FLIGHT_NS);
            let look_ns = look.now_ns.saturating_add(excess_ns).min(latest_ns);
            Verdict::Wait { look_ns, latest_ns, cause: Cause::Bound }
        }
    }

    fn wait_for_budget(&self, look: Look, scene: &Scene) -> Verdict {
        let stalled_from_ns = scene.progress_ns.max(self.arrived_ns).saturating_add(STALL_NS);
        let may_be_waited_for = scene.process_busy && !scene.own_stream_busy;
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
