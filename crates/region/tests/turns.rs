//! Processes of the machine that take turns: they sleep on real futexes, are killed and stopped. No time is measured against a limit: a test
//! waits until what it wants has happened.

use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use cuota_governor::entitlement::{Entitlement, Priority};
use cuota_region::arena::Arena;
use cuota_region::name::GpuId;
use cuota_region::path::Directory;
use cuota_region::seat::{Admission, Seat};
use cuota_region::sys;

const GPU: GpuId = GpuId::from_words([3, 4]);
const PROCESSES: usize = 16;
const SATURATES: Entitlement = Entitlement { guarantee_ppm: 0, weight: 100, priority: Priority::Normal };

/// What the processes of a test write of themselves.
struct Page {
    turns: [AtomicU64; PROCESSES],
    held_ns: [AtomicU64; PROCESSES],
}

struct Bench {
    _dir: tempfile::TempDir,
    directory: Directory,
    page: &'static Page,
    children: Vec<i32>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("arena")).unwrap();
        let directory = Directory::at(dir.path().as_os_str().as_bytes()).unwrap();
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping that nobody else has.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Page>(), protection, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED);
        // SAFETY: zeroed, aligned, never unmapped; atomics, for which zero is a value.
        let page = unsafe { &*at.cast::<Page>() };
        Bench { _dir: dir, directory, page, children: Vec::new() }
    }

    /// Starts a process that always wants turns. Returns its number.
    fn start(&mut self, tenant: u64, entitlement: Entitlement) -> usize {
        let number = self.children.len();
        // SAFETY: the child calls nothing but this crate, which takes no lock and allocates nothing, and `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                die_with_parent();
                live(
                    &self.directory,
                    tenant,
                    entitlement,
                    &self.page.turns[number],
                    &self.page.held_ns[number],
                );
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(1) }
            }
            child => self.children.push(child),
        }
        number
    }

    /// Starts one whose clocks are ten days ahead. `None`: this user may not make a time namespace.
    fn start_ten_days_ahead(&mut self, tenant: u64) -> Option<usize> {
        let number = self.children.len();
        // SAFETY: as in `start`.
        match unsafe { libc::fork() } {
            0 => {
                die_with_parent();
                if !enter_a_time_namespace() {
                    // SAFETY: ends the child at once.
                    unsafe { libc::_exit(NOT_ALLOWED) }
                }
                live(
                    &self.directory,
                    tenant,
                    SATURATES,
                    &self.page.turns[number],
                    &self.page.held_ns[number],
                );
                // SAFETY: as above.
                unsafe { libc::_exit(1) }
            }
            child => {
                self.children.push(child);
                loop {
                    let mut status = 0;
                    // SAFETY: our own child.
                    let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
                    if ended == child && libc::WEXITSTATUS(status) == NOT_ALLOWED {
                        self.children.pop();
                        return None;
                    }
                    assert_eq!(ended, 0, "it ended");
                    if self.turns(number) != 0 {
                        return Some(number);
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
    }

    fn signal(&self, number: usize, signal: i32) {
        // SAFETY: our own child.
        unsafe { libc::kill(self.children[number], signal) };
    }

    fn turns(&self, number: usize) -> u64 {
        self.page.turns[number].load(Ordering::SeqCst)
    }

    /// Waits until each of these has had so many turns more.
    fn wait_for_turns(&self, of: &[usize], more: u64) {
        let before: Vec<u64> = of.iter().map(|number| self.turns(*number)).collect();
        for (number, before) in of.iter().zip(before) {
            while self.turns(*number) < before + more {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in &self.children {
            // SAFETY: our own child, not yet waited for; `waitpid` may be given no status.
            unsafe {
                libc::kill(*child, libc::SIGKILL);
                libc::waitpid(*child, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// A test that ends badly leaves no process.
fn die_with_parent() {
    // SAFETY: takes a signal's number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

const NOT_ALLOWED: i32 = 42;

/// Goes on as a child in a time namespace of its own, whose CLOCK_MONOTONIC is ten days ahead; the parent stays, and takes the child with it when
/// it dies.
fn enter_a_time_namespace() -> bool {
    const CLONE_NEWTIME: i32 = 0x80;
    // SAFETY: takes flags.
    if unsafe { libc::unshare(CLONE_NEWTIME) } != 0 {
        return false;
    }
    let Ok(fd) = sys::open(c"/proc/self/timens_offsets", libc::O_WRONLY, 0) else { return false };
    if sys::write_all(&fd, b"monotonic 864000 0\n").is_err() {
        return false;
    }
    // SAFETY: as in `Bench::start`.
    match unsafe { libc::fork() } {
        0 => {
            die_with_parent();
            true
        }
        _ => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
    }
}

/// The life of a process that keeps the GPU busy in its turns.
fn live(
    directory: &Directory,
    tenant: u64,
    entitlement: Entitlement,
    turns: &AtomicU64,
    held_ns: &AtomicU64,
) -> Option<()> {
    let arena = Arena::open_or_create(directory, GPU, 0o600).ok()?;
    let now = || arena.common_ns(sys::monotonic_ns());
    let seat = arena.seat(tenant, entitlement, now())?;
    loop {
        wait_for_turn(&seat, &now);
        let began_ns = now();
        turns.fetch_add(1, Ordering::SeqCst);
        let mut end_ns = began_ns;
        while let Some(until_ns) = seat.look(now()) {
            end_ns = until_ns;
            sys::sleep_ns(until_ns.saturating_sub(now()));
        }
        held_ns.fetch_add(end_ns.saturating_sub(began_ns), Ordering::SeqCst);
        seat.release(now(), true);
    }
}

fn wait_for_turn(seat: &Seat, now: &dyn Fn() -> u64) {
    let since_ns = now();
    loop {
        match seat.admit(now(), since_ns) {
            Admission::Go { .. } => return,
            Admission::Wait { bell, until_ns } => seat.sleep(bell, until_ns),
            // A machine that is busy for seconds: not what is tested here.
            Admission::Aloof => sys::sleep_ns(1_000_000),
        }
    }
}

#[test]
fn sixteen_processes_have_turns_and_those_that_are_killed_or_stopped_keep_nobody_from_them() {
    let mut bench = Bench::new();
    let all: Vec<usize> = (1..=PROCESSES as u64).map(|tenant| bench.start(tenant, SATURATES)).collect();
    bench.wait_for_turns(&all, 3);
    let (gone, rest) = all.split_at(4);
    for (step, number) in gone.iter().enumerate() {
        // In the middle of a turn, as far as one can tell from outside.
        bench.wait_for_turns(&[*number], 1);
        bench.signal(*number, if step % 2 == 0 { libc::SIGKILL } else { libc::SIGSTOP });
        bench.wait_for_turns(rest, 2);
    }
    // One that goes on asks again.
    bench.signal(gone[1], libc::SIGCONT);
    bench.wait_for_turns(&[gone[1]], 2);
    bench.wait_for_turns(rest, 2);
}

#[test]
fn two_processes_are_held_to_their_weights() {
    let mut bench = Bench::new();
    let heavy = bench.start(1, Entitlement { weight: 300, ..SATURATES });
    let light = bench.start(2, SATURATES);
    bench.wait_for_turns(&[heavy, light], 3);
    let held = |number: usize| bench.page.held_ns[number].load(Ordering::SeqCst);
    let before = [held(heavy), held(light)];
    bench.wait_for_turns(&[heavy, light], 80);
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let [had, other] = [(held(heavy) - before[0]) as f64, (held(light) - before[1]) as f64];
    let share = had / (had + other);
    assert!((share - 0.75).abs() < 0.1, "{share}");
}

#[test]
fn processes_of_one_tenant_have_its_turns_together() {
    let mut bench = Bench::new();
    let [a, also_a] = [(); 2].map(|()| bench.start(1, SATURATES));
    let b = bench.start(2, SATURATES);
    bench.wait_for_turns(&[a, also_a, b], 10);
    // One of the two dies, and the tenant goes on.
    bench.signal(a, libc::SIGKILL);
    bench.wait_for_turns(&[also_a, b], 10);
}

#[test]
fn processes_whose_clocks_differ_take_turns() {
    let mut bench = Bench::new();
    let here = bench.start(1, SATURATES);
    let Some(ahead) = bench.start_ten_days_ahead(2) else {
        println!("skipped: this user may not make a time namespace");
        return;
    };
    bench.wait_for_turns(&[here, ahead], 10);
    let rubbish = Arena::open_or_create(&bench.directory, GPU, 0o600).unwrap().tally()[2];
    assert_eq!(rubbish, 0, "their times make no sense to each other");
}
