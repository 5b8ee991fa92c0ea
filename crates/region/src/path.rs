//! Paths below the directory, built without an allocator.

use core::ffi::CStr;

use crate::header::Unusable;
use crate::name::{GpuId, TenantName};
use crate::sys::{self, Errno, Fd};

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
        if path.append(parts) { Ok(path) } else { Err(Unusable::PathTooLong) }
    }

    /// Joins `parts` that are a name: far shorter than a path, and without NUL bytes.
    fn of_name(parts: &[&[u8]]) -> Self {
        let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
        path.append(parts);
        path
    }

    /// Appends `parts`, as far as there is room. `false`: there is a part with a NUL byte in it, or no room.
    #[inline(never)]
    fn append(&mut self, parts: &[&[u8]]) -> bool {
        for byte in parts.iter().copied().flatten() {
            // The last byte stays NUL.
            if self.len + 1 >= PATH_BYTES || *byte == 0 {
                return false;
            }
            if let Some(to) = self.bytes.get_mut(self.len) {
                *to = *byte;
            }
            self.len += 1;
        }
        true
    }

    /// The path for a system call.
    #[inline(never)]
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        let bytes = self.bytes.get(..=self.len).unwrap_or(b"\0");
        // SAFETY: `Path::of` puts no NUL into the first `len`, and leaves the one after them.
        unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
    }

    /// Opens what lies here, as [`sys::open`] does.
    ///
    /// # Errors
    /// What `openat(2)` returns.
    pub fn open(&self, flags: i32, mode: u32) -> sys::Result<Fd> {
        self.open_at(sys::HERE, flags, mode)
    }

    /// The same, where the path begins in the folder whose descriptor has this number.
    ///
    /// # Errors
    /// What `openat(2)` returns.
    #[inline(never)]
    pub fn open_at(&self, folder: i32, flags: i32, mode: u32) -> sys::Result<Fd> {
        sys::open_at(folder, self.as_c_str(), flags, mode)
    }

    /// Opens what lies at `parts`, joined as they are, where the path begins in the folder whose descriptor has this number.
    ///
    /// # Errors
    /// What `openat(2)` returns; `ENAMETOOLONG` also where [`Path::of`] says so.
    #[inline(never)]
    pub(crate) fn open_joined(folder: i32, parts: &[&[u8]], flags: i32) -> sys::Result<Fd> {
        match Path::of(parts) {
            Ok(path) => path.open_at(folder, flags, 0),
            Err(_) => Err(Errno(libc::ENAMETOOLONG)),
        }
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

/// A GPU's arena: `GPU.v1` behind `folder` and `before`, the GPU by the 32 hexadecimal digits of its UUID.
#[inline(never)]
pub(crate) fn arena(folder: &[u8], before: &[u8], gpu: GpuId) -> Result<Path, Unusable> {
    Path::of(&[folder, before, &gpu.digits(), b".v1"])
}

/// Opens a file of a folder for reading and writing; where there is none it is made, with this mode whatever the process's umask. A link
/// in its place leads nowhere.
///
/// # Errors
/// What `openat(2)` returns.
#[cfg_attr(loom, allow(dead_code, reason = "models have no files"))]
#[inline(never)]
pub(crate) fn open_or_make(folder: i32, path: &Path, mode: u32) -> sys::Result<Fd> {
    // First without O_CREAT: in a sticky folder the kernel refuses that for another user's file (fs.protected_regular). At last the winner's.
    for flags in [0, libc::O_CREAT | libc::O_EXCL, 0] {
        match path.open_at(folder, libc::O_RDWR | libc::O_NOFOLLOW | flags, OWN) {
            Err(Errno(libc::ENOENT | libc::EEXIST)) => {}
            Ok(file) => {
                // As it is made, or as one who was killed meanwhile has left it; but not a second name that somebody gave to a secret.
                let about = sys::file_info(&file)?;
                if about.mode & 0o777 == OWN && !about.has_other_names {
                    let _ = sys::set_mode(&file, mode);
                }
                return Ok(file);
            }
            refused => return refused,
        }
    }
    Err(Errno(libc::ENOENT))
}

/// The directory that holds the files.
#[derive(Clone, Copy)]
pub struct Directory {
    path: Path,
    mode: u32,
}

/// The mode of files that are their user's alone.
const OWN: u32 = 0o600;

/// The folder of the tenants' files.
const TENANTS: &CStr = c"tenant";

/// The policy's name in the directory.
pub const POLICY: &CStr = c"policy.v1";

/// The name there of the file that names the tenant of every process that sees it in the default directory, whatever
/// [`crate::TENANT_VARIABLE`] says: `cuota inject` puts it into a container. It holds the name and nothing else, and counts if it is the
/// operator's: [`open_operators`].
pub const ASSIGNED: &CStr = c"assigned";

/// What a tenant's file ends in, and the live file beside it.
const FILE: &[u8] = b".v1";
const LIVE_FILE: &[u8] = b".v1.live";

impl Directory {
    /// The directory at `path`.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn at(path: &[u8]) -> Result<Self, Unusable> {
        Path::of(&[path]).map(|path| Directory { path, mode: OWN })
    }

    /// The directory at `path`, with files that every user may write: in a container, whose users are one tenant.
    #[must_use]
    pub fn of_everybody(path: Path) -> Self {
        Directory { path, mode: 0o666 }
    }

    /// Makes the directory, and that of the tenants' files in it, where everybody may make files, and nobody rename or remove another
    /// user's; what is there stays as it is.
    ///
    /// # Errors
    /// Why one cannot be made.
    pub fn make(&self) -> sys::Result<()> {
        let folder = sys::make_directory(sys::HERE, self.path.as_c_str(), 0o1777)?;
        sys::make_directory(folder.number(), TENANTS, 0o1777).map(drop)
    }

    /// The mode of files that are made here.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// Opens the folder of the tenants' files. Where all users can write, a link in its place, or in the directory's, leads nowhere: what is
    /// made below it would be made where another user wants it.
    ///
    /// # Errors
    /// What `openat(2)` returns.
    #[inline(never)]
    pub(crate) fn tenants(&self) -> sys::Result<Fd> {
        let link = if self.mode == OWN { 0 } else { libc::O_NOFOLLOW };
        let flags = libc::O_PATH | libc::O_DIRECTORY | link;
        let folder = self.path.open(flags, 0)?;
        sys::open_at(folder.number(), TENANTS, flags, 0)
    }

    /// Looks for a tenant's file, or whatever is in its place.
    ///
    /// # Errors
    /// `ENOENT`: it is not there; else why it cannot be said, or used.
    #[cfg_attr(loom, allow(dead_code, reason = "models have no files"))]
    pub(crate) fn look_for(&self, name: &TenantName) -> sys::Result<()> {
        let folder = self.tenants()?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Path::open_joined(folder.number(), &[name.as_bytes(), FILE], flags).map(drop)
    }

    /// Whether it holds a policy of the operator's, which this process can read and not change: [`open_operators`].
    #[must_use]
    pub fn is_protected(&self) -> bool {
        open_operators(self.path.as_c_str(), POLICY).is_some()
    }

    /// `policy.v1`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn policy(&self) -> Result<Path, Unusable> {
        Path::of(&[self.path.as_bytes(), b"/", POLICY.to_bytes()])
    }

    /// Opens the policy for reading.
    ///
    /// # Errors
    /// What `openat(2)` returns.
    #[inline(never)]
    pub fn open_policy(&self) -> sys::Result<Fd> {
        Path::open_joined(sys::HERE, &[self.path.as_bytes(), b"/", POLICY.to_bytes()], libc::O_RDONLY)
    }

    /// `tenant/NAME.v1`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn tenant(&self, name: &TenantName) -> Result<Path, Unusable> {
        Path::of(&[self.path.as_bytes(), b"/tenant/", name.as_bytes(), FILE])
    }

    /// `tenant/NAME.v1.live`
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn live(&self, name: &TenantName) -> Result<Path, Unusable> {
        Path::of(&[self.path.as_bytes(), b"/tenant/", name.as_bytes(), LIVE_FILE])
    }

    /// `arena/GPU.v1`, the GPU by the 32 hexadecimal digits of its UUID.
    ///
    /// # Errors
    /// [`Unusable::PathTooLong`].
    pub fn arena(&self, gpu: GpuId) -> Result<Path, Unusable> {
        arena(self.path.as_bytes(), b"/arena/", gpu)
    }
}

