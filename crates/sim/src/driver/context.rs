//! Contexts, and what they take of the device: `CUOTA_SIM_CONTEXT_MIB` at once, 20 MiB at the first launch, 2 MiB a module, and
//! what many streams and launchable graphs take.

use super::green::GREEN_BYTES;
use super::growth::Growth;
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use super::sundries::Sundries;
use super::{Driver, State};
use crate::engine::Order;
use crate::error::{Answer, Fault};
use crate::gpu::Awaited;
use crate::memory::blocks::Blocks;
use crate::shared::Charge;
use crate::units::MIB;
use std::collections::BTreeMap;

/// What the first launch adds to a context.
pub(super) const FIRST_LAUNCH_BYTES: u64 = 20 * MIB;
/// What a loaded module takes.
pub(super) const MODULE_BYTES: u64 = 2 * MIB;

/// A limit of a context, as `CUlimit` numbers it.
pub type Limit = u32;

/// Who made a context, and so who may destroy it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The program.
    Ordinary,
    /// The driver, one for a device.
    Primary,
    /// The program, beside the primary one.
    Green,
}

/// One context.
pub(crate) struct Context {
    device: u32,
    flags: u32,
    class: Class,
    /// Its maker and those who attached themselves.
    attached: u64,
    pub(super) blocks: Blocks,
    pub(super) arrays: Blocks,
    pub(super) charged_bytes: u64,
    pub(super) growth: Growth,
    pub(super) sundries: Sundries,
    pub(super) limits: BTreeMap<Limit, u64>,
    pub(super) legacy: StreamRef,
}

impl Context {
    pub(super) fn device(&self) -> u32 {
        self.device
    }
}

/// A device's primary context.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Primary {
    context: u64,
    users: u64,
    flags: u32,
}

/// What can be asked of a context.
#[derive(Debug, Clone, Copy)]
pub struct ContextFacts {
    /// The device.
    pub device: u32,
    /// The flags it was made with.
    pub flags: u32,
}

impl Driver {
    /// Makes a context on `device` and makes it current.
    ///
    /// # Errors
    /// `InvalidDevice`; `OutOfMemory` where the device has no room for a context.
    pub fn create_context(&self, device: i32, flags: u32) -> Answer<u64> {
        let context = self.new_context(&mut self.state.lock(), device, flags, Class::Ordinary)?;
        self.push_current(context)?;
        Ok(context)
    }

    /// Destroys a context with all that it holds.
    ///
    /// # Errors
    /// `InvalidContext` where it is none, or a primary or a green one.
    pub fn destroy_context(&self, context: u64) -> Answer<()> {
        let device = {
            let state = self.state.lock();
            let is_ordinary = |c: &&Context| c.class == Class::Ordinary;
            state.contexts.get(&context).filter(is_ordinary).ok_or(Fault::InvalidContext)?.device
        };
        self.end_waited(device, context);
        Ok(())
    }

    /// One more who uses the current context. Gives it.
    ///
    /// # Errors
    /// `InvalidContext` where none is current.
    pub fn attach_context(&self) -> Answer<u64> {
        self.in_context(|state, context| {
            if let Some(found) = state.contexts.get_mut(&context) {
                found.attached += 1;
            }
            Ok(context)
        })
    }

    /// One less who uses a context; the last one destroys it.
    ///
    /// # Errors
    /// `InvalidContext` where it is not the current one (NVIDIA's manual asks for that), or where the last one leaves a primary or a
    /// green one.
    pub fn detach_context(&self, context: u64) -> Answer<()> {
        if context == 0 || context != self.current() {
            return Err(Fault::InvalidContext);
        }
        let is_last = {
            let mut state = self.state.lock();
            let found = state.contexts.get_mut(&context).ok_or(Fault::InvalidContext)?;
            let is_last = found.attached == 1;
            if !is_last {
                found.attached -= 1;
            }
            is_last
        };
        if is_last { self.destroy_context(context) } else { Ok(()) }
    }

    /// Destroys a context when its work is done.
    pub(super) fn end_waited(&self, device: u32, context: u64) {
        // A context that a fault has ended has nothing to wait for.
        let _ = self.gpu_of(device).wait(Awaited::Context(context));
        let mut state = self.state.lock();
        self.end_context(&mut state, context);
        Self::forget_current(context);
    }

