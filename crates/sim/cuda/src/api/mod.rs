//! The modelled functions. A file is a subject; a function turns its arguments into numbers and calls the model.

use cuota_abi::cuda::CUresult;
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};

/// Declares C functions whose body gives an `Answer<()>`.
macro_rules! driver_api {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> cuota_abi::cuda::CUresult {
            #[allow(unused_unsafe, reason = "some functions take no pointers")]
            // SAFETY: the caller keeps the contract of CUDA's documentation: pointers are null or valid for their use.
            crate::api::to_result(stringify!($name), || unsafe { $body })
        }
    )* };
}

/// Declares a C function and its twin, in which stream 0 is the calling thread's own default stream. The body sees that
/// as the boolean named before the semicolon.
macro_rules! twin_api {
    ($(fn $name:ident | $twin:ident($per_thread:ident; $($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> cuota_abi::cuda::CUresult {
            #[allow(unused_variables, reason = "not each function asks")]
            let $per_thread = false;
            #[allow(unused_unsafe, reason = "some functions take no pointers")]
            // SAFETY: as in `driver_api`.
            crate::api::to_result(stringify!($name), || unsafe { $body })
        }
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $twin($($argument: $type),*) -> cuota_abi::cuda::CUresult {
            #[allow(unused_variables, reason = "not each function asks")]
            let $per_thread = true;
            #[allow(unused_unsafe, reason = "some functions take no pointers")]
            // SAFETY: as in `driver_api`.
            crate::api::to_result(stringify!($twin), || unsafe { $body })
        }
    )* };
}

mod array;
mod context;
mod device;
mod error;
mod event;
mod external;
mod graph;
mod graph_memory;
mod graph_update;
mod green;
mod ipc;
mod kernel_node;
mod launch;
mod legacy;
mod library;
mod memory;
mod module;
mod multicast;
mod pointer;
mod pool;
mod pool_sharing;
mod proc_address;
mod sparse;
mod stream;
mod transfer;
mod vmm;
mod watch;

pub(crate) use array::*;
pub(crate) use context::*;
pub(crate) use device::*;
pub(crate) use error::*;
pub(crate) use event::*;
pub(crate) use external::*;
pub(crate) use graph::*;
pub(crate) use graph_memory::*;
pub(crate) use graph_update::*;
pub(crate) use green::*;
pub(crate) use ipc::*;
pub(crate) use kernel_node::*;
pub(crate) use launch::*;
pub(crate) use legacy::*;
pub(crate) use library::*;
pub(crate) use memory::*;
pub(crate) use module::*;
pub(crate) use multicast::*;
pub(crate) use pointer::*;
pub(crate) use pool::*;
pub(crate) use pool_sharing::*;
pub(crate) use proc_address::*;
pub(crate) use sparse::*;
pub(crate) use stream::*;
pub(crate) use transfer::*;
pub(crate) use vmm::*;

fn to_result(name: &'static str, body: impl FnOnce() -> Answer<()>) -> CUresult {
    // "The host function must not make any CUDA API calls" (`cuLaunchHostFunc`); errors may be asked for their names.
    let answer = if Driver::is_in_host_function() && !name.starts_with("cuGetError") {
        Err(Fault::NotPermitted)
    } else if watch::breaks_rule(name) {
        Err(Fault::CaptureUnsupported)
    } else {
        body()
    };
    match answer {
        Ok(()) => CUresult::CUDA_SUCCESS,
        Err(fault) => CUresult(fault.code()),
    }
}

/// Writes an answer to the caller's pointer.
///
/// # Safety
/// `to` is null or valid for writes.
unsafe fn put<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so valid by the caller's word.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes an answer where the caller wants it: null says that it does not.
///
/// # Safety
/// `to` is null or valid for writes.
unsafe fn put_if_asked<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, so valid by the caller's word.
        unsafe { to.write(value) };
    }
}

/// Reads what the caller's pointer points to.
///
/// # Safety
/// `from` is null or valid for reads.
unsafe fn get<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so valid by the caller's word.
    Ok(unsafe { from.read() })
}

/// Writes `text` with its final zero into a buffer of `length` bytes, shortened where it does not fit.
///
/// # Safety
/// `to` is null or valid for writes of `length` bytes.
unsafe fn put_text(to: *mut std::ffi::c_char, length: i32, text: &str) -> Answer<()> {
    let room = usize::try_from(length).ok().and_then(|n| n.checked_sub(1)).ok_or(Fault::InvalidValue)?;
    if to.is_null() {
        return Err(Fault::InvalidValue);
    }
    let bytes = &text.as_bytes()[..text.len().min(room)];
    // SAFETY: at most `length - 1` bytes and the zero, into the caller's buffer of `length` bytes.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        to.cast::<u8>().add(bytes.len()).write(0);
    }
    Ok(())
}
