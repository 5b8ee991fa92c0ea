//! What the probe asks NVML, in its own process: hooked where the tenant is to see its quota, unhooked for what the
//! driver really counts.

use std::ffi::CString;

use cuota_abi::nvml::*;
use cuota_region::name::GpuId;

use super::library::Library;

/// As many processes as are looked through on one GPU.
const PROCESSES: usize = 512;

/// libnvidia-ml.so.1, loaded and started.
pub(crate) struct Nvml(pub(crate) Library);

/// A GPU as NVML knows it.
pub(crate) struct Device<'a> {
    nvml: &'a Nvml,
    handle: nvmlDevice_t,
}

/// Calls `$symbol` of type `$pfn`; `None` where it is not there or fails: NVML is never needed here.
macro_rules! call {
    ($library:expr, $symbol:literal: $pfn:ty $(, $argument:expr)* $(,)?) => {{
        // SAFETY: the ledger's type for that symbol.
        let function = unsafe { $library.function::<$pfn>($symbol) };
        // SAFETY: each argument is a value, a live C string, or a pointer to a live local that NVML fills.
        let status = function.map(|function| unsafe { function($($argument),*) });
        (status == Some(nvmlReturn_t::NVML_SUCCESS)).then_some(())
    }};
}

impl Nvml {
    /// Loads and starts NVML.
    pub(crate) fn open() -> Option<Self> {
        let library = Library::open(c"libnvidia-ml.so.1").ok()?;
        call!(library, c"nvmlInit_v2": PFN_nvmlInit_v2)?;
        Some(Nvml(library))
    }

    /// The GPU, or MIG instance, with that UUID.
    pub(crate) fn device(&self, gpu: GpuId) -> Option<Device<'_>> {
        let name = gpu.to_string();
        let mig = name.replacen("GPU-", "MIG-", 1);
        [name, mig].into_iter().find_map(|name| {
            let name = CString::new(name).ok()?;
            let mut handle = std::ptr::null_mut();
            call!(
                self.0,
                c"nvmlDeviceGetHandleByUUID": PFN_nvmlDeviceGetHandleByUUID,
                name.as_ptr(),
                &raw mut handle,
            )?;
            Some(Device { nvml: self, handle })
        })
    }
}

impl Device<'_> {
    /// The memory that `nvmlDeviceGetMemoryInfo` shows, bytes.
    pub(crate) fn total_bytes(&self) -> Option<u64> {
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        call!(
            self.nvml.0,
            c"nvmlDeviceGetMemoryInfo": PFN_nvmlDeviceGetMemoryInfo,
            self.handle,
            &raw mut memory,
        )?;
        Some(memory.total)
    }

    /// The memory that `nvmlDeviceGetMemoryInfo_v2` shows, bytes.
    pub(crate) fn total_bytes_v2(&self) -> Option<u64> {
        let mut memory = nvmlMemory_v2_t { version: nvmlMemory_v2, total: 0, reserved: 0, free: 0, used: 0 };
        call!(
            self.nvml.0,
            c"nvmlDeviceGetMemoryInfo_v2": PFN_nvmlDeviceGetMemoryInfo_v2,
            self.handle,
            &raw mut memory,
        )?;
        Some(memory.total)
    }

    /// What this process takes from the GPU, as the driver counts it, bytes. `None` where NVML does not say.
    pub(crate) fn own_bytes(&self) -> Option<u64> {
        let blank = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let mut infos = vec![blank; PROCESSES];
        let mut count = u32::try_from(PROCESSES).ok()?;
        call!(
            self.nvml.0,
            c"nvmlDeviceGetComputeRunningProcesses_v3": PFN_nvmlDeviceGetComputeRunningProcesses_v3,
            self.handle,
            &raw mut count,
            infos.as_mut_ptr(),
        )?;
        infos.truncate(usize::try_from(count).ok()?);
        let own = infos.iter().find(|info| info.pid == std::process::id());
        // All ones is NVML's "not available".
        own.map(|info| info.usedGpuMemory).filter(|bytes| *bytes != u64::MAX)
    }
}
