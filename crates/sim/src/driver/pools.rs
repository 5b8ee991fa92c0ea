//! Stream-ordered allocation from pools.

use super::allocate::{Allocation, Keeper};
use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::blocks::Range;
use crate::memory::pool::{Origin, Point, Pool};

/// A plain allocation that is free when its stream reaches a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AwaitedFree {
    address: u64,
    allocation: Allocation,
    point: Point,
}

impl Driver {
    /// The default pool of `device`.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn default_pool(&self, device: i32) -> Answer<u64> {
        let ordinal = self.gpu(device)?.ordinal();
        Ok(self.state.lock().default_pools[&ordinal])
    }

    /// The pool that `cuMemAllocAsync` uses on `device`.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn chosen_pool(&self, device: i32) -> Answer<u64> {
        let ordinal = self.gpu(device)?.ordinal();
        Ok(self.state.lock().chosen_pools[&ordinal])
    }

    /// Chooses the pool that `cuMemAllocAsync` uses on `device`.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` where `pool` is none of that device.
    pub fn choose_pool(&self, device: i32, pool: u64) -> Answer<()> {
        let ordinal = self.gpu(device)?.ordinal();
        let mut state = self.state.lock();
        let found = state.pool(pool)?;
        if found.device != ordinal || found.is_imported() {
            return Err(Fault::InvalidValue);
        }
        state.chosen_pools.insert(ordinal, pool);
        Ok(())
    }

    /// Makes an empty pool on `device` that holds at most `most_bytes`, 0 for no bound.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn create_pool(&self, device: i32, origin: Origin, most_bytes: u64) -> Answer<u64> {
        let ordinal = self.gpu(device)?.ordinal();
        let handle = fresh(Kind::Pool);
        let mut pool = Pool::new(ordinal);
        (pool.origin, pool.most_bytes) = (origin, most_bytes);
        self.state.lock().pools.insert(handle, pool);
        Ok(handle)
    }

    /// Destroys a pool. Allocations that still live in it keep their memory until they are freed.
    ///
    /// # Errors
    /// `InvalidValue` where it is none, or the default pool.
    pub fn destroy_pool(&self, pool: u64) -> Answer<()> {
        let mut state = self.state.lock();
        let device = state.pool(pool)?.device;
        if state.default_pools[&device] == pool {
            return Err(Fault::InvalidValue);
        }
        if let Some(found) = state.pools.get_mut(&pool) {
            found.is_destroyed = true;
            let gpu = self.gpu_of(device);
            match found.origin {
                Origin::Imported(label) => gpu.close_pool(label.pool),
                Origin::Shareable if found.shared != 0 => gpu.disown_pool(found.shared),
                _ => {}
            }
        }
        self.trim(&mut state, pool, |_| 0);
        if state.chosen_pools[&device] == pool {
            let default = state.default_pools[&device];
            state.chosen_pools.insert(device, default);
        }
        Ok(())
    }

    /// Allocates `bytes` in stream order from `pool`, 0 for the chosen pool of the stream's device.
    ///
    /// # Errors
    /// `InvalidContext`, `InvalidHandle` for a stream that is none, `InvalidValue`, `OutOfMemory`.
    pub fn allocate_in_order(&self, bytes: u64, pool: u64, stream: u64) -> Answer<u64> {
        let first = self.try_allocate_in_order(bytes, pool, stream);
        if first != Err(Fault::OutOfMemory) {
            return first;
        }
        // As the driver does before it refuses: wait until freed memory is free indeed, and try once more.
        self.gpu_of(self.current_device()?).wait_idle()?;
        self.try_allocate_in_order(bytes, pool, stream)
    }

    fn try_allocate_in_order(&self, bytes: u64, pool: u64, stream: u64) -> Answer<u64> {
        self.in_context(|state, context| {
            let own = state.contexts[&context].device();
            self.end_reached_frees(state, own);
            let of_stream =
                || state.streams.values().find(|other| other.id == stream).map(|found| found.device);
            let pool_handle = if pool == 0 { state.chosen_pools[&of_stream().unwrap_or(own)] } else { pool };
            if state.pool(pool_handle)?.is_imported() {
                return Err(Fault::InvalidValue);
            }
            let mut pool = state.pools.remove(&pool_handle).ok_or(Fault::InvalidValue)?;
            let gpu = self.gpu_of(pool.device);
            pool.reach(|point| gpu.is_reached(point));
            let (device, shared) = (pool.device, pool.shared);
            let placed = pool.allocate(bytes, stream, |bytes| {
                let base = self.take_physical(state, device, bytes)?;
                if shared == 0 {
                    return Ok(base);
                }
                let put = self.put_in_shared_pool(state, device, base, shared);
                put.map(|()| base).inspect_err(|_| {
                    Self::give_physical(gpu, state, Range { base, bytes });
                })
            });
            state.pools.insert(pool_handle, pool);
            let address = placed?;
            state.note(address, bytes, context, device, Keeper::Pool(pool_handle));
            Ok(address)
        })
    }

    /// Frees `address` at the present end of `stream`: memory of a pool, of a graph, or plain memory.
    ///
    /// # Errors
    /// `InvalidValue` where it is none of these; `InvalidContext`.
    pub fn free_in_order(&self, address: u64, stream: u64) -> Answer<()> {
        self.in_context(|state, _| {
            let allocation = state.allocation(address)?;
            let ticket = self.gpu_of(allocation.device).last_ticket(stream);
            let point = Point { stream, ticket };
            let pool = match allocation.keeper {
                Keeper::Pool(pool) => pool,
                Keeper::Blocks | Keeper::Imported(_) => {
                    state.allocations.remove(&address);
                    state.awaited_frees.push(AwaitedFree { address, allocation, point });
                    return Ok(());
                }
                Keeper::Graph => {
                    self.free_graph_allocation(state, address);
                    return Ok(());
                }
                _ => return Err(Fault::InvalidValue),
            };
            state.allocations.remove(&address);
            state.pools.get_mut(&pool).ok_or(Fault::InvalidValue)?.free_at(address, point)?;
            self.end_destroyed(state, pool);
            Ok(())
        })
    }

    /// Runs `work` on a pool whose reached frees are done.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn with_pool<T>(&self, pool: u64, work: impl FnOnce(&mut Pool) -> T) -> Answer<T> {
        let mut state = self.state.lock();
        state.pool(pool)?;
        let pool = state.pools.get_mut(&pool).ok_or(Fault::InvalidValue)?;
        let gpu = self.gpu_of(pool.device);
        pool.reach(|point| gpu.is_reached(point));
        Ok(work(pool))
    }

    /// Runs `work` on a pool that this process has made, as [`Self::with_pool`]: an imported one answers no questions.
    ///
    /// # Errors
    /// `InvalidValue` where it is none, or imported.
    pub fn with_own_pool<T>(&self, pool: u64, work: impl FnOnce(&mut Pool) -> T) -> Answer<T> {
        let is_imported = self.state.lock().pool(pool)?.is_imported();
        if is_imported { Err(Fault::InvalidValue) } else { self.with_pool(pool, work) }
    }

    /// Gives unused memory of `pool` back until it holds at most `keep_bytes`.
    ///
    /// # Errors
    /// `InvalidValue` where it is none, or imported.
    pub fn trim_pool(&self, pool: u64, keep_bytes: u64) -> Answer<()> {
        self.check_unsafe_call()?;
        let mut state = self.state.lock();
        if state.pool(pool)?.is_imported() {
            return Err(Fault::InvalidValue);
        }
        self.trim(&mut state, pool, |_| keep_bytes);
        Ok(())
    }

    /// After the host synchronised with `device`: pools give back what is over their threshold.
    pub fn trim_after_synchronize(&self, device: u32) {
        let mut state = self.state.lock();
        self.end_reached_frees(&mut state, device);
        for pool in state.pools_of(device) {
            self.trim(&mut state, pool, |pool| pool.threshold_bytes);
        }
    }

    /// Frees the plain memory whose stream got there. Before an allocation, not inside it: there the blocks are away.
    pub(super) fn end_reached_frees(&self, state: &mut State, device: u32) {
        if state.awaited_frees.is_empty() {
            return;
        }
        let gpu = self.gpu_of(device);
        let is_due = |free: &AwaitedFree| free.allocation.device == device && gpu.is_reached(free.point);
        let (due, awaited) = std::mem::take(&mut state.awaited_frees).into_iter().partition(is_due);
        state.awaited_frees = awaited;
        let due: Vec<AwaitedFree> = due;
        due.into_iter().for_each(|free| self.end_allocation(state, free.address, free.allocation));
    }

    pub(super) fn trim_all_pools(&self, state: &mut State, device: u32) {
        for pool in state.pools_of(device) {
            self.trim(state, pool, |_| 0);
        }
    }

    pub(super) fn free_in_pool_now(&self, state: &mut State, handle: u64, address: u64) {
        if let Some(pool) = state.pools.get_mut(&handle) {
            // The caller has waited for the device, so every point of it is reached.
            let _ = pool.free_at(address, Point { stream: 0, ticket: 0 });
            pool.reach(|_| true);
        }
        self.end_destroyed(state, handle);
    }

    /// Gives back what a destroyed pool holds and nobody uses.
    fn end_destroyed(&self, state: &mut State, handle: u64) {
        if state.pools.get(&handle).is_some_and(|pool| pool.is_destroyed) {
            self.trim(state, handle, |_| 0);
        }
    }

    fn trim(&self, state: &mut State, handle: u64, keep_bytes: impl FnOnce(&Pool) -> u64) {
        let Some(pool) = state.pools.get_mut(&handle) else { return };
        let gpu = self.gpu_of(pool.device);
        pool.reach(|point| gpu.is_reached(point));
        let keep_bytes = if pool.is_destroyed { 0 } else { keep_bytes(pool) };
        let gone = pool.trim(keep_bytes);
        if pool.is_destroyed && pool.reserved().current == 0 {
            state.pools.remove(&handle);
        }
        for range in gone {
            Self::give_physical(gpu, state, range);
        }
    }
}

impl State {
    /// Takes out what streams of `context` were to free: the context is destroyed.
    pub(super) fn forget_frees_of(&mut self, context: u64) -> Vec<(u64, Allocation)> {
        let is_own = |free: &AwaitedFree| free.allocation.context == context;
        let (own, others) = std::mem::take(&mut self.awaited_frees).into_iter().partition(is_own);
        self.awaited_frees = others;
        let own: Vec<AwaitedFree> = own;
        own.into_iter().map(|free| (free.address, free.allocation)).collect()
    }

    fn pool(&self, handle: u64) -> Answer<&Pool> {
        self.pools.get(&handle).filter(|pool| !pool.is_destroyed).ok_or(Fault::InvalidValue)
    }

    fn pools_of(&self, device: u32) -> Vec<u64> {
        self.pools.iter().filter(|(_, p)| p.device == device).map(|(&handle, _)| handle).collect()
    }
}
