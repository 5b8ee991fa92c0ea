//! The files behind shared memory: one for each object, with the bytes, and after them a page that says whose they are. A file
//! descriptor that a program was given carries a lock of its own, which lives until the last copy of the descriptor is closed,
//! in whichever process or socket it is.

use super::file::SharedDevice;
use crate::error::{Answer, Fault};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x6d65_6d6f_7279_0001;
const PAGE: u64 = 4096;

/// What the last page of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The machine's number of the device.
    pub device: u32,
    /// The object.
    pub id: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Label {
    /// Reads the label of a file descriptor's file.
    ///
    /// # Errors
    /// `InvalidValue` where it is no file of shared memory.
    pub fn read(file: &File) -> Answer<Self> {
        let length = file.metadata().map_err(|_| Fault::InvalidValue)?.len();
        let at = length.checked_sub(PAGE).ok_or(Fault::InvalidValue)?;
        let mut words = [0; 32];
        file.read_exact_at(&mut words, at).map_err(|_| Fault::InvalidValue)?;
        let mut words = words.chunks(8).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or(0);
        if next() != MAGIC {
            return Err(Fault::InvalidValue);
        }
        let device = u32::try_from(next()).map_err(|_| Fault::InvalidValue)?;
        let label = Self { device, id: next(), bytes: next() };
        if label.bytes == at { Ok(label) } else { Err(Fault::InvalidValue) }
    }

    fn write(&self, file: &File) -> std::io::Result<()> {
        file.set_len(self.bytes + PAGE)?;
        let words = [MAGIC, u64::from(self.device), self.id, self.bytes];
        file.write_all_at(&words.map(u64::to_le_bytes).concat(), self.bytes)
    }
}

impl SharedDevice {
    /// Makes the file of object `id`.
    ///
    /// # Errors
    /// `OperatingSystem` where it cannot be written.
    pub fn make_memory_file(&self, id: u64, bytes: u64) -> Answer<File> {
        let make = || -> std::io::Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(self.memory_path(id))?;
            Label { device: self.ordinal(), id, bytes }.write(&file)?;
            Ok(file)
        };
        make().map_err(|why| {
            crate::log::line(&format!("cannot make {}: {why}", self.memory_path(id).display()));
            Fault::OperatingSystem
        })
    }

    /// Opens the file of object `id`.
    ///
    /// # Errors
    /// `InvalidValue` where it is gone.
    pub fn open_memory_file(&self, id: u64) -> Answer<File> {
        let open = OpenOptions::new().read(true).write(true).open(self.memory_path(id));
        open.map_err(|_| Fault::InvalidValue)
    }

    /// Opens the file of object `id` for a program: while a copy of the descriptor is open, the memory lives.
    ///
    /// # Errors
    /// `InvalidValue` where it is gone; `OperatingSystem` where it cannot be locked.
    pub fn open_for_program(&self, id: u64) -> Answer<File> {
        let file = self.open_memory_file(id)?;
        let mut lock = whole(libc::F_RDLCK);
        // SAFETY: `lock` is a valid flock that outlives the call and `file` an open descriptor.
        let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } == 0;
        if locked { Ok(file) } else { Err(Fault::OperatingSystem) }
    }

    /// Whether a program has a descriptor of object `id`.
    pub(super) fn has_descriptor(&self, id: u64) -> bool {
        let Ok(file) = self.open_memory_file(id) else { return false };
        let mut lock = whole(libc::F_WRLCK);
        // SAFETY: as above.
        let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } == 0;
        asked && i32::from(lock.l_type) != libc::F_UNLCK
    }

    pub(super) fn remove_memory_file(&self, id: u64) {
        // Who has it open or mapped keeps it.
        let _ = std::fs::remove_file(self.memory_path(id));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the C constants are small; the struct's fields are 16 bits wide"
)]
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}
