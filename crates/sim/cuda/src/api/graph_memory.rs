//! Memory nodes of graphs, nodes of any type, and the memory that graphs hold.

use super::graph::{add, add_child};
use super::kernel_node::{KernelParams, node};
use super::pool::{location_id, set_location_id};
use super::stream::host_node;
use super::{get, put};
use cuota_abi::cuda::{
    CUDA_MEM_ALLOC_NODE_PARAMS, CUdevice, CUdeviceptr, CUgraph, CUgraphEdgeData, CUgraphMem_attribute,
    CUgraphNode, CUgraphNodeParams, CUmemAllocationType, CUmemLocationType, CUmemPoolProps,
};
use cuota_sim::driver::{Driver, Node};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_void};

/// Where a node goes: its graph and what it depends on.
struct Place {
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
}

impl Place {
    unsafe fn add(&self, node: Node) -> Answer<()> {
        // SAFETY: the pointers are valid by the caller's word.
        unsafe { add(self.node, self.graph, self.dependencies, self.count, node) }
    }

    /// Adds an allocation and gives its address.
    unsafe fn add_allocation(&self, properties: &CUmemPoolProps, bytes: usize) -> Answer<CUdeviceptr> {
        if properties.allocType != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
            return Err(Fault::InvalidValue);
        }
        if properties.location.type_ != CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE {
            return Err(Fault::NotSupported);
        }
        let driver = Driver::get()?;
        let (node, address) = driver.allocation_node(bytes as u64, location_id(&properties.location))?;
        // SAFETY: the pointers are valid by the caller's word.
        let added = unsafe { self.add(node) };
        driver.settle_graph_address(address);
        added.map(|()| address)
    }

    /// Adds a node of the type that `params` names.
    unsafe fn add_any(&self, params: *mut CUgraphNodeParams) -> Answer<()> {
        // SAFETY: `params` is null or valid by the caller's word, and its type says which member of the union is meant.
        unsafe {
            let p = get(params)?;
            match p.type_.0 {
                0 => {
                    let k = p.__bindgen_anon_1.kernel;
                    self.add(node(&KernelParams::from(&k))?)
                }
                3 => {
                    let host = p.__bindgen_anon_1.host;
                    self.add(host_node(host.fn_, host.userData)?)
                }
                4 => {
                    let child = p.__bindgen_anon_1.graph;
                    let moves = match child.ownership.0 {
                        0 => false,
                        1 => true,
                        _ => return Err(Fault::InvalidValue),
                    };
                    let after = (self.dependencies, self.count);
                    add_child(self.node, self.graph, after, child.graph, moves)?;
                    let Node::Child(inside) = Driver::get()?.node(self.node.read() as u64)? else {
                        return Err(Fault::InvalidValue);
                    };
                    (*params).__bindgen_anon_1.graph.graph = inside as CUgraph;
                    Ok(())
                }
                5 => self.add(Node::Empty),
                10 => {
                    let asked = p.__bindgen_anon_1.alloc;
                    let address = self.add_allocation(&asked.poolProps, asked.bytesize)?;
                    (*params).__bindgen_anon_1.alloc.dptr = address;
                    Ok(())
                }
                11 => self.add(Driver::get()?.free_node(p.__bindgen_anon_1.free.dptr)?),
                kind => {
                    cuota_sim::log::once(&format!(
                        "graph nodes of type {kind} are not modelled: NOT_SUPPORTED"
                    ));
                    Err(Fault::NotSupported)
                }
            }
        }
    }
}

const USED_HIGH: u32 = 1;
const RESERVED_HIGH: u32 = 3;

driver_api! {
    fn cuGraphAddMemAllocNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
    ) {
        let asked = get(nodeParams)?;
        let place = Place { node: phGraphNode, graph: hGraph, dependencies, count: numDependencies };
        let address = place.add_allocation(&asked.poolProps, asked.bytesize)?;
        (*nodeParams).dptr = address;
        Ok(())
    }

    fn cuGraphAddMemFreeNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        dptr: CUdeviceptr,
    ) {
        let place = Place { node: phGraphNode, graph: hGraph, dependencies, count: numDependencies };
        place.add(Driver::get()?.free_node(dptr)?)
    }

    fn cuGraphMemAllocNodeGetParams(hNode: CUgraphNode, params_out: *mut CUDA_MEM_ALLOC_NODE_PARAMS) {
        let Node::Allocate { address, bytes, device } = Driver::get()?.node(hNode as u64)? else {
            return Err(Fault::InvalidValue);
        };
        let mut params: CUDA_MEM_ALLOC_NODE_PARAMS = std::mem::zeroed();
        params.poolProps.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        params.poolProps.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        set_location_id(&mut params.poolProps.location, device as c_int);
        (params.bytesize, params.dptr) = (bytes as usize, address);
        put(params_out, params)
    }

    fn cuGraphMemFreeNodeGetParams(hNode: CUgraphNode, dptr_out: *mut CUdeviceptr) {
        let Node::Free { address } = Driver::get()?.node(hNode as u64)? else {
            return Err(Fault::InvalidValue);
        };
        put(dptr_out, address)
    }

    fn cuGraphAddNode(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        numDependencies: usize,
        nodeParams: *mut CUgraphNodeParams,
    ) {
        let place = Place { node: phGraphNode, graph: hGraph, dependencies, count: numDependencies };
        place.add_any(nodeParams)
    }

    fn cuGraphAddNode_v2(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        _dependencyData: *const CUgraphEdgeData,
        numDependencies: usize,
        nodeParams: *mut CUgraphNodeParams,
    ) {
        let place = Place { node: phGraphNode, graph: hGraph, dependencies, count: numDependencies };
        place.add_any(nodeParams)
    }

    fn cuGraphAddNode_v3(
        phGraphNode: *mut CUgraphNode,
        hGraph: CUgraph,
        dependencies: *const CUgraphNode,
        _dependencyData: *const CUgraphEdgeData,
        numDependencies: usize,
        nodeParams: *mut CUgraphNodeParams,
    ) {
        let place = Place { node: phGraphNode, graph: hGraph, dependencies, count: numDependencies };
        place.add_any(nodeParams)
    }

    fn cuDeviceGetGraphMemAttribute(device: CUdevice, attr: CUgraphMem_attribute, value: *mut c_void) {
        let figure = Driver::get()?.with_graph_pool(device, |pool| match attr.0 {
            0 => Ok(pool.used().current),
            USED_HIGH => Ok(pool.used().high),
            2 => Ok(pool.reserved().current),
            RESERVED_HIGH => Ok(pool.reserved().high),
            _ => Err(Fault::InvalidValue),
        })?;
        put(value.cast::<u64>(), figure?)
    }

    fn cuDeviceSetGraphMemAttribute(device: CUdevice, attr: CUgraphMem_attribute, value: *mut c_void) {
        if get(value.cast::<u64>())? != 0 {
            return Err(Fault::InvalidValue);
        }
        Driver::get()?.with_graph_pool(device, |pool| {
            match attr.0 {
                USED_HIGH => pool.reset_used_high(),
                RESERVED_HIGH => pool.reset_reserved_high(),
                _ => return Err(Fault::InvalidValue),
            }
            Ok(())
        })?
    }

    fn cuDeviceGraphMemTrim(device: CUdevice) {
        Driver::get()?.trim_graph_memory(device)
    }
}
