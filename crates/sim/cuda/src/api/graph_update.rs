//! Changing nodes of graphs, and graphs that can be launched.

use super::kernel_node::{KernelParams, node};
use super::stream::host_node;
use super::{get, put_if_asked};
use cuota_abi::cuda::{
    CUgraph, CUgraphExec, CUgraphExecUpdateResult, CUgraphExecUpdateResultInfo, CUgraphNode,
    CUgraphNodeParams,
};
use cuota_sim::driver::{Driver, Node, Refused};
use cuota_sim::error::{Answer, Fault};

fn update(executable: CUgraphExec, graph: CUgraph) -> Answer<Result<(), Refused>> {
    Ok(Driver::get()?.update_graph(executable as u64, graph as u64))
}

/// The node that `params` describes, of a kind that can be changed.
unsafe fn changed(params: *const CUgraphNodeParams) -> Answer<Node> {
    // SAFETY: null or valid by the caller's word, and its type says which member of the union is meant.
    unsafe {
        let p = get(params)?;
        match p.type_.0 {
            0 => {
                let kernel = p.__bindgen_anon_1.kernel;
                node(&KernelParams::from(&kernel))
            }
            3 => {
                let host = p.__bindgen_anon_1.host;
                host_node(host.fn_, host.userData)
            }
            kind => {
                cuota_sim::log::once(&format!("graph nodes of type {kind} cannot be changed: NOT_SUPPORTED"));
                Err(Fault::NotSupported)
            }
        }
    }
}

driver_api! {
    fn cuGraphExecUpdate(
        hGraphExec: CUgraphExec,
        hGraph: CUgraph,
        hErrorNode_out: *mut CUgraphNode,
        updateResult_out: *mut CUgraphExecUpdateResult,
    ) {
        let updated = update(hGraphExec, hGraph)?;
        let (result, node) = updated.map_or_else(|why| (why.refusal as u32, why.node), |()| (0, 0));
        put_if_asked(hErrorNode_out, node as CUgraphNode);
        put_if_asked(updateResult_out, CUgraphExecUpdateResult(result));
        updated.map_err(|why| why.fault)
    }

    fn cuGraphExecUpdate_v2(
        hGraphExec: CUgraphExec,
        hGraph: CUgraph,
        resultInfo: *mut CUgraphExecUpdateResultInfo,
    ) {
        let updated = update(hGraphExec, hGraph)?;
        let (result, node, replaced) =
            updated.map_or_else(|why| (why.refusal as u32, why.node, why.replaced), |()| (0, 0, 0));
        put_if_asked(resultInfo, CUgraphExecUpdateResultInfo {
            result: CUgraphExecUpdateResult(result),
            errorNode: node as CUgraphNode,
            errorFromNode: replaced as CUgraphNode,
        });
        updated.map_err(|why| why.fault)
    }

    fn cuGraphExecNodeSetParams(
        hGraphExec: CUgraphExec,
        hNode: CUgraphNode,
        nodeParams: *mut CUgraphNodeParams,
    ) {
        if hGraphExec.is_null() {
            return Err(Fault::InvalidValue);
        }
        Driver::get()?.set_node(hGraphExec as u64, hNode as u64, changed(nodeParams)?)
    }

    fn cuGraphNodeSetParams(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        Driver::get()?.set_node(0, hNode as u64, changed(nodeParams)?)
    }

    fn cuGraphNodeSetParams_v2(hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) {
        Driver::get()?.set_node(0, hNode as u64, changed(nodeParams)?)
    }
}
