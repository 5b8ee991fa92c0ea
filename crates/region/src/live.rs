//! The live file: who lives.
//!
//! A process proves that it lives by a POSIX record lock on one byte of the file: the kernel drops the lock when the process ends,
//! however it ends, 0.2 ms after a SIGKILL.

use core::sync::atomic::{AtomicI32, Ordering};

use crate::header::Unusable;
use crate::name::TenantName;
use crate::path::{self, Directory};
use crate::sys::{self, Fd};

/// The descriptor goes above those that most programs count on, but below 64: the table of a fresh process has 64 places, and to
/// grow it in a process with several threads, which a CUDA program is, the kernel waits for an RCU grace period
/// (`expand_fdtable` in fs/file.c). That was 8.8 ms of an H100 program's start.
const HIGH_DESCRIPTOR: i32 = 50;

/// The live file: this process's descriptor, and the file's identity, since a program may close descriptors that it did
/// not open, and their numbers become other files'.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    number: i32,
    identity: (u64, u64),
}

impl Live {
    #[cfg(test)]
    pub(crate) const NONE: Live = Live { number: -1, identity: (0, 0) };

    /// Opens the live file, which is made where it does not exist.
    pub(crate) fn open(directory: &Directory, name: &TenantName) -> Result<Self, Unusable> {
        let number = descriptor(directory, name)?;
        Ok(Live { number, identity: with_file(number, sys::file_info)?.identity })
    }

    /// Whether the descriptor is still the file's.
    pub(crate) fn is_open(self) -> bool {
        with_file(self.number, sys::file_info).is_ok_and(|info| info.identity == self.identity)
    }

    /// Which file it is, as the tenant's file notes it.
    pub(crate) fn identity(self) -> u64 {
        number_of(self.identity)
    }

    /// Takes the lock of a place, without waiting. `false`: another process has it.
    pub(crate) fn try_lock(self, place: usize) -> sys::Result<bool> {
        with_file(self.number, |fd| sys::try_lock_byte(fd, place as u64))
    }

    /// Gives the lock of a place back.
    pub(crate) fn unlock(self, place: usize) {
        with_file(self.number, |fd| sys::unlock_byte(fd, place as u64));
    }

    /// Whether a process other than this one lives in a place.
    pub(crate) fn is_locked_elsewhere(self, place: usize) -> sys::Result<bool> {
        with_file(self.number, |fd| sys::byte_is_locked_elsewhere(fd, place as u64))
    }
}

/// A file's device and inode as one number.
pub(crate) fn number_of((device, inode): (u64, u64)) -> u64 {
    device.rotate_left(48) ^ inode
}

/// The number of this process's descriptor of the live file; a child made by `fork` inherits the descriptor, finds its
/// number here, plus one, and uses it, instead of opening another. 0: none yet.
static LIVE: AtomicI32 = AtomicI32::new(0);

fn descriptor(directory: &Directory, name: &TenantName) -> Result<i32, Unusable> {
    let folder = directory.tenants()?;
    let fd = path::open_or_make(folder.number(), &path::live(name), directory.mode())?;
    let known = Fd::from_owned(LIVE.load(Ordering::Relaxed) - 1);
    let same = || {
        sys::file_info(&known)
            .is_ok_and(|known| sys::file_info(&fd).is_ok_and(|found| found.identity == known.identity))
    };
    if known.number() >= 0 && same() {
        // Closing `fd` drops every lock of this process on the file: only now, before one is taken.
        return Ok(known.into_number());
    }
    let _ = known.into_number();
    let high = sys::duplicate_above(&fd, HIGH_DESCRIPTOR).ok();
    let number = high.unwrap_or(fd).into_number();
    LIVE.store(number + 1, Ordering::Relaxed);
    Ok(number)
}

/// Runs `act` with the live file's descriptor, which stays open.
fn with_file<T>(number: i32, act: impl FnOnce(&Fd) -> T) -> T {
    let fd = core::mem::ManuallyDrop::new(Fd::from_owned(number));
    act(&fd)
}
