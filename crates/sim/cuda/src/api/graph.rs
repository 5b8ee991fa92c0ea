//! Stream capture and graphs.

use super::stream::host_node;
use super::{get, put, put_if_asked};
use cuota_abi::cuda::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS_v1, CUgraph, CUgraphEdgeData, CUgraphExec,
    CUgraphInstantiateResult, CUgraphNode, CUgraphNodeType, CUstream, CUstreamCaptureMode,
    CUstreamCaptureStatus, cuuint64_t,
};
use cuota_sim::driver::{CaptureStatus, Driver, Mode, Node};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_char, c_uint, c_ulonglong};

fn mode_of(number: u32) -> Answer<Mode> {
    match number {
        0 => Ok(Mode::Global),
        1 => Ok(Mode::ThreadLocal),
        2 => Ok(Mode::Relaxed),
        _ => Err(Fault::InvalidValue),
    }
}

fn begin(stream: CUstream, per_thread: bool, mode: Mode) -> Answer<()> {
    let driver = Driver::get()?;
    driver.begin_capture(driver.stream(stream as u64, per_thread)?, mode)
}

/// Status, number and graph of a stream's capture.
fn status(stream: CUstream, per_thread: bool) -> Answer<(CUstreamCaptureStatus, u64, u64)> {
    let driver = Driver::get()?;
    Ok(match driver.capture_status(driver.stream(stream as u64, per_thread)?)? {
        CaptureStatus::None => (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, 0, 0),
        CaptureStatus::Active(id, graph) => {
            (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE, id, graph)
        }
        CaptureStatus::Invalidated => (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED, 0, 0),
    })
}

unsafe fn put_status(
    stream: CUstream,
    per_thread: bool,
    status_out: *mut CUstreamCaptureStatus,
    id_out: *mut cuuint64_t,
    graph_out: *mut CUgraph,
) -> Answer<()> {
    let (status, id, graph) = status(stream, per_thread)?;
    // SAFETY: null or valid by the caller's word.
    unsafe {
        put(status_out, status)?;
        put_if_asked(id_out, id);
        put_if_asked(graph_out, graph as CUgraph);
    }
    Ok(())
}

