//! Memory nodes of graphs: an address when the node is added or captured, bytes of the device when the graph is first
//! uploaded or launched. They stay with the launchable graph; an allocation that it does not free itself keeps them beyond
//! its end. What nobody uses any more stays in the device's graph pool until a trim.

use super::allocate::Keeper;
use super::graph::{Executable, Graph, Node};
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::blocks::ALIGNMENT;
use crate::memory::graph_pool::{GraphPool, Holding};
use crate::memory::{Access, Backing};
use crate::shared::Charge;
use crate::units::{BLOCK, round_up};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An address of a memory node.
#[derive(Debug, Clone, Copy)]
struct Place {
    bytes: u64,
    /// Whether its node is not yet in a graph.
    is_new: bool,
    /// Whose memory it has, 0 before the first launch.
    footprint: u64,
}

/// What one launchable graph, or the allocations that it left behind, hold of one device.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    device: u32,
    holding: Holding,
    has_graph: bool,
    live: u64,
}

/// The graph memory of a process.
#[derive(Debug, Default)]
pub(crate) struct GraphMemory {
    pools: HashMap<u32, GraphPool>,
    places: BTreeMap<u64, Place>,
    footprints: HashMap<u64, Footprint>,
    /// Host memory that submitted work may still touch.
    retired: Vec<Arc<Backing>>,
}

impl Driver {
    /// A memory node for `bytes` on `device`, and the address that it will have.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` for zero bytes; `OutOfMemory` without addresses.
    pub fn allocation_node(&self, bytes: u64, device: i32) -> Answer<(Node, u64)> {
        let device = self.gpu(device)?.ordinal();
        if bytes == 0 {
            return Err(Fault::InvalidValue);
        }
        let length = round_up(bytes, BLOCK).ok_or(Fault::OutOfMemory)?;
        let backing = Arc::new(Backing::map(length, Access::ReadWrite)?);
        let mut state = self.state.lock();
        let address = state.space.reserve(length, BLOCK, 0)?;
        state.space.attach(address, length, device, backing, 0);
        state.graph_memory.places.insert(address, Place { bytes, is_new: true, footprint: 0 });
        Ok((Node::Allocate { address, bytes, device }, address))
    }

    /// A node that frees what an allocation node gave.
    ///
    /// # Errors
    /// `InvalidValue` where `address` is of no allocation node.
    pub fn free_node(&self, address: u64) -> Answer<Node> {
        let known = self.state.lock().graph_memory.places.contains_key(&address);
        if known { Ok(Node::Free { address }) } else { Err(Fault::InvalidValue) }
    }

    /// The node of `address` has been added to a graph, or could not be: then the address is given back.
    pub fn settle_graph_address(&self, address: u64) {
        let mut state = self.state.lock();
        if let Some(place) = state.graph_memory.places.get_mut(&address) {
            place.is_new = false;
        }
        self.forget_places(&mut state);
    }

    /// A stream-ordered allocation in a capture: a node, whose address is known at once. `None` where the stream does not
    /// capture.
    ///
    /// # Errors
    /// `InvalidValue` for zero bytes or a pool that is none; the errors of captures.
    pub fn capture_allocation(&self, bytes: u64, pool: u64, stream: StreamRef) -> Answer<Option<u64>> {
        self.check_legacy(stream)?;
        if !self.is_capturing(stream) {
            return Ok(None);
        }
        let device = if pool == 0 { stream.device } else { self.with_pool(pool, |pool| pool.device)? };
        let (node, address) = self.allocation_node(bytes, i32::try_from(device).unwrap_or(-1))?;
        let captured = self.enqueue(stream, node);
        self.settle_graph_address(address);
        captured.map(|()| Some(address))
    }

    /// A stream-ordered free in a capture: a node. False where the stream does not capture.
    ///
    /// # Errors
    /// `InvalidValue` where `address` is of no allocation node; the errors of captures.
    pub fn capture_free(&self, address: u64, stream: StreamRef) -> Answer<bool> {
        self.check_legacy(stream)?;
        if !self.is_capturing(stream) {
            return Ok(false);
        }
        self.enqueue(stream, self.free_node(address)?)?;
        Ok(true)
    }

    /// Takes the memory of a launchable graph, where it has it not yet: `cuGraphUpload`, or the first launch.
    ///
    /// # Errors
    /// `InvalidValue` where it is none; `OutOfMemory`.
    pub fn upload_graph(&self, executable: u64, stream: StreamRef) -> Answer<()> {
        let mut state = self.state.lock();
        self.place_graph(&mut state, executable, stream.context)?;
        self.ready_graph(&mut state, executable)
    }

