//! `libnvidia-ml.so.1` of the software GPU: the C functions of NVML above the model in `cuota-sim`.
//!
//! `api/` holds the functions that are modelled. Every other function that the ABI crate knows is exported too, answers
//! `NVML_ERROR_NOT_SUPPORTED`, and is named once in the log.

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the names and contracts are those of NVIDIA's NVML"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "C's widths: size_t is 64 bits where the model runs, the rest is narrowed as C does"
)]

mod api;
mod exports;
mod machine;
