//! The file as HAMi's monitor reads it: by offset, from the table that its Go structures and HAMi-core's C structures both give; none of
//! it taken from the library's own layout.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// `unsafe.Sizeof(sharedRegionT{})`: with less the monitor takes the file for one of version 0.
const BYTES: usize = 2_008_952;
const MAGIC: i32 = 19_920_718;

const OWNER_PID: usize = 16;
const DEVICES: usize = 56;
const UUIDS: usize = 64;
const UUID_BYTES: usize = 96;
const LIMIT: usize = 1600;
const SM_LIMIT: usize = 1728;
const SLOTS: usize = 1856;
const SLOT_BYTES: usize = 1960;
const SLOT_USED: usize = 8;
const SLOT_UTILIZATION: usize = 1160;
const SLOT_STATUS: usize = 1928;
const PROCESSES: usize = 2_008_896;
const SWITCH: usize = 2_008_900;
const RECENT_KERNEL: usize = 2_008_904;
const PRIORITY: usize = 2_008_908;
const LAST_KERNEL_TIME: usize = 2_008_912;

/// A process's memory on a device, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    pub(crate) context: u64,
    pub(crate) data: u64,
    pub(crate) total: u64,
}

/// A slot that is in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) pid: i32,
    /// By device.
    pub(crate) memory: Vec<Memory>,
    /// By device, per cent.
    pub(crate) sm: Vec<u64>,
}

/// The file at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub(crate) devices: u64,
    /// The names that are there.
    pub(crate) uuids: Vec<String>,
    pub(crate) limit: Vec<u64>,
    pub(crate) sm_limit: Vec<u64>,
    /// Of the slots before `processes`.
    pub(crate) slots: Vec<Slot>,
    pub(crate) processes: i32,
    pub(crate) switch: i32,
    pub(crate) recent_kernel: i32,
    pub(crate) priority: i32,
    pub(crate) last_kernel_time: i64,
}

impl View {
    /// What the monitor shows as used on a device, bytes.
    pub(crate) fn total(&self, device: usize) -> u64 {
        self.slots.iter().map(|slot| slot.memory[device].total).sum()
    }

    /// The processes' ids in the container, in order.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.slots.iter().map(|slot| slot.pid).collect()
    }
}

/// The monitor.
pub(crate) struct Monitor(PathBuf);

impl Monitor {
    pub(crate) fn of(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// The whole file, checked as the monitor checks it before it maps it.
    ///
    /// # Panics
    /// If the monitor would not take it.
    #[track_caller]
    pub(crate) fn look(&self) -> View {
        let bytes = std::fs::read(&self.0).expect("the file can be read");
        assert!(bytes.len() >= BYTES, "{} bytes", bytes.len());
        assert_eq!((i32_at(&bytes, 0), i32_at(&bytes, 4), i32_at(&bytes, 8)), (MAGIC, 1, 2));
        assert_eq!(u64_at(&bytes, OWNER_PID), 0, "nobody holds the semaphore");
        let sixteen = |at: usize| (0..16).map(|device| u64_at(&bytes, at + 8 * device)).collect();
        let processes = i32_at(&bytes, PROCESSES);
        let in_use = usize::try_from(processes.clamp(0, 1024)).expect("clamped");
        let name = |device: usize| {
            let text = &bytes[UUIDS + UUID_BYTES * device..][..UUID_BYTES];
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        };
        View {
            devices: u64_at(&bytes, DEVICES),
            uuids: (0..16).map(name).filter(|name| !name.is_empty()).collect(),
            limit: sixteen(LIMIT),
            sm_limit: sixteen(SM_LIMIT),
            slots: (0..in_use)
                .filter_map(|number| slot(&bytes[SLOTS + SLOT_BYTES * number..][..SLOT_BYTES]))
                .collect(),
            processes,
            switch: i32_at(&bytes, SWITCH),
            recent_kernel: i32_at(&bytes, RECENT_KERNEL),
            priority: i32_at(&bytes, PRIORITY),
            last_kernel_time: i64::from_le_bytes(
                bytes[LAST_KERNEL_TIME..][..8].try_into().expect("eight bytes"),
            ),
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let file: File = OpenOptions::new().write(true).open(&self.0).expect("the file is ours");
        file.write_all_at(bytes, at as u64).expect("the file is there");
    }

    pub(crate) fn set_limit(&self, device: usize, bytes: u64) {
        self.write(LIMIT + 8 * device, &bytes.to_le_bytes());
    }

    pub(crate) fn set_sm_limit(&self, device: usize, percent: u64) {
        self.write(SM_LIMIT + 8 * device, &percent.to_le_bytes());
    }

    pub(crate) fn set_switch(&self, on: i32) {
        self.write(SWITCH, &on.to_le_bytes());
    }

    pub(crate) fn set_recent_kernel(&self, value: i32) {
        self.write(RECENT_KERNEL, &value.to_le_bytes());
    }

    pub(crate) fn set_last_kernel_time(&self, seconds: i64) {
        self.write(LAST_KERNEL_TIME, &seconds.to_le_bytes());
    }

    pub(crate) fn set_minor_version(&self, minor: i32) {
        self.write(8, &minor.to_le_bytes());
    }
}

fn slot(bytes: &[u8]) -> Option<Slot> {
    let memory = |device: usize| {
        let at = SLOT_USED + 64 * device;
        Memory { context: u64_at(bytes, at), data: u64_at(bytes, at + 16), total: u64_at(bytes, at + 32) }
    };
    (i32_at(bytes, SLOT_STATUS) != 0).then(|| Slot {
        pid: i32_at(bytes, 0),
        memory: (0..16).map(memory).collect(),
        sm: (0..16).map(|device| u64_at(bytes, SLOT_UTILIZATION + 48 * device + 16)).collect(),
    })
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
