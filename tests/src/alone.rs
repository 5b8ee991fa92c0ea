//! One test at a time on this machine's own GPU: what one test takes another one sees.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

static GPU: Mutex<()> = Mutex::new(());

thread_local! {
    /// How often this thread's test has the GPU, and the lock while it does.
    static HELD: RefCell<(usize, Option<MutexGuard<'static, ()>>)> = const { RefCell::new((0, None)) };
}

/// The GPU is this thread's until it, and every other one that the thread has, is dropped. A test may have several: two containers of
/// one node are on one GPU, too.
pub(crate) struct Alone(
    /// It is given back in the thread that took it.
    PhantomData<MutexGuard<'static, ()>>,
);

impl Alone {
    /// Waits until no other thread has the GPU.
    pub(crate) fn new() -> Self {
        HELD.with_borrow_mut(|(count, guard)| {
            guard.get_or_insert_with(|| GPU.lock().unwrap_or_else(PoisonError::into_inner));
            *count += 1;
        });
        Self(PhantomData)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|(count, guard)| {
            *count -= 1;
            if *count == 0 {
                *guard = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_machine_of_a_test_does_not_wait_for_the_first() {
        let (first, second) = (Alone::new(), Alone::new());
        let others_wait = || std::thread::spawn(|| GPU.try_lock().is_err()).join().expect("it ends");
        assert!(others_wait());
        drop(first);
        assert!(others_wait(), "the second still has it");
        drop(second);
        assert!(!others_wait());
    }
}