    /// Runs `work` on the graph pool of `device`.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn with_graph_pool<T>(&self, device: i32, work: impl FnOnce(&mut GraphPool) -> T) -> Answer<T> {
        let device = self.gpu(device)?.ordinal();
        Ok(work(self.state.lock().graph_memory.pools.entry(device).or_default()))
    }

    /// Gives the graph memory that nobody uses back to `device`: also that of launchable graphs that do not run and left no
    /// allocation alive, which take it again at their next launch. Unlike a pool's trim it disturbs no capture.
    ///
    /// # Errors
    /// `InvalidDevice`.
    pub fn trim_graph_memory(&self, device: i32) -> Answer<()> {
        let ordinal = self.gpu(device)?.ordinal();
        self.end_idle_footprints(&mut self.state.lock(), ordinal);
        let bytes = self.with_graph_pool(device, GraphPool::trim)?;
        self.gpu(device)?.give(Charge::Memory, bytes);
        Ok(())
    }

    pub(super) fn ready_graph(&self, state: &mut State, executable: u64) -> Answer<()> {
        let found = state.executables.get(&executable).ok_or(Fault::InvalidValue)?;
        let known = &state.graph_memory.footprints;
        let held: Vec<u64> = found.footprints.iter().copied().filter(|id| known.contains_key(id)).collect();
        let is_held = |device: u32| held.iter().any(|id| known[id].device == device);
        let mut needs = found.graph.memory_needs();
        needs.retain(|device, _| !is_held(*device));
        if needs.is_empty() {
            return Ok(());
        }
        let mut addresses = found.graph.allocations();
        addresses.retain(|(_, device)| needs.contains_key(device));
        needs.keys().for_each(|&device| self.end_reached_frees(state, device));
        let mut taken = Vec::new();
        for (device, bytes) in needs {
            match self.take_footprint(state, device, bytes) {
                Ok(id) => taken.push(id),
                Err(fault) => {
                    taken.into_iter().for_each(|id| state.end_footprint(id));
                    return Err(fault);
                }
            }
        }
        for (address, device) in addresses {
            let of_device =
                |id: &&u64| state.graph_memory.footprints.get(id).is_some_and(|f| f.device == device);
            let footprint = taken.iter().find(of_device).copied().unwrap_or(0);
            if let Some(place) = state.graph_memory.places.get_mut(&address) {
                place.footprint = footprint;
            }
        }
        if let Some(found) = state.executables.get_mut(&executable) {
            found.footprints = [held, taken].concat();
        }
        Ok(())
    }

    /// Ends what launchable graphs hold of `device` that do not run, where no allocation of theirs lives.
    fn end_idle_footprints(&self, state: &mut State, device: u32) {
        let is_idle =
            |e: &&Executable| e.running.is_idle(|device, point| self.gpu_of(device).is_reached(point));
        let of_idle: Vec<u64> =
            state.executables.values().filter(is_idle).flat_map(|e| e.footprints.clone()).collect();
        for id in of_idle {
            let found = state.graph_memory.footprints.get(&id);
            if found.is_some_and(|f| f.device == device && f.live == 0) {
                state.end_footprint(id);
            }
        }
    }

    /// Makes the allocations of a launch live, and ends those that it frees.
    ///
    /// # Errors
    /// `InvalidValue` where one of them still lives from the launch before, and is not freed by the launch itself.
    pub(super) fn launch_memory(&self, state: &mut State, executable: u64, context: u64) -> Answer<()> {
        let found = state.executables.get(&executable).ok_or(Fault::InvalidValue)?;
        let nodes = found.graph.memory_nodes();
        let still_live: Vec<u64> = nodes.iter().filter_map(|n| n.allocated()).collect();
        let still_live = still_live.into_iter().filter(|a| state.allocations.contains_key(a));
        let still_live: Vec<u64> = still_live.collect();
        if !still_live.is_empty() && !found.frees_at_launch {
            return Err(Fault::InvalidValue);
        }
        still_live.into_iter().for_each(|address| self.free_graph_allocation(state, address));
        for node in nodes {
            match node {
                Node::Allocate { address, bytes, device } => {
                    state.note(address, bytes, context, device, Keeper::Graph);
                    state.count_live(address, 1);
                }
                Node::Free { address } => self.free_graph_allocation(state, address),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends an allocation of a graph, by whichever call.
    pub(super) fn free_graph_allocation(&self, state: &mut State, address: u64) {
        if state.allocations.get(&address).is_some_and(|a| a.keeper == Keeper::Graph) {
            state.allocations.remove(&address);
            self.end_graph_allocation(state, address);
        }
    }

    /// Notes that an allocation, already forgotten, has ended.
    pub(super) fn end_graph_allocation(&self, state: &mut State, address: u64) {
        state.count_live(address, -1);
        self.forget_places(state);
    }

    /// A launchable graph is destroyed: what it held goes to the pool, unless an allocation of it lives.
    pub(super) fn leave_footprints(&self, state: &mut State, footprints: &[u64]) {
        for id in footprints {
            if let Some(footprint) = state.graph_memory.footprints.get_mut(id) {
                footprint.has_graph = false;
            }
            state.end_footprint_if_unused(*id);
        }
        self.forget_places(state);
    }

    /// The last context of `device` is gone, and with it all graph memory.
    pub(super) fn end_graph_memory(&self, state: &mut State, device: u32) {
        let of_device = |f: &Footprint| f.device == device;
        let all: Vec<u64> =
            state.graph_memory.footprints.iter().filter(|(_, f)| of_device(f)).map(|(&id, _)| id).collect();
        all.into_iter().for_each(|id| state.end_footprint(id));
        let bytes = state.graph_memory.pools.get_mut(&device).map_or(0, GraphPool::trim);
        self.gpu_of(device).give(Charge::Memory, bytes);
    }

    /// Gives back the addresses that no graph and no allocation has any more.
    pub(super) fn forget_places(&self, state: &mut State) {
        if state.graph_memory.places.is_empty() {
            return;
        }
        let graphs = state.graphs.values().chain(state.executables.values().map(|e| &e.graph));
        let named: Vec<u64> = graphs.flat_map(Graph::allocations).map(|(address, _)| address).collect();
        let is_used = |address: &u64| named.contains(address) || state.allocations.contains_key(address);
        let places = state.graph_memory.places.iter().filter(|(address, p)| !p.is_new && !is_used(address));
        let gone: Vec<u64> = places.map(|(&address, _)| address).collect();
        for address in gone {
            let Some(place) = state.graph_memory.places.remove(&address) else { continue };
            let backing = state.space.detach(address);
            state.graph_memory.retired.extend(backing);
            state.space.unreserve(address, place.bytes.next_multiple_of(BLOCK));
        }
        if self.gpus.iter().all(|gpu| gpu.is_done(crate::gpu::Awaited::All).unwrap_or(false)) {
            state.graph_memory.retired.clear();
        }
    }

    fn take_footprint(&self, state: &mut State, device: u32, bytes: u64) -> Answer<u64> {
        let mut pool = state.graph_memory.pools.remove(&device).unwrap_or_default();
        let taken = pool.take(bytes, |more| self.take_bytes(state, device, more));
        state.graph_memory.pools.insert(device, pool);
        let id = fresh(Kind::Footprint);
        let footprint = Footprint { device, holding: taken?, has_graph: true, live: 0 };
        state.graph_memory.footprints.insert(id, footprint);
        Ok(id)
    }
}

impl Graph {
    /// The addresses of its allocation nodes, each with its device.
    fn allocations(&self) -> Vec<(u64, u32)> {
        let of_node = |node: Node| match node {
            Node::Allocate { address, device, .. } => Some((address, device)),
            _ => None,
        };
        self.memory_nodes().into_iter().filter_map(of_node).collect()
    }

    /// The most that its allocations hold at one time, by device, when its nodes run in order.
    fn memory_needs(&self) -> BTreeMap<u32, u64> {
        let mut live: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut needs = BTreeMap::new();
        for node in self.memory_nodes() {
            match node {
                Node::Allocate { address, bytes, device } => {
                    live.insert(address, (device, bytes.next_multiple_of(ALIGNMENT)));
                    let held = live.values().filter(|(d, _)| *d == device).map(|(_, bytes)| bytes).sum();
                    let most: &mut u64 = needs.entry(device).or_default();
                    *most = (*most).max(held);
                }
                Node::Free { address } => drop(live.remove(&address)),
                _ => {}
            }
        }
        needs
    }
}

impl State {
    fn count_live(&mut self, address: u64, change: i64) {
        let Some(place) = self.graph_memory.places.get(&address) else { return };
        let id = place.footprint;
        if let Some(footprint) = self.graph_memory.footprints.get_mut(&id) {
            footprint.live = footprint.live.saturating_add_signed(change);
        }
        self.end_footprint_if_unused(id);
    }

    fn end_footprint_if_unused(&mut self, id: u64) {
        let found = self.graph_memory.footprints.get(&id);
        if found.is_some_and(|f| !f.has_graph && f.live == 0) {
            self.end_footprint(id);
        }
    }

    fn end_footprint(&mut self, id: u64) {
        let Some(gone) = self.graph_memory.footprints.remove(&id) else { return };
        if let Some(pool) = self.graph_memory.pools.get_mut(&gone.device) {
            pool.leave(gone.holding);
        }
    }
}
