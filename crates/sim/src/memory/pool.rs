//! A memory pool: physical memory in chunks of 32 MiB, sub-allocated in stream order, given back when the host
//! synchronises, down to the release threshold.

use super::blocks::{ALIGNMENT, Range};
use super::gaps::Gaps;
use crate::error::{Answer, Fault};
use crate::shared::PoolLabel;
use crate::units::{MIB, round_up};
use std::collections::BTreeMap;

/// What a pool takes from the device at a time. The model's constant, not a measured one.
pub const CHUNK: u64 = 32 * MIB;

/// A point in a stream: the unit with `ticket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The stream.
    pub stream: u64,
    /// The unit after which the memory is free.
    pub ticket: u64,
}

#[derive(Debug)]
struct Chunk {
    bytes: u64,
    gaps: Gaps,
}

/// Whose a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// This process's alone.
    #[default]
    Private,
    /// This process's, which may name it to others.
    Shareable,
    /// Another process's: nothing can be allocated in it here.
    Imported(PoolLabel),
}

/// One pool.
#[derive(Debug, Default)]
pub struct Pool {
    /// Whose it is.
    pub origin: Origin,
    /// The device's number of it, once it was named to others; 0 before.
    pub shared: u64,
    /// Whether it is destroyed and only waits for its allocations to be freed.
    pub is_destroyed: bool,
    /// The most that it may hold, in bytes; 0 for no bound.
    pub most_bytes: u64,
    /// How much it keeps when the host synchronises, in bytes.
    pub threshold_bytes: u64,
    /// The device that the memory is on.
    pub device: u32,
    chunks: BTreeMap<u64, Chunk>,
    live: BTreeMap<u64, u64>,
    pending: Vec<(u64, u64, Point)>,
    reserved: Watermark,
    used: Watermark,
}

/// A figure and the highest that it was since it was reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Now, in bytes.
    pub current: u64,
    /// The highest, in bytes.
    pub high: u64,
}

impl Watermark {
    pub(super) fn add(&mut self, bytes: u64) {
        self.current += bytes;
        self.high = self.high.max(self.current);
    }
}

impl Pool {
    /// An empty pool on `device`.
    #[must_use]
    pub fn new(device: u32) -> Self {
        Self { device, ..Self::default() }
    }

    /// Places `bytes` for `stream`: in free memory, else in memory that the same stream has freed, else in a new chunk,
    /// for which `grow` is asked.
    ///
    /// # Errors
    /// `InvalidValue` for zero bytes, and what `grow` says.
    pub fn allocate(
        &mut self,
        bytes: u64,
        stream: u64,
        grow: impl FnOnce(u64) -> Answer<u64>,
    ) -> Answer<u64> {
        if bytes == 0 {
            return Err(Fault::InvalidValue);
        }
        let taken = round_up(bytes, ALIGNMENT).ok_or(Fault::OutOfMemory)?;
        let place = match self.place(taken).or_else(|| self.reuse(taken, stream)) {
            Some(place) => place,
            None => {
                let chunk = round_up(taken, CHUNK).ok_or(Fault::OutOfMemory)?;
                let most = round_up(self.most_bytes, CHUNK).filter(|&most| most > 0).unwrap_or(u64::MAX);
                if self.reserved.current.checked_add(chunk).is_none_or(|all| all > most) {
                    return Err(Fault::OutOfMemory);
                }
                let base = grow(chunk)?;
                self.chunks.insert(base, Chunk { bytes: chunk, gaps: Gaps::new(base, chunk) });
                self.reserved.add(chunk);
                self.place(taken).ok_or(Fault::OutOfMemory)?
            }
        };
        self.live.insert(place, taken);
        self.used.add(taken);
        Ok(place)
    }

    /// Frees `place` at a point of a stream: that stream may use it again at once, others when the point is reached.
    ///
    /// # Errors
    /// `InvalidValue` where no allocation begins there.
    pub fn free_at(&mut self, place: u64, point: Point) -> Answer<()> {
        let taken = self.live.remove(&place).ok_or(Fault::InvalidValue)?;
        self.used.current -= taken;
        self.pending.push((place, taken, point));
        Ok(())
    }

    /// Makes memory whose point `is_reached` free for every stream.
    pub fn reach(&mut self, mut is_reached: impl FnMut(Point) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for (place, taken, point) in pending {
            if is_reached(point) {
                self.give(place, taken);
            } else {
                self.pending.push((place, taken, point));
            }
        }
    }

