//! Graphs that allocate: the driver takes their memory when they are uploaded or launched, from a reserve of its own.
//!
//! What a graph can take is read off its nodes when it is made executable; a graph that allocates nothing costs a
//! launch a look at each device.

use core::ffi::{c_ulonglong, c_void};
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEM_ALLOC_NODE_PARAMS, CUdevice,
    CUfunction, CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUgraphNode, CUgraphNodeType, CUresult,
};
use cuota_governor::batch::Unit;
use cuota_governor::cost::Key;
use cuota_governor::quota::UNLIMITED;

use super::flow::capped;
use super::{REFUSED, device_at, launch as first_launch};
use crate::hooks_table::{cuGraphExecDestroy, real};
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::driver;
use crate::process::handles::{Kind, Owner};
use crate::process::{self, Standing};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The flag of a graph that is uploaded where it is made executable.
const UPLOAD: c_ulonglong = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.0 as c_ulonglong;

/// What an executable graph takes by itself, bytes: of one kernel, 0.111 MiB on an H100 with driver 580 (10,000 of them: 1,114 MiB).
const EXECUTABLE_BYTES: u64 = 128 << 10;

/// The note of a function that does what the graph says.
const LAUNCH: usize = 1;

/// How deep graphs in graphs are looked into: what allocates further down cannot be told.
const DEPTH: u32 = 16;

/// What a graph's launch can take.
#[derive(Clone, Copy, Default)]
struct Needs {
    /// Bytes of its allocations, all at once.
    bytes: u64,
    /// The device that they lie on; of several, one.
    device: Option<i32>,
    /// The largest frame of local memory of a kernel that was not launched before, bytes.
    frame: u64,
    /// A kernel's library does not fit.
    is_refused: bool,
}

/// What the nodes of a graph need. `None`: it cannot be told.
fn needs(account: Account, graph: CUgraph) -> Option<Needs> {
    let mut sum = Needs::default();
    add_needs(account, graph, DEPTH, &mut sum).then_some(sum)
}

/// Adds what the nodes of a graph need. `false`: it cannot be told.
#[inline(never)]
fn add_needs(account: Account, graph: CUgraph, depth: u32, sum: &mut Needs) -> bool {
    let mut count = 0;
    // SAFETY: asks for the number of nodes only.
    let status = unsafe { real::cuGraphGetNodes.get()(graph, core::ptr::null_mut(), &raw mut count) };
    if status != OK {
        return false;
    }
    let mut are_known = false;
    let has_room = driver::with_room(count, &mut |room| {
        let nodes = room.as_mut_ptr().cast::<CUgraphNode>();
        // SAFETY: the driver writes at most `count` nodes, for which there is room.
        let status = unsafe { real::cuGraphGetNodes.get()(graph, nodes, &raw mut count) };
        let nodes = room.get(..count).filter(|_| status == OK);
        are_known = nodes
            .is_some_and(|nodes| nodes.iter().all(|node| add_needs_of(account, node.cast(), depth, sum)));
    });
    has_room && are_known
}

/// The same of one node.
fn add_needs_of(account: Account, node: CUgraphNode, depth: u32, sum: &mut Needs) -> bool {
    let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
    // SAFETY: fills one type.
    if unsafe { real::cuGraphNodeGetType.get()(node, &raw mut kind) } != OK {
        return false;
    }
    match kind {
        CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_ALLOC => {
            // SAFETY: integers and pointers, for which all-zero is a value.
            let mut parameters: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { core::mem::zeroed() };
            // SAFETY: fills one struct.
            let status = unsafe { real::cuGraphMemAllocNodeGetParams.get()(node, &raw mut parameters) };
            let (bytes, is_too_much) = sum.bytes.overflowing_add(parameters.bytesize as u64);
            sum.bytes = bytes;
            sum.device = device_at(parameters.poolProps.location).or(sum.device);
            status == OK && !is_too_much
        }
        CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => {
            match node_frame(account, node) {
                Ok(frame) => sum.frame = sum.frame.max(frame),
                Err(_) => sum.is_refused = true,
            }
            true
        }
        CUgraphNodeType::CU_GRAPH_NODE_TYPE_GRAPH => {
            let mut child = core::ptr::null_mut();
            // SAFETY: fills one handle.
            let status = unsafe { real::cuGraphChildGraphNodeGetGraph.get()(node, &raw mut child) };
            status == OK && depth != 0 && add_needs(account, child, depth - 1, sum)
        }
        _ => true,
    }
}

