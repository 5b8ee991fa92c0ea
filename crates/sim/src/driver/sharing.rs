//! Memory of several processes: IPC of plain allocations, and export and import of physical memory by file descriptor.

use super::allocate::Keeper;
use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::gpu::Gpu;
use crate::memory::Backing;
use crate::shared::{Charge, Label};
use crate::units::BLOCK;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
pub const POSIX_DESCRIPTOR: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_FABRIC`.
pub const FABRIC: u32 = 8;

/// An object of a device: the device's number in this process, and the object's.
pub(super) type Name = (u32, u64);

/// What a process shares with others.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    /// Own memory that is an object, by its first address or its handle.
    exported: HashMap<u64, Name>,
    /// Physical memory of others, by its handle here.
    imported: HashMap<u64, Name>,
    /// Allocations of others that are open here.
    opened: HashMap<Name, Opened>,
    /// The handles whose memory may be exported, and as what: a set of [`POSIX_DESCRIPTOR`] and [`FABRIC`].
    exportable: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Opened {
    base: u64,
    bytes: u64,
    /// How often each allocation in it was opened, by address.
    users: HashMap<u64, u64>,
}

/// What names an allocation to other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpcName {
    /// The process that has it.
    pub process: u32,
    /// The machine's number of its device.
    pub device: u32,
    /// The object in which it lies.
    pub object: u64,
    /// Where it begins in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Sharing {
    /// Whether an allocation is open that begins at `offset` of an object.
    pub(super) fn is_open(&self, name: Name, offset: u64) -> bool {
        self.opened.get(&name).is_some_and(|opened| opened.users.contains_key(&(opened.base + offset)))
    }
}

impl Driver {
    /// Names the allocation that holds `address` to other processes.
    ///
    /// # Errors
    /// `InvalidValue` where it is no plain allocation of this process; `OutOfMemory`; `OperatingSystem`.
    pub fn ipc_name(&self, address: u64) -> Answer<IpcName> {
        self.in_context(|state, _| {
            let (&first, allocation) =
                state.allocations.range(..=address).next_back().ok_or(Fault::InvalidValue)?;
            let (bytes, device) = (allocation.bytes, allocation.device);
            if address - first >= bytes || allocation.keeper != Keeper::Blocks {
                return Err(Fault::InvalidValue);
            }
            let (base, backing) = state.space.piece_at(first).ok_or(Fault::InvalidValue)?;
            let (_, object) = self.export(state, base, device, &backing)?;
            let machine = self.gpu_of(device).machine_ordinal();
            Ok(IpcName { process: std::process::id(), device: machine, object, offset: first - base, bytes })
        })
    }

    /// Opens an allocation of another process in the current context; the same address as before, where it is open.
    ///
    /// # Errors
    /// `InvalidContext` in the process that has it, and without a context; `InvalidDevice` where its device is not visible;
    /// `InvalidValue` where it is gone.
    pub fn open_ipc(&self, name: IpcName) -> Answer<u64> {
        if name.process == std::process::id() {
            return Err(Fault::InvalidContext);
        }
        let gpu = self.gpu_by_machine_ordinal(name.device)?;
        self.in_context(|state, context| {
            let (object, place) = ((gpu.ordinal(), name.object), (name.offset, name.bytes));
            self.open_object(state, context, object, place, Keeper::Ipc(name.object))
        })
    }

    /// Opens what lies at an offset of an object, with so many bytes.
    pub(super) fn open_object(
        &self,
        state: &mut State,
        context: u64,
        name: Name,
        (offset, bytes): (u64, u64),
        keeper: Keeper,
    ) -> Answer<u64> {
        let gpu = self.gpu_of(name.0);
        if !state.sharing.opened.contains_key(&name) {
            let backing = gpu.open_shared(name.1)?;
            let bytes = backing.bytes();
            let base = state.space.reserve(bytes, BLOCK, 0).inspect_err(|_| gpu.close_shared(name.1))?;
            state.space.attach(base, bytes, gpu.ordinal(), Arc::new(backing), 0);
            state.sharing.opened.insert(name, Opened { base, bytes, users: HashMap::new() });
        }
        let opened = state.sharing.opened.get_mut(&name).ok_or(Fault::InvalidValue)?;
        let address = opened.base + offset;
        let users = opened.users.entry(address).or_default();
        *users += 1;
        if *users == 1 {
            state.note(address, bytes, context, gpu.ordinal(), keeper);
        }
        Ok(address)
    }

    /// Closes an allocation of another process. Waits for the device first.
    ///
    /// # Errors
    /// `InvalidValue` where none is open at `address`.
    pub fn close_ipc(&self, address: u64) -> Answer<()> {
        let allocation = self.in_context(|state, _| state.allocation(address))?;
        let Keeper::Ipc(object) = allocation.keeper else { return Err(Fault::InvalidValue) };
        self.gpu_of(allocation.device).wait_idle()?;
        let mut state = self.state.lock();
        let opened = state.sharing.opened.get_mut(&(allocation.device, object)).ok_or(Fault::InvalidValue)?;
        let users = opened.users.get_mut(&address).ok_or(Fault::InvalidValue)?;
        *users -= 1;
        if *users == 0 {
            state.allocations.remove(&address);
            self.end_ipc(&mut state, (allocation.device, object), address);
        }
        Ok(())
    }

    /// An opened allocation, already forgotten, has no user any more.
    pub(super) fn end_ipc(&self, state: &mut State, name: (u32, u64), address: u64) {
        let Some(opened) = state.sharing.opened.get_mut(&name) else { return };
        opened.users.remove(&address);
        if !opened.users.is_empty() {
            return;
        }
        let (base, bytes) = (opened.base, opened.bytes);
        state.sharing.opened.remove(&name);
        state.space.detach(base);
        state.space.unreserve(base, bytes);
        self.gpu_of(name.0).close_shared(name.1);
    }

    /// Physical memory as a file descriptor that other processes can import.
    ///
    /// # Errors
    /// `InvalidValue` where the handle names nothing or was not made to be exported; `OutOfMemory`; `OperatingSystem`.
    pub fn export_physical(&self, handle: u64) -> Answer<File> {
        let (device, label) = self.export_as(handle, POSIX_DESCRIPTOR)?;
        self.gpu_of(device).give_out(label.id)
    }

    /// What names physical memory to other processes without a descriptor. The name holds nothing: the memory lives as long as
    /// a process has a handle or a mapping of it.
    ///
    /// # Errors
    /// As [`Self::export_physical`].
    pub fn export_fabric(&self, handle: u64) -> Answer<Label> {
        Ok(self.export_as(handle, FABRIC)?.1)
    }

    fn export_as(&self, handle: u64, kind: u32) -> Answer<(u32, Label)> {
        let mut state = self.state.lock();
        let physical = state.vmm.physical(handle)?;
        if state.sharing.exportable.get(&handle).is_none_or(|kinds| kinds & kind == 0) {
            return Err(Fault::InvalidValue);
        }
        let (device, id) = self.name_physical(&mut state, handle, physical.device)?;
        let machine = self.gpu_of(device).machine_ordinal();
        Ok((device, Label { device: machine, id, bytes: physical.bytes }))
    }

    /// The object that physical memory is, made where it is none yet.
    pub(super) fn name_physical(&self, state: &mut State, handle: u64, device: u32) -> Answer<Name> {
        if let Some(name) = state.sharing.imported.get(&handle) {
            return Ok(*name);
        }
        let backing = state.physical.get(&handle).cloned().ok_or(Fault::InvalidValue)?;
        self.export(state, handle, device, &backing)
    }

    /// Imports physical memory; one more handle where the process has it already.
    ///
    /// # Errors
    /// `InvalidValue` where `file` is no exported memory; `InvalidDevice` where its device is not visible; `OutOfMemory`.
    pub fn import_physical(&self, file: &File) -> Answer<u64> {
        self.import_as(Label::read(file)?, POSIX_DESCRIPTOR)
    }

    /// Imports physical memory by the name that [`Self::export_fabric`] gave.
    ///
    /// # Errors
    /// As [`Self::import_physical`].
    pub fn import_fabric(&self, label: Label) -> Answer<u64> {
        self.import_as(label, FABRIC)
    }

    fn import_as(&self, label: Label, kind: u32) -> Answer<u64> {
        let gpu = self.gpu_by_machine_ordinal(label.device)?;
        let name = (gpu.ordinal(), label.id);
        let mut state = self.state.lock();
        let mut all = state.sharing.exported.iter().chain(&state.sharing.imported);
        let known = all.find(|(_, known)| **known == name).map(|(&handle, _)| handle);
        if let Some(handle) = known {
            return state.vmm.retain_handle(handle);
        }
        let backing = gpu.open_shared(label.id)?;
        let handle = fresh(Kind::Physical);
        state.vmm.create(handle, backing.bytes(), gpu.ordinal())?;
        state.sharing.exportable.insert(handle, kind);
        state.physical.insert(handle, Arc::new(backing));
        state.sharing.imported.insert(handle, name);
        Ok(handle)
    }

    /// Notes as what the memory of `handle` may be exported.
    pub fn allow_export(&self, handle: u64, kinds: u32) {
        self.state.lock().sharing.exportable.insert(handle, kinds);
    }

    /// As what the memory of `handle` may be exported; 0 where it may not.
    #[must_use]
    pub fn exportable_as(&self, handle: u64) -> u32 {
        self.state.lock().sharing.exportable.get(&handle).copied().unwrap_or(0)
    }

    /// Physical memory, named by its first address or its handle, is gone from this process.
    pub(super) fn release_bytes(gpu: &Gpu, state: &mut State, key: u64, bytes: u64) {
        state.sharing.exportable.remove(&key);
        if let Some((_, id)) = state.sharing.imported.remove(&key) {
            gpu.close_shared(id);
        } else if let Some((_, id)) = state.sharing.exported.remove(&key) {
            gpu.disown(id, bytes);
        } else {
            gpu.give(Charge::Memory, bytes);
        }
    }

    pub(super) fn export(&self, state: &mut State, key: u64, device: u32, backing: &Backing) -> Answer<Name> {
        if let Some(name) = state.sharing.exported.get(&key) {
            return Ok(*name);
        }
        let name = (device, self.gpu_of(device).share(backing)?);
        state.sharing.exported.insert(key, name);
        Ok(name)
    }

    pub(super) fn gpu_by_machine_ordinal(&self, machine: u32) -> Answer<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.machine_ordinal() == machine).ok_or(Fault::InvalidDevice)
    }
}
