//! Graphs that can be launched, given what a graph of the same shape does. What is on its way in a stream is not changed.

use super::Driver;
use super::graph::Node;
use crate::error::{Answer, Fault};

/// Why an update was refused, as `CUgraphExecUpdateResult` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// The update named no graphs.
    Error = 1,
    /// There are more nodes, or fewer.
    Topology = 2,
    /// A node is of another kind.
    Kind = 3,
    /// A memory node has another address: those are one graph's.
    Parameters = 5,
    /// A kernel is of another context.
    Function = 7,
}

/// A refused update: why, the node of the graph and that of what was to be updated, where it is the matter of a node.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The node of the graph that was given, 0 for none.
    pub node: u64,
    /// The node that it was to replace, 0 for none.
    pub replaced: u64,
    /// What the call gives.
    pub fault: Fault,
}

impl Driver {
    /// Gives `executable` the nodes of `graph`, all or none. Nodes match in the order in which they were added; their edges are not
    /// compared, as the model keeps none.
    ///
    /// # Errors
    /// Why, with the nodes: `GraphExecUpdateFailure`, or `InvalidValue` where one of the two is none.
    pub fn update_graph(&self, executable: u64, graph: u64) -> Result<(), Refused> {
        let because = |refusal, node, replaced| {
            let is_error = refusal == Refusal::Error;
            let fault = if is_error { Fault::InvalidValue } else { Fault::GraphExecUpdateFailure };
            Refused { refusal, node, replaced, fault }
        };
        let mut state = self.state.lock();
        let new = state.flat(graph).map_err(|_| because(Refusal::Error, 0, 0))?;
        let found = state.executables.get_mut(&executable).ok_or(because(Refusal::Error, 0, 0))?;
        if found.graph.nodes().len() != new.nodes().len() {
            return Err(because(Refusal::Topology, 0, 0));
        }
        for ((replaced, old), (node, new)) in found.graph.nodes().iter().zip(new.nodes()) {
            check_change(old, new).map_err(|refusal| because(refusal, *node, *replaced))?;
        }
        for (place, (_, node)) in found.graph.nodes_mut().zip(new.nodes()) {
            *place = node.clone();
        }
        Ok(())
    }

    /// Gives a node another kernel, or another function of the host, in its graph or, where `executable` is not 0, in what was instantiated from it.
    ///
    /// # Errors
    /// `InvalidValue` where there is no such node, or it is of another kind.
    pub fn set_node(&self, executable: u64, node: u64, new: Node) -> Answer<()> {
        let mut state = self.state.lock();
        let found = if executable == 0 {
            state.graphs.values_mut().find_map(|graph| graph.find_mut(node))
        } else {
            state.executables.get_mut(&executable).and_then(|e| e.graph.find_mut(node))
        };
        let place = found.filter(|old| old.kind() == new.kind()).ok_or(Fault::InvalidValue)?;
        *place = new;
        Ok(())
    }
}

fn check_change(old: &Node, new: &Node) -> Result<(), Refusal> {
    if old.kind() != new.kind() {
        return Err(Refusal::Kind);
    }
    match (old, new) {
        (Node::Kernel(old), Node::Kernel(new)) if old.context != new.context => Err(Refusal::Function),
        (Node::Allocate { address, .. }, Node::Allocate { address: other, .. })
        | (Node::Free { address }, Node::Free { address: other })
            if address != other =>
        {
            Err(Refusal::Parameters)
        }
        _ => Ok(()),
    }
}
