//! Modules and libraries: their code and global variables take memory that no call names beforehand.
//!
//! What a load took is seen by the device's free memory; a load that took much is checked against NVML's figure for this
//! process, and undone where it does not fit the quota.

use core::cell::Cell;
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
use crate::process::handles::{Kind, Owner};
use crate::process::{self, Process, Standing, driver};

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
    let before = driver::outside_captures(device_free);
    let status = load();
    let took = before
        .zip(driver::outside_captures(device_free))
        .map_or(0, |(before, after)| before.saturating_sub(after));
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
        driver::outside_captures(|| unsafe { unload(*module) });
    }
}

/// # Safety
/// `library` was written by the driver.
unsafe fn unload_library(library: *mut CUlibrary) {
    if let Some(unload) = cuLibraryUnload::REAL.get() {
        // SAFETY: just loaded, and nobody else has seen it.
        driver::outside_captures(|| unsafe { unload(*library) });
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
    checked(&move || unsafe { real(module, path) }, &move || unsafe { unload_module(module) })
}

/// `cuModuleLoadData` and `cuModuleLoadFatBinary`.
pub(crate) unsafe fn load_data(
    real: PFN_cuModuleLoadData_v2000,
    module: *mut CUmodule,
    image: *const c_void,
) -> CUresult {
    // SAFETY: the program's arguments.
    checked(&move || unsafe { real(module, image) }, &move || unsafe { unload_module(module) })
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
    let load = move || {
        // SAFETY: the program's arguments.
        unsafe { real(module, image, count, options, values) }
    };
    // SAFETY: called after success only.
    checked(&load, &move || unsafe { unload_module(module) })
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
    let load = move || {
        // SAFETY: the program's arguments.
        unsafe { real(library, code, jit_options, jit_values, jit_count, options, values, count) }
    };
    // SAFETY: called after success only.
    let status = checked(&load, &move || unsafe { unload_library(library) });
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
    let load = move || {
        // SAFETY: the program's arguments.
        unsafe { real(library, path, jit_options, jit_values, jit_count, options, values, count) }
    };
    // SAFETY: called after success only.
    let status = checked(&load, &move || unsafe { unload_library(library) });
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

/// Runs `call`, which can load all of `library` in the current context: its load registered it only.
///
/// Where that does not fit, the library is ended, if this is its first use anywhere: nothing less gives its memory back. One that other
/// contexts use, or that has more kernels than can be kept from the driver afterwards, stays; it is booked, and nothing more is granted.
#[inline(never)]
fn loading_library(library: CUlibrary, call: &dyn Fn() -> CUresult) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call() };
    let (handle, handles) = (library.addr() as u64, &process.handles);
    if process.functions.is_ended(handle) {
        return REFUSED;
    }
    let context = process.contexts.current();
    let here = handle | u64::from(context) << 56;
    if handles.find(here).is_some() {
        return call();
    }
    let is_used = handles.find(handle).is_some();
    let ended = Cell::new(false);
    let status = checked(call, &|| ended.set(!is_used && end_library(process, library)));
    let device = process.current_device().unwrap_or(0);
    if !ended.get() && (status == OK || status == REFUSED) {
        handles.add(here, 0, Owner { device, context, kind: Kind::Library });
        if !is_used {
            handles.add(handle, 0, Owner { device, context: 0, kind: Kind::Library });
        }
    }
    status
}

fn is_ended(handle: u64) -> bool {
    match process::standing() {
        Standing::Managed(process) => process.functions.is_ended(handle),
        Standing::Unmanaged | Standing::Closed => false,
    }
}

/// Calls `each` with the kernels of a library, of which there may be `most`. `false`: there are more, or the driver does not say.
fn each_kernel(library: CUlibrary, most: usize, each: &dyn Fn(u64)) -> bool {
    let mut count = 0;
    // SAFETY: fills one number.
    let known = real::cuLibraryGetKernelCount.get().map(|call| unsafe { call(&raw mut count, library) });
    let Some(list) =
        real::cuLibraryEnumerateKernels.get().filter(|_| known == Some(OK) && count as usize <= most)
    else {
        return false;
    };
    let mut status = None;
    let has_room = driver::with_room(count as usize, &mut |kernels| {
        // SAFETY: fills `count` handles, for which there is room.
        status = Some(unsafe { list(kernels.as_mut_ptr().cast(), count, library) });
        if status == Some(OK) {
            kernels.iter().for_each(|kernel| each(kernel.addr() as u64));
        }
    });
    has_room && status == Some(OK)
}

/// Unloads a library whose first use did not fit. The program does not know; its handles are refused from now on, by the functions that
/// are hooked. `false`: it stays.
fn end_library(process: &'static Process, library: CUlibrary) -> bool {
    let functions = &process.functions;
    let ends = each_kernel(library, functions.room_for_ended(), &|kernel| functions.end(kernel));
    if ends {
        functions.end(library.addr() as u64);
        functions.forget();
        if let Some(unload) = cuLibraryUnload::REAL.get() {
            // SAFETY: a live library that was used for the first time, in the call that has just been refused.
            driver::outside_captures(|| unsafe { unload(library) });
        }
    }
    ends
}

/// After a load: its handles may have been an ended library's.
fn revive(library: CUlibrary) {
    if let Standing::Managed(process) = process::standing()
        && process.functions.any_ended()
    {
        process.functions.revive(library.addr() as u64);
        let _ = each_kernel(library, usize::MAX, &|kernel| {
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
    let status = loading(&move || unsafe { real(function, module, name) });
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the driver has written it; it can be where an ended library's kernel was.
        process.functions.revive(unsafe { *function }.addr() as u64);
    }
    status
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
    loading(&move || unsafe { real(address, bytes, module, name) })
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
    loading(&move || unsafe { real(address, bytes, module, name) })
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
    loading_library(library, &move || unsafe { real(address, bytes, library, name) })
}

/// `cuLibraryGetModule`.
pub(crate) unsafe fn library_module(
    real: PFN_cuLibraryGetModule_v12000,
    module: *mut CUmodule,
    library: CUlibrary,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading_library(library, &move || unsafe { real(module, library) })
}

/// `cuLibraryGetUnifiedFunction`.
pub(crate) unsafe fn unified_function(
    real: PFN_cuLibraryGetUnifiedFunction_v12000,
    function: *mut *mut c_void,
    library: CUlibrary,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the program's arguments.
    loading_library(library, &move || unsafe { real(function, library, name) })
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
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe { real(function, kernel) }
    };
    // Before CUDA 12.5 nobody says whose kernel it is: then what does not fit is booked.
    if found == Some(OK) { loading_library(library, &call) } else { loading(&call) }
}

/// `cuFuncLoad`.
pub(crate) unsafe fn load_function(real: PFN_cuFuncLoad_v12040, function: CUfunction) -> CUresult {
    // SAFETY: the program's argument.
    loading(&move || unsafe { real(function) })
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
    if let Standing::Managed(process) = process::standing() {
        let handle = library.addr() as u64;
        if process.functions.revive(handle) {
            return OK;
        }
        for context in 0..=u8::MAX {
            let noted = process.handles.find(handle | u64::from(context) << 56);
            let _ = noted.and_then(|place| process.handles.release(place));
        }
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
