//! What a stream does besides kernels: waits, host functions, synchronisation, its end.
//!
//! Waiting is no GPU time, so whatever lets a stream wait ends the batch before it; so does a program that waits for
//! its stream, since nothing comes after for a while.

use cuota_abi::cuda::{CUresult, CUstream};
use cuota_governor::batch::Close;

use super::capture;
use crate::interpose::call::Call;
use crate::limiter::sensor::Tails;
use crate::limiter::stream;
use crate::process::{self, Process, Standing, driver};

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
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let stream = call.stream(call.note());
    if !process.limiter.is_free(process) {
        process.limiter.close_stream(stream, Close::Wait);
    }
    if process.limiter.captures.is_empty() { call.make() } else { capture::joins(process, stream, call) }
}

/// All streams of a context will wait.
pub(crate) unsafe extern "C" fn all_wait(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_all(Close::Wait);
    }
    call.make()
}

/// Makes the call, which waits for a stream, or for what may be on any of them, and settles what has ended: the program may end here and now. A batch
/// that is open ends before it, where a cap may bind.
#[inline(never)]
fn settled(
    call: &Call,
    process: Option<&'static Process>,
    stream: Option<CUstream>,
    tails: Tails,
) -> CUresult {
    let Some(process) = process else { return call.make() };
    match stream {
        Some(stream) => process.limiter.close_stream(stream, Close::Sync),
        None => {
            let _ = process.limiter.close_all(Close::Sync);
        }
    }
    let status = call.make();
    // A wait that fails (in a capture, in a host function) says of nothing that it has ended.
    process.limiter.reap_synced(stream.filter(|_| status == OK), tails);
    status
}

/// `cuStreamSynchronize`.
pub(crate) unsafe extern "C" fn synchronize(call: &Call) -> CUresult {
    settled(call, capped(), Some(call.stream(0)), Tails::Left)
}

/// `cuCtxSynchronize`.
pub(crate) unsafe extern "C" fn synchronize_all(call: &Call) -> CUresult {
    settled(call, capped(), None, Tails::Settled)
}

/// `cuEventSynchronize`: nobody says of which stream the event is. One that is reached is waited for by who keeps a queue filled,
/// and ends nothing.
pub(crate) unsafe extern "C" fn synchronize_event(call: &Call) -> CUresult {
    let process =
        capped().filter(|_| driver::outside_captures(|| driver::query_event(call.pointer(0))) != OK);
    settled(call, process, None, Tails::Left)
}

/// `cuStreamDestroy`: what is in flight is still waited for.
pub(crate) unsafe extern "C" fn destroy(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    // One that captures takes no part in its capture any more, or ends it.
    let captured = capture::captures(process, call.stream(0));
    // Whether a cap binds or not: when one does again, another stream may have this handle.
    process.limiter.end_stream(call.stream(0));
    let status = call.make();
    if status == OK && captured {
        process.limiter.captures.end(stream::key_of(process, call.stream(0)));
    }
    status
}
