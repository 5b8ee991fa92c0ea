//! The memory of graphs on one device, in numbers: chunks of 32 MiB that are taken when a graph is first launched or
//! uploaded (100 MiB took 128 MiB on an H100), kept when it is gone, and given back by a trim.

use super::pool::{CHUNK, Watermark};
use crate::error::{Answer, Fault};
use crate::units::round_up;

/// What one launchable graph holds of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// What its allocations ask for at most at one time.
    pub used_bytes: u64,
    /// That in whole chunks.
    pub reserved_bytes: u64,
}

/// The pool.
#[derive(Debug, Default)]
pub struct GraphPool {
    unused_bytes: u64,
    reserved: Watermark,
    used: Watermark,
}

impl GraphPool {
    /// Takes memory for a graph: what other graphs left, then new chunks, for whose bytes `grow` is asked.
    ///
    /// # Errors
    /// `OutOfMemory` beyond 64 bits, and what `grow` says.
    pub fn take(&mut self, used_bytes: u64, grow: impl FnOnce(u64) -> Answer<()>) -> Answer<Holding> {
        let reserved_bytes = round_up(used_bytes, CHUNK).ok_or(Fault::OutOfMemory)?;
        let more = reserved_bytes.saturating_sub(self.unused_bytes);
        grow(more)?;
        self.reserved.add(more);
        self.unused_bytes = self.unused_bytes + more - reserved_bytes;
        self.used.add(used_bytes);
        Ok(Holding { used_bytes, reserved_bytes })
    }

    /// A graph and all its allocations are gone: the next one may have its memory.
    pub fn leave(&mut self, holding: Holding) {
        self.unused_bytes += holding.reserved_bytes;
        self.used.current -= holding.used_bytes;
    }

    /// Takes what nobody uses out of the pool. The caller gives so many bytes back to the device.
    #[must_use]
    pub fn trim(&mut self) -> u64 {
        let unused = std::mem::take(&mut self.unused_bytes);
        self.reserved.current -= unused;
        unused
    }

    /// What the pool holds of the device.
    #[must_use]
    pub fn reserved(&self) -> Watermark {
        self.reserved
    }

    /// What graphs and their allocations use of it.
    #[must_use]
    pub fn used(&self) -> Watermark {
        self.used
    }

    /// Sets the highest held to what is held now.
    pub fn reset_reserved_high(&mut self) {
        self.reserved.high = self.reserved.current;
    }

    /// Sets the highest used to what is used now.
    pub fn reset_used_high(&mut self) {
        self.used.high = self.used.current;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    #[test]
    fn a_graph_takes_whole_chunks_and_leaves_them_to_the_next() {
        let mut pool = GraphPool::default();
        let first = pool.take(100 * MIB, |more| {
            assert_eq!(more, 128 * MIB);
            Ok(())
        });
        pool.leave(first.expect("room"));
        assert_eq!((pool.reserved().current, pool.used().current), (128 * MIB, 0));
        let second = pool.take(130 * MIB, |more| {
            assert_eq!(more, 32 * MIB, "the first one's chunks are there");
            Ok(())
        });
        assert_eq!((second.expect("room").reserved_bytes, pool.trim()), (160 * MIB, 0));
    }

    #[test]
    fn only_what_nobody_uses_is_trimmed() {
        let mut pool = GraphPool::default();
        let held = pool.take(MIB, |_| Ok(())).expect("room");
        assert_eq!(pool.trim(), 0);
        pool.leave(held);
        assert_eq!((pool.trim(), pool.reserved()), (CHUNK, Watermark { current: 0, high: CHUNK }));
    }

    #[test]
    fn a_refused_graph_changes_nothing() {
        let mut pool = GraphPool::default();
        assert_eq!(pool.take(MIB, |_| Err(Fault::OutOfMemory)), Err(Fault::OutOfMemory));
        assert_eq!((pool.reserved().high, pool.used().high), (0, 0));
    }
}
