//! Plain allocations, and what can be asked of an address.

use super::context::Context;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::gpu::Gpu;
use crate::memory::blocks::{Blocks, Range};
use crate::memory::{Access, Backing};
use crate::shared::Charge;
use crate::units::BLOCK;
use std::sync::Arc;

/// Who keeps an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    Blocks,
    /// Blocks too, for a variable of a module, which no program may free.
    Module,
    Managed,
    /// A memory node of a graph.
    Graph,
    /// Another process, in an object of the device.
    Ipc(u64),
    Pool(u64),
    /// Another process, in a pool of it: freed like the process's own.
    Imported(u64),
    /// A buffer in external memory.
    External(u64),
}

/// One live allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocation {
    pub(crate) bytes: u64,
    pub(crate) context: u64,
    pub(crate) device: u32,
    pub(crate) keeper: Keeper,
    pub(crate) id: u64,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointerFacts {
    /// Where the allocation begins.
    pub base: u64,
    /// Its size in bytes, as it was asked for.
    pub bytes: u64,
    /// Its context, 0 where it belongs to none.
    pub context: u64,
    /// Its device.
    pub device: u32,
    /// Whether it is managed memory.
    pub is_managed: bool,
    /// Its pool, 0 where it came from none.
    pub pool: u64,
    /// A number that no other allocation of the process has.
    pub id: u64,
}

impl Driver {
    /// Allocates `bytes` of plain device memory in the current context.
    ///
    /// # Errors
    /// `InvalidContext`, `InvalidValue` for zero bytes, `OutOfMemory` where the device has no room.
    pub fn allocate(&self, bytes: u64) -> Answer<u64> {
        self.check_unsafe_call()?;
        self.in_context(|state, context| self.allocate_in(state, context, bytes, Keeper::Blocks))
    }

    pub(super) fn allocate_in(
        &self,
        state: &mut State,
        context: u64,
        bytes: u64,
        keeper: Keeper,
    ) -> Answer<u64> {
        let address = self.place_in(state, context, bytes, |c| &mut c.blocks)?;
        let device = state.contexts[&context].device();
        state.note(address, bytes, context, device, keeper);
        Ok(address)
    }

    /// Places `bytes` in those blocks of `context` that `pick` names.
    pub(super) fn place_in(
        &self,
        state: &mut State,
        context: u64,
        bytes: u64,
        pick: impl Fn(&mut Context) -> &mut Blocks,
    ) -> Answer<u64> {
        let device = state.contexts.get(&context).ok_or(Fault::InvalidContext)?.device();
        self.end_reached_frees(state, device);
        let found = state.contexts.get_mut(&context).ok_or(Fault::InvalidContext)?;
        let mut blocks = std::mem::take(pick(found));
        let placed = blocks.allocate(bytes, |physical| self.take_physical(state, device, physical));
        if let Some(context) = state.contexts.get_mut(&context) {
            *pick(context) = blocks;
        }
        placed
    }

    /// Gives back what [`Self::place_in`] placed.
    pub(super) fn unplace_in(
        &self,
        state: &mut State,
        context: u64,
        place: u64,
        pick: impl Fn(&mut Context) -> &mut Blocks,
    ) {
        let Some(found) = state.contexts.get_mut(&context) else { return };
        let gpu = self.gpu_of(found.device());
        if let Ok(Some(range)) = pick(found).free(place) {
            Self::give_physical(gpu, state, range);
        }
    }

    /// Frees an allocation of any kind; 0 is freed without effect. Waits for the device first, as the driver does.
    ///
    /// # Errors
    /// `InvalidValue` where no allocation begins at `address`; `InvalidContext` without a current context.
    pub fn free(&self, address: u64) -> Answer<()> {
        if address == 0 {
            return self.in_context(|_, _| Ok(()));
        }
        self.check_unsafe_call()?;
        let allocation = self.in_context(|state, _| state.allocation(address))?;
        if matches!(allocation.keeper, Keeper::Module | Keeper::Ipc(_)) {
            return Err(Fault::InvalidValue);
        }
        self.gpu_of(allocation.device).wait_idle()?;
        self.in_context(|state, _| {
            let allocation = state.allocations.remove(&address).ok_or(Fault::InvalidValue)?;
            self.end_allocation(state, address, allocation);
            Ok(())
        })
    }

