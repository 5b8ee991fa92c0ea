//! Memory pools: charged by what the driver says that a pool holds, not by what was asked of it.
//!
//! A pool grows by multiples of 32 MiB when an allocation finds no room in it, and shrinks at a synchronisation, or a
//! trim, without any call that we see. So what is booked for a pool is brought up to date at each allocation from it and
//! before a refusal.

use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::{CUmemPool_attribute, CUmemoryPool};

use super::driver;

/// The device of a pool on the host's memory, which is not charged.
pub(crate) const HOST: u32 = u32::MAX;

/// The device of a pool of another process: nothing of it is this one's until a pointer is imported.
pub(crate) const IMPORTED: u32 = u32::MAX - 1;

/// How many pools a process can have and be charged by what they hold.
const POOLS: usize = 256;

/// A pool that was used.
pub(crate) struct Pool {
    handle: AtomicU64,
    device: AtomicU32,
    held: Held,
    /// One of the constants below.
    end: AtomicU32,
    /// 1: others can open it.
    exported: AtomicU32,
}

const USABLE: u32 = 0;
/// The program has destroyed it, and memory of it lives: the driver is told only when none does, since it says nothing of
/// what a destroyed pool holds.
const DESTROYED: u32 = 1;
const ENDING: u32 = 2;

/// Bytes booked for something whose size the driver tells. All-zero is nothing.
pub(crate) struct Held(AtomicU64);

impl Held {
    /// Brings the books up to what `ask` says; by how much they were wrong. Of threads that do so at once each gets what it
    /// changed, and none puts an older answer over a newer one. `None`: there is no answer.
    #[inline]
    pub(crate) fn update(&self, ask: impl Fn() -> Option<u64>) -> Option<Change> {
        loop {
            let old = self.0.load(Ordering::Acquire);
            let reserved = ask()?;
            if self.0.compare_exchange(old, reserved, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                let grew = reserved.checked_sub(old).map(Change::Grew);
                return Some(grew.unwrap_or_else(|| Change::Shrank(old - reserved)));
            }
        }
    }
}

/// The table. All-zero is an empty one.
#[repr(C)]
pub(crate) struct Pools {
    /// One more than the highest entry ever used.
    used: AtomicU32,
    /// Pools of other processes that are open, in the low 31 bits; above them, whether others can open pools of this one.
    shared: AtomicU32,
    entries: [Pool; POOLS],
}

/// The bit of `shared` that says that others can open pools of this process.
const EXPORTS: u32 = 1 << 31;

/// How a pool's size differs from what is booked, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Grew(u64),
    Shrank(u64),
}

impl Pools {
    fn known(&self) -> &[Pool] {
        self.entries.get(..self.used.load(Ordering::Acquire) as usize).unwrap_or(&self.entries)
    }

