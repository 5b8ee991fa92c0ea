//! The memory of graphs. The figures are those measured on an H100.

use crate::program::{Program, call, in_child};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;

struct Graphs {
    program: Program,
    stream: CUstream,
    before: u64,
}

impl Graphs {
    fn start() -> Self {
        let program = Program::start();
        let stream = program.stream(1);
        // The first launch grows the context; it is none of what is looked at.
        assert_eq!((program.launch("spin", 1000, stream), program.synchronize(stream)), (0, 0));
        let before = program.free_bytes();
        Self { program, stream, before }
    }

    fn taken_mib(&self) -> u64 {
        (self.before - self.program.free_bytes()) / MIB
    }

    fn graph(&self) -> CUgraph {
        let mut graph = std::ptr::null_mut();
        assert_eq!(call!(self.program.cuda, cuGraphCreate: PFN_cuGraphCreate_v10000(&raw mut graph, 0)), 0);
        graph
    }

    fn add_allocation(&self, graph: CUgraph, bytes: u64) -> (CUgraphNode, u64) {
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
        params.poolProps.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        params.poolProps.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        params.bytesize = usize::try_from(bytes).expect("a size");
        let mut node = std::ptr::null_mut();
        let add = call!(
            self.program.cuda,
            cuGraphAddMemAllocNode:
                PFN_cuGraphAddMemAllocNode_v11040(&raw mut node, graph, std::ptr::null(), 0, &raw mut params)
        );
        assert_eq!(add, 0);
        (node, params.dptr)
    }

    fn add_free(&self, graph: CUgraph, after: CUgraphNode, address: u64) -> u32 {
        let mut node = std::ptr::null_mut();
        call!(
            self.program.cuda,
            cuGraphAddMemFreeNode:
                PFN_cuGraphAddMemFreeNode_v11040(&raw mut node, graph, &raw const after, 1, address)
        )
    }

    fn instantiate(&self, graph: CUgraph, flags: u64) -> Result<CUgraphExec, u32> {
        let mut executable = std::ptr::null_mut();
        match call!(
            self.program.cuda,
            cuGraphInstantiateWithFlags:
                PFN_cuGraphInstantiateWithFlags_v11040(&raw mut executable, graph, flags)
        ) {
            0 => Ok(executable),
            error => Err(error),
        }
    }

    fn launch(&self, executable: CUgraphExec) -> u32 {
        call!(self.program.cuda, cuGraphLaunch: PFN_cuGraphLaunch_v10000(executable, self.stream))
    }

    fn destroy(&self, executable: CUgraphExec, graph: CUgraph) {
        let cuda = &self.program.cuda;
        assert_eq!(call!(cuda, cuGraphExecDestroy: PFN_cuGraphExecDestroy_v10000(executable)), 0);
        assert_eq!(call!(cuda, cuGraphDestroy: PFN_cuGraphDestroy_v10000(graph)), 0);
    }

    fn trim(&self) {
        let trim = call!(self.program.cuda, cuDeviceGraphMemTrim: PFN_cuDeviceGraphMemTrim_v11040(0));
        assert_eq!(trim, 0);
    }

    /// Used now and at most, reserved now and at most, in MiB.
    fn figures(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|number| {
            let mut figure = 0_u64;
            let ask = call!(
                self.program.cuda,
                cuDeviceGetGraphMemAttribute:
                    PFN_cuDeviceGetGraphMemAttribute_v11040(
                        0,
                        CUgraphMem_attribute(number),
                        (&raw mut figure).cast()
                    )
            );
            assert_eq!(ask, 0);
            figure / MIB
        })
    }
}

#[test]
fn a_graph_takes_its_memory_at_the_first_launch_and_a_trim_gives_it_back() {
    in_child("graphs::a_graph_takes_its_memory_at_the_first_launch_and_a_trim_gives_it_back", || {
        let graphs = Graphs::start();
        let graph = graphs.graph();
        let (node, address) = graphs.add_allocation(graph, 100 * MIB);
        assert_eq!(graphs.add_free(graph, node, address), 0);
        assert_eq!(graphs.add_free(graph, node, address + 512), 1, "no node's address");
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        assert_eq!((graphs.taken_mib(), graphs.figures()), (0, [0; 4]));
        assert_eq!(graphs.instantiate(graph, 0), Err(1), "its addresses are one graph's");
        for _ in 0..2 {
            assert_eq!((graphs.launch(executable), graphs.taken_mib()), (0, 128));
        }
        assert_eq!(graphs.figures(), [100, 100, 128, 128]);
        graphs.destroy(executable, graph);
        assert_eq!((graphs.taken_mib(), graphs.figures()), (128, [0, 100, 128, 128]));
        graphs.trim();
        assert_eq!((graphs.taken_mib(), graphs.figures()), (0, [0, 100, 0, 128]));
    });
}

