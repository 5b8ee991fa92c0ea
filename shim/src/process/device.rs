//! A GPU as this process uses it: whose quota counts, and what is held on it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::CUdevice;
use cuota_governor::quota::UNLIMITED;
use cuota_region::member::Member;
use cuota_region::name::GpuId;
use cuota_region::policy::Found;
use cuota_region::tenant::GpuIndex;

use super::Process;
use super::driver;
use super::nvml::Nvml;
use super::pools::Held;
use crate::hooks_table::cuDeviceTotalMem_v2;

/// How many devices a process can use.
pub(crate) const DEVICES: usize = 16;

/// A device's state. All-zero is "never used". Threads that fill it at once write the same values.
#[repr(C)]
pub(crate) struct Device {
    /// 1 + the device's index in the tenant's books; 0: never used.
    index: AtomicU32,
    /// Its ordinal, once it has an index.
    pub(super) ordinal: AtomicU32,
    uuid: [AtomicU64; 2],
    total_bytes: AtomicU64,
    quota_bytes: AtomicU64,
    /// 1 + the policy's epoch that `quota_bytes` is of; 0: none yet.
    quota_epoch: AtomicU64,
    /// Bytes held by plain memory, pools and handles.
    pub(super) held: AtomicU64,
    /// Of `held`, bytes that NVML does not count for this process: managed memory, and what is another process's.
    pub(crate) unseen: AtomicU64,
    /// Bytes promised to device code by raised limits: the driver takes them when a kernel first needs them.
    pub(crate) promised: AtomicU64,
    /// What the overhead was without them when they were last promised.
    pub(super) promise_base: AtomicU64,
    /// Bytes that larger stacks and local memory took.
    pub(crate) raised: AtomicU64,
    /// Bytes held by contexts, modules and local memory: an estimate until NVML was asked.
    pub(super) overhead: AtomicU64,
    /// Of `overhead`, bytes that were freed in stream order, and that the driver will give back.
    pub(super) later: AtomicU64,
    /// NVML's last figure for it, where that was lower than what is booked: a lower one is believed only twice.
    pub(super) overhead_seen: AtomicU64,
    pub(super) contexts: AtomicU32,
    /// 1 while a thread makes or ends the primary context.
    pub(crate) primary_turn: AtomicU32,
    /// When NVML was last asked, ns; 0: never.
    pub(super) asked_ns: AtomicU64,
    /// Bytes that loads took since NVML was last asked because of one.
    pub(super) taken_unasked: AtomicU64,
    /// When a refusal was last written to the event log, ns.
    pub(super) refused_ns: AtomicU64,
    /// Bytes of arrays below 2 MiB, which share blocks.
    pub(crate) small_arrays: AtomicU64,
    /// What is booked for graphs that allocate.
    pub(crate) graphs: Held,
    /// Executable graphs that allocate.
    pub(crate) allocating_graphs: AtomicU32,
    pub(crate) nvml: Nvml,
}

impl Process {
    /// Whether there is more than one device to choose from, as far as any call had to know.
    pub(crate) fn has_several_devices(&self) -> bool {
        self.device_count.load(Ordering::Relaxed) > 1
    }

    /// The ordinal of the calling thread's current device. With one device in the process: no look-up.
    #[inline(always)]
    pub(crate) fn current_device(&self) -> Option<u32> {
        match self.device_count.load(Ordering::Relaxed) {
            1 => Some(0),
            0 => {
                self.device_count
                    .store(driver::device_count().filter(|count| *count != 0)?, Ordering::Relaxed);
                self.current_device()
            }
            _ => driver::current_device()?.try_into().ok(),
        }
    }
}

impl Device {
    /// The device's UUID.
    pub(crate) fn gpu(&self) -> GpuId {
        GpuId::from_words([self.uuid[0].load(Ordering::Relaxed), self.uuid[1].load(Ordering::Relaxed)])
    }

    /// Whether the process has a context here.
    pub(crate) fn has_contexts(&self) -> bool {
        self.contexts.load(Ordering::Relaxed) != 0
    }

    /// Whether any executable graph of this process allocates, or did.
    #[inline]
    pub(crate) fn uses_graph_memory(&self) -> bool {
        self.allocating_graphs.load(Ordering::Relaxed) != 0
    }

