//! Graphs that allocate, as a console makes them.

use crate::console::Arg::{At, Is, Out};
use crate::console::Console;

/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u64 = 1;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`
const RELAXED: u64 = 2;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`
pub const FREES_AT_LAUNCH: u64 = 1;

/// sizeof(`CUDA_MEM_ALLOC_NODE_PARAMS`), and where in it the size and the address are.
const ALLOC_NODE_BYTES: usize = 120;
const SIZE_AT: usize = 104;
const ADDRESS_AT: usize = 112;

/// `CUDA_MEM_ALLOC_NODE_PARAMS` for pinned memory of the first device.
pub fn alloc_node(bytes: u64) -> [u8; ALLOC_NODE_BYTES] {
    let mut parameters = [0; ALLOC_NODE_BYTES];
    // Type: pinned. Location: a device, with ordinal 0.
    (parameters[0], parameters[8]) = (1, 1);
    parameters[SIZE_AT..ADDRESS_AT].copy_from_slice(&bytes.to_le_bytes());
    parameters
}

impl Console {
    /// A stream that waits for no other.
    #[track_caller]
    pub fn stream(&mut self) -> u64 {
        self.call("cuStreamCreate", &[Out(8), Is(NON_BLOCKING)]).ok().number(0)
    }

    /// A graph without nodes.
    #[track_caller]
    pub fn graph(&mut self) -> u64 {
        self.call("cuGraphCreate", &[Out(8), Is(0)]).ok().number(0)
    }

    /// Adds a node that allocates: the node and the address.
    #[track_caller]
    pub fn add_allocation(&mut self, graph: u64, bytes: u64) -> (u64, u64) {
        let node = [Out(8), Is(graph), Is(0), Is(0), At(&alloc_node(bytes))];
        let answer = self.call("cuGraphAddMemAllocNode", &node).ok();
        let address = answer.wrote[1][ADDRESS_AT..].try_into().expect("eight bytes");
        (answer.number(0), u64::from_le_bytes(address))
    }

    /// Adds a node that frees, after `node`.
    #[track_caller]
    pub fn add_free(&mut self, graph: u64, node: u64, address: u64) {
        let after = node.to_le_bytes();
        let _ = self.call("cuGraphAddMemFreeNode", &[Out(8), Is(graph), At(&after), Is(1), Is(address)]).ok();
    }

    /// A graph that allocates `bytes`, and frees them again or does not.
    #[track_caller]
    pub fn allocating_graph(&mut self, bytes: u64, frees: bool) -> u64 {
        let graph = self.graph();
        let (node, address) = self.add_allocation(graph, bytes);
        if frees {
            self.add_free(graph, node, address);
        }
        graph
    }

    /// A graph captured from a stream on which `bytes` were allocated and freed.
    #[track_caller]
    pub fn captured_graph(&mut self, bytes: u64) -> u64 {
        let stream = self.stream();
        let _ = self.call("cuStreamBeginCapture_v2", &[Is(stream), Is(RELAXED)]).ok();
        let address = self.call("cuMemAllocAsync", &[Out(8), Is(bytes), Is(stream)]).ok().number(0);
        let _ = self.call("cuMemFreeAsync", &[Is(address), Is(stream)]).ok();
        self.call("cuStreamEndCapture", &[Is(stream), Out(8)]).ok().number(0)
    }

    /// Makes a graph executable.
    #[track_caller]
    pub fn instantiate(&mut self, graph: u64, flags: u64) -> u64 {
        self.call("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(flags)]).ok().number(0)
    }

    /// Launches a graph on a stream; the status.
    pub fn launch_graph(&mut self, executable: u64, stream: u64) -> i64 {
        self.call("cuGraphLaunch", &[Is(executable), Is(stream)]).status
    }

    /// Destroys an executable graph.
    #[track_caller]
    pub fn destroy_executable(&mut self, executable: u64) {
        let _ = self.call("cuGraphExecDestroy", &[Is(executable)]).ok();
    }

    /// Lets graphs give back what they do not use.
    #[track_caller]
    pub fn trim_graphs(&mut self) {
        let _ = self.call("cuDeviceGraphMemTrim", &[Is(0)]).ok();
    }

    /// What the driver keeps for graphs, bytes.
    #[track_caller]
    pub fn reserved_for_graphs(&mut self) -> u64 {
        // CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT
        self.call("cuDeviceGetGraphMemAttribute", &[Is(0), Is(2), Out(8)]).ok().number(0)
    }
}
