//! Waiting for the device.

use super::Gpu;
use crate::clock::now_ns;
use crate::engine::Engine;
use crate::error::Answer;
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;

/// A unit that ends within this time is awaited without sleep.
const SPIN_NS: u64 = 30_000;

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// All units that a stream holds now.
    Stream(u64),
    /// All units that the streams of a context hold now.
    Context(u64),
    /// All units that the blocking streams of a context, its legacy default stream among them, hold now.
    Blocking(u64),
    /// The newest record of an event.
    Event(u64),
    /// Every unit of the process.
    All,
}

impl Gpu {
    /// Whether what is asked for is done.
    ///
    /// # Errors
    /// The sticky error; `InvalidHandle` for an event that is none.
    pub fn is_done(&self, awaited: Awaited) -> Answer<bool> {
        let mut engine = self.engine.lock();
        self.pump_if_due(&mut engine);
        self.check_fault()?;
        Ok(Self::target(&engine, awaited)?.is_done(&engine))
    }

    /// Waits until what is asked for is done.
    ///
    /// # Errors
    /// The sticky error; `InvalidHandle` for an event that is none.
    pub fn wait(&self, awaited: Awaited) -> Answer<()> {
        let mut engine = self.engine.lock();
        self.pump_if_due(&mut engine);
        self.check_fault()?;
        let target = Self::target(&engine, awaited)?;
        while !target.is_done(&engine) {
            self.wait_for_progress(&mut engine);
            self.check_fault()?;
        }
        Ok(())
    }

    pub(crate) fn wait_idle(&self) -> Answer<()> {
        self.wait(Awaited::All)
    }

    /// Sleeps until some unit is done; the worker looks more often meanwhile.
    pub(super) fn wait_for_progress(&self, engine: &mut MutexGuard<'_, Engine>) {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        let finished = engine.finished();
        let soon = engine.next_end_ns().filter(|&end| end < now_ns() + SPIN_NS);
        if let Some(end_ns) = soon {
            // As the driver does by default: what ends so soon is awaited without sleep.
            MutexGuard::unlocked(engine, || while now_ns() < end_ns {});
        }
        if self.pump(engine) < self.sleeps_until_ns.load(Ordering::Acquire) {
            self.wake_worker();
        }
        if engine.finished() == finished && engine.fault().is_none() {
            // The timeout is for a process whose worker could not be made: then those who wait carry the work on.
            self.progress.wait_for(engine, std::time::Duration::from_millis(5));
        }
        self.waiters.fetch_sub(1, Ordering::AcqRel);
    }

    fn target(engine: &Engine, awaited: Awaited) -> Answer<Target> {
        Ok(match awaited {
            Awaited::Stream(stream) => Target::Ticket(stream, engine.last_ticket(stream)),
            Awaited::Context(context) => Target::Everything(engine.newest(), Some(context)),
            Awaited::Blocking(context) => Target::Blocking(engine.newest(), context),
            Awaited::Event(event) => Target::Record(event, engine.events.get(event)?.submitted),
            Awaited::All => Target::Everything(engine.newest(), None),
        })
    }
}

enum Target {
    Ticket(u64, u64),
    Everything(u64, Option<u64>),
    Blocking(u64, u64),
    Record(u64, u64),
}

impl Target {
    fn is_done(&self, engine: &Engine) -> bool {
        match *self {
            Self::Ticket(stream, ticket) => engine.is_done(stream, ticket),
            Self::Everything(ticket, context) => engine.all_done(ticket, context),
            Self::Blocking(ticket, context) => engine.blocking_done(ticket, context),
            // An event that was destroyed meanwhile is waited for no longer.
            Self::Record(event, generation) => {
                engine.events.get(event).map_or(true, |e| e.reached >= generation)
            }
        }
    }
}
