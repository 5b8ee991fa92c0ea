//! Stream-ordered memory: allocations from pools, which are charged by what the pool holds.

use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUmemPoolProps, CUmemoryPool, CUresult, CUstream, PFN_cuDeviceGetMemPool_v11020,
    PFN_cuMemAllocAsync_v11020, PFN_cuMemAllocFromPoolAsync_v11020, PFN_cuMemFreeAsync_v11020,
    PFN_cuMemPoolCreate_v11020, PFN_cuMemPoolDestroy_v11020, PFN_cuMemPoolTrimTo_v11020,
};
use cuota_governor::physical;
use cuota_region::ledger::{Refusal, Reservation};

use super::{REFUSED, device_at, plain};
use crate::hooks_table::{cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuMemFreeAsync};
use crate::process::account::{self, Account, Booking};
use crate::process::pools::{Change, Pool};
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The device's current pool: what `cuMemAllocAsync` takes from.
fn current_pool(device: u32) -> Option<CUmemoryPool> {
    let mut pool = core::ptr::null_mut();
    let device = CUdevice::try_from(device).ok()?;
    // SAFETY: fills one handle.
    let status = cuDeviceGetMemPool::REAL.get().map(|call| unsafe { call(&raw mut pool, device) });
    (status == Some(OK)).then_some(pool)
}

/// The device's default pool, which cannot be destroyed.
fn default_pool(device: CUdevice) -> Option<CUmemoryPool> {
    let mut pool = core::ptr::null_mut();
    // SAFETY: fills one handle.
    let status = cuDeviceGetDefaultMemPool::REAL.get().map(|call| unsafe { call(&raw mut pool, device) });
    (status == Some(OK)).then_some(pool)
}

/// Reserves what `pool` may grow by to serve `bytes`.
fn reserve(account: &Account, pool: &Pool, bytes: u64) -> Result<Reservation, CUresult> {
    // Where the driver does not say, there is no room to count on.
    let room = pool.reserved_and_used().map_or(0, |(reserved, used)| {
        if let change @ Change::Shrank(1..) = pool.update(reserved) {
            account.apply(change);
        }
        reserved.saturating_sub(used)
    });
    let worst = physical::pool_worst_case(bytes).ok_or(REFUSED)?;
    if let Ok(reservation) = account.reserve_as_it_is(worst) {
        return Ok(reservation);
    }
    // Near the quota: what should do, if the room that the pool has is in one piece. If it is not, the pool grows by more
    // than this, and the allocation is taken back below.
    let least = physical::pool_worst_case(bytes.saturating_sub(room)).ok_or(REFUSED)?;
    account.reserve(least)
}

/// Makes an allocation of `bytes` from `pool`: `call` asks the driver.
///
/// # Safety
/// `call` passes the program's arguments to the driver, which writes the address to `pointer`.
#[inline(never)]
unsafe fn allocate(
    account: &Account,
    pool: CUmemoryPool,
    pointer: *mut CUdeviceptr,
    bytes: u64,
    stream: CUstream,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    let Some(entry) = account.process.pools.entry(pool, account.ordinal()) else { return REFUSED };
    if entry.is_destroyed() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    let reservation = match reserve(account, entry, bytes) {
        Ok(reservation) => reservation,
        Err(error) => return error,
    };
    let status = call();
    let change = entry.reserved().map_or(Change::Grew(0), |reserved| entry.update(reserved));
    let fits = match change {
        Change::Grew(taken) => account.commit(reservation, taken),
        Change::Shrank(_) => {
            account.cancel(reservation);
            account.apply(change);
            true
        }
    };
    if status != OK || fits {
        return status;
    }
    // The room in the pool was in pieces, so it grew over the quota inside the call: not granted.
    if let Some(free) = cuMemFreeAsync::REAL.get() {
        // SAFETY: the driver has just returned this address, and nobody else has seen it.
        unsafe { free(*pointer, stream) };
    }
    account.refuse(bytes, account.quota(), Refusal::OverQuota { booked: account.quota() });
    account.trim_pools();
    REFUSED
}

/// `cuMemAllocAsync`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe fn alloc_async(
    real: PFN_cuMemAllocAsync_v11020,
    pointer: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let call = || {
        // SAFETY: the program's arguments.
        unsafe { real(pointer, bytes, stream) }
    };
    match account::on_current_device() {
        Booking::On(account) => match current_pool(account.ordinal()) {
            // SAFETY: `call` is the driver's function with the program's arguments.
            Some(pool) => unsafe { allocate(&account, pool, pointer, bytes as u64, stream, &call) },
            None => call(),
        },
        Booking::No => call(),
        Booking::Refuse => REFUSED,
    }
}