    /// What is known of the allocation that holds `address`.
    ///
    /// # Errors
    /// `InvalidValue` where none does.
    pub fn pointer(&self, address: u64) -> Answer<PointerFacts> {
        let state = self.state.lock();
        let (&base, found) = state.allocations.range(..=address).next_back().ok_or(Fault::InvalidValue)?;
        if address - base >= found.bytes {
            let (base, mapping) = state.vmm.mapping_at(address)?;
            let device = state.space.device_of(address).unwrap_or(0);
            let (bytes, id) = (mapping.bytes, mapping.handle);
            return Ok(PointerFacts { base, bytes, context: 0, device, is_managed: false, pool: 0, id });
        }
        let pool = if let Keeper::Pool(pool) = found.keeper { pool } else { 0 };
        let is_managed = found.keeper == Keeper::Managed;
        let Allocation { bytes, context, device, id, .. } = *found;
        Ok(PointerFacts { base, bytes, context, device, is_managed, pool, id })
    }

    /// Frees everything that `context` allocated.
    pub(super) fn free_all_of(&self, state: &mut State, context: u64) {
        let all: Vec<u64> = state
            .allocations
            .iter()
            .filter(|(_, a)| a.context == context)
            .map(|(&address, _)| address)
            .collect();
        for address in all {
            if let Some(allocation) = state.allocations.remove(&address) {
                self.end_allocation(state, address, allocation);
            }
        }
        state.forget_frees_of(context).into_iter().for_each(|(address, allocation)| {
            self.end_allocation(state, address, allocation);
        });
    }

    /// Takes `bytes` of the device, after a trim of the process's pools where it is full.
    pub(super) fn take_bytes(&self, state: &mut State, device: u32, bytes: u64) -> Answer<()> {
        self.take_charged(state, device, Charge::Memory, bytes)
    }

    /// As [`Self::take_bytes`], for whatever it is.
    pub(super) fn take_charged(
        &self,
        state: &mut State,
        device: u32,
        charge: Charge,
        bytes: u64,
    ) -> Answer<()> {
        let gpu = self.gpu_of(device);
        if gpu.take(charge, bytes).is_ok() {
            return Ok(());
        }
        self.trim_all_pools(state, device);
        gpu.take(charge, bytes)
    }

    /// Takes `bytes` of physical memory, a multiple of 2 MiB, with a device address for them.
    pub(super) fn take_physical(&self, state: &mut State, device: u32, bytes: u64) -> Answer<u64> {
        self.take_bytes(state, device, bytes)?;
        let placed = Backing::map(bytes, Access::ReadWrite).and_then(|backing| {
            let address = state.space.reserve(bytes, BLOCK, 0)?;
            state.space.attach(address, bytes, device, Arc::new(backing), 0);
            Ok(address)
        });
        placed.inspect_err(|_| self.gpu_of(device).give(Charge::Memory, bytes))
    }

    /// Gives back what [`Self::take_physical`] took.
    pub(super) fn give_physical(gpu: &Gpu, state: &mut State, range: Range) {
        state.space.detach(range.base);
        state.space.unreserve(range.base, range.bytes);
        Self::release_bytes(gpu, state, range.base, range.bytes);
    }

    pub(super) fn end_allocation(&self, state: &mut State, address: u64, allocation: Allocation) {
        match allocation.keeper {
            Keeper::Managed => {
                state.space.detach(address);
                self.leave_devices(state, address, allocation.bytes);
            }
            Keeper::Blocks | Keeper::Module => {
                self.unplace_in(state, allocation.context, address, |c| &mut c.blocks);
            }
            Keeper::Graph => self.end_graph_allocation(state, address),
            Keeper::Ipc(object) | Keeper::Imported(object) => {
                self.end_ipc(state, (allocation.device, object), address)
            }
            Keeper::External(external) => {
                self.end_external_buffer(state, external, address, allocation.bytes);
            }
            Keeper::Pool(pool) => self.free_in_pool_now(state, pool, address),
        }
    }
}

impl State {
    pub(super) fn allocation(&self, address: u64) -> Answer<Allocation> {
        self.allocations.get(&address).copied().ok_or(Fault::InvalidValue)
    }

    pub(super) fn note(&mut self, address: u64, bytes: u64, context: u64, device: u32, keeper: Keeper) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.allocations.insert(address, Allocation { bytes, context, device, keeper, id });
    }
}
