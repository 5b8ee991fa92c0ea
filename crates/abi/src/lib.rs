//! The CUDA driver's and NVML's types and function-pointer types, generated from NVIDIA's headers, and the
//! coverage ledger.
//!
//! - [`cuda`]: every type of `cuda.h`, and `PFN_<function>_v<version>[_ptds|_ptsz]` for every version of every function,
//!   as a bare `unsafe extern "C" fn`. The number is the CUDA version that brought the function: `cuMemAlloc_v2` is
//!   [`cuda::PFN_cuMemAlloc_v3020`]. The ledger names the PFN type of each exported symbol.
//! - [`nvml`]: every type of `nvml.h`, `PFN_<function>` for every function, and the version words of structures, such
//!   as [`nvml::nvmlMemory_v2`].
//! - [`ledger`]: what cuota does about each function.
//!
//! A C enum is a `repr(transparent)` newtype around its integer, so that a value newer than the headers is no
//! undefined behaviour: `CUresult::CUDA_SUCCESS`, `CUresult(719)`.

#![no_std]

pub mod cuda;
pub mod ledger;
pub mod nvml;

/// The legacy default stream as an explicit handle, `CU_STREAM_LEGACY` of `cuda.h`: a cast that bindgen leaves out.
pub const CU_STREAM_LEGACY: cuda::CUstream = core::ptr::without_provenance_mut(1);

/// The calling thread's default stream as an explicit handle, `CU_STREAM_PER_THREAD` of `cuda.h`.
pub const CU_STREAM_PER_THREAD: cuda::CUstream = core::ptr::without_provenance_mut(2);
