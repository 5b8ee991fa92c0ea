//! The monitor's file as a process of the container uses it.
//!
//! A process's slot is the one with the number of its place in the tenant's file, so that who has the place's lock has the slot, too.
//! Every process of the container, and the monitor, can write all of the file: nothing is trusted in it but the limits, which are there
//! to be changed.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use cuota_governor::cap::Cap;
use cuota_governor::quota::UNLIMITED;

use super::DEVICES;
use super::layout::{BYTES, File, MAGIC, SLOTS, Slot, UUID_BYTES, VERSION};
use super::variables::{COMPUTE, MEMORY, Variables, When};
use crate::header::Unusable;
use crate::member::Member;
use crate::name::GpuId;
use crate::path::{self, Path};
use crate::policy::MemoryLimit;
use crate::sys::{self, Fd};
use crate::tenant::PROCESSES;

/// What `recent_kernel` is set to while work runs: the monitor counts it down every five seconds, and calls who has more than 0 active.
const ACTIVE: i32 = 2;

/// Stands in the file for a quota of nothing, where 0 is none: no memory is granted by the byte.
pub const NOTHING: u64 = 1;

/// 1 % in parts per million.
const PERCENT: u32 = 10_000;

/// Whoever runs in the container, under whatever user, shares its files.
const EVERYBODY: u32 = 0o666;

// A slot has the number of its process's place.
const _: () = assert!(SLOTS == PROCESSES);

