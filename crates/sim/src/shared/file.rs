//! The shared file of one device: mapped by each process, guarded by a robust mutex, so that a process that is killed
//! inside it leaves it usable: whatever it was about to write is its own slot, which is freed with it.

use super::events::SharedEvents;
use super::ledger::{Ledger, ProcessUse};
use super::liveness::{self, Identity};
use crate::clock::now_ns;
use crate::config::Config;
use crate::error::{Answer, Fault};
use crate::slice::{SLOTS, Turns};
use std::cell::UnsafeCell;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Changed whenever the layout below is, so that two versions never read each other.
const LAYOUT: u32 = 6;
const MAGIC: u64 = 0x6375_6f74_6173_696d;

/// What the mutex guards.
#[repr(C)]
struct Guarded {
    ledger: Ledger,
    turns: Turns,
    window_start_ns: u64,
    window_occupied_ns: u64,
    window_percent: u32,
}

#[repr(C)]
struct Layout {
    magic: AtomicU64,
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    guarded: UnsafeCell<Guarded>,
    wake: [AtomicU32; SLOTS],
    events: SharedEvents,
}

/// One device's shared state, as one process sees it.
pub struct SharedDevice {
    layout: NonNull<Layout>,
    live: File,
    folder: PathBuf,
    ordinal: u32,
    death_ns: u64,
}

// SAFETY: the mapping lives as long as the process; `guarded` is reached only with the shared mutex held, and all other
// fields are atomics.
unsafe impl Send for SharedDevice {}
// SAFETY: as above.
unsafe impl Sync for SharedDevice {}

impl SharedDevice {
    /// Opens device `ordinal` of the machine `config.folder`, made anew where nobody uses it.
    ///
    /// # Errors
    /// `OperatingSystem` where the folder or its files cannot be made or mapped; the log says which and why.
    pub fn open(config: &Config, ordinal: u32) -> Answer<Self> {
        Self::try_open(config, ordinal).map_err(|why| {
            let folder = config.folder.display();
            crate::log::line(&format!(
                "device {ordinal}: cannot use {folder}: {why}; set CUOTA_SIM_DIR to a writable folder"
            ));
            Fault::OperatingSystem
        })
    }

