//! The calls of the CUDA driver that the probe makes.

use std::ffi::CStr;

use cuota_abi::cuda::*;

use super::library::Library;

/// libcuda.so.1, loaded.
pub(crate) struct Driver(pub(crate) Library);

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Which.
    pub(crate) call: String,
    /// Its `CUresult`; 500 (`CUDA_ERROR_NOT_FOUND`) where the driver has no such function.
    pub(crate) status: u32,
}

/// Device memory that [`Driver::free`] gives back.
pub(crate) struct Block {
    address: CUdeviceptr,
    /// Bytes asked for.
    pub(crate) bytes: u64,
}

/// Calls `$symbol` of type `$pfn`.
macro_rules! call {
    ($driver:expr, $symbol:literal: $pfn:ty, $($argument:expr),* $(,)?) => {{
        let name: &CStr = $symbol;
        let failure = |status| Failure { call: name.to_string_lossy().into_owned(), status };
        // SAFETY: the ledger's type for that symbol.
        match unsafe { $driver.0.function::<$pfn>(name) } {
            // SAFETY: each argument is a value, or a pointer to a live local that the driver reads or fills.
            Some(function) => match unsafe { function($($argument),*) } {
                CUresult::CUDA_SUCCESS => Ok(()),
                CUresult(status) => Err(failure(status)),
            },
            None => Err(failure(CUresult::CUDA_ERROR_NOT_FOUND.0)),
        }
    }};
}

impl Driver {
    /// The driver's CUDA version, 1000 × major + 10 × minor.
    pub(crate) fn version(&self) -> Result<i32, Failure> {
        let mut version = 0;
        call!(self, c"cuDriverGetVersion": PFN_cuDriverGetVersion_v2020, &raw mut version)?;
        Ok(version)
    }

    /// Starts the driver.
    pub(crate) fn init(&self) -> Result<(), Failure> {
        call!(self, c"cuInit": PFN_cuInit_v2000, 0)
    }

    /// The device with that ordinal.
    pub(crate) fn device(&self, ordinal: i32) -> Result<CUdevice, Failure> {
        let mut device = 0;
        call!(self, c"cuDeviceGet": PFN_cuDeviceGet_v2000, &raw mut device, ordinal)?;
        Ok(device)
    }

    /// The device's name.
    pub(crate) fn name(&self, device: CUdevice) -> Result<String, Failure> {
        let mut name = [0; 256];
        call!(self, c"cuDeviceGetName": PFN_cuDeviceGetName_v2000, name.as_mut_ptr(), 255, device)?;
        // SAFETY: the driver wrote a C string of at most 255 bytes into zeros.
        Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// The UUID of the device, or of the MIG instance.
    pub(crate) fn uuid(&self, device: CUdevice) -> Result<[u8; 16], Failure> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        call!(self, c"cuDeviceGetUuid_v2": PFN_cuDeviceGetUuid_v11040, &raw mut uuid, device)
            .or_else(|_| call!(self, c"cuDeviceGetUuid": PFN_cuDeviceGetUuid_v9020, &raw mut uuid, device))?;
        Ok(uuid.bytes.map(|byte| byte.to_ne_bytes()[0]))
    }

    /// The device's memory, bytes.
    pub(crate) fn total_bytes(&self, device: CUdevice) -> Result<u64, Failure> {
        let mut total = 0;
        call!(self, c"cuDeviceTotalMem_v2": PFN_cuDeviceTotalMem_v3020, &raw mut total, device)?;
        Ok(total as u64)
    }

    /// Makes the device's primary context current, for the rest of the process's life.
    pub(crate) fn retain_context(&self, device: CUdevice) -> Result<(), Failure> {
        let mut context = std::ptr::null_mut();
        call!(
            self,
            c"cuDevicePrimaryCtxRetain": PFN_cuDevicePrimaryCtxRetain_v7000,
            &raw mut context,
            device,
        )?;
        call!(self, c"cuCtxSetCurrent": PFN_cuCtxSetCurrent_v4000, context)
    }

    /// Free and total bytes.
    pub(crate) fn memory_info(&self) -> Result<(u64, u64), Failure> {
        let (mut free, mut total) = (0, 0);
        call!(self, c"cuMemGetInfo_v2": PFN_cuMemGetInfo_v3020, &raw mut free, &raw mut total)?;
        Ok((free as u64, total as u64))
    }

    /// Takes plain memory.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<Block, Failure> {
        let mut address = 0;
        call!(self, c"cuMemAlloc_v2": PFN_cuMemAlloc_v3020, &raw mut address, size(bytes))?;
        Ok(Block { address, bytes })
    }

    /// Gives memory back.
    pub(crate) fn free(&self, block: Block) -> Result<(), Failure> {
        call!(self, c"cuMemFree_v2": PFN_cuMemFree_v3020, block.address)
    }

    /// Takes managed memory.
    pub(crate) fn allocate_managed(&self, bytes: u64) -> Result<Block, Failure> {
        let mut address = 0;
        let flags = CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL.0;
        call!(
            self,
            c"cuMemAllocManaged": PFN_cuMemAllocManaged_v6000,
            &raw mut address,
            size(bytes),
            flags,
        )?;
        Ok(Block { address, bytes })
    }

    /// Takes memory in rows of 2 MiB.
    pub(crate) fn allocate_pitch(&self, bytes: u64) -> Result<Block, Failure> {
        let (mut address, mut pitch) = (0, 0);
        let width = 2 << 20;
        let height = size(bytes.div_ceil(2 << 20));
        call!(
            self,
            c"cuMemAllocPitch_v2": PFN_cuMemAllocPitch_v3020,
            &raw mut address,
            &raw mut pitch,
            width,
            height,
            4,
        )?;
        Ok(Block { address, bytes })
    }

    /// Takes memory from the device's pool, in the order of the default stream.
    pub(crate) fn allocate_async(&self, bytes: u64) -> Result<Block, Failure> {
        let mut address = 0;
        let stream = std::ptr::null_mut();
        call!(
            self,
            c"cuMemAllocAsync": PFN_cuMemAllocAsync_v11020,
            &raw mut address,
            size(bytes),
            stream,
        )?;
        Ok(Block { address, bytes })
    }

    /// Makes physical memory, and lets go of it at once.
    pub(crate) fn create(&self, device: CUdevice, bytes: u64) -> Result<(), Failure> {
        // SAFETY: a struct of integers and pointers, for which all-zero is a value: no handle type, no flags.
        let mut properties: CUmemAllocationProp = unsafe { std::mem::zeroed() };
        properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.__bindgen_anon_1.id = device;
        let mut handle = 0;
        call!(
            self,
            c"cuMemCreate": PFN_cuMemCreate_v10020,
            &raw mut handle,
            size(bytes),
            &raw const properties,
            0,
        )?;
        call!(self, c"cuMemRelease": PFN_cuMemRelease_v10020, handle)
    }
}

/// The region refuses to build where `usize` has not 64 bits.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
