//! One device as one process sees it.

use crate::config::Config;
use crate::error::{Answer, Fault};
use crate::memory::pool::Point;
use crate::shared::{Charge, SharedDevice};
use std::sync::OnceLock;

/// The multiprocessors of a device: an H100's.
pub const SMS: u32 = 132;

/// One device.
pub struct Gpu {
    ordinal: u32,
    shared: SharedDevice,
    slot: OnceLock<Answer<usize>>,
}

impl Gpu {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// `OperatingSystem` where its shared files cannot be used.
    pub fn open(config: &Config, ordinal: u32) -> Answer<Self> {
        Ok(Self { ordinal, shared: SharedDevice::open(config, ordinal)?, slot: OnceLock::new() })
    }

    /// Its number.
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

    pub(crate) fn check_fault(&self) -> Answer<()> {
        Ok(())
    }

    pub(crate) fn wait_idle(&self) -> Answer<()> {
        Ok(())
    }

    pub(crate) fn is_reached(&self, _point: Point) -> bool {
        true
    }

    pub(crate) fn last_ticket(&self, _stream: u64) -> u64 {
        0
    }
}
