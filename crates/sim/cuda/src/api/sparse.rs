//! Memory mapped into arrays.

use super::put;
use cuota_abi::cuda::{
    CUDA_ARRAY_SPARSE_PROPERTIES, CUarray, CUarrayMapInfo, CUmipmappedArray, CUresourcetype, CUstream,
};
use cuota_sim::driver::{ArrayMapping, Driver};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::memory::sparse::Region;
use std::ffi::c_uint;

unsafe fn properties(to: *mut CUDA_ARRAY_SPARSE_PROPERTIES, array: u64) -> Answer<()> {
    let found = Driver::get()?.sparse_properties(array)?;
    // SAFETY: null or valid by the caller's word; every field is a plain number.
    unsafe {
        let mut answer: CUDA_ARRAY_SPARSE_PROPERTIES = std::mem::zeroed();
        let [width, height, depth] = found.tile.map(|side| side as c_uint);
        (answer.tileExtent.width, answer.tileExtent.height, answer.tileExtent.depth) = (width, height, depth);
        (answer.miptailFirstLevel, answer.miptailSize) = (found.tail_level, found.tail_bytes);
        put(to, answer)
    }
}

/// What one entry of the caller's list asks for.
fn mapping(info: &CUarrayMapInfo) -> Answer<ArrayMapping> {
    if info.flags != 0 || info.deviceBitMask.count_ones() != 1 || info.memHandleType.0 != 0 {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: every member of the unions is plain numbers or a pointer that is not followed; the types say which is meant.
    let (array, handle, level, tail) = unsafe {
        let array = match info.resourceType {
            CUresourcetype::CU_RESOURCE_TYPE_ARRAY => info.resource.array as u64,
            CUresourcetype::CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => info.resource.mipmap as u64,
            _ => return Err(Fault::InvalidValue),
        };
        (array, info.memHandle.memHandle, info.subresource.sparseLevel, info.subresource.miptail)
    };
    let region = match info.subresourceType.0 {
        0 => Region::Level {
            level: level.level,
            layer: level.layer,
            offset: [level.offsetX, level.offsetY, level.offsetZ].map(u64::from),
            extent: [level.extentWidth, level.extentHeight, level.extentDepth].map(u64::from),
        },
        1 => Region::Tail { layer: tail.layer, offset: tail.offset, bytes: tail.size },
        _ => return Err(Fault::InvalidValue),
    };
    let memory = match info.memOperationType.0 {
        1 => Some((handle, info.offset)),
        2 if handle == 0 => None,
        _ => return Err(Fault::InvalidValue),
    };
    Ok(ArrayMapping { array, region, memory })
}

driver_api! {
    fn cuArrayGetSparseProperties(sparseProperties: *mut CUDA_ARRAY_SPARSE_PROPERTIES, array: CUarray) {
        properties(sparseProperties, array as u64)
    }

    fn cuMipmappedArrayGetSparseProperties(
        sparseProperties: *mut CUDA_ARRAY_SPARSE_PROPERTIES,
        mipmap: CUmipmappedArray,
    ) {
        properties(sparseProperties, mipmap as u64)
    }
}

twin_api! {
    fn cuMemMapArrayAsync | cuMemMapArrayAsync_ptsz(
        per_thread;
        mapInfoList: *mut CUarrayMapInfo,
        count: c_uint,
        hStream: CUstream,
    ) {
        if mapInfoList.is_null() || count == 0 {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        let stream = driver.stream(hStream as u64, per_thread)?;
        let list = std::slice::from_raw_parts(mapInfoList, count as usize);
        let mappings = list.iter().map(mapping).collect::<Answer<Vec<_>>>()?;
        driver.map_arrays(&mappings, stream)
    }
}
