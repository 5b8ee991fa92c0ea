//! Memory of several processes.

use super::put;
use cuota_abi::cuda::{CUdeviceptr, CUipcMemHandle, CUmemAllocationHandleType, CUmemGenericAllocationHandle};
use cuota_sim::driver::{Driver, IpcName};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, IntoRawFd};

/// The first word of an IPC handle.
const MAGIC: u64 = 0x6970_635f_6375_6f74;
const POSIX_FILE_DESCRIPTOR: CUmemAllocationHandleType =
    CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

fn to_handle(name: IpcName) -> CUipcMemHandle {
    let (process, device) = (u64::from(name.process), u64::from(name.device));
    let words = [MAGIC, process, device, name.object, name.offset, name.bytes];
    let mut reserved: [c_char; 64] = [0; 64];
    for (to, from) in reserved.iter_mut().zip(words.map(u64::to_le_bytes).concat()) {
        *to = from as c_char;
    }
    CUipcMemHandle { reserved }
}

fn from_handle(handle: &CUipcMemHandle) -> Answer<IpcName> {
    let bytes = handle.reserved.map(|b| b as u8);
    let mut words = bytes.chunks(8).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
    let mut next = || words.next().unwrap_or(0);
    if next() != MAGIC {
        return Err(Fault::InvalidValue);
    }
    let mut small = || u32::try_from(next()).map_err(|_| Fault::InvalidValue);
    let (process, device) = (small()?, small()?);
    Ok(IpcName { process, device, object: next(), offset: next(), bytes: next() })
}

unsafe fn open(pdptr: *mut CUdeviceptr, handle: &CUipcMemHandle, flags: c_uint) -> Answer<()> {
    // 1, "enable peer access lazily", is the only flag there is.
    if pdptr.is_null() || flags != 1 {
        return Err(Fault::InvalidValue);
    }
    let address = Driver::get()?.open_ipc(from_handle(handle)?)?;
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(pdptr, address) }
}

fn check_kind(kind: CUmemAllocationHandleType) -> Answer<()> {
    match kind {
        POSIX_FILE_DESCRIPTOR => Ok(()),
        CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC => Err(Fault::NotSupported),
        _ => Err(Fault::InvalidValue),
    }
}

driver_api! {
    fn cuIpcGetMemHandle(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) {
        if pHandle.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pHandle, to_handle(Driver::get()?.ipc_name(dptr)?))
    }

    fn cuIpcOpenMemHandle(pdptr: *mut CUdeviceptr, handle: CUipcMemHandle, Flags: c_uint) {
        open(pdptr, &handle, Flags)
    }

    fn cuIpcOpenMemHandle_v2(pdptr: *mut CUdeviceptr, handle: CUipcMemHandle, Flags: c_uint) {
        open(pdptr, &handle, Flags)
    }

    fn cuIpcCloseMemHandle(dptr: CUdeviceptr) {
        Driver::get()?.close_ipc(dptr)
    }

    fn cuMemExportToShareableHandle(
        shareableHandle: *mut c_void,
        handle: CUmemGenericAllocationHandle,
        handleType: CUmemAllocationHandleType,
        flags: c_ulonglong,
    ) {
        if shareableHandle.is_null() || flags != 0 {
            return Err(Fault::InvalidValue);
        }
        check_kind(handleType)?;
        put(shareableHandle.cast::<c_int>(), Driver::get()?.export_physical(handle)?.into_raw_fd())
    }

    fn cuMemImportFromShareableHandle(
        handle: *mut CUmemGenericAllocationHandle,
        osHandle: *mut c_void,
        shHandleType: CUmemAllocationHandleType,
    ) {
        if handle.is_null() {
            return Err(Fault::InvalidValue);
        }
        check_kind(shHandleType)?;
        let descriptor = c_int::try_from(osHandle as usize).map_err(|_| Fault::InvalidValue)?;
        // The descriptor stays the caller's, so it is not closed here.
        let file = ManuallyDrop::new(File::from_raw_fd(descriptor));
        put(handle, Driver::get()?.import_physical(&file)?)
    }
}
