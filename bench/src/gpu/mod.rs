//! The CUDA driver as a worker uses it: opened at run time like any program does, so through whatever is interposed.

mod device;
mod error;
mod fill;
mod functions;
mod kernel;
mod memory;

pub use device::{Device, DeviceInfo, Gpu};
pub use error::{CudaError, check};
pub use fill::{Filled, fill};
pub use functions::{Both, Functions, Side, as_a_program_finds_them};
pub use kernel::Touch;
pub use memory::{PathKind, Plain, Pool, Taken, Vmm};
