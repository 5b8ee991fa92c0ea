//! External memory.

use super::{get, put};
use cuota_abi::cuda::{
    CUDA_EXTERNAL_MEMORY_BUFFER_DESC, CUDA_EXTERNAL_MEMORY_HANDLE_DESC,
    CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC, CUdeviceptr, CUexternalMemory, CUmipmappedArray,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::Fault;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

/// `CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD`.
const OPAQUE_FD: u32 = 1;
/// `CUDA_EXTERNAL_MEMORY_DEDICATED`.
const DEDICATED: u32 = 1;

driver_api! {
    fn cuImportExternalMemory(
        extMem_out: *mut CUexternalMemory,
        memHandleDesc: *const CUDA_EXTERNAL_MEMORY_HANDLE_DESC,
    ) {
        let asked = get(memHandleDesc)?;
        if extMem_out.is_null() || asked.flags & !DEDICATED != 0 || asked.type_.0 == 0 {
            return Err(Fault::InvalidValue);
        }
        if asked.type_.0 != OPAQUE_FD {
            cuota_sim::log::once(&format!("external memory of type {} is not modelled: NOT_SUPPORTED", asked.type_.0));
            return Err(Fault::NotSupported);
        }
        if asked.handle.fd < 0 {
            return Err(Fault::InvalidValue);
        }
        let file = ManuallyDrop::new(File::from_raw_fd(asked.handle.fd));
        let external = Driver::get()?.import_external(&file, asked.size)?;
        // From here on the descriptor is the driver's, which needs it no longer.
        drop(ManuallyDrop::into_inner(file));
        put(extMem_out, external as CUexternalMemory)
    }

    fn cuExternalMemoryGetMappedBuffer(
        devPtr: *mut CUdeviceptr,
        extMem: CUexternalMemory,
        bufferDesc: *const CUDA_EXTERNAL_MEMORY_BUFFER_DESC,
    ) {
        let asked = get(bufferDesc)?;
        if devPtr.is_null() || asked.flags != 0 {
            return Err(Fault::InvalidValue);
        }
        put(devPtr, Driver::get()?.map_external(extMem as u64, asked.offset, asked.size)?)
    }

    fn cuExternalMemoryGetMappedMipmappedArray(
        _mipmap: *mut CUmipmappedArray,
        _extMem: CUexternalMemory,
        _mipmapDesc: *const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC,
    ) {
        cuota_sim::log::once("arrays in external memory are not modelled: CUDA_ERROR_NOT_SUPPORTED");
        Err(Fault::NotSupported)
    }

    fn cuDestroyExternalMemory(extMem: CUexternalMemory) {
        Driver::get()?.destroy_external(extMem as u64)
    }
}
