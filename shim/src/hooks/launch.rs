//! Launches: the first of a kernel can load its code and raise the context's local memory.
//!
//! Each thread that the device can hold gets the largest local frame of any kernel launched so far, so one kernel with a frame of
//! 16 KiB takes 4 GiB of an H100. The frame is asked of the driver before the first launch, and what it will take is reserved. What
//! the code takes is seen only afterwards, and booked.

use core::ffi::c_uint;
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_LAUNCH_PARAMS_v1, CUdevice, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphExec, CUgraphNodeParams, CUgraphNodeType, CUkernel,
    CUlaunchAttributeID, CUlaunchConfig, CUlimit, CUresult, CUstream,
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
use crate::process::driver::{self, Capturing};
use crate::process::handles::{Kind, Last, Owner};
use crate::process::{self, Process, Standing};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Frames are rounded up to this (measured by what the driver reports: multiples of 16).
const FRAME_ALIGNMENT: u64 = 16;

/// The handle of the legacy stream; so is 0, in functions that do not end in `_ptsz` or `_ptds`.
const CU_STREAM_LEGACY: usize = 1;

/// Whether launches that nothing holds come to a handler: the gate of x86-64 lets those through of a managed process with one context. The others pay for
/// a unit's key that nobody asks for.
const HAS_SLOW_GATE: bool = !cfg!(target_arch = "x86_64");

/// Whether a launch of `function` goes at once: it is not the first in the current context, and no cap binds.
#[inline]
fn goes_at_once(function: CUfunction) -> bool {
    match process::standing() {
        Standing::Managed(process) => process.limiter.is_free(process) && is_known(process, function),
        Standing::Unmanaged | Standing::Closed => true,
    }
}

