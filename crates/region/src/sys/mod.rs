//! The system calls that cuota makes inside a tenant's process, each as a safe function where it can be one.
//!
//! They are made directly, not through libc: a hook must leave `errno` as it found it, may run in a signal handler
//! or before libc's constructors, and must not become a pthread cancellation point. The one exception is the clock,
//! which lives in the vDSO; libc reaches it without a system call and touches `errno` only for a clock that does not
//! exist.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("cuota is for 64-bit Linux");

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use crate::path::{self, Path};

/// An error number of the kernel (`ENOENT`, `EACCES`, …).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// The outcome of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

/// An open file, closed when dropped.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    /// The descriptor's number.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.0
    }

    /// Takes over descriptor `number`, which the caller owns.
    #[must_use]
    pub fn from_owned(number: i32) -> Self {
        Fd(number)
    }

    /// Gives up the descriptor without closing it.
    #[must_use]
    pub fn into_number(self) -> i32 {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: `close` takes a number and no memory; this descriptor is ours.
        let _ = unsafe { call(libc::SYS_close, [int(self.0), 0, 0]) };
    }
}

/// Makes a system call of at most three arguments.
///
/// # Safety
/// The caller keeps the contract of the system call that `number` names.
#[inline(always)]
unsafe fn call(number: libc::c_long, [a, b, c]: [usize; 3]) -> Result<usize> {
    // SAFETY: the caller's contract, passed on.
    split(unsafe { enter(a, b, c, register(number)) })
}

/// Makes a system call of up to six arguments.
///
/// # Safety
/// As [`call`].
#[inline(always)]
unsafe fn call_with_six(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller's contract, passed on.
    split(unsafe { enter_with_six(a, b, c, d, e, f, register(number)) })
}

/// [`call`], whose arguments come in registers; so does the answer, which a `Result` would not.
///
/// # Safety
/// As [`call`].
#[inline(never)]
unsafe fn enter(a: usize, b: usize, c: usize, number: usize) -> isize {
    // SAFETY: the caller's contract, passed on; the kernel looks at no register that the system call does not take.
    unsafe { arch::syscall6(number, [a, b, c, 0, 0, 0]) }
}

/// # Safety
/// As [`call`].
unsafe fn enter_with_six(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, number: usize) -> isize {
    // SAFETY: the caller's contract, passed on.
    unsafe { arch::syscall6(number, [a, b, c, d, e, f]) }
}

/// Splits the kernel's answer into result and errno.
#[inline(always)]
fn split(answer: isize) -> Result<usize> {
    // The kernel reserves the last page of the address space for error numbers (include/linux/err.h).
    match answer {
        -4095..=-1 => Err(Errno(i32::try_from(-answer).unwrap_or(libc::EIO))),
        _ => Ok(answer.cast_unsigned()),
    }
}

/// A signed number as a register holds it.
#[expect(clippy::cast_possible_truncation, reason = "a register has 64 bits: checked above")]
fn register(value: i64) -> usize {
    value.cast_unsigned() as usize
}

/// A C `int` as the kernel's ABI passes it in a register.
fn int(value: i32) -> usize {
    register(i64::from(value))
}

/// A system call's result that is a C `int`.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the kernel returned an int")]
fn as_int(value: usize) -> i32 {
    value as i32
}

/// Opens `path` with `open(2)`'s flags and, for a new file, `mode`. `O_CLOEXEC` is added, and `O_NONBLOCK`: a FIFO that somebody has put in
/// a file's place must not stop a program.
///
/// # Errors
/// What `openat(2)` returns.
pub fn open(path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    open_at(HERE, path, flags, mode)
}

/// The working directory, for those below that take the number of a folder's descriptor.
pub const HERE: i32 = libc::AT_FDCWD;

/// [`open`], where `path` begins in the folder whose descriptor has this number.
///
/// # Errors
/// What `openat(2)` returns.
#[inline(never)]
pub fn open_at(folder: i32, path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    let fd = unsafe {
        call_with_six(
            libc::SYS_openat,
            [int(folder), path.as_ptr() as usize, int(flags), mode as usize, 0, 0],
        )
    }?;
    Ok(Fd(as_int(fd)))
}

