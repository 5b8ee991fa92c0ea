//! The atomics, the pauses and the clock that the books rest on.
//!
//! In a build with `--cfg loom` they are a model's (`model/`), so that the code that ships runs there under every order of
//! steps and every value that a load may return.

#[cfg(loom)]
pub(crate) use crate::model::sync::{AtomicU32, AtomicU64, monotonic_ns, stand_aside};
#[cfg(not(loom))]
pub(crate) use crate::sys::monotonic_ns;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) use core::sync::atomic::Ordering;

/// Wakes who sleeps on a bell.
pub(crate) fn ring(bell: &AtomicU32) {
    bell.fetch_add(1, Ordering::SeqCst);
    #[cfg(not(loom))]
    crate::sys::wake_all(bell);
}

/// Waits a little, the longer the further down the table: so that of several who collide the first gets through.
#[cfg(not(loom))]
#[cold]
pub(crate) fn stand_aside(place: usize, attempt: u32) {
    let rank = u32::try_from(place).unwrap_or(u32::MAX).min(7) + 1;
    if attempt > 8 {
        crate::sys::yield_now();
    }
    for _ in 0..rank.saturating_mul(1 << attempt.min(8)) {
        core::hint::spin_loop();
    }
}
