//! Whose mounts a folder of this machine's is among: those of a running container, whether it runs a CUDA program or not.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
struct Mount {
    /// The file system, as `major:minor`.
    device: Vec<u8>,
    /// What of it is mounted.
    root: PathBuf,
    /// Where.
    target: PathBuf,
}

/// A process that has `folder`, or something below it, mounted; `None`: no process that can be seen from here. Containers are seen
/// where their processes are, so in the node's process namespace.
///
/// # Errors
/// What cannot be read, so that nobody can tell.
pub(super) fn who_has(folder: &Path) -> anyhow::Result<Option<u32>> {
    those_who_have(folder, 1).map(|processes| processes.first().copied())
}

/// As [`who_has`]: the first of them, `most` at most.
pub(crate) fn those_who_have(folder: &Path, most: usize) -> anyhow::Result<Vec<u32>> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.with_context(|| format!("cannot look at {}", folder.display()))?,
    };
    let (device, root) = place_of(&folder, &mounts("self")?)
        .with_context(|| format!("cannot tell which file system {} lies on", folder.display()))?;
    let is_it = |mount: &Mount| mount.device == device && mount.root.starts_with(&root);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry.context("cannot read /proc")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if found.len() < most && mounts(&format!("{process}"))?.iter().any(is_it) {
            found.push(process);
        }
    }
    Ok(found)
}

/// The file system that `folder` lies on, and its path there.
fn place_of(folder: &Path, mounts: &[Mount]) -> Option<(Vec<u8>, PathBuf)> {
    // Of those at one place the last covers the others.
    let above = mounts.iter().filter(|mount| folder.starts_with(&mount.target));
    let mount = above.max_by_key(|mount| mount.target.components().count())?;
    let rest = folder.strip_prefix(&mount.target).ok()?;
    Some((mount.device.clone(), mount.root.join(rest)))
}

/// The mounts that a process sees; none where it has ended.
fn mounts(process: &str) -> anyhow::Result<Vec<Mount>> {
    let path = format!("/proc/{process}/mountinfo");
    match std::fs::read(&path) {
        Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(read_line).collect()),
        // EINVAL: it is ending, and has left its namespaces.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(|| {
            format!("cannot tell whether a container still runs: cannot read {path}\n  do it as root")
        }),
    }
}

fn read_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = fields.next()?.to_vec();
    Some(Mount { device, root: unescape(fields.next()?), target: unescape(fields.next()?) })
}

/// The kernel writes white space and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    const MOUNTS: &[u8] =
        b"21 1 0:20 / / rw - ext4 x rw\n30 21 0:25 /a\\040b /dev/shm rw shared:1 - tmpfs t rw\n\
        31 30 0:26 / /dev/shm/c rw - tmpfs t rw\n32 21 0:25 /a\\040b/v /in/container ro - tmpfs t rw\n";

    fn read() -> Vec<Mount> {
        MOUNTS.split(|byte| *byte == b'\n').filter_map(read_line).collect()
    }

    #[test]
    fn folder_is_found_by_its_file_system_and_its_path_there() {
        let mounts = read();
        assert_eq!(mounts.len(), 4);
        let place = |folder: &str| place_of(Path::new(folder), &mounts).unwrap();
        assert_eq!(place("/dev/shm/v"), (b"0:25".to_vec(), "/a b/v".into()));
        assert_eq!(place("/dev/shm/c/v"), (b"0:26".to_vec(), "/v".into()));
        assert_eq!(place("/dev/other"), (b"0:20".to_vec(), "/dev/other".into()));
        assert_eq!(mounts[3].root.as_os_str().as_bytes(), b"/a b/v");
    }

    #[test]
    fn folder_that_nobody_has_mounted_is_free() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(who_has(dir.path()).unwrap(), None);
        assert_eq!(who_has(&dir.path().join("missing")).unwrap(), None);
    }
}