    /// The device's memory, bytes.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// The device's index in the tenant's books; found at first use.
    #[inline]
    pub(crate) fn index(&self, member: &'static Member, ordinal: u32) -> Option<GpuIndex> {
        self.known_index().or_else(|| self.find(member, ordinal))
    }

    /// The same, if it was found before.
    #[inline(always)]
    pub(crate) fn known_index(&self) -> Option<GpuIndex> {
        GpuIndex::new((self.index.load(Ordering::Acquire) as usize).wrapping_sub(1))
    }

    /// The same in the books of another `member`, whose file may number the GPUs otherwise; kept from now on.
    pub(super) fn index_anew(&self, member: &Member) -> Option<GpuIndex> {
        let known = self.known_index()?;
        let index = member.tenant().gpu_index(self.gpu()).unwrap_or(known);
        member.tenant().note_total(index, self.total_bytes());
        self.index.store(u32::try_from(index.number() + 1).ok()?, Ordering::Release);
        Some(index)
    }

    #[cold]
    fn find(&self, member: &'static Member, ordinal: u32) -> Option<GpuIndex> {
        let device = CUdevice::try_from(ordinal).ok()?;
        let gpu = GpuId::from_uuid(driver::device_uuid(device)?);
        let mut total = 0_usize;
        // SAFETY: fills one size.
        let status = unsafe { cuDeviceTotalMem_v2::REAL.get()(&raw mut total, device) };
        if status != cuota_abi::cuda::CUresult::CUDA_SUCCESS {
            return None;
        }
        let index = member.tenant().gpu_index(gpu)?;
        member.tenant().note_total(index, total as u64);
        let [high, low] = gpu.words();
        self.uuid[0].store(high, Ordering::Relaxed);
        self.uuid[1].store(low, Ordering::Relaxed);
        self.total_bytes.store(total as u64, Ordering::Relaxed);
        self.ordinal.store(ordinal, Ordering::Relaxed);
        self.index.store(u32::try_from(index.number() + 1).ok()?, Ordering::Release);
        Some(index)
    }

    /// The memory quota in force, bytes; [`UNLIMITED`] without one. One load and a compare while the policy has not
    /// changed.
    #[inline(always)]
    pub(crate) fn quota(&self, process: &Process) -> u64 {
        self.known_quota(process).unwrap_or_else(|| self.read_quota(process))
    }

    /// The same, unless it must be read again: after a change of the policy, and always where HAMi's monitor can change it.
    #[inline(always)]
    pub(super) fn known_quota(&self, process: &Process) -> Option<u64> {
        let epoch = u64::from(process.policy().epoch()) + 1;
        (self.quota_epoch.load(Ordering::Acquire) == epoch).then(|| self.quota_bytes.load(Ordering::Relaxed))
    }

    #[cold]
    fn read_quota(&self, process: &Process) -> u64 {
        let epoch = u64::from(process.policy().epoch()) + 1;
        let quota = match process.limits(self.gpu()) {
            Found::Limits(limits) => limits.memory.in_bytes(self.total_bytes()),
            // Whoever lifts a quota writes so. Where an entry is gone, what was known stays.
            Found::Nothing if self.quota_epoch.load(Ordering::Acquire) != 0 => {
                self.quota_bytes.load(Ordering::Relaxed)
            }
            Found::Nothing => UNLIMITED,
            // The last good one; before there is one, nothing is granted.
            Found::Unsettled if self.quota_epoch.load(Ordering::Acquire) == 0 => return 0,
            Found::Unsettled => return self.quota_bytes.load(Ordering::Relaxed),
        };
        if self.quota_bytes.swap(quota, Ordering::Relaxed) == UNLIMITED && quota != UNLIMITED {
            // What they took was not looked at.
            process.functions.forget();
        }
        // What HAMi's monitor writes counts at once.
        if !process.hami.is_on() {
            self.quota_epoch.store(epoch, Ordering::Release);
        }
        quota
    }

    /// What this process holds here, bytes, and what of it is overhead.
    #[inline(always)]
    pub(super) fn booked(&self) -> (u64, u64) {
        let overhead = self.overhead.load(Ordering::Relaxed);
        (self.held.load(Ordering::Relaxed) + overhead, overhead)
    }
}