/// Duplicates `fd` to the lowest free number that is at least `floor`, close-on-exec.
///
/// # Errors
/// `EINVAL` where `floor` is beyond the process's limit on open files, and what else `fcntl(2)` returns.
pub fn duplicate_above(fd: &Fd, floor: i32) -> Result<Fd> {
    // SAFETY: `F_DUPFD_CLOEXEC` takes two numbers.
    unsafe { call(libc::SYS_fcntl, [int(fd.0), int(libc::F_DUPFD_CLOEXEC), int(floor)]) }
        .map(|fd| Fd(as_int(fd)))
}

/// What of a file's `stat` is used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Length in bytes.
    pub bytes: u64,
    /// The device and inode number: a file's identity.
    pub identity: (u64, u64),
    /// The owner's user id.
    pub owner: u32,
    /// File type and permission bits.
    pub mode: u32,
    /// Whether it has more than one name.
    pub has_other_names: bool,
}

/// The length, identity and owner of an open file.
///
/// # Errors
/// What `fstat(2)` returns.
pub fn file_info(fd: &Fd) -> Result<FileInfo> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills the one `stat` that the pointer leads to; `libc::stat` has the kernel's layout here.
    unsafe { call(libc::SYS_fstat, [int(fd.0), stat.as_mut_ptr() as usize, 0]) }?;
    // SAFETY: zeroed before, filled by the kernel since.
    let stat = unsafe { stat.assume_init() };
    Ok(FileInfo {
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        identity: (stat.st_dev, stat.st_ino),
        owner: stat.st_uid,
        mode: stat.st_mode,
        has_other_names: stat.st_nlink > 1,
    })
}

/// Whether an open file is reached by a read-only mount. (What an attempt to write says is no answer: the kernel looks at the file's mode
/// first, and in a user namespace at whether its owner is known there.)
#[must_use]
pub fn is_mounted_read_only(fd: &Fd) -> bool {
    // `struct statfs` is 15 words on 64-bit machines, of which the 11th is the mount's flags (include/uapi/asm-generic/statfs.h).
    let mut about = [0_u64; 15];
    // SAFETY: the kernel fills one `statfs`, and there is room for it.
    let _ = unsafe { call(libc::SYS_fstatfs, [int(fd.0), about.as_mut_ptr() as usize, 0]) };
    about[10] & libc::ST_RDONLY != 0
}

