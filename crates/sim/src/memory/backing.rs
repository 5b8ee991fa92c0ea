//! Host memory behind modelled device memory: private, unreserved, touched only where data is written, so a device of
//! 80 GiB costs nothing until somebody fills it. The only unsafe code of the memory model.

use crate::error::{Answer, Fault};
use crate::units::index;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
/// The host's page.
const PAGE: u64 = 4096;

/// What the host may do with an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: an address range that only names device memory.
    None,
    /// Read and write.
    ReadWrite,
}

/// A mapped area of host addresses, unmapped when dropped.
#[derive(Debug)]
pub struct Backing {
    address: u64,
    bytes: u64,
}

impl Backing {
    /// Maps `bytes`, at a multiple of 2 MiB, as the driver's own addresses are.
    ///
    /// # Errors
    /// `OutOfMemory` where the host has no such range.
    pub fn map(bytes: u64, access: Access) -> Answer<Self> {
        let alignment = crate::units::BLOCK;
        let padded = bytes.checked_add(alignment).ok_or(Fault::OutOfMemory)?;
        let protection = match access {
            Access::None => libc::PROT_NONE,
            Access::ReadWrite => READ_WRITE,
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), index(padded), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Fault::OutOfMemory);
        }
        let start = start as u64;
        let address = start.next_multiple_of(alignment);
        unmap(start, address - start);
        unmap(address + bytes, start + padded - (address + bytes));
        // Without this the kernel would give 2 MiB for each touched byte.
        // SAFETY: advice on a mapping that this function made.
        unsafe { libc::madvise(address as *mut libc::c_void, index(bytes), libc::MADV_NOHUGEPAGE) };
        Ok(Self { address, bytes })
    }

    /// Maps the first `bytes` of `file`, shared with all that map it.
    ///
    /// # Errors
    /// `OutOfMemory` where the host has no such range.
    pub fn open(file: &File, bytes: u64) -> Answer<Self> {
        let area = Self::map(bytes, Access::None)?;
        area.overlay(file)?;
        Ok(area)
    }

    /// Moves the bytes into `file`, at the same addresses, so that others can map them. Nobody may write to them meanwhile.
    ///
    /// # Errors
    /// `OperatingSystem` where the file cannot be written; `OutOfMemory` where it cannot be mapped.
    pub fn share(&self, file: &File) -> Answer<()> {
        let mut present = vec![0_u8; index(self.bytes.div_ceil(PAGE))];
        // SAFETY: the range is a mapping of this process and `present` has a byte for each of its pages.
        let known = unsafe {
            libc::mincore(self.address as *mut libc::c_void, index(self.bytes), present.as_mut_ptr())
        };
        if known != 0 {
            return Err(Fault::OperatingSystem);
        }
        // A page that was never touched holds zeros, as the file does.
        for (page, _) in (0..).zip(&present).filter(|(_, flags)| **flags & 1 != 0) {
            // SAFETY: a page of this mapping, which is readable.
            let bytes =
                unsafe { std::slice::from_raw_parts((self.address + page * PAGE) as *const u8, index(PAGE)) };
            file.write_all_at(bytes, page * PAGE).map_err(|_| Fault::OperatingSystem)?;
        }
        self.overlay(file)
    }

    fn overlay(&self, file: &File) -> Answer<()> {
        let (at, flags) = (self.address as *mut libc::c_void, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the range is this area's own; what lay there is replaced by the same bytes.
        let mapped = unsafe { libc::mmap(at, index(self.bytes), READ_WRITE, flags, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED { Err(Fault::OutOfMemory) } else { Ok(()) }
    }

    /// The first host address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        unmap(self.address, self.bytes);
    }
}

fn unmap(address: u64, bytes: u64) {
    if bytes > 0 {
        // SAFETY: only ranges inside a mapping that `Backing::map` made come here, each once.
        unsafe { libc::munmap(address as *mut libc::c_void, index(bytes)) };
    }
}
