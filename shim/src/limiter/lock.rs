//! A lock that nobody waits for long: who does not get it goes on without.
//!
//! A launch may come from a signal handler, above a launch of the same thread; and a thread can end while it holds a lock. So
//! no lock here is waited for without end, and what it guards are books that a missed entry does not hurt for long.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use cuota_region::sys;

/// How often a holder, which needs some microseconds, is given the processor before one goes on without the lock. A yield gives it to
/// whoever is next; where many wait for it, only sleep lets the holder come to its turn.
const YIELDS: u32 = 64;
const SLEEPS: u32 = 100;
const SLEEP_NS: u64 = 100_000;

/// A value, and who may use it now. All-zero is a free lock around an all-zero value.
#[repr(C)]
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
    #[inline(always)]
    pub(super) fn try_take(&self) -> Option<Held<'_, T>> {
        let free = self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        // Not `then_some`: a value that is made and dropped would let go of another's lock.
        free.is_ok().then(|| Held(self))
    }

    /// The value. `None`: whoever holds it has not let go in a long time.
    pub(super) fn take(&self) -> Option<Held<'_, T>> {
        self.try_take().or_else(|| self.take_later())
    }

    /// Where the value is, for its holder.
    pub(super) const fn value(&self) -> *mut T {
        self.value.get()
    }

    /// Lets go of it: for who holds it, and has forgotten the [`Held`].
    pub(super) fn let_go(&self) {
        self.taken.store(0, Ordering::Release);
    }

    #[cold]
    fn take_later(&self) -> Option<Held<'_, T>> {
        (0..YIELDS + SLEEPS).find_map(|turn| {
            if turn < YIELDS {
                sys::yield_now()
            } else {
                sys::sleep_ns(SLEEP_NS)
            }
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
        self.0.let_go();
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