pub(super) unsafe fn add(
    phGraphNode: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    node: Node,
) -> Answer<()> {
    if phGraphNode.is_null() || (count > 0 && dependencies.is_null()) {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: the caller's array has `count` entries, and the other pointer is not null.
    unsafe {
        let dependencies = nodes(dependencies, count);
        put(phGraphNode, Driver::get()?.add_node(graph as u64, node, &dependencies)? as CUgraphNode)
    }
}

/// Adds a node that runs a graph: a copy of it, or the graph itself where the caller gives it away.
pub(super) unsafe fn add_child(
    phGraphNode: *mut CUgraphNode,
    graph: CUgraph,
    (dependencies, count): (*const CUgraphNode, usize),
    child: CUgraph,
    moves: bool,
) -> Answer<()> {
    if phGraphNode.is_null() || (count > 0 && dependencies.is_null()) {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: as in `add`.
    unsafe {
        let dependencies = nodes(dependencies, count);
        let node = Driver::get()?.add_child_graph(graph as u64, child as u64, moves, &dependencies)?;
        put(phGraphNode, node as CUgraphNode)
    }
}

/// The caller's array of nodes.
pub(super) unsafe fn nodes(from: *const CUgraphNode, count: usize) -> Vec<u64> {
    // SAFETY: the caller's array has `count` entries.
    (0..count).map(|place| unsafe { from.add(place).read() } as u64).collect()
}

unsafe fn instantiate(phGraphExec: *mut CUgraphExec, graph: CUgraph, frees_at_launch: bool) -> Answer<()> {
    if phGraphExec.is_null() {
        return Err(Fault::InvalidValue);
    }
    let executable = Driver::get()?.instantiate_graph(graph as u64, frees_at_launch)?;
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(phGraphExec, executable as CUgraphExec) }
}

unsafe fn instantiate_with_log(
    phGraphExec: *mut CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    log: *mut c_char,
    log_bytes: usize,
) -> Answer<()> {
    // SAFETY: null or valid by the caller's word.
    unsafe {
        put_if_asked(error_node, std::ptr::null_mut());
        if log_bytes > 0 {
            put_if_asked(log, 0);
        }
        instantiate(phGraphExec, graph, false)
    }
}

unsafe fn list(all: &[u64], nodes: *mut CUgraphNode, count: *mut usize) -> Answer<()> {
    // SAFETY: null or valid by the caller's word; the array has as many entries as `count` says.
    unsafe {
        if nodes.is_null() {
            return put(count, all.len());
        }
        let room = get(count)?;
        for place in 0..room {
            nodes.add(place).write(all.get(place).copied().unwrap_or(0) as CUgraphNode);
        }
        put(count, all.len().min(room))
    }
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const FREE_AT_LAUNCH: u64 = 1;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD`.
const UPLOAD: u64 = 2;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY`, which changes nothing here.
const USE_PRIORITIES: u64 = 8;

/// Launches from the device are not modelled.
fn check_flags(flags: u64) -> Answer<()> {
    let unknown = flags & !(FREE_AT_LAUNCH | UPLOAD | USE_PRIORITIES);
    if unknown == 0 { Ok(()) } else { Err(Fault::NotSupported) }
}

driver_api! {
    fn cuThreadExchangeStreamCaptureMode(mode: *mut CUstreamCaptureMode) {
        let before = Driver::exchange_mode(mode_of(get(mode)?.0)?);
        put(mode, CUstreamCaptureMode(before as u32))
    }

    fn cuGraphCreate(phGraph: *mut CUgraph, flags: c_uint) {
        if flags != 0 {
            return Err(Fault::InvalidValue);
        }
        put(phGraph, Driver::get()?.create_graph() as CUgraph)
    }

    fn cuGraphDestroy(hGraph: CUgraph) {
        Driver::get()?.destroy_graph(hGraph as u64)
    }

    fn cuGraphAddEmptyNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
    ) {
        add(phGraphNode, hGraph, dependencies, numDependencies, Node::Empty)
    }

    fn cuGraphAddHostNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *const CUDA_HOST_NODE_PARAMS_v1,
    ) {
        let p = get(nodeParams)?;
        add(phGraphNode, hGraph, dependencies, numDependencies, host_node(p.fn_, p.userData)?)
    }

    fn cuGraphInstantiate(
        phGraphExec: *mut CUgraphExec,
        hGraph: CUgraph,
        phErrorNode: *mut CUgraphNode,
        logBuffer: *mut c_char,
        bufferSize: usize,
    ) {
        instantiate_with_log(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize)
    }

    fn cuGraphInstantiate_v2(
        phGraphExec: *mut CUgraphExec,
        hGraph: CUgraph,
        phErrorNode: *mut CUgraphNode,
        logBuffer: *mut c_char,
        bufferSize: usize,
    ) {
        instantiate_with_log(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize)
    }

    fn cuGraphInstantiateWithFlags(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: c_ulonglong) {
        // An upload needs the stream that only `cuGraphInstantiateWithParams` names.
        if flags & UPLOAD != 0 {
            return Err(Fault::InvalidValue);
        }
        check_flags(flags)?;
        instantiate(phGraphExec, hGraph, flags & FREE_AT_LAUNCH != 0)
    }

    fn cuGraphClone(phGraphClone: *mut CUgraph, originalGraph: CUgraph) {
        if phGraphClone.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(phGraphClone, Driver::get()?.clone_graph(originalGraph as u64)? as CUgraph)
    }

    fn cuGraphAddChildGraphNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        childGraph: CUgraph,
    ) {
        add_child(phGraphNode, hGraph, (dependencies, numDependencies), childGraph, false)
    }

    fn cuGraphChildGraphNodeGetGraph(hNode: CUgraphNode, phGraph: *mut CUgraph) {
        let Node::Child(graph) = Driver::get()?.node(hNode as u64)? else { return Err(Fault::InvalidValue) };
        put(phGraph, graph as CUgraph)
    }

    fn cuGraphExecDestroy(hGraphExec: CUgraphExec) {
        Driver::get()?.destroy_executable(hGraphExec as u64)
    }

    fn cuGraphGetNodes(hGraph: CUgraph, nodes: *mut CUgraphNode, numNodes: *mut usize) {
        list(&Driver::get()?.graph_nodes(hGraph as u64)?, nodes, numNodes)
    }

    fn cuGraphNodeGetType(hNode: CUgraphNode, r#type: *mut CUgraphNodeType) {
        put(r#type, CUgraphNodeType(Driver::get()?.node(hNode as u64)?.kind() as u32))
    }
}

