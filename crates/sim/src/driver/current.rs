//! Each thread's stack of current contexts.

use super::Driver;
use super::State;
use super::context::Context;
use crate::error::{Answer, Fault};
use std::cell::RefCell;

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Driver {
    /// The calling thread's current context, 0 for none.
    #[must_use]
    pub fn current(&self) -> u64 {
        STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
    }

    /// Makes `context` current in place of the present one; 0 removes the present one.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn set_current(&self, context: u64) -> Answer<()> {
        self.check_context(context)?;
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
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
        STACK.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    /// Takes the current context off the stack and gives it.
    ///
    /// # Errors
    /// `InvalidContext` where there is none.
    pub fn pop_current(&self) -> Answer<u64> {
        STACK.with_borrow_mut(Vec::pop).ok_or(Fault::InvalidContext)
    }

    pub(super) fn forget_current(context: u64) {
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
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

    /// The device of the current context.
    ///
    /// # Errors
    /// `InvalidContext` without one, and the context's sticky error.
    pub fn current_device(&self) -> Answer<u32> {
        self.in_context(|state, context| Ok(state.contexts[&context].device()))
    }
}
