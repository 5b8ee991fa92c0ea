//! Multicast objects.

use super::{get, put};
use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUmemGenericAllocationHandle, CUmulticastGranularity_flags, CUmulticastObjectProp,
};
use cuota_sim::driver::{Binding, Driver};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::units::BLOCK;
use std::ffi::c_ulonglong;

/// Where something is bound. No flags exist.
fn at(
    multicast: CUmemGenericAllocationHandle,
    device: Option<CUdevice>,
    offset: usize,
    size: usize,
    flags: c_ulonglong,
) -> Answer<Binding> {
    if flags != 0 {
        return Err(Fault::InvalidValue);
    }
    Ok(Binding { multicast, device, offset: offset as u64, bytes: size as u64 })
}

driver_api! {
    fn cuMulticastGetGranularity(
        granularity: *mut usize,
        prop: *const CUmulticastObjectProp,
        option: CUmulticastGranularity_flags,
    ) {
        get(prop)?;
        if option.0 > 1 {
            return Err(Fault::InvalidValue);
        }
        put(granularity, BLOCK as usize)
    }

    fn cuMulticastCreate(mcHandle: *mut CUmemGenericAllocationHandle, prop: *const CUmulticastObjectProp) {
        let asked = get(prop)?;
        if mcHandle.is_null() || asked.flags != 0 {
            return Err(Fault::InvalidValue);
        }
        if asked.handleTypes != 0 {
            cuota_sim::log::once("multicast objects of several processes are not modelled: NOT_SUPPORTED");
            return Err(Fault::NotSupported);
        }
        put(mcHandle, Driver::get()?.create_multicast(asked.size as u64, asked.numDevices)?)
    }

    fn cuMulticastAddDevice(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice) {
        Driver::get()?.add_multicast_device(mcHandle, dev)
    }

    fn cuMulticastBindMem(
        mcHandle: CUmemGenericAllocationHandle,
        mcOffset: usize,
        memHandle: CUmemGenericAllocationHandle,
        memOffset: usize,
        size: usize,
        flags: c_ulonglong,
    ) {
        let place = at(mcHandle, None, mcOffset, size, flags)?;
        Driver::get()?.bind_multicast(place, memHandle, memOffset as u64)
    }

    fn cuMulticastBindMem_v2(
        mcHandle: CUmemGenericAllocationHandle,
        dev: CUdevice,
        mcOffset: usize,
        memHandle: CUmemGenericAllocationHandle,
        memOffset: usize,
        size: usize,
        flags: c_ulonglong,
    ) {
        let place = at(mcHandle, Some(dev), mcOffset, size, flags)?;
        Driver::get()?.bind_multicast(place, memHandle, memOffset as u64)
    }

    fn cuMulticastBindAddr(
        mcHandle: CUmemGenericAllocationHandle,
        mcOffset: usize,
        memptr: CUdeviceptr,
        size: usize,
        flags: c_ulonglong,
    ) {
        Driver::get()?.bind_multicast_address(at(mcHandle, None, mcOffset, size, flags)?, memptr)
    }

    fn cuMulticastBindAddr_v2(
        mcHandle: CUmemGenericAllocationHandle,
        dev: CUdevice,
        mcOffset: usize,
        memptr: CUdeviceptr,
        size: usize,
        flags: c_ulonglong,
    ) {
        Driver::get()?.bind_multicast_address(at(mcHandle, Some(dev), mcOffset, size, flags)?, memptr)
    }

    fn cuMulticastUnbind(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, size: usize) {
        Driver::get()?.unbind_multicast(mcHandle, dev, mcOffset as u64, size as u64)
    }
}