twin_api! {
    fn cuStreamBeginCapture | cuStreamBeginCapture_ptsz(per_thread; hStream: CUstream) {
        begin(hStream, per_thread, Mode::Global)
    }

    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(
        per_thread;
        hStream: CUstream,
        mode: CUstreamCaptureMode,
    ) {
        begin(hStream, per_thread, mode_of(mode.0)?)
    }

    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(per_thread; hStream: CUstream, phGraph: *mut CUgraph) {
        put(phGraph, std::ptr::null_mut())?;
        let driver = Driver::get()?;
        put(phGraph, driver.end_capture(driver.stream(hStream as u64, per_thread)?)? as CUgraph)
    }

    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(
        per_thread;
        hStream: CUstream,
        captureStatus: *mut CUstreamCaptureStatus,
    ) {
        put(captureStatus, status(hStream, per_thread)?.0)
    }

    fn cuStreamGetCaptureInfo | cuStreamGetCaptureInfo_ptsz(
        per_thread;
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
    ) {
        put_status(hStream, per_thread, captureStatus_out, id_out, std::ptr::null_mut())
    }

    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(
        per_thread;
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
        graph_out: *mut CUgraph,
        dependencies_out: *mut *const CUgraphNode,
        numDependencies_out: *mut usize,
    ) {
        refuse_edges(dependencies_out.is_null() && numDependencies_out.is_null())?;
        put_status(hStream, per_thread, captureStatus_out, id_out, graph_out)
    }

    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz(
        per_thread;
        hStream: CUstream,
        captureStatus_out: *mut CUstreamCaptureStatus,
        id_out: *mut cuuint64_t,
        graph_out: *mut CUgraph,
        dependencies_out: *mut *const CUgraphNode,
        edgeData_out: *mut *const CUgraphEdgeData,
        numDependencies_out: *mut usize,
    ) {
        refuse_edges(dependencies_out.is_null() && numDependencies_out.is_null() && edgeData_out.is_null())?;
        put_status(hStream, per_thread, captureStatus_out, id_out, graph_out)
    }

    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(
        per_thread;
        phGraphExec: *mut CUgraphExec,
        hGraph: CUgraph,
        instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
    ) {
        let p = get(instantiateParams)?;
        check_flags(p.flags)?;
        instantiate(phGraphExec, hGraph, p.flags & FREE_AT_LAUNCH != 0)?;
        (*instantiateParams).hErrNode_out = std::ptr::null_mut();
        (*instantiateParams).result_out = CUgraphInstantiateResult(0);
        if p.flags & UPLOAD == 0 {
            return Ok(());
        }
        let driver = Driver::get()?;
        let stream = driver.stream(p.hUploadStream as u64, per_thread)?;
        let executable = phGraphExec.read() as u64;
        let uploaded = driver.upload_graph(executable, stream);
        if uploaded.is_err() {
            driver.destroy_executable(executable)?;
        }
        uploaded
    }

    fn cuGraphLaunch | cuGraphLaunch_ptsz(per_thread; hGraph: CUgraphExec, hStream: CUstream) {
        let driver = Driver::get()?;
        driver.launch_graph(hGraph as u64, driver.stream(hStream as u64, per_thread)?)
    }

    fn cuGraphUpload | cuGraphUpload_ptsz(per_thread; hGraph: CUgraphExec, hStream: CUstream) {
        let driver = Driver::get()?;
        let stream = driver.stream(hStream as u64, per_thread)?;
        driver.upload_graph(hGraph as u64, stream)
    }
}

/// The model keeps the order of a graph's nodes, but no edges that it could show.
fn refuse_edges(none_asked: bool) -> Answer<()> {
    if none_asked {
        return Ok(());
    }
    cuota_sim::log::once("the dependencies of a capture are not modelled: CUDA_ERROR_NOT_SUPPORTED");
    Err(Fault::NotSupported)
}
