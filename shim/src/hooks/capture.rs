//! Captures: what begins, joins and ends them, for the limiter to know what it may record meanwhile.

use cuota_abi::cuda::{CUresult, CUstream};
use cuota_governor::batch::Close;

use crate::interpose::call::Call;
use crate::limiter::captures::{BLOCKING, ONE};
use crate::limiter::stream;
use crate::process::driver::{self, Capturing};
use crate::process::{self, Process, Standing};

/// The driver's handle of the legacy stream, which cannot capture and must not be asked whether it does; 0 means it too.
const LEGACY: CUstream = core::ptr::without_provenance_mut(1);

fn is_legacy(stream: CUstream) -> bool {
    stream.addr() <= LEGACY.addr()
}

/// Whether `stream` takes part in a capture.
#[inline(never)]
fn capturing(process: &Process, stream: CUstream) -> Capturing {
    if process.limiter.captures.is_empty() || is_legacy(stream) {
        return Capturing::No;
    }
    driver::outside_captures(|| driver::capturing(stream))
}

/// Whether `stream` takes part in a capture, or did until that was ruined.
pub(super) fn captures(process: &Process, stream: CUstream) -> bool {
    capturing(process, stream) == Capturing::Yes
}

/// What a capture that is about to begin on a stream counts for: the number of its context, and [`ONE`] with [`BLOCKING`] or without.
#[inline(never)]
fn count_of(process: &Process, stream: CUstream) -> (u8, u32) {
    // `cuStreamGetFlags` of a stream that captures is 900 and ruins the capture (measured on driver 580, in each mode); it cannot begin another.
    let is_blocking = is_legacy(stream)
        || capturing(process, stream) != Capturing::No
        || driver::outside_captures(|| driver::is_blocking(stream));
    (process.contexts.of_stream(stream), if is_blocking { ONE + BLOCKING } else { ONE })
}

/// Notes that `stream` takes part in a capture now, for which `what` was counted in this context.
fn note(process: &Process, stream: CUstream, context: u8, what: u32) {
    let capture = driver::outside_captures(|| driver::capture_of(stream));
    process.limiter.captures.note(stream::key_of(process, stream), capture, context, what);
}

/// Nothing can be recorded on `stream` while it captures, so the batch on it ends; so does the one on the legacy stream, if that is
/// barred.
fn close(process: &'static Process, stream: CUstream, what: u32) {
    if !process.limiter.is_free(process) {
        process.limiter.close_stream(stream, Close::Wait);
        if what >= BLOCKING {
            process.limiter.close_stream(LEGACY, Close::Wait);
        }
    }
}

/// The functions that begin a capture on stream 0.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn begin(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let (context, what) = count_of(process, call.stream(0));
    close(process, call.stream(0), what);
    process.limiter.captures.add(context, what);
    let status = call.make();
    if status == CUresult::CUDA_SUCCESS {
        note(process, call.stream(0), context, what);
    } else {
        process.limiter.captures.remove(context, what);
    }
    status
}

/// The functions that end the capture on stream 0.
pub(crate) unsafe extern "C" fn end(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let stream = call.stream(0);
    let captured = captures(process, stream);
    let status = call.make();
    // It can end with an error, and go on with another. Of one that was not noted, what it counted for is asked again.
    if captured
        && !captures(process, stream)
        && !process.limiter.captures.end(stream::key_of(process, stream))
    {
        let (context, what) = count_of(process, stream);
        process.limiter.captures.remove(context, what);
    }
    status
}

/// Makes a call with which `stream`, which waits, may join a capture.
#[cold]
pub(super) fn joins(process: &'static Process, stream: CUstream, call: &Call) -> CUresult {
    if is_legacy(stream) || captures(process, stream) {
        return call.make();
    }
    let (context, what) = count_of(process, stream);
    let what = what & BLOCKING;
    if what == 0 {
        return call.make();
    }
    close(process, stream, what);
    process.limiter.captures.add(context, what);
    let status = call.make();
    if captures(process, stream) {
        note(process, stream, context, what);
    } else {
        process.limiter.captures.remove(context, what);
    }
    status
}
