//! Captures that live, by context: what may be recorded while they do.
//!
//! A record on the legacy stream ruins the capture of every *blocking* stream of its context (906 in each mode, measured on driver 580),
//! and of no other. So beside a capture of streams that do not block it, the legacy stream is measured as ever.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::process::contexts::FOREIGN;

/// What a capture counts for in its context's word: itself, and above that the blocking streams that take part.
pub(crate) const ONE: u32 = 1;
pub(crate) const BLOCKING: u32 = 1 << 16;

/// The captures of a process. All-zero is none.
#[repr(C)]
pub(crate) struct Captures {
    live: AtomicU32,
    /// By the context's number.
    of: [AtomicU32; 256],
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Captures {
        Captures { live: AtomicU32::new(0), of: [const { AtomicU32::new(0) }; 256] }
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
    fn captures_go_with_their_context() {
        let captures = none();
        captures.add(1, ONE + BLOCKING);
        captures.add(1, ONE);
        captures.add(2, ONE);
        captures.remove(1, u32::MAX);
        assert!(!captures.is_empty() && !captures.bar_legacy(1));
        captures.remove(2, ONE);
        captures.remove(2, ONE);
        assert!(captures.is_empty());
    }
}
