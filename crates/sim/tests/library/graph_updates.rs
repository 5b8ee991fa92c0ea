//! Graphs that are changed after they were instantiated.

use crate::launches::{KIB_OF_FRAME, Launches};
use crate::program::{call, in_child};
use cuota_abi::cuda::*;
use std::ptr::null_mut;

const NO_INFO: CUgraphExecUpdateResultInfo = CUgraphExecUpdateResultInfo {
    result: CUgraphExecUpdateResult(99),
    errorNode: null_mut(),
    errorFromNode: null_mut(),
};

impl Launches {
    fn update(&self, executable: CUgraphExec, graph: CUgraph) -> (u32, CUgraphExecUpdateResultInfo) {
        let mut info = NO_INFO;
        let update = call!(
            self.program.cuda,
            cuGraphExecUpdate_v2: PFN_cuGraphExecUpdate_v12000(executable, graph, &raw mut info)
        );
        let (mut node, mut result) = (null_mut(), CUgraphExecUpdateResult(99));
        let first = call!(
            self.program.cuda,
            cuGraphExecUpdate:
                PFN_cuGraphExecUpdate_v10020(executable, graph, &raw mut node, &raw mut result)
        );
        assert_eq!((first, result, node), (update, info.result, info.errorNode), "both versions agree");
        (update, info)
    }

    fn kernel_params(&self, kernel: &str) -> CUgraphNodeParams {
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUgraphNodeParams = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut k: CUDA_KERNEL_NODE_PARAMS_v3 = unsafe { std::mem::zeroed() };
        k.func = self.function(kernel);
        (k.gridDimX, k.gridDimY, k.gridDimZ) = (1, 1, 1);
        (k.blockDimX, k.blockDimY, k.blockDimZ) = (1, 1, 1);
        params.__bindgen_anon_1.kernel = k;
        params
    }
}

#[test]
fn an_update_gives_a_launchable_graph_the_kernels_of_another() {
    in_child("graph_updates::an_update_gives_a_launchable_graph_the_kernels_of_another", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        let taken = || (before - launches.program.free_bytes()) / KIB_OF_FRAME;
        let graph = launches.graph_of(launches.function("small"));
        let executable = launches.instantiate(graph).expect("a graph");
        let (update, info) = launches.update(executable, launches.graph_of(launches.function("frame3")));
        assert_eq!((update, info.result.0, taken()), (0, 0, 0), "nothing before the launch");
        assert_eq!((launches.run(executable), taken()), (0, 2));
        let node = launches.first_node(graph);
        let mut params = launches.kernel_params("frame4");
        let set = call!(
            launches.program.cuda,
            cuGraphExecNodeSetParams:
                PFN_cuGraphExecNodeSetParams_v12020(executable, node, &raw mut params)
        );
        assert_eq!(
            (set, taken(), launches.run(executable), taken()),
            (0, 2, 0, 3),
            "by its own graph's node"
        );
        let mut params = launches.kernel_params("frame5");
        let set = call!(
            launches.program.cuda,
            cuGraphNodeSetParams: PFN_cuGraphNodeSetParams_v12020(node, &raw mut params)
        );
        assert_eq!((set, launches.run(executable), taken()), (0, 0, 3), "its graph is another matter");
        let again = launches.instantiate(graph).expect("a graph");
        assert_eq!((launches.run(again), taken()), (0, 4));
    });
}

#[test]
fn an_update_that_is_refused_says_why_and_changes_nothing() {
    in_child("graph_updates::an_update_that_is_refused_says_why_and_changes_nothing", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        let graph = launches.graph_of(launches.function("small"));
        let executable = launches.instantiate(graph).expect("a graph");
        let (update, info) = launches.update(executable, launches.graph());
        assert_eq!((update, info.result.0, info.errorNode), (910, 2, null_mut()), "fewer nodes");
        let other = launches.allocating();
        let (update, info) = launches.update(executable, other);
        assert_eq!((update, info.result.0, info.errorNode), (910, 3, launches.first_node(other)));
        assert_eq!(info.errorFromNode, launches.first_node(graph));
        let (update, info) = launches.update(null_mut(), graph);
        assert_eq!((update, info.result.0), (1, 1));
        assert_eq!((launches.update(executable, null_mut()).0, launches.run(executable)), (1, 0));
        let memory = launches.instantiate(other).expect("a graph");
        assert_eq!(launches.update(memory, other).0, 0, "its own graph");
        let (update, info) = launches.update(memory, launches.allocating());
        assert_eq!((update, info.result.0), (910, 5), "an address is one graph's");
        assert_eq!(launches.program.free_bytes(), before);
    });
}

#[test]
fn a_node_keeps_its_kind() {
    in_child("graph_updates::a_node_keeps_its_kind", || {
        let launches = Launches::start();
        let memory = launches.allocating();
        let executable = launches.instantiate(memory).expect("a graph");
        let set = |executable, node, params: *mut CUgraphNodeParams| {
            call!(
                launches.program.cuda,
                cuGraphExecNodeSetParams: PFN_cuGraphExecNodeSetParams_v12020(executable, node, params)
            )
        };
        let (node, mut params) = (launches.first_node(memory), launches.kernel_params("small"));
        assert_eq!(set(executable, node, &raw mut params), 1);
        assert_eq!(set(null_mut(), node, &raw mut params), 1);
        assert_eq!((set(executable, null_mut(), &raw mut params), set(executable, node, null_mut())), (1, 1));
        params.type_ = CUgraphNodeType(10);
        assert_eq!(set(executable, node, &raw mut params), 801);
    });
}
