//! Contexts: half a GiB each, booked before they are made and checked against NVML later.

use core::ffi::{c_int, c_uint};

use cuota_abi::cuda::{
    CUcontext, CUctxCreateParams, CUdevice, CUexecAffinityParam, CUresult, PFN_cuCtxCreate_v2000,
    PFN_cuCtxCreate_v11040, PFN_cuCtxCreate_v12050, PFN_cuCtxDestroy_v2000,
    PFN_cuDevicePrimaryCtxRelease_v7000, PFN_cuDevicePrimaryCtxRetain_v7000,
};
use cuota_governor::physical::BLOCK_BYTES;

use super::REFUSED;
use crate::process::account::{self, Booking};
use crate::process::contexts::Gone;
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Makes a context on `device`: `call` asks the driver, which writes it to `context`.
///
/// # Safety
/// `call` passes the program's arguments to the driver.
unsafe fn create(
    context: *mut CUcontext,
    device: CUdevice,
    primary: bool,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let account = match account::on_device(device) {
        Booking::On(account) => account,
        Booking::No => return call(),
        Booking::Refuse => return REFUSED,
    };
    let reservation = match account.reserve(account.context_estimate()) {
        Ok(reservation) => reservation,
        Err(error) => return error,
    };
    let status = call();
    if status == OK {
        account.commit_context(reservation);
        // SAFETY: the driver has written the context.
        account.process.contexts.add(unsafe { *context }, device, primary);
    } else {
        account.cancel(reservation);
    }
    status
}

/// Gives back what a context that is gone had.
fn ended(gone: Option<Gone>) {
    if let Some(gone) = gone
        && let Booking::On(account) = account::on_device(gone.device)
    {
        let blocks = account.process.blocks.remove_context(gone.number);
        account.end_context(blocks * BLOCK_BYTES);
    }
}

/// `cuCtxCreate` and `cuCtxCreate_v2`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe fn create_v2(
    real: PFN_cuCtxCreate_v2000,
    context: *mut CUcontext,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { create(context, device, false, || real(context, flags, device)) }
}

/// `cuCtxCreate_v3`.
pub(crate) unsafe fn create_v3(
    real: PFN_cuCtxCreate_v11040,
    context: *mut CUcontext,
    affinity: *mut CUexecAffinityParam,
    affinities: c_int,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { create(context, device, false, || real(context, affinity, affinities, flags, device)) }
}

/// `cuCtxCreate_v4`.
pub(crate) unsafe fn create_v4(
    real: PFN_cuCtxCreate_v12050,
    context: *mut CUcontext,
    parameters: *mut CUctxCreateParams,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { create(context, device, false, || real(context, parameters, flags, device)) }
}

/// `cuCtxDestroy` and `cuCtxDestroy_v2`: the driver frees the context's memory with it.
pub(crate) unsafe fn destroy(real: PFN_cuCtxDestroy_v2000, context: CUcontext) -> CUresult {
    // SAFETY: the program's argument.
    let status = unsafe { real(context) };
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        ended(process.contexts.remove(context));
    }
    status
}

/// `cuDevicePrimaryCtxRetain`: the first one makes the context.
pub(crate) unsafe fn retain_primary(
    real: PFN_cuDevicePrimaryCtxRetain_v7000,
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    let call = || {
        // SAFETY: the program's arguments.
        unsafe { real(context, device) }
    };
    if driver::primary_is_active(device) {
        return call();
    }
    // SAFETY: `call` is the driver's function with the program's arguments.
    unsafe { create(context, device, true, call) }
}

/// `cuDevicePrimaryCtxRelease` and `cuDevicePrimaryCtxReset`, in both versions: the last release, or a reset, ends the
/// context and frees its memory.
pub(crate) unsafe fn release_primary(
    real: PFN_cuDevicePrimaryCtxRelease_v7000,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the program's argument.
    let status = unsafe { real(device) };
    if status == OK
        && let Standing::Managed(process) = process::standing()
        && !driver::primary_is_active(device)
    {
        ended(process.contexts.remove_primary(device));
    }
    status
}
