//! Whether every user can load the library: the dynamic linker starts a program that cannot, and it runs without a limit.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;

/// What group and others need on a file.
const READ: u32 = 0o044;
/// And on a folder.
const SEARCH: u32 = 0o011;

/// Refuses a library that some user could not load from its own folder, which is what containers mount.
///
/// # Errors
/// What is closed to whom, and how to open it.
pub(super) fn in_its_folder(library: &Path) -> anyhow::Result<()> {
    must_have(library, READ, "go+r")?;
    library.parent().map_or(Ok(()), |folder| must_have(folder, SEARCH, "go+x"))
}

/// As [`in_its_folder`], for programs that go by the whole path.
///
/// # Errors
/// The same, of any folder above it.
pub(super) fn by_its_path(library: &Path) -> anyhow::Result<()> {
    in_its_folder(library)?;
    library.ancestors().skip(1).try_for_each(|folder| must_have(folder, SEARCH, "go+x"))
}

fn must_have(path: &Path, bits: u32, change: &str) -> anyhow::Result<()> {
    let about = std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let mode = about.mode() & 0o7777;
    anyhow::ensure!(
        mode & bits == bits,
        "{path} has mode {mode:04o}: users who cannot read the library would run without a limit\n  open it: chmod {change} {path}, or name \
         another library with --lib",
        path = path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn library_that_some_user_cannot_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("lib");
        let library = folder.join("libcuota.so");
        fs::create_dir(&folder).unwrap();
        fs::write(&library, "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (file, its_folder, is_fine) in [
            (0o644, 0o755, true),
            (0o444, 0o711, true),
            (0o600, 0o755, false),
            (0o640, 0o755, false),
            (0o644, 0o750, false),
        ] {
            set(&library, file);
            set(&folder, its_folder);
            assert_eq!(in_its_folder(&library).is_ok(), is_fine, "{file:o} {its_folder:o}");
        }
        set(&folder, 0o755);
        set(dir.path(), 0o700);
        in_its_folder(&library).unwrap();
        let error = by_its_path(&library).unwrap_err().to_string();
        assert!(error.contains("chmod go+x") && error.contains("0700"), "{error}");
    }
}
