//! A failed driver call, by name.

use std::fmt;

use cudarc::driver::sys::CUresult;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;
/// `CUDA_ERROR_UNKNOWN`: no code of cuda.h is larger.
const LARGEST: u32 = 999;

/// What a function returned, as the number that it is: what stands in front of the driver can return any, also one that
/// cuda.h does not have, and an enumeration must never hold such a one.
pub trait Status {
    /// The number.
    fn code(self) -> u32;
}

impl Status for u32 {
    #[inline(always)]
    fn code(self) -> u32 {
        self
    }
}

impl Status for CUresult {
    #[inline(always)]
    fn code(self) -> u32 {
        self as u32
    }
}

/// A driver call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaError {
    /// The function that was called.
    pub call: &'static str,
    /// What it returned.
    pub code: u32,
}

impl CudaError {
    /// True when the driver, or what stands before it, had no memory to give.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// True when no driver returns this: a system's own no, which programs cannot understand.
    pub fn is_undefined(&self) -> bool {
        self.code > LARGEST
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.code) {
            Some(name) => write!(f, "{} returned {name} ({})", self.call, self.code),
            None if self.is_undefined() => {
                write!(f, "{} returned {}, which is no CUDA error", self.call, self.code.cast_signed())
            }
            None => write!(f, "{} returned CUDA error {}", self.call, self.code),
        }
    }
}

impl std::error::Error for CudaError {}

/// The names of the errors that measurements meet.
fn name(code: u32) -> Option<&'static str> {
    Some(match code {
        1 => "CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY",
        3 => "CUDA_ERROR_NOT_INITIALIZED",
        4 => "CUDA_ERROR_DEINITIALIZED",
        34 => "CUDA_ERROR_STUB_LIBRARY",
        100 => "CUDA_ERROR_NO_DEVICE",
        101 => "CUDA_ERROR_INVALID_DEVICE",
        200 => "CUDA_ERROR_INVALID_IMAGE",
        201 => "CUDA_ERROR_INVALID_CONTEXT",
        209 => "CUDA_ERROR_NO_BINARY_FOR_GPU",
        218 => "CUDA_ERROR_INVALID_PTX",
        222 => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        304 => "CUDA_ERROR_OPERATING_SYSTEM",
        400 => "CUDA_ERROR_INVALID_HANDLE",
        500 => "CUDA_ERROR_NOT_FOUND",
        600 => "CUDA_ERROR_NOT_READY",
        700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
        701 => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        702 => "CUDA_ERROR_LAUNCH_TIMEOUT",
        715 => "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        716 => "CUDA_ERROR_MISALIGNED_ADDRESS",
        719 => "CUDA_ERROR_LAUNCH_FAILED",
        800 => "CUDA_ERROR_NOT_PERMITTED",
        801 => "CUDA_ERROR_NOT_SUPPORTED",
        802 => "CUDA_ERROR_SYSTEM_NOT_READY",
        803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        805 => "CUDA_ERROR_MPS_CONNECTION_FAILED",
        LARGEST => "CUDA_ERROR_UNKNOWN",
        _ => return None,
    })
}

/// Turns a driver's status into a result that names the call.
#[inline(always)]
pub fn check(call: &'static str, status: impl Status) -> Result<(), CudaError> {
    match status.code() {
        0 => Ok(()),
        code => Err(CudaError { call, code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_and_the_code() {
        let error = check("cuMemAlloc_v2", CUresult::CUDA_ERROR_OUT_OF_MEMORY).unwrap_err();
        assert!(error.is_out_of_memory());
        assert_eq!(error.to_string(), "cuMemAlloc_v2 returned CUDA_ERROR_OUT_OF_MEMORY (2)");
        assert_eq!(check("cuInit", CUresult::CUDA_SUCCESS), Ok(()));
    }

    #[test]
    fn a_code_that_no_driver_has_is_told_and_is_no_want_of_memory() {
        let error = check("cuMemAllocAsync", u32::MAX).unwrap_err();
        assert!(error.is_undefined() && !error.is_out_of_memory());
        assert_eq!(error.to_string(), "cuMemAllocAsync returned -1, which is no CUDA error");
        let known = check("cuMemAlloc_v2", CUresult::CUDA_ERROR_UNKNOWN).unwrap_err();
        assert!(!known.is_undefined());
    }
}
