//! Finding functions by name: the address of the exported symbol itself, for the name, version and kind of default stream.

use super::put;
use crate::exports::{EXPORTS, Export};
use cuota_abi::cuda::{CUdriverProcAddressQueryResult, CUuuid, cuuint64_t};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{CStr, c_char, c_int, c_void};

const PER_THREAD_DEFAULT_STREAM: u64 = 2;

enum Found {
    Function(*const ()),
    TooNew,
    Unknown,
}

fn find(name: &str, version: i32, flags: u64) -> Found {
    let named: Vec<&Export> = EXPORTS.iter().filter(|e| e.base == name).collect();
    let new_enough: Vec<&&Export> =
        named.iter().filter(|e| i64::from(e.version) <= i64::from(version)).collect();
    let newest = |per_thread| {
        new_enough.iter().filter(|e| e.per_thread == per_thread).max_by_key(|e| e.version).map(|e| e.address)
    };
    let twin = if flags & PER_THREAD_DEFAULT_STREAM != 0 { newest(true) } else { None };
    match twin.or_else(|| newest(false)) {
        Some(address) => Found::Function(address),
        None if named.is_empty() => Found::Unknown,
        None => Found::TooNew,
    }
}

unsafe fn look_up(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut CUdriverProcAddressQueryResult,
) -> Answer<()> {
    if symbol.is_null() || flags > 3 {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so a C string by the caller's word.
    let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let (address, result) = match find(&name, version, flags) {
        Found::Function(address) => (address, CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS),
        Found::TooNew => {
            (std::ptr::null(), CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)
        }
        Found::Unknown => {
            cuota_sim::log::once(&format!("cuGetProcAddress: {name} is unknown"));
            (std::ptr::null(), CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)
        }
    };
    // SAFETY: `pfn` and `status` are null or valid by the caller's word.
    unsafe {
        put(pfn, address.cast_mut().cast())?;
        super::put_if_asked(status, result);
    }
    if address.is_null() { Err(Fault::NotFound) } else { Ok(()) }
}

driver_api! {
    fn cuGetProcAddress(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: c_int, flags: cuuint64_t) {
        look_up(symbol, pfn, cudaVersion, flags, std::ptr::null_mut())
    }

    fn cuGetProcAddress_v2(
        symbol: *const c_char,
        pfn: *mut *mut c_void,
        cudaVersion: c_int,
        flags: cuuint64_t,
        symbolStatus: *mut CUdriverProcAddressQueryResult,
    ) {
        look_up(symbol, pfn, cudaVersion, flags, symbolStatus)
    }

    fn cuGetExportTable(ppExportTable: *mut *const c_void, pExportTableId: *const CUuuid) {
        let id: Vec<String> = super::get(pExportTableId)?.bytes.iter().map(|b| format!("{b:02x}")).collect();
        cuota_sim::log::once(&format!("cuGetExportTable: no table {}", id.concat()));
        put(ppExportTable, std::ptr::null())?;
        Err(Fault::NotFound)
    }
}
