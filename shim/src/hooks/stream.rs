//! Streams: each takes device memory for its channel, 0.547 MiB on an H100 with driver 580 (10,000 of them: 5,468 MiB), which no
//! reservation covers.

use core::ffi::c_void;

use cuota_abi::cuda::{CUresult, CUstream};

use super::REFUSED;
use crate::hooks_table::real;
use crate::interpose::call::Call;
use crate::process::account::{self, Booking};
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// What a stream takes at most, bytes.
const STREAM_BYTES: u64 = 640 << 10;

/// Makes a stream of a context of the device that is booked: `call` asks the driver, which writes it where argument 0 says.
#[inline(never)]
fn create(booking: Booking, call: &Call) -> CUresult {
    let account = match booking {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let status = call.make();
    if status != OK || account.still_fits(STREAM_BYTES) {
        return status;
    }
    // SAFETY: the driver has written it, and nobody else has seen it.
    let made = unsafe { *call.pointer::<CUstream>(0) };
    driver::give_up(real::cuStreamDestroy_v2.get() as *const c_void, made.addr() as u64);
    account.refuse_made(STREAM_BYTES)
}

/// `cuStreamCreate` and `cuStreamCreateWithPriority`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn create_plain(call: &Call) -> CUresult {
    create(account::on_current_device(), call)
}

/// `cuGreenCtxStreamCreate`: on the green context's device, which need not be the current one.
pub(crate) unsafe extern "C" fn create_green(call: &Call) -> CUresult {
    let booking = match process::standing() {
        Standing::Managed(process) => match process.handles.find(call.word(1)) {
            Some(place) => account::on_device(process.handles.owner(place).device().cast_signed()),
            None => account::on_current_device(),
        },
        Standing::Unmanaged => Booking::No,
        Standing::Closed => Booking::Refuse,
    };
    create(booking, call)
}
