//! Memory pools and stream-ordered allocation.

use super::{get, put};
use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUmemAllocationType, CUmemLocation, CUmemPool_attribute, CUmemPoolProps,
    CUmemoryPool, CUstream,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use cuota_sim::memory::pool::Origin;
use std::ffi::{c_int, c_void};

/// The attributes that are switches of reuse; the model reuses memory in stream order whatever they say.
const REUSE: std::ops::RangeInclusive<u32> = 1..=3;
const RELEASE_THRESHOLD: u32 = 4;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const POSIX_FILE_DESCRIPTOR: u32 = 1;

unsafe fn allocate(
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
    per_thread: bool,
) -> Answer<()> {
    if dptr.is_null() {
        return Err(Fault::InvalidValue);
    }
    let driver = Driver::get()?;
    let stream = driver.stream(stream as u64, per_thread)?;
    let address = match driver.capture_allocation(bytes as u64, pool as u64, stream)? {
        Some(address) => address,
        None => driver.allocate_in_order(bytes as u64, pool as u64, stream.id)?,
    };
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(dptr, address) }
}

/// The device at a location, for pinned memory: the model has no other pools.
unsafe fn device_at(location: *const CUmemLocation, kind: CUmemAllocationType) -> Answer<c_int> {
    // SAFETY: null or valid by the caller's word.
    let location = unsafe { get(location)? };
    match (location.type_.0, kind.0) {
        (0, _) | (_, 0) => Err(Fault::InvalidValue),
        (1, 1) => Ok(location_id(&location)),
        (place, kind) => {
            cuota_sim::log::once(&format!(
                "a pool of type {kind} at a location of type {place} is not modelled: NOT_SUPPORTED"
            ));
            Err(Fault::NotSupported)
        }
    }
}

driver_api! {
    fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) {
        put(pool_out, Driver::get()?.default_pool(dev)? as CUmemoryPool)
    }

    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) {
        put(pool, Driver::get()?.chosen_pool(dev)? as CUmemoryPool)
    }

    fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) {
        Driver::get()?.choose_pool(dev, pool as u64)
    }

    fn cuMemGetDefaultMemPool(pool_out: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        put(pool_out, Driver::get()?.default_pool(device_at(location, r#type)?)? as CUmemoryPool)
    }

    fn cuMemGetMemPool(pool_out: *mut CUmemoryPool, location: *mut CUmemLocation, r#type: CUmemAllocationType) {
        put(pool_out, Driver::get()?.chosen_pool(device_at(location, r#type)?)? as CUmemoryPool)
    }

    fn cuMemSetMemPool(location: *mut CUmemLocation, r#type: CUmemAllocationType, pool: CUmemoryPool) {
        Driver::get()?.choose_pool(device_at(location, r#type)?, pool as u64)
    }

    fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) {
        let properties = get(poolProps)?;
        let device = device_at(&raw const properties.location, properties.allocType)?;
        let origin = match properties.handleTypes.0 {
            0 => Origin::Private,
            POSIX_FILE_DESCRIPTOR => Origin::Shareable,
            _ => return Err(Fault::NotSupported),
        };
        if pool.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pool, Driver::get()?.create_pool(device, origin, properties.maxSize as u64)? as CUmemoryPool)
    }

    fn cuMemPoolDestroy(pool: CUmemoryPool) {
        Driver::get()?.destroy_pool(pool as u64)
    }

    fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) {
        Driver::get()?.trim_pool(pool as u64, minBytesToKeep as u64)
    }

    fn cuMemPoolGetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        let driver = Driver::get()?;
        driver.check_unsafe_call()?;
        if REUSE.contains(&attr.0) {
            driver.with_own_pool(pool as u64, |_| ())?;
            return put(value.cast::<c_int>(), 1);
        }
        let fact = driver.with_own_pool(pool as u64, |pool| match attr.0 {
            // Allocation type, types of handles, location, its type, and whether it can hold what is to be decompressed.
            9 | 12 => Some(1),
            10 => Some(u32::from(pool.origin == Origin::Shareable)),
            11 => Some(pool.device),
            14 => Some(0),
            _ => None,
        })?;
        if let Some(fact) = fact {
            return put(value.cast::<u32>(), fact);
        }
        let figure = driver.with_own_pool(pool as u64, |pool| match attr.0 {
            RELEASE_THRESHOLD => Some(pool.threshold_bytes),
            5 => Some(pool.reserved().current),
            6 => Some(pool.reserved().high),
            7 => Some(pool.used().current),
            8 => Some(pool.used().high),
            13 => Some(pool.most_bytes),
            _ => None,
        })?;
        put(value.cast::<u64>(), figure.ok_or(Fault::InvalidValue)?)
    }

    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        let driver = Driver::get()?;
        if REUSE.contains(&attr.0) {
            get(value.cast::<c_int>())?;
            return driver.with_own_pool(pool as u64, |_| ());
        }
        let figure = get(value.cast::<u64>())?;
        driver.with_own_pool(pool as u64, |pool| match (attr.0, figure) {
            (RELEASE_THRESHOLD, bytes) => {
                pool.threshold_bytes = bytes;
                Ok(())
            }
            (6, 0) => {
                pool.reset_reserved_high();
                Ok(())
            }
            (8, 0) => {
                pool.reset_used_high();
                Ok(())
            }
            _ => Err(Fault::InvalidValue),
        })?
    }
}

twin_api! {
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(per_thread; dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) {
        allocate(dptr, bytesize, std::ptr::null_mut(), hStream, per_thread)
    }

    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(
        per_thread;
        dptr: *mut CUdeviceptr,
        bytesize: usize,
        pool: CUmemoryPool,
        hStream: CUstream,
    ) {
        if pool.is_null() {
            return Err(Fault::InvalidValue);
        }
        allocate(dptr, bytesize, pool, hStream, per_thread)
    }

    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(per_thread; dptr: CUdeviceptr, hStream: CUstream) {
        let driver = Driver::get()?;
        let stream = driver.stream(hStream as u64, per_thread)?;
        if driver.capture_free(dptr, stream)? {
            return Ok(());
        }
        driver.free_in_order(dptr, stream.id)
    }
}

/// The device that a location of the type "device" names.
pub(super) fn location_id(location: &CUmemLocation) -> c_int {
    // SAFETY: every member of the union is plain integers, and the type says that `id` is meant.
    unsafe { location.__bindgen_anon_1.id }
}

/// Makes a location of the type "device" name one.
pub(super) fn set_location_id(location: &mut CUmemLocation, device: c_int) {
    location.__bindgen_anon_1.id = device;
}