/// The function of a kernel node, which is given as one or as a kernel of all devices.
pub(super) fn function_of(parameters: &CUDA_KERNEL_NODE_PARAMS_v2) -> CUfunction {
    if parameters.func.is_null() { parameters.kern.cast() } else { parameters.func }
}

/// The frame of a kernel node's threads; 0 where it was launched before, or cannot be told.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where its library does not fit.
fn node_frame(account: Account, node: CUgraphNode) -> Result<u64, CUresult> {
    // SAFETY: integers and pointers, for which all-zero is a value.
    let mut parameters: CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { core::mem::zeroed() };
    // SAFETY: fills one struct.
    let status = unsafe { real::cuGraphKernelNodeGetParams_v2.get()(node, &raw mut parameters) };
    let function = function_of(&parameters);
    let is_new =
        status == OK && !account.process().functions.knows(function, account.process().contexts.current());
    if is_new {
        Ok(first_launch::prepare(function, account.ordinal().cast_signed())?.unwrap_or(0))
    } else {
        Ok(0)
    }
}

/// The largest frame of local memory of the kernels in `graph` that were not launched before.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` where the library of one does not fit.
pub(super) fn frame_in(account: Account, graph: CUgraph) -> Result<u64, CUresult> {
    match needs(account, graph) {
        Some(needs) if needs.is_refused => Err(REFUSED),
        Some(needs) => Ok(needs.frame),
        // What cannot be told is not granted.
        None if account.quota() == UNLIMITED => Ok(0),
        None => Err(REFUSED),
    }
}

/// Makes the graph in argument 1 executable: `call` asks the driver, which writes the result where argument 0 says.
#[inline(never)]
fn instantiate(call: &Call, uploads: bool) -> CUresult {
    let account = match account::on_current_or_first_device() {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let needs = match needs(account, call.pointer(1)) {
        Some(needs) if !needs.is_refused => needs,
        // Without a quota it is followed all the same: each launch books what it took.
        None if account.quota() == UNLIMITED => Needs { bytes: 1, ..Needs::default() },
        // What cannot be told is not granted.
        _ => return REFUSED,
    };
    // Its memory can be another device's than the current one.
    let of_memory = needs.device.and_then(|device| match account::on_device(device) {
        Booking::On(account) => Some(account),
        Booking::No | Booking::Refuse => None,
    });
    let of_memory = of_memory.unwrap_or(account);
    let raised = match first_launch::raise(account, needs.frame) {
        Ok(raised) => raised,
        Err(error) => return error,
    };
    let unbooked = raised.as_ref().and_then(|_| account.unbooked());
    // One that is uploaded at once takes its memory now.
    let status =
        if uploads && needs.bytes != 0 { reserved(of_memory, needs.bytes, call) } else { call.make() };
    let fits = status != OK || account.still_fits(EXECUTABLE_BYTES);
    if let Some(raised) = raised {
        if status == OK && fits {
            // SAFETY: the driver has written the handle.
            raised.made(account, unsafe { *call.pointer(0) }, unbooked);
        } else {
            raised.cancel(account);
        }
    }
    if !fits {
        // SAFETY: the driver has written it, and nobody else has seen it.
        let made = unsafe { *call.pointer::<CUgraphExec>(0) };
        driver::give_up(cuGraphExecDestroy::REAL.get() as *const c_void, made.addr() as u64);
        return account.refuse_made(EXECUTABLE_BYTES);
    }
    if status == OK
        && let bytes @ 1.. = needs.bytes
    {
        let owner = Owner::new(of_memory.ordinal(), 0, Kind::Graph);
        // SAFETY: the driver has written the handle.
        account.process().handles.add(unsafe { *call.pointer::<CUgraphExec>(0) }.addr() as u64, bytes, owner);
        of_memory.device.allocating_graphs.fetch_add(1, Ordering::Relaxed);
        account.process().allocating_graphs.store(1, Ordering::Relaxed);
    }
    status
}

/// Makes the call, which may take the memory of the executable graph in argument 0.
fn taking(call: &Call) -> CUresult {
    let process = match process::standing() {
        Standing::Managed(process) => process,
        Standing::Unmanaged => return call.make(),
        Standing::Closed => return REFUSED,
    };
    if process.allocating_graphs.load(Ordering::Relaxed) == 0 {
        return call.make();
    }
    let place = process.handles.find(call.word(0));
    let owner = place.map(|place| (place, process.handles.owner(place).device().cast_signed()));
    match owner.map(|(place, device)| (place, account::on_device(device))) {
        Some((place, Booking::On(account))) => reserved(account, process.handles.bytes(place), call),
        Some((_, Booking::Refuse)) => REFUSED,
        Some((_, Booking::No)) | None => call.make(),
    }
}

#[inline(never)]
fn reserved(account: Account, bytes: u64, call: &Call) -> CUresult {
    let Some(reservation) = account.reserve_growth(None, bytes) else { return REFUSED };
    let status = call.make();
    match account.graphs_change() {
        // A launch cannot be taken back: what it took beyond the reservation is booked, and reported.
        Some(change) => {
            account.commit_change(reservation, change);
        }
        None => account.cancel(reservation),
    }
    status
}

/// `cuGraphInstantiate` and `cuGraphInstantiate_v2`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn instantiate_v1(call: &Call) -> CUresult {
    instantiate(call, false)
}