    fn try_open(config: &Config, ordinal: u32) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.folder)?;
        let open = |name: String| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(config.folder.join(name))
        };
        let state = open(format!("device-{ordinal}.v{LAYOUT}"))?;
        let live = open(format!("device-{ordinal}.v{LAYOUT}.live"))?;
        // `flock` only for the set-up: two first users must not both make the device.
        // SAFETY: `state` is an open descriptor.
        if unsafe { libc::flock(state.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let bytes = size_of::<Layout>();
        if state.metadata()?.len() < bytes as u64 {
            state.set_len(bytes as u64)?;
        }
        // SAFETY: a fresh shared mapping of a file that is at least `bytes` long; its result is checked.
        let address = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, state.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let layout = NonNull::new(address.cast::<Layout>()).ok_or_else(std::io::Error::last_os_error)?;
        let (folder, death_ns) = (config.folder.clone(), config.death_ns);
        let device = Self { layout, live, folder, ordinal, death_ns };
        device.prepare(config);
        // The mapping keeps the open file alive, and with it the lock, so it must be undone by hand.
        // SAFETY: `state` is an open descriptor.
        unsafe { libc::flock(state.as_raw_fd(), libc::LOCK_UN) };
        Ok(device)
    }

    /// Makes the state where the file is new; where it is not but no living process uses it, gives it the size asked for.
    fn prepare(&self, config: &Config) {
        let layout = self.layout();
        if layout.magic.load(Ordering::Acquire) == MAGIC {
            self.with(|d| d.resize_if_unused(config));
            return;
        }
        // SAFETY: the set-up lock is held and `magic` is not set, so nobody is inside the mutex or the state.
        unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_mutexattr_t>();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(layout.mutex.get(), &raw const attributes);
            // In place, as a program's stack may be small: zeros are what an empty ledger is made of.
            let guarded = layout.guarded.get();
            guarded.write_bytes(0, 1);
            (*guarded).ledger.set_memory(config.memory_of(self.ordinal));
            (&raw mut (*guarded).turns).write(Turns::default());
            (*guarded).window_start_ns = now_ns();
        }
        layout.magic.store(MAGIC, Ordering::Release);
    }

    /// Takes a slot for this process.
    ///
    /// # Errors
    /// `OutOfMemory` where all slots are taken by living processes.
    pub fn join(&self) -> Answer<usize> {
        let pid = std::process::id();
        let identity = Identity::own().unwrap_or_default();
        let slot = self.with(|d| {
            d.reap();
            d.ledger.join(pid, identity)
        });
        let slot = slot.ok_or(Fault::OutOfMemory)?;
        liveness::claim(&self.live, slot);
        Ok(slot)
    }

    /// Runs `work` on the state with the shared mutex held. Keep it short: every process of the device waits.
    pub fn with<T>(&self, work: impl FnOnce(&mut State<'_>) -> T) -> T {
        let layout = self.layout();
        // SAFETY: the mutex was made before `magic` was set, is process-shared, and outlives the mapping's users.
        unsafe {
            if libc::pthread_mutex_lock(layout.mutex.get()) == libc::EOWNERDEAD {
                // The dead owner's half-written slot is freed with it; everything else is written in one store.
                libc::pthread_mutex_consistent(layout.mutex.get());
            }
        }
        // SAFETY: the mutex is held, so this is the only reference to the guarded state.
        let guarded = unsafe { &mut *layout.guarded.get() };
        let answer =
            work(&mut State { ledger: &mut guarded.ledger, turns: &mut guarded.turns, device: self });
        // SAFETY: this thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(layout.mutex.get()) };
        answer
    }

    /// The share of the last 100 ms or more in which the GPU was occupied, in percent.
    #[must_use]
    pub fn utilization_percent(&self) -> u32 {
        let now = now_ns();
        self.with(|d| {
            d.turns.settle(now);
            let occupied = d.turns.occupied_ns(now);
            // SAFETY: `with` holds the mutex, and `State` does not reach the window's fields.
            let window = unsafe {
                let guarded = self.layout().guarded.get();
                (
                    &mut (*guarded).window_start_ns,
                    &mut (*guarded).window_occupied_ns,
                    &mut (*guarded).window_percent,
                )
            };
            let elapsed = now.saturating_sub(*window.0);
            if elapsed >= 100_000_000 {
                let share = occupied.saturating_sub(*window.1) * 100 / elapsed;
                *window.2 = u32::try_from(share.min(100)).unwrap_or(100);
                *window.0 = now;
                *window.1 = occupied;
            }
            *window.2
        })
    }

    /// The events of several processes.
    #[must_use]
    pub fn events(&self) -> &SharedEvents {
        &self.layout().events
    }

    /// A new event of `slot` for several processes; `None` where there are too many.
    #[must_use]
    pub fn add_event(&self, slot: usize) -> Option<u64> {
        self.with(|d| d.reap().device.events().add(slot))
    }

    /// An event of this process for several is destroyed.
    pub fn end_event(&self, id: u64) {
        self.with(|d| d.device.events().end(id));
    }

    /// The word on which the worker of `slot` sleeps. Read it before looking at the state, then [`Self::sleep`].
    #[must_use]
    pub fn wake_word(&self, slot: usize) -> u32 {
        self.layout().wake[slot].load(Ordering::Acquire)
    }

    /// Wakes the worker of `slot`, in whichever process it is.
    pub fn wake(&self, slot: usize) {
        let word = &self.layout().wake[slot];
        word.fetch_add(1, Ordering::Release);
        // SAFETY: `word` is a live futex word in a shared mapping.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Sleeps until [`Self::wake`] is called after `seen` was read, or until `deadline_ns` (`u64::MAX`: no deadline).
    pub fn sleep(&self, slot: usize, seen: u32, deadline_ns: u64) {
        let word = &self.layout().wake[slot];
        let seconds = i64::try_from(deadline_ns / 1_000_000_000).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(deadline_ns % 1_000_000_000).unwrap_or(0);
        let time = libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let timeout = if deadline_ns == u64::MAX { std::ptr::null() } else { &raw const time };
        // SAFETY: `word` is a live futex word in a shared mapping and `time` outlives the call. FUTEX_WAIT_BITSET takes
        // an absolute CLOCK_MONOTONIC time.
        unsafe {
            let nobody = std::ptr::null::<u32>();
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT_BITSET,
                seen,
                timeout,
                nobody,
                u32::MAX,
            )
        };
    }

    /// The machine's number of the device.
    pub(super) fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The file of a shared object.
    pub(super) fn memory_path(&self, id: u64) -> PathBuf {
        self.folder.join(format!("device-{}.v{LAYOUT}.memory-{id}", self.ordinal))
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping is never undone while the process lives.
        unsafe { self.layout.as_ref() }
    }
}

