//! Modules and libraries: their code and global variables take memory that no call names beforehand.
//!
//! What a load took is seen by the device's free memory; a load that took much is checked against NVML's figure for this
//! process, and undone where it does not fit the quota.

use core::ffi::{c_char, c_uint, c_void};

use cuota_abi::cuda::{
    CUdeviceptr, CUdeviceptr_v1, CUfunction, CUjit_option, CUkernel, CUlibrary, CUlibraryOption, CUmodule,
    CUresult, PFN_cuFuncLoad_v12040, PFN_cuKernelGetFunction_v12000, PFN_cuLibraryGetGlobal_v12000,
    PFN_cuLibraryGetKernel_v12000, PFN_cuLibraryGetModule_v12000, PFN_cuLibraryGetUnifiedFunction_v12000,
    PFN_cuLibraryLoadData_v12000, PFN_cuLibraryLoadFromFile_v12000, PFN_cuLibraryUnload_v12000,
    PFN_cuModuleGetFunction_v2000, PFN_cuModuleGetGlobal_v2000, PFN_cuModuleGetGlobal_v3020,
    PFN_cuModuleLoad_v2000, PFN_cuModuleLoadData_v2000, PFN_cuModuleLoadDataEx_v2010,
    PFN_cuModuleUnload_v2000,
};
use cuota_governor::physical::BLOCK_BYTES;
use cuota_governor::quota::UNLIMITED;

use super::REFUSED;
use crate::hooks_table::{cuKernelGetFunction, cuLibraryUnload, cuMemGetInfo_v2, cuModuleUnload, real};
use crate::process::account::{self, Booking};
use crate::process::{self, Standing};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The device's free bytes; `None` without a current context.
pub(super) fn device_free() -> Option<usize> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: fills two sizes.
    let status = cuMemGetInfo_v2::REAL.get().map(|call| unsafe { call(&raw mut free, &raw mut total) });
    (status == Some(OK)).then_some(free)
}

/// Runs `load`, which may take memory; where that does not fit, runs `unload` and refuses.
#[inline(never)]
fn checked(load: &dyn Fn() -> CUresult, unload: &dyn Fn()) -> CUresult {
    let account = match account::on_current_device() {
        Booking::On(account) if account.quota() != UNLIMITED => account,
        Booking::On(_) | Booking::No => return load(),
        Booking::Refuse => return REFUSED,
    };
    let before = device_free();
    let status = load();
    let took = before.zip(device_free()).map_or(0, |(before, after)| before.saturating_sub(after));
    if status != OK || (took as u64) < BLOCK_BYTES || account.still_fits(took as u64) {
        return status;
    }
    unload();
    account.note_unload();
    REFUSED
}

/// # Safety
/// `module` was written by the driver.
unsafe fn unload_module(module: *mut CUmodule) {
    if let Some(unload) = cuModuleUnload::REAL.get() {
        // SAFETY: just loaded, and nobody else has seen it.
        unsafe { unload(*module) };
    }
}

/// # Safety
/// `library` was written by the driver.
unsafe fn unload_library(library: *mut CUlibrary) {
    if let Some(unload) = cuLibraryUnload::REAL.get() {
        // SAFETY: just loaded, and nobody else has seen it.
        unsafe { unload(*library) };
    }
}

/// `cuModuleLoad`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe fn load(
    real: PFN_cuModuleLoad_v2000,
    module: *mut CUmodule,
    path: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    checked(&|| unsafe { real(module, path) }, &|| unsafe { unload_module(module) })
}

/// `cuModuleLoadData` and `cuModuleLoadFatBinary`.
pub(crate) unsafe fn load_data(
    real: PFN_cuModuleLoadData_v2000,
    module: *mut CUmodule,
    image: *const c_void,
) -> CUresult {
    // SAFETY: the program's arguments.
    checked(&|| unsafe { real(module, image) }, &|| unsafe { unload_module(module) })
}

