//! Start, end, versions, and the texts of errors.

use super::{put, put_text};
use crate::machine::Machine;
use cuota_abi::nvml::nvmlReturn_t;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The driver's version: not a real one, so that nobody takes the model for a card.
const DRIVER_VERSION: &str = "580.0-cuota-sim";
const NVML_VERSION: &str = "13.580.0-cuota-sim";

fn text(code: u32) -> &'static CStr {
    match code {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        13 => c"Function Not Found",
        17 => c"Operating System Error",
        25 => c"Argument Version Mismatch",
        _ => c"Unknown Error",
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    text(result.0).as_ptr()
}

nvml_api! {
    fn nvmlInit() {
        Machine::init()
    }

    fn nvmlInit_v2() {
        Machine::init()
    }

    fn nvmlInitWithFlags(flags: c_uint) {
        // 1: succeed without devices, 2: do not attach to them; the model does neither otherwise.
        if flags > 3 { Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT) } else { Machine::init() }
    }

    fn nvmlShutdown() {
        Machine::shutdown()
    }

    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) {
        Machine::get()?;
        put_text(version, length, DRIVER_VERSION)
    }

    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) {
        put_text(version, length, NVML_VERSION)
    }

    fn nvmlSystemGetCudaDriverVersion(cudaDriverVersion: *mut c_int) {
        put(cudaDriverVersion, cuota_sim::config::Config::from_environment().driver_version)
    }

    fn nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int) {
        put(cudaDriverVersion, cuota_sim::config::Config::from_environment().driver_version)
    }
}
