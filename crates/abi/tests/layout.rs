//! Layouts that cuota reads or writes, against figures taken from a C compiler.
//!
//! The generated modules assert every layout against libclang; these few guard the generator itself. The sizes are
//! those of `sizeof` under the headers of CUDA 12.0, 12.9, 13.0 and 13.5 alike, x86-64.

use core::mem::{align_of, offset_of, size_of};

use cuota_abi::cuda::*;
use cuota_abi::nvml::*;

#[test]
fn cuda_structures_have_the_sizes_of_the_c_compiler() {
    assert_eq!(size_of::<CUuuid>(), 16);
    assert_eq!(size_of::<CUdeviceptr>(), 8);
    assert_eq!(size_of::<CUmemGenericAllocationHandle>(), 8);
    assert_eq!(size_of::<CUmemLocation>(), 8);
    assert_eq!(size_of::<CUmemAllocationProp>(), 32);
    assert_eq!(offset_of!(CUmemAllocationProp, location), 8);
    assert_eq!(offset_of!(CUmemAllocationProp, allocFlags), 24);
    assert_eq!(size_of::<CUmemPoolProps>(), 88);
    assert_eq!(size_of::<CUmemPoolPtrExportData>(), 64);
    assert_eq!(size_of::<CUipcMemHandle>(), 64);
    assert_eq!(size_of::<CUDA_ARRAY_DESCRIPTOR>(), 24);
    assert_eq!(size_of::<CUDA_ARRAY3D_DESCRIPTOR>(), 40);
    assert_eq!(size_of::<CUDA_MEMCPY2D>(), 128);
    assert_eq!(size_of::<CUDA_MEMCPY3D>(), 200);
    assert_eq!(size_of::<CUDA_MEM_ALLOC_NODE_PARAMS>(), 120);
    assert_eq!(size_of::<CUDA_EXTERNAL_MEMORY_HANDLE_DESC>(), 104);
    assert_eq!(size_of::<CUlaunchConfig>(), 56);
    assert_eq!(size_of::<CUlaunchAttribute>(), 72);
}

#[test]
fn nvml_structures_have_the_sizes_of_the_c_compiler() {
    assert_eq!(size_of::<nvmlMemory_t>(), 24);
    assert_eq!(size_of::<nvmlMemory_v2_t>(), 40);
    assert_eq!(size_of::<nvmlProcessInfo_v1_t>(), 16);
    assert_eq!(size_of::<nvmlProcessInfo_t>(), 24);
    assert_eq!(size_of::<nvmlPciInfo_t>(), 68);
}

#[test]
fn nvml_version_word_is_size_and_number() {
    assert_eq!(nvmlMemory_v2, 0x0200_0028);
}

#[test]
fn sixty_four_ones_are_unsigned() {
    assert_eq!(NVML_DEVICE_MEMORY_LIMIT_MAX, u64::MAX);
}

#[test]
fn an_enum_is_its_integer() {
    assert_eq!((size_of::<CUresult>(), align_of::<CUresult>()), (4, 4));
    assert_eq!((size_of::<nvmlReturn_t>(), align_of::<nvmlReturn_t>()), (4, 4));
    assert_eq!(CUresult::CUDA_ERROR_OUT_OF_MEMORY, CUresult(2));
    assert_eq!(nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED.0, 3);
    assert_eq!(format!("{:?}", CUresult(719)), "CUresult(719)");
}

/// A value that the headers do not know must be no undefined behaviour: no Rust enum, only transparent newtypes.
#[test]
fn every_newtype_is_transparent_and_no_type_is_a_rust_enum() {
    for module in [include_str!("../src/cuda.rs"), include_str!("../src/nvml.rs")] {
        assert!(!module.contains("pub enum "));
        let lines: Vec<_> = module.lines().collect();
        let newtypes: Vec<_> = (0..lines.len())
            .filter(|&i| lines[i].starts_with("pub struct") && lines[i].contains('('))
            .collect();
        assert!(newtypes.len() > 50, "the search for newtypes finds only {}", newtypes.len());
        for i in newtypes {
            let attributes = lines[..i].iter().rev().take_while(|line| line.starts_with("#["));
            assert!(attributes.into_iter().any(|line| *line == "#[repr(transparent)]"), "{}", lines[i]);
        }
    }
}

#[test]
fn explicit_default_streams_are_one_and_two() {
    assert_eq!(cuota_abi::CU_STREAM_LEGACY.addr(), 1);
    assert_eq!(cuota_abi::CU_STREAM_PER_THREAD.addr(), 2);
}
