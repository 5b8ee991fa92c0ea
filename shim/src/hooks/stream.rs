//! Streams: each takes device memory for its channel, 0.547 MiB on an H100 with driver 580 (10,000 of them: 5,468 MiB), which no
//! reservation covers.

use core::ffi::{c_int, c_uint};

use cuota_abi::cuda::{
    CUgreenCtx, CUresult, CUstream, PFN_cuGreenCtxStreamCreate_v12050, PFN_cuStreamCreate_v2000,
    PFN_cuStreamCreateWithPriority_v5050,
};
use cuota_region::ledger::Refusal;

use super::REFUSED;
use crate::hooks_table::real;
use crate::process::account::{self, Booking};
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// What a stream takes at most, bytes.
const STREAM_BYTES: u64 = 640 << 10;

/// Makes a stream of a context of the device that is booked: `call` asks the driver, which writes it to `stream`.
///
/// # Safety
/// `call` passes the program's arguments to the driver.
#[inline(never)]
unsafe fn create(booking: Booking, stream: *mut CUstream, call: &dyn Fn() -> CUresult) -> CUresult {
    let account = match booking {
        Booking::On(account) => account,
        Booking::No => return call(),
        Booking::Refuse => return REFUSED,
    };
    let status = call();
    if status != OK || account.still_fits(STREAM_BYTES) {
        return status;
    }
    if let Some(destroy) = real::cuStreamDestroy_v2.get() {
        // SAFETY: just made, and nobody else has seen it.
        driver::outside_captures(|| unsafe { destroy(*stream) });
    }
    account.note_unload();
    account.refuse(STREAM_BYTES, account.quota(), Refusal::OverQuota { booked: account.quota() });
    REFUSED
}

/// `cuStreamCreate`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe fn create_plain(
    real: PFN_cuStreamCreate_v2000,
    stream: *mut CUstream,
    flags: c_uint,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { create(account::on_current_device(), stream, &move || real(stream, flags)) }
}

/// `cuStreamCreateWithPriority`.
pub(crate) unsafe fn create_with_priority(
    real: PFN_cuStreamCreateWithPriority_v5050,
    stream: *mut CUstream,
    flags: c_uint,
    priority: c_int,
) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { create(account::on_current_device(), stream, &move || real(stream, flags, priority)) }
}

/// `cuGreenCtxStreamCreate`: on the green context's device, which need not be the current one.
pub(crate) unsafe fn create_green(
    real: PFN_cuGreenCtxStreamCreate_v12050,
    stream: *mut CUstream,
    green: CUgreenCtx,
    flags: c_uint,
    priority: c_int,
) -> CUresult {
    let booking = match process::standing() {
        Standing::Managed(process) => match process.handles.find(green.addr() as u64) {
            Some(place) => account::on_device(process.handles.owner(place).device.cast_signed()),
            None => account::on_current_device(),
        },
        Standing::Unmanaged => Booking::No,
        Standing::Closed => Booking::Refuse,
    };
    // SAFETY: the program's arguments.
    unsafe { create(booking, stream, &move || real(stream, green, flags, priority)) }
}
