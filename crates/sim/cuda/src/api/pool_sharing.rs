//! Pools of several processes, and who may use a pool's memory.

use super::ipc::{descriptor, pack, unpack};
use super::pool::location_id;
use super::{get, put};
use cuota_abi::cuda::{
    CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationHandleType, CUmemLocation,
    CUmemPoolPtrExportData, CUmemoryPool,
};
use cuota_sim::driver::{Driver, PoolPointer};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::shared::PoolLabel;
use std::ffi::{c_int, c_ulonglong, c_void};
use std::os::fd::IntoRawFd;

/// The first word of an exported pointer.
const MAGIC: u64 = 0x7074_725f_6375_6f74;
const READ_WRITE: u32 = 3;

fn check_kind(kind: CUmemAllocationHandleType, flags: c_ulonglong) -> Answer<()> {
    match (kind.0, flags) {
        (1, 0) => Ok(()),
        (8, 0) => Err(Fault::NotSupported),
        _ => Err(Fault::InvalidValue),
    }
}

/// Whether a location is the pool's own device.
fn is_own(pool: CUmemoryPool, location: &CUmemLocation) -> Answer<bool> {
    let driver = Driver::get()?;
    let own = driver.with_pool(pool as u64, |pool| pool.device)?;
    if location.type_.0 != 1 {
        return Err(Fault::InvalidValue);
    }
    Ok(driver.gpu(location_id(location))?.ordinal() == own)
}

driver_api! {
    fn cuMemPoolExportToShareableHandle(
        handle_out: *mut c_void,
        pool: CUmemoryPool,
        handleType: CUmemAllocationHandleType,
        flags: c_ulonglong,
    ) {
        check_kind(handleType, flags)?;
        if handle_out.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(handle_out.cast::<c_int>(), Driver::get()?.export_pool(pool as u64)?.into_raw_fd())
    }

    fn cuMemPoolImportFromShareableHandle(
        pool_out: *mut CUmemoryPool,
        handle: *mut c_void,
        handleType: CUmemAllocationHandleType,
        flags: c_ulonglong,
    ) {
        check_kind(handleType, flags)?;
        if pool_out.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pool_out, Driver::get()?.import_pool(&*descriptor(handle)?)? as CUmemoryPool)
    }

    fn cuMemPoolExportPointer(shareData_out: *mut CUmemPoolPtrExportData, ptr: CUdeviceptr) {
        if shareData_out.is_null() {
            return Err(Fault::InvalidValue);
        }
        let p = Driver::get()?.export_pool_pointer(ptr)?;
        let (process, device) = (u64::from(p.pool.process), u64::from(p.pool.device));
        let reserved = pack([MAGIC, process, device, p.pool.pool, p.object, p.offset, p.bytes, 0]);
        put(shareData_out, CUmemPoolPtrExportData { reserved })
    }

    fn cuMemPoolImportPointer(
        ptr_out: *mut CUdeviceptr,
        pool: CUmemoryPool,
        shareData: *mut CUmemPoolPtrExportData,
    ) {
        let [magic, process, device, handle, object, offset, bytes, _] = unpack(&get(shareData)?.reserved);
        if ptr_out.is_null() || magic != MAGIC {
            return Err(Fault::InvalidValue);
        }
        let small = |word| u32::try_from(word).map_err(|_| Fault::InvalidValue);
        let label = PoolLabel { process: small(process)?, device: small(device)?, pool: handle };
        let pointer = PoolPointer { pool: label, object, offset, bytes };
        put(ptr_out, Driver::get()?.import_pool_pointer(pool as u64, pointer)?)
    }

    fn cuMemPoolSetAccess(pool: CUmemoryPool, map: *const CUmemAccessDesc, count: usize) {
        if map.is_null() {
            return Err(Fault::InvalidValue);
        }
        for place in 0..count {
            let wanted = map.add(place).read();
            // Its own device has access, which cannot be taken away; no other one can reach it.
            if !is_own(pool, &wanted.location)? {
                return Err(Fault::InvalidDevice);
            }
            if wanted.flags.0 != READ_WRITE {
                return Err(Fault::InvalidValue);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: *mut CUmemAccess_flags, memPool: CUmemoryPool, location: *mut CUmemLocation) {
        let access = if is_own(memPool, &get(location)?)? { READ_WRITE } else { 0 };
        put(flags, CUmemAccess_flags(access))
    }
}
