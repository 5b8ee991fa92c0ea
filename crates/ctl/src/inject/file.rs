//! Files of the system's that are written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// What a folder that was made here has in it: with the last file of ours it goes, and another's stays, though it were empty: a runtime
/// may watch it.
const MADE_HERE: &str = ".made-by-cuota";

/// Gives the file these bytes and permission bits, by a rename: who reads it sees the old one or the new one. Makes the folders above it.
/// `false`: it had them already.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    let has_mode = |about: fs::Metadata| about.is_file() && about.mode() & 0o7777 == mode;
    if fs::symlink_metadata(path).is_ok_and(has_mode) && fs::read(path).is_ok_and(|now| now == bytes) {
        return Ok(false);
    }
    let write = || -> io::Result<()> {
        make_folders(path.parent())?;
        let draft = draft_of(path);
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

/// Where a file is written before it gets its name. Always the same, so that who comes after one that was killed takes it away.
fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("draft")
}

fn make_folders(folder: Option<&Path>) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.into_iter().flat_map(Path::ancestors).take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir(folder)?;
        fs::write(folder.join(MADE_HERE), "")?;
    }
    Ok(())
}

/// Removes the file, and the folders above it that were made here and in which nothing else is; `false` where there is none.
pub(super) fn remove(path: &Path) -> anyhow::Result<bool> {
    let _ = fs::remove_file(draft_of(path));
    let was_there = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        done => done.map(|()| true).with_context(|| format!("cannot remove {}", path.display()))?,
    };
    for folder in path.parent().into_iter().flat_map(Path::ancestors) {
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.collect::<Vec<_>>() != [MADE_HERE] {
            break;
        }
        let gone = fs::remove_file(folder.join(MADE_HERE)).and_then(|()| fs::remove_dir(folder));
        gone.with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(was_there)
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
        let other = dir.path().join("a/b/other.json");
        assert!(write(&other, b"1", 0o644).unwrap() && remove(&other).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 2);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn folder_that_was_there_stays_though_it_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("theirs")).unwrap();
        let path = dir.path().join("theirs/c.json");
        assert!(write(&path, b"1", 0o644).unwrap() && remove(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("theirs")).unwrap().count(), 0);
    }

    #[test]
    fn draft_of_one_that_was_killed_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        for act in [|path: &Path| write(path, b"1", 0o644), remove] {
            fs::write(draft_of(&path), "half").unwrap();
            assert!(act(&path).unwrap());
            assert!(!draft_of(&path).exists());
        }
    }
}
