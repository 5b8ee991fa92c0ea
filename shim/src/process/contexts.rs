//! The contexts that this process has made, each with a small number that its blocks of memory carry: the driver frees a
//! context's memory with it, and no hook sees that.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::{CUcontext, CUdevice};

use super::driver;

/// How many contexts are told apart.
const CONTEXTS: usize = 254;

/// The number of a context that we did not see being made, or that came after 254 others.
pub(crate) const FOREIGN: u8 = 255;

struct Entry {
    /// The handle; 0: free.
    handle: AtomicU64,
    /// The device's ordinal, and [`PRIMARY`].
    device: AtomicU32,
}

const PRIMARY: u32 = 1 << 31;

/// The table. All-zero is an empty one.
pub(crate) struct Contexts {
    entries: [Entry; CONTEXTS],
    live: AtomicU32,
    /// The number of the one context, while there is just one.
    sole: AtomicU32,
    /// By number: the largest frame of local memory that a kernel's thread was given there, bytes. 255 is for all foreign ones.
    frames: [AtomicU64; 256],
    /// By number: how often the program has attached itself to the context.
    attached: [AtomicU32; 256],
}

/// A context that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone {
    /// The number that its blocks carry.
    pub(crate) number: u8,
    /// Its device.
    pub(crate) device: CUdevice,
}

fn key(context: CUcontext) -> u64 {
    context.addr() as u64
}

/// The number of the entry at `index`: 1 to 254.
fn number(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(FOREIGN)
}

