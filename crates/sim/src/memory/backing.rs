//! Host memory behind modelled device memory: private, unreserved, touched only where data is written, so a device of
//! 80 GiB costs nothing until somebody fills it. The only unsafe code of the memory model.

use crate::error::{Answer, Fault};
use crate::units::index;

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
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
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
