//! Memory pools and stream-ordered allocation.

use super::{get, put};
use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUmemLocation, CUmemPool_attribute, CUmemPoolProps, CUmemoryPool, CUstream,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_void};

/// The attributes that are switches of reuse; the model reuses memory in stream order whatever they say.
const REUSE: std::ops::RangeInclusive<u32> = 1..=3;
const RELEASE_THRESHOLD: u32 = 4;

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

    fn cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) {
        let properties = get(poolProps)?;
        if properties.location.type_.0 != 1 || properties.handleTypes.0 != 0 {
            // Host memory and pools to share with other processes are not modelled.
            return Err(Fault::NotSupported);
        }
        put(pool, Driver::get()?.create_pool(location_id(&properties.location))? as CUmemoryPool)
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
            driver.with_pool(pool as u64, |_| ())?;
            return put(value.cast::<c_int>(), 1);
        }
        let figure = driver.with_pool(pool as u64, |pool| match attr.0 {
            RELEASE_THRESHOLD => Some(pool.threshold_bytes),
            5 => Some(pool.reserved().current),
            6 => Some(pool.reserved().high),
            7 => Some(pool.used().current),
            8 => Some(pool.used().high),
            _ => None,
        })?;
        put(value.cast::<u64>(), figure.ok_or(Fault::InvalidValue)?)
    }

    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void) {
        let driver = Driver::get()?;
        if REUSE.contains(&attr.0) {
            get(value.cast::<c_int>())?;
            return driver.with_pool(pool as u64, |_| ());
        }
        let figure = get(value.cast::<u64>())?;
        driver.with_pool(pool as u64, |pool| match (attr.0, figure) {
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
