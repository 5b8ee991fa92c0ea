//! Is a process that holds a slot still there? Two witnesses, and one is enough: the record lock on its slot's byte (seen
//! across PID namespaces, but lost when the process closes the descriptor), or its pid with the same start time and the same
//! stack: a process that executed another program has given its memory back, as the driver's closed files do.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// What tells a process from a later one with its pid, and a program from one that it executed in its place.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// When the process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    start_time: u64,
    /// Where its stack begins, field 28: another address after each `execve`. 0 where the kernel does not tell.
    stack: u64,
    /// The PID namespace in which it is asked for, by inode number; 0 where the kernel does not tell.
    namespace: u64,
}

/// The inode number of the PID namespace that a machine begins with (PROC_PID_INIT_INO in include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// This process's PID namespace, by inode number; 0 where the kernel does not tell.
fn own_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    static OWN: OnceLock<u64> = OnceLock::new();
    *OWN.get_or_init(|| std::fs::metadata("/proc/self/ns/pid").map_or(0, |about| about.ino()))
}

impl Identity {
    /// Whether NVML lists the process in this one: as on an H100, those of its own PID namespace, and in the machine's first one all.
    pub(super) fn is_seen_here(self) -> bool {
        let here = own_namespace();
        self.namespace == here || here == FIRST_NAMESPACE || here == 0 || self.namespace == 0
    }

    /// That of `pid`; `None` if there is no such process.
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in brackets and may hold spaces, so count from its last bracket.
        let after_name = &stat[stat.rfind(')')? + 1..];
        let mut fields = after_name.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let start_time = fields.nth(18)?.parse().ok()?;
        let stack = fields.nth(5).and_then(|stack| stack.parse().ok()).unwrap_or(0);
        Some(Self { start_time, stack, namespace: own_namespace() })
    }

    /// That of this process, read once: it is asked for at every look at the free memory.
    pub(super) fn own() -> Option<Self> {
        static OWN: OnceLock<Option<Identity>> = OnceLock::new();
        *OWN.get_or_init(|| Self::of(std::process::id()))
    }

    fn is_same(self, other: Self) -> bool {
        let is_known = self.stack != 0 && other.stack != 0;
        self.namespace == other.namespace
            && self.start_time == other.start_time
            && (!is_known || self.stack == other.stack)
    }
}

/// Locks the byte of `slot` for as long as this process lives.
pub(super) fn claim(live: &File, slot: usize) {
    let mut lock = byte(slot);
    // SAFETY: `lock` is a valid flock that outlives the call and `live` an open descriptor. A failure only costs one of the
    // two witnesses.
    unsafe { libc::fcntl(live.as_raw_fd(), libc::F_SETLK, &raw mut lock) };
}

/// Whether the process `pid` that joined as `joined` still holds `slot`.
pub(super) fn holds(live: &File, slot: usize, pid: u32, joined: Identity) -> bool {
    let now = if pid == std::process::id() { Identity::own() } else { Identity::of(pid) };
    if now.is_some_and(|now| now.is_same(joined)) {
        return true;
    }
    let mut lock = byte(slot);
    // SAFETY: `lock` is a valid flock that outlives the call and `live` an open descriptor.
    let asked = unsafe { libc::fcntl(live.as_raw_fd(), libc::F_GETLK, &raw mut lock) } == 0;
    asked && i32::from(lock.l_type) != libc::F_UNLCK
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the C constants are small; the struct's fields are 16 bits wide"
)]
fn byte(slot: usize) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(slot).unwrap_or(i64::MAX),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_stack_is_another_program_where_both_are_known() {
        let first = Identity { start_time: 7, stack: 1, namespace: 1 };
        assert!(first.is_same(Identity { stack: 0, ..first }));
        assert!(!first.is_same(Identity { stack: 2, ..first }));
        assert!(!first.is_same(Identity { start_time: 8, ..first }));
        // The same numbers in another PID namespace are another process's.
        assert!(!first.is_same(Identity { namespace: 2, ..first }));
        assert!(Identity::own().is_some_and(|own| own.start_time > 0 && own.stack > 0));
    }
}