/// Makes a file at least so long, and takes the space for so much of it now, also where it was that long and has holes: a page that a
/// full file system cannot provide when it is first written to is a SIGBUS in the tenant's process.
///
/// # Errors
/// `EFBIG` beyond the process's limit on the size of files, and what `fallocate(2)` returns, `ENOSPC` above all. Where the file
/// system knows no `fallocate` (NFS before 4.2, some FUSE), what `ftruncate(2)` returns.
pub fn take_space(fd: &Fd, bytes: usize) -> Result<()> {
    let is_longer = file_info(fd)?.bytes < bytes as u64;
    // There the kernel would not only refuse, but send SIGXFSZ.
    if is_longer && most_file_bytes() < bytes as u64 {
        return Err(Errno(libc::EFBIG));
    }
    // SAFETY: takes numbers only.
    let taken = unsafe { call_with_six(libc::SYS_fallocate, [int(fd.0), 0, 0, bytes, 0, 0]) };
    if !matches!(taken, Err(Errno(libc::EOPNOTSUPP))) {
        return taken.map(drop);
    }
    if !is_longer {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    unsafe { call(libc::SYS_ftruncate, [int(fd.0), bytes, 0]) }.map(drop)
}

/// Writes all of `bytes` to `fd` at its position.
///
/// # Errors
/// What `write(2)` returns; `EIO` where the kernel took nothing.
pub fn write_all(fd: &Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length are those of one live slice.
        let wrote = unsafe { call(libc::SYS_write, [int(fd.0), bytes.as_ptr() as usize, bytes.len()]) };
        match wrote {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(n) => bytes = bytes.get(n..).unwrap_or(&[]),
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `buffer.len()` bytes from `fd` at its position and returns how many came, 0 at the end.
///
/// # Errors
/// What `read(2)` returns, `EINTR` excepted.
pub fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the pointer and length are those of one live, exclusive slice.
        let got = unsafe { call(libc::SYS_read, [int(fd.0), buffer.as_mut_ptr() as usize, buffer.len()]) };
        if !matches!(got, Err(Errno(libc::EINTR))) {
            return got;
        }
    }
}

/// Fills `buffer` with further entries of a folder (`struct linux_dirent64`) and returns how many bytes they are, 0 at the end.
///
/// # Errors
/// What `getdents64(2)` returns.
pub fn read_entries(folder: &Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the pointer and length are those of one live, exclusive slice.
    unsafe { call(libc::SYS_getdents64, [int(folder.0), buffer.as_mut_ptr() as usize, buffer.len()]) }
}

/// Gives the file at `existing` in a folder the second name `new` there, atomically; `EEXIST` where `new` is taken.
///
/// # Errors
/// What `linkat(2)` returns.
pub fn link_at(folder: i32, existing: &CStr, new: &CStr) -> Result<()> {
    let at = int(folder);
    // SAFETY: both paths are NUL-terminated and outlive the call.
    unsafe {
        call_with_six(libc::SYS_linkat, [at, existing.as_ptr() as usize, at, new.as_ptr() as usize, 0, 0])
    }
    .map(drop)
}

/// Removes the name `path`, which begins in a folder.
///
/// # Errors
/// What `unlinkat(2)` returns.
pub fn unlink_at(folder: i32, path: &CStr) -> Result<()> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe { call(libc::SYS_unlinkat, [int(folder), path.as_ptr() as usize, 0]) }.map(drop)
}

/// Sets the permission bits of a file, whatever the process's umask.
///
/// # Errors
/// What `fchmod(2)` returns.
pub fn set_mode(fd: &Fd, mode: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    unsafe { call(libc::SYS_fchmod, [int(fd.0), mode as usize, 0]) }.map(drop)
}

/// Makes a directory in a folder, with these permission bits whatever the process's umask; one that is there stays as it is. Opens it.
///
/// # Errors
/// What `mkdirat(2)`, `openat(2)` and `fchmod(2)` return; where a link is there, `ELOOP` or `ENOTDIR`.
#[inline(never)]
pub fn make_directory(folder: i32, path: &CStr, mode: u32) -> Result<Fd> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    let made = unsafe { call(libc::SYS_mkdirat, [int(folder), path.as_ptr() as usize, mode as usize]) };
    if let Err(error) = made
        && error.0 != libc::EEXIST
    {
        return Err(error);
    }
    let found = open_at(folder, path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    if made.is_ok() {
        set_mode(&found, mode)?;
    }
    Ok(found)
}

/// How a mapping may be used and who sees its changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping<'a> {
    /// A file, shared, read-only: a write through it faults.
    SharedReadOnly(&'a Fd),
    /// A file, shared, readable and writable.
    Shared(&'a Fd),
    /// Private zeroed memory, not backed until touched.
    Private,
}

impl PartialEq for Fd {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Fd {}

/// Maps `bytes` bytes. The memory stays mapped until [`unmap`] or the process's end.
///
/// # Errors
/// What `mmap(2)` returns.
pub fn map(mapping: Mapping<'_>, bytes: usize) -> Result<NonNull<u8>> {
    let (protection, flags, fd) = match mapping {
        Mapping::SharedReadOnly(fd) => (libc::PROT_READ, libc::MAP_SHARED, fd.0),
        Mapping::Shared(fd) => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.0),
        Mapping::Private => (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
        ),
    };
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
    let address =
        unsafe { call_with_six(libc::SYS_mmap, [0, bytes, int(protection), int(flags), int(fd), 0]) }?;
    NonNull::new(address as *mut u8).ok_or(Errno(libc::ENOMEM))
}

/// Takes a mapping away.
///
/// # Safety
/// `address` and `bytes` are those of one earlier [`map`], and nothing refers to that memory any more.
pub unsafe fn unmap(address: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's contract.
    let _ = unsafe { call(libc::SYS_munmap, [address.as_ptr() as usize, bytes, 0]) };
}

/// What becomes of a mapping in a child made by `fork`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InChild {
    /// The child has the mapping, all zero (Linux 4.14, private anonymous mappings only).
    Zeroed,
    /// The child does not have the mapping.
    Absent,
}

