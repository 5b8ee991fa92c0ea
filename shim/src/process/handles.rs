//! Memory that exists by handle: physical memory (`cuMemCreate`), which lives until its last handle and its last mapping
//! are gone, arrays, and executable graphs that allocate.
//!
//! A fixed open-addressed table, 40 bytes a place, touched where it is used; the end of a context and a rejoin look through all of it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_region::share::ShareKey;

use super::lingering::Exported;

/// Places: 512 GiB of 2 MiB handles.
const PLACES: usize = 1 << 18;

/// Keys that are no handle: handles are addresses of the driver's objects.
const EMPTY: u64 = 0;
const REMOVED: u64 = 1;
const CLAIMED: u64 = 2;
/// What was destroyed and is kept all the same: no look-up finds it.
const NAMELESS: u64 = 3;

struct Place {
    handle: AtomicU64,
    bytes: AtomicU64,
    references: AtomicU32,
    /// An [`Owner`].
    owner: AtomicU32,
    /// The key under which others of the tenant may hold it too; 0: none.
    key: AtomicU64,
    /// The descriptor that it was exported to; all zero: none.
    exported: AtomicU64,
}

/// What a handle stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Physical memory that this process made.
    Memory,
    /// An array, or a mipmapped one.
    Array,
    /// Memory of another process, or of another API: NVML does not count it for this process.
    Import,
    /// Not charged by this entry: the address of a managed allocation, of which NVML counts nothing.
    Managed,
    /// Not charged by this entry: the address of an allocation that others may open.
    Export,
    /// Not charged by this entry: an executable graph, with what its allocations can take; with a context's number, and a bit above the
    /// address, one that was not launched yet, with the frame of its threads.
    Graph,
    /// A green context, charged as overhead.
    Green,
    /// Not charged by this entry: a library that was used; in a context, where its number stands above the address.
    Library,
}

/// The kinds by their numbers.
const KINDS: [Kind; 8] = [
    Kind::Memory,
    Kind::Array,
    Kind::Import,
    Kind::Managed,
    Kind::Export,
    Kind::Graph,
    Kind::Green,
    Kind::Library,
];

/// What a handle's memory belongs to: the device's ordinal in the low 16 bits, then the context's number, then the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner(u32);

impl Owner {
    /// `context`: its number; 0: none, the memory outlives contexts.
    pub(crate) const fn new(device: u32, context: u8, kind: Kind) -> Self {
        Owner(device & 0xffff | (context as u32) << 16 | (kind as u32) << 24)
    }

    /// The same, of another kind.
    pub(crate) const fn with_kind(self, kind: Kind) -> Self {
        Owner(self.0 & 0xff_ffff | (kind as u32) << 24)
    }

    /// The device's ordinal.
    pub(crate) fn device(self) -> u32 {
        self.0 & 0xffff
    }

    /// The context's number.
    pub(crate) fn context(self) -> u8 {
        self.0.to_le_bytes()[2]
    }

    /// What it is.
    pub(crate) fn kind(self) -> Kind {
        KINDS.get(self.0 as usize >> 24).copied().unwrap_or(Kind::Memory)
    }

    /// Whether an address can be noted so, that a free must look for.
    fn is_mark(self) -> bool {
        matches!(self.kind(), Kind::Managed | Kind::Export | Kind::Import)
    }
}

impl Place {
    fn read(&self) -> Last {
        Last {
            handle: self.handle.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            owner: Owner(self.owner.load(Ordering::Relaxed)),
            key: ShareKey::from_number(self.key.load(Ordering::Relaxed)),
            exported: Exported::unpack(self.exported.load(Ordering::Relaxed)),
        }
    }
}

/// The table. All-zero is an empty one.
pub(crate) struct Handles {
    places: [Place; PLACES],
    /// The furthest that any handle lies from where its hash puts it: no look-up goes further.
    furthest: AtomicU32,
    /// Entries that say something about an address: a free looks for one only where there are any.
    marks: AtomicU32,
    /// How often a key was given.
    shared: AtomicU32,
}

