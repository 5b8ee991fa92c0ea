//! Memory and events of several processes.

use super::{get, put};
use cuota_abi::cuda::{
    CUdeviceptr, CUevent, CUipcEventHandle, CUipcMemHandle, CUmemAllocationHandleType, CUmemFabricHandle,
    CUmemGenericAllocationHandle, CUmemRangeHandleType,
};
use cuota_sim::driver::{Driver, FABRIC, IpcEvent, IpcName, POSIX_DESCRIPTOR};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::shared::Label;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, IntoRawFd};

/// The first word of an IPC handle.
const MAGIC: u64 = 0x6970_635f_6375_6f74;
/// The first word of an IPC handle of an event.
const EVENT_MAGIC: u64 = 0x6576_656e_745f_6375;
/// The first word of a fabric handle.
const FABRIC_MAGIC: u64 = 0x6661_6272_6963_0001;

/// `CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE`, which changes nothing here.
const DMA_BUF_BY_PCIE: u64 = 1;

/// Eight words as the 64 bytes that travel between processes.
pub(super) fn pack(words: [u64; 8]) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The words of [`pack`].
pub(super) fn unpack(bytes: &[u8; 64]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = from.try_into().map_or(0, u64::from_le_bytes);
    }
    words
}

/// The file of a descriptor that a program passes as a pointer. It stays the program's, so it is not closed.
pub(super) unsafe fn descriptor(handle: *mut c_void) -> Answer<ManuallyDrop<File>> {
    let number = c_int::try_from(handle as usize).map_err(|_| Fault::InvalidValue)?;
    // SAFETY: the program's own descriptor, by its word.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(number) }))
}

fn to_handle(name: IpcName) -> CUipcMemHandle {
    let (process, device) = (u64::from(name.process), u64::from(name.device));
    let words = pack([MAGIC, process, device, name.object, name.offset, name.bytes, 0, 0]);
    CUipcMemHandle { reserved: words.map(|b| b as c_char) }
}

fn from_handle(handle: &CUipcMemHandle) -> Answer<IpcName> {
    let [magic, process, device, object, offset, bytes, ..] = unpack(&handle.reserved.map(|b| b as u8));
    if magic != MAGIC {
        return Err(Fault::InvalidValue);
    }
    let small = |word| u32::try_from(word).map_err(|_| Fault::InvalidValue);
    Ok(IpcName { process: small(process)?, device: small(device)?, object, offset, bytes })
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

fn unknown_kind(kind: CUmemAllocationHandleType) -> Fault {
    // Windows has the kinds 2 and 4.
    if matches!(kind.0, 2 | 4) { Fault::NotSupported } else { Fault::InvalidValue }
}

fn to_fabric(label: Label) -> CUmemFabricHandle {
    let words = [FABRIC_MAGIC, u64::from(label.device), label.id, label.bytes, 0, 0, 0, 0];
    CUmemFabricHandle { data: pack(words) }
}

fn from_fabric(handle: &CUmemFabricHandle) -> Answer<Label> {
    let [magic, device, id, bytes, ..] = unpack(&handle.data);
    let device = u32::try_from(device).map_err(|_| Fault::InvalidValue)?;
    if magic == FABRIC_MAGIC { Ok(Label { device, id, bytes }) } else { Err(Fault::InvalidValue) }
}

fn to_event(name: IpcEvent) -> CUipcEventHandle {
    let words = [EVENT_MAGIC, u64::from(name.process), u64::from(name.device), name.id, 0, 0, 0, 0];
    CUipcEventHandle { reserved: pack(words).map(|b| b as c_char) }
}

fn from_event(handle: &CUipcEventHandle) -> Answer<IpcEvent> {
    let [magic, process, device, id, ..] = unpack(&handle.reserved.map(|b| b as u8));
    if magic != EVENT_MAGIC {
        return Err(Fault::InvalidValue);
    }
    let small = |word| u32::try_from(word).map_err(|_| Fault::InvalidValue);
    Ok(IpcEvent { process: small(process)?, device: small(device)?, id })
}

driver_api! {
    fn cuIpcGetEventHandle(pHandle: *mut CUipcEventHandle, event: CUevent) {
        if pHandle.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pHandle, to_event(Driver::get()?.ipc_event(event as u64)?))
    }

    fn cuIpcOpenEventHandle(phEvent: *mut CUevent, handle: CUipcEventHandle) {
        if phEvent.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(phEvent, Driver::get()?.open_event(from_event(&handle)?)? as CUevent)
    }

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
        let driver = Driver::get()?;
        match handleType.0 {
            POSIX_DESCRIPTOR => put(shareableHandle.cast::<c_int>(), driver.export_physical(handle)?.into_raw_fd()),
            FABRIC => put(shareableHandle.cast::<CUmemFabricHandle>(), to_fabric(driver.export_fabric(handle)?)),
            _ => Err(unknown_kind(handleType)),
        }
    }

    fn cuMemGetHandleForAddressRange(
        handle: *mut c_void,
        dptr: CUdeviceptr,
        size: usize,
        handleType: CUmemRangeHandleType,
        flags: c_ulonglong,
    ) {
        let is_known = handleType == CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        if handle.is_null() || !is_known || flags & !DMA_BUF_BY_PCIE != 0 {
            return Err(Fault::InvalidValue);
        }
        put(handle.cast::<c_int>(), Driver::get()?.dma_buf(dptr, size as u64)?.into_raw_fd())
    }

    fn cuMemImportFromShareableHandle(
        handle: *mut CUmemGenericAllocationHandle,
        osHandle: *mut c_void,
        shHandleType: CUmemAllocationHandleType,
    ) {
        if handle.is_null() {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        match shHandleType.0 {
            POSIX_DESCRIPTOR => put(handle, driver.import_physical(&*descriptor(osHandle)?)?),
            FABRIC => {
                let label = from_fabric(&get(osHandle.cast::<CUmemFabricHandle>())?)?;
                put(handle, driver.import_fabric(label)?)
            }
            _ => Err(unknown_kind(shHandleType)),
        }
    }
}
