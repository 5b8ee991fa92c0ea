//! Modules and libraries: their code and global variables take memory that no call names beforehand.
//!
//! What a load took is seen by the device's free memory; a load that took much is checked against NVML's figure for this
//! process, and undone where it does not fit the quota.

use core::cell::Cell;
use core::ffi::c_void;

use cuota_abi::cuda::{CUfunction, CUkernel, CUlib_st, CUlibrary, CUmodule, CUresult};
use cuota_governor::physical::BLOCK_BYTES;
use cuota_governor::quota::UNLIMITED;
use cuota_region::event::Why;

use super::REFUSED;
use crate::hooks_table::{cuKernelGetFunction, cuLibraryUnload, cuMemGetInfo_v2, cuModuleUnload, real};
use crate::interpose::call::Call;
use crate::process::account::{self, Booking};
use crate::process::functions::Functions;
use crate::process::handles::{Kind, Owner};
use crate::process::{self, Process, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The device's free bytes; `None` without a current context.
pub(super) fn device_free() -> Option<usize> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: fills two sizes.
    let status = unsafe { cuMemGetInfo_v2::REAL.get()(&raw mut free, &raw mut total) };
    (status == OK).then_some(free)
}

/// Runs `load`, which may take memory; where that does not fit, runs `unload` and refuses.
#[inline(never)]
fn checked(call: &Call, unload: &dyn Fn()) -> CUresult {
    let account = match account::on_current_device() {
        Booking::On(account) if account.quota() != UNLIMITED => account,
        Booking::On(_) | Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let before = driver::outside_captures(device_free);
    let status = call.make();
    let took = before
        .zip(driver::outside_captures(device_free))
        .map_or(0, |(before, after)| before.saturating_sub(after));
    if status != OK || (took as u64) < BLOCK_BYTES || account.still_fits(took as u64) {
        return status;
    }
    unload();
    account.refuse_made(took as u64)
}

/// Unloads the module that the driver has written to `module`.
///
/// # Safety
/// It has, and nobody else has seen it.
unsafe fn unload_module(module: *mut CUmodule) {
    // SAFETY: the caller's contract.
    let made = unsafe { *module };
    driver::give_up(cuModuleUnload::REAL.get() as *const c_void, made.addr() as u64);
}

/// Unloads the library that the driver has written to `library`.
///
/// # Safety
/// As [`unload_module`].
unsafe fn unload_library(library: *mut CUlibrary) {
    // SAFETY: the caller's contract.
    end(unsafe { *library });
}

fn end(library: CUlibrary) {
    driver::give_up(cuLibraryUnload::REAL.get() as *const c_void, library.addr() as u64);
}

/// `cuModuleLoad`, `cuModuleLoadData`, `cuModuleLoadDataEx` and `cuModuleLoadFatBinary`.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn load(call: &Call) -> CUresult {
    // SAFETY: called after success only.
    checked(call, &|| unsafe { unload_module(call.pointer(0)) })
}

/// `cuLibraryLoadData` and `cuLibraryLoadFromFile`.
pub(crate) unsafe extern "C" fn load_library(call: &Call) -> CUresult {
    let library = call.pointer::<CUlibrary>(0);
    // SAFETY: called after success only.
    let status = checked(call, &|| unsafe { unload_library(library) });
    if status == OK {
        // SAFETY: the driver has written the library.
        revive(unsafe { *library });
    }
    status
}

/// Runs `call`, which can load code of a module that was checked when it was loaded.
#[inline(never)]
fn loading(call: &Call) -> CUresult {
    checked(call, &|| {})
}

/// Runs `call`, which can load all of `library` in the current context: its load registered it only.
///
/// Where that does not fit, the library is ended, if this is its first use anywhere: nothing less gives its memory back. One that other
/// contexts use, or that has more kernels than can be kept from the driver afterwards, stays; it is booked, and nothing more is granted.
#[inline(never)]
fn loading_library(library: CUlibrary, call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let (handle, handles) = (library.addr() as u64, &process.handles);
    if is_ended(handle) {
        return REFUSED;
    }
    let context = process.contexts.current();
    let here = handle | u64::from(context) << 56;
    if handles.find(here).is_some() {
        return call.make();
    }
    let is_used = handles.find(handle).is_some();
    let ended = Cell::new(false);
    let status = checked(call, &|| ended.set(!is_used && end_library(process, library)));
    let device = process.current_device().unwrap_or(0);
    if !ended.get() && (status == OK || status == REFUSED) {
        handles.add(here, 0, Owner::new(device, context, Kind::Library));
        if !is_used {
            handles.add(handle, 0, Owner::new(device, 0, Kind::Library));
        }
    }
    status
}

/// Whether a handle is the driver's no more; then the refusal is counted.
fn is_ended(handle: u64) -> bool {
    let is_ended = match process::standing() {
        Standing::Managed(process) => process.functions.is_ended(handle),
        Standing::Unmanaged | Standing::Closed => false,
    };
    if is_ended && let Booking::On(account) = account::on_current_device() {
        account.decline(Why::LibraryEnded);
    }
    is_ended
}

