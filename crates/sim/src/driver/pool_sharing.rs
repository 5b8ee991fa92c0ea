//! Pools of several processes: a pool is named by a file descriptor, an allocation in it by 64 bytes. The importer maps the
//! chunk in which the allocation lies; it frees what it imported, and cannot allocate in the pool.

use super::Driver;
use super::allocate::Keeper;
use super::handle::{Kind, fresh};
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
        let found = self.with_pool(pool, |pool| (pool.origin, pool.device))?;
        match found {
            (Origin::Shareable, device) => self.pool_label(pool, device).to_file(),
            _ => Err(Fault::InvalidValue),
        }
    }

    /// The pool that a descriptor names, as a pool of this process.
    ///
    /// # Errors
    /// `InvalidValue` where it names none; `InvalidDevice` where its device is not visible.
    pub fn import_pool(&self, file: &File) -> Answer<u64> {
        let label = PoolLabel::read(file)?;
        let device = self.gpu_by_machine_ordinal(label.device)?.ordinal();
        let handle = fresh(Kind::Pool);
        let mut pool = Pool::new(device);
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
            let is_shareable = state.pools.get(&pool).is_some_and(|p| p.origin == Origin::Shareable);
            let (base, backing) = state.space.piece_at(address).ok_or(Fault::InvalidValue)?;
            if !is_shareable {
                return Err(Fault::InvalidValue);
            }
            let (_, object) = self.export(state, base, allocation.device, &backing)?;
            let label = self.pool_label(pool, allocation.device);
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

    fn pool_label(&self, pool: u64, device: u32) -> PoolLabel {
        PoolLabel { device: self.gpu_of(device).machine_ordinal(), process: std::process::id(), pool }
    }
}