/// Opens a file of a directory if it is the operator's: if this process cannot change it, and that because it is mounted read-only, or
/// because it and the directory are root's, whom no tenant can be. `None`: it is not, or not there.
#[inline(never)]
#[must_use]
pub fn open_operators(directory: &CStr, name: &CStr) -> Option<Fd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let folder = sys::open(directory, flags, 0).ok()?;
    let open = |flags| sys::open_at(folder.number(), name, libc::O_NOFOLLOW | flags, 0);
    let file = open(libc::O_RDONLY).ok()?;
    let is_operators = sys::is_mounted_read_only(&file)
        || open(libc::O_RDWR).is_err() && is_roots(&file) && is_roots(&folder);
    is_operators.then_some(file)
}

/// Whether a file is root's, and nobody else may write to it.
#[inline(never)]
fn is_roots(file: &Fd) -> bool {
    sys::file_info(file).is_ok_and(|about| about.owner == 0 && about.mode & 0o022 == 0)
}

/// `NAME.v1`, in the folder of the tenants' files.
pub(crate) fn tenant(name: &TenantName) -> Path {
    Path::of_name(&[name.as_bytes(), FILE])
}

/// `NAME.v1.live` there.
#[cfg_attr(loom, allow(dead_code, reason = "models have no files"))]
pub(crate) fn live(name: &TenantName) -> Path {
    Path::of_name(&[name.as_bytes(), LIVE_FILE])
}

