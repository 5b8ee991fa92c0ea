//! The PFN types accept functions with the signatures of the CUDA and NVML documentation, written by hand.
//!
//! That this file compiles is the test; the assertions only keep the functions alive.

use core::ffi::{c_char, c_int, c_uint, c_void};

use cuota_abi::cuda::*;
use cuota_abi::nvml::*;

extern "C" fn mem_alloc(_: *mut CUdeviceptr, _bytes: usize) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn mem_alloc_of_32_bits(_: *mut c_uint, _bytes: c_uint) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn mem_alloc_async(_: *mut CUdeviceptr, _bytes: usize, _: CUstream) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn get_proc_address(_: *const c_char, _: *mut *mut c_void, _: c_int, _: u64) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn get_proc_address_v2(
    _: *const c_char,
    _: *mut *mut c_void,
    _: c_int,
    _: u64,
    _: *mut CUdriverProcAddressQueryResult,
) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn ctx_create_v2(_: *mut CUcontext, _flags: c_uint, _: CUdevice) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn mem_create(
    _: *mut CUmemGenericAllocationHandle,
    _bytes: usize,
    _: *const CUmemAllocationProp,
    _flags: u64,
) -> CUresult {
    CUresult::CUDA_SUCCESS
}

extern "C" fn memory_info_v2(_: nvmlDevice_t, _: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
    nvmlReturn_t::NVML_SUCCESS
}

#[test]
fn each_version_of_a_function_has_its_own_type() {
    let new: PFN_cuMemAlloc_v3020 = mem_alloc;
    let old: PFN_cuMemAlloc_v2000 = mem_alloc_of_32_bits;
    let two: PFN_cuGetProcAddress_v12000 = get_proc_address_v2;
    let one: PFN_cuGetProcAddress_v11030 = get_proc_address;
    let ctx: PFN_cuCtxCreate_v3020 = ctx_create_v2;
    let vmm: PFN_cuMemCreate_v10020 = mem_create;
    let all = [new as usize, old as usize, two as usize, one as usize, ctx as usize, vmm as usize];
    assert!(all.into_iter().all(|address| address != 0));
}

#[test]
fn a_per_thread_twin_has_the_type_of_the_plain_function() {
    let plain: PFN_cuMemAllocAsync_v11020 = mem_alloc_async;
    let twin: PFN_cuMemAllocAsync_v11020_ptsz = plain;
    assert_eq!(plain as usize, twin as usize);
}

#[test]
fn nvml_declarations_became_types() {
    let memory: PFN_nvmlDeviceGetMemoryInfo_v2 = memory_info_v2;
    assert_ne!(memory as usize, 0);
}

/// The text is searched, since a macro over 1,121 names would only repeat the generator.
#[test]
fn every_pfn_type_is_a_bare_function() {
    for module in [include_str!("../src/cuda.rs"), include_str!("../src/nvml.rs")] {
        for definition in module.split("pub type PFN_").skip(1) {
            let value = definition.split_once('=').unwrap().1.trim_start();
            assert!(
                value.starts_with("unsafe extern \"C\" fn("),
                "PFN_{}",
                definition.lines().next().unwrap()
            );
        }
    }
}

#[test]
fn a_missing_function_takes_no_extra_word() {
    assert_eq!(size_of::<Option<PFN_cuMemAlloc_v3020>>(), size_of::<usize>());
}
