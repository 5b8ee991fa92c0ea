//! Arrays and mipmapped arrays.

use super::{get, put};
use cuota_abi::cuda::{
    CUDA_ARRAY_DESCRIPTOR_v1, CUDA_ARRAY_DESCRIPTOR_v2, CUDA_ARRAY_MEMORY_REQUIREMENTS_v1,
    CUDA_ARRAY3D_DESCRIPTOR_v1, CUDA_ARRAY3D_DESCRIPTOR_v2, CUarray, CUarray_format, CUdevice,
    CUmipmappedArray,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use cuota_sim::memory::array::Shape;
use std::ffi::c_uint;

/// What `cuArrayGetMemoryRequirements` says of the alignment, measured on an H100.
const ALIGNMENT: usize = 65_536;

unsafe fn create<T>(to: *mut *mut T, shape: Shape, levels: u32) -> Answer<()> {
    if to.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(to, Driver::get()?.create_array(shape, levels)? as *mut T) }
}

fn flat(width: u64, height: u64, format: CUarray_format, channels: c_uint) -> Shape {
    Shape { width, height, depth: 0, format: format.0, channels, flags: 0 }
}

fn solid(descriptor: &CUDA_ARRAY3D_DESCRIPTOR_v2) -> Shape {
    let d = descriptor;
    let (width, height, depth) = (d.Width as u64, d.Height as u64, d.Depth as u64);
    Shape { width, height, depth, format: d.Format.0, channels: d.NumChannels, flags: d.Flags }
}

unsafe fn requirements(
    to: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS_v1,
    array: u64,
    device: CUdevice,
) -> Answer<()> {
    let driver = Driver::get()?;
    driver.gpu(device)?;
    let size = driver.array_requirement(array)? as usize;
    // SAFETY: null or valid by the caller's word; every field is a plain number.
    unsafe {
        let mut answer: CUDA_ARRAY_MEMORY_REQUIREMENTS_v1 = std::mem::zeroed();
        (answer.size, answer.alignment) = (size, ALIGNMENT);
        put(to, answer)
    }
}

driver_api! {
    fn cuArrayCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v1) {
        Driver::get()?.check_old_form()?;
        let d = get(pAllocateArray)?;
        create(pHandle, flat(u64::from(d.Width), u64::from(d.Height), d.Format, d.NumChannels), 0)
    }

    fn cuArrayCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v2) {
        let d = get(pAllocateArray)?;
        create(pHandle, flat(d.Width as u64, d.Height as u64, d.Format, d.NumChannels), 0)
    }

    fn cuArray3DCreate(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v1) {
        Driver::get()?.check_old_form()?;
        let d = get(pAllocateArray)?;
        let shape = flat(u64::from(d.Width), u64::from(d.Height), d.Format, d.NumChannels);
        create(pHandle, Shape { depth: u64::from(d.Depth), flags: d.Flags, ..shape }, 0)
    }

    fn cuArray3DCreate_v2(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v2) {
        create(pHandle, solid(&get(pAllocateArray)?), 0)
    }

    fn cuArrayDestroy(hArray: CUarray) {
        Driver::get()?.destroy_array(hArray as u64)
    }

    fn cuArrayGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR_v2, hArray: CUarray) {
        let (shape, _) = Driver::get()?.array(hArray as u64)?;
        put(pArrayDescriptor, CUDA_ARRAY_DESCRIPTOR_v2 {
            Width: shape.width as usize,
            Height: shape.height as usize,
            Format: CUarray_format(shape.format),
            NumChannels: shape.channels,
        })
    }

    fn cuArray3DGetDescriptor_v2(pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR_v2, hArray: CUarray) {
        let (shape, _) = Driver::get()?.array(hArray as u64)?;
        put(pArrayDescriptor, CUDA_ARRAY3D_DESCRIPTOR_v2 {
            Width: shape.width as usize,
            Height: shape.height as usize,
            Depth: shape.depth as usize,
            Format: CUarray_format(shape.format),
            NumChannels: shape.channels,
            Flags: shape.flags,
        })
    }

    fn cuArrayGetMemoryRequirements(
        memoryRequirements: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS_v1,
        array: CUarray,
        device: CUdevice,
    ) {
        requirements(memoryRequirements, array as u64, device)
    }

    fn cuMipmappedArrayCreate(
        pHandle: *mut CUmipmappedArray,
        pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR_v2,
        numMipmapLevels: c_uint,
    ) {
        if numMipmapLevels == 0 {
            return Err(Fault::InvalidValue);
        }
        create(pHandle, solid(&get(pMipmappedArrayDesc)?), numMipmapLevels)
    }

    fn cuMipmappedArrayDestroy(hMipmappedArray: CUmipmappedArray) {
        Driver::get()?.destroy_array(hMipmappedArray as u64)
    }

    fn cuMipmappedArrayGetLevel(pLevelArray: *mut CUarray, hMipmappedArray: CUmipmappedArray, level: c_uint) {
        if pLevelArray.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pLevelArray, Driver::get()?.array_level(hMipmappedArray as u64, level)? as CUarray)
    }

    fn cuMipmappedArrayGetMemoryRequirements(
        memoryRequirements: *mut CUDA_ARRAY_MEMORY_REQUIREMENTS_v1,
        mipmap: CUmipmappedArray,
        device: CUdevice,
    ) {
        requirements(memoryRequirements, mipmap as u64, device)
    }
}
