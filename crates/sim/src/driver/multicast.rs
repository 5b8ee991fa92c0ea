//! Multicast objects: a handle like one of physical memory, without memory of its own. What is bound to it lives until it is
//! unbound, or until the object's last handle and mapping are gone. Nothing can be written through a mapping of one.

use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::vmm::Physical;
use crate::units::BLOCK;

/// One object.
#[derive(Debug, Clone)]
pub(crate) struct Multicast {
    bytes: u64,
    /// How many devices it wants.
    size: u32,
    devices: Vec<u32>,
    bound: Vec<Bound>,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    device: u32,
    offset: u64,
    bytes: u64,
    handle: u64,
}

/// What is bound, and where.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// The object.
    pub multicast: u64,
    /// The device for which it is bound; `None` for the memory's own.
    pub device: Option<i32>,
    /// Where it begins in the object, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub bytes: u64,
}

impl Driver {
    /// Makes an object of `bytes` for `devices` devices.
    ///
    /// # Errors
    /// `InvalidValue` off the granularity of 2 MiB, or for more devices than there are.
    pub fn create_multicast(&self, bytes: u64, devices: u32) -> Answer<u64> {
        if devices == 0 || devices as usize > self.gpus.len() {
            return Err(Fault::InvalidValue);
        }
        let mut state = self.state.lock();
        let handle = fresh(Kind::Multicast);
        state.vmm.create(handle, bytes, 0)?;
        let made = Multicast { bytes, size: devices, devices: Vec::new(), bound: Vec::new() };
        state.multicasts.insert(handle, made);
        Ok(handle)
    }

    /// Adds a device to an object's team.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` where the object is none, its team is complete, or the device is in it.
    pub fn add_multicast_device(&self, multicast: u64, device: i32) -> Answer<()> {
        let device = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        let found = state.multicasts.get_mut(&multicast).ok_or(Fault::InvalidValue)?;
        if found.devices.len() >= found.size as usize || found.devices.contains(&device) {
            return Err(Fault::InvalidValue);
        }
        found.devices.push(device);
        Ok(())
    }

    /// Binds physical memory from `from` on, by its handle.
    ///
    /// # Errors
    /// `InvalidValue` where the object or the handle is none, the team is not complete or without the memory's device, or a
    /// range is off the granularity, too long, or bound already.
    pub fn bind_multicast(&self, binding: Binding, handle: u64, from: u64) -> Answer<()> {
        self.bind(&mut self.state.lock(), binding, handle, from)
    }

    /// Binds the memory that is mapped at `address`.
    ///
    /// # Errors
    /// As [`Self::bind_multicast`]; `InvalidValue` where no physical memory is mapped there.
    pub fn bind_multicast_address(&self, binding: Binding, address: u64) -> Answer<()> {
        let mut state = self.state.lock();
        let (start, mapping) = state.vmm.mapping_at(address)?;
        self.bind(&mut state, binding, mapping.handle, address - start)
    }

    /// Ends the bindings of a device that lie in a range.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` where none does.
    pub fn unbind_multicast(&self, multicast: u64, device: i32, offset: u64, bytes: u64) -> Answer<()> {
        let device = self.gpu(device)?.ordinal();
        let end = offset.checked_add(bytes).ok_or(Fault::InvalidValue)?;
        let mut state = self.state.lock();
        let found = state.multicasts.get_mut(&multicast).ok_or(Fault::InvalidValue)?;
        let is_inside = |b: &Bound| b.device == device && b.offset >= offset && b.offset + b.bytes <= end;
        let (gone, kept) = std::mem::take(&mut found.bound).into_iter().partition(is_inside);
        found.bound = kept;
        let gone: Vec<Bound> = gone;
        if gone.is_empty() {
            return Err(Fault::InvalidValue);
        }
        gone.into_iter().for_each(|bound| self.let_go(&mut state, bound.handle));
        Ok(())
    }

    /// The last handle and mapping of an object are gone. False where `handle` is none.
    pub(super) fn end_multicast(&self, state: &mut State, handle: u64) -> bool {
        let Some(gone) = state.multicasts.remove(&handle) else { return false };
        gone.bound.into_iter().for_each(|bound| self.let_go(state, bound.handle));
        true
    }

    fn bind(&self, state: &mut State, binding: Binding, handle: u64, from: u64) -> Answer<()> {
        let device = binding.device.map(|device| self.gpu(device)).transpose()?.map(|gpu| gpu.ordinal());
        let memory = state.physical_of(handle)?;
        let found = state.multicasts.get(&binding.multicast).ok_or(Fault::InvalidValue)?;
        let Binding { offset, bytes, .. } = binding;
        let is_whole = [offset, bytes, from].iter().all(|n| n.is_multiple_of(BLOCK)) && bytes > 0;
        let fits = |start: u64, length: u64| start.checked_add(bytes).is_some_and(|end| end <= length);
        let device = device.unwrap_or(memory.device);
        let is_complete = found.devices.len() == found.size as usize;
        let is_known = device == memory.device && found.devices.contains(&device) && is_complete;
        let is_taken =
            |b: &Bound| b.device == device && offset < b.offset + b.bytes && b.offset < offset + bytes;
        if !is_whole || !fits(offset, found.bytes) || !fits(from, memory.bytes) || !is_known {
            return Err(Fault::InvalidValue);
        }
        if found.bound.iter().any(is_taken) {
            return Err(Fault::InvalidValue);
        }
        state.vmm.hold(handle)?;
        if let Some(found) = state.multicasts.get_mut(&binding.multicast) {
            found.bound.push(Bound { device, offset, bytes, handle });
        }
        Ok(())
    }
}

impl State {
    /// Physical memory that lives, by a handle that may be released; no multicast object.
    fn physical_of(&self, handle: u64) -> Answer<Physical> {
        let found = self.vmm.find(handle).filter(|_| !self.multicasts.contains_key(&handle));
        found.ok_or(Fault::InvalidValue)
    }
}
