//! One device as one process sees it: its share of the device's memory, and its work, which a thread of the process carries
//! on. The thread sleeps; time passes by itself.

pub(crate) mod host_calls;
mod pump;
mod sharing;
mod wait;
mod worker;
mod world;

pub use wait::Awaited;
pub use world::CARRIED;

use crate::config::Config;
use crate::engine::{Engine, HostCall};
use crate::error::{Answer, Fault};
use crate::memory::pool::Point;
use crate::shared::{Charge, SharedDevice};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::mpsc::Sender;

/// One device.
pub struct Gpu {
    ordinal: u32,
    machine_ordinal: u32,
    shared: SharedDevice,
    slot: OnceLock<Answer<usize>>,
    engine: Mutex<Engine>,
    /// Signalled when units were done while somebody waits.
    progress: Condvar,
    waiters: AtomicU32,
    /// Until when the worker sleeps; `u64::MAX`: until it is woken.
    sleeps_until_ns: AtomicU64,
    /// The `CUresult` that every call gives after a fault; 0 for none.
    fault: AtomicU32,
    host_calls: OnceLock<Sender<(u64, HostCall)>>,
    /// How often each object of the device is open here.
    opened: Mutex<BTreeMap<u64, u64>>,
}

impl Gpu {
    /// Opens the machine's device `machine_ordinal` as the process's device `ordinal`.
    ///
    /// # Errors
    /// `OperatingSystem` where its shared files cannot be used.
    pub fn open(config: &Config, ordinal: u32, machine_ordinal: u32) -> Answer<Self> {
        Ok(Self {
            ordinal,
            machine_ordinal,
            shared: SharedDevice::open(config, machine_ordinal)?,
            slot: OnceLock::new(),
            engine: Mutex::new(Engine::default()),
            progress: Condvar::new(),
            waiters: AtomicU32::new(0),
            sleeps_until_ns: AtomicU64::new(u64::MAX),
            fault: AtomicU32::new(0),
            host_calls: OnceLock::new(),
            opened: Mutex::new(BTreeMap::new()),
        })
    }

    /// Its number in the machine, of which its UUID and its PCI address speak.
    #[must_use]
    pub fn machine_ordinal(&self) -> u32 {
        self.machine_ordinal
    }

    /// Its number in this process.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Takes a slot on the device for this process, once.
    ///
    /// # Errors
    /// `OutOfMemory` where too many processes use it.
    pub fn join(&self) -> Answer<usize> {
        *self.slot.get_or_init(|| self.shared.join())
    }

    /// Free and total memory in bytes.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        self.shared.with(|d| {
            d.reap();
            (d.ledger.free_bytes(), d.ledger.memory_bytes())
        })
    }

    /// Takes `bytes` of the device.
    ///
    /// # Errors
    /// `OutOfMemory` where it has no room, the dead processes' memory counted as free.
    pub fn take(&self, charge: Charge, bytes: u64) -> Answer<()> {
        let slot = self.join()?;
        let taken = self
            .shared
            .with(|d| d.ledger.take(slot, charge, bytes) || d.reap().ledger.take(slot, charge, bytes));
        if taken { Ok(()) } else { Err(Fault::OutOfMemory) }
    }

    /// Gives `bytes` back.
    pub fn give(&self, charge: Charge, bytes: u64) {
        if let Ok(slot) = self.join() {
            self.shared.with(|d| d.ledger.give(slot, charge, bytes));
        }
    }

    /// Runs `work` on the engine, brought up to now where something was due.
    pub fn with_engine<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.engine.lock();
        self.pump_if_due(&mut engine);
        work(&mut engine)
    }

    pub(crate) fn is_reached(&self, point: Point) -> bool {
        self.with_engine(|engine| engine.is_done(point.stream, point.ticket))
    }

    pub(crate) fn last_ticket(&self, stream: u64) -> u64 {
        self.with_engine(|engine| engine.last_ticket(stream))
    }
}