    /// Takes chunks without live memory out of the pool until it holds at most `keep_bytes`. The caller frees them.
    #[must_use]
    pub fn trim(&mut self, keep_bytes: u64) -> Vec<Range> {
        let mut out = Vec::new();
        let bases: Vec<u64> = self.chunks.keys().rev().copied().collect();
        for base in bases {
            if self.reserved.current <= keep_bytes {
                break;
            }
            let Some(chunk) = self.chunks.get(&base) else { continue };
            if chunk.gaps.holds(base, chunk.bytes) {
                let bytes = chunk.bytes;
                self.chunks.remove(&base);
                self.reserved.current -= bytes;
                out.push(Range { base, bytes });
            }
        }
        out
    }

    /// Where its chunks begin.
    #[must_use]
    pub fn chunks(&self) -> Vec<u64> {
        self.chunks.keys().copied().collect()
    }

    /// Whether another process has made it.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        matches!(self.origin, Origin::Imported(_))
    }

    /// What the pool holds of the device.
    #[must_use]
    pub fn reserved(&self) -> Watermark {
        self.reserved
    }

    /// What is allocated in it.
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

    /// Whether an allocation begins at `place`.
    #[must_use]
    pub fn contains(&self, place: u64) -> bool {
        self.live.contains_key(&place)
    }

    /// Whether any allocation lives in it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.live.is_empty()
    }

    /// The points that freed memory waits for.
    #[must_use]
    pub fn awaited(&self) -> Vec<Point> {
        self.pending.iter().map(|(_, _, point)| *point).collect()
    }

    fn place(&mut self, taken: u64) -> Option<u64> {
        self.chunks.values_mut().find_map(|chunk| chunk.gaps.take(taken, ALIGNMENT))
    }

    fn reuse(&mut self, taken: u64, stream: u64) -> Option<u64> {
        let found =
            self.pending.iter().position(|(_, size, point)| point.stream == stream && *size >= taken)?;
        let (place, size, point) = self.pending.swap_remove(found);
        if size > taken {
            self.pending.push((place + taken, size - taken, point));
        }
        Some(place)
    }

    fn give(&mut self, place: u64, taken: u64) {
        if let Some((_, chunk)) = self.chunks.range_mut(..=place).next_back() {
            chunk.gaps.give(place, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(stream: u64, ticket: u64) -> Point {
        Point { stream, ticket }
    }

    #[test]
    fn a_pool_grows_in_whole_chunks() {
        let mut pool = Pool::new(0);
        pool.allocate(1, 1, |bytes| Ok(bytes * 100)).expect("room");
        assert_eq!(pool.reserved().current, CHUNK);
        pool.allocate(CHUNK + 1, 1, |bytes| Ok(bytes * 100)).expect("room");
        assert_eq!(pool.reserved().current, 3 * CHUNK);
    }

    #[test]
    fn only_the_freeing_stream_reuses_memory_before_the_point() {
        let mut pool = Pool::new(0);
        let place = pool.allocate(CHUNK, 1, |_| Ok(CHUNK)).expect("room");
        pool.free_at(place, point(1, 7)).expect("live");
        assert_eq!(pool.allocate(CHUNK, 2, |_| Err(Fault::OutOfMemory)), Err(Fault::OutOfMemory));
        assert_eq!(pool.allocate(CHUNK, 1, |_| Err(Fault::OutOfMemory)), Ok(place));
    }

    #[test]
    fn a_trim_keeps_the_threshold_and_what_lives() {
        let mut pool = Pool::new(0);
        let first = pool.allocate(CHUNK, 1, |_| Ok(CHUNK)).expect("room");
        let second = pool.allocate(CHUNK, 1, |_| Ok(2 * CHUNK)).expect("room");
        pool.free_at(second, point(1, 1)).expect("live");
        assert!(pool.trim(0).is_empty(), "its point is not reached");
        pool.reach(|_| true);
        assert_eq!(pool.trim(2 * CHUNK).len(), 0);
        assert_eq!(pool.trim(0), [Range { base: 2 * CHUNK, bytes: CHUNK }]);
        assert!(pool.contains(first));
    }

    #[test]
    fn the_high_watermark_stays_until_it_is_reset() {
        let mut pool = Pool::new(0);
        let place = pool.allocate(512, 1, |_| Ok(CHUNK)).expect("room");
        pool.free_at(place, point(1, 1)).expect("live");
        assert_eq!(pool.used(), Watermark { current: 0, high: 512 });
        pool.reset_used_high();
        assert_eq!(pool.used().high, 0);
    }
}