#[test]
fn a_trim_takes_what_a_graph_holds_that_does_not_run_and_a_launch_takes_it_again() {
    let name = "graphs::a_trim_takes_what_a_graph_holds_that_does_not_run_and_a_launch_takes_it_again";
    in_child(name, || {
        let graphs = Graphs::start();
        let graph = graphs.graph();
        let (node, address) = graphs.add_allocation(graph, 100 * MIB);
        assert_eq!(graphs.add_free(graph, node, address), 0);
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        for _ in 0..2 {
            // The graph is behind a kernel of 0.3 s.
            assert_eq!(graphs.program.launch("spin", 300_000_000, graphs.stream), 0);
            assert_eq!((graphs.launch(executable), graphs.taken_mib()), (0, 128));
            graphs.trim();
            assert_eq!(graphs.taken_mib(), 128, "it has not ended");
            assert_eq!(graphs.program.synchronize(graphs.stream), 0);
            graphs.trim();
            assert_eq!((graphs.taken_mib(), graphs.figures()), (0, [0, 100, 0, 128]));
        }
        let all = graphs.program.allocate(usize::try_from(graphs.program.free_bytes()).expect("a size"));
        assert!(all.is_ok());
        assert_eq!(graphs.launch(executable), 2, "its memory is another's now");
        graphs.destroy(executable, graph);
    });
}

#[test]
fn a_trim_leaves_what_lives_of_a_launchable_graph() {
    in_child("graphs::a_trim_leaves_what_lives_of_a_launchable_graph", || {
        let graphs = Graphs::start();
        let graph = graphs.graph();
        graphs.add_allocation(graph, 100 * MIB);
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        assert_eq!((graphs.launch(executable), graphs.program.synchronize(graphs.stream)), (0, 0));
        graphs.trim();
        assert_eq!(graphs.taken_mib(), 128);
        graphs.destroy(executable, graph);
    });
}

#[test]
fn an_upload_takes_what_the_first_launch_would() {
    in_child("graphs::an_upload_takes_what_the_first_launch_would", || {
        let graphs = Graphs::start();
        let graph = graphs.graph();
        graphs.add_allocation(graph, 100 * MIB);
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        let upload =
            |e| call!(graphs.program.cuda, cuGraphUpload: PFN_cuGraphUpload_v11010(e, graphs.stream));
        assert_eq!((upload(executable), graphs.taken_mib()), (0, 128));
        let large = graphs.graph();
        graphs.add_allocation(large, 8192 * MIB);
        let refused = graphs.instantiate(large, 0).expect("nothing is taken yet");
        assert_eq!((upload(refused), graphs.launch(refused), graphs.taken_mib()), (2, 2, 128));
    });
}

#[test]
fn memory_that_a_graph_does_not_free_outlives_it() {
    in_child("graphs::memory_that_a_graph_does_not_free_outlives_it", || {
        let graphs = Graphs::start();
        let cuda = &graphs.program.cuda;
        let graph = graphs.graph();
        let (_, address) = graphs.add_allocation(graph, 100 * MIB);
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        assert_eq!((graphs.launch(executable), graphs.launch(executable)), (0, 1), "it lives still");
        graphs.destroy(executable, graph);
        graphs.trim();
        assert_eq!((graphs.taken_mib(), graphs.figures()[0]), (128, 100));
        assert_eq!(call!(cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address, 7, 4096)), 0);
        assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 0);
        assert_eq!((graphs.taken_mib(), graphs.figures()), (128, [0, 100, 128, 128]), "reserved still");
        graphs.trim();
        assert_eq!(graphs.taken_mib(), 0);
        assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 1);
    });
}

