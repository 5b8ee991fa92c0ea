//! The contexts that this process has made, each with a small number that its blocks of memory carry: the driver frees a
//! context's memory with it, and no hook sees that.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::{CUcontext, CUdevice, CUstream};

use super::driver;
use crate::interpose::call::CU_STREAM_PER_THREAD;

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

/// One launch to come, in `frames`. A frame has at most 512 KiB (CUDA Programming Guide, technical specifications).
const WAITER: u64 = 1 << 32;

fn frame_in(word: u64) -> u64 {
    word % WAITER
}

/// The table. All-zero is an empty one.
#[repr(C)]
pub(crate) struct Contexts {
    live: AtomicU32,
    /// The number of the one context, while there is just one.
    sole: AtomicU32,
    /// 1: an executable graph has waited for its first launch.
    awaited: AtomicU32,
    entries: [Entry; CONTEXTS],
    /// By number: the largest frame of local memory that is booked for a kernel's thread there, bytes, and above it how many launches
    /// to come count on that (`WAITER` each). 255 is for all foreign ones.
    frames: [AtomicU64; 256],
    /// By number: the largest frame that threads were really given.
    given: [AtomicU64; 256],
    /// By number: the limit of the stack when it was last asked for or set, which threads have, too.
    stacks: [AtomicU64; 256],
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
    /// Where the words that [`Self::current_hot`] reads lie, bytes.
    pub(crate) const LIVE_AT: usize = core::mem::offset_of!(Self, live);
    pub(crate) const SOLE_AT: usize = core::mem::offset_of!(Self, sole);

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
    #[inline(never)]
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
    #[inline(never)]
    pub(crate) fn current(&self) -> u8 {
        self.current_hot()
    }

    /// [`Contexts::current`], inlined.
    #[inline(always)]
    pub(crate) fn current_hot(&self) -> u8 {
        if self.live.load(Ordering::Acquire) == 1 {
            return self.sole.load(Ordering::Relaxed).to_le_bytes()[0];
        }
        driver::current_context().and_then(|context| self.number_of(context)).unwrap_or(FOREIGN)
    }

    /// The number of the context that a stream belongs to, as the calling thread means the stream. With one context in the process: no
    /// look-up.
    pub(crate) fn of_stream(&self, stream: CUstream) -> u8 {
        if self.sole().is_some() || stream.addr() <= CU_STREAM_PER_THREAD {
            return self.current();
        }
        let context = driver::outside_captures(|| driver::context_of(stream));
        context.and_then(|context| self.number_of(context)).unwrap_or(FOREIGN)
    }

    /// The largest frame of local memory that is booked for a thread in the context with this number, bytes.
    pub(crate) fn frame(&self, number: u8) -> u64 {
        frame_in(self.frames[usize::from(number)].load(Ordering::Acquire))
    }

    /// What threads have there, bytes: the largest frame that they were given, or the stack.
    pub(crate) fn provided(&self, number: u8) -> u64 {
        let [given, stack] =
            [&self.given, &self.stacks].map(|all| all[usize::from(number)].load(Ordering::Acquire));
        given.max(stack)
    }

    /// Notes the limit of the stack, bytes.
    pub(crate) fn note_stack(&self, number: u8, bytes: u64) {
        self.stacks[usize::from(number)].store(bytes, Ordering::Release);
    }

