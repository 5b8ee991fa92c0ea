//! The line of `/etc/ld.so.preload` that loads the library into every program of a root file system: of this machine, or of an
//! image, a chroot or a virtual machine's disk that lies below a folder.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat, unlinkat};

use super::in_root::Root;
use crate::locate::{LIBRARY, PRELOAD_LIST};

/// Where the library is put in another root file system.
const FOLDER: &str = "/usr/lib/cuota";

/// Where a file is written before it gets its name.
const DRAFT: &str = ".cuota-draft";

/// A root file system and its preload list.
pub(super) struct Preload<'a> {
    root: Root,
    path: &'a Path,
}

impl<'a> Preload<'a> {
    /// That of the root file system below `path`.
    pub(super) fn below(path: &'a Path) -> anyhow::Result<Self> {
        let root = Root::at(path).with_context(|| {
            format!("there is no root file system at {}\n  name its folder with --root", path.display())
        })?;
        Ok(Preload { root, path })
    }

    fn is_this_machine(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Where programs of that root file system find the library.
    pub(super) fn library_path(&self, library: &Path) -> PathBuf {
        if self.is_this_machine() { library.to_owned() } else { Path::new(FOLDER).join(LIBRARY) }
    }

    /// Puts the library there, unless it is this machine's, and the line; the files that were changed.
    pub(super) fn install(&self, library: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let place = self.library_path(library);
        let mut changed = Vec::new();
        if !self.is_this_machine() {
            let bytes =
                std::fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
            changed.extend(self.write(&place, &bytes, 0o755)?);
        }
        let before = self.read(Path::new(PRELOAD_LIST))?.unwrap_or_default();
        changed.extend(self.write(Path::new(PRELOAD_LIST), with_line(&before, &place).as_bytes(), 0o644)?);
        Ok(changed)
    }

    /// Takes the line out, and the library away, unless it is this machine's; what was changed.
    pub(super) fn remove(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut changed = Vec::new();
        if let Some(before) = self.read(Path::new(PRELOAD_LIST))? {
            let after = without_lines(&before);
            let list = Path::new(PRELOAD_LIST);
            // First the line: in between every program starts, with or without the library.
            if after.trim().is_empty() && after != before {
                changed.extend(self.unlink(list)?);
            } else if after != before {
                changed.extend(self.write(list, after.as_bytes(), 0o644)?);
            }
        }
        let drafts = [Path::new("/etc"), Path::new(FOLDER)].map(|folder| folder.join(DRAFT));
        self.unlink(&drafts[0])?;
        if !self.is_this_machine() {
            changed.extend(self.unlink(&Path::new(FOLDER).join(LIBRARY))?);
            self.unlink(&drafts[1])?;
            if let Ok(above) = self.folder(Path::new("/usr/lib")) {
                // With anything in it the kernel refuses.
                let _ = unlinkat(&above, "cuota", AtFlags::REMOVEDIR);
            }
        }
        Ok(changed)
    }

    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        self.root.open(path, OFlags::PATH | OFlags::DIRECTORY, 0)
    }