#[test]
fn a_launch_that_frees_first_may_be_repeated() {
    in_child("graphs::a_launch_that_frees_first_may_be_repeated", || {
        let graphs = Graphs::start();
        let graph = graphs.graph();
        let (_, address) = graphs.add_allocation(graph, MIB);
        let executable = graphs.instantiate(graph, 1).expect("a graph");
        assert_eq!((graphs.launch(executable), graphs.launch(executable), graphs.taken_mib()), (0, 0, 32));
        let free =
            call!(graphs.program.cuda, cuMemFreeAsync: PFN_cuMemFreeAsync_v11020(address, graphs.stream));
        assert_eq!(free, 0);
        graphs.destroy(executable, graph);
        graphs.trim();
        assert_eq!(graphs.taken_mib(), 0);
    });
}

#[test]
fn stream_ordered_allocation_in_a_capture_becomes_nodes() {
    in_child("graphs::stream_ordered_allocation_in_a_capture_becomes_nodes", || {
        let graphs = Graphs::start();
        let (program, stream) = (&graphs.program, graphs.stream);
        let cuda = &program.cuda;
        let (mut address, mut graph, mut figure) = (0, std::ptr::null_mut(), 0_u64);
        let mode = CUstreamCaptureMode(0);
        assert_eq!(call!(cuda, cuStreamBeginCapture_v2: PFN_cuStreamBeginCapture_v10010(stream, mode)), 0);
        let length = 100 << 20;
        let allocate =
            call!(cuda, cuMemAllocAsync: PFN_cuMemAllocAsync_v11020(&raw mut address, length, stream));
        assert_eq!((allocate, address != 0, graphs.taken_mib()), (0, true, 0));
        let fill = call!(cuda, cuMemsetD8Async: PFN_cuMemsetD8Async_v3020(address, 7, 16, stream));
        assert_eq!((fill, graphs.figures()), (0, [0; 4]), "the figures may be asked for");
        assert_eq!(call!(cuda, cuMemFreeAsync: PFN_cuMemFreeAsync_v11020(address, stream)), 0);
        assert_eq!(call!(cuda, cuStreamEndCapture: PFN_cuStreamEndCapture_v10000(stream, &raw mut graph)), 0);
        let (mut nodes, mut count) = ([std::ptr::null_mut(); 4], 4);
        let list = call!(
            cuda,
            cuGraphGetNodes: PFN_cuGraphGetNodes_v10000(graph, nodes.as_mut_ptr(), &raw mut count)
        );
        assert_eq!((list, count), (0, 3));
        let kinds: Vec<u32> = nodes[..3]
            .iter()
            .map(|&node| {
                let mut kind = CUgraphNodeType(99);
                let ask = call!(cuda, cuGraphNodeGetType: PFN_cuGraphNodeGetType_v10000(node, &raw mut kind));
                assert_eq!(ask, 0);
                kind.0
            })
            .collect();
        assert_eq!(kinds, [10, 2, 11]);
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
        let ask = call!(
            cuda,
            cuGraphMemAllocNodeGetParams: PFN_cuGraphMemAllocNodeGetParams_v11040(nodes[0], &raw mut params)
        );
        assert_eq!((ask, params.dptr, params.bytesize), (0, address, length));
        let ask = call!(
            cuda,
            cuGraphMemFreeNodeGetParams: PFN_cuGraphMemFreeNodeGetParams_v11040(nodes[2], &raw mut figure)
        );
        assert_eq!((ask, figure), (0, address));
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        assert_eq!((graphs.launch(executable), graphs.taken_mib()), (0, 128));
        assert_eq!(program.synchronize(stream), 0);
    });
}

#[test]
fn a_node_of_any_type_may_be_an_allocation() {
    in_child("graphs::a_node_of_any_type_may_be_an_allocation", || {
        let graphs = Graphs::start();
        let (graph, mut node) = (graphs.graph(), std::ptr::null_mut());
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUgraphNodeParams = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the type below says which member of the union is meant.
        let mut asked = unsafe { params.__bindgen_anon_1.alloc };
        asked.poolProps.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        asked.poolProps.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        asked.bytesize = 1 << 20;
        params.type_ = CUgraphNodeType(10);
        params.__bindgen_anon_1.alloc = asked;
        let none = std::ptr::null();
        let add = call!(
            graphs.program.cuda,
            cuGraphAddNode: PFN_cuGraphAddNode_v12020(&raw mut node, graph, none, 0, &raw mut params)
        );
        // SAFETY: the type says which member is meant.
        assert_ne!((add, unsafe { params.__bindgen_anon_1.alloc }.dptr), (0, 0));
        let executable = graphs.instantiate(graph, 0).expect("a graph");
        assert_eq!((graphs.launch(executable), graphs.taken_mib()), (0, 32));
    });
}
