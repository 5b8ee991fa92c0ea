//! A lock that nobody waits for long: who does not get it goes on without.
//!
//! A launch may come from a signal handler, above a launch of the same thread; and a thread can end while it holds a lock. So
//! no lock here is waited for without end, and what it guards are books that a missed entry does not hurt for long.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use cuota_region::sys;

/// How often a holder is given the processor before one goes on without the lock: it holds it for some microseconds.
const PATIENCE: u32 = 4096;

/// A value, and who may use it now. All-zero is a free lock around an all-zero value.
pub(super) struct Lock<T> {
    taken: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the one holder only.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The value, held.
pub(super) struct Held<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// The value, unless somebody holds it.
    pub(super) fn try_take(&self) -> Option<Held<'_, T>> {
        let free = self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        // Not `then_some`: a value that is made and dropped would let go of another's lock.
        free.is_ok().then(|| Held(self))
    }

    /// The value. `None`: whoever holds it has not let go in a long time.
    pub(super) fn take(&self) -> Option<Held<'_, T>> {
        self.try_take().or_else(|| self.take_later())
    }

    #[cold]
    fn take_later(&self) -> Option<Held<'_, T>> {
        (0..PATIENCE).find_map(|_| {
            sys::yield_now();
            self.try_take()
        })
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: held, and by one `Held`, which is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.taken.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_kept_waiting_for_ever_goes_on_without() {
        let lock = Lock { taken: AtomicU32::new(0), value: UnsafeCell::new(7) };
        let held = lock.take().unwrap();
        assert!(lock.take().is_none());
        drop(held);
        assert_eq!(lock.take().map(|held| *held), Some(7));
    }
}
