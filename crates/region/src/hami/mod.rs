//! What HAMi, and FCSP beside it, give a container: variables, and a file that HAMi's monitor reads.
//!
//! - [`variables`]: what the environment asks for.
//! - [`layout`]: the monitor's file, offset by offset.
//! - [`mod@file`]: the file as a process of the container uses it.
//! - [`own`]: where our own files lie.
//! - [`search`]: where the file is, when the environment was emptied.
//!
//! The file is the container's and the monitor's: limits can be changed in it while programs run. Nothing of ours rests on it but the
//! limits: what is booked stands in the tenant's own file, as everywhere.

pub mod file;
pub mod layout;
pub mod own;
pub mod search;
pub mod variables;

/// The monitor's file where no variable names one.
pub const DEFAULT_FILE: &[u8] = b"/tmp/cudevshr.cache";

/// The library's name in HAMi's containers, with the slash before it.
pub const LIBRARY: &[u8] = b"/libvgpu.so";

/// What the name of the directory with our own files ends in where it must lie beside the monitor's file.
pub const DIRECTORY_SUFFIX: &[u8] = b".cuota";

/// How many devices the monitor's file, and a numbered variable, can name.
pub const DEVICES: usize = 16;
