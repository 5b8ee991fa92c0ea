//! Launches as CUDA 2 knew them.

use cuota_abi::cuda::{CUfunction, CUstream};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uint, c_void};

unsafe fn set(function: CUfunction, offset: c_int, bytes: &[u8]) -> Answer<()> {
    let offset = u64::try_from(offset).map_err(|_| Fault::InvalidValue)?;
    Driver::get()?.set_parameter(function as u64, offset, bytes)
}

fn launch(function: CUfunction, grid: [c_int; 2], stream: CUstream) -> Answer<()> {
    let side = |blocks: c_int| c_uint::try_from(blocks).map_err(|_| Fault::InvalidValue);
    let driver = Driver::get()?;
    let stream = driver.stream(stream as u64, false)?;
    driver.launch_as_set(function as u64, [side(grid[0])?, side(grid[1])?], stream)
}

driver_api! {
    fn cuFuncSetBlockShape(hfunc: CUfunction, x: c_int, y: c_int, z: c_int) {
        let side = |threads: c_int| c_uint::try_from(threads).map_err(|_| Fault::InvalidValue);
        Driver::get()?.set_block(hfunc as u64, [side(x)?, side(y)?, side(z)?])
    }

    fn cuFuncSetSharedSize(hfunc: CUfunction, bytes: c_uint) {
        Driver::get()?.set_shared(hfunc as u64, bytes)
    }

    fn cuParamSetSize(hfunc: CUfunction, numbytes: c_uint) {
        Driver::get()?.set_parameter_bytes(hfunc as u64, numbytes)
    }

    fn cuParamSeti(hfunc: CUfunction, offset: c_int, value: c_uint) {
        set(hfunc, offset, &value.to_le_bytes())
    }

    fn cuParamSetf(hfunc: CUfunction, offset: c_int, value: f32) {
        set(hfunc, offset, &value.to_le_bytes())
    }

    fn cuParamSetv(hfunc: CUfunction, offset: c_int, ptr: *mut c_void, numbytes: c_uint) {
        if ptr.is_null() {
            return Err(Fault::InvalidValue);
        }
        set(hfunc, offset, std::slice::from_raw_parts(ptr.cast::<u8>(), numbytes as usize))
    }

    fn cuLaunch(f: CUfunction) {
        launch(f, [1, 1], std::ptr::null_mut())
    }

    fn cuLaunchGrid(f: CUfunction, grid_width: c_int, grid_height: c_int) {
        launch(f, [grid_width, grid_height], std::ptr::null_mut())
    }

    fn cuLaunchGridAsync(f: CUfunction, grid_width: c_int, grid_height: c_int, hStream: CUstream) {
        launch(f, [grid_width, grid_height], hStream)
    }
}
