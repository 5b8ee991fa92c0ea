//! Pools of several processes: a pool is named by a file descriptor, an allocation in it by 64 bytes. The importer of a pool holds
//! all of it; of an allocation it maps the chunk. It frees what it imported, and cannot allocate in the pool.

use super::allocate::Keeper;
use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::pool::{Origin, Pool};
use crate::shared::PoolLabel;
use std::fs::File;

/// What names an allocation of a pool to other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPointer {
    /// The pool.
    pub pool: PoolLabel,
    /// The object in which it lies.
    pub object: u64,
    /// Where it begins in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Driver {
    /// A file descriptor that names `pool` to other processes.
    ///
    /// # Errors
    /// `InvalidValue` where it is none, or was not made to be shared; `OperatingSystem`.
    pub fn export_pool(&self, pool: u64) -> Answer<File> {
        self.with_pool(pool, |_| ())?;
        self.shared_pool(&mut self.state.lock(), pool)?.to_file()
    }

    /// The pool that a descriptor names, as a pool of this process: it holds the pool's memory until it is destroyed.
    ///
    /// # Errors
    /// `InvalidValue` where it names none, or one that is gone; `InvalidDevice` where its device is not visible.
    pub fn import_pool(&self, file: &File) -> Answer<u64> {
        let label = PoolLabel::read(file)?;
        let gpu = self.gpu_by_machine_ordinal(label.device)?;
        gpu.open_pool(label.pool)?;
        let handle = fresh(Kind::Pool);
        let mut pool = Pool::new(gpu.ordinal());
        pool.origin = Origin::Imported(label);
        self.state.lock().pools.insert(handle, pool);
        Ok(handle)
    }

    /// Names an allocation of a pool to other processes.
    ///
    /// # Errors
    /// `InvalidValue` where none of a shareable pool begins at `address`; `OutOfMemory`; `OperatingSystem`.
    pub fn export_pool_pointer(&self, address: u64) -> Answer<PoolPointer> {
        self.in_context(|state, _| {
            let allocation = state.allocation(address)?;
            let Keeper::Pool(pool) = allocation.keeper else { return Err(Fault::InvalidValue) };
            let label = self.shared_pool(state, pool)?;
            let (base, backing) = state.space.piece_at(address).ok_or(Fault::InvalidValue)?;
            let (_, object) = self.export(state, base, allocation.device, &backing)?;
            Ok(PoolPointer { pool: label, object, offset: address - base, bytes: allocation.bytes })
        })
    }

    /// Opens an allocation of an imported pool.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` where `pool` is not the pool that it lies in, or the memory is gone; `NotSupported` where
    /// it is open already; `OutOfMemory` without addresses.
    pub fn import_pool_pointer(&self, pool: u64, pointer: PoolPointer) -> Answer<u64> {
        if self.with_pool(pool, |pool| pool.origin)? != Origin::Imported(pointer.pool) {
            return Err(Fault::InvalidValue);
        }
        let gpu = self.gpu_by_machine_ordinal(pointer.pool.device)?;
        self.in_context(|state, context| {
            let (name, object) = ((gpu.ordinal(), pointer.object), pointer.object);
            if state.sharing.is_open(name, pointer.offset) {
                crate::log::once(
                    "an allocation of a pool that is imported twice is not modelled: NOT_SUPPORTED",
                );
                return Err(Fault::NotSupported);
            }
            let keeper = Keeper::Imported(object);
            self.open_object(state, context, name, (pointer.offset, pointer.bytes), keeper)
        })
    }

    /// What names `pool` to others, with all that it holds put where they can hold it.
    ///
    /// # Errors
    /// `InvalidValue` where it was not made to be shared; `OutOfMemory`; `OperatingSystem`.
    fn shared_pool(&self, state: &mut State, pool: u64) -> Answer<PoolLabel> {
        let found = state.pools.get(&pool).filter(|p| p.origin == Origin::Shareable);
        let found = found.ok_or(Fault::InvalidValue)?;
        let (gpu, chunks, mut shared) = (self.gpu_of(found.device), found.chunks(), found.shared);
        if shared == 0 {
            shared = gpu.share_pool()?;
            let mut each = chunks.into_iter();
            let put = each.try_for_each(|base| self.put_in_shared_pool(state, gpu.ordinal(), base, shared));
            put.inspect_err(|_| gpu.disown_pool(shared))?;
            if let Some(found) = state.pools.get_mut(&pool) {
                found.shared = shared;
            }
        }
        Ok(PoolLabel { device: gpu.machine_ordinal(), process: std::process::id(), pool: shared })
    }

    /// Makes a chunk a piece of a pool that was named to others.
    pub(super) fn put_in_shared_pool(
        &self,
        state: &mut State,
        device: u32,
        base: u64,
        shared: u64,
    ) -> Answer<()> {
        let (_, backing) = state.space.piece_at(base).ok_or(Fault::InvalidValue)?;
        let (_, object) = self.export(state, base, device, &backing)?;
        self.gpu_of(device).put_in_pool(object, shared);
        Ok(())
    }
}
