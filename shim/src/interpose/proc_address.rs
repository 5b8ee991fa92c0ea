//! The driver's own look-up.
//!
//! The real function is asked with the caller's arguments untouched; where the pointer that comes back is the
//! real address of a hooked symbol, the hook takes its place. Identity by address is right for every version and
//! flag, and for drivers not yet written: which name, version and stream mode lead to which symbol stays the driver's
//! business.

use core::ffi::{c_char, c_int, c_void};

use cuota_abi::cuda::{
    CUdriverProcAddressQueryResult, CUresult, PFN_cuGetProcAddress_v11030, PFN_cuGetProcAddress_v12000,
    cuuint64_t,
};

use super::table;

/// `cuGetProcAddress` of CUDA 11.3.
pub(crate) unsafe fn get_proc_address(
    real: PFN_cuGetProcAddress_v11030,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    version: c_int,
    flags: cuuint64_t,
) -> CUresult {
    // SAFETY: the caller's arguments.
    unsafe { hooked(real(symbol, pfn, version, flags), pfn) }
}

/// `cuGetProcAddress_v2` of CUDA 12.0.
pub(crate) unsafe fn get_proc_address_v2(
    real: PFN_cuGetProcAddress_v12000,
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    version: c_int,
    flags: cuuint64_t,
    symbol_status: *mut CUdriverProcAddressQueryResult,
) -> CUresult {
    // SAFETY: the caller's arguments.
    unsafe { hooked(real(symbol, pfn, version, flags, symbol_status), pfn) }
}

/// Puts the hook in the place of the real function that the driver has written to `pfn`.
///
/// # Safety
/// `pfn` is null or points to a pointer that the driver has written if the status is success.
unsafe fn hooked(status: CUresult, pfn: *mut *mut c_void) -> CUresult {
    if status == CUresult::CUDA_SUCCESS && !pfn.is_null() {
        // SAFETY: not null, and written, as the caller promises.
        let found = unsafe { &mut *pfn };
        if let Some(row) = table::replacing(*found) {
            *found = row.hook();
        }
    }
    status
}
