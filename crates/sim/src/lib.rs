//! A software GPU. Processes that load its `libcuda.so.1` share one modelled device; its `libnvidia-ml.so.1` reports on it.
//! This crate is the model; the sub-crates `cuda` and `nvml` are the two libraries' C functions. What is modelled and what
//! is not: `docs/software-gpu.md`.
//!
//! - [`config`]: what the environment says; [`log`]: what the model was asked and does not know.
//! - [`shared`]: what the processes share: each one's memory, and the turns of [`mod@slice`].
//! - [`memory`]: blocks, pools, mappings, and the host memory behind them.
//! - [`gpu`]: one device as one process sees it; [`driver`]: all that one process has.

pub mod clock;
pub mod config;
pub mod driver;
pub mod engine;
pub mod error;
pub mod gpu;
pub mod log;
pub mod memory;
pub mod mig;
pub mod ptx;
pub mod shared;
pub mod slice;
pub mod units;
pub mod visible;