/// `cuModuleLoadDataEx`.
pub(crate) unsafe fn load_data_ex(
    real: PFN_cuModuleLoadDataEx_v2010,
    module: *mut CUmodule,
    image: *const c_void,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> CUresult {
    let load = || {
        // SAFETY: the program's arguments.
        unsafe { real(module, image, count, options, values) }
    };
    // SAFETY: called after success only.
    checked(&load, &|| unsafe { unload_module(module) })
}

/// `cuLibraryLoadData`.
#[expect(clippy::too_many_arguments, reason = "the driver's")]
pub(crate) unsafe fn load_library_data(
    real: PFN_cuLibraryLoadData_v12000,
    library: *mut CUlibrary,
    code: *const c_void,
    jit_options: *mut CUjit_option,
    jit_values: *mut *mut c_void,
    jit_count: c_uint,
    options: *mut CUlibraryOption,
    values: *mut *mut c_void,
    count: c_uint,
) -> CUresult {
    let load = || {
        // SAFETY: the program's arguments.
        unsafe { real(library, code, jit_options, jit_values, jit_count, options, values, count) }
    };
    // SAFETY: called after success only.
    let status = checked(&load, &|| unsafe { unload_library(library) });
    if status == OK {
        // SAFETY: the driver has written the library.
        revive(unsafe { *library });
    }
    status
}

/// `cuLibraryLoadFromFile`.
#[expect(clippy::too_many_arguments, reason = "the driver's")]
pub(crate) unsafe fn load_library_file(
    real: PFN_cuLibraryLoadFromFile_v12000,
    library: *mut CUlibrary,
    path: *const c_char,
    jit_options: *mut CUjit_option,
    jit_values: *mut *mut c_void,
    jit_count: c_uint,
    options: *mut CUlibraryOption,
    values: *mut *mut c_void,
    count: c_uint,
) -> CUresult {
    let load = || {
        // SAFETY: the program's arguments.
        unsafe { real(library, path, jit_options, jit_values, jit_count, options, values, count) }
    };
    // SAFETY: called after success only.
    let status = checked(&load, &|| unsafe { unload_library(library) });
    if status == OK {
        // SAFETY: the driver has written the library.
        revive(unsafe { *library });
    }
    status
}

/// Runs `call`, which can load code of a module that was checked when it was loaded.
#[inline(never)]
fn loading(call: &dyn Fn() -> CUresult) -> CUresult {
    checked(call, &|| {})
}

/// Runs `call`, which can load all of `library`: its load registered it only. Where that does not fit, the library is ended: nothing
/// less gives its memory back.
#[inline(never)]
fn loading_library(library: CUlibrary, call: &dyn Fn() -> CUresult) -> CUresult {
    if is_ended(library.addr() as u64) {
        return REFUSED;
    }
    checked(call, &|| end_library(library))
}

fn is_ended(handle: u64) -> bool {
    match process::standing() {
        Standing::Managed(process) => process.functions.is_ended(handle),
        Standing::Unmanaged | Standing::Closed => false,
    }
}

/// Calls `each` with the kernels of a library, 256 at most.
fn each_kernel(library: CUlibrary, each: &dyn Fn(u64)) {
    let mut kernels = [core::ptr::null_mut(); 256];
    let mut count = 0;
    // SAFETY: fills one number.
    let known = real::cuLibraryGetKernelCount.get().map(|call| unsafe { call(&raw mut count, library) });
    let count = count.min(256);
    let listed = real::cuLibraryEnumerateKernels.get().filter(|_| known == Some(OK));
    // SAFETY: fills at most `count` handles, for which there is room.
    if listed.map(|call| unsafe { call(kernels.as_mut_ptr(), count, library) }) == Some(OK) {
        kernels.iter().take(count as usize).for_each(|kernel| each(kernel.addr() as u64));
    }
}

/// Unloads a library that did not fit. The program does not know; so whatever it does with its handles from now on is refused here.
fn end_library(library: CUlibrary) {
    let Standing::Managed(process) = process::standing() else { return };
    each_kernel(library, &|kernel| process.functions.end(kernel));
    process.functions.end(library.addr() as u64);
    process.functions.forget();
    if let Some(unload) = cuLibraryUnload::REAL.get() {
        // SAFETY: a live library, of which nothing runs: its first use has just been refused.
        unsafe { unload(library) };
    }
}

/// After a load: its handles may have been an ended library's.
fn revive(library: CUlibrary) {
    if let Standing::Managed(process) = process::standing()
        && process.functions.any_ended()
    {
        process.functions.revive(library.addr() as u64);
        each_kernel(library, &|kernel| {
            process.functions.revive(kernel);
        });
    }
}

/// Loads what `kernel` needs on the current device, and checks that it fits; the function, or null where this is no `CUkernel`.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where it does not fit.
pub(super) fn load_kernel(kernel: CUkernel) -> Result<CUfunction, CUresult> {
    if is_ended(kernel.addr() as u64) {
        return Err(REFUSED);
    }
    let mut function = core::ptr::null_mut();
    let Some(get) = cuKernelGetFunction::REAL.get() else { return Ok(function) };
    // SAFETY: fills one handle; a handle that is no kernel's is an error.
    match unsafe { kernel_function(get, &raw mut function, kernel) } {
        OK => Ok(function),
        REFUSED => Err(REFUSED),
        _ => Ok(core::ptr::null_mut()),
    }
}

/// `cuModuleGetFunction`.
pub(crate) unsafe fn function(
    real: PFN_cuModuleGetFunction_v2000,
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading(&|| unsafe { real(function, module, name) })
}

/// `cuModuleGetGlobal`, the 32-bit form.
pub(crate) unsafe fn global_v1(
    real: PFN_cuModuleGetGlobal_v2000,
    address: *mut CUdeviceptr_v1,
    bytes: *mut c_uint,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading(&|| unsafe { real(address, bytes, module, name) })
}

/// `cuModuleGetGlobal_v2`.
pub(crate) unsafe fn global(
    real: PFN_cuModuleGetGlobal_v3020,
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading(&|| unsafe { real(address, bytes, module, name) })
}

/// `cuLibraryGetGlobal` and `cuLibraryGetManaged`.
pub(crate) unsafe fn library_global(
    real: PFN_cuLibraryGetGlobal_v12000,
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading_library(library, &|| unsafe { real(address, bytes, library, name) })
}

/// `cuLibraryGetModule`.
pub(crate) unsafe fn library_module(
    real: PFN_cuLibraryGetModule_v12000,
    module: *mut CUmodule,
    library: CUlibrary,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading_library(library, &|| unsafe { real(module, library) })
}

/// `cuLibraryGetUnifiedFunction`.
pub(crate) unsafe fn unified_function(
    real: PFN_cuLibraryGetUnifiedFunction_v12000,
    function: *mut *mut c_void,
    library: CUlibrary,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading_library(library, &|| unsafe { real(function, library, name) })
}

/// `cuKernelGetFunction`.
pub(crate) unsafe fn kernel_function(
    real: PFN_cuKernelGetFunction_v12000,
    function: *mut CUfunction,
    kernel: CUkernel,
) -> CUresult {
    let mut library = core::ptr::null_mut();
    if is_ended(kernel.addr() as u64) {
        return REFUSED;
    }
    // SAFETY: fills one handle; a handle that is no kernel's is an error.
    let found = real::cuKernelGetLibrary.get().map(|call| unsafe { call(&raw mut library, kernel) });
    let call = || {
        // SAFETY: the program's arguments.
        unsafe { real(function, kernel) }
    };
    // Before CUDA 12.5 nobody says whose kernel it is: then what does not fit is booked.
    if found == Some(OK) { loading_library(library, &call) } else { loading(&call) }
}

/// `cuFuncLoad`.
pub(crate) unsafe fn load_function(real: PFN_cuFuncLoad_v12040, function: CUfunction) -> CUresult {
    // SAFETY: the program's argument.
    loading(&|| unsafe { real(function) })
}

/// Forgets the kernels that were launched: code is about to be unloaded, and its handles can be other kernels'.
fn unloading() {
    if let Standing::Managed(process) = process::standing() {
        process.functions.forget();
    }
}

/// `cuModuleUnload`.
pub(crate) unsafe fn unload(real: PFN_cuModuleUnload_v2000, module: CUmodule) -> CUresult {
    unloading();
    // SAFETY: the program's argument.
    unsafe { real(module) }
}

/// `cuLibraryUnload`.
pub(crate) unsafe fn unload_whole_library(real: PFN_cuLibraryUnload_v12000, library: CUlibrary) -> CUresult {
    unloading();
    if let Standing::Managed(process) = process::standing()
        && process.functions.revive(library.addr() as u64)
    {
        return OK;
    }
    // SAFETY: the program's argument.
    unsafe { real(library) }
}

/// `cuLibraryGetKernel`.
pub(crate) unsafe fn kernel(
    real: PFN_cuLibraryGetKernel_v12000,
    kernel: *mut CUkernel,
    library: CUlibrary,
    name: *const c_char,
) -> CUresult {
    if is_ended(library.addr() as u64) {
        return REFUSED;
    }
    // SAFETY: the program's arguments.
    unsafe { real(kernel, library, name) }
}