/// Calls `each` with the kernels of a library, of which there may be `most`. `false`: there are more, or the driver does not say.
fn each_kernel(library: CUlibrary, most: usize, functions: &Functions, each: fn(&Functions, u64)) -> bool {
    let mut count = 0;
    // SAFETY: fills one number.
    let known = unsafe { real::cuLibraryGetKernelCount.get()(&raw mut count, library) };
    if known != OK || count as usize > most {
        return false;
    }
    let mut status = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let has_room = driver::with_room(count as usize, &mut |kernels| {
        // SAFETY: fills `count` handles, for which there is room.
        status =
            unsafe { real::cuLibraryEnumerateKernels.get()(kernels.as_mut_ptr().cast(), count, library) };
        if status == OK {
            kernels.iter().for_each(|kernel| each(functions, kernel.addr() as u64));
        }
    });
    has_room && status == OK
}

/// Unloads a library whose first use did not fit. The program does not know; its handles are refused from now on, by the functions that
/// are hooked. `false`: it stays.
fn end_library(process: &'static Process, library: CUlibrary) -> bool {
    let functions = &process.functions;
    let ends = each_kernel(library, functions.room_for_ended(), functions, Functions::end);
    if ends {
        functions.end(library.addr() as u64);
        functions.forget();
        // A live library that was used for the first time, in the call that has just been refused.
        end(library);
    }
    ends
}

/// After a load: its handles may have been an ended library's.
fn revive(library: CUlibrary) {
    if let Standing::Managed(process) = process::standing()
        && process.functions.any_ended()
    {
        process.functions.revive(library.addr() as u64);
        let revive = |functions: &Functions, kernel| {
            functions.revive(kernel);
        };
        each_kernel(library, usize::MAX, &process.functions, revive);
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
    let mut function: CUfunction = core::ptr::null_mut();
    let get = cuKernelGetFunction::REAL.get();
    let call = Call::new(get as *const c_void, [(&raw mut function).addr() as u64, kernel.addr() as u64, 0]);
    // SAFETY: fills one handle; a handle that is no kernel's is an error.
    match unsafe { kernel_function(&call) } {
        OK => Ok(function),
        REFUSED => Err(REFUSED),
        _ => Ok(core::ptr::null_mut()),
    }
}

/// `cuModuleGetFunction`.
pub(crate) unsafe extern "C" fn function(call: &Call) -> CUresult {
    let status = loading(call);
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the driver has written it; it can be where an ended library's kernel was.
        process.functions.revive(unsafe { *call.pointer::<CUfunction>(0) }.addr() as u64);
    }
    status
}

/// `cuModuleGetGlobal` in both forms, and `cuFuncLoad`.
pub(crate) unsafe extern "C" fn use_module(call: &Call) -> CUresult {
    loading(call)
}

/// Functions that use the library in argument `call.note()`.
pub(crate) unsafe extern "C" fn use_library(call: &Call) -> CUresult {
    loading_library(call.pointer::<CUlib_st>(call.note()), call)
}

/// `cuKernelGetFunction`.
pub(crate) unsafe extern "C" fn kernel_function(call: &Call) -> CUresult {
    let kernel: CUkernel = call.pointer(1);
    let mut library = core::ptr::null_mut();
    if is_ended(kernel.addr() as u64) {
        return REFUSED;
    }
    // SAFETY: fills one handle; a handle that is no kernel's is an error.
    let found = unsafe { real::cuKernelGetLibrary.get()(&raw mut library, kernel) };
    // Before CUDA 12.5 nobody says whose kernel it is: then what does not fit is booked.
    if found == OK { loading_library(library, call) } else { loading(call) }
}

/// Forgets the kernels that were launched: code is about to be unloaded, and its handles can be other kernels'.
fn unloading() {
    if let Standing::Managed(process) = process::standing() {
        process.functions.forget();
    }
}

/// `cuModuleUnload`.
pub(crate) unsafe extern "C" fn unload(call: &Call) -> CUresult {
    unloading();
    call.make()
}

/// `cuLibraryUnload`.
pub(crate) unsafe extern "C" fn unload_whole_library(call: &Call) -> CUresult {
    unloading();
    if let Standing::Managed(process) = process::standing() {
        let handle = call.word(0);
        if process.functions.revive(handle) {
            return OK;
        }
        for context in 0..=u8::MAX {
            let noted = process.handles.find(handle | u64::from(context) << 56);
            let _ = noted.and_then(|place| process.handles.release(place));
        }
    }
    call.make()
}

/// `cuLibraryGetKernel`.
pub(crate) unsafe extern "C" fn kernel(call: &Call) -> CUresult {
    if is_ended(call.word(1)) { REFUSED } else { call.make() }
}
