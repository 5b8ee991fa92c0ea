//! Per-thread streams: no other thread can name one, and threads sleep and end.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cuota_tests::console::Arg::{At, Is, Out, Parameter};
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;

use crate::changes::set;
use crate::{MS, Worker, assert_share, eventually, meter, spin_as_told};

/// The driver's name for it.
const PER_THREAD: u64 = 2;

fn capped(machine: &Machine, cap: &str, helper: &str) -> Console {
    machine.tenant_with("t", &["--compute", cap]).with("CUOTA_HELPER", helper).start_with_context()
}

/// Launches on the per-thread stream of the program's main thread, and waits until that has nothing to do, as a program does that asks now
/// and then: nothing tells the limiter.
#[track_caller]
fn launch_and_poll(worker: &mut Worker, count: u64) {
    worker.begin(count, PER_THREAD);
    assert_eq!(worker.console.hear().status, 0);
    eventually("its stream has ended", || {
        worker.console.call("cuStreamQuery", &[Is(PER_THREAD)]).status == 0
    });
}

/// Launches in so many threads, which end then.
#[track_caller]
fn launch_in_threads(worker: &mut Worker, threads: u64, count: u64, ns: u64) {
    let (one, none, parameter) = (Is(1), Is(0), ns.to_le_bytes());
    // Blocks that fill a card, so that kernels of several threads come one after the other there, too.
    let (blocks, block_threads) = (Is(264), Is(1024));
    let arguments = [
        Is(worker.function),
        blocks,
        one,
        one,
        block_threads,
        one,
        one,
        none,
        Is(PER_THREAD),
        Parameter(&parameter),
        none,
    ];
    let done = worker.console.in_threads(threads, count, "cuLaunchKernel", &arguments);
    assert_eq!(done, (0, threads * count));
}

#[test]
fn idle_time_of_a_thread_is_not_charged() {
    const PAUSES: u64 = 4;
    let pause = Duration::from_millis(300);
    let machine = Machine::new();
    let mut worker = Worker::on(capped(&machine, "50%", "on"), MS / 10);
    launch_and_poll(&mut worker, 20);
    for _ in 0..PAUSES {
        launch_and_poll(&mut worker, 1);
        sleep(pause);
    }
    launch_and_poll(&mut worker, 20);
    let (used_ns, _) = meter(&machine, "t");
    assert!(used_ns <= 300 * MS, "{used_ns} ns for some 5 ms of work and {PAUSES} pauses of {pause:?}");
    worker.console.finish();
}

#[test]
fn threads_that_ended_hold_nobody_back() {
    const COUNT: u64 = 150;
    let machine = Machine::new();
    let mut worker = Worker::with(capped(&machine, "50%", "on"), &spin_as_told());
    worker.launch_as_told(MS / 10, worker.stream);
    worker.synchronize();
    launch_in_threads(&mut worker, 8, 20, MS / 10);
    worker.console.synchronize();
    assert_share(30.0, 60.0, || {
        let begin = Instant::now();
        for _ in 0..COUNT {
            worker.launch_as_told(2 * MS, worker.stream);
        }
        worker.synchronize();
        100.0 * (COUNT * 2 * MS) as f64 / begin.elapsed().as_nanos() as f64
    });
    worker.console.finish();
}

#[test]
fn kernels_of_threads_that_ended_are_charged_what_they_took() {
    const THREADS: u64 = 4;
    for is_synchronised in [true, false] {
        let machine = Machine::new();
        let mut worker = Worker::with(capped(&machine, "90%", "on"), &spin_as_told());
        for _ in 0..5 {
            // Known to take a microsecond, so what follows must be measured.
            worker.launch_as_told(1_000, worker.stream);
            worker.synchronize();
        }
        launch_in_threads(&mut worker, THREADS, 1, 20 * MS);
        if is_synchronised {
            worker.console.synchronize();
        }
        eventually("the books have its work", || meter(&machine, "t").0 >= THREADS * 20 * MS * 8 / 10);
        worker.console.finish();
    }
}

#[test]
fn cap_that_comes_back_charges_nothing_for_the_time_without_one() {
    for helper in ["on", "off"] {
        let machine = Machine::new();
        let mut worker = Worker::on(capped(&machine, "50%", helper), MS / 10);
        launch_and_poll(&mut worker, 20);
        assert!(set(&machine, &["t", "--compute", "off"]).status.success());
        // Another thread finds that out, which cannot end what is open here.
        launch_in_threads(&mut worker, 1, 1, 0);
        sleep(Duration::from_millis(600));
        assert!(set(&machine, &["t", "--compute", "50%"]).status.success());
        launch_and_poll(&mut worker, 20);
        let (used_ns, _) = meter(&machine, "t");
        assert!(used_ns <= 300 * MS, "{used_ns} ns for some 4 ms of work");
        worker.console.finish();
    }
}

/// Puts what cannot be given as an argument, since a structure points to it, into the program's memory; where.
#[track_caller]
fn put(worker: &mut Worker, bytes: &[u8]) -> u64 {
    let at = worker.console.call("cuMemAllocHost_v2", &[Out(8), Is(4096)]).ok().number(0);
    let path = format!("/proc/{}/mem", worker.console.pid());
    let memory = OpenOptions::new().write(true).open(path).expect("it is a child of the test");
    memory.write_all_at(bytes, at).expect("its own memory");
    at
}

/// `CUlaunchConfig` for one thread on the per-thread stream, under programmatic dependent launch.
#[track_caller]
fn dependent(worker: &mut Worker) -> Vec<u8> {
    // `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, allowed.
    let attribute: Vec<u8> = [6_u32, 0, 1].iter().flat_map(|number| number.to_le_bytes()).collect();
    let attributes = put(worker, &attribute);
    let mut bytes: Vec<u8> =
        [1_u32, 1, 1, 1, 1, 1, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.extend([PER_THREAD, attributes, 1].iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

/// Nobody but its thread can end its batch, and no estimate says that it takes long: it was 1 µs when it was learned.
#[test]
fn chain_of_dependent_launches_is_held_to_the_cap_while_it_goes_on() {
    const LONG: u64 = 5 * MS;
    for helper in ["on", "off"] {
        let machine = Machine::new();
        let mut worker = Worker::with(capped(&machine, "20%", helper), &spin_as_told());
        let config = dependent(&mut worker);
        let chain = |worker: &mut Worker, ns: u64| {
            let parameter = ns.to_le_bytes();
            let arguments = [At(&config), Is(worker.function), Parameter(&parameter), Is(0)];
            let _ = worker.console.call("cuLaunchKernelEx", &arguments).ok();
        };
        for _ in 0..15 {
            chain(&mut worker, 1_000);
            let _ = worker.console.call("cuStreamSynchronize", &[Is(PER_THREAD)]).ok();
            sleep(Duration::from_millis(2));
        }
        let (begin, mut work) = (Instant::now(), Duration::ZERO);
        worker.launch_as_told(1_000, PER_THREAD);
        while begin.elapsed() < Duration::from_secs(3) {
            chain(&mut worker, LONG);
            work += Duration::from_nanos(LONG);
            // No more than 20 ms ahead of the GPU.
            sleep((work.saturating_sub(Duration::from_millis(20))).saturating_sub(begin.elapsed()));
        }
        let share = 100.0 * work.as_secs_f64() / begin.elapsed().as_secs_f64();
        // Beside the cap what is let in before the first of them has ended.
        assert!(share <= 24.0, "{share} % at 20, helper {helper}");
        worker.console.kill();
    }
}
