//! `libcuda.so.1` of the software GPU: the C functions of the CUDA driver API above the model in `cuota-sim`.
//!
//! `api/` holds the functions that are modelled, by subject. Every other function of every CUDA release that the ABI
//! crate knows is exported too, answers `CUDA_ERROR_NOT_SUPPORTED`, and is named once in the log.

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the names and contracts are those of NVIDIA's CUDA driver API"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "C's widths: size_t and CUdeviceptr are 64 bits where the model runs, the rest is narrowed as C does"
)]

mod api;
mod exports;