/// What a launch's cost is filed under, whose grid, block and shared memory are seven numbers that lie so many bytes apart. One by one, as the
/// program has just written them: a load of several would wait until all stores in front of them have left the core, and with them the doorbell of the
/// launch before.
///
/// # Safety
/// They are there.
#[inline(never)]
unsafe fn unit_of(function: CUfunction, shape: *const c_uint, apart: usize, continues_chain: bool) -> Unit {
    // As in FNV, a product for each number: a hash of a few equal shapes, where a wrong hit costs a wrong estimate.
    let mixed = (0..7).fold(0_u64, |sum, index| {
        // SAFETY: the caller's contract.
        let number = unsafe { shape.byte_add(index * apart).read() };
        (sum ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    Unit { key: Key { function: function.expose_provenance() as u64, shape: mixed }, continues_chain }
}

/// Seven numbers that lie one behind another.
const SHAPE: usize = size_of::<c_uint>();
const _: () = assert!(core::mem::offset_of!(CUlaunchConfig, sharedMemBytes) == 6 * SHAPE);

/// Makes the call, which launches the unit on `stream`, when it is time, and with what its first launch takes booked.
#[inline(never)]
fn held_back(stream: CUstream, unit: &Unit, call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing_hot() else { return call.make() };
    process.limiter.around(process, stream, unit, call, known_or_first)
}

/// Makes the call, with what the first launch of the unit's function takes booked.
fn known_or_first(call: &Call, unit: &Unit, stream: CUstream) -> CUresult {
    let Standing::Managed(process) = process::standing_hot() else { return call.make() };
    let function = core::ptr::with_exposed_provenance_mut(usize::try_from(unit.key.function).unwrap_or(0));
    if is_known(process, function) { call.make() } else { first(function, fate_on(stream), call) }
}

#[inline]
fn is_known(process: &'static Process, function: CUfunction) -> bool {
    process.functions.knows(function, process.contexts.current_hot())
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
    let status = unsafe { real::cuFuncGetAttribute.get()(&raw mut bytes, attribute, function) };
    if status != OK {
        let kernel: CUkernel = function.cast();
        // SAFETY: as above.
        let status = unsafe { real::cuKernelGetAttribute.get()(&raw mut bytes, attribute, kernel, device) };
        if status != OK {
            return None;
        }
    }
    u64::try_from(bytes).ok()?.checked_next_multiple_of(FRAME_ALIGNMENT)
}

/// What threads of the current context have, bytes, as far as a frame of `frame` bytes is concerned.
fn provided(account: Account, context: u8, frame: u64) -> u64 {
    let contexts = &account.process().contexts;
    if frame > contexts.provided(context) {
        contexts.note_stack(context, context::limit(CUlimit::CU_LIMIT_STACK_SIZE));
    }
    contexts.provided(context)
}

/// What a frame of `to` bytes takes more than one of `from`.
fn growth(account: Account, from: u64, to: u64) -> Result<u64, CUresult> {
    context::for_every_thread(account.ordinal().cast_signed(), to.saturating_sub(from)).ok_or(super::REFUSED)
}

/// What launches to come will take of the device for frames that are booked: nobody sees it until then.
pub(crate) fn awaited(account: Account) -> u64 {
    let contexts = &account.process().contexts;
    contexts
        .of_device(account.ordinal().cast_signed())
        .map(|context| contexts.awaited_frame(context))
        .filter(|frame| *frame != 0)
        .fold(0, |sum, frame| sum.saturating_add(growth(account, 0, frame).unwrap_or(0)))
}

/// Notes that a launch is over, or will never be, and gives back what was booked for it alone.
fn end_waiting(account: Account, context: u8) {
    let frame = account.process().contexts.end_waiting(context);
    if frame != 0 {
        account.release_overhead(growth(account, 0, frame).unwrap_or(0));
    }
}

/// Local memory that is about to be raised.
pub(super) struct Raise {
    frame: u64,
    context: u8,
    /// What the launch takes, bytes.
    takes: u64,
    /// What of it is not booked for another launch to come.
    reservation: Reservation,
}

/// Reserves what the context takes more for threads with a frame of `frame` bytes. `Ok(None)`: nothing.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where it does not fit.
pub(super) fn raise(account: Account, frame: u64) -> Result<Option<Raise>, CUresult> {
    let contexts = &account.process().contexts;
    let context = contexts.current();
    let provided = provided(account, context, frame);
    let takes = growth(account, provided, frame)?;
    if takes == 0 {
        return Ok(None);
    }
    contexts.wait_for_launch(context);
    let reserved = growth(account, provided.max(contexts.frame(context)), frame)
        .and_then(|bytes| account.reserve(bytes).ok_or(super::REFUSED))
        .inspect_err(|_| end_waiting(account, context))?;
    Ok(Some(Raise { frame, context, takes, reservation: reserved }))
}

impl Raise {
    fn commit(account: Account, context: u8, frame: u64, reservation: Reservation) {
        if reservation.bytes() != 0 {
            account.device.raised.fetch_add(reservation.bytes(), Ordering::Relaxed);
        }
        account.process().contexts.raise_frame(context, frame);
        account.commit_overhead(reservation);
    }

    /// Books it, or gives it back where the launch that was to take it failed. Returns the bytes taken.
    fn launched(self, account: Account, status: CUresult) -> u64 {
        if status != OK {
            self.cancel(account);
            return 0;
        }
        Raise::commit(account, self.context, self.frame, self.reservation);
        account.process().contexts.give(self.context, self.frame);
        end_waiting(account, self.context);
        self.takes
    }

    /// Gives it back.
    pub(super) fn cancel(self, account: Account) {
        account.cancel(self.reservation);
        end_waiting(account, self.context);
    }

    /// Books it for `executable`, which was made or changed: `before` is what the process took beyond its books then. A driver that
    /// takes it at once shows it; one that takes it at the first launch does not.
    pub(super) fn made(self, account: Account, executable: CUgraphExec, before: Option<u64>) {
        let grew = before.zip(account.unbooked()).map_or(0, |(before, after)| after.saturating_sub(before));
        if grew >= self.takes / 4 * 3 {
            self.launched(account, OK);
        } else {
            self.keep_for(account, executable);
        }
    }

    /// Books it until `executable` is launched for the first time: the driver takes it only then.
    fn keep_for(self, account: Account, executable: CUgraphExec) {
        Raise::commit(account, self.context, self.frame, self.reservation);
        let (handles, key) = (&account.process().handles, awaiting(executable));
        let owner = Owner::new(account.ordinal(), self.context, Kind::Graph);
        account.process().contexts.note_awaited();
        match handles.find(key) {
            Some(place) => {
                handles.raise_bytes(place, self.frame);
                if handles.owner(place) == owner {
                    // It waits already, and once.
                    end_waiting(account, self.context);
                }
            }
            // Where there is no place for it, it stays booked.
            None => {
                handles.add(key, self.frame, owner);
            }
        }
    }
}

/// Under what it is noted that an executable graph was not launched yet: addresses have 47 bits.
fn awaiting(executable: CUgraphExec) -> u64 {
    executable.addr() as u64 | 1 << 63
}

/// Takes out what is noted so of `executable`.
pub(super) fn take_awaited(process: &Process, executable: CUgraphExec) -> Option<Last> {
    let place =
        process.contexts.any_awaited().then(|| process.handles.find(awaiting(executable))).flatten()?;
    process.handles.release(place)
}

/// What was noted so is over: the graph `was_launched`, and its threads were given their frame, or it never will be.
#[cold]
pub(super) fn end_awaited(last: &Last, was_launched: bool) {
    if let Booking::On(account) = account::on_device(last.owner.device().cast_signed()) {
        if was_launched {
            account.process().contexts.give(last.owner.context(), last.bytes);
        }
        end_waiting(account, last.owner.context());
    }
}

/// What becomes of a kernel that was not launched before.
#[derive(Clone, Copy)]
enum Fate {
    /// It is launched.
    Runs,
    /// It becomes part of a graph: what its frame takes is booked when that is made executable.
    IsCaptured,
    /// It becomes part of this executable graph.
    Waits(CUgraphExec),
}

/// Makes the call, which launches `function` for the first time, or puts it into a graph.
#[cold]
#[inline(never)]
fn first(function: CUfunction, fate: Fate, call: &Call) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call.make() };
    let context = account.process().contexts.current();
    if account.quota() == UNLIMITED {
        // Forgotten when there is a quota.
        account.process().functions.note(function, context);
        return call.make();
    }
    let device = account.ordinal();
    let frame = prepare(function, device.cast_signed()).map(|frame| frame.unwrap_or(0));
    let raised = frame.and_then(|frame| match fate {
        Fate::IsCaptured => Ok((frame, None)),
        Fate::Runs | Fate::Waits(_) => Ok((frame, raise(account, frame)?)),
    });
    let (frame, raised) = match raised {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let before = module::device_free();
    let waits = matches!(fate, Fate::Waits(_)) && raised.is_some();
    let unbooked = if waits { account.unbooked() } else { None };
    let status = call.make();
    let known = raised.map_or(0, |raised| match fate {
        Fate::Waits(executable) if status == OK => {
            raised.made(account, executable, unbooked);
            0
        }
        _ => raised.launched(account, status),
    });
    if status != OK {
        return status;
    }
    let took =
        before.zip(module::device_free()).map_or(0, |(before, after)| before.saturating_sub(after)) as u64;
    if let code @ BLOCK_BYTES.. = took.saturating_sub(known) {
        // It has happened. What does not fit is booked, and leaves less for what comes.
        account.still_fits(code);
    }
    // One that waits for its frame is looked at again.
    if frame <= provided(account, context, frame) {
        account.process().functions.note(function, context);
    }
    status
}

/// What becomes of a kernel that is launched on `stream`. The legacy stream cannot capture, and must not be asked.
fn fate_on(stream: CUstream) -> Fate {
    let is_captured = stream.addr() > CU_STREAM_LEGACY
        && driver::outside_captures(|| driver::capturing(stream)) == Capturing::Yes;
    if is_captured { Fate::IsCaptured } else { Fate::Runs }
}

/// Makes the call, which launches `function`, with its shape in the seven arguments from `shape` on, or any.
#[inline(never)]
fn launch(call: &Call, function: CUfunction, stream: CUstream, shape: [c_uint; 7]) -> CUresult {
    if HAS_SLOW_GATE && goes_at_once(function) {
        return call.make();
    }
    // SAFETY: an array of them.
    held_back(stream, &unsafe { unit_of(function, shape.as_ptr(), SHAPE, false) }, call)
}

/// `cuLaunchKernel` and `cuLaunchCooperativeKernel`.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn kernel(call: &Call) -> CUresult {
    let function = call.pointer(0);
    if HAS_SLOW_GATE && goes_at_once(function) {
        return call.make();
    }
    // SAFETY: arguments 1 to 7, the lower halves of words.
    held_back(call.stream(8), &unsafe { unit_of(function, call.ints(1), size_of::<u64>(), false) }, call)
}

/// `cuLaunchKernelEx`.
pub(crate) unsafe extern "C" fn kernel_ex(call: &Call) -> CUresult {
    let function = call.pointer(1);
    // SAFETY: the program's argument.
    match unsafe { call.pointer::<CUlaunchConfig>(0).as_ref() } {
        Some(config) if !(HAS_SLOW_GATE && goes_at_once(function)) => {
            // SAFETY: the program's structure begins with them.
            let unit = unsafe {
                unit_of(function, core::ptr::from_ref(config).cast(), SHAPE, continues_chain(config))
            };
            held_back(call.as_meant(config.hStream), &unit, call)
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

/// Makes the call, which puts `function` into the executable graph of argument 0. Its frame is booked now, until the graph is launched.
fn into_graph(function: CUfunction, call: &Call) -> CUresult {
    match process::standing() {
        Standing::Managed(process) if !function.is_null() && !is_known(process, function) => {
            first(function, Fate::Waits(call.pointer(0)), call)
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
fn updating(graph: CUgraph, call: &Call) -> CUresult {
    let Booking::On(account) = account::on_current_device() else { return call.make() };
    let raised = match graph::frame_in(account, graph).and_then(|frame| raise(account, frame)) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let unbooked = raised.as_ref().and_then(|_| account.unbooked());
    let status = call.make();
    if let Some(raised) = raised {
        if status == OK { raised.made(account, call.pointer(0), unbooked) } else { raised.cancel(account) }
    }
    status
}

/// `cuGraphExecUpdate`, `cuGraphExecUpdate_v2`.
pub(crate) unsafe extern "C" fn update(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let graph: CUgraph = unsafe { call.argument(1) };
    updating(graph, call)
}