    fn read(&self, path: &Path) -> anyhow::Result<Option<String>> {
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::from(self.root.open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?)
                .read_to_string(&mut text)?;
            Ok(text)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other
                .map(Some)
                .with_context(|| format!("cannot read {} of {}", path.display(), self.path.display())),
        }
    }

    /// Writes a file whole, by a rename. `None`: it was so already.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<Option<PathBuf>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let write = || -> io::Result<bool> {
            let mut now = Vec::new();
            if let Ok(file) = self.root.open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
                File::from(file).read_to_end(&mut now)?;
                if now == bytes {
                    return Ok(false);
                }
            }
            let folder = self.root.make_folder(above)?;
            // Always the same, so that who comes after one that was killed takes it away.
            let _ = unlinkat(&folder, DRAFT, AtFlags::empty());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mut file = File::from(openat(&folder, DRAFT, flags, Mode::from_bits_truncate(mode))?);
            let done = file
                .write_all(bytes)
                .and_then(|()| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)))
                .and_then(|()| Ok(renameat(&folder, DRAFT, &folder, name)?));
            if done.is_err() {
                let _ = unlinkat(&folder, DRAFT, AtFlags::empty());
            }
            done.map(|()| true)
        };
        let written = write().with_context(|| {
            format!("cannot write {} of {}\n  do it as root", path.display(), self.path.display())
        })?;
        Ok(written.then(|| path.to_owned()))
    }

    fn unlink(&self, path: &Path) -> anyhow::Result<Option<PathBuf>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let unlinked = self.folder(above).and_then(|folder| {
            // On a read-only file system the kernel says so before it says that there is nothing.
            statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(unlinkat(&folder, name, AtFlags::empty())?)
        });
        match unlinked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            done => done
                .map(|()| Some(path.to_owned()))
                .with_context(|| format!("cannot remove {} of {}", path.display(), self.path.display())),
        }
    }
}

/// Whether an entry of the list is our library, wherever it lies.
fn is_ours(entry: &str) -> bool {
    entry.rsplit('/').next() == Some(LIBRARY)
}

/// The list with our line first, once.
fn with_line(list: &str, library: &Path) -> String {
    format!("{}\n{}", library.display(), without_lines(list))
}

/// The list without our library. Other entries of its line stay; comments do.
fn without_lines(list: &str) -> String {
    let separator = |c: char| c == ':' || c.is_whitespace();
    let mut kept = String::new();
    for line in list.lines() {
        let (entries, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        if !entries.split(separator).any(is_ours) {
            kept.extend([line, "\n"]);
            continue;
        }
        let others: Vec<&str> = entries.split(separator).filter(|e| !e.is_empty() && !is_ours(e)).collect();
        let rest = [others.join(" "), comment.to_owned()].join(if others.is_empty() { "" } else { " " });
        if !rest.is_empty() {
            kept.extend([rest.trim_end(), "\n"]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn line_comes_first_and_once_and_others_stay() {
        let ours = Path::new("/usr/lib/cuota/libcuota.so");
        assert_eq!(with_line("", ours), "/usr/lib/cuota/libcuota.so\n");
        assert_eq!(
            with_line("# mine\n/a.so /old/libcuota.so:/b.so # why\n", ours),
            "/usr/lib/cuota/libcuota.so\n# mine\n/a.so /b.so # why\n"
        );
        assert_eq!(without_lines("/old/libcuota.so\n/a.so\n"), "/a.so\n");
    }

    proptest! {
        #[test]
        fn line_that_was_put_in_is_taken_out_again(list in "([a-z/# :]{0,12}\n){0,4}") {
            let ours = Path::new("/l/libcuota.so");
            let with = with_line(&list, ours);
            prop_assert_eq!(with_line(&with, ours), with.clone());
            prop_assert_eq!(without_lines(&with), list);
        }
    }

    #[test]
    fn root_file_system_is_as_before_when_the_line_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, library) = (dir.path().join("root"), dir.path().join("libcuota.so"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(&library, "a library").unwrap();
        let preload = Preload::below(&root).unwrap();
        assert_eq!(preload.install(&library).unwrap().len(), 2);
        assert_eq!(preload.install(&library).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(
            fs::read_to_string(root.join("etc/ld.so.preload")).unwrap(),
            "/usr/lib/cuota/libcuota.so\n"
        );
        assert_eq!(fs::read(root.join("usr/lib/cuota/libcuota.so")).unwrap(), b"a library");
        assert_eq!(preload.remove().unwrap().len(), 2);
        assert_eq!(preload.remove().unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(root.join("etc")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.join("usr/lib")).unwrap().count(), 0);
        fs::write(root.join("etc/ld.so.preload"), "/a.so\n").unwrap();
        preload.install(&library).unwrap();
        preload.remove().unwrap();
        assert_eq!(fs::read_to_string(root.join("etc/ld.so.preload")).unwrap(), "/a.so\n");
    }
}
