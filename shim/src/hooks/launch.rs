//! Launches: the first of a kernel can load its code and raise the context's local memory.
//!
//! Each thread that the device can hold gets the largest local frame of any kernel launched so far, so one kernel with a frame of
//! 16 KiB takes 4 GiB of an H100. The frame is asked of the driver before the first launch, and what it will take is reserved. What
//! the code takes is seen only afterwards, and booked.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_LAUNCH_PARAMS_v1, CUdevice, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphExec, CUgraphExecUpdateResult, CUgraphExecUpdateResultInfo,
    CUgraphNode, CUgraphNodeParams, CUgraphNodeType, CUkernel, CUlaunchConfig, CUlimit, CUresult, CUstream,
    PFN_cuGraphExecKernelNodeSetParams_v10010, PFN_cuGraphExecKernelNodeSetParams_v12000,
    PFN_cuGraphExecNodeSetParams_v12020, PFN_cuGraphExecUpdate_v10020, PFN_cuGraphExecUpdate_v12000,
    PFN_cuLaunch_v2000, PFN_cuLaunchCooperativeKernel_v9000, PFN_cuLaunchCooperativeKernelMultiDevice_v9000,
    PFN_cuLaunchGrid_v2000, PFN_cuLaunchGridAsync_v2000, PFN_cuLaunchKernel_v4000,
    PFN_cuLaunchKernelEx_v11060,
};
use cuota_governor::physical::BLOCK_BYTES;
use cuota_governor::quota::UNLIMITED;
use cuota_region::ledger::Reservation;

use super::{context, graph, module};
use crate::hooks_table::real;
use crate::process::account::{self, Account, Booking};
use crate::process::{self, Process, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Frames are rounded up to this (measured by what the driver reports: multiples of 16).
const FRAME_ALIGNMENT: u64 = 16;

/// The process, where it is held to a quota and `function` was not launched before in the current context.
#[inline]
fn is_first(function: CUfunction) -> bool {
    match process::standing() {
        Standing::Managed(process) => !is_known(process, function),
        Standing::Unmanaged | Standing::Closed => false,
    }
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

/// Runs `call`, which launches `function` for the first time.
#[cold]
#[inline(never)]
fn first(function: CUfunction, call: &dyn Fn() -> CUresult) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call() };
    if account.quota() == UNLIMITED {
        return call();
    }
    let device = account.ordinal();
    let frame = prepare(function, device.cast_signed());
    let raised = match frame.and_then(|frame| raise(&account, frame.unwrap_or(0))) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let before = module::device_free();
    let status = call();
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

/// Runs `call`, which launches `function`: out of line, for those that are called less often.
#[inline(never)]
fn launching(function: CUfunction, call: &dyn Fn() -> CUresult) -> CUresult {
    if is_first(function) { first(function, call) } else { call() }
}

/// `cuLaunchKernel`.
///
/// # Safety
/// The program's arguments; so for each hook below.
#[expect(clippy::too_many_arguments, reason = "the driver's")]
pub(crate) unsafe fn kernel(
    real: PFN_cuLaunchKernel_v4000,
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe {
            real(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                shared_bytes,
                stream,
                parameters,
                extra,
            )
        }
    };
    if is_first(function) { first(function, &call) } else { call() }
}

/// `cuLaunchKernelEx`.
pub(crate) unsafe fn kernel_ex(
    real: PFN_cuLaunchKernelEx_v11060,
    config: *const CUlaunchConfig,
    function: CUfunction,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe { real(config, function, parameters, extra) }
    };
    if is_first(function) { first(function, &call) } else { call() }
}

/// `cuLaunchCooperativeKernel`.
#[expect(clippy::too_many_arguments, reason = "the driver's")]
pub(crate) unsafe fn cooperative(
    real: PFN_cuLaunchCooperativeKernel_v9000,
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe {
            real(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                shared_bytes,
                stream,
                parameters,
            )
        }
    };
    launching(function, &call)
}

