//! Graphs that allocate.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::graph::alloc_node;

use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH` and `_UPLOAD`.
const AUTO_FREE: u64 = 1;
const UPLOAD: u8 = 2;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`
const RELAXED: u64 = 2;

/// sizeof(CUgraphNodeParams), `CU_GRAPH_NODE_TYPE_MEM_ALLOC` and `_GRAPH`, and where the parameters begin.
const ANY_NODE_BYTES: usize = 256;
const MEM_ALLOC: u8 = 10;
const CHILD: u8 = 4;
const ANY_NODE_AT: usize = 16;

pub(super) const ROWS: &[Row] = &[
    take("graph, allocation node, cuGraphLaunch", |t| {
        let graph = allocating(t)?;
        let executable = instantiate(t, graph, AUTO_FREE)?;
        launch(t, executable)
    }),
    take("graph, allocation node, cuGraphUpload", |t| {
        let graph = allocating(t)?;
        let executable = instantiate(t, graph, AUTO_FREE)?;
        let stream = t.stream()?;
        t.done("cuGraphUpload", &[Is(executable), Is(stream)])?;
        t.settle()
    }),
    take("graph, cuGraphInstantiate (10.0)", |t| {
        instantiated(t, "cuGraphInstantiate", &[Is(0), Is(0), Is(0)])
    }),
    take("graph, cuGraphInstantiate_v2", |t| {
        instantiated(t, "cuGraphInstantiate_v2", &[Is(0), Is(0), Is(0)])
    }),
    take("graph, cuGraphInstantiateWithParams", |t| {
        instantiated(t, "cuGraphInstantiateWithParams", &[At(&[0; 32])])
    }),
    take("graph, cuGraphInstantiateWithParams that uploads", |t| {
        let graph = allocating(t)?;
        let stream = t.stream()?;
        let mut parameters = [0; 32];
        parameters[0] = UPLOAD | 1;
        parameters[8..16].copy_from_slice(&stream.to_le_bytes());
        t.keep("cuGraphInstantiateWithParams", &[Out(8), Is(graph), At(&parameters)], "cuGraphExecDestroy")?;
        t.settle()
    }),
    take("graph, cuGraphAddNode", |t| added(t, "cuGraphAddNode", false)),
    take("graph, cuGraphAddNode_v2", |t| added(t, "cuGraphAddNode_v2", true)),
    take("graph captured from cuMemAllocAsync", |t| {
        let stream = t.stream()?;
        t.done("cuStreamBeginCapture_v2", &[Is(stream), Is(RELAXED)])?;
        let allocated = t.make("cuMemAllocAsync", &[Out(8), Is(TAKE), Is(stream)]);
        let graph = t.keep("cuStreamEndCapture", &[Is(stream), Out(8)], "cuGraphDestroy");
        allocated?;
        let executable = instantiate(t, graph?, AUTO_FREE)?;
        launch(t, executable)
    }),
    take("graph captured from cuMemAllocFromPoolAsync", |t| {
        let (pool, stream) = (super::pools::pool(t)?, t.stream()?);
        t.done("cuStreamBeginCapture_v2", &[Is(stream), Is(RELAXED)])?;
        let allocated = t.make("cuMemAllocFromPoolAsync", &[Out(8), Is(TAKE), Is(pool), Is(stream)]);
        let graph = t.keep("cuStreamEndCapture", &[Is(stream), Out(8)], "cuGraphDestroy");
        allocated?;
        let executable = instantiate(t, graph?, AUTO_FREE)?;
        launch(t, executable)
    }),
    take("graph, cloned", |t| {
        let graph = allocating(t)?;
        let clone = t.keep("cuGraphClone", &[Out(8), Is(graph)], "cuGraphDestroy")?;
        let executable = instantiate(t, clone, AUTO_FREE)?;
        launch(t, executable)
    }),
    take("graph, in a child graph", |t| {
        let inner = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        let address = add(t, inner)?;
        let node = address.0.to_le_bytes();
        t.make("cuGraphAddMemFreeNode", &[Out(8), Is(inner), At(&node), Is(1), Is(address.1)])?;
        let outer = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        t.make("cuGraphAddChildGraphNode", &[Out(8), Is(outer), Is(0), Is(0), Is(inner)])?;
        let executable = instantiate(t, outer, 0)?;
        launch(t, executable)
    }),
    take("graph, in a child graph that is moved", |t| {
        let inner = t.make("cuGraphCreate", &[Out(8), Is(0)])?;
        let (node, address) = add(t, inner)?;
        let after = node.to_le_bytes();
        t.make("cuGraphAddMemFreeNode", &[Out(8), Is(inner), At(&after), Is(1), Is(address)])?;
        let outer = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        // CUgraphNodeParams: a child graph, the graph, CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE.
        let mut parameters = [0; ANY_NODE_BYTES];
        (parameters[0], parameters[ANY_NODE_AT + 8]) = (CHILD, 1);
        parameters[ANY_NODE_AT..ANY_NODE_AT + 8].copy_from_slice(&inner.to_le_bytes());
        t.make("cuGraphAddNode", &[Out(8), Is(outer), Is(0), Is(0), At(&parameters)])?;
        let executable = instantiate(t, outer, 0)?;
        launch(t, executable)
    }),
    take("graph, instantiated again after it was destroyed", |t| {
        let graph = allocating(t)?;
        let first = t.make("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(AUTO_FREE)])?;
        t.done("cuGraphExecDestroy", &[Is(first)])?;
        let executable = instantiate(t, graph, AUTO_FREE)?;
        launch(t, executable)
    }),
];

fn add(t: &mut Attempt<'_>, graph: u64) -> Result<(u64, u64), i64> {
    let node = alloc_node(TAKE);
    let answer = t.call("cuGraphAddMemAllocNode", &[Out(8), Is(graph), Is(0), Is(0), At(&node)]);
    if answer.status != 0 {
        return Err(answer.status);
    }
    let address = answer.wrote[1][112..120].try_into().expect("eight bytes");
    Ok((answer.number(0), u64::from_le_bytes(address)))
}

/// A graph with one node, which allocates; its memory is freed with the launchable graph's next launch, or by the undo.
fn allocating(t: &mut Attempt<'_>) -> Result<u64, i64> {
    let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
    let (_, address) = add(t, graph)?;
    t.later("cuMemFree_v2", &[address]);
    Ok(graph)
}

fn instantiate(t: &mut Attempt<'_>, graph: u64, flags: u64) -> Result<u64, i64> {
    t.keep("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(flags)], "cuGraphExecDestroy")
}

fn instantiated(t: &mut Attempt<'_>, symbol: &str, rest: &[cuota_tests::console::Arg<'_>]) -> Ended {
    let graph = allocating(t)?;
    let arguments = [&[Out(8), Is(graph)], rest].concat();
    let executable = t.keep(symbol, &arguments, "cuGraphExecDestroy")?;
    launch(t, executable)
}

fn launch(t: &mut Attempt<'_>, executable: u64) -> Ended {
    let stream = t.stream()?;
    t.done("cuGraphLaunch", &[Is(executable), Is(stream)])?;
    t.settle()
}

fn added(t: &mut Attempt<'_>, symbol: &str, has_edges: bool) -> Ended {
    let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
    let mut node = [0; ANY_NODE_BYTES];
    node[0] = MEM_ALLOC;
    let parameters = alloc_node(TAKE);
    node[ANY_NODE_AT..ANY_NODE_AT + parameters.len()].copy_from_slice(&parameters);
    let (none, parameters) = (Is(0), At(&node));
    let answer = if has_edges {
        t.call(symbol, &[Out(8), Is(graph), none, none, none, parameters])
    } else {
        t.call(symbol, &[Out(8), Is(graph), none, none, parameters])
    };
    if answer.status != 0 {
        return Err(answer.status);
    }
    let address = answer.wrote[1][ANY_NODE_AT + 112..ANY_NODE_AT + 120].try_into().expect("eight bytes");
    t.later("cuMemFree_v2", &[u64::from_le_bytes(address)]);
    let executable = instantiate(t, graph, AUTO_FREE)?;
    launch(t, executable)
}
