//! Stream-ordered memory: allocations from pools, which are charged by what the pool holds.

use core::ffi::c_void;

use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUmemAllocationType, CUmemLocation, CUmemPoolProps, CUmemoryPool, CUresult,
    CUstream,
};
use cuota_governor::quota::UNLIMITED;
use cuota_region::event::Why;

use super::{REFUSED, device_at};
use crate::hooks_table::{
    cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuMemFreeAsync, cuStreamSynchronize,
};
use crate::interpose::call::{CU_STREAM_PER_THREAD, Call};
use crate::process::account::{self, Account, Booking};
use crate::process::pools;
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The booking for the device of a stream, whose pool an allocation in its order takes from (CUDA Driver API, `cuMemAllocAsync`). The
/// streams 0, 1 and 2 are the current context's.
fn on_device_of(stream: CUstream) -> Booking {
    let of_stream = match process::standing() {
        Standing::Managed(process)
            if stream.addr() > CU_STREAM_PER_THREAD && process.has_several_devices() =>
        {
            driver::context_of(stream)
                .and_then(|context| process.contexts.device_of(process.contexts.number_of(context)?))
        }
        _ => None,
    };
    of_stream.map_or_else(account::on_current_device, account::on_device)
}

/// A pool of the device's, as `get` says.
#[inline(never)]
fn pool_of(
    device: CUdevice,
    get: unsafe extern "C" fn(*mut CUmemoryPool, CUdevice) -> CUresult,
) -> Option<CUmemoryPool> {
    let mut pool = core::ptr::null_mut();
    // SAFETY: fills one handle.
    let status = unsafe { get(&raw mut pool, device) };
    (status == OK).then_some(pool)
}

/// The device's current pool: what `cuMemAllocAsync` takes from.
fn current_pool(device: CUdevice) -> Option<CUmemoryPool> {
    pool_of(device, cuDeviceGetMemPool::REAL.get())
}

/// The device's default pool, which cannot be destroyed.
fn default_pool(device: CUdevice) -> Option<CUmemoryPool> {
    pool_of(device, cuDeviceGetDefaultMemPool::REAL.get())
}

/// Makes an allocation from `pool`, in the order of `stream`: `call` asks the driver, with the bytes in argument 1, and writes the
/// address where argument 0 says.
///
/// # Safety
/// The arguments are the program's.
#[inline(never)]
unsafe fn allocate(account: Account, pool: CUmemoryPool, stream: CUstream, call: &Call) -> CUresult {
    let bytes = call.word(1);
    let pools = &account.process().pools;
    let was_known = pools.find(pool).is_some();
    let Some(entry) = pools.entry(pool, account.ordinal()) else { return account.decline(Why::TableFull) };
    if entry.is_destroyed() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // Where it has room only in pieces it grows all the same, and the allocation is taken back below.
    let Some(reservation) = account.reserve_growth(Some(entry), bytes) else { return REFUSED };
    account.note_pools(reservation.bytes());
    let status = call.make();
    let fits = match entry.update() {
        Some(change) => account.commit_change(reservation, change),
        // Neither an allocation nor a figure: it is no pool, or one that the driver has ended.
        None if status != OK => {
            account.cancel(reservation);
            if !was_known {
                pools.remove(pool);
            }
            true
        }
        // The driver does not say: what was reserved is what it may have taken.
        None => {
            let worst = reservation.bytes();
            account.commit(reservation, worst)
        }
    };
    account.note_pools(0);
    if status != OK || fits {
        return status;
    }
    take_back(account, call.pointer(0), bytes, stream);
    REFUSED
}

/// Undoes an allocation for which the pool grew over the quota inside the call.
#[cold]
fn take_back(account: Account, pointer: *mut CUdeviceptr, bytes: u64, stream: CUstream) {
    let free = cuMemFreeAsync::REAL.get();
    // SAFETY: the driver has just returned this address, and nobody else has seen it. Work of a stream ruins no other's capture.
    unsafe { free(*pointer, stream) };
    // The pool gives back only what the stream has passed. A capturing stream never grows a pool, so this is none.
    driver::give_up(cuStreamSynchronize::REAL.get() as *const c_void, stream.addr() as u64);
    account.trim_pools();
    account.refuse(bytes);
}

/// `cuMemAllocAsync`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn alloc_async(call: &Call) -> CUresult {
    let stream = call.stream(2);
    match on_device_of(stream) {
        Booking::On(account) => match current_pool(account.ordinal().cast_signed()) {
            // SAFETY: the program's arguments.
            Some(pool) => unsafe { allocate(account, pool, stream, call) },
            None => REFUSED,
        },
        Booking::No => call.make(),
        Booking::Refuse => REFUSED,
    }
}