/// A name there for a tenant file that is being written; `tag` tells drafts apart.
pub(crate) fn tenant_draft(name: &TenantName, tag: u64) -> Path {
    Path::of_name(&[b".", name.as_bytes(), b".", &decimal(tag)])
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
            [tenant(&name), live(&name), tenant_draft(&name, u64::MAX)].map(|path| path.as_bytes().to_vec()),
            [&b"a.b.v1"[..], b"a.b.v1.live", b".a.b.18446744073709551615"]
        );
    }

    #[test]
    fn file_is_the_operators_only_if_it_is_roots_or_mounted_read_only() {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let home = Path::of(&[dir.path().as_os_str().as_bytes()]).unwrap();
        let found = || open_operators(home.as_c_str(), ASSIGNED).is_some();
        let file = dir.path().join("assigned");
        assert!(!found());
        std::fs::write(&file, "t").unwrap();
        // Whoever runs this can change it: root as any other owner.
        assert!(!found());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
        assert!(!found(), "one's own, that one could change again");
        // Read-only, and not the operator's all the same: a link that somebody else has made.
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/proc/version", &file).unwrap();
        assert!(!found());
        // Root's in a folder of root's, for every other user; what a user can do is asked in containers.
        let is_root = sys::user_id() == 0;
        assert_eq!(open_operators(c"/etc", c"passwd").is_some(), !is_root);
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error_and_not_another_path() {
        assert!(Directory::at(&[b'a'; 511]).is_ok());
        assert_eq!(Directory::at(&[b'a'; 512]).err(), Some(Unusable::PathTooLong));
        assert!(Directory::at(&[b'a'; 505]).unwrap().policy().is_err());
    }
}
