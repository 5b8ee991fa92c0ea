//! Paths below the directory, built without an allocator.

use core::ffi::CStr;

use crate::header::Unusable;
use crate::name::{GpuId, TenantName};
use crate::sys::{self, Fd};

const PATH_BYTES: usize = 512;

/// A NUL-terminated path of at most 511 bytes.
#[derive(Clone, Copy)]
pub struct Path {
    bytes: [u8; PATH_BYTES],
    len: usize,
}

impl Path {
    /// Joins `parts` as they are.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`], also for a part with a NUL byte in it.
    pub fn of(parts: &[&[u8]]) -> Result<Self, Unusable> {
        let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
        for byte in parts.iter().copied().flatten() {
            // The last byte stays NUL.
            if path.len + 1 >= PATH_BYTES || *byte == 0 {
                return Err(Unusable::PathTooLong);
            }
            if let Some(to) = path.bytes.get_mut(path.len) {
                *to = *byte;
            }
            path.len += 1;
        }
        Ok(path)
    }

    /// The path for a system call.
    #[inline(never)]
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        let bytes = self.bytes.get(..=self.len).unwrap_or(b"\0");
        // SAFETY: `Path::of` puts no NUL into the first `len`, and leaves the one after them.
        unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// A number's decimal digits, with zeros in front.
#[inline(never)]
pub(crate) fn decimal(number: u64) -> [u8; 20] {
    let (mut digits, mut rest) = ([b'0'; 20], number);
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    digits
}

/// A GPU's arena: `GPU.v1` behind `before`, the GPU by the 32 hexadecimal digits of its UUID.
#[inline(never)]
pub(crate) fn arena(before: &[&[u8]; 2], gpu: GpuId) -> Result<Path, Unusable> {
    let mut digits = [0; 32];
    let [mut high, mut low] = gpu.words();
    for digit in &mut digits {
        let half = (high >> 60).to_le_bytes()[0];
        *digit = half + if half < 10 { b'0' } else { b'a' - 10 };
        (high, low) = (high << 4 | low >> 60, low << 4);
    }
    Path::of(&[before[0], before[1], &digits, b".v1"])
}

/// The directory that holds the files.
#[derive(Clone, Copy)]
pub struct Directory {
    path: Path,
    mode: u32,
}

impl Directory {
    /// The directory at `path`.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn at(path: &[u8]) -> Result<Self, Unusable> {
        Path::of(&[path]).map(|path| Directory { path, mode: 0o600 })
    }

    /// The directory at `path`, with files that every user may write: in a container, whose users are one tenant.
    #[must_use]
    pub fn of_everybody(path: Path) -> Self {
        Directory { path, mode: 0o666 }
    }

    /// Makes the directory, and that of the tenants' files in it, with all rights for everybody; what is there stays as it is.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`], and why one cannot be made.
    pub fn make(&self) -> Result<(), Unusable> {
        sys::make_directory(self.path.as_c_str(), 0o777)?;
        Ok(sys::make_directory(self.file(&[b"/tenant"])?.as_c_str(), 0o777)?)
    }

    /// Gives a file that was made here the mode that files have here, whatever the process's umask.
    ///
    /// # Errors
    /// What `fchmod(2)` returns.
    pub(crate) fn admit(&self, file: &Fd) -> sys::Result<()> {
        if self.mode == 0o600 { Ok(()) } else { sys::set_mode(file, self.mode) }
    }

    fn file(&self, parts: &[&[u8]]) -> Result<Path, Unusable> {
        let mut all: [&[u8]; 6] = [b""; 6];
        all[0] = self.path.as_bytes();
        all.iter_mut().skip(1).zip(parts).for_each(|(to, from)| *to = from);
        Path::of(&all)
    }

    /// `policy.v1`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn policy(&self) -> Result<Path, Unusable> {
        self.file(&[b"/policy.v1"])
    }

    /// `tenant/NAME.v1`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn tenant(&self, name: &TenantName) -> Result<Path, Unusable> {
        self.file(&[b"/tenant/", name.as_bytes(), b".v1"])
    }

    /// `tenant/NAME.v1.live`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn live(&self, name: &TenantName) -> Result<Path, Unusable> {
        self.file(&[b"/tenant/", name.as_bytes(), b".v1.live"])
    }

    /// `arena/GPU.v1`, the GPU by the 32 hexadecimal digits of its UUID.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn arena(&self, gpu: GpuId) -> Result<Path, Unusable> {
        arena(&[self.path.as_bytes(), b"/arena/"], gpu)
    }

    /// A name for a tenant file that is being written; `tag` tells drafts apart.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn tenant_draft(&self, name: &TenantName, tag: u64) -> Result<Path, Unusable> {
        self.file(&[b"/tenant/.", name.as_bytes(), b".", &decimal(tag)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_below_the_directory() {
        let dir = Directory::at(b"/run/cuota").unwrap();
        let name = TenantName::parse(b"a.b").unwrap();
        assert_eq!(dir.policy().unwrap().as_c_str(), c"/run/cuota/policy.v1");
        assert_eq!(dir.live(&name).unwrap().as_c_str(), c"/run/cuota/tenant/a.b.v1.live");
        let uuid = core::array::from_fn(|i| u8::try_from(16 * i).unwrap() ^ 0xa5);
        assert_eq!(
            dir.arena(GpuId::from_uuid(uuid)).unwrap().as_c_str(),
            c"/run/cuota/arena/a5b58595e5f5c5d52535051565754555.v1"
        );
        assert_eq!(
            dir.tenant_draft(&name, u64::MAX).unwrap().as_c_str(),
            c"/run/cuota/tenant/.a.b.18446744073709551615"
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error_and_not_another_path() {
        assert!(Directory::at(&[b'a'; 511]).is_ok());
        assert_eq!(Directory::at(&[b'a'; 512]).err(), Some(Unusable::PathTooLong));
        assert!(Directory::at(&[b'a'; 505]).unwrap().policy().is_err());
    }
}
