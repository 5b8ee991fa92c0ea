//! The driver's own look-up.
//!
//! The real function is asked with the caller's arguments untouched; where the pointer that comes back is the
//! real address of a hooked symbol, the hook takes its place. Identity by address is right for every version and
//! flag, and for drivers not yet written: which name, version and stream mode lead to which symbol stays the driver's
//! business.

use core::ffi::c_void;

use cuota_abi::cuda::CUresult;

use super::call::Call;
use super::table;

/// `cuGetProcAddress` of CUDA 11.3 and `cuGetProcAddress_v2` of CUDA 12.0.
pub(crate) unsafe extern "C" fn get_proc_address(call: &Call) -> CUresult {
    let status = call.make();
    let found: *mut *mut c_void = call.pointer(1);
    if status == CUresult::CUDA_SUCCESS
        // SAFETY: null, or the caller's, and written by the driver.
        && let Some(found) = unsafe { found.as_mut() }
        && let Some(hook) = table::replacing(*found)
    {
        *found = hook.hook();
    }
    status
}
