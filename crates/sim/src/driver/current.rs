//! Each thread's stack of current contexts.

use super::Driver;
use super::State;
use super::context::Context;
use crate::error::{Answer, Fault};
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

// Neither has a destructor, so both outlive all that runs when a thread or the program ends: exit handlers and the
// destructors of static objects still find their context, as with NVIDIA's driver. A thread that ends with more than
// one context leaves the memory of its list behind.
thread_local! {
    /// The current context, 0 for none.
    static TOP: Cell<u64> = const { Cell::new(0) };
    /// Those beneath it.
    static BELOW: RefCell<ManuallyDrop<Vec<u64>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

fn push(context: u64) {
    let before = TOP.replace(context);
    if before != 0 {
        BELOW.with_borrow_mut(|below| below.push(before));
    }
}

/// Takes the current context off the stack; 0 where there is none.
fn pop() -> u64 {
    TOP.replace(BELOW.with_borrow_mut(|below| below.pop().unwrap_or(0)))
}

impl Driver {
    /// The calling thread's current context, 0 for none.
    #[must_use]
    pub fn current(&self) -> u64 {
        TOP.get()
    }

    /// Makes `context` current in place of the present one; 0 removes the present one.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn set_current(&self, context: u64) -> Answer<()> {
        self.hesitate(|driver| driver.check_context(context))?;
        if context == 0 {
            pop();
        } else {
            TOP.set(context);
        }
        Ok(())
    }

    /// Makes `context` current above the present one.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn push_current(&self, context: u64) -> Answer<()> {
        if context == 0 {
            return Err(Fault::InvalidContext);
        }
        self.check_context(context)?;
        push(context);
        Ok(())
    }

    /// Takes the current context off the stack and gives it.
    ///
    /// # Errors
    /// `InvalidContext` where there is none.
    pub fn pop_current(&self) -> Answer<u64> {
        if TOP.get() == 0 { Err(Fault::InvalidContext) } else { Ok(pop()) }
    }

    pub(super) fn forget_current(context: u64) {
        if TOP.get() == context {
            pop();
        }
    }

    fn check_context(&self, context: u64) -> Answer<()> {
        let known = context == 0 || self.state.lock().contexts.contains_key(&context);
        if known { Ok(()) } else { Err(Fault::InvalidContext) }
    }

    /// Runs `work` on the state and the current context's handle, with the lock held.
    pub(crate) fn in_context<T>(&self, work: impl FnOnce(&mut State, u64) -> Answer<T>) -> Answer<T> {
        let context = self.current();
        if context == 0 {
            return Err(Fault::InvalidContext);
        }
        let mut state = self.state.lock();
        let device = state.contexts.get(&context).map(Context::device).ok_or(Fault::ContextIsDestroyed)?;
        self.gpu_of(device).check_fault()?;
        work(&mut state, context)
    }

    /// Whether the 32-bit forms of CUDA 2 can be used in the current context. They ask for one that `cuCtxCreate` of CUDA 2 made, which
    /// an H100's driver always refuses to make.
    ///
    /// # Errors
    /// `InvalidContext` where they cannot.
    pub fn check_old_form(&self) -> Answer<()> {
        if self.config.has_old_forms { Ok(()) } else { Err(Fault::InvalidContext) }
    }

    /// The device of the current context.
    ///
    /// # Errors
    /// `InvalidContext` without one, and the context's sticky error.
    pub fn current_device(&self) -> Answer<u32> {
        self.in_context(|state, context| Ok(state.contexts[&context].device()))
    }
}