/// Sets what a child made by `fork` sees at `address`.
///
/// # Safety
/// `address` and `bytes` are those of one earlier [`map`]; with [`InChild::Absent`] no code that runs in a child
/// follows a pointer into it.
///
/// # Errors
/// What `madvise(2)` returns; `EINVAL` on kernels that do not know the advice.
pub unsafe fn set_fate_in_child(address: NonNull<u8>, bytes: usize, fate: InChild) -> Result<()> {
    let advice = match fate {
        InChild::Zeroed => libc::MADV_WIPEONFORK,
        InChild::Absent => libc::MADV_DONTFORK,
    };
    // SAFETY: advice on our own mapping; what it changes is the caller's contract.
    unsafe { call(libc::SYS_madvise, [address.as_ptr() as usize, bytes, int(advice)]) }.map(drop)
}

/// Maps a file, shared, readable and writable, for this process alone: a child made by `fork` has no mapping, and follows no pointer into it.
///
/// # Errors
/// What `mmap(2)` and `madvise(2)` return.
#[inline(never)]
pub fn map_here_alone(fd: &Fd, bytes: usize) -> Result<NonNull<u8>> {
    let memory = map(Mapping::Shared(fd), bytes)?;
    // SAFETY: fresh from `map`.
    unsafe { set_fate_in_child(memory, bytes, InChild::Absent) }?;
    Ok(memory)
}

