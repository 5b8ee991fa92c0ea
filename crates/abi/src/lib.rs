//! The CUDA driver's and NVML's types and function-pointer types, generated from NVIDIA's headers, and the
//! coverage ledger.
//!
//! - [`cuda`]: every type of `cuda.h`, and `PFN_<function>_v<version>[_ptds|_ptsz]` for every version of every function,
//!   as a bare `unsafe extern "C" fn`. The number is the CUDA version that brought the function: `cuMemAlloc_v2` is
//!   [`cuda::PFN_cuMemAlloc_v3020`]. The ledger names the PFN type of each exported symbol.
//! - [`nvml`]: every type of `nvml.h`, and `PFN_<function>` for every function.
//!
//! A C enum is a `repr(transparent)` newtype around its integer, so that a value that is newer than the header is no
//! undefined behaviour: `CUresult::CUDA_SUCCESS`, `CUresult(719)`.

#![no_std]

pub mod cuda;
pub mod nvml;
