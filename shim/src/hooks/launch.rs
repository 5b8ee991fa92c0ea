//! Launches: the first of a kernel can load its code and raise the context's local memory.
//!
//! Each thread that the device can hold gets the largest local frame of any kernel launched so far, so one kernel with a frame of
//! 16 KiB takes 4 GiB of an H100. The frame is asked of the driver before the first launch, and what it will take is reserved. What
//! the code takes is seen only afterwards, and booked.

use core::ffi::c_uint;
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_LAUNCH_PARAMS_v1, CUdevice, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphNodeParams, CUgraphNodeType, CUkernel, CUlaunchAttributeID,
    CUlaunchConfig, CUlimit, CUresult, CUstream,
};
use cuota_governor::batch::Unit;
use cuota_governor::cost::Key;
use cuota_governor::physical::BLOCK_BYTES;
use cuota_governor::quota::UNLIMITED;
use cuota_region::ledger::Reservation;

use super::{context, graph, module};
use crate::hooks_table::real;
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::{self, Process, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Frames are rounded up to this (measured by what the driver reports: multiples of 16).
const FRAME_ALIGNMENT: u64 = 16;

/// Whether a launch of `function` goes at once: it is not the first in the current context, and no cap binds.
#[inline]
fn goes_at_once(function: CUfunction) -> bool {
    match process::standing() {
        Standing::Managed(process) => process.limiter.is_free(process) && is_known(process, function),
        Standing::Unmanaged | Standing::Closed => true,
    }
}

/// What a launch's cost is filed under.
fn unit_of(function: CUfunction, shape: [c_uint; 7], continues_chain: bool) -> Unit {
    // As in FNV, a product for each number: a hash of a few equal shapes, where a wrong hit costs a wrong estimate.
    let mixed = shape.iter().fold(0_u64, |sum, number| {
        (sum ^ u64::from(*number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    Unit { key: Key { function: function.addr() as u64, shape: mixed }, continues_chain }
}

/// Runs `call`, which launches `function` on `stream`, when it is time, and with what its first launch takes booked.
#[inline(never)]
fn held_back(function: CUfunction, stream: CUstream, unit: &Unit, call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let launch = || if is_known(process, function) { call.make() } else { first(function, call) };
    process.limiter.around(process, stream, unit, &launch)
}

#[inline]
fn is_known(process: &'static Process, function: CUfunction) -> bool {
    process.functions.knows(function, process.contexts.current())
}

/// The local memory of each thread of a kernel, bytes; loads the library that it is of. `None`: the driver does not say, so it will
/// not launch it either.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where the library does not fit.
pub(super) fn prepare(function: CUfunction, device: CUdevice) -> Result<Option<u64>, CUresult> {
    // The driver loads at a launch that is captured, too; asked to load beforehand, it would take that for part of the capture.
    driver::outside_captures(|| {
        // A launch takes a `CUkernel` too.
        let loaded = module::load_kernel(function.cast())?;
        let function = if loaded.is_null() { function } else { loaded };
        Ok(frame_of(function, device))
    })
}

fn frame_of(function: CUfunction, device: CUdevice) -> Option<u64> {
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
    let mut bytes = 0;
    // SAFETY: fills one int; a handle that is none is an error.
    let status =
        real::cuFuncGetAttribute.get().map(|call| unsafe { call(&raw mut bytes, attribute, function) });
    if status != Some(OK) {
        let kernel: CUkernel = function.cast();
        // SAFETY: as above.
        let status = real::cuKernelGetAttribute
            .get()
            .map(|call| unsafe { call(&raw mut bytes, attribute, kernel, device) })?;
        if status != OK {
            return None;
        }
    }
    u64::try_from(bytes).ok()?.checked_next_multiple_of(FRAME_ALIGNMENT)
}

/// Local memory that is about to be raised.
pub(super) struct Raise {
    frame: u64,
    context: u8,
    reservation: Reservation,
}

/// Reserves what the context takes more for threads with a frame of `frame` bytes. `Ok(None)`: nothing.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where it does not fit.
pub(super) fn raise(account: &Account, frame: u64) -> Result<Option<Raise>, CUresult> {
    let context = account.process.contexts.current();
    let provided = account.process.contexts.frame(context);
    if frame <= provided {
        return Ok(None);
    }
    let from = provided.max(context::limit(CUlimit::CU_LIMIT_STACK_SIZE));
    let Some(bytes) = context::for_every_thread(account.ordinal().cast_signed(), frame.saturating_sub(from))
    else {
        return Err(super::REFUSED);
    };
    if bytes == 0 {
        return Ok(None);
    }
    Ok(Some(Raise { frame, context, reservation: account.reserve(bytes)? }))
}

impl Raise {
    fn commit(self, account: &Account) -> u64 {
        let bytes = self.reservation.bytes();
        account.process.contexts.raise_frame(self.context, self.frame);
        account.device.raised.fetch_add(bytes, Ordering::Relaxed);
        account.commit_overhead(self.reservation);
        bytes
    }

    /// Books it, or gives it back where the call that was to take it failed. Returns the bytes booked.
    pub(super) fn settle(self, account: &Account, status: CUresult) -> u64 {
        if status == OK {
            return self.commit(account);
        }
        account.cancel(self.reservation);
        0
    }
}

/// Makes the call, which launches `function` for the first time.
#[cold]
#[inline(never)]
fn first(function: CUfunction, call: &Call) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call.make() };
    if account.quota() == UNLIMITED {
        // Forgotten when there is a quota.
        account.process.functions.note(function, account.process.contexts.current());
        return call.make();
    }
    let device = account.ordinal();
    let frame = prepare(function, device.cast_signed());
    let raised = match frame.and_then(|frame| raise(&account, frame.unwrap_or(0))) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let before = module::device_free();
    let status = call.make();
    let known = raised.map_or(0, |raised| raised.settle(&account, status));
    if status != OK {
        return status;
    }
    let took =
        before.zip(module::device_free()).map_or(0, |(before, after)| before.saturating_sub(after)) as u64;
    if let code @ BLOCK_BYTES.. = took.saturating_sub(known) {
        // It has happened. What does not fit is booked, and leaves less for what comes.
        account.still_fits(code);
    }
    let context = account.process.contexts.current();
    account.process.functions.note(function, context);
    status
}

/// Makes the call, which launches `function`, with its shape in the seven arguments from `shape` on, or any.
#[inline(never)]
fn launch(call: &Call, function: CUfunction, stream: CUstream, shape: [c_uint; 7]) -> CUresult {
    if goes_at_once(function) {
        return call.make();
    }
    held_back(function, stream, &unit_of(function, shape, false), call)
}

/// `cuLaunchKernel` and `cuLaunchCooperativeKernel`.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn kernel(call: &Call) -> CUresult {
    let function = call.pointer(0);
    if goes_at_once(function) {
        return call.make();
    }
    let shape = core::array::from_fn(|index| call.int(index + 1));
    held_back(function, call.stream(8), &unit_of(function, shape, false), call)
}

/// `cuLaunchKernelEx`.
pub(crate) unsafe extern "C" fn kernel_ex(call: &Call) -> CUresult {
    let function = call.pointer(1);
    // SAFETY: the program's argument.
    match unsafe { call.pointer::<CUlaunchConfig>(0).as_ref() } {
        Some(config) if !goes_at_once(function) => {
            let shape = [
                config.gridDimX,
                config.gridDimY,
                config.gridDimZ,
                config.blockDimX,
                config.blockDimY,
                config.blockDimZ,
                config.sharedMemBytes,
            ];
            let unit = unit_of(function, shape, continues_chain(config));
            held_back(function, call.as_meant(config.hStream), &unit, call)
        }
        _ => call.make(),
    }
}

/// Whether a launch may begin while its predecessor still runs: programmatic dependent launch.
fn continues_chain(config: &CUlaunchConfig) -> bool {
    if config.attrs.is_null() {
        return false;
    }
    // SAFETY: the program's array of so many attributes, which the driver is about to read too.
    let attributes = unsafe { core::slice::from_raw_parts(config.attrs, config.numAttrs as usize) };
    attributes.iter().any(|attribute| {
        // SAFETY: the id says which member of the union is in use.
        attribute.id == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            && unsafe { attribute.value.programmaticStreamSerializationAllowed } != 0
    })
}

/// `cuLaunchCooperativeKernelMultiDevice`: one kernel, for each device in a form of its own.
pub(crate) unsafe extern "C" fn cooperative_multi_device(call: &Call) -> CUresult {
    // SAFETY: the program's array. The first stands for all: the other devices' memory is looked at when NVML is asked, and their time
    // is that of the first, since the launch is one.
    match unsafe { call.at::<CUDA_LAUNCH_PARAMS_v1>(0) }.filter(|_| call.int(1) != 0) {
        Some(on) => {
            let shape = [
                on.gridDimX,
                on.gridDimY,
                on.gridDimZ,
                on.blockDimX,
                on.blockDimY,
                on.blockDimZ,
                on.sharedMemBytes,
            ];
            launch(call, on.function, on.hStream, shape)
        }
        None => call.make(),
    }
}

/// `cuLaunch`, `cuLaunchGrid` and `cuLaunchGridAsync`, which have `call.note()` arguments.
pub(crate) unsafe extern "C" fn legacy(call: &Call) -> CUresult {
    let count = call.note();
    let stream = if count > 3 { call.pointer(3) } else { core::ptr::null_mut() };
    let grid = if count > 1 { [call.int(1), call.int(2)] } else { [1; 2] };
    launch(call, call.pointer(0), stream, [grid[0], grid[1], 1, 1, 1, 1, 1])
}

/// Makes the call, which puts `function` into an executable graph. Its frame is booked now: the graph's launch will not ask.
fn into_graph(function: CUfunction, call: &Call) -> CUresult {
    match process::standing() {
        Standing::Managed(process) if !function.is_null() && !is_known(process, function) => {
            first(function, call)
        }
        _ => call.make(),
    }
}

/// `cuGraphExecKernelNodeSetParams`.
pub(crate) unsafe extern "C" fn set_node_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let parameters: *const CUDA_KERNEL_NODE_PARAMS_v1 = unsafe { call.argument(2) };
    // SAFETY: the program's argument.
    let function = unsafe { parameters.as_ref() }.map_or(core::ptr::null_mut(), |parameters| parameters.func);
    into_graph(function, call)
}

/// `cuGraphExecKernelNodeSetParams_v2`.
pub(crate) unsafe extern "C" fn set_node(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let parameters: *const CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { call.argument(2) };
    // SAFETY: the program's argument.
    let function = unsafe { parameters.as_ref() }.map_or(core::ptr::null_mut(), graph::function_of);
    into_graph(function, call)
}

/// `cuGraphExecNodeSetParams`.
pub(crate) unsafe extern "C" fn set_any_node(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let parameters: *mut CUgraphNodeParams = unsafe { call.argument(2) };
    // SAFETY: the program's argument; the type says which member of the union is in use.
    let function = unsafe {
        match parameters.as_ref() {
            Some(parameters) if parameters.type_ == CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => {
                let kernel = &parameters.__bindgen_anon_1.kernel;
                if kernel.func.is_null() { kernel.kern.cast() } else { kernel.func }
            }
            _ => core::ptr::null_mut(),
        }
    };
    into_graph(function, call)
}

/// Runs `call`, which puts the nodes of `graph` in the place of an executable graph's.
#[inline(never)]
fn updating(graph: CUgraph, call: &Call) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call.make() };
    let raised = match graph::frame_in(&account, graph).and_then(|frame| raise(&account, frame)) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let status = call.make();
    if let Some(raised) = raised {
        raised.settle(&account, status);
    }
    status
}

/// `cuGraphExecUpdate`.
pub(crate) unsafe extern "C" fn update_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let graph: CUgraph = unsafe { call.argument(1) };
    updating(graph, call)
}

/// `cuGraphExecUpdate_v2`.
pub(crate) unsafe extern "C" fn update(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let graph: CUgraph = unsafe { call.argument(1) };
    updating(graph, call)
}
