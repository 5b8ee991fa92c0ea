//! Kernel nodes of graphs.

use super::graph::add;
use super::launch::Passed;
use super::{get, put};
use cuota_abi::cuda::{
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_KERNEL_NODE_PARAMS_v3, CUfunction, CUgraph,
    CUgraphExec, CUgraphNode,
};
use cuota_sim::driver::{Driver, Launch, Node, Shape};
use cuota_sim::error::{Answer, Fault};
use std::ffi::c_void;
use std::sync::Arc;

/// What the versions of the parameters have in common.
pub(super) struct KernelParams {
    function: u64,
    /// 0 for the current one.
    context: u64,
    shape: Shape,
    passed: Passed,
}

/// Reads the fields that every version has.
macro_rules! common {
    ($p:expr, $function:expr, $context:expr) => {
        KernelParams {
            function: $function,
            context: $context,
            shape: Shape {
                grid: [$p.gridDimX, $p.gridDimY, $p.gridDimZ],
                block: [$p.blockDimX, $p.blockDimY, $p.blockDimZ],
                shared_bytes: $p.sharedMemBytes,
            },
            passed: Passed { each: $p.kernelParams, extra: $p.extra },
        }
    };
}

impl From<&CUDA_KERNEL_NODE_PARAMS_v1> for KernelParams {
    fn from(p: &CUDA_KERNEL_NODE_PARAMS_v1) -> Self {
        common!(p, p.func as u64, 0)
    }
}

impl From<&CUDA_KERNEL_NODE_PARAMS_v2> for KernelParams {
    fn from(p: &CUDA_KERNEL_NODE_PARAMS_v2) -> Self {
        common!(p, if p.func.is_null() { p.kern as u64 } else { p.func as u64 }, p.ctx as u64)
    }
}

impl From<&CUDA_KERNEL_NODE_PARAMS_v3> for KernelParams {
    fn from(p: &CUDA_KERNEL_NODE_PARAMS_v3) -> Self {
        common!(p, if p.func.is_null() { p.kern as u64 } else { p.func as u64 }, p.ctx as u64)
    }
}

unsafe fn launch(params: &KernelParams) -> Answer<Launch> {
    let driver = Driver::get()?;
    let context = if params.context == 0 { driver.current() } else { params.context };
    // SAFETY: the arguments are those of this kernel by the caller's word.
    let read = |kernel: &_| unsafe { params.passed.read(kernel) };
    driver.prepare_launch(params.function, params.shape, context, read)
}

/// A kernel as a graph's node.
pub(super) unsafe fn node(params: &KernelParams) -> Answer<Node> {
    // SAFETY: as in `launch`.
    Ok(Node::Kernel(Arc::new(unsafe { launch(params)? })))
}

/// The kernel of a node.
fn of_node(node: CUgraphNode) -> Answer<Arc<Launch>> {
    match Driver::get()?.node(node as u64)? {
        Node::Kernel(launch) => Ok(launch),
        _ => Err(Fault::InvalidValue),
    }
}

/// Where the arguments of a node lie, as long as it has them.
fn arguments(launch: &Launch) -> *mut *mut c_void {
    let addresses = launch.arguments.addresses();
    if addresses.is_empty() { std::ptr::null_mut() } else { addresses.as_ptr() as *mut *mut c_void }
}

fn first(launch: &Launch) -> CUDA_KERNEL_NODE_PARAMS_v1 {
    let Shape { grid, block, shared_bytes } = launch.shape;
    CUDA_KERNEL_NODE_PARAMS_v1 {
        func: launch.function as CUfunction,
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: grid[2],
        blockDimX: block[0],
        blockDimY: block[1],
        blockDimZ: block[2],
        sharedMemBytes: shared_bytes,
        kernelParams: arguments(launch),
        extra: std::ptr::null_mut(),
    }
}

fn second(launch: &Launch) -> CUDA_KERNEL_NODE_PARAMS_v2 {
    let p = first(launch);
    let (func, kern) = if launch.is_kernel() {
        (std::ptr::null_mut(), launch.function as _)
    } else {
        (p.func, std::ptr::null_mut())
    };
    CUDA_KERNEL_NODE_PARAMS_v2 {
        func,
        gridDimX: p.gridDimX,
        gridDimY: p.gridDimY,
        gridDimZ: p.gridDimZ,
        blockDimX: p.blockDimX,
        blockDimY: p.blockDimY,
        blockDimZ: p.blockDimZ,
        sharedMemBytes: p.sharedMemBytes,
        kernelParams: p.kernelParams,
        extra: p.extra,
        kern,
        ctx: launch.context as _,
    }
}

driver_api! {
    fn cuGraphAddKernelNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1,
    ) {
        add(phGraphNode, hGraph, dependencies, numDependencies, node(&KernelParams::from(&get(nodeParams)?))?)
    }

    fn cuGraphAddKernelNode_v2(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2,
    ) {
        add(phGraphNode, hGraph, dependencies, numDependencies, node(&KernelParams::from(&get(nodeParams)?))?)
    }

    fn cuGraphKernelNodeGetParams(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v1) {
        put(nodeParams, first(&*of_node(hNode)?))
    }

    fn cuGraphKernelNodeGetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUDA_KERNEL_NODE_PARAMS_v2) {
        put(nodeParams, second(&*of_node(hNode)?))
    }

    fn cuGraphKernelNodeSetParams(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) {
        Driver::get()?.set_node(0, hNode as u64, node(&KernelParams::from(&get(nodeParams)?))?)
    }

    fn cuGraphKernelNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2) {
        Driver::get()?.set_node(0, hNode as u64, node(&KernelParams::from(&get(nodeParams)?))?)
    }

    fn cuGraphExecKernelNodeSetParams(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1,
    ) {
        if hGraphExec.is_null() {
            return Err(Fault::InvalidValue);
        }
        let new = node(&KernelParams::from(&get(nodeParams)?))?;
        Driver::get()?.set_node(hGraphExec as u64, hNode as u64, new)
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2,
    ) {
        if hGraphExec.is_null() {
            return Err(Fault::InvalidValue);
        }
        let new = node(&KernelParams::from(&get(nodeParams)?))?;
        Driver::get()?.set_node(hGraphExec as u64, hNode as u64, new)
    }
}
