//! What a context grows by when kernels are launched: once at the first one, by the stacks of the largest local frame, and by
//! a heap or a FIFO that was made larger, when the first kernel that uses it comes.

use super::context::{Context, FIRST_LAUNCH_BYTES, Limit};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::ptx::Needs;
use crate::shared::Charge;

/// `CU_LIMIT_STACK_SIZE`.
pub(super) const STACK_SIZE: Limit = 0;
/// `CU_LIMIT_PRINTF_FIFO_SIZE`.
const PRINTF_FIFO_SIZE: Limit = 1;
/// `CU_LIMIT_MALLOC_HEAP_SIZE`.
const MALLOC_HEAP_SIZE: Limit = 2;
/// The threads of a multiprocessor, of which each has a stack.
const SM_THREADS: u64 = 2048;
/// Local frames are multiples of so many bytes.
const FRAME_ALIGNMENT: u64 = 16;

/// The default of a limit in bytes or pieces, by its number; the model knows the first seven.
///
/// # Errors
/// `InvalidValue` for another.
pub fn default_limit(limit: Limit) -> Answer<u64> {
    match limit {
        STACK_SIZE => Ok(1024),
        PRINTF_FIFO_SIZE | MALLOC_HEAP_SIZE => Ok(8 << 20),
        3 => Ok(2),
        4 => Ok(2048),
        5 => Ok(128),
        6 => Ok(0),
        _ => Err(Fault::InvalidValue),
    }
}

/// What the launches of a context have made of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growth {
    /// Whether there was one.
    launched: bool,
    /// The largest local frame, in bytes of a thread.
    frame_bytes: u64,
    has_heap: bool,
    has_fifo: bool,
}

impl Growth {
    pub(super) fn begun(launched: bool) -> Self {
        Self { launched, ..Self::default() }
    }
}

impl Context {
    /// What each thread has for its stack and its local frame.
    fn thread_bytes(&self) -> u64 {
        self.limit(STACK_SIZE).max(self.growth.frame_bytes)
    }

    pub(super) fn limit(&self, limit: Limit) -> u64 {
        self.limits.get(&limit).copied().unwrap_or_else(|| default_limit(limit).unwrap_or(0))
    }

    /// By how much a limit has been raised over its default, which is part of the context's own size.
    fn raised_bytes(&self, limit: Limit) -> u64 {
        self.limit(limit).saturating_sub(default_limit(limit).unwrap_or(0))
    }
}

impl Driver {
    /// Grows `context` for the launch of a kernel, before it is submitted.
    ///
    /// # Errors
    /// `OutOfMemory` where the device has no room: nothing is taken then.
    pub(super) fn grow_for(&self, state: &mut State, context: u64, needs: Needs) -> Answer<()> {
        let found = state.contexts.get_mut(&context).ok_or(Fault::InvalidContext)?;
        let stacks = self.stacks(found.device());
        let mut after = found.growth;
        let mut bytes = if after.launched { 0 } else { FIRST_LAUNCH_BYTES };
        after.launched = true;
        let frame = needs.local_bytes.checked_next_multiple_of(FRAME_ALIGNMENT).ok_or(Fault::OutOfMemory)?;
        let more =
            frame.saturating_sub(found.thread_bytes()).checked_mul(stacks).ok_or(Fault::OutOfMemory)?;
        after.frame_bytes = after.frame_bytes.max(frame);
        bytes += more;
        if needs.heap && !std::mem::replace(&mut after.has_heap, true) {
            bytes += found.raised_bytes(MALLOC_HEAP_SIZE);
        }
        if needs.printf && !std::mem::replace(&mut after.has_fifo, true) {
            bytes += found.raised_bytes(PRINTF_FIFO_SIZE);
        }
        let device = found.device();
        if bytes > 0 {
            self.take_charged(state, device, Charge::Context, bytes)?;
        }
        if let Some(found) = state.contexts.get_mut(&context) {
            found.growth = after;
            found.charged_bytes += bytes;
        }
        Ok(())
    }

    /// Sets a limit of the current context. A larger stack takes its memory at once, for every thread that the device can
    /// run (from 1,024 to 16,384 bytes: 3,960 MiB on an H100), as far as no local frame has taken it before; a smaller one
    /// gives it back, which is assumed. The other limits take nothing now.
    ///
    /// # Errors
    /// `InvalidContext` without one; `InvalidValue` for a heap or a FIFO that a kernel has used already, as NVIDIA's manual
    /// says; `OutOfMemory` where the device has no room for the stacks.
    pub fn set_limit(&self, limit: Limit, value: u64) -> Answer<()> {
        self.in_context(|state, handle| {
            let found = state.contexts.get_mut(&handle).ok_or(Fault::InvalidContext)?;
            let is_used = match limit {
                MALLOC_HEAP_SIZE => found.growth.has_heap,
                PRINTF_FIFO_SIZE => found.growth.has_fifo,
                _ => false,
            };
            if is_used {
                return Err(Fault::InvalidValue);
            }
            let (device, before) = (found.device(), found.thread_bytes());
            let stacks = self.stacks(device);
            let after = if limit == STACK_SIZE { value.max(found.growth.frame_bytes) } else { before };
            let more = after.saturating_sub(before).checked_mul(stacks).ok_or(Fault::OutOfMemory)?;
            let less = before.saturating_sub(after) * stacks;
            self.take_charged(state, device, Charge::Context, more)?;
            self.gpu_of(device).give(Charge::Context, less);
            if let Some(found) = state.contexts.get_mut(&handle) {
                found.charged_bytes = found.charged_bytes + more - less;
                found.limits.insert(limit, value);
            }
            Ok(())
        })
    }

    /// The threads of a device of which each has a stack.
    fn stacks(&self, device: u32) -> u64 {
        u64::from(self.config.sms_of(self.gpu_of(device).machine_ordinal())) * SM_THREADS
    }

    /// A limit of the current context, as set or by default.
    ///
    /// # Errors
    /// `InvalidContext` without one.
    pub fn limit(&self, limit: Limit) -> Answer<u64> {
        self.in_context(|state, context| Ok(state.contexts[&context].limit(limit)))
    }
}
