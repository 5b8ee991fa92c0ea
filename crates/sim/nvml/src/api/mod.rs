//! The modelled functions. A file is a subject.

use crate::machine::Answer;
use cuota_abi::nvml::nvmlReturn_t;
use std::ffi::{c_char, c_uint};

/// Declares C functions whose body gives an `Answer<()>`.
macro_rules! nvml_api {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> cuota_abi::nvml::nvmlReturn_t {
            #[allow(unused_unsafe, reason = "some functions take no pointers")]
            // SAFETY: the caller keeps the contract of NVML's documentation: pointers are null or valid for their use.
            crate::api::to_result(|| unsafe { $body })
        }
    )* };
}

mod device;
mod memory;
mod mig;
mod processes;
mod sensors;
mod system;

pub(crate) use device::*;
pub(crate) use memory::*;
pub(crate) use mig::*;
pub(crate) use processes::*;
pub(crate) use sensors::*;
pub(crate) use system::*;

fn to_result(body: impl FnOnce() -> Answer<()>) -> nvmlReturn_t {
    body().err().unwrap_or(nvmlReturn_t::NVML_SUCCESS)
}

/// Writes an answer to the caller's pointer.
///
/// # Safety
/// `to` is null or valid for writes.
unsafe fn put<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so valid by the caller's word.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes `text` with its final zero into a buffer of `length` bytes.
///
/// # Safety
/// `to` is null or valid for writes of `length` bytes.
unsafe fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Answer<()> {
    if to.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its zero fit into the caller's buffer of `length` bytes.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.cast::<u8>().add(text.len()).write(0);
    }
    Ok(())
}
