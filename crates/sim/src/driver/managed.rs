//! Managed memory: the host's until the device touches it. NVML counts it for no process; the device loses 128 MiB at the
//! first touch (4 MiB were touched on an H100), and as much again, which is assumed, when what it touched no longer fits.
//! Where the device is full, the memory stays the host's.

use super::allocate::Keeper;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::{Access, Backing};
use crate::shared::Charge;
use crate::units::{BLOCK, MIB, round_up};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What the device loses at a time.
const CHUNK: u64 = 128 * MIB;

/// The managed memory on the devices of a process.
#[derive(Debug, Default)]
pub(crate) struct Managed {
    on_device: HashMap<u32, Resident>,
}

#[derive(Debug, Default)]
struct Resident {
    blocks: BTreeSet<u64>,
    charged_bytes: u64,
}

impl Driver {
    /// Allocates managed memory: the host and the device use it at the same address. Takes nothing of the device yet.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn allocate_managed(&self, bytes: u64) -> Answer<u64> {
        self.check_unsafe_call()?;
        self.in_context(|state, context| {
            if bytes == 0 {
                return Err(Fault::InvalidValue);
            }
            let device = state.contexts[&context].device();
            let taken = round_up(bytes, BLOCK).ok_or(Fault::OutOfMemory)?;
            let backing = Backing::map(taken, Access::ReadWrite)?;
            let address = backing.address();
            state.space.attach(address, taken, device, Arc::new(backing), 0);
            state.note(address, bytes, context, device, Keeper::Managed);
            Ok(address)
        })
    }

    /// Moves managed memory to `device`, or to the host where it is `None`.
    ///
    /// # Errors
    /// `InvalidValue` where it is no managed memory.
    pub fn prefetch(&self, address: u64, bytes: u64, device: Option<u32>) -> Answer<()> {
        let mut state = self.state.lock();
        state.managed_at(address, bytes).ok_or(Fault::InvalidValue)?;
        self.leave_devices(&mut state, address, bytes);
        if let Some(device) = device {
            self.reside(&mut state, address, bytes, device);
        }
        Ok(())
    }

    /// Notes that `device` uses an address, of whatever memory.
    pub(super) fn touch(&self, state: &mut State, address: u64, bytes: u64, device: u32) {
        if state.managed_at(address, bytes).is_some() {
            self.reside(state, address, bytes, device);
        }
    }

    /// Managed memory leaves the devices: it is freed, or moved to the host.
    pub(super) fn leave_devices(&self, state: &mut State, address: u64, bytes: u64) {
        let blocks = blocks(address, bytes);
        for (device, resident) in &mut state.managed.on_device {
            resident.blocks.retain(|block| !blocks.contains(block));
            let needed = resident.needed();
            let less = resident.charged_bytes.saturating_sub(needed);
            self.gpu_of(*device).give(Charge::Managed, less);
            resident.charged_bytes -= less;
        }
    }

    fn reside(&self, state: &mut State, address: u64, bytes: u64, device: u32) {
        let resident = state.managed.on_device.entry(device).or_default();
        let new: Vec<u64> = blocks(address, bytes).filter(|b| resident.blocks.insert(*b)).collect();
        let more = resident.needed().saturating_sub(resident.charged_bytes);
        if self.gpu_of(device).take(Charge::Managed, more).is_ok() {
            resident.charged_bytes += more;
        } else {
            resident.blocks.retain(|block| !new.contains(block));
        }
    }
}

impl Resident {
    fn needed(&self) -> u64 {
        (self.blocks.len() as u64 * BLOCK).next_multiple_of(CHUNK)
    }
}

impl State {
    /// Where the managed allocation begins that holds all of `bytes` at `address`.
    fn managed_at(&self, address: u64, bytes: u64) -> Option<u64> {
        let (&start, found) = self.allocations.range(..=address).next_back()?;
        let end = address.checked_add(bytes)?;
        (found.keeper == Keeper::Managed && end <= start + found.bytes).then_some(start)
    }
}

/// The numbers of the blocks that a range touches.
fn blocks(address: u64, bytes: u64) -> std::ops::Range<u64> {
    address / BLOCK..(address + bytes).div_ceil(BLOCK)
}
