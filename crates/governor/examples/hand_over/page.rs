//! The page that the tenants of the experiment share: whose turn it is, who wants one, and when a cell begins.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock;

/// The most tenants.
pub(crate) const TENANTS: usize = 8;
/// The most cells of a process.
pub(crate) const CELLS: usize = 64;
/// Where a holder stands in a turn's word: nobody.
const NOBODY: u32 = 0xff;

/// All-zero is one that nobody has used.
#[repr(C, align(4096))]
pub(crate) struct Page {
    /// Which turn of the cell it is, times 256, and whose.
    turn: AtomicU32,
    /// The turns that have ended, for streams that wait for it; written by the device.
    pub(crate) ended: AtomicU32,
    wants: [AtomicU32; TENANTS],
    /// Tenants that are ready for a cell, when it begins (ns; 0: not yet), and who has ended it.
    ready: [AtomicU32; CELLS],
    begins_ns: [AtomicU64; CELLS],
    done: [AtomicU32; CELLS],
}

/// A turn's word, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// Which turn of the cell.
    pub(crate) number: u32,
    /// Whose; `None`: whoever takes it.
    pub(crate) holder: Option<usize>,
}

impl Turn {
    fn from_word(word: u32) -> Self {
        let holder = word & 0xff;
        Self { number: word >> 8, holder: (holder != NOBODY).then_some(holder as usize) }
    }

    /// As it stands in the page.
    pub(crate) fn word(self) -> u32 {
        let holder = self.holder.and_then(|slot| u32::try_from(slot).ok()).unwrap_or(NOBODY);
        self.number << 8 | holder
    }
}

impl Page {
    /// Maps the file, which is made where there is none.
    pub(crate) fn map(path: &Path) -> &'static Self {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.set_len(size_of::<Self>() as u64).expect("room for a page");
        // SAFETY: a new mapping of a file that is as long as the page, and of nothing else.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert!(at != libc::MAP_FAILED, "the page cannot be mapped");
        // SAFETY: page-aligned, long enough, never unmapped; every field is an atomic, and zero is a value of each.
        unsafe { &*at.cast::<Self>() }
    }

    /// Waits until `tenants` are here and says when the cell begins, ns. The last one forgets the cell before.
    pub(crate) fn meet(&self, cell: usize, tenants: u32) -> u64 {
        if self.ready[cell].fetch_add(1, Ordering::AcqRel) + 1 == tenants {
            self.turn.store(Turn { number: 0, holder: None }.word(), Ordering::Release);
            self.ended.store(0, Ordering::Release);
            self.begins_ns[cell].store(clock::now_ns() + 30_000_000, Ordering::Release);
        }
        wait_for("the other tenants to begin", || self.begins_ns[cell].load(Ordering::Acquire) != 0);
        self.begins_ns[cell].load(Ordering::Acquire)
    }

    /// Waits until `tenants` have ended the cell, so that nothing of it runs while the next is prepared.
    pub(crate) fn part(&self, cell: usize, tenants: u32) {
        self.done[cell].fetch_add(1, Ordering::AcqRel);
        wait_for("the other tenants to end", || self.done[cell].load(Ordering::Acquire) == tenants);
    }

    /// Says whether `slot` wants the turn.
    pub(crate) fn want(&self, slot: usize, wants: bool) {
        self.wants[slot].store(u32::from(wants), Ordering::SeqCst);
    }

    /// Who comes after `slot`, of those who want.
    pub(crate) fn next_after(&self, slot: usize) -> Option<usize> {
        let others = (1..TENANTS).map(|step| (slot + step) % TENANTS);
        others.into_iter().find(|other| self.wants[*other].load(Ordering::SeqCst) != 0)
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> Turn {
        Turn::from_word(self.turn.load(Ordering::SeqCst))
    }

    /// Where the device writes it.
    pub(crate) fn turn_word(&self) -> &AtomicU32 {
        &self.turn
    }

    /// Changes the turn, unless somebody else has, and wakes who waits for it.
    pub(crate) fn change(&self, from: Turn, to: Turn) -> bool {
        let changed =
            self.turn.compare_exchange(from.word(), to.word(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if changed {
            // SAFETY: FUTEX_WAKE uses the address as a key only.
            unsafe { libc::syscall(libc::SYS_futex, self.turn.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
        }
        changed
    }

    /// Sleeps while the turn is as it was seen, 2 ms at most.
    pub(crate) fn sleep_while(&self, seen: Turn) {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let (address, expected) = (self.turn.as_ptr(), seen.word());
        // SAFETY: the kernel reads one word and one `timespec`.
        unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAIT, expected, &raw const time) };
    }
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let until_ns = clock::now_ns() + 40_000_000_000;
    while !is_so() {
        if clock::now_ns() > until_ns {
            println!("{{\"stuck\": \"waited 40 s for {what}\"}}");
            // SAFETY: ends the process at once, without the driver's destructors, which might wait.
            unsafe { libc::_exit(3) };
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}
