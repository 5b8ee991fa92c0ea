//! Graphs. Their nodes run one after the other, in the order in which they were added, whatever their edges allow: the
//! model keeps the total of the work and the order, not the overlap inside a graph.

use super::Driver;
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use crate::engine::{Effect, Lane, Word, Work};
use crate::error::{Answer, Fault};
use std::sync::Arc;

/// A unit that can be submitted more than once.
#[derive(Clone)]
pub enum Node {
    /// Takes a lane for a time, then has an effect.
    Timed {
        /// How long it takes by itself, in nanoseconds.
        cost_ns: u64,
        /// What it takes of the device.
        lane: Lane,
        /// What it does at its end.
        effect: Effect,
        /// Whether it ends with an illegal address.
        faults: bool,
        /// What it is.
        kind: NodeKind,
    },
    /// A kernel that runs until a word is not zero.
    Spin {
        /// What it takes of the device.
        lane: Lane,
        /// The word.
        word: Word,
    },
    /// A function of the host.
    Host(Arc<dyn Fn() + Send + Sync>),
    /// Nothing.
    Empty,
}

/// What a node is, as `CUgraphNodeType` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeKind {
    /// A kernel.
    Kernel = 0,
    /// A copy.
    Copy = 1,
    /// A fill.
    Fill = 2,
    /// A host function.
    Host = 3,
    /// Nothing.
    Empty = 5,
    /// A write of a word.
    Batch = 12,
}

impl Node {
    /// The node as a unit of a stream; `None` where it is nothing.
    #[must_use]
    pub fn work(&self) -> Option<Work> {
        Some(match self.clone() {
            Self::Timed { cost_ns, lane, effect, faults, .. } => {
                Work::Timed { cost_ns, lane, effect, faults }
            }
            Self::Spin { lane, word } => Work::Spin { lane, word },
            Self::Host(call) => Work::Host(Box::new(move || call())),
            Self::Empty => return None,
        })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> NodeKind {
        match self {
            Self::Timed { kind, .. } => *kind,
            Self::Spin { .. } => NodeKind::Kernel,
            Self::Host(_) => NodeKind::Host,
            Self::Empty => NodeKind::Empty,
        }
    }
}

/// Nodes in the order in which they were added, each with its handle.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    nodes: Vec<(u64, Node)>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a graph of {} nodes", self.nodes.len())
    }
}

impl Graph {
    pub(super) fn append(&mut self, node: Node) -> u64 {
        let handle = fresh(Kind::GraphNode);
        self.nodes.push((handle, node));
        handle
    }
}

impl Driver {
    /// Makes an empty graph.
    #[must_use]
    pub fn create_graph(&self) -> u64 {
        let handle = fresh(Kind::Graph);
        self.state.lock().graphs.insert(handle, Graph::default());
        handle
    }

    /// Destroys a graph; what was instantiated from it stays.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn destroy_graph(&self, graph: u64) -> Answer<()> {
        self.state.lock().graphs.remove(&graph).map(|_| ()).ok_or(Fault::InvalidValue)
    }

    /// Adds a node after `dependencies`, which must be nodes of the same graph.
    ///
    /// # Errors
    /// `InvalidValue` where the graph or a dependency is none.
    pub fn add_node(&self, graph: u64, node: Node, dependencies: &[u64]) -> Answer<u64> {
        let mut state = self.state.lock();
        let found = state.graphs.get_mut(&graph).ok_or(Fault::InvalidValue)?;
        let is_known = |d: &u64| found.nodes.iter().any(|(handle, _)| handle == d);
        if !dependencies.iter().all(is_known) {
            return Err(Fault::InvalidValue);
        }
        Ok(found.append(node))
    }

    /// The nodes of a graph, with what each is.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn graph_nodes(&self, graph: u64) -> Answer<Vec<u64>> {
        let state = self.state.lock();
        Ok(state
            .graphs
            .get(&graph)
            .ok_or(Fault::InvalidValue)?
            .nodes
            .iter()
            .map(|(handle, _)| *handle)
            .collect())
    }

    /// What a node is.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn node_kind(&self, node: u64) -> Answer<NodeKind> {
        let state = self.state.lock();
        let mut all = state.graphs.values().flat_map(|g| &g.nodes);
        all.find(|(handle, _)| *handle == node).map(|(_, node)| node.kind()).ok_or(Fault::InvalidValue)
    }

    /// Makes a graph ready to launch.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn instantiate_graph(&self, graph: u64) -> Answer<u64> {
        let mut state = self.state.lock();
        let copy = state.graphs.get(&graph).ok_or(Fault::InvalidValue)?.clone();
        let handle = fresh(Kind::GraphExec);
        state.executables.insert(handle, copy);
        Ok(handle)
    }

    /// Destroys an instantiated graph.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn destroy_executable(&self, executable: u64) -> Answer<()> {
        self.state.lock().executables.remove(&executable).map(|_| ()).ok_or(Fault::InvalidValue)
    }

    /// Whether `executable` is an instantiated graph.
    ///
    /// # Errors
    /// `InvalidValue` where it is none.
    pub fn check_executable(&self, executable: u64) -> Answer<()> {
        let known = self.state.lock().executables.contains_key(&executable);
        if known { Ok(()) } else { Err(Fault::InvalidValue) }
    }

    /// Launches an instantiated graph in a stream; into a capture, where the stream captures.
    ///
    /// # Errors
    /// `InvalidValue` where it is none; the sticky error.
    pub fn launch_graph(&self, executable: u64, stream: StreamRef) -> Answer<()> {
        let nodes = {
            let mut state = self.state.lock();
            self.note_launch(&mut state, stream.context)?;
            state.executables.get(&executable).ok_or(Fault::InvalidValue)?.nodes.clone()
        };
        if self.is_capturing(stream) {
            return nodes.into_iter().try_for_each(|(_, node)| self.enqueue(stream, node));
        }
        self.check_legacy(stream)?;
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        gpu.submit_all(stream.id, nodes.iter().filter_map(|(_, node)| node.work()).collect());
        Ok(())
    }

    /// Submits a node to a stream, or takes it into the stream's capture.
    ///
    /// # Errors
    /// The sticky error; the errors of captures.
    pub fn enqueue(&self, stream: StreamRef, node: Node) -> Answer<()> {
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        let Some(node) = self.capture(stream, node)? else { return Ok(()) };
        if let Some(work) = node.work() {
            gpu.submit(stream.id, work);
        }
        Ok(())
    }
}
