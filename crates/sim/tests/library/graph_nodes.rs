//! Graphs inside graphs, copies of graphs, and kernel nodes.

use crate::launches::{KIB_OF_FRAME, Launches};
use crate::program::call;
use crate::program::in_child;
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;
const NONE: CUstream = std::ptr::null_mut();

impl Launches {
    pub(crate) fn graph(&self) -> CUgraph {
        let mut graph = std::ptr::null_mut();
        assert_eq!(call!(self.program.cuda, cuGraphCreate: PFN_cuGraphCreate_v10000(&raw mut graph, 0)), 0);
        graph
    }

    /// A graph that allocates 100 MiB.
    pub(crate) fn allocating(&self) -> CUgraph {
        let (graph, mut node) = (self.graph(), std::ptr::null_mut());
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
        params.poolProps.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        params.poolProps.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        params.bytesize = 100 << 20;
        let add = call!(
            self.program.cuda,
            cuGraphAddMemAllocNode:
                PFN_cuGraphAddMemAllocNode_v11040(&raw mut node, graph, std::ptr::null(), 0, &raw mut params)
        );
        assert_eq!(add, 0);
        graph
    }

    fn add_copy(&self, graph: CUgraph, child: CUgraph) -> (u32, CUgraphNode) {
        let mut node = std::ptr::null_mut();
        let add = call!(
            self.program.cuda,
            cuGraphAddChildGraphNode:
                PFN_cuGraphAddChildGraphNode_v10000(&raw mut node, graph, std::ptr::null(), 0, child)
        );
        (add, node)
    }

    /// Gives `child` away to a node of `graph`.
    fn add_moved(&self, graph: CUgraph, child: CUgraph) -> (u32, CUgraphNode) {
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUgraphNodeParams = unsafe { std::mem::zeroed() };
        params.type_ = CUgraphNodeType(4);
        params.__bindgen_anon_1.graph =
            CUDA_CHILD_GRAPH_NODE_PARAMS { graph: child, ownership: CUgraphChildGraphNodeOwnership(1) };
        let mut node = std::ptr::null_mut();
        let add = call!(
            self.program.cuda,
            cuGraphAddNode: PFN_cuGraphAddNode_v12020(&raw mut node, graph, std::ptr::null(), 0, &raw mut params)
        );
        (add, node)
    }

    fn inside(&self, node: CUgraphNode) -> CUgraph {
        let mut graph = std::ptr::null_mut();
        let get = call!(
            self.program.cuda,
            cuGraphChildGraphNodeGetGraph: PFN_cuGraphChildGraphNodeGetGraph_v10000(node, &raw mut graph)
        );
        assert_eq!(get, 0);
        graph
    }

    pub(crate) fn destroy(&self, graph: CUgraph) -> u32 {
        call!(self.program.cuda, cuGraphDestroy: PFN_cuGraphDestroy_v10000(graph))
    }

    pub(crate) fn instantiate(&self, graph: CUgraph) -> Result<CUgraphExec, u32> {
        let (cuda, mut executable) = (&self.program.cuda, std::ptr::null_mut());
        match call!(
            cuda,
            cuGraphInstantiateWithFlags: PFN_cuGraphInstantiateWithFlags_v11040(&raw mut executable, graph, 0)
        ) {
            0 => Ok(executable),
            error => Err(error),
        }
    }

    pub(crate) fn run(&self, executable: CUgraphExec) -> u32 {
        call!(self.program.cuda, cuGraphLaunch: PFN_cuGraphLaunch_v10000(executable, NONE))
    }

    pub(crate) fn first_node(&self, graph: CUgraph) -> CUgraphNode {
        let (mut node, mut count) = (std::ptr::null_mut(), 1);
        let get = call!(
            self.program.cuda,
            cuGraphGetNodes: PFN_cuGraphGetNodes_v10000(graph, &raw mut node, &raw mut count)
        );
        assert_eq!((get, count), (0, 1));
        node
    }
}

#[test]
fn a_graph_that_is_given_away_takes_its_memory_with_its_parent() {
    in_child("graph_nodes::a_graph_that_is_given_away_takes_its_memory_with_its_parent", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        let taken = || (before - launches.program.free_bytes()) / MIB;
        let (outer, middle, inner) = (launches.graph(), launches.graph(), launches.allocating());
        assert_eq!(launches.add_copy(outer, inner).0, 801, "it has memory nodes");
        let (add, node) = launches.add_moved(middle, inner);
        assert_eq!((add, launches.inside(node), launches.add_moved(outer, inner).0), (0, inner, 1));
        assert_eq!((launches.add_moved(outer, middle).0, launches.add_moved(inner, outer).0), (0, 1));
        assert_eq!((launches.destroy(inner), launches.instantiate(middle)), (1, Err(1)), "a node's own");
        let executable = launches.instantiate(outer).expect("a graph");
        assert_eq!((launches.instantiate(outer), taken()), (Err(1), 0), "its addresses are one graph's");
        assert_eq!((launches.run(executable), taken()), (0, 128));
        assert_eq!((launches.destroy(outer), launches.destroy(middle)), (0, 1), "gone with its parent");
    });
}

