//! The smallest kernel whose result can be checked.

use std::ffi::{CString, c_void};
use std::ptr;

use anyhow::{Result, bail};
use cudarc::driver::sys;

use super::device::Gpu;
use super::error::check;

/// Committed PTX text, compiled by the driver when loaded, so that no toolkit is needed.
const PTX: &str = include_str!("../../kernels/touch.ptx");

/// A kernel that writes 1 to a word of device memory.
pub struct Touch {
    function: sys::CUfunction,
    word: sys::CUdeviceptr,
}

impl Touch {
    /// Loads the module and clears the word.
    pub fn load(_gpu: &Gpu) -> Result<Self> {
        let image = CString::new(PTX)?;
        let mut module = ptr::null_mut();
        let mut function = ptr::null_mut();
        let mut word = 0;
        // SAFETY: the outputs are writable; the image is NUL-terminated text, which cuModuleLoadData takes for PTX; a
        // context is current since a `Gpu` exists. Module and word live as long as the process.
        unsafe {
            check("cuModuleLoadData", sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()))?;
            check(
                "cuModuleGetFunction",
                sys::cuModuleGetFunction(&raw mut function, module, c"touch".as_ptr()),
            )?;
            check("cuMemAlloc_v2", sys::cuMemAlloc_v2(&raw mut word, 4))?;
            check("cuMemsetD8_v2", sys::cuMemsetD8_v2(word, 0, 4))?;
        }
        Ok(Self { function, word })
    }

    /// Launches one thread on the default stream.
    pub fn launch(&mut self) -> Result<()> {
        let mut parameters: [*mut c_void; 1] = [(&raw mut self.word).cast()];
        // SAFETY: the kernel takes one pointer, which `parameters` holds; the driver copies it during the call.
        Ok(check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                self.function,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                ptr::null_mut(),
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        })?)
    }

    /// Fails unless the kernel wrote what it should: a launch that computed nothing must not count as done.
    pub fn verify(&self) -> Result<()> {
        let mut value = 0_u32;
        // SAFETY: four bytes go from the word's allocation to `value`.
        check("cuMemcpyDtoH_v2", unsafe { sys::cuMemcpyDtoH_v2((&raw mut value).cast(), self.word, 4) })?;
        if value != 1 {
            bail!("the kernel ended and left {value} where it must write 1");
        }
        Ok(())
    }
}
