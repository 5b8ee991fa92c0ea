//! Captures that live, by context: what may be recorded while they do.
//!
//! A record on the legacy stream ruins the capture of every *blocking* stream of its context (906 in each mode, measured on driver 580),
//! and of no other. So beside a capture of streams that do not block it, the legacy stream is measured as ever.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::process::contexts::FOREIGN;

/// What a capture counts for in its context's word: itself, and above that the blocking streams that take part.
pub(crate) const ONE: u32 = 1;
pub(crate) const BLOCKING: u32 = 1 << 16;

/// How many streams that take part in captures are known one by one.
const PARTS: usize = 64;

/// What a stream counts for that begins a capture, or joins one and is a blocking one. All-zero is none.
struct Part {
    /// What tells the stream from all others; 0: free.
    stream: AtomicU64,
    /// The driver's number of the capture.
    capture: AtomicU64,
    /// What it counts for, and above [`ONE`] its context's number.
    count: AtomicU32,
}

/// The captures of a process. All-zero is none.
#[repr(C)]
pub(crate) struct Captures {
    live: AtomicU32,
    /// By the context's number.
    of: [AtomicU32; 256],
    parts: [Part; PARTS],
}

impl Captures {
    /// Whether none lives.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.live.load(Ordering::Acquire) == 0
    }

    /// Whether one would be ruined by a record on the legacy stream of this context. One whose context is not known may be there.
    pub(super) fn bar_legacy(&self, context: u8) -> bool {
        let are_there = |context: u8| self.of[usize::from(context)].load(Ordering::Acquire) >= BLOCKING;
        !self.is_empty() && (are_there(context) || are_there(FOREIGN))
    }

    /// Counts what may come to be: a capture on a stream of this context, a blocking stream that takes part in one, or both. Before
    /// it does: who looks meanwhile asks a stream once more than needed.
    pub(crate) fn add(&self, context: u8, what: u32) {
        self.of[usize::from(context)].fetch_add(what, Ordering::AcqRel);
        self.live.fetch_add(what % BLOCKING, Ordering::AcqRel);
    }

    /// Takes back what was counted so, for it has ended or has not come to be; [`u32::MAX`]: all that there is, for the context is gone.
    pub(crate) fn remove(&self, context: u8, what: u32) {
        let left = |word: u32| match word % BLOCKING {
            // With the last one go the blocking streams that have joined it.
            0 | 1 if what & ONE != 0 => 0,
            _ if what == u32::MAX => 0,
            _ => word.checked_sub(what).unwrap_or(word),
        };
        let word = &self.of[usize::from(context)];
        let before =
            word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(left(word))).unwrap_or(0);
        self.live.fetch_sub((before % BLOCKING).wrapping_sub(left(before) % BLOCKING), Ordering::AcqRel);
        // What is noted of streams that had joined would be taken from another capture's count.
        if left(before) == 0 {
            let is_there = |count: u32| count != 0 && count.to_le_bytes()[1] == context;
            let of_it = |part: &&Part| is_there(part.count.load(Ordering::Acquire));
            for part in self.parts.iter().filter(of_it) {
                part.clear();
            }
        }
    }

    fn part(&self, stream: u64) -> Option<&Part> {
        self.parts.iter().find(|part| part.stream.load(Ordering::Acquire) == stream)
    }

    /// Notes for which stream, in which of the driver's captures, `what` was counted in this context. Where there is no room for it, it is
    /// taken back with the context's last capture.
    pub(crate) fn note(&self, stream: u64, capture: u64, context: u8, what: u32) {
        let claim = |part: &&Part| {
            part.stream.compare_exchange(0, stream, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        // One that was left over would be found in its stead.
        self.end(stream);
        if let Some(part) = self.parts.iter().find(claim) {
            part.count.store(what | u32::from(context) << 8, Ordering::Relaxed);
            part.capture.store(capture, Ordering::Release);
        }
    }

    /// A stream takes part in no capture any more: takes back what was counted for it, and, where it had begun the capture, for all that
    /// had joined it. `false`: nothing is noted of it.
    pub(crate) fn end(&self, stream: u64) -> bool {
        let Some(part) = self.part(stream) else { return false };
        let capture = part.capture.load(Ordering::Acquire);
        if part.count.load(Ordering::Acquire) & ONE != 0 && capture != 0 {
            // First: with the last capture of a context goes whatever is counted there.
            let has_joined = |part: &&Part| {
                part.capture.load(Ordering::Acquire) == capture
                    && part.count.load(Ordering::Acquire) & ONE == 0
            };
            for part in self.parts.iter().filter(has_joined) {
                self.take_back(part);
            }
        }
        self.take_back(part);
        true
    }

    fn take_back(&self, part: &Part) {
        let count = part.clear();
        if count != 0 {
            let [_, context, ..] = count.to_le_bytes();
            self.remove(context, count & (ONE | BLOCKING));
        }
    }
}

impl Part {
    /// Makes it free; what it counted for.
    fn clear(&self) -> u32 {
        let count = self.count.swap(0, Ordering::AcqRel);
        self.capture.store(0, Ordering::Relaxed);
        self.stream.store(0, Ordering::Release);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Captures {
        // SAFETY: all-zero is none.
        unsafe { core::mem::zeroed() }
    }

    /// A stream begins this capture, or joins it, in context 1.
    fn take_part(captures: &Captures, stream: u64, capture: u64, what: u32) {
        captures.add(1, what);
        captures.note(stream, capture, 1, what);
    }

    #[test]
    fn stream_that_has_joined_leaves_with_the_capture_that_it_joined() {
        let captures = none();
        take_part(&captures, 10, 1, ONE);
        take_part(&captures, 20, 2, ONE);
        take_part(&captures, 21, 2, BLOCKING);
        assert!(captures.end(20) && !captures.bar_legacy(1) && !captures.is_empty());
        assert!(!captures.end(21));
        assert!(captures.end(10) && captures.is_empty());
    }

    #[test]
    fn stream_that_is_destroyed_takes_its_own_part_with_it() {
        let captures = none();
        take_part(&captures, 10, 1, ONE);
        take_part(&captures, 20, 2, ONE + BLOCKING);
        assert!(captures.bar_legacy(1) && captures.end(20) && !captures.bar_legacy(1));
        take_part(&captures, 11, 1, BLOCKING);
        assert!(
            captures.bar_legacy(1) && captures.end(11) && !captures.bar_legacy(1) && !captures.is_empty()
        );
    }

    #[test]
    fn more_streams_than_are_noted_go_with_the_last_capture() {
        let captures = none();
        take_part(&captures, 10, 1, ONE);
        (0..2 * PARTS as u64).for_each(|stream| take_part(&captures, 100 + stream, 1, BLOCKING));
        assert!(captures.bar_legacy(1) && captures.end(10) && captures.is_empty() && !captures.bar_legacy(1));
    }

    #[test]
    fn only_blocking_streams_of_its_context_bar_a_legacy_stream() {
        let captures = none();
        captures.add(1, ONE);
        assert!(!captures.is_empty() && !captures.bar_legacy(1));
        captures.add(1, ONE + BLOCKING);
        assert!(captures.bar_legacy(1) && !captures.bar_legacy(2));
        captures.remove(1, ONE + BLOCKING);
        assert!(!captures.is_empty() && !captures.bar_legacy(1));
        captures.add(FOREIGN, ONE + BLOCKING);
        assert!(captures.bar_legacy(1) && captures.bar_legacy(2));
    }

    #[test]
    fn stream_that_joins_bars_it_until_the_last_capture_of_the_context_ends() {
        let captures = none();
        captures.add(1, ONE);
        captures.add(1, BLOCKING);
        captures.remove(1, BLOCKING);
        captures.remove(1, BLOCKING);
        assert!(!captures.is_empty() && !captures.bar_legacy(1));
        captures.add(1, BLOCKING);
        assert!(captures.bar_legacy(1));
        captures.remove(1, ONE);
        assert!(captures.is_empty() && !captures.bar_legacy(1));
    }

    #[test]
    fn part_in_a_capture_that_is_over_is_not_taken_from_the_next() {
        let captures = none();
        take_part(&captures, 10, 1, ONE);
        // It was ruined before it was noted: the driver gives no number.
        take_part(&captures, 11, 0, BLOCKING);
        assert!(captures.end(10) && captures.is_empty());
        take_part(&captures, 20, 2, ONE + BLOCKING);
        assert!(!captures.end(11) && captures.bar_legacy(1));
        assert!(captures.end(20) && captures.is_empty());
    }

    #[test]
    fn captures_go_with_their_context() {
        let captures = none();
        take_part(&captures, 10, 1, ONE + BLOCKING);
        captures.add(1, ONE);
        captures.add(2, ONE);
        captures.remove(1, u32::MAX);
        assert!(!captures.is_empty() && !captures.bar_legacy(1) && !captures.end(10));
        captures.remove(2, ONE);
        captures.remove(2, ONE);
        assert!(captures.is_empty());
    }
}
