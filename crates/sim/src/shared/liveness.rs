//! Is a process that holds a slot still there? Two witnesses, and one is enough: the record lock on its slot's byte (seen
//! across PID namespaces, but lost when the process closes the descriptor), or its pid with the same start time.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// The start time of `pid` in clock ticks since boot, field 22 of `/proc/<pid>/stat`; `None` if there is no such process.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets and may hold spaces, so count from its last bracket.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The start time of this process, read once: it is asked for at every look at the free memory.
pub(super) fn own_start_time() -> Option<u64> {
    static OWN: OnceLock<Option<u64>> = OnceLock::new();
    *OWN.get_or_init(|| start_time(std::process::id()))
}

/// Locks the byte of `slot` for as long as this process lives.
pub(super) fn claim(live: &File, slot: usize) {
    let mut lock = byte(slot);
    // SAFETY: `lock` is a valid flock that outlives the call and `live` an open descriptor. A failure only costs one of the
    // two witnesses.
    unsafe { libc::fcntl(live.as_raw_fd(), libc::F_SETLK, &raw mut lock) };
}

/// Whether the process `pid`, started at `started`, still holds `slot`.
pub(super) fn holds(live: &File, slot: usize, pid: u32, started: u64) -> bool {
    let now_started = if pid == std::process::id() { own_start_time() } else { start_time(pid) };
    if now_started == Some(started) {
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
