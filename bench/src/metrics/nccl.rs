//! NCCL, as far as an all-reduce over the GPUs of one process needs it.

use std::ffi::{c_int, c_void};
use std::ptr;

use anyhow::{Result, bail};
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::ncclComm_t;

use crate::gpu::{Library, StreamHandle};

/// Names that installations have.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// `ncclBfloat16` of nccl.h; not in the oldest of cudarc's bindings.
const BF16: c_int = 9;
/// `ncclSum`.
const SUM: c_int = 0;

// They return a number: a library can be newer than any list of its results.
type Simple = unsafe extern "C" fn() -> c_int;
type InitAll = unsafe extern "C" fn(*mut ncclComm_t, c_int, *const c_int) -> c_int;
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, CUstream) -> c_int;

/// Communicators of the first GPUs, which live as long as the process.
pub(super) struct Group {
    begin: Simple,
    end: Simple,
    all_reduce: AllReduce,
    communicators: Vec<ncclComm_t>,
}

fn check(call: &str, result: c_int) -> Result<()> {
    let name = match result {
        0 => return Ok(()),
        1 => "ncclUnhandledCudaError",
        2 => "ncclSystemError",
        3 => "ncclInternalError",
        4 => "ncclInvalidArgument",
        5 => "ncclInvalidUsage",
        6 => "ncclRemoteError",
        _ => "an NCCL result",
    };
    bail!("{call} returned {name} ({result})")
}

impl Group {
    /// Joins the first `count` GPUs.
    ///
    /// # Errors
    /// `NotMeasured` where there is no NCCL.
    pub(super) fn of_first(count: c_int) -> Result<Self> {
        let library = Library::open(&NAMES)?;
        // SAFETY: the signatures are those of nccl.h, as cudarc's bindings have them; an enum is passed as an int.
        let (begin, end, all_reduce, init) = unsafe {
            (
                library.function::<Simple>("ncclGroupStart")?,
                library.function::<Simple>("ncclGroupEnd")?,
                library.function::<AllReduce>("ncclAllReduce")?,
                library.function::<InitAll>("ncclCommInitAll")?,
            )
        };
        let mut communicators = vec![ptr::null_mut(); usize::try_from(count)?];
        // SAFETY: there is room for `count` communicators; NULL means the first devices.
        check("ncclCommInitAll", unsafe { init(communicators.as_mut_ptr(), count, ptr::null()) })?;
        Ok(Self { begin, end, all_reduce, communicators })
    }

    /// Replaces `count` numbers in bf16 at each address by their sums over all GPUs, in the order of each stream.
    pub(super) fn sum_bf16(&self, operands: &[(*mut c_void, StreamHandle)], count: usize) -> Result<()> {
        // SAFETY: as many operands as communicators, each `count` numbers long on that communicator's device.
        unsafe {
            check("ncclGroupStart", (self.begin)())?;
            for ((address, stream), communicator) in operands.iter().zip(&self.communicators) {
                let at = *address;
                let result = (self.all_reduce)(at, at, count, BF16, SUM, *communicator, stream.raw());
                check("ncclAllReduce", result)?;
            }
            check("ncclGroupEnd", (self.end)())
        }
    }
}
