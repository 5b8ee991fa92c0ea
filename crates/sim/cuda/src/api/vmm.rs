//! Virtual memory management.

use super::{get, put};
use cuota_abi::cuda::{
    CUdeviceptr, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType,
};
use cuota_sim::driver::{Driver, FABRIC, POSIX_DESCRIPTOR};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::units::BLOCK;
use std::ffi::{c_int, c_ulonglong, c_void};

/// `CU_MEM_CREATE_USAGE_TILE_POOL`.
const TILE_POOL: u16 = 1;

/// The device that `properties` ask for. Memory of the host is not modelled.
fn device_of(properties: &CUmemAllocationProp) -> Answer<c_int> {
    if properties.type_ != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(Fault::InvalidValue);
    }
    if properties.location.type_ != CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE {
        return Err(Fault::NotSupported);
    }
    let device = super::pool::location_id(&properties.location);
    Driver::get()?.gpu(device)?;
    Ok(device)
}

driver_api! {
    fn cuMemAddressReserve(ptr: *mut CUdeviceptr, size: usize, alignment: usize, addr: CUdeviceptr, flags: c_ulonglong) {
        if ptr.is_null() || flags != 0 {
            return Err(Fault::InvalidValue);
        }
        put(ptr, Driver::get()?.reserve_addresses(size as u64, alignment as u64, addr)?)
    }

    fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) {
        Driver::get()?.unreserve_addresses(ptr, size as u64)
    }

    fn cuMemCreate(
        handle: *mut CUmemGenericAllocationHandle,
        size: usize,
        prop: *const CUmemAllocationProp,
        flags: c_ulonglong,
    ) {
        if handle.is_null() || flags != 0 {
            return Err(Fault::InvalidValue);
        }
        let properties = get(prop)?;
        let device = device_of(&properties)?;
        let kinds = properties.requestedHandleTypes.0;
        if kinds & !(POSIX_DESCRIPTOR | FABRIC) != 0 {
            return Err(Fault::NotSupported);
        }
        if properties.allocFlags.usage & !TILE_POOL != 0 {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        let made = driver.create_physical(size as u64, device)?;
        if properties.allocFlags.usage & TILE_POOL != 0 {
            driver.allow_tiles(made);
        }
        if kinds != 0 {
            driver.allow_export(made, kinds);
        }
        put(handle, made)
    }

    fn cuMemRelease(handle: CUmemGenericAllocationHandle) {
        Driver::get()?.release_physical(handle)
    }

    fn cuMemMap(
        ptr: CUdeviceptr,
        size: usize,
        offset: usize,
        handle: CUmemGenericAllocationHandle,
        flags: c_ulonglong,
    ) {
        if flags != 0 {
            return Err(Fault::InvalidValue);
        }
        Driver::get()?.map(ptr, size as u64, offset as u64, handle)
    }

    fn cuMemUnmap(ptr: CUdeviceptr, size: usize) {
        Driver::get()?.unmap(ptr, size as u64)
    }

    fn cuMemSetAccess(ptr: CUdeviceptr, size: usize, desc: *const CUmemAccessDesc, count: usize) {
        // One device, or none that can reach the other's memory: one entry is all that makes sense.
        if count != 1 {
            return Err(Fault::InvalidValue);
        }
        let wanted = get(desc)?;
        Driver::get()?.set_access(ptr, size as u64, wanted.flags.0)
    }

    fn cuMemGetAccess(flags: *mut c_ulonglong, location: *const CUmemLocation, ptr: CUdeviceptr) {
        get(location)?;
        put(flags, c_ulonglong::from(Driver::get()?.access(ptr)?))
    }

    fn cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, addr: *mut c_void) {
        if handle.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(handle, Driver::get()?.retain_physical(addr as u64)?)
    }

    fn cuMemGetAllocationGranularity(
        granularity: *mut usize,
        prop: *const CUmemAllocationProp,
        option: CUmemAllocationGranularity_flags,
    ) {
        device_of(&get(prop)?)?;
        if option.0 > 1 {
            return Err(Fault::InvalidValue);
        }
        put(granularity, BLOCK as usize)
    }

    fn cuMemGetAllocationPropertiesFromHandle(prop: *mut CUmemAllocationProp, handle: CUmemGenericAllocationHandle) {
        let driver = Driver::get()?;
        let device = driver.physical_device(handle)?;
        if prop.is_null() {
            return Err(Fault::InvalidValue);
        }
        let mut properties: CUmemAllocationProp = std::mem::zeroed();
        properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.requestedHandleTypes = CUmemAllocationHandleType(driver.exportable_as(handle));
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        super::pool::set_location_id(&mut properties.location, device as c_int);
        put(prop, properties)
    }
}
