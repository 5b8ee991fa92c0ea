//! What can be asked of an address.

use super::put;
use cuota_abi::cuda::{CUcontext, CUdeviceptr, CUmemoryPool, CUpointer_attribute};
use cuota_sim::driver::{Driver, HostFacts, PointerFacts};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

/// `CU_MEMORYTYPE_HOST` and `CU_MEMORYTYPE_DEVICE`.
const HOST: c_uint = 1;
const DEVICE: c_uint = 2;

unsafe fn answer_device(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    at: u64,
    facts: &PointerFacts,
) -> Answer<()> {
    // SAFETY: `data` is null or valid for the attribute's type by the caller's word.
    unsafe {
        match attribute.0 {
            1 => put(data.cast::<CUcontext>(), facts.context as CUcontext),
            2 => put(data.cast::<c_uint>(), DEVICE),
            3 => put(data.cast::<CUdeviceptr>(), at),
            4 if facts.is_managed => put(data.cast::<*mut c_void>(), at as *mut c_void),
            6 | 10 | 15 => put(data.cast::<c_int>(), 0),
            7 => put(data.cast::<c_ulonglong>(), facts.id),
            8 => put(data.cast::<c_uint>(), c_uint::from(facts.is_managed)),
            9 => put(data.cast::<c_int>(), facts.device as c_int),
            11 => put(data.cast::<CUdeviceptr>(), facts.base),
            12 => put(data.cast::<usize>(), facts.bytes as usize),
            13 => put(data.cast::<u8>(), 1),
            14 => put(data.cast::<c_ulonglong>(), 0),
            16 => put(data.cast::<c_uint>(), 3),
            17 => put(data.cast::<CUmemoryPool>(), facts.pool as CUmemoryPool),
            18 => put(data.cast::<usize>(), facts.bytes as usize),
            19 => put(data.cast::<CUdeviceptr>(), facts.base),
            _ => Err(Fault::InvalidValue),
        }
    }
}

unsafe fn answer_host(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    at: u64,
    facts: &HostFacts,
) -> Answer<()> {
    // SAFETY: as in `answer_device`.
    unsafe {
        match attribute.0 {
            2 => put(data.cast::<c_uint>(), HOST),
            3 => put(data.cast::<CUdeviceptr>(), at),
            4 => put(data.cast::<*mut c_void>(), at as *mut c_void),
            8 => put(data.cast::<c_uint>(), 0),
            9 => put(data.cast::<c_int>(), 0),
            11 => put(data.cast::<CUdeviceptr>(), facts.base),
            12 => put(data.cast::<usize>(), facts.bytes as usize),
            13 => put(data.cast::<u8>(), 1),
            _ => Err(Fault::InvalidValue),
        }
    }
}

unsafe fn answer(data: *mut c_void, attribute: CUpointer_attribute, at: u64) -> Answer<()> {
    let driver = Driver::get()?;
    // SAFETY: as in `answer_device`.
    unsafe {
        if let Ok(facts) = driver.pointer(at) {
            return answer_device(data, attribute, at, &facts);
        }
        answer_host(data, attribute, at, &driver.host(at)?)
    }
}

/// Bytes that `cuPointerGetAttributes` zeroes where an attribute does not apply to the address.
fn width(attribute: CUpointer_attribute) -> usize {
    match attribute.0 {
        2 | 6 | 8 | 9 | 10 | 15 | 16 => 4,
        13 => 1,
        _ => 8,
    }
}

driver_api! {
    fn cuPointerGetAttribute(data: *mut c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr) {
        answer(data, attribute, ptr)
    }

    fn cuPointerGetAttributes(
        numAttributes: c_uint,
        attributes: *mut CUpointer_attribute,
        data: *mut *mut c_void,
        ptr: CUdeviceptr,
    ) {
        if numAttributes == 0 || attributes.is_null() || data.is_null() {
            return Err(Fault::InvalidValue);
        }
        Driver::get()?;
        for place in 0..numAttributes as usize {
            let (attribute, to) = (attributes.add(place).read(), data.add(place).read());
            if to.is_null() {
                return Err(Fault::InvalidValue);
            }
            // An address that CUDA does not know is no error here: its attributes are zero.
            if answer(to, attribute, ptr).is_err() {
                let unknown = if attribute.0 == 9 { 0xff } else { 0 };
                to.cast::<u8>().write_bytes(unknown, width(attribute));
            }
        }
        Ok(())
    }
}