/// The monitor's file, mapped for the rest of the process's life.
#[derive(Clone, Copy)]
pub struct Monitored(&'static File);

/// Whether there is a file, or something else, at `path`.
#[must_use]
pub fn is_there(path: &[u8]) -> bool {
    bytes_of(path, libc::O_PATH).is_some()
}

/// How long what is at `path` is; `None`: it cannot be opened so.
#[inline(never)]
fn bytes_of(path: &[u8], flags: i32) -> Option<u64> {
    let file = Path::open_joined(sys::HERE, &[path], libc::O_NOFOLLOW | flags).ok()?;
    Some(sys::file_info(&file).ok()?.bytes)
}

/// What HAMi's device plugin gives to all containers of a machine, for a lock of HAMi's own; and here for the GPUs' arenas.
const SHARED: &[u8] = b"/tmp/vgpulock";

/// A GPU's arena among containers of HAMi's: `/tmp/vgpulock/cuota-GPU.v1`.
///
/// # Errors
/// None in fact: it is short.
pub fn arena(gpu: GpuId) -> Result<Path, Unusable> {
    path::arena(SHARED, b"/cuota-", gpu)
}

/// Whether there is a file at `path` that this process can use, as far as its size shows.
#[must_use]
pub fn can_be_used(path: &[u8]) -> bool {
    bytes_of(path, libc::O_RDWR).is_some_and(|bytes| bytes >= BYTES as u64)
}

impl Monitored {
    /// Maps the file at `path`, which is made, and filled from `variables`, where it does not exist or is empty; with `unreadable` for a
    /// quota that cannot be read, as [`Self::fill`] has it.
    ///
    /// # Errors
    /// Why it cannot be used. One of another version stays as it is, and so does a longer one.
    pub fn open(path: &[u8], variables: &Variables, unreadable: u64) -> Result<Self, Unusable> {
        let fd = path::open_or_make(sys::HERE, &Path::of(&[path])?, EVERYBODY)?;
        let may_be_empty = sys::file_info(&fd)?.bytes <= BYTES as u64;
        let file = Self::map(&fd, 0)?;
        if file.0.magic.load(Ordering::Acquire) == 0 && may_be_empty {
            file.lay_out(variables, unreadable);
        }
        file.checked()
    }

    /// Maps the file at `path`, which must be there and have its content.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn look(path: &[u8]) -> Result<Self, Unusable> {
        let fd = Path::open_joined(sys::HERE, &[path], libc::O_RDWR | libc::O_NOFOLLOW)?;
        Self::map(&fd, BYTES as u64)?.checked()
    }

    /// Maps a file that is whole, or has `least` bytes.
    fn map(fd: &Fd, least: u64) -> Result<Self, Unusable> {
        let bytes = sys::file_info(fd)?.bytes;
        if bytes != least && bytes < BYTES as u64 {
            return Err(Unusable::short(bytes, BYTES as u64));
        }
        // Also of one that is there: HAMi-core makes it with holes.
        sys::take_space(fd, BYTES)?;
        // Who holds a `Monitored` keeps it in memory that a child sees zeroed.
        let file: NonNull<File> = sys::map_here_alone(fd, BYTES)?.cast();
        // SAFETY: page-aligned, as long as `File`, never unmapped while the reference is used, and atomics throughout.
        Ok(Monitored(unsafe { file.as_ref() }))
    }

    fn checked(self) -> Result<Self, Unusable> {
        let file = self.0;
        let version = (file.major.load(Ordering::Relaxed), file.minor.load(Ordering::Relaxed));
        match file.magic.load(Ordering::Acquire) {
            MAGIC if version == VERSION => Ok(self),
            MAGIC => Err(Unusable::OtherVersion(
                version.0.cast_unsigned() << 16 | version.1.cast_unsigned() & 0xffff,
            )),
            _ => Err(Unusable::NotOurs),
        }
    }

    /// Puts the limits that the variables ask for where nobody has set any; `unreadable` for a quota that cannot be read: [`NOTHING`], where
    /// they are the container's own, and 0, which sets none, where they may be one program's. Returns the kinds of limits, a bit each by a
    /// variable's number, of which the file has others, which count. Processes that do it at once write the same.
    #[must_use]
    pub fn fill(self, variables: &Variables, unreadable: u64) -> u32 {
        let mut differing = 0;
        for device in 0..DEVICES {
            let memory = match variables.memory(device) {
                MemoryLimit::Bytes(bytes) => bytes.max(unreadable),
                // A share is of a device that nobody has seen yet: it is asked for by `memory`.
                MemoryLimit::Unlimited | MemoryLimit::Share(_) => 0,
            };
            let compute = match variables.compute(device) {
                Cap::FULL => 0,
                cap => u64::from(cap.ppm().div_ceil(PERCENT)),
            };
            for (kind, limits, limit) in
                [(MEMORY, &self.0.limit, memory), (COMPUTE, &self.0.sm_limit, compute)]
            {
                let place = limits.get(device).filter(|_| limit != 0);
                let set = place.map(|place| {
                    place
                        .compare_exchange(0, limit, Ordering::Relaxed, Ordering::Relaxed)
                        .unwrap_or_else(|it| it)
                });
                differing |= u32::from(set.is_some_and(|set| set != 0 && set != limit)) << kind;
            }
        }
        differing
    }

    /// Fills a file without content. Processes that do it at once write the same; and one that comes late changes no limit that was set.
    fn lay_out(self, variables: &Variables, unreadable: u64) {
        let file = self.0;
        let _ = self.fill(variables, unreadable);
        for semaphore in [&file.semaphore, &file.other_semaphore] {
            semaphore.value.store(1, Ordering::Relaxed);
            semaphore.shared.store(128, Ordering::Relaxed);
        }
        file.utilization_switch.store(1, Ordering::Relaxed);
        file.priority.store(variables.priority(), Ordering::Relaxed);
        file.major.store(VERSION.0, Ordering::Relaxed);
        file.minor.store(VERSION.1, Ordering::Relaxed);
        file.magic.store(MAGIC, Ordering::Release);
    }

    /// The memory quota of a device now; a share that `variables` ask for is not in the file.
    #[must_use]
    pub fn memory(self, device: usize, variables: &Variables) -> MemoryLimit {
        match self.0.limit.get(device).map(|limit| limit.load(Ordering::Relaxed)) {
            None => variables.memory(device),
            // Nobody has set one: what is not in the file is asked for all the same, a share, and nothing where it cannot be read.
            Some(0) => match variables.memory(device) {
                MemoryLimit::Bytes(1..) => MemoryLimit::Unlimited,
                asked => asked,
            },
            Some(bytes) => MemoryLimit::Bytes(bytes),
        }
    }

    /// The share of a device's time now.
    #[must_use]
    pub fn compute(self, device: usize, variables: &Variables) -> Cap {
        let counts = match variables.when() {
            When::Always => true,
            When::Never => false,
            When::Switched => self.0.utilization_switch.load(Ordering::Relaxed) != 0,
        };
        let percent = self.0.sm_limit.get(device).map_or(0, |limit| limit.load(Ordering::Relaxed));
        let cap =
            u32::try_from(percent).ok().and_then(|percent| Cap::from_ppm(percent.checked_mul(PERCENT)?).ok());
        cap.filter(|_| counts).unwrap_or(Cap::FULL)
    }

    /// Sets the memory quota of a device, bytes; `None`: no quota, and none that the next process sets by its variables, as it does with
    /// 0, which is also what nobody has set.
    pub fn set_memory(self, device: usize, bytes: Option<u64>) {
        if let Some(limit) = self.0.limit.get(device) {
            limit.store(bytes.map_or(UNLIMITED, |bytes| bytes.max(NOTHING)), Ordering::Relaxed);
        }
    }

    /// Sets the share of a device's time, per cent.
    pub fn set_compute(self, device: usize, percent: u32) {
        if let Some(limit) = self.0.sm_limit.get(device) {
            limit.store(u64::from(percent), Ordering::Relaxed);
        }
    }

    /// A number that changes when a share does, or whether they count.
    #[must_use]
    pub fn shares(self) -> u64 {
        let switch = u64::from(self.0.utilization_switch.load(Ordering::Relaxed) != 0);
        self.0.sm_limit.iter().fold(switch, |sum, limit| {
            sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(limit.load(Ordering::Relaxed))
        })
    }

    /// Whether the monitor wants the container to give nothing to its devices: something more urgent runs.
    #[inline]
    #[must_use]
    pub fn is_paused(self) -> bool {
        self.0.recent_kernel.load(Ordering::Relaxed) < 0
    }

    /// Notes that work runs.
    pub fn note_work(self) {
        self.0.last_kernel_time.store(sys::wall_seconds(), Ordering::Relaxed);
        let recent = self.0.recent_kernel.load(Ordering::Relaxed);
        if recent >= 0 {
            // Unless the monitor has just written it: then in a second again.
            let _ =
                self.0.recent_kernel.compare_exchange(recent, ACTIVE, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Reads the name of a device, as NVML gives it, into `text`; all NUL: there is none.
    pub fn read_uuid(self, device: usize, text: &mut [u8; UUID_BYTES]) {
        if let Some(uuid) = self.0.uuids.get(device) {
            text.iter_mut().zip(uuid).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        }
    }

    /// Notes the name of a device.
    pub fn set_uuid(self, device: usize, text: &[u8; UUID_BYTES]) {
        if let Some(uuid) = self.0.uuids.get(device) {
            uuid.iter().zip(text).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
            self.0.devices.fetch_max(device as u64 + 1, Ordering::Relaxed);
        }
    }

    fn slot(self, member: &Member) -> &'static Slot {
        &self.0.slots[member.place() % SLOTS]
    }

    /// Moves into this process's slot, which may have been a dead one's.
    pub fn enter(self, member: &Member) {
        let slot = self.slot(member);
        // Whoever clears it after the last one will have done so: or was killed at it, and nobody waits for that one for long.
        for _ in 0..MOST_WAITS {
            if !is_being_cleared(slot) {
                break;
            }
            sys::sleep_ns(WAIT_NS);
        }
        clear(slot);
        self.stay(member);
    }

    /// Says once more that this process is there: somebody may have taken it for the one whose place it has.
    pub fn stay(self, member: &Member) {
        let slot = self.slot(member);
        slot.pid.store(sys::process_id().cast_signed(), Ordering::Relaxed);
        slot.status.store(1, Ordering::Release);
        self.show_up_to(member.place());
    }

    /// Lets the monitor look as far as a place.
    fn show_up_to(self, place: usize) {
        let end = i32::try_from(place + 1).unwrap_or(0);
        self.0.processes.fetch_max(end, Ordering::AcqRel);
    }

    /// Shows what this process has booked on a device, bytes, and what of it is overhead.
    pub fn show(self, member: &Member, device: usize, booked: u64, overhead: u64) {
        if let Some(used) = self.slot(member).used.get(device) {
            used.context.store(overhead, Ordering::Relaxed);
            used.data.store(booked.saturating_sub(overhead), Ordering::Relaxed);
            used.total.store(booked, Ordering::Relaxed);
        }
    }

    /// Shows how much of a device's time this process takes, per cent.
    pub fn show_busy(self, member: &Member, device: usize, percent: u64) {
        if let Some(busy) = self.slot(member).utilization.get(device) {
            busy.sm.store(percent, Ordering::Relaxed);
        }
    }

    /// Takes this process out of the file.
    pub fn leave(self, member: &Member) {
        clear(self.slot(member));
    }

    /// Takes dead processes out of the file.
    pub fn sweep(self, member: &Member) {
        if !member.sees_the_living() {
            return;
        }
        let end = self.0.processes.load(Ordering::Acquire);
        let in_use = usize::try_from(end).unwrap_or(0).min(SLOTS);
        let mut left = 0;
        for (place, slot) in self.0.slots.iter().take(in_use).enumerate() {
            let is_free = || place != member.place() && member.is_locked_elsewhere(place) == Ok(false);
            if slot.status.load(Ordering::Acquire) != 0 && !take_out(slot, &is_free) {
                left = place + 1;
            }
        }
        self.lower(end, left);
    }

    /// Lets the monitor look no further than the first `left` slots, where it looked as far as `end`.
    fn lower(self, end: i32, left: usize) {
        let shown = i32::try_from(left).unwrap_or(0);
        if self.0.processes.compare_exchange(end, shown, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // One who came in between was within the old bound, and raised nothing.
        for (place, slot) in self.0.slots.iter().enumerate().skip(left) {
            if slot.status.load(Ordering::Acquire) != 0 {
                self.show_up_to(place);
            }
        }
    }
}

/// How long a newcomer waits at a time for one who clears its slot, and how often: a second at most.
const WAIT_NS: u64 = 1_000_000;
const MOST_WAITS: u32 = 1000;

/// A process without an id: a dead one that somebody takes out of the file just now.
fn is_being_cleared(slot: &Slot) -> bool {
    slot.status.load(Ordering::Acquire) != 0 && slot.pid.load(Ordering::Acquire) == 0
}

/// Takes a dead process out of its slot, whose place nobody has locked as long as it `is_free`. `false`: it is not free.
///
/// Who has locked the place is seen by the second look, or comes after it: and waits, because the slot has no id until it is clear.
#[inline(never)]
fn take_out(slot: &Slot, is_free: &dyn Fn() -> bool) -> bool {
    let pid = slot.pid.load(Ordering::Acquire);
    if !is_free() || slot.pid.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        return false;
    }
    let is_free = is_free();
    if is_free {
        empty(slot);
        slot.status.store(0, Ordering::Release);
    } else {
        let _ = slot.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed);
    }
    is_free
}

fn clear(slot: &Slot) {
    slot.status.store(0, Ordering::Release);
    slot.pid.store(0, Ordering::Relaxed);
    empty(slot);
}

/// Clears all that any of us ever writes of what a process takes.
fn empty(slot: &Slot) {
    for (used, busy) in slot.used.iter().zip(&slot.utilization) {
        for field in [&used.context, &used.data, &used.total, &busy.sm] {
            field.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn variables(entries: &[&str]) -> Variables {
        let mut variables = Variables::none();
        entries.iter().for_each(|entry| variables.note(entry.as_bytes()));
        variables
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(tempfile::tempdir().unwrap())
        }

        fn file(&self) -> std::path::PathBuf {
            self.0.path().join("x.cache")
        }

        fn open(&self, entries: &[&str]) -> Result<Monitored, Unusable> {
            Monitored::open(self.file().as_os_str().as_bytes(), &variables(entries), NOTHING)
        }
    }

    #[test]
    fn a_new_file_says_what_the_variables_say() {
        let folder = Folder::new();
        let asked = [
            "CUDA_DEVICE_MEMORY_LIMIT_0=1g",
            "CUDA_DEVICE_MEMORY_LIMIT_1=rubbish",
            "CUDA_DEVICE_SM_LIMIT=30",
            "CUDA_TASK_PRIORITY=0",
        ];
        let file = folder.open(&asked).unwrap();
        let none = Variables::none();
        assert_eq!(
            [0, 1, 2].map(|device| file.memory(device, &none)),
            [MemoryLimit::Bytes(1 << 30), MemoryLimit::Bytes(NOTHING), MemoryLimit::Unlimited]
        );
        assert_eq!(file.compute(9, &none).ppm(), 300_000);
        assert_eq!(file.0.priority.load(Ordering::Relaxed), 0);
        let found = folder.file().metadata().unwrap();
        assert_eq!((found.size(), found.permissions().mode() & 0o777), (BYTES as u64, 0o666));
    }

    #[test]
    fn what_was_changed_in_the_file_counts_for_who_comes_later() {
        let folder = Folder::new();
        let first = folder.open(&["CUDA_DEVICE_MEMORY_LIMIT=1g"]).unwrap();
        first.0.limit[0].store(5 << 20, Ordering::Relaxed);
        let asked = ["CUDA_DEVICE_MEMORY_LIMIT=64g"];
        let later = folder.open(&asked).unwrap();
        assert_eq!(later.memory(0, &variables(&asked)), MemoryLimit::Bytes(5 << 20));
    }

    #[test]
    fn what_nobody_has_set_is_set_by_the_first_that_asks_for_it() {
        let folder = Folder::new();
        let file = folder.open(&["CUDA_DEVICE_MEMORY_LIMIT_1=1g"]).unwrap();
        let limits =
            |device| (file.memory(device, &Variables::none()), file.compute(device, &Variables::none()));
        assert_eq!(limits(0), (MemoryLimit::Unlimited, Cap::FULL));
        let later = variables(&["CUDA_DEVICE_MEMORY_LIMIT_0=2g", "CUDA_DEVICE_SM_LIMIT=30"]);
        assert_eq!(file.fill(&later, 0), 0);
        assert_eq!((limits(0).0, limits(0).1.ppm()), (MemoryLimit::Bytes(2 << 30), 300_000));
        assert_eq!(limits(1).0, MemoryLimit::Bytes(1 << 30));
        // What stands there counts, and whoever asks for something else is told.
        assert_eq!(
            file.fill(&variables(&["CUDA_DEVICE_MEMORY_LIMIT=2g", "CUDA_DEVICE_SM_LIMIT=30"]), 0),
            1 << MEMORY
        );
        assert_eq!(file.fill(&variables(&["CUDA_DEVICE_SM_LIMIT_7=31"]), 0), 1 << COMPUTE);
        assert_eq!(limits(1).0, MemoryLimit::Bytes(1 << 30));
    }

    #[test]
    fn quota_that_one_program_cannot_read_is_no_other_program_s() {
        let file = Folder::new().open(&["CUDA_DEVICE_SM_LIMIT=30"]).unwrap();
        let (rubbish, readable) =
            (variables(&["CUDA_DEVICE_MEMORY_LIMIT=lots"]), variables(&["CUDA_DEVICE_MEMORY_LIMIT=2g"]));
        assert_eq!(file.fill(&rubbish, 0), 0);
        assert_eq!(file.memory(0, &rubbish), MemoryLimit::Bytes(0), "nothing for itself");
        assert_eq!(file.memory(0, &Variables::none()), MemoryLimit::Unlimited);
        assert_eq!(file.fill(&readable, 0), 0);
        assert_eq!(file.memory(0, &readable), MemoryLimit::Bytes(2 << 30));
        // From now on it is the container's.
        assert_eq!(file.memory(0, &rubbish), MemoryLimit::Bytes(2 << 30));
    }

    #[test]
    fn no_file_but_one_that_has_the_size_is_laid_out() {
        let folder = Folder::new();
        std::fs::write(folder.file(), vec![0; BYTES + 1]).unwrap();
        assert_eq!(folder.open(&["CUDA_DEVICE_SM_LIMIT=30"]).err(), Some(Unusable::NotOurs));
        assert!(std::fs::read(folder.file()).unwrap().iter().all(|byte| *byte == 0));
        std::fs::write(folder.file(), vec![0; BYTES]).unwrap();
        assert!(folder.open(&["CUDA_DEVICE_SM_LIMIT=30"]).is_ok());
    }

    #[test]
    fn container_that_has_given_no_work_yet_is_not_shown_as_active() {
        let file = Folder::new().open(&["CUDA_DEVICE_SM_LIMIT=30"]).unwrap();
        assert_eq!(file.0.recent_kernel.load(Ordering::Relaxed), 0);
        file.note_work();
        assert_eq!(file.0.recent_kernel.load(Ordering::Relaxed), ACTIVE);
    }

    #[test]
    fn quota_that_was_taken_away_stays_away() {
        let asked = ["CUDA_DEVICE_MEMORY_LIMIT=1g", "CUDA_DEVICE_SM_LIMIT=30"];
        let file = Folder::new().open(&asked).unwrap();
        file.set_memory(0, None);
        file.set_compute(0, 100);
        assert_eq!(file.fill(&variables(&asked), 0), 1 << MEMORY | 1 << COMPUTE);
        assert_eq!(file.memory(0, &variables(&asked)), MemoryLimit::Bytes(UNLIMITED));
        assert_eq!(file.compute(0, &variables(&asked)), Cap::FULL);
    }

    #[test]
    fn holes_of_a_file_that_is_there_are_filled() {
        let folder = Folder::new();
        let hollow = std::fs::File::create(folder.file()).unwrap();
        hollow.set_len(BYTES as u64).unwrap();
        assert!(hollow.metadata().unwrap().blocks() == 0);
        let _ = folder.open(&[]).unwrap();
        assert!(hollow.metadata().unwrap().blocks() * 512 >= BYTES as u64);
    }

    #[test]
    fn guarantee_follows_the_share_in_the_file() {
        let asked = ["BUD_SM_LIMIT=30", "BUD_ISOLATION_MODE=balanced", "BUD_BURST_MAX_PCT=20"];
        let file = Folder::new().open(&asked).unwrap();
        let asked = variables(&asked);
        let entitled = || {
            let (cap, entitlement) = asked.entitle(file.compute(0, &asked));
            (cap.ppm(), entitlement.guarantee_ppm)
        };
        assert_eq!(entitled(), (500_000, 300_000));
        file.set_compute(0, 45);
        assert_eq!(entitled(), (650_000, 450_000));
        file.set_compute(0, 100);
        assert_eq!(entitled(), (1_000_000, 0));
    }

    #[test]
    fn shares_count_by_the_policy_and_the_switch() {
        let file = Folder::new().open(&["CUDA_DEVICE_SM_LIMIT=30"]).unwrap();
        let compute = |policy: &str| file.compute(0, &variables(&[policy])).ppm();
        let policies = ["", "GPU_CORE_UTILIZATION_POLICY=force", "GPU_CORE_UTILIZATION_POLICY=disable"];
        assert_eq!(policies.map(compute), [300_000, 300_000, 1_000_000]);
        let before = file.shares();
        file.0.utilization_switch.store(0, Ordering::Relaxed);
        assert_ne!(file.shares(), before);
        assert_eq!(policies.map(compute), [1_000_000, 300_000, 1_000_000]);
        for (percent, ppm) in
            [(0, 1_000_000), (100, 1_000_000), (101, 1_000_000), (u64::MAX, 1_000_000), (1, 10_000)]
        {
            file.0.sm_limit[0].store(percent, Ordering::Relaxed);
            assert_eq!(compute(policies[1]), ppm, "{percent}");
        }
    }

    #[test]
    fn work_is_noted_but_never_over_a_pause() {
        let file = Folder::new().open(&["CUDA_DEVICE_SM_LIMIT=30"]).unwrap();
        file.0.recent_kernel.store(0, Ordering::Relaxed);
        file.note_work();
        assert_eq!(file.0.recent_kernel.load(Ordering::Relaxed), 2);
        assert!(file.0.last_kernel_time.load(Ordering::Relaxed) > 1_700_000_000);
        assert!(!file.is_paused());
        file.0.recent_kernel.store(-1, Ordering::Relaxed);
        file.note_work();
        assert_eq!(file.0.recent_kernel.load(Ordering::Relaxed), -1);
        assert!(file.is_paused());
    }

    #[test]
    fn a_file_of_another_layout_stays_as_it_is() {
        let folder = Folder::new();
        let file = folder.open(&["CUDA_DEVICE_SM_LIMIT=30"]).unwrap();
        file.0.minor.store(3, Ordering::Relaxed);
        let before = std::fs::read(folder.file()).unwrap();
        assert_eq!(
            folder.open(&["CUDA_DEVICE_SM_LIMIT=50"]).err(),
            Some(Unusable::OtherVersion(1 << 16 | 3))
        );
        file.0.magic.store(7, Ordering::Relaxed);
        assert_eq!(folder.open(&["CUDA_DEVICE_SM_LIMIT=50"]).err(), Some(Unusable::NotOurs));
        file.0.magic.store(MAGIC, Ordering::Relaxed);
        assert_eq!(std::fs::read(folder.file()).unwrap(), before);
        std::fs::write(folder.file(), b"short").unwrap();
        let short = Unusable::short(5, BYTES as u64);
        assert_eq!(folder.open(&["CUDA_DEVICE_SM_LIMIT=50"]).err(), Some(short));
        assert_eq!(std::fs::read(folder.file()).unwrap(), b"short");
    }

    #[test]
    fn a_link_in_the_file_s_place_leads_nowhere() {
        let folder = Folder::new();
        let other = folder.0.path().join("other");
        std::fs::write(&other, b"").unwrap();
        std::os::unix::fs::symlink(&other, folder.file()).unwrap();
        assert_eq!(
            folder.open(&["CUDA_DEVICE_SM_LIMIT=50"]).err(),
            Some(Unusable::System(sys::Errno(libc::ELOOP)))
        );
        assert_eq!(other.metadata().unwrap().size(), 0);
    }

    #[test]
    fn a_maker_that_died_half_way_is_finished_by_the_next() {
        let folder = Folder::new();
        std::fs::write(folder.file(), b"").unwrap();
        assert!(folder.open(&["CUDA_DEVICE_MEMORY_LIMIT=1g"]).is_ok());
        let file = folder.open(&[]).unwrap();
        file.0.magic.store(0, Ordering::Relaxed);
        file.0.limit[0].store(0, Ordering::Relaxed);
        let next = folder.open(&["CUDA_DEVICE_MEMORY_LIMIT=2g"]).unwrap();
        assert_eq!(next.memory(0, &Variables::none()), MemoryLimit::Bytes(2 << 30));
    }

    #[test]
    fn a_process_s_slot_is_that_of_its_place() {
        let (folder, bench) = (Folder::new(), Bench::new());
        let file = folder.open(&[]).unwrap();
        let member = bench.member_at(bench.tenant(), 3);
        file.0.slots[3].used[1].total.store(77, Ordering::Relaxed);
        file.enter(member);
        file.show(member, 0, 10, 4);
        file.show(member, 99, 10, 4);
        file.show_busy(member, 0, 50);
        let slot = &file.0.slots[3];
        let used = [&slot.used[0].context, &slot.used[0].data, &slot.used[0].total, &slot.used[1].total]
            .map(|field| field.load(Ordering::Relaxed));
        assert_eq!(used, [4, 6, 10, 0]);
        assert_eq!(slot.pid.load(Ordering::Relaxed), std::process::id().cast_signed());
        assert_eq!((slot.status.load(Ordering::Relaxed), file.0.processes.load(Ordering::Relaxed)), (1, 4));
        file.leave(member);
        assert_eq!(slot.status.load(Ordering::Relaxed), 0);
        assert_eq!(slot.used[0].total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_who_comes_while_the_dead_are_taken_out_is_shown() {
        let (folder, bench) = (Folder::new(), Bench::new());
        let file = folder.open(&[]).unwrap();
        file.enter(bench.member_at(bench.tenant(), 4));
        // Somebody has looked at all five places and found one process, at the first, when another comes.
        file.enter(bench.member_at(bench.tenant(), 2));
        file.leave(bench.member_at(bench.tenant(), 4));
        file.lower(5, 1);
        assert_eq!(file.0.processes.load(Ordering::Relaxed), 3);
        file.leave(bench.member_at(bench.tenant(), 2));
        file.lower(3, 1);
        assert_eq!(file.0.processes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn newcomer_keeps_its_slot_whoever_takes_the_dead_out_of_it() {
        use std::cell::Cell;
        let (folder, bench) = (Folder::new(), Bench::new());
        let file = folder.open(&[]).unwrap();
        let member = bench.member_at(bench.tenant(), 3);
        let slot = &file.0.slots[3];
        let come = || {
            file.enter(member);
            file.show(member, 0, 9, 5);
        };
        let is_shown = || {
            let pid = slot.pid.load(Ordering::Relaxed);
            let total = slot.used[0].total.load(Ordering::Relaxed);
            (slot.status.load(Ordering::Relaxed), pid, total) == (1, std::process::id().cast_signed(), 9)
        };
        // It comes after the first look, with the id that the dead one had: in another namespace it can.
        file.enter(member);
        let looks = Cell::new(0);
        let took_out = take_out(slot, &|| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                come();
            }
            looks.get() == 1
        });
        assert!(!took_out && is_shown());
        // It comes after the second.
        std::thread::scope(|scope| {
            looks.set(0);
            let took_out = take_out(slot, &|| {
                looks.set(looks.get() + 1);
                if looks.get() == 2 {
                    let newcomer = scope.spawn(come);
                    (0..64).take_while(|_| !newcomer.is_finished()).for_each(|_| std::thread::yield_now());
                }
                true
            });
            assert!(took_out);
        });
        assert!(is_shown());
    }
}
