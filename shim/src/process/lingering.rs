//! Memory that was exported to a descriptor and then let go: the driver keeps it as long as the descriptor is open.
//!
//! Nobody tells us of a `close`. So the bytes stay charged, and before a refusal each descriptor is looked at: once its number is
//! free, or another file's, the bytes are given back. A descriptor that is on its way to another process in a socket, and closed
//! here, is beyond this (docs/threat-model.md).

use core::mem::ManuallyDrop;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_region::sys::{self, Fd};

/// How many allocations can linger and be given back; those beyond stay charged for good.
const ENTRIES: usize = 512;

/// The bits of an inode number that tell a descriptor's file from others.
const INODE: u64 = u32::MAX as u64;

/// A descriptor that memory was exported to: one more than its number, and in the lower half that of its file's inode number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exported(NonZeroU64);

impl Exported {
    /// The descriptor with this number, which is open.
    pub(crate) fn to(number: i32) -> Option<Self> {
        let place = u64::from(u32::try_from(number).ok()? + 1) << 32;
        NonZeroU64::new(place | inode(number)?).map(Exported)
    }

    pub(super) fn pack(self) -> u64 {
        self.0.get()
    }

    pub(super) fn unpack(word: u64) -> Option<Self> {
        NonZeroU64::new(word).filter(|word| word.get() >> 32 != 0).map(Exported)
    }

    /// Whether the number is still this file's.
    pub(crate) fn is_open(self) -> bool {
        let word = self.0.get();
        i32::try_from((word >> 32) - 1).ok().and_then(inode) == Some(word & INODE)
    }
}

/// The low half of the inode number of an open file.
fn inode(number: i32) -> Option<u64> {
    let fd = ManuallyDrop::new(Fd::from_owned(number));
    let (_, inode) = sys::file_info(&fd).ok()?.identity;
    Some(inode & INODE)
}

struct Entry {
    /// 0: free.
    exported: AtomicU64,
    bytes: AtomicU64,
    /// The device's ordinal; the highest bit says that the bytes were imported.
    device: AtomicU32,
}

/// The table. All-zero is an empty one.
pub(crate) struct Lingering {
    entries: [Entry; ENTRIES],
    used: AtomicU32,
}

impl Lingering {
    /// Notes `bytes` that stay charged while a descriptor is open: this process's own, or imported ones.
    pub(crate) fn add(&self, exported: Exported, bytes: u64, device: u32, imported: bool) {
        for entry in &self.entries {
            if entry.exported.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                entry.bytes.store(bytes, Ordering::Relaxed);
                entry.device.store(device | u32::from(imported) << 31, Ordering::Relaxed);
                entry.exported.store(exported.pack(), Ordering::Release);
                self.used.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Forgets those on `device` whose descriptors were closed; how many bytes of its own and how many imported ones they had.
    pub(crate) fn collect(&self, device: u32) -> (u64, u64) {
        let mut closed = (0, 0);
        if self.used.load(Ordering::Relaxed) == 0 {
            return closed;
        }
        for entry in &self.entries {
            let word = entry.exported.load(Ordering::Acquire);
            let of = entry.device.load(Ordering::Relaxed);
            let is_over = of & !(1 << 31) == device
                && Exported::unpack(word).is_some_and(|exported| !exported.is_open());
            let bytes = entry.bytes.load(Ordering::Relaxed);
            let is_ours = is_over
                && entry.exported.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if is_ours {
                self.used.fetch_sub(1, Ordering::Relaxed);
                *(if of >> 31 == 0 { &mut closed.0 } else { &mut closed.1 }) += bytes;
            }
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_linger_until_the_descriptor_is_closed_or_anothers() {
        // SAFETY: all-zero is an empty table.
        let table: Box<Lingering> = unsafe { Box::new(core::mem::zeroed()) };
        let fd = sys::open(c"/dev/null", libc::O_RDONLY, 0).unwrap();
        let exported = Exported::to(fd.number()).unwrap();
        assert_eq!(Exported::unpack(exported.pack()), Some(exported));
        table.add(exported, 7, 1, false);
        table.add(exported, 9, 1, true);
        assert_eq!((table.collect(1), table.collect(0)), ((0, 0), (0, 0)));
        drop(fd);
        assert_eq!((table.collect(0), table.collect(1), table.collect(1)), ((0, 0), (7, 9), (0, 0)));
        assert_eq!(Exported::to(-1), None);
    }
}
