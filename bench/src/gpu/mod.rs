//! The CUDA driver as a worker uses it: opened at run time like any program does, so through whatever is interposed.

pub mod bf16;
mod buffer;
mod device;
mod error;
mod fill;
mod functions;
mod further;
mod kernel;
mod library;
mod memory;
mod module;
mod peaks;
mod stream;

pub use buffer::{Buffer, Plain as PlainData};
pub use device::{Device, DeviceInfo, Gpu};
pub use error::{CudaError, check};
pub use fill::{Filled, fill};
pub use functions::{Both, Functions, FurtherFunctions, Launches, Side, as_a_program_finds_them};
pub use further::{Further, Taker};
pub use kernel::Touch;
pub use library::Library;
pub use memory::{PathKind, Plain, Pool, Taken, Vmm};
pub use module::{Arguments, Kernel, Module, Shape, Source, fill_bf16};
pub use peaks::Peaks;
pub use stream::{Event, Graph, Stream, StreamHandle};
