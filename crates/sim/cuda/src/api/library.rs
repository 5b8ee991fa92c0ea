//! Libraries and their kernels.

use super::module::{image, name, read_file};
use super::{put, put_if_asked};
use cuota_abi::cuda::{
    CUdeviceptr, CUfunction, CUjit_option, CUkernel, CUlibrary, CUlibraryOption, CUmodule,
};
use cuota_sim::driver::Driver;
use cuota_sim::error::Fault;
use std::ffi::{c_char, c_uint, c_void};

driver_api! {
    fn cuLibraryLoadData(
        library: *mut CUlibrary,
        code: *const c_void,
        _jitOptions: *mut CUjit_option,
        _jitOptionsValues: *mut *mut c_void,
        _numJitOptions: c_uint,
        _libraryOptions: *mut CUlibraryOption,
        _libraryOptionValues: *mut *mut c_void,
        _numLibraryOptions: c_uint,
    ) {
        put(library, Driver::get()?.load_library(image(code)?)? as CUlibrary)
    }

    fn cuLibraryLoadFromFile(
        library: *mut CUlibrary,
        fileName: *const c_char,
        _jitOptions: *mut CUjit_option,
        _jitOptionsValues: *mut *mut c_void,
        _numJitOptions: c_uint,
        _libraryOptions: *mut CUlibraryOption,
        _libraryOptionValues: *mut *mut c_void,
        _numLibraryOptions: c_uint,
    ) {
        put(library, Driver::get()?.load_library(&read_file(fileName)?)? as CUlibrary)
    }

    fn cuLibraryUnload(library: CUlibrary) {
        Driver::get()?.unload_library(library as u64)
    }

    fn cuLibraryGetKernel(pKernel: *mut CUkernel, library: CUlibrary, name_: *const c_char) {
        put(pKernel, Driver::get()?.library_kernel(library as u64, name(name_)?)? as CUkernel)
    }

    fn cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary) {
        put(pMod, Driver::get()?.library_module(library as u64)? as CUmodule)
    }

    fn cuLibraryGetGlobal(dptr: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name_: *const c_char) {
        let driver = Driver::get()?;
        let (address, size) = driver.variable(driver.library_module(library as u64)?, name(name_)?)?;
        put_if_asked(dptr, address);
        put_if_asked(bytes, size as usize);
        Ok(())
    }

    fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) {
        put(pFunc, Driver::get()?.kernel_function(kernel as u64)? as CUfunction)
    }

    fn cuKernelGetLibrary(pLib: *mut CUlibrary, kernel: CUkernel) {
        put(pLib, Driver::get()?.kernel_library(kernel as u64)? as CUlibrary)
    }

    fn cuLibraryGetKernelCount(count: *mut c_uint, lib: CUlibrary) {
        put(count, Driver::get()?.kernel_count(lib as u64)? as c_uint)
    }

    fn cuLibraryEnumerateKernels(kernels: *mut CUkernel, numKernels: c_uint, lib: CUlibrary) {
        if kernels.is_null() || numKernels == 0 {
            return Err(Fault::InvalidValue);
        }
        for (place, kernel) in Driver::get()?.library_kernels(lib as u64, numKernels as usize)?.iter().enumerate() {
            kernels.add(place).write(*kernel as CUkernel);
        }
        Ok(())
    }
}