/// Memory whose last reference is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Last {
    pub(crate) handle: u64,
    pub(crate) bytes: u64,
    pub(crate) owner: Owner,
    pub(crate) key: Option<ShareKey>,
    pub(crate) exported: Option<Exported>,
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
                place.owner.store(owner.0, Ordering::Relaxed);
                place.key.store(0, Ordering::Relaxed);
                place.exported.store(0, Ordering::Relaxed);
                if owner.is_mark() {
                    self.marks.fetch_add(1, Ordering::Relaxed);
                }
                self.furthest.fetch_max(u32::try_from(distance).unwrap_or(u32::MAX), Ordering::Relaxed);
                place.handle.store(handle, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// Notes again what was released, because the driver kept it.
    pub(crate) fn put_back(&self, last: &Last) {
        if self.add(last.handle, last.bytes, last.owner)
            && let Some(place) = self.find(last.handle)
        {
            let _ = last.key.map(|key| self.share(place, key));
            last.exported.into_iter().for_each(|exported| self.export(place, exported));
        }
    }

    /// Notes the key under which others of the tenant may hold it. `false`: it has one. Of two threads one notes it, so that what is
    /// booked once is noted once.
    #[must_use]
    pub(crate) fn share(&self, place: u32, key: ShareKey) -> bool {
        let Some(place) = self.place(place) else { return false };
        self.shared.fetch_add(1, Ordering::Relaxed);
        place.key.compare_exchange(0, key.number(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Notes the descriptor that it was exported to.
    pub(crate) fn export(&self, place: u32, exported: Exported) {
        if let Some(place) = self.place(place) {
            place.exported.store(exported.pack(), Ordering::Relaxed);
        }
    }

    /// Lets no look-up find what is in a place: it has lost its `handle`, and something keeps it. Unless that has let it go by now: then the
    /// place is free, or another's.
    pub(crate) fn make_nameless(&self, place: u32, handle: u64) {
        if let Some(place) = self.place(place) {
            let _ = place.handle.compare_exchange(handle, NAMELESS, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// What the memory in a place belongs to.
    pub(crate) fn owner(&self, place: u32) -> Owner {
        Owner(self.place(place).map_or(0, |place| place.owner.load(Ordering::Relaxed)))
    }

    /// Notes that what is in a place has at least so many bytes.
    pub(crate) fn raise_bytes(&self, place: u32, bytes: u64) {
        if let Some(place) = self.place(place) {
            place.bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// Whether any entry says something about an address.
    #[inline]
    pub(crate) fn has_marks(&self) -> bool {
        self.marks.load(Ordering::Relaxed) != 0
    }

    /// Takes out what is noted about the allocation at `address`.
    #[cold]
    pub(crate) fn take_mark(&self, address: u64) -> Option<Last> {
        let place = self.find(address)?;
        if self.owner(place).is_mark() { self.release(place) } else { None }
    }

    /// Calls `each` with what this process shares on `device`: key and bytes.
    pub(crate) fn each_share(&self, device: u32, mut each: impl FnMut(ShareKey, u64)) {
        if self.shared.load(Ordering::Relaxed) == 0 {
            return;
        }
        for place in self.places.iter().filter(|place| place.handle.load(Ordering::Acquire) > CLAIMED) {
            let entry = place.read();
            if let Some(key) = entry.key.filter(|_| entry.owner.device() == device) {
                each(key, entry.bytes);
            }
        }
    }

    /// The place of a handle.
    pub(crate) fn find(&self, handle: u64) -> Option<u32> {
        if handle <= NAMELESS {
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
            self.count_out(last)
        })
    }

    fn count_out(&self, last: Last) -> Last {
        if last.owner.is_mark() {
            self.marks.fetch_sub(1, Ordering::Relaxed);
        }
        last
    }

    /// The bytes behind the handle in a place.
    pub(crate) fn bytes(&self, place: u32) -> u64 {
        self.place(place).map_or(0, |place| place.bytes.load(Ordering::Relaxed))
    }

    /// Forgets all that belongs to `context`, which is gone; calls `each` with it.
    #[inline(never)]
    pub(crate) fn remove_context(&self, context: u8, mut each: impl FnMut(Last)) {
        for place in &self.places {
            let handle = place.handle.load(Ordering::Acquire);
            if handle <= CLAIMED {
                continue;
            }
            let last = Last { handle, ..place.read() };
            let is_removed = last.owner.context() == context
                && place
                    .handle
                    .compare_exchange(handle, REMOVED, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok();
            if is_removed {
                each(self.count_out(last));
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

    const THREE: Owner = Owner::new(3, 0, Kind::Memory);

    fn last(handle: u64, bytes: u64) -> Last {
        Last { handle, bytes, owner: THREE, key: None, exported: None }
    }

    #[test]
    fn what_is_noted_about_an_allocation_is_found_only_as_that() {
        let table = handles();
        assert!(!table.has_marks());
        table.add(0x7f00_0000_0000, 64, THREE.with_kind(Kind::Export));
        table.add(0x5500_0000_1000, 7, THREE);
        let place = table.find(0x7f00_0000_0000).unwrap();
        assert!(table.share(place, ShareKey::of(b"handle")));
        assert!(!table.share(place, ShareKey::of(b"another")), "noted once");
        let mut shares = Vec::new();
        table.each_share(3, |key, bytes| shares.push((key, bytes)));
        assert_eq!(shares, [(ShareKey::of(b"handle"), 64)]);
        assert!(table.has_marks());
        assert_eq!(table.take_mark(0x5500_0000_1000), None);
        let taken = table.take_mark(0x7f00_0000_0000).unwrap();
        assert_eq!((taken.key, table.has_marks()), (Some(ShareKey::of(b"handle")), false));
        table.put_back(&taken);
        assert_eq!(table.take_mark(0x7f00_0000_0000), Some(taken));
    }

    #[test]
    fn what_took_the_place_of_an_object_keeps_its_name() {
        const GONE: u64 = 0x55cf_d5ea_8620;
        let table = handles();
        assert!(table.add(GONE, 4 << 20, THREE));
        let place = table.find(GONE).unwrap();
        // Another thread drops the last reference while the driver ends the handle; and the next object comes to lie here.
        assert!(table.release(place).is_some());
        let next = (1..).map(|n| GONE + 16 * n).find(|next| hash(*next) == hash(GONE)).unwrap();
        assert!(table.add(next, 4 << 20, THREE));
        assert_eq!(table.find(next), Some(place));
        table.make_nameless(place, GONE);
        assert_eq!(table.find(next), Some(place));
        table.make_nameless(place, next);
        assert_eq!(table.find(next), None);
        assert_eq!(table.release(place).map(|last| last.bytes), Some(4 << 20));
    }

    #[test]
    fn a_context_takes_its_arrays_with_it() {
        let table = handles();
        table.add(0x5500_0000_1000, 7, Owner::new(1, 2, Kind::Array));
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
        assert_eq!(table.release(place), Some(last(0x55cf_d5ea_8620, 4 << 20)));
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
                assert_eq!(table.release(place), Some(last(handle(n), n)));
            }
        }
        assert!(table.furthest.load(Ordering::Relaxed) < 1000);
    }
}