    /// One more user of the primary context of `device`; made where there is none.
    ///
    /// # Errors
    /// As [`Self::create_context`].
    pub fn retain_primary(&self, device: i32) -> Answer<u64> {
        let ordinal = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        let mut primary = state.primaries.get(&ordinal).copied().unwrap_or_default();
        if primary.users == 0 {
            primary.context = self.new_context(&mut state, device, primary.flags, Class::Primary)?;
        }
        primary.users += 1;
        state.primaries.insert(ordinal, primary);
        Ok(primary.context)
    }

    /// One user less; the last one destroys the primary context.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidContext` where it has no user.
    pub fn release_primary(&self, device: i32) -> Answer<()> {
        let ordinal = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        let primary =
            state.primaries.get_mut(&ordinal).filter(|p| p.users > 0).ok_or(Fault::InvalidContext)?;
        primary.users -= 1;
        let (users, context) = (primary.users, primary.context);
        if users == 0 {
            self.end_context(&mut state, context);
        }
        Ok(())
    }

    /// Destroys the primary context of `device` whoever uses it.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn reset_primary(&self, device: i32) -> Answer<()> {
        let ordinal = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        if let Some(primary) = state.primaries.get_mut(&ordinal).filter(|p| p.users > 0) {
            primary.users = 0;
            let context = primary.context;
            self.end_context(&mut state, context);
        }
        Ok(())
    }

    /// The flags of the primary context of `device`, and whether it lives.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn primary_state(&self, device: i32) -> Answer<(u32, bool)> {
        let ordinal = self.gpu(device)?.ordinal();
        let primary = self.state.lock().primaries.get(&ordinal).copied().unwrap_or_default();
        Ok((primary.flags, primary.users > 0))
    }

    /// Sets the flags of the primary context of `device`, for now and for when it is made.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn set_primary_flags(&self, device: i32, flags: u32) -> Answer<()> {
        let ordinal = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        let primary = state.primaries.entry(ordinal).or_default();
        primary.flags = flags;
        let context = primary.context;
        if let Some(context) = state.contexts.get_mut(&context) {
            context.flags = flags;
        }
        Ok(())
    }

    /// What is known of `context`; 0 asks for the current one.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn context_facts(&self, context: u64) -> Answer<ContextFacts> {
        let asked = if context == 0 { self.current() } else { context };
        let state = self.state.lock();
        let found = state.contexts.get(&asked).ok_or(Fault::InvalidContext)?;
        Ok(ContextFacts { device: found.device, flags: found.flags })
    }

    pub(super) fn new_context(
        &self,
        state: &mut State,
        device: i32,
        flags: u32,
        class: Class,
    ) -> Answer<u64> {
        let gpu = self.gpu(device)?;
        gpu.join()?;
        let charged_bytes = if class == Class::Green { GREEN_BYTES } else { self.config.context_bytes };
        gpu.take(Charge::Context, charged_bytes)?;
        let handle = fresh(Kind::Context);
        let device = gpu.ordinal();
        Self::get()?.gpu_of(device).start();
        let context = Context {
            device,
            flags,
            class,
            attached: 1,
            blocks: Blocks::default(),
            arrays: Blocks::default(),
            charged_bytes,
            // A green context shares what the primary one has grown to.
            growth: Growth::begun(class == Class::Green),
            sundries: Sundries::default(),
            limits: BTreeMap::new(),
            legacy: self.new_stream(fresh(Kind::Stream), device, handle, Order::Legacy, 0, 0),
        };
        state.contexts.insert(handle, context);
        Ok(handle)
    }

    fn end_context(&self, state: &mut State, handle: u64) {
        let Some(gpu) = state.contexts.get(&handle).map(|c| self.gpu_of(c.device)) else { return };
        Self::end_streams(gpu, state, handle);
        for (_, event) in state.events.extract_if(|_, e| e.context == handle) {
            self.end_event(event);
        }
        self.end_modules_of(state, handle);
        self.free_all_of(state, handle);
        self.end_arrays_of(state, handle);
        if let Some(context) = state.contexts.remove(&handle) {
            gpu.give(Charge::Context, context.charged_bytes);
            if state.contexts.values().all(|c| c.device != context.device) {
                gpu.clear_fault();
                self.end_graph_memory(state, context.device);
            }
        }
    }
}
