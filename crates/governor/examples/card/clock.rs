//! Clocks, and how exactly a thread wakes.

fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Monotonic time, ns.
pub(crate) fn now_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of all threads of this process, ns.
#[allow(dead_code, reason = "only one of the two examples needs it")]
pub(crate) fn process_cpu_ns() -> u64 {
    read_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread, ns.
#[allow(dead_code, reason = "only one of the two examples needs it")]
pub(crate) fn thread_cpu_ns() -> u64 {
    read_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Lets this thread wake at the time that it asked for, and not up to 50 µs later.
pub(crate) fn wake_exactly() {
    // SAFETY: PR_SET_TIMERSLACK takes a number, ns.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
}
