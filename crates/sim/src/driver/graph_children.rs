//! Graphs inside graphs, and copies of graphs. A child graph is a graph of its own
//! that belongs to its node: it can be looked into, but neither destroyed nor instantiated. When its parent is
//! instantiated, its nodes take its place.

use super::graph::{Graph, Node};
use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};

impl Driver {
    /// Adds a node that runs `child`: a copy of it, or the graph itself, which then belongs to the node.
    ///
    /// # Errors
    /// `InvalidValue` where a graph or a dependency is none, or the child is a child already or holds the parent; `NotSupported`
    /// for a copy of a graph with memory nodes: their addresses are one graph's.
    pub fn add_child_graph(&self, graph: u64, child: u64, moves: bool, dependencies: &[u64]) -> Answer<u64> {
        let inside = {
            let mut state = self.state.lock();
            if !state.graphs.contains_key(&graph) {
                return Err(Fault::InvalidValue);
            }
            if moves { state.move_graph(child, graph)? } else { state.copy_graph(child, true)? }
        };
        self.add_node(graph, Node::Child(inside), dependencies).inspect_err(|_| {
            let mut state = self.state.lock();
            if moves {
                state.mark_child(inside, false);
            } else {
                state.remove_graph(inside);
            }
        })
    }

    /// A copy of a graph.
    ///
    /// # Errors
    /// `InvalidValue` where it is none; `NotSupported` where it has memory nodes, as NVIDIA's manual says.
    pub fn clone_graph(&self, graph: u64) -> Answer<u64> {
        self.state.lock().copy_graph(graph, false)
    }
}

impl State {
    /// All nodes of a graph, those of child graphs in the place of their node.
    pub(super) fn flat(&self, graph: u64) -> Answer<Graph> {
        let mut all = Graph::default();
        self.flatten(graph, &mut all)?;
        Ok(all)
    }

    /// Removes a graph with its children.
    pub(super) fn remove_graph(&mut self, graph: u64) {
        let Some(gone) = self.graphs.remove(&graph) else { return };
        gone.children().for_each(|child| self.remove_graph(child));
    }

    fn flatten(&self, graph: u64, all: &mut Graph) -> Answer<()> {
        for (handle, node) in self.graphs.get(&graph).ok_or(Fault::InvalidValue)?.nodes() {
            match node {
                Node::Child(child) => self.flatten(*child, all)?,
                _ => all.push(*handle, node.clone()),
            }
        }
        Ok(())
    }

    fn copy_graph(&mut self, graph: u64, is_child: bool) -> Answer<u64> {
        if !self.flat(graph)?.memory_nodes().is_empty() {
            crate::log::once("a graph with memory nodes cannot be copied: NOT_SUPPORTED");
            return Err(Fault::NotSupported);
        }
        let source = self.graphs.get(&graph).cloned().ok_or(Fault::InvalidValue)?;
        let mut copy = Graph::default();
        copy.is_child = is_child;
        for (_, node) in source.nodes() {
            copy.append(match node {
                Node::Child(child) => Node::Child(self.copy_graph(*child, true)?),
                _ => node.clone(),
            });
        }
        let handle = fresh(Kind::Graph);
        self.graphs.insert(handle, copy);
        Ok(handle)
    }

    fn move_graph(&mut self, child: u64, parent: u64) -> Answer<u64> {
        let found = self.graphs.get(&child).ok_or(Fault::InvalidValue)?;
        let is_used = self.executables.values().any(|e| e.source == child);
        let has_memory = !self.flat(child)?.memory_nodes().is_empty();
        if found.is_child || self.holds(child, parent) || (is_used && has_memory) {
            return Err(Fault::InvalidValue);
        }
        self.mark_child(child, true);
        Ok(child)
    }

    fn mark_child(&mut self, graph: u64, is_child: bool) {
        if let Some(graph) = self.graphs.get_mut(&graph) {
            graph.is_child = is_child;
        }
    }

    /// Whether `graph` is `wanted`, or has it among its children.
    fn holds(&self, graph: u64, wanted: u64) -> bool {
        let mut children = self.graphs.get(&graph).into_iter().flat_map(Graph::children);
        graph == wanted || children.any(|child| self.holds(child, wanted))
    }
}
