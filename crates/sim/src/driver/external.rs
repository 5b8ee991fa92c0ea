//! External memory: memory that another interface, or another process, exported as a file descriptor. It lives until the
//! import is destroyed and every buffer in it is freed. The descriptors that the model knows are those of exported physical
//! memory (`cuMemExportToShareableHandle`).

use super::allocate::Keeper;
use super::handle::{Kind, fresh};
use super::sharing::Name;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::Backing;
use crate::shared::Label;
use crate::units::{BLOCK, round_up};
use std::fs::File;
use std::sync::Arc;

/// One import.
#[derive(Debug, Clone)]
pub(crate) struct External {
    name: Name,
    backing: Arc<Backing>,
    is_destroyed: bool,
    buffers: u64,
}

impl Driver {
    /// Imports the memory behind a file descriptor, all of it, whatever number of bytes is declared: an H100 takes 2 MiB and 4 GiB
    /// for 256 MiB.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` where `file` is no exported memory, or nothing is declared (assumed); `InvalidDevice` where its device
    /// is not visible; `OutOfMemory`.
    pub fn import_external(&self, file: &File, declared_bytes: u64) -> Answer<u64> {
        let label = Label::read(file)?;
        if declared_bytes == 0 {
            return Err(Fault::InvalidValue);
        }
        let gpu = self.gpu_by_machine_ordinal(label.device)?;
        self.in_context(|state, _| {
            let backing = Arc::new(gpu.open_shared(label.id)?);
            let name = (gpu.ordinal(), label.id);
            let handle = fresh(Kind::External);
            let external = External { name, backing, is_destroyed: false, buffers: 0 };
            state.externals.insert(handle, external);
            Ok(handle)
        })
    }

    /// Maps `bytes` at `offset` of an import. The address is freed as plain memory is.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidHandle` where it is no import; `InvalidValue` beyond the memory's own end; `OutOfMemory` without addresses.
    pub fn map_external(&self, external: u64, offset: u64, bytes: u64) -> Answer<u64> {
        self.in_context(|state, context| {
            let found = state.externals.get(&external).filter(|e| !e.is_destroyed);
            let found = found.ok_or(Fault::InvalidHandle)?;
            let end = offset.checked_add(bytes).ok_or(Fault::InvalidValue)?;
            if bytes == 0 || end > found.backing.bytes() {
                return Err(Fault::InvalidValue);
            }
            let (device, backing) = (found.name.0, found.backing.clone());
            let length = round_up(bytes, BLOCK).ok_or(Fault::OutOfMemory)?;
            let address = state.space.reserve(length, BLOCK, 0)?;
            state.space.attach(address, bytes, device, backing, offset);
            state.note(address, bytes, context, device, Keeper::External(external));
            if let Some(found) = state.externals.get_mut(&external) {
                found.buffers += 1;
            }
            Ok(address)
        })
    }

    /// Destroys an import. Buffers that are mapped in it keep its memory.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn destroy_external(&self, external: u64) -> Answer<()> {
        self.in_context(|state, _| {
            let found = state.externals.get_mut(&external).filter(|e| !e.is_destroyed);
            found.ok_or(Fault::InvalidHandle)?.is_destroyed = true;
            self.end_external_if_unused(state, external);
            Ok(())
        })
    }

    /// A buffer, already forgotten, is gone.
    pub(super) fn end_external_buffer(&self, state: &mut State, external: u64, address: u64, bytes: u64) {
        state.space.detach(address);
        state.space.unreserve(address, bytes.next_multiple_of(BLOCK));
        if let Some(found) = state.externals.get_mut(&external) {
            found.buffers -= 1;
        }
        self.end_external_if_unused(state, external);
    }

    fn end_external_if_unused(&self, state: &mut State, external: u64) {
        let is_unused = |e: &External| e.is_destroyed && e.buffers == 0;
        if state.externals.get(&external).is_some_and(is_unused)
            && let Some(gone) = state.externals.remove(&external)
        {
            self.gpu_of(gone.name.0).close_shared(gone.name.1);
        }
    }
}