#[test]
fn kernels_of_child_graphs_grow_the_context_when_their_parent_is_launched() {
    in_child("graph_nodes::kernels_of_child_graphs_grow_the_context_when_their_parent_is_launched", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        let (outer, inner) = (launches.graph(), launches.graph_of(launches.function("frame3")));
        let (add, node) = launches.add_copy(outer, inner);
        assert_eq!((add, launches.destroy(inner)), (0, 0), "the node has its own");
        let mut kind = CUgraphNodeType(99);
        let kernel = launches.first_node(launches.inside(node));
        let get = |node, kind: *mut CUgraphNodeType| call!(launches.program.cuda, cuGraphNodeGetType: PFN_cuGraphNodeGetType_v10000(node, kind));
        assert_eq!((get(node, &raw mut kind), kind.0), (0, 4));
        assert_eq!((get(kernel, &raw mut kind), kind.0), (0, 0));
        let mut copy = std::ptr::null_mut();
        let clone = call!(launches.program.cuda, cuGraphClone: PFN_cuGraphClone_v10000(&raw mut copy, outer));
        assert_eq!((clone, launches.destroy(outer)), (0, 0));
        let executable = launches.instantiate(copy).expect("a graph");
        assert_eq!((launches.run(executable), before - launches.program.free_bytes()), (0, 2 * KIB_OF_FRAME));
    });
}

#[test]
fn a_graph_with_memory_nodes_cannot_be_copied() {
    in_child("graph_nodes::a_graph_with_memory_nodes_cannot_be_copied", || {
        let launches = Launches::start();
        let (graph, mut copy) = (launches.allocating(), std::ptr::null_mut());
        let clone = call!(launches.program.cuda, cuGraphClone: PFN_cuGraphClone_v10000(&raw mut copy, graph));
        assert_eq!(clone, 801);
    });
}

#[test]
fn a_kernel_node_shows_its_kernel_and_arguments_and_takes_others() {
    in_child("graph_nodes::a_kernel_node_shows_its_kernel_and_arguments_and_takes_others", || {
        let launches = Launches::start();
        let (cuda, graph) = (&launches.program.cuda, launches.graph());
        let mut spin = std::ptr::null_mut();
        let module = launches.program.module;
        let get = call!(
            cuda,
            cuModuleGetFunction: PFN_cuModuleGetFunction_v2000(&raw mut spin, module, c"spin".as_ptr())
        );
        assert_eq!(get, 0);
        let mut cost_ns = 12_345_u64;
        let mut each = [(&raw mut cost_ns).cast()];
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { std::mem::zeroed() };
        (params.func, params.kernelParams, params.sharedMemBytes) = (spin, each.as_mut_ptr(), 64);
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (3, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
        let mut node = std::ptr::null_mut();
        let add = call!(
            cuda,
            cuGraphAddKernelNode_v2:
                PFN_cuGraphAddKernelNode_v12000(&raw mut node, graph, std::ptr::null(), 0, &raw const params)
        );
        cost_ns = 1;
        // SAFETY: every field is a plain number or a null pointer.
        let mut shown: CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { std::mem::zeroed() };
        let get = call!(
            cuda,
            cuGraphKernelNodeGetParams_v2: PFN_cuGraphKernelNodeGetParams_v12000(node, &raw mut shown)
        );
        assert_eq!((add, get, shown.func, shown.gridDimX, shown.blockDimX), (0, 0, spin, 3, 32));
        // SAFETY: the node has one argument of eight bytes.
        assert_eq!((unsafe { *(*shown.kernelParams).cast::<u64>() }, cost_ns), (12_345, 1));
        let before = launches.program.free_bytes();
        let executable = launches.instantiate(graph).expect("a graph");
        params.func = launches.function("frame2");
        let set = call!(
            cuda,
            cuGraphExecKernelNodeSetParams_v2:
                PFN_cuGraphExecKernelNodeSetParams_v12000(executable, node, &raw const params)
        );
        assert_eq!((set, launches.run(executable)), (0, 0));
        assert_eq!(before - launches.program.free_bytes(), KIB_OF_FRAME);
    });
}