/// `cuGraphInstantiateWithFlags`.
pub(crate) unsafe extern "C" fn instantiate_with_flags(call: &Call) -> CUresult {
    instantiate(call, call.word(2) & UPLOAD != 0)
}

/// `cuGraphInstantiateWithParams`.
pub(crate) unsafe extern "C" fn instantiate_with_params(call: &Call) -> CUresult {
    let parameters: *const CUDA_GRAPH_INSTANTIATE_PARAMS = call.pointer(2);
    // SAFETY: the program's argument.
    let parameters = unsafe { parameters.as_ref() };
    instantiate(call, parameters.is_some_and(|parameters| parameters.flags & UPLOAD != 0))
}

/// Notes that `executable` was launched: what its threads need is there.
fn launched(executable: CUgraphExec) {
    if let Standing::Managed(process) = process::standing()
        && let Some(last) = first_launch::take_awaited(process, executable)
    {
        first_launch::end_awaited(&last, true);
    }
}

/// Makes the call, which launches the executable graph in argument 0, or uploads it.
fn take(call: &Call) -> CUresult {
    let status = taking(call);
    if status == OK && call.note() == LAUNCH {
        launched(call.pointer(0));
    }
    status
}

/// `cuGraphLaunch` and `cuGraphUpload`.
pub(crate) unsafe extern "C" fn launch(call: &Call) -> CUresult {
    let Some(process) = capped().filter(|_| call.note() == LAUNCH) else { return take(call) };
    // Of a graph that was changed, as of one whose kernels were: its cost follows what its launches take.
    let unit = Unit { key: Key { function: call.word(0), shape: 0 }, continues_chain: false };
    process.limiter.around(process, call.stream(1), &unit, call, |call, _, _| take(call))
}

/// `cuGraphExecDestroy`: its memory stays in the driver's reserve.
pub(crate) unsafe extern "C" fn destroy(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    // Forgotten before the driver forgets it: afterwards the handle can be another graph's.
    let place = process.handles.find(call.word(0));
    let last = place.and_then(|place| process.handles.release(place));
    let awaited = first_launch::take_awaited(process, call.pointer(0));
    let status = call.make();
    if let Some(awaited) = &awaited
        && status == OK
    {
        first_launch::end_awaited(awaited, false);
    }
    if status != OK {
        for kept in [&last, &awaited].into_iter().flatten() {
            process.handles.put_back(kept);
        }
    }
    status
}

/// `cuDeviceGraphMemTrim`: what it lets go is given back at once.
pub(crate) unsafe extern "C" fn trim(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(0) };
    let status = call.make();
    if let Booking::On(account) = account::on_device(device) {
        account.update_graphs();
    }
    status
}
