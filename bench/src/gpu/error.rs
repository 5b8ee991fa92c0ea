//! A failed driver call, by name.

use cudarc::driver::sys::CUresult;
use std::fmt;

/// A driver call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaError {
    /// The function that was called.
    pub call: &'static str,
    /// What it returned.
    pub result: CUresult,
}

impl CudaError {
    /// True when the driver, or what stands before it, had no memory to give.
    pub fn is_out_of_memory(&self) -> bool {
        self.result == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} returned {:?} ({})", self.call, self.result, self.result as u32)
    }
}

impl std::error::Error for CudaError {}

/// Turns a driver's status into a result that names the call.
#[inline]
pub fn check(call: &'static str, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        result => Err(CudaError { call, result }),
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
}