/// `cuMemAllocFromPoolAsync`.
pub(crate) unsafe fn alloc_from_pool_async(
    real: PFN_cuMemAllocFromPoolAsync_v11020,
    pointer: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    let call = || {
        // SAFETY: the program's arguments.
        unsafe { real(pointer, bytes, pool, stream) }
    };
    let booking = match process::standing() {
        Standing::Managed(process) => {
            let known = process.pools.device_of(pool).and_then(|device| Account::open(process, device));
            known.map_or_else(account::on_current_device, Booking::On)
        }
        Standing::Unmanaged => Booking::No,
        Standing::Closed => Booking::Refuse,
    };
    match booking {
        // SAFETY: as in `alloc_async`.
        Booking::On(account) => unsafe { allocate(&account, pool, pointer, bytes as u64, stream, &call) },
        Booking::No => call(),
        Booking::Refuse => REFUSED,
    }
}

/// `cuMemFreeAsync`: for plain memory, which it frees too; what a pool gets back, the pool still holds.
pub(crate) unsafe fn free_async(
    real: PFN_cuMemFreeAsync_v11020,
    pointer: CUdeviceptr,
    stream: CUstream,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { plain::release(pointer, || real(pointer, stream)) }
}

/// `cuDeviceGetDefaultMemPool` and `cuDeviceGetMemPool`: note which device the pool takes from.
pub(crate) unsafe fn learn(
    real: PFN_cuDeviceGetMemPool_v11020,
    pool: *mut CUmemoryPool,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the program's arguments.
    let status = unsafe { real(pool, device) };
    if status == OK
        && let Standing::Managed(process) = process::standing()
        && let Ok(device) = u32::try_from(device)
    {
        // A pool that was set with `cuDeviceSetMemPool` is known from its making, and stays what it is.
        // SAFETY: the driver has written the pool.
        process.pools.entry(unsafe { *pool }, device);
    }
    status
}

/// `cuMemPoolCreate`: notes which device the pool takes from.
pub(crate) unsafe fn create(
    real: PFN_cuMemPoolCreate_v11020,
    pool: *mut CUmemoryPool,
    properties: *const CUmemPoolProps,
) -> CUresult {
    // SAFETY: the program's arguments.
    let status = unsafe { real(pool, properties) };
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the driver has read the properties and written the pool.
        let (pool, location) = unsafe { (*pool, (*properties).location) };
        if let Some(device) = device_at(location).and_then(|device| u32::try_from(device).ok()) {
            process.pools.entry(pool, device);
        }
    }
    status
}

/// `cuMemPoolTrimTo`: what it lets go is given back at once.
pub(crate) unsafe fn trim(real: PFN_cuMemPoolTrimTo_v11020, pool: CUmemoryPool, keep: usize) -> CUresult {
    // SAFETY: the program's arguments.
    let status = unsafe { real(pool, keep) };
    if let Booking::On(account) = account::on_current_device() {
        account.update_pools();
    }
    status
}

/// `cuMemPoolDestroy`: gives back what the pool held, at once or, where memory of it lives, when the last is freed.
///
/// The driver keeps such a pool until then and answers no question about it. So it is told only then; until then the pool
/// is the program's no more: no allocation is made from it, and it keeps nothing that is freed.
pub(crate) unsafe fn destroy(real: PFN_cuMemPoolDestroy_v11020, pool: CUmemoryPool) -> CUresult {
    if let Standing::Managed(process) = process::standing()
        && let Some(entry) = process.pools.find(pool)
    {
        if entry.is_destroyed() {
            return CUresult::CUDA_ERROR_INVALID_VALUE;
        }
        let device = process.pools.device_of(pool).and_then(|device| CUdevice::try_from(device).ok());
        if let Some(device) = device
            && let Some(default) = default_pool(device)
            && default != pool
            && entry.lives()
        {
            if !entry.mark_destroyed() {
                return CUresult::CUDA_ERROR_INVALID_VALUE;
            }
            if current_pool(device.cast_unsigned()) == Some(pool) {
                driver::set_pool(device, default);
            }
            driver::let_pool_keep_nothing(pool);
            return OK;
        }
    }
    // SAFETY: the program's argument.
    let status = unsafe { real(pool) };
    if status == OK
        && let Standing::Managed(process) = process::standing()
        && let Some((device, held)) = process.pools.remove(pool)
        && let Booking::On(account) = account::on_device(device.cast_signed())
    {
        account.release(held);
    }
    status
}
