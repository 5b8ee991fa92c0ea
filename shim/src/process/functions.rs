//! Which kernels have been launched before: a launch of such a one takes no memory, and passes at the cost of one look-up.
//!
//! A first launch can load the kernel's code and raise the context's local memory. The table is a cache: what it has forgotten is
//! looked at again.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::CUfunction;

const SETS: usize = 1024;
const WAYS: usize = 4;

/// How many handles of libraries that were ended for the program are remembered.
const ENDED: usize = 1 << 16;

/// The table. All-zero is an empty one.
pub(crate) struct Functions {
    known: [[AtomicU64; WAYS]; SETS],
    /// Libraries that did not fit and were unloaded under the program's hands, and their kernels: their handles must not reach the
    /// driver again.
    ended: [AtomicU64; ENDED],
    are_ended: AtomicU32,
}

/// A kernel in a context, by its number: a `CUkernel` is one for all contexts, and takes memory in each. Addresses have 47 bits.
fn key(function: CUfunction, context: u8) -> u64 {
    function.addr() as u64 ^ u64::from(context) << 56
}

impl Functions {
    /// Where the table lies, bytes: for who reads it as [`Self::knows`] does.
    pub(crate) const KNOWN_AT: usize = core::mem::offset_of!(Self, known);
    pub(crate) const SET_BYTES: usize = size_of::<[AtomicU64; WAYS]>();

    /// Fibonacci hashing (Knuth, TAOCP 3, 6.4): the product's upper bits are the set's number.
    pub(crate) const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    pub(crate) const SHIFT: u32 = u64::BITS - SETS.ilog2();

    #[inline]
    fn set(&self, key: u64) -> &[AtomicU64; WAYS] {
        let hash = key.wrapping_mul(Self::FACTOR) >> Self::SHIFT;
        &self.known[usize::try_from(hash).unwrap_or(0) % SETS]
    }

    /// Whether `function` was launched in a context before.
    #[inline]
    pub(crate) fn knows(&self, function: CUfunction, context: u8) -> bool {
        let key = key(function, context);
        self.set(key).iter().any(|way| way.load(Ordering::Relaxed) == key)
    }

    /// Notes that `function` was launched in a context.
    pub(crate) fn note(&self, function: CUfunction, context: u8) {
        let key = key(function, context);
        let set = self.set(key);
        let free =
            |way: &&AtomicU64| way.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if set.iter().find(free).is_none() {
            // Any of them: its next launch finds its way back.
            let victim = usize::try_from(key >> 4).unwrap_or(0) % WAYS;
            set[victim].store(key, Ordering::Relaxed);
        }
    }

    /// Forgets all: code was unloaded, and its handles can be other kernels'.
    pub(crate) fn forget(&self) {
        self.known.iter().flatten().for_each(|way| way.store(0, Ordering::Relaxed));
    }

    /// Notes a handle that is the driver's no more.
    pub(crate) fn end(&self, handle: u64) {
        let free = |place: &&AtomicU64| {
            place.compare_exchange(0, handle, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if self.ended.iter().find(free).is_some() {
            self.are_ended.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether a handle is the driver's no more.
    pub(crate) fn is_ended(&self, handle: u64) -> bool {
        self.are_ended.load(Ordering::Acquire) != 0
            && self.ended.iter().any(|place| place.load(Ordering::Acquire) == handle)
    }

    /// How many kernels of one more library can be noted as ended.
    pub(crate) fn room_for_ended(&self) -> usize {
        (ENDED - 1).saturating_sub(self.are_ended.load(Ordering::Acquire) as usize)
    }

    /// Whether any handle is the driver's no more.
    pub(crate) fn any_ended(&self) -> bool {
        self.are_ended.load(Ordering::Acquire) != 0
    }

    /// Forgets a handle: the program has given it up, or the driver has given it out again. `false`: it was none of these.
    pub(crate) fn revive(&self, handle: u64) -> bool {
        let found = |place: &&AtomicU64| {
            place.compare_exchange(handle, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let was = self.any_ended() && self.ended.iter().find(found).is_some();
        if was {
            self.are_ended.fetch_sub(1, Ordering::Release);
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;

    #[test]
    fn a_kernel_is_known_in_the_context_that_it_was_launched_in_until_code_is_unloaded() {
        // SAFETY: all-zero is an empty table.
        let functions: Box<Functions> = unsafe { Box::new(core::mem::zeroed()) };
        let kernel = without_provenance_mut(0x5500_0000_1230);
        functions.note(kernel, 1);
        assert_eq!((functions.knows(kernel, 1), functions.knows(kernel, 0)), (true, false));
        functions.forget();
        assert!(!functions.knows(kernel, 1));
    }

    #[test]
    fn an_ended_handle_is_refused_until_it_is_given_up_or_out_again() {
        // SAFETY: as above.
        let functions: Box<Functions> = unsafe { Box::new(core::mem::zeroed()) };
        assert!(!functions.is_ended(32) && !functions.revive(32));
        functions.end(32);
        assert!(functions.is_ended(32) && !functions.is_ended(48));
        assert!(functions.revive(32));
        assert!(!functions.is_ended(32) && !functions.any_ended());
    }

    #[test]
    fn the_last_noted_is_always_known() {
        // SAFETY: as above.
        let functions: Box<Functions> = unsafe { Box::new(core::mem::zeroed()) };
        for n in 1..100_000_usize {
            let kernel = without_provenance_mut(n * 16);
            functions.note(kernel, 0);
            assert!(functions.knows(kernel, 0));
        }
    }
}