/// Asks the kernel of the record lock of this kind on one byte of `fd`: `F_SETLK`, or `F_GETLK`, which says what kind of lock is there, and
/// whose.
#[inline(never)]
fn lock(fd: &Fd, command: i32, kind: i32, byte: u64) -> Result<(i32, u32)> {
    // SAFETY: `flock` is a struct of integers, for which all-zero is a value.
    let mut lock: libc::flock = unsafe { core::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap_or(0);
    lock.l_whence = 0; // SEEK_SET
    lock.l_start = i64::try_from(byte).unwrap_or(i64::MAX);
    lock.l_len = 1;
    // SAFETY: the kernel reads and fills the one `flock` that the pointer leads to.
    unsafe { call(libc::SYS_fcntl, [int(fd.0), int(command), &raw mut lock as usize]) }?;
    Ok((i32::from(lock.l_type), lock.l_pid.cast_unsigned()))
}

/// Takes this process's exclusive record lock on one byte of `fd`, without waiting. `false`: another process has it.
///
/// The kernel drops the lock when the process ends, however it ends, and also when the process closes any
/// descriptor of that file (`fcntl(2)`, "Record locking").
///
/// # Errors
/// What `fcntl(F_SETLK)` returns, `EAGAIN` and `EACCES` excepted.
pub fn try_lock_byte(fd: &Fd, byte: u64) -> Result<bool> {
    match lock(fd, libc::F_SETLK, libc::F_WRLCK, byte) {
        Ok(_) => Ok(true),
        Err(Errno(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives back this process's record lock on one byte of `fd`.
pub fn unlock_byte(fd: &Fd, byte: u64) {
    let _ = lock(fd, libc::F_SETLK, libc::F_UNLCK, byte);
}

/// Whether *another* process holds the record lock on one byte of `fd`.
///
/// # Errors
/// What `fcntl(F_GETLK)` returns.
pub fn byte_is_locked_elsewhere(fd: &Fd, byte: u64) -> Result<bool> {
    // The type, never the PID: across PID namespaces the kernel reports a PID of 0 for a lock that is held.
    who_locks_byte(fd, byte).map(|pid| pid.is_some())
}

/// Which other process holds the record lock on one byte of `fd`, by this PID namespace; 0: one of another.
///
/// # Errors
/// What `fcntl(2)` returns.
pub fn who_locks_byte(fd: &Fd, byte: u64) -> Result<Option<u32>> {
    let (kind, pid) = lock(fd, libc::F_GETLK, libc::F_WRLCK, byte)?;
    Ok((kind != libc::F_UNLCK).then_some(pid))
}

/// The process's limit on the size of files (RLIMIT_FSIZE), bytes.
fn most_file_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let what = register(i64::from(libc::RLIMIT_FSIZE));
    // SAFETY: fills the one `rlimit` that the pointer leads to (`rlimit64`, which is the same here).
    let answer = unsafe { call_with_six(libc::SYS_prlimit64, [0, what, 0, &raw mut limit as usize, 0, 0]) };
    if answer.is_ok() { limit.rlim_cur } else { u64::MAX }
}

/// The process's id in its own PID namespace.
#[must_use]
pub fn process_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    let pid = unsafe { call(libc::SYS_getpid, [0; 3]) };
    pid.ok().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

/// When the process `pid` of this PID namespace was started, in the kernel's ticks since boot. `None`: there is none, or it has ended
/// and only its parent has not noticed.
#[must_use]
pub fn start_of(pid: u32) -> Option<u64> {
    let digits = path::decimal(u64::from(pid));
    let first = digits.iter().position(|digit| *digit != b'0')?;
    let path: [&[u8]; 3] = [b"/proc/", digits.get(first..)?, b"/stat"];
    let mut stat = [0; 512];
    let length = read(&Path::open_joined(HERE, &path, libc::O_RDONLY).ok()?, &mut stat).ok()?;
    // The name, in brackets, can hold anything. After it: the state, then the 20th field (proc(5)).
    let stat = stat.get(..length)?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let (mut field, mut ticks) = (0, 0_u64);
    for byte in stat.get(name_end + 2..)? {
        match (field, byte) {
            (_, b' ') => field += 1,
            (0, b'Z' | b'X') => return None,
            // The kernel's digits: no more than fit, and nothing else.
            (19, digit) => ticks = ticks.wrapping_mul(10).wrapping_add(u64::from(*digit & 15)),
            _ => {}
        }
    }
    (field > 19).then_some(ticks)
}

/// The calling thread's id in its process's PID namespace.
#[must_use]
pub fn thread_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    let tid = unsafe { call(libc::SYS_gettid, [0; 3]) };
    tid.ok().and_then(|tid| u32::try_from(tid).ok()).unwrap_or(0)
}

/// The process's effective user id.
#[must_use]
pub fn user_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    let uid = unsafe { call(libc::SYS_geteuid, [0; 3]) };
    uid.ok().and_then(|uid| u32::try_from(uid).ok()).unwrap_or(u32::MAX)
}

/// Whether this process has no more rights than who has started it, and set its environment: a setuid program, or one with file
/// capabilities, is not dumpable (prctl(2), `PR_SET_DUMPABLE`), nor is one that its user cannot read.
#[must_use]
pub fn has_its_callers_rights() -> bool {
    let what = register(i64::from(libc::PR_GET_DUMPABLE));
    // SAFETY: takes numbers only.
    let answer = unsafe { call(libc::SYS_prctl, [what, 0, 0]) };
    answer == Ok(1)
}

/// The calling thread's sleeps end when they should, not up to 50 µs later (prctl(2), `PR_SET_TIMERSLACK`).
pub fn sleep_exactly() {
    let what = register(i64::from(libc::PR_SET_TIMERSLACK));
    // SAFETY: of the calling thread alone, and no memory.
    let _ = unsafe { call(libc::SYS_prctl, [what, 1, 0]) };
}

/// Blocks all signals in the calling thread but the two that glibc needs to reach every thread (32, to cancel, and 33, for `setuid`);
/// what was blocked before.
#[must_use]
pub fn block_signals() -> u64 {
    change_signals(libc::SIG_SETMASK, !(3 << 31))
}

/// Sets which signals are blocked in the calling thread.
pub fn set_signals(mask: u64) {
    change_signals(libc::SIG_SETMASK, mask);
}

fn change_signals(how: i32, mask: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: the kernel's set is one word here: it reads one and fills one.
    let _ = unsafe {
        call_with_six(
            libc::SYS_rt_sigprocmask,
            [int(how), &raw const mask as usize, &raw mut before as usize, size_of::<u64>(), 0, 0],
        )
    };
    before
}

/// Lets another thread run.
pub fn yield_now() {
    // SAFETY: takes nothing, cannot fail.
    let _ = unsafe { call(libc::SYS_sched_yield, [0; 3]) };
}

/// Sleeps for `ns` nanoseconds, or until a signal comes.
pub fn sleep_ns(ns: u64) {
    let seconds = libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(0);
    let time =
        libc::timespec { tv_sec: seconds, tv_nsec: libc::c_long::try_from(ns % 1_000_000_000).unwrap_or(0) };
    // SAFETY: the kernel reads the one `timespec`, and is given no place for the rest.
    let _ = unsafe { call(libc::SYS_nanosleep, [&raw const time as usize, 0, 0]) };
}

/// Sleeps while `word` is `expected`, until CLOCK_MONOTONIC reads `deadline_ns`, a signal comes, or somebody wakes those who wait on
/// the word, which may lie in a shared mapping that is read-only here.
pub fn wait_until(word: &AtomicU32, expected: u32, deadline_ns: u64) {
    // CLOCK_MONOTONIC is what FUTEX_WAIT_BITSET counts an absolute time by (futex(2)).
    let seconds = libc::time_t::try_from(deadline_ns / 1_000_000_000).unwrap_or(libc::time_t::MAX);
    let nanoseconds = libc::c_long::try_from(deadline_ns % 1_000_000_000).unwrap_or(0);
    let time = libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let at = if deadline_ns == u64::MAX { 0 } else { &raw const time as usize };
    // SAFETY: the kernel reads one word and one `timespec`; null stands for no deadline.
    let _ = unsafe {
        call_with_six(
            libc::SYS_futex,
            [
                word.as_ptr() as usize,
                int(libc::FUTEX_WAIT_BITSET),
                expected as usize,
                at,
                0,
                int(libc::FUTEX_BITSET_MATCH_ANY),
            ],
        )
    };
}

/// Wakes every process that waits on `word`, which may lie in a shared mapping.
pub fn wake_all(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE uses the address as a key only.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, int(libc::FUTEX_WAKE), int(i32::MAX)]) };
}

