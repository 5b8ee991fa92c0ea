//! Launching kernels. Their arguments are read as far as the model needs them: a cost, or a flag's address.

use super::get;
use cuota_abi::cuda::{CUDA_LAUNCH_PARAMS, CUfunction, CUlaunchConfig, CUstream};
use cuota_sim::driver::{Arguments, Driver, Shape};
use cuota_sim::error::{Answer, Fault};
use cuota_sim::ptx::Kernel;
use std::ffi::{c_uint, c_void};

/// The two ways in which arguments come: a pointer for each, or one buffer.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    pub(super) each: *mut *mut c_void,
    pub(super) extra: *mut *mut c_void,
}

const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

impl Passed {
    /// Copies the arguments. Where neither way is used, or one argument is null, they are empty: it is the kernel's matter
    /// whether it misses them.
    ///
    /// # Safety
    /// The pointers are those of a launch of `kernel`, as CUDA documents them.
    pub(super) unsafe fn read(self, kernel: &Kernel) -> Answer<Arguments> {
        // SAFETY: by the caller's word.
        let buffer = if self.extra.is_null() { std::ptr::null() } else { unsafe { self.buffer()? } };
        let mut all = Vec::with_capacity(kernel.parameters.len());
        for (place, parameter) in kernel.parameters.iter().enumerate() {
            let from = if !self.each.is_null() {
                // SAFETY: the array has an entry for each parameter.
                unsafe { self.each.add(place).read() }.cast::<u8>().cast_const()
            } else if !buffer.is_null() {
                buffer.wrapping_add(parameter.offset as usize)
            } else {
                std::ptr::null()
            };
            all.push(if from.is_null() {
                Box::default()
            } else {
                // SAFETY: the argument has as many bytes as the kernel declares.
                unsafe { std::slice::from_raw_parts(from, parameter.bytes as usize) }.into()
            });
        }
        Ok(Arguments::new(all))
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
    arguments: Passed,
) -> Answer<()> {
    let driver = Driver::get()?;
    let stream = driver.stream(stream as u64, per_thread)?;
    // SAFETY: the arguments are those of this launch.
    driver.launch(function as u64, shape, stream, |kernel| unsafe { arguments.read(kernel) })
}

/// The flags of `cuLaunchCooperativeKernelMultiDevice`: not to wait before or after on all devices.
const COOPERATIVE_FLAGS: c_uint = 3;

driver_api! {
    fn cuLaunchCooperativeKernelMultiDevice(
        launchParamsList: *mut CUDA_LAUNCH_PARAMS,
        numDevices: c_uint,
        flags: c_uint,
    ) {
        if launchParamsList.is_null() || numDevices == 0 || flags & !COOPERATIVE_FLAGS != 0 {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        // The default streams, 0 to 2, are not allowed, and each device only once.
        let all = std::slice::from_raw_parts(launchParamsList, numDevices as usize);
        let mut devices = Vec::new();
        for one in all {
            if one.hStream as usize <= 2 {
                return Err(Fault::InvalidValue);
            }
            devices.push(driver.stream(one.hStream as u64, false)?.device);
        }
        devices.sort_unstable();
        devices.dedup();
        if devices.len() != all.len() {
            return Err(Fault::InvalidValue);
        }
        for p in all {
            let shape = Shape {
                grid: [p.gridDimX, p.gridDimY, p.gridDimZ],
                block: [p.blockDimX, p.blockDimY, p.blockDimZ],
                shared_bytes: p.sharedMemBytes,
            };
            let passed = Passed { each: p.kernelParams, extra: std::ptr::null_mut() };
            launch(p.function, shape, p.hStream, false, passed)?;
        }
        Ok(())
    }
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
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gridDimX, gridDimY, gridDimZ], block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes };
        launch(f, shape, hStream, per_thread, Passed { each: kernelParams, extra })
    }

    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(
        per_thread;
        config: *const CUlaunchConfig,
        f: CUfunction,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let c = get(config)?;
        let shape = Shape { grid: [c.gridDimX, c.gridDimY, c.gridDimZ], block: [c.blockDimX, c.blockDimY, c.blockDimZ], shared_bytes: c.sharedMemBytes };
        if c.numAttrs > 0 {
            cuota_sim::log::once("cuLaunchKernelEx: launch attributes change nothing in the model");
        }
        launch(f, shape, c.hStream, per_thread, Passed { each: kernelParams, extra })
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
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gridDimX, gridDimY, gridDimZ], block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes };
        launch(f, shape, hStream, per_thread, Passed { each: kernelParams, extra: std::ptr::null_mut() })
    }
}
