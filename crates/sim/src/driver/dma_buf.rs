//! A range of device memory as a file descriptor for another driver. While a copy of it is open, the memory lives.

use super::allocate::Keeper;
use super::sharing::Name;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use std::fs::File;

/// The host's page.
const PAGE: u64 = 4096;

impl Driver {
    /// A descriptor that holds the memory behind `bytes` at `address`: one plain allocation, or one mapping of physical memory.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` for a range that is not of whole host pages, or not inside one of these; `NotSupported` for
    /// other memory; `OutOfMemory`; `OperatingSystem`.
    pub fn dma_buf(&self, address: u64, bytes: u64) -> Answer<File> {
        if bytes == 0 || !address.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) {
            return Err(Fault::InvalidValue);
        }
        let end = address.checked_add(bytes).ok_or(Fault::InvalidValue)?;
        let (device, id) = self.in_context(|state, _| match state.vmm.mapping_at(address) {
            Ok((start, mapping)) if end - start <= mapping.bytes => {
                let physical = state.vmm.mapped(&mapping).ok_or(Fault::InvalidValue)?;
                self.name_physical(state, mapping.handle, physical.device)
            }
            Ok(_) => Err(Fault::InvalidValue),
            Err(_) => self.name_plain(state, address, end),
        })?;
        self.gpu_of(device).give_out(id)
    }

    fn name_plain(&self, state: &mut State, address: u64, end: u64) -> Answer<Name> {
        let (&first, found) = state.allocations.range(..=address).next_back().ok_or(Fault::InvalidValue)?;
        let (bytes, device, keeper) = (found.bytes.next_multiple_of(PAGE), found.device, found.keeper);
        if end - first > bytes {
            return Err(Fault::InvalidValue);
        }
        if keeper != Keeper::Blocks {
            crate::log::once("cuMemGetHandleForAddressRange: neither plain nor mapped memory: NOT_SUPPORTED");
            return Err(Fault::NotSupported);
        }
        let (base, backing) = state.space.piece_at(first).ok_or(Fault::InvalidValue)?;
        self.export(state, base, device, &backing)
    }
}
