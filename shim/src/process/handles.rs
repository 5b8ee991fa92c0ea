//! Memory that exists by handle: physical memory (`cuMemCreate`), which lives until its last handle and its last mapping
//! are gone, arrays, and executable graphs that allocate.
//!
//! A fixed open-addressed table, 24 bytes a place, touched only where it is used.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Places: 512 GiB of 2 MiB handles.
const PLACES: usize = 1 << 18;

/// Keys that are no handle: handles are addresses of the driver's objects.
const EMPTY: u64 = 0;
const REMOVED: u64 = 1;
const CLAIMED: u64 = 2;

struct Place {
    handle: AtomicU64,
    bytes: AtomicU64,
    references: AtomicU32,
    /// The device's ordinal in the low 16 bits, then the context's number.
    owner: AtomicU32,
}

/// What a handle's memory belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    /// The device's ordinal.
    pub(crate) device: u32,
    /// The context's number; 0: none, the memory outlives contexts.
    pub(crate) context: u8,
}

impl Owner {
    fn pack(self) -> u32 {
        self.device & 0xffff | u32::from(self.context) << 16
    }

    fn unpack(word: u32) -> Self {
        Owner { device: word & 0xffff, context: word.to_le_bytes()[2] }
    }
}

impl Place {
    fn read(&self) -> Last {
        Last {
            bytes: self.bytes.load(Ordering::Relaxed),
            owner: Owner::unpack(self.owner.load(Ordering::Relaxed)),
        }
    }
}

/// The table. All-zero is an empty one.
pub(crate) struct Handles {
    places: [Place; PLACES],
    /// The furthest that any handle lies from where its hash puts it: no look-up goes further.
    furthest: AtomicU32,
}

/// Memory whose last reference is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Last {
    pub(crate) bytes: u64,
    pub(crate) owner: Owner,
}

fn hash(handle: u64) -> usize {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4): the handle's low bits are alignment.
    usize::try_from(handle.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46).unwrap_or(0) % PLACES
}

impl Handles {
    fn at(&self, handle: u64, distance: usize) -> (usize, &Place) {
        let index = (hash(handle) + distance) % PLACES;
        (index, &self.places[index])
    }

    /// Notes a new handle on `bytes`. `false`: all 262,144 places are taken.
    pub(crate) fn add(&self, handle: u64, bytes: u64, owner: Owner) -> bool {
        for distance in 0..PLACES {
            let (_, place) = self.at(handle, distance);
            let free = place.handle.load(Ordering::Relaxed);
            let claimed = free <= REMOVED
                && place.handle.compare_exchange(free, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if claimed {
                place.bytes.store(bytes, Ordering::Relaxed);
                place.references.store(1, Ordering::Relaxed);
                place.owner.store(owner.pack(), Ordering::Relaxed);
                self.furthest.fetch_max(u32::try_from(distance).unwrap_or(u32::MAX), Ordering::Relaxed);
                place.handle.store(handle, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// The place of a handle.
    pub(crate) fn find(&self, handle: u64) -> Option<u32> {
        if handle <= CLAIMED {
            return None;
        }
        for distance in 0..=self.furthest.load(Ordering::Relaxed) as usize {
            let (index, place) = self.at(handle, distance);
            match place.handle.load(Ordering::Acquire) {
                EMPTY => return None,
                found if found == handle => return u32::try_from(index).ok(),
                _ => {}
            }
        }
        None
    }

    fn place(&self, place: u32) -> Option<&Place> {
        self.places.get(place as usize)
    }

    /// Adds a reference: a mapping, or a handle that was retained.
    pub(crate) fn retain(&self, place: u32) {
        if let Some(place) = self.place(place) {
            place.references.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Drops a reference; the memory's size and device where it was the last.
    ///
    /// Done *before* the driver drops its own: afterwards the same handle can be another's.
    pub(crate) fn release(&self, place: u32) -> Option<Last> {
        let place = self.place(place)?;
        let had = place.references.fetch_sub(1, Ordering::AcqRel);
        (had == 1).then(|| {
            let last = place.read();
            place.handle.store(REMOVED, Ordering::Release);
            last
        })
    }

    /// The bytes behind the handle in a place.
    pub(crate) fn bytes(&self, place: u32) -> u64 {
        self.place(place).map_or(0, |place| place.bytes.load(Ordering::Relaxed))
    }

    /// Forgets all that belongs to `context`, which is gone; calls `each` with it.
    pub(crate) fn remove_context(&self, context: u8, mut each: impl FnMut(Last)) {
        for place in &self.places {
            let handle = place.handle.load(Ordering::Acquire);
            if handle > CLAIMED && place.read().owner.context == context {
                let removed =
                    place.handle.compare_exchange(handle, REMOVED, Ordering::AcqRel, Ordering::Relaxed);
                if removed.is_ok() {
                    each(place.read());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_region::sys::{self, Mapping};

    fn handles() -> &'static Handles {
        let memory = sys::map(Mapping::Private, size_of::<Handles>()).unwrap();
        // SAFETY: fresh zeroed memory, mapped for good; all-zero is an empty table.
        unsafe { memory.cast::<Handles>().as_ref() }
    }

    const THREE: Owner = Owner { device: 3, context: 0 };

    #[test]
    fn a_context_takes_its_arrays_with_it() {
        let table = handles();
        table.add(0x5500_0000_1000, 7, Owner { device: 1, context: 2 });
        table.add(0x5500_0000_2000, 9, THREE);
        let mut gone = Vec::new();
        table.remove_context(2, |last| gone.push(last.bytes));
        assert_eq!(gone, [7]);
        assert!(table.find(0x5500_0000_1000).is_none() && table.find(0x5500_0000_2000).is_some());
    }

    #[test]
    fn memory_lives_until_its_last_handle_and_mapping_are_gone() {
        let table = handles();
        assert!(table.add(0x55cf_d5ea_8620, 4 << 20, THREE));
        let place = table.find(0x55cf_d5ea_8620).unwrap();
        table.retain(place);
        table.retain(place);
        assert_eq!(table.release(place), None);
        assert_eq!(table.release(place), None);
        assert_eq!(table.release(place), Some(Last { bytes: 4 << 20, owner: THREE }));
        assert_eq!(table.find(0x55cf_d5ea_8620), None);
    }

    #[test]
    fn many_handles_are_found_again_and_places_are_used_again() {
        let table = handles();
        for round in 0..5_u64 {
            let handle = |n: u64| 0x5500_0000_0000 + (round * 50_000 + n) * 32;
            (0..50_000).for_each(|n| assert!(table.add(handle(n), n, THREE)));
            for n in 0..50_000 {
                let place = table.find(handle(n)).unwrap();
                assert_eq!(table.release(place), Some(Last { bytes: n, owner: THREE }));
            }
        }
        assert!(table.furthest.load(Ordering::Relaxed) < 1000);
    }
}
