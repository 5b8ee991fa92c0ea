//! What a stream does besides kernels: waits, host functions, captures, synchronisation, its end.
//!
//! Waiting is no GPU time, so whatever lets a stream wait ends the batch before it; so does a program that waits for
//! its stream, since nothing comes after for a while.

use core::sync::atomic::Ordering;

use cuota_abi::cuda::CUresult;
use cuota_governor::batch::Close;

use crate::interpose::call::Call;
use crate::limiter::Limiter;
use crate::process::driver::{self, Capturing};
use crate::process::{self, Process, Standing};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The process, where a cap may bind.
#[inline]
pub(super) fn capped() -> Option<&'static Process> {
    match process::standing() {
        Standing::Managed(process) if !process.limiter.is_free(process) => Some(process),
        _ => None,
    }
}

/// Argument `call.note()` is a stream that will wait: for an event, a value, a semaphore, the host.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn waits(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_stream(process, call.stream(call.note()), Close::Wait);
    }
    call.make()
}

/// All streams of a context will wait.
pub(crate) unsafe extern "C" fn all_wait(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_all(process, Close::Wait);
    }
    call.make()
}

/// `cuStreamSynchronize`.
pub(crate) unsafe extern "C" fn synchronize(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_stream(process, call.stream(0), Close::Sync);
    }
    call.make()
}

/// `cuCtxSynchronize`.
pub(crate) unsafe extern "C" fn synchronize_all(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_all(process, Close::Sync);
    }
    call.make()
}

/// `cuEventSynchronize`: nobody says of which stream the event is. One that is reached is waited for by who keeps a queue filled,
/// and ends nothing.
pub(crate) unsafe extern "C" fn synchronize_event(call: &Call) -> CUresult {
    if let Some(process) = capped()
        && driver::outside_captures(|| driver::query_event(call.pointer(0))) != OK
    {
        process.limiter.close_all(process, Close::Sync);
    }
    call.make()
}

/// `cuStreamDestroy`: what is in flight is still waited for.
pub(crate) unsafe extern "C" fn destroy(call: &Call) -> CUresult {
    if let Standing::Managed(process) = process::standing() {
        // One that captures ends its capture with it.
        let captured = is_capturing(&process.limiter, call);
        if !process.limiter.is_free(process) {
            process.limiter.end_stream(process, call.stream(0));
        }
        let status = call.make();
        if captured && status == OK {
            ended(&process.limiter);
        }
        return status;
    }
    call.make()
}

/// The functions that begin a capture on stream 0: the batch on it ends, since nothing may be recorded on it meanwhile.
pub(crate) unsafe extern "C" fn begin_capture(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    if !process.limiter.is_free(process) {
        process.limiter.close_stream(process, call.stream(0), Close::Wait);
    }
    // Counted before it is there: who looks meanwhile asks the stream once more than needed.
    process.limiter.captures.fetch_add(1, Ordering::AcqRel);
    let status = call.make();
    if status != OK {
        ended(&process.limiter);
    }
    status
}

/// The functions that end the capture on stream 0.
pub(crate) unsafe extern "C" fn end_capture(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let captured = is_capturing(&process.limiter, call);
    let status = call.make();
    // It can end with an error, and go on with another.
    if captured && !is_capturing(&process.limiter, call) {
        ended(&process.limiter);
    }
    status
}

fn is_capturing(limiter: &Limiter, call: &Call) -> bool {
    limiter.captures.load(Ordering::Acquire) != 0
        && driver::outside_captures(|| driver::capturing(call.stream(0)) == Capturing::Yes)
}

fn ended(limiter: &Limiter) {
    let _ = limiter
        .captures
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |captures| captures.checked_sub(1));
}