/// `cuMemAllocFromPoolAsync`.
pub(crate) unsafe extern "C" fn alloc_from_pool_async(call: &Call) -> CUresult {
    let pool: CUmemoryPool = call.pointer(2);
    let booking = match process::standing() {
        Standing::Managed(process) => match process.pools.device_of(pool) {
            Some(pools::HOST | pools::IMPORTED) => Booking::No,
            Some(device) => account::on_device(device.cast_signed()),
            None => account::on_current_device(),
        },
        Standing::Unmanaged => Booking::No,
        Standing::Closed => Booking::Refuse,
    };
    match booking {
        // SAFETY: the program's arguments.
        Booking::On(account) => unsafe { allocate(account, pool, call.stream(3), call) },
        Booking::No => call.make(),
        Booking::Refuse => REFUSED,
    }
}

/// `cuDeviceGetDefaultMemPool` and `cuDeviceGetMemPool`: note which device the pool takes from.
pub(crate) unsafe extern "C" fn learn(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let pool: *mut CUmemoryPool = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(1) };
    let status = call.make();
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

/// What a pool of managed memory is answered under a quota: its memory moves to the device by itself, and no figure says how much.
fn refuses_managed(kind: CUmemAllocationType) -> bool {
    kind == CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_MANAGED
        && match account::on_current_or_first_device() {
            Booking::On(account) => account.quota() != UNLIMITED,
            Booking::No => false,
            Booking::Refuse => true,
        }
}

/// Makes the call, which writes a pool of this kind where argument 0 says, and notes which device the pool takes from: that at `location`.
///
/// # Safety
/// The program's arguments.
#[inline(never)]
unsafe fn learning(call: &Call, kind: CUmemAllocationType, location: *const CUmemLocation) -> CUresult {
    if refuses_managed(kind) {
        return CUresult::CUDA_ERROR_NOT_SUPPORTED;
    }
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the driver has read the location and written the pool.
        let (pool, location) = unsafe { (*call.pointer(0), *location) };
        let device = device_at(location).and_then(|device| u32::try_from(device).ok());
        process.pools.entry(pool, device.unwrap_or(pools::HOST));
    }
    status
}

/// `cuMemGetDefaultMemPool` and `cuMemGetMemPool`: the same as [`learn`], of any location.
pub(crate) unsafe extern "C" fn learn_at(call: &Call) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { learning(call, call.argument(2), call.pointer(1)) }
}

/// `cuMemPoolCreate`: notes which device the pool takes from.
pub(crate) unsafe extern "C" fn create(call: &Call) -> CUresult {
    // SAFETY: the program's argument.
    let properties = unsafe { call.pointer::<CUmemPoolProps>(1).as_ref() };
    let Some(CUmemPoolProps { allocType: kind, location, .. }) = properties else { return call.make() };
    // SAFETY: the program's arguments.
    unsafe { learning(call, *kind, location) }
}

/// `cuMemPoolTrimTo`: what it lets go is given back at once.
pub(crate) unsafe extern "C" fn trim(call: &Call) -> CUresult {
    let status = call.make();
    if let Booking::On(account) = account::on_current_device() {
        account.update_pools();
    }
    status
}

/// `cuMemPoolDestroy`: gives back what the pool held, at once or, where memory of it lives, when the last is freed.
///
/// The driver keeps such a pool until then and answers no question about it. So it is told only then; until then the pool
/// is the program's no more: no allocation is made from it, and it keeps nothing that is freed.
pub(crate) unsafe extern "C" fn destroy(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let pool: CUmemoryPool = unsafe { call.argument(0) };
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
            driver::outside_captures(|| {
                if current_pool(device) == Some(pool) {
                    driver::set_pool(device, default);
                }
                driver::let_pool_keep_nothing(pool);
            });
            return OK;
        }
    }
    // Forgotten before the driver forgets it: no other thread must ask for it any more.
    let known = match process::standing() {
        Standing::Managed(process) => {
            process.pools.remove(pool).map(|(device, held)| (process, device, held))
        }
        Standing::Unmanaged | Standing::Closed => None,
    };
    let status = call.make();
    if let Some((process, device, held)) = known {
        if device == pools::IMPORTED && status == OK {
            process.pools.open(false);
            process.member().note_pool_open(false);
        }
        if let Booking::On(account) = account::on_device(device.cast_signed()) {
            account.release(held);
        }
        if status != OK {
            // Its next allocation, or the next refusal, books what it holds.
            process.pools.entry(pool, device);
        }
    }
    status
}
