//! The driver's calls as tests make them: a console's sentences.

use crate::console::{Answer, Arg, Console};
use Arg::{At, Is, Out, Text};

/// `CUDA_ERROR_INVALID_VALUE`.
pub const INVALID_VALUE: i64 = 1;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: i64 = 2;

/// `CUDA_ERROR_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i64 = 801;

/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`, and what the pool holds.
const RELEASE_THRESHOLD: u64 = 4;
const RESERVED_MEM_CURRENT: u64 = 5;

/// How many processes NVML may list.
const LISTED: usize = 64;

/// sizeof(nvmlProcessInfo_t)
const PROCESS_INFO_BYTES: usize = 24;

/// `CUmemAllocationProp` for pinned memory of the device with this ordinal: type, handle types, location's type and
/// device, then nothing.
pub fn on_device(ordinal: u8) -> [u8; 32] {
    let mut properties = [0; 32];
    (properties[0], properties[8], properties[12]) = (1, 1, ordinal);
    properties
}

/// Pieces of memory, as NVML counts them, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NvmlMemory {
    /// The GPU's size.
    pub total: u64,
    /// What is free.
    pub free: u64,
    /// What is taken.
    pub used: u64,
}

impl Console {
    /// Initialises the driver and makes the first device's primary context current.
    #[track_caller]
    pub fn use_primary_context(&mut self) {
        let _ = self.call("cuInit", &[Is(0)]).ok();
        let context = self.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).ok().number(0);
        let _ = self.call("cuCtxSetCurrent", &[Is(context)]).ok();
    }

    /// As [`Self::use_primary_context`], of the device with this ordinal.
    #[track_caller]
    pub fn use_device(&mut self, ordinal: u64) {
        let _ = self.call("cuInit", &[Is(0)]).ok();
        let context = self.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(ordinal)]).ok().number(0);
        let _ = self.call("cuCtxSetCurrent", &[Is(context)]).ok();
    }

    /// How many devices CUDA shows.
    #[track_caller]
    pub fn devices(&mut self) -> u64 {
        let _ = self.call("cuInit", &[Is(0)]).ok();
        self.call("cuDeviceGetCount", &[Out(4)]).ok().number(0)
    }

    /// The UUID of the device, or the MIG instance, with this ordinal.
    #[track_caller]
    pub fn uuid(&mut self, ordinal: u64) -> [u8; 16] {
        let wrote = self.call("cuDeviceGetUuid_v2", &[Out(16), Is(ordinal)]).ok().wrote.remove(0);
        wrote.try_into().expect("sixteen bytes")
    }

    /// Allocates `bytes`; the address.
    ///
    /// # Errors
    /// The driver's status.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, i64> {
        address(&self.call("cuMemAlloc_v2", &[Out(8), Is(bytes)]))
    }

    /// Frees an allocation; the status.
    #[track_caller]
    pub fn free(&mut self, address: u64) -> i64 {
        self.call("cuMemFree_v2", &[Is(address)]).status
    }

    /// Allocates pieces of `bytes` until one is refused, which must be for want of memory.
    ///
    /// # Panics
    /// If it is refused for another reason, or 10,000 pieces are granted.
    #[track_caller]
    pub fn fill(&mut self, bytes: u64) -> Vec<u64> {
        let mut pieces = Vec::new();
        loop {
            match self.alloc(bytes) {
                Ok(address) => pieces.push(address),
                Err(status) => {
                    assert_eq!(status, OUT_OF_MEMORY, "after {} pieces of {bytes} bytes", pieces.len());
                    return pieces;
                }
            }
            assert!(pieces.len() < 10_000, "no end of memory");
        }
    }

    /// Allocates `bytes` in the order of stream 0; the address.
    ///
    /// # Errors
    /// The driver's status.
    pub fn alloc_async(&mut self, bytes: u64) -> Result<u64, i64> {
        address(&self.call("cuMemAllocAsync", &[Out(8), Is(bytes), Is(0)]))
    }

    /// Frees an allocation in the order of stream 0; the status.
    pub fn free_async(&mut self, address: u64) -> i64 {
        self.call("cuMemFreeAsync", &[Is(address), Is(0)]).status
    }

    /// Waits for all work of the context.
    #[track_caller]
    pub fn synchronize(&mut self) {
        let _ = self.call("cuCtxSynchronize", &[]).ok();
    }

    /// The first device's default pool.
    #[track_caller]
    pub fn default_pool(&mut self) -> u64 {
        self.call("cuDeviceGetDefaultMemPool", &[Out(8), Is(0)]).ok().number(0)
    }

    /// Lets a pool keep all that is freed.
    #[track_caller]
    pub fn keep_freed_memory(&mut self, pool: u64) {
        let most = u64::MAX.to_le_bytes();
        let _ = self.call("cuMemPoolSetAttribute", &[Is(pool), Is(RELEASE_THRESHOLD), At(&most)]).ok();
    }

    /// What a pool holds, bytes.
    #[track_caller]
    pub fn reserved(&mut self, pool: u64) -> u64 {
        let answer = self.call("cuMemPoolGetAttribute", &[Is(pool), Is(RESERVED_MEM_CURRENT), Out(8)]);
        answer.ok().number(0)
    }

    /// The free and total bytes of the GPU, as the context says.
    #[track_caller]
    pub fn memory(&mut self) -> (u64, u64) {
        let answer = self.call("cuMemGetInfo_v2", &[Out(8), Out(8)]).ok();
        (answer.number(0), answer.number(1))
    }

    /// The first device's size, bytes.
    #[track_caller]
    pub fn total(&mut self) -> u64 {
        self.call("cuDeviceTotalMem_v2", &[Out(8), Is(0)]).ok().number(0)
    }

    /// NVML's name of the device that CUDA counts first.
    #[track_caller]
    fn nvml_name(&mut self) -> String {
        uuid_text("GPU", self.uuid(0))
    }

    /// NVML's handle of a device.
    #[track_caller]
    pub fn nvml_handle(&mut self, name: &str) -> u64 {
        let _ = self.call("nvmlInit_v2", &[]).ok();
        self.call("nvmlDeviceGetHandleByUUID", &[Text(name), Out(8)]).ok().number(0)
    }

    /// NVML's handle of the device that CUDA counts first.
    #[track_caller]
    pub fn nvml_device(&mut self) -> u64 {
        let name = self.nvml_name();
        self.nvml_handle(&name)
    }

    /// What NVML says, to a process outside of any tenant, that the console's process takes of the GPU, bytes; 0 where it lists
    /// no such process.
    ///
    /// # Panics
    /// If NVML fails.
    #[track_caller]
    pub fn nvml_own(&mut self) -> u64 {
        let (me, name) = (self.ask("pid").number(0), self.nvml_name());
        let observer = self.observer();
        let mut observer = observer.console();
        let device = observer.nvml_handle(&name);
        observer
            .nvml_processes(device)
            .into_iter()
            .filter(|(pid, _)| *pid == me)
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// The processes on the GPU and what each takes of it, bytes, as NVML shows this one.
    #[track_caller]
    pub fn nvml_neighbours(&mut self) -> Vec<(u64, u64)> {
        let device = self.nvml_device();
        self.nvml_processes(device)
    }

    #[track_caller]
    fn nvml_processes(&mut self, device: u64) -> Vec<(u64, u64)> {
        let count = u32::try_from(LISTED).expect("a small number").to_le_bytes();
        let room = Out(LISTED * PROCESS_INFO_BYTES);
        let answer =
            self.call("nvmlDeviceGetComputeRunningProcesses_v3", &[Is(device), At(&count), room]).ok();
        let listed = usize::try_from(answer.number(0)).expect("a small number").min(LISTED);
        let word = |bytes: &[u8]| {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(eight)
        };
        let infos = answer.wrote[1].chunks_exact(PROCESS_INFO_BYTES).take(listed);
        infos.map(|info| (word(&info[..4]), word(&info[8..16]))).collect()
    }

    /// The GPU's memory as the first form of NVML's question answers.
    #[track_caller]
    pub fn nvml_memory(&mut self) -> NvmlMemory {
        let device = self.nvml_device();
        self.nvml_memory_of(device)
    }

    /// The same, of the device with this handle of NVML's.
    #[track_caller]
    pub fn nvml_memory_of(&mut self, device: u64) -> NvmlMemory {
        let wrote = self.call("nvmlDeviceGetMemoryInfo", &[Is(device), Out(24)]).ok();
        let words = words(&wrote.wrote[0]);
        NvmlMemory { total: words[0], free: words[1], used: words[2] }
    }

    /// The same as the second form answers.
    #[track_caller]
    pub fn nvml_memory_v2(&mut self) -> NvmlMemory {
        let device = self.nvml_device();
        let mut memory = [0; 40];
        // NVML_STRUCT_VERSION(Memory, 2): its size, and the version above.
        memory[..4].copy_from_slice(&(40_u32 | 2 << 24).to_le_bytes());
        let wrote = self.call("nvmlDeviceGetMemoryInfo_v2", &[Is(device), At(&memory)]).ok();
        let words = words(&wrote.wrote[0]);
        NvmlMemory { total: words[1], free: words[3], used: words[4] }
    }

    /// Physical memory of the first device, by handle.
    ///
    /// # Errors
    /// The driver's status.
    pub fn create(&mut self, bytes: u64) -> Result<u64, i64> {
        address(&self.call("cuMemCreate", &[Out(8), Is(bytes), At(&on_device(0)), Is(0)]))
    }

    /// Drops a handle; the status.
    pub fn release(&mut self, handle: u64) -> i64 {
        self.call("cuMemRelease", &[Is(handle)]).status
    }

    /// Reserves addresses.
    #[track_caller]
    pub fn reserve(&mut self, bytes: u64) -> u64 {
        self.call("cuMemAddressReserve", &[Out(8), Is(bytes), Is(0), Is(0), Is(0)]).ok().number(0)
    }

    /// Maps all of a handle's memory; the status.
    pub fn map(&mut self, address: u64, bytes: u64, handle: u64) -> i64 {
        self.call("cuMemMap", &[Is(address), Is(bytes), Is(0), Is(handle), Is(0)]).status
    }

    /// Ends the mappings in a range; the status.
    pub fn unmap(&mut self, address: u64, bytes: u64) -> i64 {
        self.call("cuMemUnmap", &[Is(address), Is(bytes)]).status
    }
}

/// A UUID as NVML writes it, after `GPU` or `MIG`.
pub fn uuid_text(kind: &str, uuid: [u8; 16]) -> String {
    let hex = uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{kind}-{a}-{b}-{c}-{d}-{e}")
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let eight = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
    bytes.chunks_exact(8).map(eight).collect()
}

fn address(answer: &Answer) -> Result<u64, i64> {
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}
