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

/// Whether `stream` takes part in a capture.
#[inline(never)]
fn capturing(process: &Process, stream: CUstream) -> Capturing {
    if process.limiter.captures.is_empty() || is_legacy(stream) {
        return Capturing::No;
    }
    driver::outside_captures(|| driver::capturing(stream))
}

fn captures(process: &Process, stream: CUstream) -> bool {
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

/// The context of the capture that `stream` takes part in; `None`: it does not capture.
pub(super) fn captured_in(process: &Process, stream: CUstream) -> Option<u8> {
    captures(process, stream).then(|| process.contexts.of_stream(stream))
}

/// The capture has ended with its stream. Whether that was blocking cannot be asked while it captures: while other captures of the context
/// live, the legacy stream stays barred.
pub(super) fn end_in(process: &Process, context: Option<u8>) {
    if let Some(context) = context {
        process.limiter.captures.remove(context, ONE);
    }
}

/// Nothing can be recorded on `stream` while it captures, so the batch on it ends; so does the one on the legacy stream, if that is
/// barred.
fn close(process: &'static Process, stream: CUstream, what: u32) {
    if !process.limiter.is_free(process) {
        process.limiter.close_stream(process, stream, Close::Wait);
        process.limiter.ask_no_more(process, stream);
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
    let context = captured_in(process, call.stream(0));
    let status = call.make();
    // It can end with an error, and go on with another. Now that it has ended the stream can be asked for its flags.
    if context.is_some() && !captures(process, call.stream(0)) {
        let (context, what) = count_of(process, call.stream(0));
        process.limiter.captures.remove(context, what);
    }
    status
}

/// Makes a call with which `stream`, which waits, may join a capture.
#[cold]
#[inline(never)]
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
    if !captures(process, stream) {
        process.limiter.captures.remove(context, what);
    }
    status
}
