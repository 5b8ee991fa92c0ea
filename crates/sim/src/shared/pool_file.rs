//! What names a pool to other processes: a file descriptor of a small anonymous file. It names the pool and holds nothing
//! (assumed); who has imported the pool holds all that is in it.

use crate::error::{Answer, Fault};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x706f_6f6c_0000_0001;

/// What names a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLabel {
    /// The machine's number of its device.
    pub device: u32,
    /// The process that has it.
    pub process: u32,
    /// The pool, as the device numbers it.
    pub pool: u64,
}

impl PoolLabel {
    /// A descriptor that names the pool.
    ///
    /// # Errors
    /// `OperatingSystem` where none can be made.
    pub fn to_file(self) -> Answer<File> {
        // SAFETY: the name is a C string; the result is checked.
        let descriptor = unsafe { libc::memfd_create(c"cuota-sim-pool".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(Fault::OperatingSystem);
        }
        // SAFETY: a fresh descriptor that nobody else has.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let words = [MAGIC, u64::from(self.device), u64::from(self.process), self.pool];
        file.write_all_at(&words.map(u64::to_le_bytes).concat(), 0).map_err(|_| Fault::OperatingSystem)?;
        Ok(file)
    }

    /// The pool that a descriptor names.
    ///
    /// # Errors
    /// `InvalidValue` where it names none.
    pub fn read(file: &File) -> Answer<Self> {
        let mut bytes = [0; 32];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Fault::InvalidValue)?;
        let mut words = bytes.chunks(8).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or(0);
        if next() != MAGIC {
            return Err(Fault::InvalidValue);
        }
        let mut small = || u32::try_from(next()).map_err(|_| Fault::InvalidValue);
        let (device, process) = (small()?, small()?);
        Ok(Self { device, process, pool: next() })
    }
}