    /// Whether an executable graph has ever waited for its first launch.
    pub(crate) fn any_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) != 0
    }

    /// Notes that one does.
    pub(crate) fn note_awaited(&self) {
        self.awaited.store(1, Ordering::Relaxed);
    }

    /// The numbers of the contexts on `device`, and of the foreign ones, which can be on any.
    pub(crate) fn of_device(&self, device: CUdevice) -> impl Iterator<Item = u8> {
        (1..=FOREIGN).filter(move |number| self.device_of(*number).is_none_or(|of| of == device))
    }

    /// Of the frame that is booked, bytes that no thread was given yet: launches to come will take them.
    pub(crate) fn awaited_frame(&self, number: u8) -> u64 {
        let word = self.frames[usize::from(number)].load(Ordering::Acquire);
        if word < WAITER { 0 } else { frame_in(word).saturating_sub(self.provided(number)) }
    }

    /// Notes that a launch to come counts on the frame that is booked; before it is looked at.
    pub(crate) fn wait_for_launch(&self, number: u8) {
        self.frames[usize::from(number)].fetch_add(WAITER, Ordering::AcqRel);
    }

    /// Notes that a frame of `bytes` is booked.
    pub(crate) fn raise_frame(&self, number: u8, bytes: u64) {
        let raise = |word: u64| Some(word - frame_in(word) + frame_in(word).max(bytes % WAITER));
        let _ = self.frames[usize::from(number)].fetch_update(Ordering::AcqRel, Ordering::Relaxed, raise);
    }

    /// Notes that threads were given a frame of `bytes`.
    pub(crate) fn give(&self, number: u8, bytes: u64) {
        self.given[usize::from(number)].fetch_max(bytes, Ordering::AcqRel);
    }

    /// Notes that a launch is over, or will never be. Where it was the last that counted on the frame that is booked, no more is booked
    /// than was given; how much less that is, bytes of a thread's frame.
    pub(crate) fn end_waiting(&self, number: u8) -> u64 {
        let frames = &self.frames[usize::from(number)];
        let given = self.provided(number);
        let end = |word: u64| {
            let left = word.checked_sub(WAITER)?;
            Some(if left < WAITER { frame_in(left).min(given) } else { left })
        };
        match frames.fetch_update(Ordering::AcqRel, Ordering::Acquire, end) {
            Ok(word) if word < 2 * WAITER => frame_in(word).saturating_sub(given),
            Ok(_) | Err(_) => 0,
        }
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
        self.remove_number(self.number_of(context)?)
    }

    /// Forgets the primary context of `device`.
    pub(crate) fn remove_primary(&self, device: CUdevice) -> Option<Gone> {
        self.remove_number(self.primary_of(device)?)
    }

    #[inline(never)]
    fn remove_number(&self, gone: u8) -> Option<Gone> {
        let entry = self.entries.get(usize::from(gone).checked_sub(1)?)?;
        let handle = entry.handle.load(Ordering::Acquire);
        let device = (entry.device.load(Ordering::Acquire) & !PRIMARY).cast_signed();
        entry.handle.compare_exchange(handle, 0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // The one that is left, if one is left, before the count says so.
        let left = self.entries.iter().position(|entry| entry.handle.load(Ordering::Acquire) != 0);
        self.sole.store(left.map_or(0, |index| u32::from(number(index))), Ordering::Relaxed);
        self.live.fetch_sub(1, Ordering::Release);
        self.frames[usize::from(gone)].store(0, Ordering::Relaxed);
        self.given[usize::from(gone)].store(0, Ordering::Relaxed);
        self.stacks[usize::from(gone)].store(0, Ordering::Relaxed);
        self.attached[usize::from(gone)].store(0, Ordering::Relaxed);
        Some(Gone { number: gone, device })
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

    #[test]
    fn a_frame_that_nobody_was_given_stays_booked_while_a_launch_is_to_come() {
        let table = contexts();
        table.note_stack(1, 1024);
        (0..2).for_each(|_| table.wait_for_launch(1));
        table.raise_frame(1, 4096);
        table.raise_frame(1, 2048);
        assert_eq!((table.frame(1), table.awaited_frame(1)), (4096, 3072));
        // The one with 2,048 bytes is launched; the other never is.
        table.give(1, 2048);
        assert_eq!((table.end_waiting(1), table.awaited_frame(1)), (0, 2048));
        assert_eq!((table.end_waiting(1), table.frame(1), table.awaited_frame(1)), (2048, 2048, 0));
        assert_eq!((table.end_waiting(1), table.frame(1)), (0, 2048));
    }
}
