//! Launching kernels. Their arguments are read as far as the model needs them: a cost, or a flag's address.

use super::get;
use cuota_abi::cuda::{CUfunction, CUlaunchConfig, CUstream};
use cuota_sim::driver::{Driver, Shape};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::ptx::Kernel;
use std::ffi::{c_uint, c_void};

/// The two ways in which arguments come: a pointer for each, or one buffer.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub(super) each: *mut *mut c_void,
    pub(super) extra: *mut *mut c_void,
}

const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

impl Arguments {
    /// The argument `number` as an integer: its first eight bytes, or as many as it has.
    ///
    /// # Safety
    /// The pointers are those of a launch of `kernel`, as CUDA documents them.
    pub(super) unsafe fn integer(self, kernel: &Kernel, number: u64) -> Answer<u64> {
        let place = usize::try_from(number).map_err(|_| Fault::InvalidValue)?;
        let parameter = *kernel.parameters.get(place).ok_or(Fault::InvalidValue)?;
        let bytes = parameter.bytes.min(8) as usize;
        // SAFETY: by the caller's word.
        let from = unsafe {
            if self.each.is_null() {
                self.buffer()?.wrapping_add(parameter.offset as usize)
            } else {
                self.each.add(place).read().cast::<u8>().cast_const()
            }
        };
        if from.is_null() {
            return Err(Fault::InvalidValue);
        }
        let mut value = [0; 8];
        // SAFETY: the argument has at least `bytes` bytes, by the kernel's declaration.
        unsafe { value.as_mut_ptr().copy_from_nonoverlapping(from, bytes) };
        Ok(u64::from_le_bytes(value))
    }

    /// The buffer that `extra` names: pairs of a key and a value, up to a null.
    unsafe fn buffer(self) -> Answer<*const u8> {
        if self.extra.is_null() {
            return Err(Fault::InvalidValue);
        }
        let mut at = self.extra;
        // SAFETY: by the caller's word the list ends with a null key.
        unsafe {
            while !at.read().is_null() {
                match at.read() as usize {
                    BUFFER_POINTER => return Ok(at.add(1).read().cast::<u8>().cast_const()),
                    BUFFER_SIZE => at = at.add(2),
                    _ => return Err(Fault::InvalidValue),
                }
            }
        }
        Err(Fault::InvalidValue)
    }
}

unsafe fn launch(
    function: CUfunction,
    shape: Shape,
    stream: CUstream,
    per_thread: bool,
    arguments: Arguments,
) -> Answer<()> {
    let driver = Driver::get()?;
    let stream = driver.stream(stream as u64, per_thread)?;
    // SAFETY: the arguments are those of this launch.
    driver
        .launch(function as u64, shape, stream, |kernel, number| unsafe { arguments.integer(kernel, number) })
}

twin_api! {
    fn cuLaunchKernel | cuLaunchKernel_ptsz(
        per_thread;
        f: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        _sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gridDimX, gridDimY, gridDimZ], block: [blockDimX, blockDimY, blockDimZ] };
        launch(f, shape, hStream, per_thread, Arguments { each: kernelParams, extra })
    }

    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(
        per_thread;
        config: *const CUlaunchConfig,
        f: CUfunction,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let c = get(config)?;
        let shape = Shape { grid: [c.gridDimX, c.gridDimY, c.gridDimZ], block: [c.blockDimX, c.blockDimY, c.blockDimZ] };
        if c.numAttrs > 0 {
            cuota_sim::log::once("cuLaunchKernelEx: launch attributes change nothing in the model");
        }
        launch(f, shape, c.hStream, per_thread, Arguments { each: kernelParams, extra })
    }

    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(
        per_thread;
        f: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        _sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gridDimX, gridDimY, gridDimZ], block: [blockDimX, blockDimY, blockDimZ] };
        launch(f, shape, hStream, per_thread, Arguments { each: kernelParams, extra: std::ptr::null_mut() })
    }
}
