//! Plain, managed and pinned memory.

use super::{put, put_if_asked};
use cuota_abi::cuda::CUdeviceptr;
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_uint, c_void};

/// The step of pitched rows.
const PITCH: u64 = 512;

fn pitched(width: u64, height: u64, element: c_uint) -> Answer<(u64, u64)> {
    if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
        return Err(Fault::InvalidValue);
    }
    let pitch = width.checked_next_multiple_of(PITCH).ok_or(Fault::OutOfMemory)?;
    let bytes = pitch.checked_mul(height).ok_or(Fault::OutOfMemory)?;
    Ok((Driver::get()?.allocate(bytes)?, pitch))
}

fn free_and_total() -> Answer<(u64, u64)> {
    let driver = Driver::get()?;
    let device = driver.current_device()?;
    Ok(driver.gpu(device as i32)?.memory())
}

/// The 32-bit form of a size: as much of it as 32 bits can say.
fn narrow(bytes: u64) -> c_uint {
    c_uint::try_from(bytes).unwrap_or(c_uint::MAX)
}

/// The 32-bit form of a device address; the interface of CUDA 2 cannot name memory beyond 4 GiB.
fn narrow_address(address: u64) -> Answer<c_uint> {
    c_uint::try_from(address).or_else(|_| {
        Driver::get()?.free(address)?;
        cuota_sim::log::once(
            "a device address does not fit the 32 bits of CUDA 2's interface: NOT_SUPPORTED",
        );
        Err(Fault::NotSupported)
    })
}

driver_api! {
    fn cuMemAlloc(dptr: *mut c_uint, bytesize: c_uint) {
        Driver::get()?.check_old_form()?;
        if dptr.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(dptr, narrow_address(Driver::get()?.allocate(u64::from(bytesize))?)?)
    }

    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) {
        if dptr.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(dptr, Driver::get()?.allocate(bytesize as u64)?)
    }

    fn cuMemAllocPitch(
        dptr: *mut c_uint,
        pPitch: *mut c_uint,
        WidthInBytes: c_uint,
        Height: c_uint,
        ElementSizeBytes: c_uint,
    ) {
        Driver::get()?.check_old_form()?;
        if dptr.is_null() || pPitch.is_null() {
            return Err(Fault::InvalidValue);
        }
        let (address, pitch) = pitched(u64::from(WidthInBytes), u64::from(Height), ElementSizeBytes)?;
        put(pPitch, narrow(pitch))?;
        put(dptr, narrow_address(address)?)
    }

    fn cuMemAllocPitch_v2(
        dptr: *mut CUdeviceptr,
        pPitch: *mut usize,
        WidthInBytes: usize,
        Height: usize,
        ElementSizeBytes: c_uint,
    ) {
        if dptr.is_null() || pPitch.is_null() {
            return Err(Fault::InvalidValue);
        }
        let (address, pitch) = pitched(WidthInBytes as u64, Height as u64, ElementSizeBytes)?;
        put(pPitch, pitch as usize)?;
        put(dptr, address)
    }

    fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: c_uint) {
        if dptr.is_null() || !matches!(flags, 1 | 2) {
            return Err(Fault::InvalidValue);
        }
        put(dptr, Driver::get()?.allocate_managed(bytesize as u64)?)
    }

    fn cuMemFree(dptr: c_uint) {
        let driver = Driver::get()?;
        driver.check_old_form()?;
        driver.free(u64::from(dptr))
    }

    fn cuMemFree_v2(dptr: CUdeviceptr) {
        Driver::get()?.free(dptr)
    }

    fn cuMemGetInfo(free: *mut c_uint, total: *mut c_uint) {
        Driver::get()?.check_old_form()?;
        let figures = free_and_total()?;
        put(free, narrow(figures.0))?;
        put(total, narrow(figures.1))
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let figures = free_and_total()?;
        put(free, figures.0 as usize)?;
        put(total, figures.1 as usize)
    }

    fn cuMemGetAddressRange_v2(pbase: *mut CUdeviceptr, psize: *mut usize, dptr: CUdeviceptr) {
        let driver = Driver::get()?;
        driver.current_device()?;
        // A mapping of physical memory, which belongs to no context, is not found (measured on an H100).
        let facts = driver.pointer(dptr).ok().filter(|facts| facts.context != 0).ok_or(Fault::NotFound)?;
        put_if_asked(pbase, facts.base);
        put_if_asked(psize, facts.bytes as usize);
        Ok(())
    }

    fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint) {
        if pp.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pp, Driver::get()?.allocate_host(bytesize as u64, Flags)? as *mut c_void)
    }

    fn cuMemAllocHost(pp: *mut *mut c_void, bytesize: c_uint) {
        if pp.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pp, Driver::get()?.allocate_host(u64::from(bytesize), 0)? as *mut c_void)
    }

    fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) {
        if pp.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pp, Driver::get()?.allocate_host(bytesize as u64, 0)? as *mut c_void)
    }

    fn cuMemFreeHost(p: *mut c_void) {
        Driver::get()?.free_host(p as u64)
    }

    fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: c_uint) {
        Driver::get()?.register_host(p as u64, bytesize as u64, Flags)
    }

    fn cuMemHostUnregister(p: *mut c_void) {
        Driver::get()?.unregister_host(p as u64)
    }

    fn cuMemHostGetDevicePointer_v2(pdptr: *mut CUdeviceptr, p: *mut c_void, Flags: c_uint) {
        if Flags != 0 {
            return Err(Fault::InvalidValue);
        }
        Driver::get()?.host(p as u64)?;
        // Unified addressing: the device uses the host's own address.
        put(pdptr, p as u64)
    }

    fn cuMemHostGetFlags(pFlags: *mut c_uint, p: *mut c_void) {
        put(pFlags, Driver::get()?.host(p as u64)?.flags)
    }
}
