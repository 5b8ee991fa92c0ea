//! Files of the system's that are written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Gives the file these bytes and permission bits, by a rename: who reads it sees the old one or the new one. Makes the folders above it.
/// `false`: it had them already.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    let has_mode = |about: fs::Metadata| about.is_file() && about.mode() & 0o7777 == mode;
    if fs::symlink_metadata(path).is_ok_and(has_mode) && fs::read(path).is_ok_and(|now| now == bytes) {
        return Ok(false);
    }
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        let done = file
            .write_all(bytes)
            // The umask may have taken bits away.
            .and_then(|()| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)))
            .and_then(|()| fs::rename(&draft, path));
        done.inspect_err(|_| drop(fs::remove_file(&draft)))
    };
    write()
        .map(|()| true)
        .with_context(|| format!("cannot write {}\n  do it as root, or name another place", path.display()))
}

/// Removes the file, and the folders above it in which nothing else is; `false` where there is none.
pub(super) fn remove(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => {
            done.with_context(|| format!("cannot remove {}", path.display()))?;
            remove_empty_folders(path.parent());
            Ok(true)
        }
    }
}

/// Removes a folder in which there is nothing, and those above it in which there is nothing else.
pub(super) fn remove_empty_folders(folder: Option<&Path>) {
    // With anything in it the kernel refuses, and that ends it.
    for folder in folder.into_iter().flat_map(Path::ancestors) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_write_changes_nothing_and_removal_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let path = dir.path().join("a/b/c.json");
        assert!(write(&path, b"1", 0o644).unwrap());
        let before = fs::metadata(&path).unwrap().ino();
        assert!(!write(&path, b"1", 0o644).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        assert!(write(&path, b"2", 0o644).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(!dir.path().join("a").exists());
    }
}
