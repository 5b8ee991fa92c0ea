//! The paths by which a program takes device memory. Each takes and gives back single allocations for the latency
//! metrics, and counts for the accuracy of a limit.

use std::ptr;
use std::sync::OnceLock;

use anyhow::Result;
use cudarc::driver::sys::{self, CUdeviceptr};
use serde::{Deserialize, Serialize};

use super::device::Gpu;
use super::error::{CudaError, check};
use super::functions::{Functions, as_a_program_finds_them};
use crate::units::BLOCK_BYTES;

/// The functions that take and give, as a program finds them.
static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// Finds them, so that no call that is timed has to.
pub(super) fn find_functions() -> Result<()> {
    if FUNCTIONS.get().is_none() {
        let _ = FUNCTIONS.set(as_a_program_finds_them()?); // Another thread's are the same.
    }
    Ok(())
}

#[inline(always)]
fn functions() -> &'static Functions {
    FUNCTIONS.get().expect("memory is taken after `Gpu::open`, which finds the functions")
}

/// One way to take device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// `cuMemAlloc`.
    Plain,
    /// `cuMemAllocAsync` from the device's default pool.
    Pool,
    /// `cuMemCreate` and `cuMemMap`.
    Vmm,
}

impl PathKind {
    /// All paths, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Pool, Self::Vmm];

    /// The word in series names.
    pub fn text(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Pool => "pool",
            Self::Vmm => "vmm",
        }
    }
}

/// One allocation, as its path needs it to give it back.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub(super) address: CUdeviceptr,
    pub(super) bytes: usize,
    /// The physical handle; 0 where the path has none.
    pub(super) handle: u64,
}

impl Taken {
    /// Its first address.
    pub fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// The block of 2 MiB of the address space that it begins in.
    pub fn block(&self) -> u64 {
        self.address / BLOCK_BYTES
    }
}

/// `cuMemAlloc` and `cuMemFree`.
pub struct Plain;

impl Plain {
    /// Takes `bytes`.
    #[inline(always)]
    pub fn take(&mut self, bytes: usize) -> Result<Taken, CudaError> {
        let mut address = 0;
        // SAFETY: `address` is writable; any size is a legal request.
        check("cuMemAlloc_v2", unsafe { (functions().cuMemAlloc_v2)(&raw mut address, bytes) })?;
        Ok(Taken { address, bytes, handle: 0 })
    }

    /// Gives `taken` back.
    #[inline(always)]
    pub fn give(&mut self, taken: Taken) -> Result<(), CudaError> {
        // SAFETY: `taken` came from `take` and is given back once, since it is moved here by its only holder.
        check("cuMemFree_v2", unsafe { (functions().cuMemFree_v2)(taken.address) })
    }
}

/// The device's default pool on a stream of its own.
pub struct Pool {
    stream: sys::CUstream,
    pool: sys::CUmemoryPool,
}

impl Pool {
    /// Creates the stream.
    pub fn new(gpu: &Gpu) -> Result<Self, CudaError> {
        let mut stream = ptr::null_mut();
        let mut pool = ptr::null_mut();
        // SAFETY: both are writable; a context is current since `gpu` exists; 1 is CU_STREAM_NON_BLOCKING.
        unsafe {
            check("cuStreamCreate", sys::cuStreamCreate(&raw mut stream, 1))?;
            check(
                "cuDeviceGetDefaultMemPool",
                sys::cuDeviceGetDefaultMemPool(&raw mut pool, gpu.device.handle),
            )?;
        }
        Ok(Self { stream, pool })
    }

    /// Takes `bytes` in stream order.
    #[inline(always)]
    pub fn take(&mut self, bytes: usize) -> Result<Taken, CudaError> {
        let mut address = 0;
        // SAFETY: `address` is writable and the stream lives as long as the process.
        check("cuMemAllocAsync", unsafe {
            (functions().cuMemAllocAsync)(&raw mut address, bytes, self.stream)
        })?;
        Ok(Taken { address, bytes, handle: 0 })
    }

