//! Events.

use super::Driver;
use super::event_sharing::Shared;
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use crate::engine::Work;
use crate::error::{Answer, Fault};
use crate::gpu::Awaited;

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;
/// `CU_EVENT_INTERPROCESS`.
const INTERPROCESS: u32 = 4;
/// What a timing event takes of the device, measured on an H100: it adds about 1.9 µs between kernels.
const TIMING_COST_NS: u64 = 1_900;

/// An event that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventRef {
    pub(super) device: u32,
    pub(super) context: u64,
    pub(super) has_timing: bool,
    pub(super) shared: Option<Shared>,
}

impl Driver {
    /// Makes an event in the current context.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` for unknown flags, and for one with timing to share with other processes; `OutOfMemory`
    /// where there are too many of those.
    pub fn create_event(&self, flags: u32) -> Answer<u64> {
        if flags > 7 {
            return Err(Fault::InvalidValue);
        }
        let is_shared = flags & INTERPROCESS != 0;
        if is_shared && flags & DISABLE_TIMING == 0 {
            return Err(Fault::InvalidValue);
        }
        self.in_context(|state, context| {
            let device = state.contexts[&context].device();
            let has_timing = flags & DISABLE_TIMING == 0;
            let gpu = self.gpu_of(device);
            let shared = if is_shared { Some(Shared { id: gpu.share_event()?, is_own: true }) } else { None };
            let event = fresh(Kind::Event);
            gpu.with_engine(|engine| engine.events.add(event, has_timing));
            state.events.insert(event, EventRef { device, context, has_timing, shared });
            Ok(event)
        })
    }

    /// Destroys an event, whether it is reached or not.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn destroy_event(&self, event: u64) -> Answer<()> {
        let found = self.state.lock().events.remove(&event).ok_or(Fault::InvalidHandle)?;
        self.end_event(found);
        self.gpu_of(found.device).with_engine(|engine| engine.events.remove(event))
    }

    /// Records an event in a stream.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none, or of another context; the sticky error.
    pub fn record_event(&self, event: u64, stream: StreamRef) -> Answer<()> {
        let found = self.event(event)?;
        if found.context != stream.context {
            return Err(Fault::InvalidHandle);
        }
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        if self.capture_record(event, stream)? {
            return Ok(());
        }
        if let Some(shared) = found.shared {
            return self.record_shared(found, shared, stream);
        }
        let cost_ns = if found.has_timing { TIMING_COST_NS } else { 0 };
        let generation = gpu.with_engine(|engine| engine.events.submit(event))?;
        gpu.submit(stream.id, Work::Record { event, generation, cost_ns });
        Ok(())
    }

    /// Holds a stream until the newest record of an event is reached.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none; the sticky error.
    pub fn wait_event(&self, stream: StreamRef, event: u64) -> Answer<()> {
        let found = self.event(event)?;
        let gpu = self.gpu_of(found.device);
        let is_recorded = match found.shared {
            Some(shared) => gpu.shared_event(shared.id)?.is_recorded(),
            None => gpu.with_engine(|engine| engine.events.get(event))?.submitted > 0,
        };
        if self.capture_wait(stream, event, is_recorded)? {
            return Ok(());
        }
        if let Some(shared) = found.shared {
            return self.wait_shared(found, shared, stream);
        }
        if found.device != stream.device {
            // Between devices the model lets the host wait: devices have engines of their own.
            return self.gpu_of(found.device).wait(Awaited::Event(event));
        }
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        let generation = gpu.with_engine(|engine| engine.events.get(event))?.submitted;
        gpu.submit(stream.id, Work::WaitEvent { event, generation });
        Ok(())
    }

    /// Whether an event is reached.
    ///
    /// # Errors
    /// `NotReady` where it is not; `InvalidHandle`; the sticky error.
    pub fn query_event(&self, event: u64) -> Answer<()> {
        let found = self.event(event)?;
        self.check_unsafe_call()?;
        self.check_not_captured(event)?;
        let done = match found.shared {
            Some(shared) => self.is_shared_done(found, shared)?,
            None => self.gpu_of(found.device).is_done(Awaited::Event(event))?,
        };
        if done { Ok(()) } else { Err(Fault::NotReady) }
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// `InvalidHandle`; the sticky error.
    pub fn synchronize_event(&self, event: u64) -> Answer<()> {
        let found = self.event(event)?;
        self.check_unsafe_call()?;
        self.check_not_captured(event)?;
        match found.shared {
            Some(shared) => self.synchronize_shared(found, shared)?,
            None => self.gpu_of(found.device).wait(Awaited::Event(event))?,
        }
        self.trim_after_synchronize(found.device);
        Ok(())
    }

    /// The device time between two events, in milliseconds.
    ///
    /// # Errors
    /// `InvalidHandle` for events that were not recorded, have no timing, or are of different contexts; `NotReady`.
    pub fn elapsed_ms(&self, start: u64, end: u64) -> Answer<f32> {
        let (first, second) = (self.event(start)?, self.event(end)?);
        if first.context != second.context {
            return Err(Fault::InvalidHandle);
        }
        let gpu = self.gpu_of(first.device);
        gpu.check_fault()?;
        let elapsed_ns = gpu.with_engine(|engine| engine.events.elapsed_ns(start, end))?;
        // CUDA's own answer is a float of milliseconds.
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "the interface is a float"
        )]
        Ok((elapsed_ns as f64 / 1e6) as f32)
    }

    pub(super) fn event(&self, event: u64) -> Answer<EventRef> {
        self.state.lock().events.get(&event).copied().ok_or(Fault::InvalidHandle)
    }
}