impl Contexts {
    /// Notes a context of `device`. `false`: it is known already, or there is no room for it.
    pub(crate) fn add(&self, context: CUcontext, device: CUdevice, primary: bool) -> bool {
        if self.number_of(context).is_some() {
            return false;
        }
        let device = device.cast_unsigned() | if primary { PRIMARY } else { 0 };
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.handle.compare_exchange(0, key(context), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                entry.device.store(device, Ordering::Release);
                self.sole.store(u32::from(number(index)), Ordering::Relaxed);
                self.live.fetch_add(1, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// The device of the context with this number; `None` for a foreign one.
    #[inline(always)]
    pub(crate) fn device_of(&self, number: u8) -> Option<CUdevice> {
        let entry = self.entries.get(usize::from(number).checked_sub(1)?)?;
        let known = entry.handle.load(Ordering::Acquire) != 0;
        known.then(|| (entry.device.load(Ordering::Acquire) & !PRIMARY).cast_signed())
    }

    /// The number of the one context of the process. `None`: there is none, or there are several.
    pub(crate) fn sole(&self) -> Option<u8> {
        (self.live.load(Ordering::Acquire) == 1).then(|| self.sole.load(Ordering::Relaxed).to_le_bytes()[0])
    }

    /// The number of the primary context of `device`.
    pub(crate) fn primary_of(&self, device: CUdevice) -> Option<u8> {
        let wanted = device.cast_unsigned() | PRIMARY;
        let is_it = |entry: &Entry| {
            entry.handle.load(Ordering::Acquire) != 0 && entry.device.load(Ordering::Acquire) == wanted
        };
        self.entries.iter().position(is_it).map(number)
    }

    /// The context with this number.
    pub(crate) fn handle_of(&self, number: u8) -> Option<CUcontext> {
        let handle = self.entries.get(usize::from(number).checked_sub(1)?)?.handle.load(Ordering::Acquire);
        let handle: CUcontext = core::ptr::with_exposed_provenance_mut(usize::try_from(handle).ok()?);
        (!handle.is_null()).then_some(handle)
    }

    /// The number of a context that we saw being made.
    pub(crate) fn number_of(&self, context: CUcontext) -> Option<u8> {
        let same = |entry: &Entry| entry.handle.load(Ordering::Acquire) == key(context);
        self.entries.iter().position(same).map(number)
    }

    /// The number of the calling thread's current context. With one context in the process: no look-up.
    #[inline(always)]
    pub(crate) fn current(&self) -> u8 {
        if self.live.load(Ordering::Acquire) == 1 {
            return self.sole.load(Ordering::Relaxed).to_le_bytes()[0];
        }
        driver::current_context().and_then(|context| self.number_of(context)).unwrap_or(FOREIGN)
    }

    /// The largest frame of local memory that a thread was given in the context with this number, bytes.
    pub(crate) fn frame(&self, number: u8) -> u64 {
        self.frames[usize::from(number)].load(Ordering::Relaxed)
    }

    /// Notes that threads were given a frame of `bytes`.
    pub(crate) fn raise_frame(&self, number: u8, bytes: u64) {
        self.frames[usize::from(number)].fetch_max(bytes, Ordering::Relaxed);
    }

    /// Notes that the program has attached itself to `context`.
    pub(crate) fn attach(&self, context: CUcontext) {
        if let Some(number) = self.number_of(context) {
            self.attached[usize::from(number)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the program has detached itself from `context`; whether that ends it.
    pub(crate) fn detach(&self, context: CUcontext) -> bool {
        let Some(number) = self.number_of(context) else { return false };
        let attached = &self.attached[usize::from(number)];
        attached.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_err()
    }

    /// Forgets `context`.
    pub(crate) fn remove(&self, context: CUcontext) -> Option<Gone> {
        self.remove_where(|entry| entry.handle.load(Ordering::Acquire) == key(context))
    }

    /// Forgets the primary context of `device`.
    pub(crate) fn remove_primary(&self, device: CUdevice) -> Option<Gone> {
        let wanted = device.cast_unsigned() | PRIMARY;
        self.remove_where(|entry| {
            entry.handle.load(Ordering::Acquire) != 0 && entry.device.load(Ordering::Acquire) == wanted
        })
    }

    fn remove_where(&self, wanted: impl Fn(&Entry) -> bool) -> Option<Gone> {
        let (index, entry) = self.entries.iter().enumerate().find(|(_, entry)| wanted(entry))?;
        let handle = entry.handle.load(Ordering::Acquire);
        let device = (entry.device.load(Ordering::Acquire) & !PRIMARY).cast_signed();
        entry.handle.compare_exchange(handle, 0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // The one that is left, if one is left, before the count says so.
        let left = self.entries.iter().position(|entry| entry.handle.load(Ordering::Acquire) != 0);
        self.sole.store(left.map_or(0, |index| u32::from(number(index))), Ordering::Relaxed);
        self.live.fetch_sub(1, Ordering::Release);
        self.frames[usize::from(number(index))].store(0, Ordering::Relaxed);
        self.attached[usize::from(number(index))].store(0, Ordering::Relaxed);
        Some(Gone { number: number(index), device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;

    fn contexts() -> Box<Contexts> {
        // SAFETY: all-zero is an empty table.
        unsafe { Box::new(core::mem::zeroed()) }
    }

    #[test]
    fn a_context_keeps_its_number_until_it_is_gone() {
        let table = contexts();
        let (a, b) = (without_provenance_mut(16), without_provenance_mut(32));
        table.add(a, 0, true);
        table.add(b, 1, false);
        table.add(a, 0, true);
        assert_eq!((table.number_of(a), table.number_of(b)), (Some(1), Some(2)));
        table.raise_frame(1, 4096);
        table.attach(a);
        assert_eq!((table.frame(1), table.frame(2)), (4096, 0));
        assert!(!table.detach(a));
        assert!(table.detach(a));
        assert_eq!(table.remove_primary(0), Some(Gone { number: 1, device: 0 }));
        assert_eq!(table.remove_primary(0), None);
        assert_eq!(table.frame(1), 0);
        assert_eq!(table.current(), 2);
        assert_eq!(table.remove(b), Some(Gone { number: 2, device: 1 }));
        assert_eq!(table.remove(b), None);
    }
}
