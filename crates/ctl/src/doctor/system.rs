//! The kernel, the C library and the dynamic linker's list of preloaded libraries.

use std::ffi::CStr;
use std::path::Path;

use serde::Serialize;

use super::protection::can_replace;
use super::report::{Check, Mark};
use crate::locate::{PRELOAD_LIST, preloaded};

const SECTION: &str = "system";

/// What was found.
#[derive(Serialize)]
pub(crate) struct System {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The C library's version.
    pub(crate) glibc: String,
    /// `libcuota.so` as `/etc/ld.so.preload` names it.
    pub(crate) preloaded: Option<String>,
    /// Whether this user can take it out of there.
    pub(crate) preload_is_ours: bool,
    /// Whether this user can put something else in the library's place.
    pub(crate) library_is_ours: bool,
}

/// `MADV_WIPEONFORK`, without which a child made by `fork` would act as its parent (madvise(2)).
const KERNEL_NEEDED: (u32, u32) = (4, 14);

/// Looks.
pub(crate) fn look() -> (System, Vec<Check>) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    // SAFETY: returns a C string in static memory.
    let glibc = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned();
    let preloaded = preloaded(&std::fs::read_to_string(PRELOAD_LIST).unwrap_or_default());
    let is_in_our_hands = |path: &Path| can_replace(path) || path.parent().is_some_and(can_replace);
    let list = Path::new(PRELOAD_LIST);
    // Where an image has a link there, or for the folder, what is mounted lies elsewhere, and the link can be removed.
    let ours = can_replace(list) || (!is_mount_point(PRELOAD_LIST) && list.parent().is_some_and(can_replace));
    let library_is_ours = preloaded.as_ref().is_some_and(|library| is_in_our_hands(Path::new(library)));
    let mut checks = vec![kernel_check(&kernel), Check::ok(SECTION, "c_library", format!("glibc {glibc}"))];
    if let Some(path) = &preloaded {
        checks.push(preload_check(path));
    }
    (System { kernel, glibc, preloaded, preload_is_ours: ours, library_is_ours }, checks)
}

/// Whether something is mounted at this very path (proc_pid_mountinfo(5)).
fn is_mount_point(path: &str) -> bool {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let target = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4) == Some(path.as_bytes());
    mounts.split(|byte| *byte == b'\n').any(target)
}

fn kernel_check(release: &str) -> Check {
    let (major, minor) = KERNEL_NEEDED;
    match version(release) {
        Some(found) if found >= KERNEL_NEEDED => Check::ok(SECTION, "kernel", format!("Linux {release}")),
        Some(_) => Check::not_ok(
            Mark::Problem,
            SECTION,
            "kernel",
            format!("Linux {release}, which lacks MADV_WIPEONFORK: programs are granted no memory"),
            format!("use Linux {major}.{minor} or newer"),
        ),
        None => Check::not_ok(
            Mark::Unknown,
            SECTION,
            "kernel",
            format!("its release, {release:?}, does not read as a version"),
            format!("make sure that it is Linux {major}.{minor} or newer"),
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn preload_check(path: &str) -> Check {
    if Path::new(path).exists() {
        return Check::ok(SECTION, "preload", format!("{PRELOAD_LIST} loads {path} into every program"));
    }
    Check::not_ok(
        Mark::Problem,
        SECTION,
        "preload",
        format!("{PRELOAD_LIST} names {path}, which does not exist: programs start without it"),
        "install the library there, or take the line out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_path_is_a_mount_point() {
        assert!(is_mount_point("/proc"));
        assert!(!is_mount_point("/proc/self"));
        assert!(!is_mount_point(""));
    }

    #[test]
    fn a_kernel_before_4_14_is_a_problem() {
        assert_eq!(kernel_check("4.13.9-generic").mark, Mark::Problem);
        assert_eq!(kernel_check("4.14.0").mark, Mark::Ok);
        assert_eq!(kernel_check("6.18.44-custom+").mark, Mark::Ok);
        assert_eq!(kernel_check("").mark, Mark::Unknown);
    }
}