/// A clock's reading in nanoseconds.
fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the one `timespec` that the pointer leads to.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// CLOCK_MONOTONIC in nanoseconds: about 30 ns a call.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// How far CLOCK_MONOTONIC of this process's time namespace is ahead of the machine's, ns (time_namespaces(7)); 0 without `/proc`.
#[must_use]
pub fn clock_ahead_ns() -> i64 {
    let mut text = [0; 256];
    // What is not read stays empty, which is 0.
    let _ = open(c"/proc/self/timens_offsets", libc::O_RDONLY, 0).and_then(|fd| read(&fd, &mut text));
    ahead_ns(&text)
}

/// The first line: `monotonic`, seconds, nanoseconds. The seconds may be below zero, and then the nanoseconds are above them.
fn ahead_ns(text: &[u8]) -> i64 {
    let (mut seconds, mut number, mut sign) = (0_i64, 0_i64, 1);
    for byte in text.iter().skip(b"monotonic".len()) {
        match byte {
            b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')),
            b'-' => sign = -1,
            b'\n' => break,
            // The number before it, if that was one.
            _ if number != 0 => (seconds, number) = (number, 0),
            _ => {}
        }
    }
    seconds.wrapping_mul(sign * 1_000_000_000).wrapping_add(number)
}

/// CLOCK_MONOTONIC as of the last timer tick, 1–10 ms coarse: about 6 ns a call.
#[must_use]
pub fn coarse_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_COARSE)
}

