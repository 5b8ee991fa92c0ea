//! Events of several processes: the engines of all of them raise and read words in the device's shared file.

use super::Driver;
use super::event::EventRef;
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use crate::engine::{Comparison, Effect, Lane, Word, Work};
use crate::error::{Answer, Fault};
use crate::gpu::Awaited;
use std::time::Duration;

/// How often the host looks at an event that another process may reach.
const POLL: Duration = Duration::from_micros(50);

/// An event that several processes have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pub(super) id: u64,
    /// Whether this process made it.
    pub(super) is_own: bool,
}

/// What names an event to other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpcEvent {
    /// The process that made it.
    pub process: u32,
    /// The machine's number of its device.
    pub device: u32,
    /// Its number there.
    pub id: u64,
}

impl Driver {
    /// Names an event to other processes.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none, or was not made for that by this process.
    pub fn ipc_event(&self, event: u64) -> Answer<IpcEvent> {
        let found = self.event(event)?;
        let shared = found.shared.filter(|s| s.is_own).ok_or(Fault::InvalidHandle)?;
        let device = self.gpu_of(found.device).machine_ordinal();
        Ok(IpcEvent { process: std::process::id(), device, id: shared.id })
    }

    /// Opens an event of another process in the current context, as one without timing.
    ///
    /// # Errors
    /// `InvalidContext` in the process that made it, and without a context; `InvalidDevice` where its device is not visible;
    /// `InvalidValue` where it is gone.
    pub fn open_event(&self, name: IpcEvent) -> Answer<u64> {
        if name.process == std::process::id() {
            return Err(Fault::InvalidContext);
        }
        let gpu = self.gpu_by_machine_ordinal(name.device)?;
        self.in_context(|state, context| {
            gpu.shared_event(name.id).map_err(|_| Fault::InvalidValue)?;
            let event = fresh(Kind::Event);
            gpu.with_engine(|engine| engine.events.add(event, false));
            let shared = Some(Shared { id: name.id, is_own: false });
            let found = EventRef { device: gpu.ordinal(), context, has_timing: false, shared };
            state.events.insert(event, found);
            Ok(event)
        })
    }

    pub(super) fn record_shared(&self, found: EventRef, shared: Shared, stream: StreamRef) -> Answer<()> {
        let gpu = self.gpu_of(found.device);
        let event = gpu.shared_event(shared.id)?;
        let effect = Effect::Raise { host: event.reached_word(), value: event.submit() };
        gpu.submit(stream.id, Work::Timed { cost_ns: 0, lane: Lane::Free, effect, faults: false });
        Ok(())
    }

    pub(super) fn wait_shared(&self, found: EventRef, shared: Shared, stream: StreamRef) -> Answer<()> {
        let event = self.gpu_of(found.device).shared_event(shared.id)?;
        let word = Word { host: event.reached_word(), is_wide: true };
        let (wanted, comparison) = (event.submitted(), Comparison::AtLeast);
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        gpu.submit(stream.id, Work::WaitValue { word, wanted, comparison });
        Ok(())
    }

    /// Whether the newest record of an event, by whichever process, is reached.
    pub(super) fn is_shared_done(&self, found: EventRef, shared: Shared) -> Answer<bool> {
        let gpu = self.gpu_of(found.device);
        // Brings this process's own records up to now.
        gpu.is_done(Awaited::All)?;
        let event = gpu.shared_event(shared.id)?;
        Ok(event.is_reached(event.submitted()))
    }

    pub(super) fn synchronize_shared(&self, found: EventRef, shared: Shared) -> Answer<()> {
        let gpu = self.gpu_of(found.device);
        let event = gpu.shared_event(shared.id)?;
        let record = event.submitted();
        while !event.is_reached(record) {
            gpu.is_done(Awaited::All)?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// An event, already forgotten, is gone.
    pub(super) fn end_event(&self, gone: EventRef) {
        if let Some(shared) = gone.shared.filter(|s| s.is_own) {
            self.gpu_of(gone.device).end_shared_event(shared.id);
        }
    }
}
