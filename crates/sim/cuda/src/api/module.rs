//! Modules, functions and what can be asked of them.

use super::put;
use cuota_abi::cuda::{
    CUdevice, CUdeviceptr, CUfunc_cache, CUfunction, CUfunction_attribute, CUjit_option, CUkernel, CUmodule,
    CUmoduleLoadingMode,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use cuota_sim::ptx::Kernel;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The image at the caller's pointer: PTX up to its final zero; empty where the first byte says that it is machine code
/// (ELF begins with 0x7f, a fatbin's wrapper with 0xb1, a fatbin with 0x50 0xed).
pub(super) unsafe fn image<'a>(code: *const c_void) -> Answer<&'a [u8]> {
    if code.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: an image of any kind has at least four bytes, and a text is a C string: by the caller's word.
    unsafe {
        let first = code.cast::<[u8; 2]>().read_unaligned();
        if first.iter().all(u8::is_ascii) && first[0] != 0x7f {
            return Ok(CStr::from_ptr(code.cast()).to_bytes());
        }
    }
    Ok(&[])
}

pub(super) unsafe fn name<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so a C string by the caller's word.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Fault::NotFound)
}

pub(super) unsafe fn read_file(path: *const c_char) -> Answer<Vec<u8>> {
    // SAFETY: null or a C string by the caller's word.
    let path = unsafe { name(path)? };
    std::fs::read(path).map_err(|_| Fault::FileNotFound)
}

unsafe fn load(module: *mut CUmodule, image: &[u8]) -> Answer<()> {
    if module.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(module, Driver::get()?.load_module(image)? as CUmodule) }
}

/// The attributes of a function: plausible ones, as the model compiles nothing, but for the local memory.
fn attribute(kernel: &Kernel, number: u32) -> Answer<c_int> {
    match number {
        0 => Ok(1024),
        1 | 2 => Ok(0),
        3 => Ok(c_int::try_from(kernel.needs.local_bytes).unwrap_or(c_int::MAX)),
        4 => Ok(32),
        5 | 6 => Ok(90),
        7 | 10..=17 => Ok(0),
        8 => Ok(49_152),
        9 => Ok(-1),
        _ => Err(Fault::InvalidValue),
    }
}

/// Only what a program may set: dynamic shared memory, carve-out, cluster.
fn check_settable(number: u32, value: c_int) -> Answer<()> {
    match (number, value) {
        (8, 0..=232_448) | (9, -1..=100) | (10..=17, _) => Ok(()),
        _ => Err(Fault::InvalidValue),
    }
}

/// Blocks of `threads` that fit one multiprocessor: 2,048 threads, 32 blocks, 228 KiB of shared memory.
fn blocks_that_fit(threads: c_int, shared_bytes: usize) -> Answer<c_int> {
    let threads =
        u64::try_from(threads).ok().filter(|t| (1..=1024).contains(t)).ok_or(Fault::InvalidValue)?;
    let by_threads = 2048 / threads.next_multiple_of(32);
    let by_shared = if shared_bytes == 0 { 32 } else { 233_472 / (shared_bytes as u64 + 1024) };
    Ok(by_threads.min(by_shared).min(32) as c_int)
}

driver_api! {
    fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) {
        load(module, &read_file(fname)?)
    }

    fn cuModuleLoadData(module: *mut CUmodule, image_: *const c_void) {
        load(module, image(image_)?)
    }

    fn cuModuleLoadDataEx(
        module: *mut CUmodule,
        image_: *const c_void,
        _numOptions: c_uint,
        _options: *mut CUjit_option,
        _optionValues: *mut *mut c_void,
    ) {
        load(module, image(image_)?)
    }

    fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) {
        // NVIDIA's takes fat binaries only; the text stands here for one that holds it.
        load(module, image(fatCubin)?)
    }

    fn cuModuleUnload(hmod: CUmodule) {
        Driver::get()?.unload_module(hmod as u64)
    }

    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name_: *const c_char) {
        put(hfunc, Driver::get()?.function(hmod as u64, name(name_)?)? as CUfunction)
    }

    fn cuModuleGetGlobal_v2(dptr: *mut CUdeviceptr, bytes: *mut usize, hmod: CUmodule, name_: *const c_char) {
        let (address, size) = Driver::get()?.variable(hmod as u64, name(name_)?)?;
        super::put_if_asked(dptr, address);
        super::put_if_asked(bytes, size as usize);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: *mut CUmoduleLoadingMode) {
        put(mode, CUmoduleLoadingMode(1))
    }

    fn cuFuncLoad(function: CUfunction) {
        Driver::get()?.kernel_function(function as u64).map(|_| ())
    }

    fn cuFuncGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, hfunc: CUfunction) {
        put(pi, attribute(&*Driver::get()?.kernel(hfunc as u64)?, attrib.0)?)
    }

    fn cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: c_int) {
        Driver::get()?.kernel(hfunc as u64)?;
        check_settable(attrib.0, value)
    }

    fn cuFuncSetCacheConfig(hfunc: CUfunction, config: CUfunc_cache) {
        Driver::get()?.kernel(hfunc as u64)?;
        if config.0 > 3 { Err(Fault::InvalidValue) } else { Ok(()) }
    }

    fn cuKernelGetAttribute(pi: *mut c_int, attrib: CUfunction_attribute, kernel: CUkernel, dev: CUdevice) {
        let driver = Driver::get()?;
        driver.gpu(dev)?;
        put(pi, attribute(&*driver.kernel(kernel as u64)?, attrib.0)?)
    }

    fn cuKernelSetAttribute(attrib: CUfunction_attribute, val: c_int, kernel: CUkernel, dev: CUdevice) {
        let driver = Driver::get()?;
        driver.gpu(dev)?;
        driver.kernel(kernel as u64)?;
        check_settable(attrib.0, val)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        numBlocks: *mut c_int,
        func: CUfunction,
        blockSize: c_int,
        dynamicSMemSize: usize,
    ) {
        Driver::get()?.kernel(func as u64)?;
        put(numBlocks, blocks_that_fit(blockSize, dynamicSMemSize)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks: *mut c_int,
        func: CUfunction,
        blockSize: c_int,
        dynamicSMemSize: usize,
        flags: c_uint,
    ) {
        Driver::get()?.kernel(func as u64)?;
        if flags > 1 {
            return Err(Fault::InvalidValue);
        }
        put(numBlocks, blocks_that_fit(blockSize, dynamicSMemSize)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_bounded_by_threads_blocks_and_shared_memory() {
        assert_eq!(blocks_that_fit(1024, 0), Ok(2));
        assert_eq!(blocks_that_fit(32, 0), Ok(32));
        assert_eq!(blocks_that_fit(32, 100_000), Ok(2));
        assert_eq!(blocks_that_fit(2048, 0), Err(Fault::InvalidValue));
    }
}
