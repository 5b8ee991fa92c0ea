//! Paths below the root of another file system, where an image may have laid links that lead out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// The kernel asks to try again where a name changes under its eyes (openat2(2), EAGAIN).
const TRIES: usize = 16;

/// A root: no path leads out of it.
pub(super) struct Root {
    folder: OwnedFd,
    resolve: ResolveFlags,
}

impl Root {
    /// The root at `path`.
    ///
    /// # Errors
    /// What `openat(2)` returns.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Root { folder, resolve: ResolveFlags::IN_ROOT })
    }

    /// The same root, in which a path with a symbolic link is refused (`ELOOP`): what is mounted where a link leads is lost to
    /// whoever removes the link.
    pub(super) fn without_links(self) -> Self {
        Root { resolve: self.resolve | ResolveFlags::NO_SYMLINKS, ..self }
    }

    /// Opens `path` as a program whose root this is would; `mode` is for a file that is made.
    ///
    /// # Errors
    /// What `openat2(2)` returns, `ENOSYS` before Linux 5.6.
    pub(super) fn open(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        // The kernel takes no mode where nothing is to be made.
        let mode =
            if flags.contains(OFlags::CREATE) { Mode::from_bits_truncate(mode) } else { Mode::empty() };
        let open = || openat2(self.folder.as_fd(), path, flags, mode, self.resolve);
        let mut opened = open();
        for _ in 0..TRIES {
            if !matches!(opened, Err(Errno::AGAIN)) {
                break;
            }
            opened = open();
        }
        Ok(opened?)
    }

    /// The folder at `path`; what is missing is made.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut so_far = PathBuf::from("/");
        let mut folder = self.open(&so_far, flags, 0)?;
        for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
            so_far.push(part);
            folder = match self.open(&so_far, flags, 0) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&folder, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                    self.open(&so_far, flags, 0)?
                }
                other => other?,
            };
        }
        Ok(folder)
    }

    /// The file at `path`, made empty where it is missing, with the folders above it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_folder(path.parent().unwrap_or(path))?;
        match self.open(path, OFlags::PATH, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(self.open(path, OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL, 0o644)?);
                self.open(path, OFlags::PATH, 0)
            }
            other => other,
        }
    }
}

/// A path of this process's own that leads to what the descriptor is open for (proc_pid_fd(5)).
pub(super) fn path_of(fd: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn link_of_an_image_does_not_lead_out_of_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../../real", root.join("up")).unwrap();
        let image = Root::at(&root).unwrap();
        let _ = image.make_file(Path::new("/absolute/ld.so.preload"));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        image.make_file(Path::new("/up/deep/file")).unwrap();
        assert!(root.join("real/deep/file").is_file());
        let image = image.without_links();
        image.make_file(Path::new("/real/deep/file")).unwrap();
        for link in ["/up/deep/file", "/absolute/file", "/up"] {
            let error = image.make_file(Path::new(link)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{link}");
        }
    }
}
