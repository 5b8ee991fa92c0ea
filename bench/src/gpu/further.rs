//! Further paths to device memory, by which a limit must hold as well: a pool of the program's own, arrays, and memory that a
//! graph allocates when it is launched. What is taken stays until the process ends.

use std::ptr;

use anyhow::Result;
use cudarc::driver::sys::{self, CUarray, CUgraph, CUgraphExec, CUgraphNode, CUmemoryPool, CUstream};

use super::device::Gpu;
use super::error::{CudaError, check};
use super::functions::{FurtherFunctions, as_a_program_finds_them};
use super::memory::Taken;

/// A way to take memory beside those that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Further {
    /// `cuMemAllocFromPoolAsync`, from a pool that the program made.
    OwnPool,
    /// `cuArrayCreate`.
    Array,
    /// A graph with one node that allocates, launched once.
    GraphNode,
}

/// Elements in a row of an array, of 16 bytes each: 32 rows are 2 MiB.
const ROW_ELEMENTS: usize = 4_096;
const ELEMENT_BYTES: usize = 16;

impl Further {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OwnPool, Self::Array, Self::GraphNode];

    /// The words in names of series.
    pub fn text(self) -> &'static str {
        match self {
            Self::OwnPool => "own pool",
            Self::Array => "array",
            Self::GraphNode => "graph node",
        }
    }

    /// The largest piece that is asked for at once, in bytes: an array has at most 65,536 rows.
    pub fn largest_bytes(self) -> u64 {
        match self {
            Self::Array => 2 << 30,
            Self::OwnPool | Self::GraphNode => 1 << 40,
        }
    }
}

/// The functions, and a pool for the path that needs one.
pub struct Taker {
    path: Further,
    functions: FurtherFunctions,
    pool: CUmemoryPool,
    device: sys::CUdevice,
}

impl Taker {
    /// Gets ready to take memory by `path`.
    pub fn new(gpu: &Gpu, path: Further) -> Result<Self> {
        let functions = as_a_program_finds_them::<FurtherFunctions>()?;
        let mut taker = Self { path, functions, pool: ptr::null_mut(), device: gpu.device.handle };
        if path == Further::OwnPool {
            let (pool, properties) = (&raw mut taker.pool, taker.pool_properties());
            // SAFETY: the pool is writable, the properties are those of memory on the device.
            check("cuMemPoolCreate", unsafe {
                (taker.functions.cuMemPoolCreate)(pool, &raw const properties)
            })?;
        }
        Ok(taker)
    }

    /// Takes `bytes`, a multiple of 2 MiB.
    pub fn take(&mut self, bytes: usize) -> Result<Taken, CudaError> {
        match self.path {
            Further::OwnPool => self.pool_memory(bytes)?,
            Further::Array => self.array(bytes)?,
            Further::GraphNode => self.graph(bytes)?,
        }
        Ok(Taken { address: 0, bytes, handle: 0 })
    }

    fn pool_properties(&self) -> sys::CUmemPoolProps {
        // SAFETY: the struct is plain C data for which zero is valid: no handle types, no security attributes.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = self.device;
        properties
    }

    fn pool_memory(&self, bytes: usize) -> Result<(), CudaError> {
        let (mut address, stream): (_, CUstream) = (0, ptr::null_mut());
        // SAFETY: `address` is writable, the pool is ours and NULL the legacy stream.
        check("cuMemAllocFromPoolAsync", unsafe {
            (self.functions.cuMemAllocFromPoolAsync)(&raw mut address, bytes, self.pool, stream)
        })
    }

    fn array(&self, bytes: usize) -> Result<(), CudaError> {
        let mut array: CUarray = ptr::null_mut();
        let shape = sys::CUDA_ARRAY_DESCRIPTOR {
            Width: ROW_ELEMENTS,
            Height: bytes / (ROW_ELEMENTS * ELEMENT_BYTES),
            Format: sys::CUarray_format::CU_AD_FORMAT_UNSIGNED_INT32,
            NumChannels: 4,
        };
        // SAFETY: `array` is writable and the shape readable.
        check("cuArrayCreate_v2", unsafe {
            (self.functions.cuArrayCreate_v2)(&raw mut array, &raw const shape)
        })
    }

    fn graph(&self, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the struct is plain C data for which zero is valid: no access of other devices.
        let mut node: sys::CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
        node.poolProps = self.pool_properties();
        node.bytesize = bytes;
        let (mut graph, mut added): (CUgraph, CUgraphNode) = (ptr::null_mut(), ptr::null_mut());
        let mut launchable: CUgraphExec = ptr::null_mut();
        let functions = &self.functions;
        // SAFETY: outputs are writable; each object is one that the call before has made; a graph that holds what it
        // allocated lives as long as the process.
        unsafe {
            check("cuGraphCreate", (functions.cuGraphCreate)(&raw mut graph, 0))?;
            let add =
                (functions.cuGraphAddMemAllocNode)(&raw mut added, graph, ptr::null(), 0, &raw mut node);
            check("cuGraphAddMemAllocNode", add)?;
            let made = (functions.cuGraphInstantiateWithFlags)(&raw mut launchable, graph, 0);
            check("cuGraphInstantiateWithFlags", made)?;
            check("cuGraphLaunch", (functions.cuGraphLaunch)(launchable, ptr::null_mut()))?;
            check("cuStreamSynchronize", (functions.cuStreamSynchronize)(ptr::null_mut()))
        }
    }
}
