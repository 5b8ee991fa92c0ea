//! The file that HAMi's vGPUmonitor maps: HAMi-core's region, version 1.2, on 64-bit little-endian Linux.
//!
//! The monitor reads it without a lock and writes some fields, so every field that anybody reads is an atomic. What the layout is was
//! taken from the structures of HAMi-core 8f3a89c and of HAMi 4707fb0; the offsets below are what both agree on.

use core::mem::offset_of;
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64};

use super::DEVICES;

/// The first four bytes.
pub const MAGIC: i32 = 19_920_718;

/// The version of the layout below.
pub const VERSION: (i32, i32) = (1, 2);

/// How many processes have a slot.
pub const SLOTS: usize = 1024;

/// Bytes of a device's name, NUL included.
pub const UUID_BYTES: usize = 96;

/// A process's memory on one device, bytes.
#[repr(C)]
pub struct Memory {
    /// Contexts.
    pub context: AtomicU64,
    /// Modules.
    pub module: AtomicU64,
    /// Allocations.
    pub data: AtomicU64,
    /// Not used by anybody.
    pub offset: AtomicU64,
    /// All of it.
    pub total: AtomicU64,
    unused: [AtomicU64; 3],
}

/// How busy a process keeps one device, per cent.
#[repr(C)]
pub struct Utilization {
    /// The decoder.
    pub decoder: AtomicU64,
    /// The encoder.
    pub encoder: AtomicU64,
    /// The multiprocessors.
    pub sm: AtomicU64,
    unused: [AtomicU64; 3],
}

/// A process.
#[repr(C)]
pub struct Slot {
    /// Its id in the container.
    pub pid: AtomicI32,
    /// Its id on the host; 0: unknown.
    pub host_pid: AtomicI32,
    /// By device.
    pub used: [Memory; DEVICES],
    /// By device: what the monitor saw.
    pub monitor_used: [AtomicU64; DEVICES],
    /// By device.
    pub utilization: [Utilization; DEVICES],
    /// 1: a process is here. 0: none.
    pub status: AtomicI32,
    /// Even: the slot is whole. HAMi-core's processes wait for that, so it stays 0.
    pub sequence: AtomicU64,
    unused: [AtomicU64; 2],
}

/// A semaphore of glibc's, which we take no part in.
#[repr(C)]
pub struct Semaphore {
    /// Its value, and how many wait.
    pub value: AtomicU64,
    /// 128: shared between processes.
    pub shared: AtomicU32,
    unused: [AtomicU32; 5],
}

/// The file.
#[repr(C)]
pub struct File {
    /// [`MAGIC`], once all else is there.
    pub magic: AtomicI32,
    /// See [`VERSION`].
    pub major: AtomicI32,
    /// See [`VERSION`].
    pub minor: AtomicI32,
    /// Not used by anybody.
    pub sm_init: AtomicI32,
    /// Who holds `semaphore`; 0: nobody.
    pub owner_pid: AtomicU64,
    /// Guards slots in HAMi-core.
    pub semaphore: Semaphore,
    /// How many devices the container has.
    pub devices: AtomicU64,
    /// Their names, `GPU-…`, as NVML gives them, by NVML's order in the container.
    pub uuids: [[AtomicU8; UUID_BYTES]; DEVICES],
    /// By device: the memory quota, bytes; 0: none.
    pub limit: [AtomicU64; DEVICES],
    /// By device: the share of its time, per cent; 0, or 100 and more: all of it.
    pub sm_limit: [AtomicU64; DEVICES],
    /// The processes.
    pub slots: [Slot; SLOTS],
    /// One more than the highest slot in use.
    pub processes: AtomicI32,
    /// 1: the shares count, where the container's policy leaves it to the monitor.
    pub utilization_switch: AtomicI32,
    /// Counted down by the monitor: greater than 0 while the container works. Below 0: it is to pause.
    pub recent_kernel: AtomicI32,
    /// The container's priority; 0 goes before 1.
    pub priority: AtomicI32,
    /// When work was last given to a device, seconds since 1970.
    pub last_kernel_time: AtomicI64,
    /// Guards HAMi-core's search for its own id on the host.
    pub other_semaphore: Semaphore,
}

/// The length of the file, bytes.
pub const BYTES: usize = size_of::<File>();

const _: () = {
    assert!(size_of::<Memory>() == 64 && offset_of!(Memory, total) == 32);
    assert!(size_of::<Utilization>() == 48 && offset_of!(Utilization, sm) == 16);
    assert!(size_of::<Semaphore>() == 32);
    assert!(size_of::<Slot>() == 1960);
    assert!(offset_of!(Slot, pid) == 0 && offset_of!(Slot, host_pid) == 4 && offset_of!(Slot, used) == 8);
    assert!(offset_of!(Slot, monitor_used) == 1032 && offset_of!(Slot, utilization) == 1160);
    assert!(offset_of!(Slot, status) == 1928 && offset_of!(Slot, sequence) == 1936);
    assert!(offset_of!(File, magic) == 0 && offset_of!(File, major) == 4 && offset_of!(File, minor) == 8);
    assert!(offset_of!(File, sm_init) == 12 && offset_of!(File, owner_pid) == 16);
    assert!(offset_of!(File, semaphore) == 24 && offset_of!(File, devices) == 56);
    assert!(offset_of!(File, uuids) == 64 && offset_of!(File, limit) == 1600);
    assert!(offset_of!(File, sm_limit) == 1728 && offset_of!(File, slots) == 1856);
    assert!(offset_of!(File, processes) == 2_008_896 && offset_of!(File, utilization_switch) == 2_008_900);
    assert!(offset_of!(File, recent_kernel) == 2_008_904 && offset_of!(File, priority) == 2_008_908);
    assert!(offset_of!(File, last_kernel_time) == 2_008_912);
    assert!(offset_of!(File, other_semaphore) == 2_008_920 && BYTES == 2_008_952);
};