    /// The entry of a pool of `device`; made at first sight. `None`: 256 others are live.
    pub(crate) fn entry(&self, handle: CUmemoryPool, device: u32) -> Option<&Pool> {
        let key = handle.expose_provenance() as u64;
        if let Some(pool) = self.known().iter().find(|pool| pool.handle.load(Ordering::Acquire) == key) {
            return Some(pool);
        }
        let claim =
            |pool: &Pool| pool.handle.compare_exchange(0, key, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let (index, pool) = self.entries.iter().enumerate().find(|(_, pool)| claim(pool))?;
        pool.device.store(device, Ordering::Relaxed);
        self.used.fetch_max(u32::try_from(index + 1).ok()?, Ordering::AcqRel);
        // Of two threads that see a pool for the first time at once, the one with the higher entry gives it up.
        let first = self.find(handle)?;
        if !core::ptr::eq(first, pool) {
            pool.handle.store(0, Ordering::Release);
        }
        Some(first)
    }

    /// A known pool.
    pub(crate) fn find(&self, handle: CUmemoryPool) -> Option<&Pool> {
        let key = handle.addr() as u64;
        self.known().iter().find(|pool| pool.handle.load(Ordering::Acquire) == key)
    }

    /// The device that a known pool takes from.
    pub(crate) fn device_of(&self, handle: CUmemoryPool) -> Option<u32> {
        Some(self.find(handle)?.device.load(Ordering::Relaxed))
    }

    /// Whether any pool was ever used.
    #[inline]
    pub(crate) fn are_used(&self) -> bool {
        self.used.load(Ordering::Acquire) != 0
    }

    /// Notes that others can open a pool of this process.
    pub(crate) fn export(&self, handle: CUmemoryPool) {
        if let Some(pool) = self.find(handle) {
            pool.exported.store(1, Ordering::Relaxed);
        }
        self.shared.fetch_or(EXPORTS, Ordering::AcqRel);
    }

    /// Notes that a pool of another process was opened, or is closed now.
    pub(crate) fn open(&self, opened: bool) {
        let change = |old: u32| if opened { Some(old + 1) } else { (old & !EXPORTS != 0).then(|| old - 1) };
        let _ = self.shared.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
    }

    /// Whether others can open pools of this process.
    #[inline]
    pub(crate) fn are_exported(&self) -> bool {
        self.shared.load(Ordering::Relaxed) & EXPORTS != 0
    }

    /// Whether others can open pools of this process, and how many pools of others it has open.
    pub(crate) fn shared(&self) -> (bool, u32) {
        let shared = self.shared.load(Ordering::Acquire);
        (shared & EXPORTS != 0, shared & !EXPORTS)
    }

    /// The pools of `device`.
    pub(crate) fn of_device(&self, device: u32) -> impl Iterator<Item = &Pool> {
        let wanted = move |pool: &&Pool| {
            pool.handle.load(Ordering::Acquire) != 0 && pool.device.load(Ordering::Relaxed) == device
        };
        self.known().iter().filter(wanted)
    }

    /// Forgets a pool that was destroyed; the bytes that were booked for it.
    pub(crate) fn remove(&self, handle: CUmemoryPool) -> Option<(u32, u64)> {
        let pool = self.find(handle)?;
        let (device, held) = (pool.device.load(Ordering::Relaxed), pool.held.0.swap(0, Ordering::AcqRel));
        pool.end.store(USABLE, Ordering::Relaxed);
        pool.exported.store(0, Ordering::Relaxed);
        pool.handle.store(0, Ordering::Release);
        Some((device, held))
    }
}

impl Pool {
    /// The pool's handle.
    pub(crate) fn handle(&self) -> CUmemoryPool {
        with_exposed_provenance_mut(usize::try_from(self.handle.load(Ordering::Acquire)).unwrap_or(0))
    }

    /// Whether the program has destroyed it.
    pub(crate) fn is_destroyed(&self) -> bool {
        self.end.load(Ordering::Acquire) != USABLE
    }

    /// Notes that the program has destroyed it. `false`: it had before.
    pub(crate) fn mark_destroyed(&self) -> bool {
        self.end.compare_exchange(USABLE, DESTROYED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether this thread is to end it for the driver: it was destroyed, and nothing of it lives.
    pub(crate) fn is_to_be_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) == DESTROYED
            && !self.lives()
            && self.end.compare_exchange(DESTROYED, ENDING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether any memory of it may live.
    pub(crate) fn lives(&self) -> bool {
        self.reserved_and_used().is_none_or(|(_, used)| used != 0)
    }

    /// Bytes that the pool holds and bytes of it in use, as the driver says.
    #[inline]
    pub(crate) fn reserved_and_used(&self) -> Option<(u64, u64)> {
        driver::outside_captures(|| {
            let reserved = self.ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
            Some((reserved, self.ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
        })
    }

    /// Bytes that the pool holds, as the driver says.
    #[inline]
    pub(crate) fn reserved(&self) -> Option<u64> {
        driver::outside_captures(|| self.ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT))
    }

    fn ask(&self, attribute: CUmemPool_attribute) -> Option<u64> {
        driver::pool_bytes(self.handle(), attribute)
    }

    /// Bytes that are booked for it, if others can open it.
    pub(crate) fn exported_bytes(&self) -> u64 {
        if self.exported.load(Ordering::Relaxed) == 0 { 0 } else { self.held.0.load(Ordering::Relaxed) }
    }

    /// Brings the books up to what the driver says; see [`Held::update`].
    pub(crate) fn update(&self) -> Option<Change> {
        self.held.update(|| self.reserved())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;

    #[test]
    fn a_pool_is_one_entry_until_it_is_destroyed() {
        // SAFETY: all-zero is an empty table.
        let pools: Box<Pools> = unsafe { Box::new(core::mem::zeroed()) };
        assert!(!pools.are_used());
        let handle = without_provenance_mut(64);
        let held = &pools.entry(handle, 1).unwrap().held;
        assert_eq!(held.update(|| Some(96)), Some(Change::Grew(96)));
        assert_eq!(held.update(|| Some(32)), Some(Change::Shrank(64)));
        assert_eq!(held.update(|| None), None);
        assert!(core::ptr::eq(held, &pools.entry(handle, 1).unwrap().held));
        assert_eq!((pools.of_device(0).count(), pools.of_device(1).count()), (0, 1));
        assert_eq!(pools.remove(handle), Some((1, 32)));
        assert_eq!(pools.remove(handle), None);
        assert_eq!(pools.of_device(1).count(), 0);
    }
}