/// `cuLaunchCooperativeKernelMultiDevice`: one kernel, for each device in a form of its own.
pub(crate) unsafe fn cooperative_multi_device(
    real: PFN_cuLaunchCooperativeKernelMultiDevice_v9000,
    launches: *mut CUDA_LAUNCH_PARAMS_v1,
    count: c_uint,
    flags: c_uint,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe { real(launches, count, flags) }
    };
    // SAFETY: the program's array of `count` entries. The first stands for all: the other devices are looked at when NVML is asked.
    match unsafe { launches.as_ref() }.filter(|_| count != 0).map(|launch| launch.function) {
        Some(function) => launching(function, &call),
        None => call(),
    }
}

/// `cuLaunch`.
pub(crate) unsafe fn legacy(real: PFN_cuLaunch_v2000, function: CUfunction) -> CUresult {
    let call = move || {
        // SAFETY: the program's argument.
        unsafe { real(function) }
    };
    launching(function, &call)
}

/// `cuLaunchGrid`.
pub(crate) unsafe fn legacy_grid(
    real: PFN_cuLaunchGrid_v2000,
    function: CUfunction,
    width: c_int,
    height: c_int,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe { real(function, width, height) }
    };
    launching(function, &call)
}

/// `cuLaunchGridAsync`.
pub(crate) unsafe fn legacy_grid_async(
    real: PFN_cuLaunchGridAsync_v2000,
    function: CUfunction,
    width: c_int,
    height: c_int,
    stream: CUstream,
) -> CUresult {
    let call = move || {
        // SAFETY: the program's arguments.
        unsafe { real(function, width, height, stream) }
    };
    launching(function, &call)
}

/// Runs `call`, which puts `function` into an executable graph. Its frame is booked now: the graph's launch will not ask.
fn into_graph(function: CUfunction, call: &dyn Fn() -> CUresult) -> CUresult {
    if function.is_null() { call() } else { launching(function, call) }
}

/// `cuGraphExecKernelNodeSetParams`.
pub(crate) unsafe fn set_node_v1(
    real: PFN_cuGraphExecKernelNodeSetParams_v10010,
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> CUresult {
    // SAFETY: the program's argument.
    let function = unsafe { parameters.as_ref() }.map_or(core::ptr::null_mut(), |parameters| parameters.func);
    // SAFETY: the program's arguments.
    into_graph(function, &move || unsafe { real(executable, node, parameters) })
}

/// `cuGraphExecKernelNodeSetParams_v2`.
pub(crate) unsafe fn set_node(
    real: PFN_cuGraphExecKernelNodeSetParams_v12000,
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> CUresult {
    // SAFETY: the program's argument.
    let function = unsafe { parameters.as_ref() }.map_or(core::ptr::null_mut(), graph::function_of);
    // SAFETY: the program's arguments.
    into_graph(function, &move || unsafe { real(executable, node, parameters) })
}

/// `cuGraphExecNodeSetParams`.
pub(crate) unsafe fn set_any_node(
    real: PFN_cuGraphExecNodeSetParams_v12020,
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *mut CUgraphNodeParams,
) -> CUresult {
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
    // SAFETY: the program's arguments.
    into_graph(function, &move || unsafe { real(executable, node, parameters) })
}

/// Runs `call`, which puts the nodes of `graph` in the place of an executable graph's.
#[inline(never)]
fn updating(graph: CUgraph, call: &dyn Fn() -> CUresult) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call() };
    let raised = match graph::frame_in(&account, graph).and_then(|frame| raise(&account, frame)) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let status = call();
    if let Some(raised) = raised {
        raised.settle(&account, status);
    }
    status
}

/// `cuGraphExecUpdate`.
pub(crate) unsafe fn update_v1(
    real: PFN_cuGraphExecUpdate_v10020,
    executable: CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    result: *mut CUgraphExecUpdateResult,
) -> CUresult {
    // SAFETY: the program's arguments.
    updating(graph, &move || unsafe { real(executable, graph, error_node, result) })
}

/// `cuGraphExecUpdate_v2`.
pub(crate) unsafe fn update(
    real: PFN_cuGraphExecUpdate_v12000,
    executable: CUgraphExec,
    graph: CUgraph,
    result: *mut CUgraphExecUpdateResultInfo,
) -> CUresult {
    // SAFETY: the program's arguments.
    updating(graph, &move || unsafe { real(executable, graph, result) })
}
