//! Keeping a process to one CPU, so that those of one turn meet the same one.

use std::io;
use std::mem;

/// The CPUs that this process may run on; empty when the kernel does not say.
pub fn allowed() -> Vec<usize> {
    // SAFETY: a CPU set is a plain array of bits, valid when all are zero.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is writable and of the size that is given; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Vec::new();
    }
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: the number is below the size of the set.
    (0..most).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Keeps the calling thread, and what it starts from now on, to `cpu`.
///
/// # Errors
/// What the kernel says, as where the CPU is not this process's to use.
pub fn keep_to(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `allowed`.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the number is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is readable and of the size that is given.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_keeps_to_the_cpu_that_it_was_given() {
        let cpus = allowed();
        let last = *cpus.last().unwrap();
        // A thread of its own: the others of this test keep their CPUs.
        let kept = thread::spawn(move || keep_to(last).map(|()| allowed())).join().unwrap();
        assert_eq!(kept.unwrap(), [last]);
        assert!(keep_to(usize::MAX).is_err());
    }
}
