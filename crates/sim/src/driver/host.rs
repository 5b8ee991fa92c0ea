//! Host memory that the driver knows: pinned by `cuMemHostAlloc`, or registered by the program.

use super::Driver;
use crate::error::{Answer, Fault};
use crate::memory::{Access, Backing};

/// A range of pinned host memory.
#[derive(Debug)]
pub(crate) struct HostRange {
    bytes: u64,
    flags: u32,
    /// The memory itself where the driver allocated it; `None` where the program registered its own.
    own: Option<Backing>,
}

/// What is known of a pinned host address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Where the range begins.
    pub base: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The flags it was pinned with.
    pub flags: u32,
}

impl HostRange {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Driver {
    /// Allocates pinned host memory.
    ///
    /// # Errors
    /// `InvalidContext`, `InvalidValue` for zero bytes, `OutOfMemory`.
    pub fn allocate_host(&self, bytes: u64, flags: u32) -> Answer<u64> {
        self.check_unsafe_call()?;
        self.in_context(|state, _| {
            if bytes == 0 {
                return Err(Fault::InvalidValue);
            }
            let backing = Backing::map(bytes.next_multiple_of(4096), Access::ReadWrite)?;
            let address = backing.address();
            state.host.insert(address, HostRange { bytes, flags, own: Some(backing) });
            Ok(address)
        })
    }

    /// Frees memory of [`Self::allocate_host`]. Waits for the device first.
    ///
    /// # Errors
    /// `InvalidValue` where none begins at `address`.
    pub fn free_host(&self, address: u64) -> Answer<()> {
        self.check_unsafe_call()?;
        self.wait_for_all()?;
        let mut state = self.state.lock();
        state.host.get(&address).filter(|h| h.own.is_some()).ok_or(Fault::InvalidValue)?;
        state.host.remove(&address);
        Ok(())
    }

    /// Pins the program's own memory.
    ///
    /// # Errors
    /// `InvalidValue` for nothing, `HostMemoryAlreadyRegistered` where part of it is pinned.
    pub fn register_host(&self, address: u64, bytes: u64, flags: u32) -> Answer<()> {
        self.in_context(|state, _| {
            let end = address
                .checked_add(bytes)
                .filter(|_| address != 0 && bytes != 0)
                .ok_or(Fault::InvalidValue)?;
            let before = state.host.range(..end).next_back();
            if before.is_some_and(|(start, range)| start + range.bytes > address) {
                return Err(Fault::HostMemoryAlreadyRegistered);
            }
            state.host.insert(address, HostRange { bytes, flags, own: None });
            Ok(())
        })
    }

    /// Ends a registration. Waits for the device first.
    ///
    /// # Errors
    /// `HostMemoryNotRegistered` where none begins at `address`.
    pub fn unregister_host(&self, address: u64) -> Answer<()> {
        self.wait_for_all()?;
        let mut state = self.state.lock();
        state.host.get(&address).filter(|h| h.own.is_none()).ok_or(Fault::HostMemoryNotRegistered)?;
        state.host.remove(&address);
        Ok(())
    }

    /// What is known of a host address.
    ///
    /// # Errors
    /// `InvalidValue` where it is not pinned.
    pub fn host(&self, address: u64) -> Answer<HostFacts> {
        let state = self.state.lock();
        let (&base, found) = state.host.range(..=address).next_back().ok_or(Fault::InvalidValue)?;
        if address - base >= found.bytes {
            return Err(Fault::InvalidValue);
        }
        Ok(HostFacts { base, bytes: found.bytes, flags: found.flags })
    }

    pub(super) fn wait_for_all(&self) -> Answer<()> {
        self.gpus.iter().try_for_each(crate::gpu::Gpu::wait_idle)
    }
}
