//! How a stream's units come: without pause, or in bursts with gaps between them that the tenant does not pay for.
//!
//! No clock is read at a common launch, so a batch may span a gap, and its bracket is then longer than what its units are known
//! to take. From there on each launch on the stream reads the clock, for [`TIMED_NS`] of work after the last gap. The next bursts are expected to
//! be as long as one of the last four, and have a boundary behind that unit, before the gap: nothing rests on an estimate. Where one ends
//! elsewhere, the launch behind the gap sees that the stream has run dry, and by the estimates for how long it has been so: that is not
//! charged, while somebody watches
//! ([`Pace::excused_ns`]). Who does finds in a round now and then that the stream still has work by then: the estimates are wrong, that gap
//! and those behind the next bursts are charged, and the next units have a boundary each, from which costs are learned ([`Pace::doubt`]).
//! Where nobody watches, the gap is charged, and the next units have a boundary each.

use crate::batch::TARGET_NS;
use crate::occupancy::SHORT_GAP_NS;

/// What the bracket of a batch may be longer than its units are known to take, ns, beside a sixteenth of them.
pub const UNEXPLAINED_NS: u64 = SHORT_GAP_NS;

/// Without a gap no clock is read at a launch any more after so much work, ns: 64 batches, or sixteen times as many of one unit each.
const TIMED_NS: u64 = 64 * TARGET_NS;
const ALONE_NS: u64 = TARGET_NS / 16;

/// Whether a stream that has been dry for so long, ns, has its batch closed: where the gap counts.
#[must_use]
pub const fn is_gap(idle_ns: u64) -> bool {
    idle_ns >= SHORT_GAP_NS
}

/// Units with a boundary behind each: after a doubt, and where nobody watches, after a burst of another length than those before.
const SAMPLED: u32 = 16;

/// Bursts behind which nothing is excused, after a doubt.
const DOUBTED: u32 = 8;

/// Bursts whose lengths are kept.
const BURSTS: usize = 4;

/// One stream's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// For how much work batches are still timed, of [`TIMED_NS`].
    left_ns: u64,
    /// Units since the last gap; and in the last bursts, of which 0 is one that is too long to expect another.
    burst: u32,
    recent: [u8; BURSTS],
    /// Units that still have a boundary behind each.
    sampled: u32,
    /// Bursts, with this one, behind which nothing is excused.
    doubted: u32,
    /// The open batch is timed.
    is_timed: bool,
    /// By when the stream has run dry by its estimates, ns. Good only while batches are timed.
    busy_until_ns: u64,
}

impl Pace {
    /// A gap may lie in a batch that was not timed: the next are.
    pub const fn may_have_gaps(&mut self) {
        self.left_ns = TIMED_NS;
    }

    /// Whether each launch into the open batch says when it comes ([`Pace::launch`]).
    #[must_use]
    pub const fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// How long the stream has been dry by its estimates, ns; 0 where the open batch is not timed.
    #[must_use]
    pub const fn idle_ns(&self, now_ns: u64) -> u64 {
        if self.is_timed { now_ns.saturating_sub(self.busy_until_ns) } else { 0 }
    }

    /// A unit comes behind a gap, on a stream that somebody watches or nobody does.
    pub const fn gap(&mut self, is_watched: bool) {
        if !is_watched && !self.is_as_before() {
            self.sampled = SAMPLED;
        }
        let [first, second, third, _] = self.recent;
        self.recent = [self.burst_in_a_byte(), first, second, third];
        (self.burst, self.left_ns) = (0, TIMED_NS);
        self.doubted = self.doubted.saturating_sub(1);
    }

    /// Who watches has found work on the stream where the estimates say that it has run dry.
    pub const fn doubt(&mut self) {
        (self.sampled, self.doubted) = (SAMPLED, DOUBTED + 1);
    }

    /// Of so many ns for which a stream that has run dry was so by its estimates: what nobody is charged for. 0: all of it is.
    #[must_use]
    pub const fn excused_ns(&self, idle_ns: u64) -> u64 {
        if self.doubted == 0 { idle_ns } else { 0 }
    }

    /// Whether one of the last bursts was as long as this one is now.
    const fn is_as_before(&self) -> bool {
        let [first, second, third, fourth] = self.recent;
        let burst = self.burst_in_a_byte();
        burst != 0 && (burst == first || burst == second || burst == third || burst == fourth)
    }

    /// A batch that is to hold `target_ns` of work begins now, behind `front_ns` of estimated work on its stream. Whether it is timed.
    pub const fn begin(&mut self, now_ns: u64, front_ns: u64, target_ns: u64) -> bool {
        let until_ns = now_ns.saturating_add(front_ns);
        // Whichever is less: estimates that are too long must not add up while the stream never runs dry. What it was dry before the
        // batch is not in it.
        if !self.is_timed || until_ns < self.busy_until_ns {
            self.busy_until_ns = until_ns;
        } else if self.busy_until_ns < now_ns {
            self.busy_until_ns = now_ns;
        }
        if !self.is_timed {
            (self.burst, self.recent) = (0, [0; BURSTS]);
        }
        self.is_timed = self.left_ns != 0;
        self.left_ns = self.left_ns.saturating_sub(if self.sampled == 0 { target_ns } else { ALONE_NS });
        self.is_timed
    }

    /// A unit of `cost_ns` is launched into a timed batch. How long the stream was dry before it, ns.
    pub const fn launch(&mut self, now_ns: u64, cost_ns: u64) -> u64 {
        let idle_ns = now_ns.saturating_sub(self.busy_until_ns);
        self.busy_until_ns = self.busy_until_ns.saturating_add(idle_ns).saturating_add(cost_ns);
        self.burst = self.burst.saturating_add(1);
        self.sampled = self.sampled.saturating_sub(1);
        idle_ns
    }

    /// Whether a boundary follows the last unit at once.
    #[must_use]
    pub const fn ends_here(&self) -> bool {
        self.is_timed && (self.sampled != 0 || self.is_as_before())
    }

    #[expect(clippy::cast_possible_truncation, reason = "it was compared")]
    const fn burst_in_a_byte(&self) -> u8 {
        if self.burst <= u8::MAX as u32 { self.burst as u8 } else { 0 }
    }
}
