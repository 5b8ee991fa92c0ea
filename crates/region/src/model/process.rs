//! A process in a model: a thread that may be killed after any of its steps.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::world::World;

/// How a killed process's stack is left. Nothing on it writes to the books when it is dropped.
struct Killed;

loom::thread_local! {
    /// How many steps the process may still take.
    static LEFT: Cell<Option<usize>> = Cell::new(None);
}

/// A step of the process that runs: its last one where it is to be killed here.
pub(crate) fn step() {
    let is_over = LEFT.with(|left| match left.get() {
        Some(0) => true,
        Some(steps) => {
            left.set(Some(steps - 1));
            false
        }
        None => false,
    });
    if is_over {
        LEFT.with(|left| left.set(None));
        resume_unwind(Box::new(Killed));
    }
}

/// Runs `life` as process `number`, which is killed after `steps` steps, if it gets there: the kernel then drops its locks. `None`: it was
/// killed.
pub(crate) fn run<T>(
    world: &'static World,
    number: usize,
    steps: Option<usize>,
    life: impl FnOnce() -> T,
) -> Option<T> {
    LEFT.with(|left| left.set(steps));
    let lived = catch_unwind(AssertUnwindSafe(life));
    LEFT.with(|left| left.set(None));
    match lived {
        Ok(value) => Some(value),
        Err(why) if why.is::<Killed>() => {
            world.drop_locks(number);
            None
        }
        Err(why) => resume_unwind(why),
    }
}
