//! Captures: what begins, joins and ends them, for the limiter to know what it may record meanwhile.

use cuota_abi::cuda::{CUresult, CUstream};
use cuota_governor::batch::Close;

use crate::interpose::call::Call;
use crate::limiter::captures::{BLOCKING, ONE};
use crate::process::driver::{self, Capturing};
use crate::process::{self, Process, Standing};

/// The driver's handle of the legacy stream, which cannot capture and must not be asked whether it does; 0 means it too.
const LEGACY: CUstream = core::ptr::without_provenance_mut(1);

fn is_legacy(stream: CUstream) -> bool {
    stream.addr() <= LEGACY.addr()
}

/// What a capture on a stream counts for: the number of its context, and [`ONE`] with [`BLOCKING`] or without.
type Counted = (u8, u32);

#[inline(never)]
fn count_of(process: &Process, stream: CUstream) -> Counted {
    let is_blocking = is_legacy(stream) || driver::outside_captures(|| driver::is_blocking(stream));
    (process.contexts.of_stream(stream), if is_blocking { ONE + BLOCKING } else { ONE })
}

/// What was counted for the capture that `stream` takes part in; `None`: it does not capture.
#[inline(never)]
pub(super) fn counted_on(process: &Process, stream: CUstream) -> Option<Counted> {
    let is_capturing = !process.limiter.captures.is_empty()
        && !is_legacy(stream)
        && driver::outside_captures(|| driver::capturing(stream) == Capturing::Yes);
    is_capturing.then(|| count_of(process, stream))
}

/// The capture has ended.
pub(super) fn end_counted(process: &Process, counted: Option<Counted>) {
    if let Some((context, what)) = counted {
        process.limiter.captures.remove(context, what);
    }
}

/// Nothing can be recorded on `stream` while it captures, so the batch on it ends; so does the one on the legacy stream, if that is
/// barred.
fn close(process: &'static Process, stream: CUstream, what: u32) {
    if !process.limiter.is_free(process) {
        process.limiter.close_stream(process, stream, Close::Wait);
        if what >= BLOCKING {
            process.limiter.close_stream(process, LEGACY, Close::Wait);
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
    if status != CUresult::CUDA_SUCCESS {
        process.limiter.captures.remove(context, what);
    }
    status
}

/// The functions that end the capture on stream 0.
pub(crate) unsafe extern "C" fn end(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let counted = counted_on(process, call.stream(0));
    let status = call.make();
    // It can end with an error, and go on with another.
    if counted.is_some() && counted_on(process, call.stream(0)).is_none() {
        end_counted(process, counted);
    }
    status
}

/// Makes a call with which `stream`, which waits, may join a capture.
#[cold]
#[inline(never)]
pub(super) fn joins(process: &'static Process, stream: CUstream, call: &Call) -> CUresult {
    let (context, what) = count_of(process, stream);
    let what = what & BLOCKING;
    if what == 0 || is_legacy(stream) || counted_on(process, stream).is_some() {
        return call.make();
    }
    close(process, stream, what);
    process.limiter.captures.add(context, what);
    let status = call.make();
    if counted_on(process, stream).is_none() {
        process.limiter.captures.remove(context, what);
    }
    status
}