    /// Gives `taken` back in stream order.
    #[inline(always)]
    pub fn give(&mut self, taken: Taken) -> Result<(), CudaError> {
        // SAFETY: as in `Plain::give`.
        check("cuMemFreeAsync", unsafe { (functions().cuMemFreeAsync)(taken.address, self.stream) })
    }

    /// Its stream.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits until the stream is empty: what was taken is there for other streams.
    pub fn wait(&mut self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as the process.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Waits until the stream is empty and returns what the pool holds to the device.
    pub fn settle(&mut self) -> Result<(), CudaError> {
        // SAFETY: stream and pool live as long as the process.
        unsafe {
            check("cuStreamSynchronize", sys::cuStreamSynchronize(self.stream))?;
            check("cuMemPoolTrimTo", sys::cuMemPoolTrimTo(self.pool, 0))
        }
    }
}

/// Virtual memory management: physical memory mapped into an address range that is reserved once.
pub struct Vmm {
    properties: sys::CUmemAllocationProp,
    range: CUdeviceptr,
    used_bytes: u64,
}

impl Vmm {
    /// Reserves `range_bytes` of addresses, a multiple of 2 MiB.
    pub fn new(gpu: &Gpu, range_bytes: u64) -> Result<Self, CudaError> {
        // SAFETY: the struct is plain C data for which zero is valid: no handle types, no flags.
        let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
        properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = gpu.device.handle;
        let mut range = 0;
        let bytes = usize::try_from(range_bytes - range_bytes % BLOCK_BYTES).unwrap_or(usize::MAX);
        // SAFETY: `range` is writable; the size is a multiple of the granularity, 2 MiB.
        check("cuMemAddressReserve", unsafe { sys::cuMemAddressReserve(&raw mut range, bytes, 0, 0, 0) })?;
        Ok(Self { properties, range, used_bytes: 0 })
    }

    /// What its physical memory is to be.
    pub fn properties(&self) -> &sys::CUmemAllocationProp {
        &self.properties
    }

    /// The first address of its range that nothing is mapped to.
    pub fn end(&self) -> CUdeviceptr {
        self.range + self.used_bytes
    }

    /// Lets the device read and write `taken`.
    pub fn allow_access(&mut self, taken: &Taken) -> Result<(), CudaError> {
        let access = sys::CUmemAccessDesc {
            location: self.properties.location,
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the range was mapped by `take`; one description is passed.
        check("cuMemSetAccess", unsafe {
            sys::cuMemSetAccess(taken.address, taken.bytes, &raw const access, 1)
        })
    }

    /// Creates `bytes` of physical memory and maps them at the end of what is mapped.
    #[inline(always)]
    pub fn take(&mut self, bytes: usize) -> Result<Taken, CudaError> {
        let address = self.range + self.used_bytes;
        let mut handle = 0;
        // SAFETY: `handle` is writable; the address range was reserved by `new` and is unmapped from `used_bytes` on.
        // A handle that could not be mapped is released, so nothing is left behind.
        unsafe {
            check(
                "cuMemCreate",
                (functions().cuMemCreate)(&raw mut handle, bytes, &raw const self.properties, 0),
            )?;
            if let Err(error) = check("cuMemMap", (functions().cuMemMap)(address, bytes, 0, handle, 0)) {
                check("cuMemRelease", (functions().cuMemRelease)(handle))?;
                return Err(error);
            }
        }
        self.used_bytes += bytes as u64;
        Ok(Taken { address, bytes, handle })
    }

    /// Unmaps and releases `taken`, which must be the latest one that was taken and not given back.
    #[inline(always)]
    pub fn give(&mut self, taken: Taken) -> Result<(), CudaError> {
        self.used_bytes -= taken.bytes as u64;
        // SAFETY: `taken` was mapped by `take` and is given back once.
        unsafe {
            check("cuMemUnmap", (functions().cuMemUnmap)(taken.address, taken.bytes))?;
            check("cuMemRelease", (functions().cuMemRelease)(taken.handle))
        }
    }
}