/// The guarded state, for as long as the mutex is held.
pub struct State<'a> {
    /// Who holds how much memory.
    pub ledger: &'a mut Ledger,
    /// Who has the GPU when.
    pub turns: &'a mut Turns,
    device: &'a SharedDevice,
}

impl State<'_> {
    /// Frees the slots of dead processes, with their memory and their turns.
    pub fn reap(&mut self) -> &mut Self {
        for slot in 0..SLOTS {
            self.reap_slot(slot);
        }
        self.sweep();
        self
    }

    /// Frees the shared memory that nobody holds any more.
    pub fn sweep(&mut self) {
        let device = self.device;
        let gone = self.ledger.objects.sweep(|id| device.has_descriptor(id));
        gone.into_iter().for_each(|id| device.remove_memory_file(id));
    }

    /// Passes over processes that have turns but do not look: frees the dead, and lets the stopped ask again later.
    pub fn pass_over_stale(&mut self, now_ns: u64) {
        for slot in self.turns.stale(now_ns) {
            self.reap_slot(slot);
            self.turns.release(slot, now_ns);
        }
    }

    /// The processes that hold memory, the dead removed.
    #[must_use]
    pub fn processes(&mut self) -> Vec<ProcessUse> {
        self.reap().ledger.processes()
    }

    fn reap_slot(&mut self, slot: usize) {
        let holder = self.ledger.slots[slot];
        if holder.pid == 0 || liveness::holds(&self.device.live, slot, holder.pid, holder.identity) {
            return;
        }
        let now = now_ns();
        self.turns.remove(slot, now);
        let noticed_ns = if holder.died_ns == 0 { now } else { holder.died_ns };
        self.ledger.slots[slot].died_ns = noticed_ns;
        if now >= noticed_ns.saturating_add(self.device.death_ns) {
            self.ledger.leave(slot);
            self.device.events().leave(slot);
        }
    }

    fn resize_if_unused(&mut self, config: &Config) {
        let unused = self.reap().ledger.slots.iter().all(|s| s.pid == 0);
        if unused && config.is_memory_set {
            // Memory that a descriptor holds outlives its processes.
            self.ledger.set_memory(config.memory_of(self.device.ordinal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Charge;
    use super::*;

    fn config(folder: &std::path::Path) -> Config {
        Config {
            folder: folder.to_owned(),
            memory_bytes: 1000,
            is_memory_set: true,
            devices: 1,
            mig: 0,
            context_bytes: 0,
            visible: vec![0],
            death_ns: 0,
            hesitation_ns: 0,
            is_under_mps: false,
            has_old_forms: false,
            driver_version: 13000,
        }
    }

    #[test]
    fn two_openers_share_one_ledger() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = SharedDevice::open(&config(folder.path()), 0).expect("opens");
        let slot = first.join().expect("joins");
        assert!(first.with(|d| d.ledger.take(slot, Charge::Memory, 600)));
        let second = SharedDevice::open(&config(folder.path()), 0).expect("opens");
        assert_eq!(second.with(|d| d.ledger.free_bytes()), 400);
    }

    #[test]
    fn a_killed_processs_memory_stays_taken_as_long_as_asked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let slow = Config { death_ns: u64::MAX / 2, ..config(folder.path()) };
        let device = SharedDevice::open(&slow, 0).expect("opens");
        let slot = device.join().expect("joins");
        device.with(|d| d.ledger.slots[slot].pid = u32::MAX / 2);
        assert!(device.with(|d| d.ledger.take(slot, Charge::Memory, 600)));
        assert_eq!(device.with(|d| (d.processes().len(), d.ledger.free_bytes())), (1, 400));
        let quick = SharedDevice::open(&config(folder.path()), 0).expect("opens");
        assert_eq!(quick.with(|d| (d.processes().len(), d.ledger.free_bytes())), (0, 1000));
    }

    #[test]
    fn a_killed_process_holds_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = SharedDevice::open(&config(folder.path()), 0).expect("opens");
        let slot = device.join().expect("joins");
        device.with(|d| d.ledger.slots[slot].pid = u32::MAX / 2);
        assert!(device.with(|d| d.ledger.take(slot, Charge::Memory, 600)));
        assert_eq!(device.with(|d| d.reap().ledger.free_bytes()), 1000);
    }
}
