//! What keeps physical memory alive besides its handles and mappings: multicast objects that it is bound to, and arrays that it is
//! mapped into.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const ENTRIES: usize = 2048;

struct Pin {
    /// The handle of what holds the memory; 0: free, 1: being written.
    holder: AtomicU64,
    /// Where in it, and on which device: what tells one binding from another.
    offset: AtomicU64,
    device: AtomicU32,
    /// The memory's place in the table of handles.
    place: AtomicU32,
}

/// What came of a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pinned {
    Now,
    /// The same was noted before.
    Before,
    /// The table is full.
    Nowhere,
}

/// The table. All-zero is an empty one.
pub(crate) struct Pins {
    pins: [Pin; ENTRIES],
    used: AtomicU32,
}

impl Pins {
    /// Notes that `holder` keeps the memory in `place`.
    pub(crate) fn add(&self, holder: u64, device: u32, offset: u64, place: u32) -> Pinned {
        let same = |pin: &Pin| {
            pin.holder.load(Ordering::Acquire) == holder
                && pin.device.load(Ordering::Relaxed) == device
                && pin.offset.load(Ordering::Relaxed) == offset
                && pin.place.load(Ordering::Relaxed) == place
        };
        if self.used.load(Ordering::Relaxed) != 0 && self.pins.iter().any(same) {
            return Pinned::Before;
        }
        for pin in &self.pins {
            if pin.holder.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                pin.offset.store(offset, Ordering::Relaxed);
                pin.device.store(device, Ordering::Relaxed);
                pin.place.store(place, Ordering::Relaxed);
                pin.holder.store(holder, Ordering::Release);
                self.used.fetch_add(1, Ordering::Relaxed);
                return Pinned::Now;
            }
        }
        Pinned::Nowhere
    }

    /// Takes out the pins of `holder`, which is gone, or those that are bound on a device in a range of its offsets; calls `each` with
    /// the memory's place.
    pub(crate) fn take(&self, holder: u64, range: Option<(u32, u64, u64)>, mut each: impl FnMut(u32)) {
        if self.used.load(Ordering::Relaxed) == 0 {
            return;
        }
        for pin in self.pins.iter().filter(|pin| pin.holder.load(Ordering::Acquire) == holder) {
            let (offset, place) = (pin.offset.load(Ordering::Relaxed), pin.place.load(Ordering::Relaxed));
            let is_meant = range.is_none_or(|(device, from, bytes)| {
                pin.device.load(Ordering::Relaxed) == device && offset >= from && offset - from < bytes
            });
            if is_meant && pin.holder.compare_exchange(holder, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.used.fetch_sub(1, Ordering::Relaxed);
                each(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_goes_with_its_range_or_with_its_holder() {
        // SAFETY: all-zero is an empty table.
        let pins: Box<Pins> = unsafe { Box::new(core::mem::zeroed()) };
        let take = |holder, range| {
            let mut taken = Vec::new();
            pins.take(holder, range, |place| taken.push(place));
            taken
        };
        assert_eq!((pins.add(16, 0, 0, 7), pins.add(16, 0, 0, 7)), (Pinned::Now, Pinned::Before));
        pins.add(16, 1, 0, 8);
        pins.add(16, 0, 4096, 9);
        pins.add(32, 0, 0, 10);
        assert_eq!(take(16, Some((0, 0, 4096))), [7]);
        assert_eq!(take(16, None), [8, 9]);
        assert_eq!((take(16, None), take(32, None)), (vec![], vec![10]));
    }
}
