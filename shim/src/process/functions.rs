//! Which kernels have been launched before: a launch of such a one takes no memory, and passes at the cost of one look-up.
//!
//! A first launch can load the kernel's code and raise the context's local memory. The table is a cache: what it has forgotten is
//! looked at again.

use core::sync::atomic::{AtomicU64, Ordering};

use cuota_abi::cuda::CUfunction;

const SETS: usize = 1024;
const WAYS: usize = 4;

/// The table. All-zero is an empty one.
pub(crate) struct Functions([[AtomicU64; WAYS]; SETS]);

/// A kernel on a device. Handles are addresses of the driver's objects, aligned to 16 bytes; a `CUkernel` is one for all devices.
fn key(function: CUfunction, device: u32) -> u64 {
    function.addr() as u64 ^ u64::from(device)
}

impl Functions {
    #[inline]
    fn set(&self, key: u64) -> &[AtomicU64; WAYS] {
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        &self.0[usize::try_from(hash).unwrap_or(0) % SETS]
    }

    /// Whether `function` was launched on `device` before.
    #[inline]
    pub(crate) fn knows(&self, function: CUfunction, device: u32) -> bool {
        let key = key(function, device);
        self.set(key).iter().any(|way| way.load(Ordering::Relaxed) == key)
    }

    /// Notes that `function` was launched on `device`.
    pub(crate) fn note(&self, function: CUfunction, device: u32) {
        let key = key(function, device);
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
        self.0.iter().flatten().for_each(|way| way.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;

    #[test]
    fn a_kernel_is_known_on_the_device_that_it_was_launched_on_until_code_is_unloaded() {
        // SAFETY: all-zero is an empty table.
        let functions: Box<Functions> = unsafe { Box::new(core::mem::zeroed()) };
        let kernel = without_provenance_mut(0x5500_0000_1230);
        functions.note(kernel, 1);
        assert_eq!((functions.knows(kernel, 1), functions.knows(kernel, 0)), (true, false));
        functions.forget();
        assert!(!functions.knows(kernel, 1));
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