/// CLOCK_REALTIME in seconds, as of the last timer tick.
#[must_use]
pub fn wall_seconds() -> i64 {
    i64::try_from(clock_ns(libc::CLOCK_REALTIME_COARSE) / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    fn path(dir: &tempfile::TempDir, name: &str) -> CString {
        CString::new(dir.path().join(name).as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn a_file_that_is_not_there_is_enoent_and_leaves_errno_alone() {
        // SAFETY: reads and writes this thread's errno.
        unsafe { *libc::__errno_location() = 77 };
        assert_eq!(open(c"/nonexistent/file", libc::O_RDONLY, 0).unwrap_err(), Errno(libc::ENOENT));
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 77);
    }

    #[test]
    fn what_is_written_is_read_back_and_its_length_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let name = path(&dir, "file");
        let fd = open(&name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600).unwrap();
        write_all(&fd, b"four").unwrap();
        assert_eq!(file_info(&fd).unwrap().bytes, 4);
        let again = open(&name, libc::O_RDONLY, 0).unwrap();
        let mut buffer = [0; 9];
        assert_eq!(read(&again, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"four");
        assert_eq!(file_info(&again).unwrap().identity, file_info(&fd).unwrap().identity);
    }

    #[test]
    fn a_process_is_told_by_its_start_until_it_ends() {
        let mine = start_of(process_id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let theirs = start_of(child.id()).unwrap();
        assert!(theirs >= mine);
        child.kill().unwrap();
        // Not waited for: a zombie.
        while start_of(child.id()).is_some() {
            yield_now();
        }
        child.wait().unwrap();
        assert_eq!((start_of(child.id()), start_of(0)), (None, None));
    }

    #[test]
    fn a_sleeper_wakes_at_its_deadline_or_when_the_word_has_changed() {
        let word = AtomicU32::new(5);
        let deadline = monotonic_ns() + 3_000_000;
        while monotonic_ns() < deadline {
            wait_until(&word, 5, deadline);
        }
        // Neither sleeps: the word is another.
        wait_until(&word, 4, u64::MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(core::sync::atomic::Ordering::Acquire) == 5 {
                    wait_until(&word, 5, u64::MAX);
                }
            });
            word.store(6, core::sync::atomic::Ordering::Release);
            wake_all(&word);
        });
    }

    #[test]
    fn a_time_namespaces_offset_is_read_with_its_sign() {
        let text = b"monotonic      172800         5\nboottime       0         0\n";
        assert_eq!(ahead_ns(text), 172_800_000_000_005);
        assert_eq!(ahead_ns(b"monotonic -2 300\n"), -1_999_999_700);
        assert_eq!(ahead_ns(b"monotonic\t0 500\n"), 500);
        assert_eq!(ahead_ns(&[0; 256]), 0);
    }

    #[test]
    fn a_second_name_is_refused_where_the_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (path(&dir, "a"), path(&dir, "b"));
        drop(open(&a, libc::O_RDWR | libc::O_CREAT, 0o600).unwrap());
        link_at(HERE, &a, &b).unwrap();
        assert_eq!(link_at(HERE, &a, &b), Err(Errno(libc::EEXIST)));
        unlink_at(HERE, &a).unwrap();
        assert!(open(&b, libc::O_RDONLY, 0).is_ok());
    }

    #[test]
    fn a_duplicate_stays_above_its_floor_and_closes_on_exec() {
        let fd = open(c"/dev/null", libc::O_RDONLY, 0).unwrap();
        let high = duplicate_above(&fd, 200).unwrap();
        assert!(high.number() >= 200);
        // SAFETY: F_GETFD takes no memory.
        assert_eq!(unsafe { libc::fcntl(high.number(), libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}
