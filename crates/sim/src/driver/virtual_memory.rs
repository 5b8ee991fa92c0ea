//! Virtual memory management: the calls around [`crate::memory::vmm`].

use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::vmm::Physical;
use crate::memory::{Access, Backing};
use crate::shared::Charge;
use crate::units::BLOCK;
use std::sync::Arc;

impl Driver {
    /// Reserves device addresses, at `fixed` where that is free.
    ///
    /// # Errors
    /// `InvalidValue` where `bytes` is no multiple of 2 MiB or the alignment no power of two; `OutOfMemory`.
    pub fn reserve_addresses(&self, bytes: u64, alignment: u64, fixed: u64) -> Answer<u64> {
        if bytes == 0 || !bytes.is_multiple_of(BLOCK) || (alignment != 0 && !alignment.is_power_of_two()) {
            return Err(Fault::InvalidValue);
        }
        let mut state = self.state.lock();
        let address = state.space.reserve(bytes, alignment, fixed)?;
        state.vmm.reserve(address, bytes);
        Ok(address)
    }

    /// Gives a reserved range back.
    ///
    /// # Errors
    /// `InvalidValue` where it was not reserved in these very bounds, or is still mapped in part.
    pub fn unreserve_addresses(&self, address: u64, bytes: u64) -> Answer<()> {
        let mut state = self.state.lock();
        state.vmm.unreserve(address, bytes)?;
        state.space.unreserve(address, bytes);
        Ok(())
    }

    /// Makes physical memory on `device`.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` off the granularity of 2 MiB; `OutOfMemory`.
    pub fn create_physical(&self, bytes: u64, device: i32) -> Answer<u64> {
        let gpu = self.gpu(device)?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK) {
            return Err(Fault::InvalidValue);
        }
        gpu.join()?;
        let mut state = self.state.lock();
        self.end_reached_frees(&mut state, gpu.ordinal());
        self.take_bytes(&mut state, gpu.ordinal(), bytes)?;
        let Ok(backing) = Backing::map(bytes, Access::ReadWrite) else {
            gpu.give(Charge::Memory, bytes);
            return Err(Fault::OutOfMemory);
        };
        let handle = fresh(Kind::Physical);
        state.vmm.create(handle, bytes, gpu.ordinal())?;
        state.physical.insert(handle, Arc::new(backing));
        Ok(handle)
    }

    /// Releases one handle of physical memory.
    ///
    /// # Errors
    /// `InvalidValue` where it names nothing.
    pub fn release_physical(&self, handle: u64) -> Answer<()> {
        let mut state = self.state.lock();
        let physical = state.vmm.physical(handle)?;
        if state.vmm.release(handle)? {
            self.end_physical(&mut state, handle, &physical);
        }
        Ok(())
    }

    /// Physical memory, already forgotten, is gone.
    pub(super) fn end_physical(&self, state: &mut State, handle: u64, physical: &Physical) {
        if self.end_multicast(state, handle) {
            return;
        }
        state.physical.remove(&handle);
        state.tile_pools.remove(&handle);
        Self::release_bytes(self.gpu_of(physical.device), state, handle, physical.bytes);
    }

    /// Notes that the memory of `handle` was made for the tiles of arrays.
    pub fn allow_tiles(&self, handle: u64) {
        self.state.lock().tile_pools.insert(handle);
    }

    /// Maps physical memory, without access yet.
    ///
    /// # Errors
    /// `NotSupported` for another size than the memory's own; `InvalidValue` where the range is not reserved, or is mapped already.
    pub fn map(&self, address: u64, bytes: u64, offset: u64, handle: u64) -> Answer<()> {
        if offset != 0 {
            return Err(Fault::InvalidValue);
        }
        self.state.lock().vmm.map(address, bytes, handle).map(|_| ())
    }

    /// Ends mappings. Waits for the devices first.
    ///
    /// # Errors
    /// `InvalidValue` where whole mappings do not fill the range.
    pub fn unmap(&self, address: u64, bytes: u64) -> Answer<()> {
        for gpu in &self.gpus {
            gpu.wait_idle()?;
        }
        let mut state = self.state.lock();
        let (starts, gone) = state.vmm.unmap(address, bytes)?;
        for start in starts {
            state.space.detach(start);
        }
        for (handle, physical) in gone {
            self.end_physical(&mut state, handle, &physical);
        }
        Ok(())
    }

    /// Sets who may use a mapped range: 0 nobody, 1 read, 3 read and write.
    ///
    /// # Errors
    /// `InvalidValue` where whole mappings do not fill the range, or for another access.
    pub fn set_access(&self, address: u64, bytes: u64, access: u32) -> Answer<()> {
        if !matches!(access, 0 | 1 | 3) {
            return Err(Fault::InvalidValue);
        }
        let mut state = self.state.lock();
        for (start, mapping) in state.vmm.set_access(address, bytes, access)? {
            let Some(backing) = state.physical.get(&mapping.handle).cloned() else {
                crate::log::once("access to memory through a multicast object is not modelled");
                continue;
            };
            let Some(physical) = state.vmm.mapped(&mapping) else { continue };
            if access == 0 {
                state.space.detach(start);
            } else {
                state.space.attach(start, mapping.bytes, physical.device, backing, 0);
            }
        }
        Ok(())
    }

    /// Who may use the memory at `address`.
    ///
    /// # Errors
    /// `InvalidValue` where nothing is mapped there.
    pub fn access(&self, address: u64) -> Answer<u32> {
        Ok(self.state.lock().vmm.mapping_at(address)?.1.access)
    }

    /// One more handle for the memory that is mapped at `address`.
    ///
    /// # Errors
    /// `InvalidValue` where nothing is mapped there.
    pub fn retain_physical(&self, address: u64) -> Answer<u64> {
        self.state.lock().vmm.retain(address)
    }

    /// The device of physical memory.
    ///
    /// # Errors
    /// `InvalidValue` where `handle` names nothing.
    pub fn physical_device(&self, handle: u64) -> Answer<u32> {
        Ok(self.state.lock().vmm.physical(handle)?.device)
    }
}
