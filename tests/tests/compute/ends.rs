//! What a context or a process leaves on the GPU when it ends is paid for, too.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out, Parameter};
use cuota_tests::console::Console;
use cuota_tests::machine::{Machine, skip};

use crate::{End, MS, Worker, eventually, meter, spin, spin_as_told};

/// The kernel's length, and what of it must be in the books at least.
const LONG: u64 = 200 * MS;
const MOST_OF_IT: u64 = LONG * 9 / 10;

/// A process of the tenant that only joins it; what its tenant has used and waited then, ns.
#[track_caller]
fn after_the_next_joins(machine: &Machine) -> (u64, u64) {
    let next = Worker::start(machine, "t", "20%", MS);
    let found = meter(machine, "t");
    next.console.finish();
    found
}

/// A program with or without a helper thread, with a kernel of so many nanoseconds.
#[track_caller]
fn with_helper(machine: &Machine, helper: &str, ns: u64) -> Worker {
    let program = machine.tenant_with("t", &["--compute", "20%"]).with("CUOTA_HELPER", helper);
    Worker::on(program.start_with_context(), ns)
}

#[test]
fn work_of_a_process_that_ends_at_once_is_charged() {
    for helper in ["on", "off"] {
        let machine = Machine::new();
        let mut first = with_helper(&machine, helper, LONG);
        first.launch(1);
        first.synchronize();
        first.console.kill();
        let (used_ns, _) = after_the_next_joins(&machine);
        assert!((MOST_OF_IT..2 * LONG).contains(&used_ns), "{used_ns} ns, helper {helper}");
    }
}

#[test]
fn work_that_nobody_saw_end_is_charged() {
    for helper in ["on", "off"] {
        let machine = Machine::new();
        let mut first = with_helper(&machine, helper, LONG);
        first.launch(1);
        // As a program waits that tells nobody.
        eventually("the kernel has ended", || {
            first.console.call("cuStreamQuery", &[Is(first.stream)]).status == 0
        });
        first.console.kill();
        let (used_ns, _) = after_the_next_joins(&machine);
        assert!(used_ns >= MOST_OF_IT, "{used_ns} ns, helper {helper}");
    }
}

#[test]
fn kernel_that_runs_when_its_process_is_killed_is_charged_and_waited_for() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", 10 * LONG);
    first.launch(1);
    sleep(Duration::from_nanos(LONG));
    first.console.kill();
    let mut second = Worker::start(&machine, "t", "20%", MS);
    let (used_ns, _) = meter(&machine, "t");
    assert!(used_ns >= LONG / 2, "{used_ns} ns");
    second.launch(3);
    second.synchronize();
    let (_, throttled_ns) = meter(&machine, "t");
    assert!(throttled_ns >= LONG, "waited {throttled_ns} ns behind {used_ns} at 20 %");
    second.console.finish();
}

#[test]
fn kernel_that_runs_when_its_program_returns_is_charged() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", 10 * LONG);
    first.launch(1);
    sleep(Duration::from_nanos(LONG));
    first.console.finish();
    let (used_ns, _) = after_the_next_joins(&machine);
    assert!(used_ns >= LONG / 2, "{used_ns} ns");
}

#[test]
fn process_that_ends_with_nothing_in_flight_is_charged_nothing_more() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", MS);
    first.launch(10);
    first.synchronize();
    sleep(Duration::from_nanos(LONG));
    let (used_ns, _) = meter(&machine, "t");
    first.console.kill();
    assert_eq!(after_the_next_joins(&machine).0, used_ns);
}

#[test]
fn process_that_ends_with_an_open_batch_is_not_charged_what_its_exit_handlers_take() {
    let machine = Machine::new();
    let guest = build::program("slow_exit");
    for _ in 0..3 {
        let output = machine.run(&guest, "t", &["--compute", "90%"]).command().output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
    }
    let (used_ns, _) = after_the_next_joins(&machine);
    assert!((33 * MS * 9 / 10..500 * MS).contains(&used_ns), "{used_ns} ns for 33 ms of work");
}

#[test]
fn work_that_waits_behind_a_value_when_its_process_ends_is_not_charged() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", MS);
    first.launch(5);
    first.synchronize();
    let word = first.console.call("cuMemAlloc_v2", &[Out(8), Is(64)]).ok().number(0);
    let _ = first.console.call("cuMemsetD8_v2", &[Is(word), Is(0), Is(64)]).ok();
    first.console.synchronize();
    let arguments = [Is(first.stream), Is(word), Is(1), Is(0)];
    let _ = first.console.call("cuStreamWaitValue32_v2", &arguments).ok();
    first.launch(1);
    sleep(Duration::from_secs(2));
    first.console.kill();
    let (used_ns, _) = after_the_next_joins(&machine);
    assert!(used_ns < 500 * MS, "{used_ns} ns for 6 ms of work");
}

#[test]
fn work_of_a_context_that_is_destroyed_is_charged() {
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "90%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    for _ in 0..3 {
        let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
        let mut worker = Worker::on(console, LONG);
        worker.launch(1);
        console = worker.console;
        let _ = console.call("cuCtxDestroy_v2", &[Is(context)]).ok();
    }
    let (used_ns, _) = meter(&machine, "t");
    assert!(used_ns >= 3 * MOST_OF_IT, "{used_ns} ns");
    console.finish();
}

#[test]
fn kernel_that_ends_in_a_fault_is_charged() {
    let machine = Machine::new();
    let console = machine.tenant_with("t", &["--compute", "20%"]).start_with_context();
    let mut worker = Worker::with(console, &spin(LONG, End::InAFault));
    worker.launch(1);
    assert_ne!(worker.console.call("cuStreamSynchronize", &[Is(worker.stream)]).status, 0);
    worker.console.kill();
    let (used_ns, _) = after_the_next_joins(&machine);
    assert!(used_ns >= MOST_OF_IT, "{used_ns} ns");
}

/// A program of which the helper thread is somewhere between a handle and the driver for 40 ms, and aborts where the handle is gone.
#[track_caller]
fn with_a_slow_helper(machine: &Machine) -> Console {
    let program = machine.tenant_with("t", &["--compute", "99%"]).with("CUOTA_SIM_HESITATION_MS", "40");
    let mut console = program.start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    console
}

/// Makes a context and a stream, and leaves a batch open there that goes quiet.
#[track_caller]
fn in_a_context(mut console: Console) -> (Worker, u64) {
    let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
    let mut worker = Worker::on(console, MS);
    worker.launch(1);
    worker.synchronize();
    worker.launch(4);
    (worker, context)
}

#[test]
fn context_that_is_destroyed_waits_for_the_helper_that_is_about_to_use_it() {
    let machine = Machine::new();
    let mut console = with_a_slow_helper(&machine);
    for pause in 0..6 {
        let (worker, context) = in_a_context(console);
        console = worker.console;
        sleep(Duration::from_millis(pause));
        let _ = console.call("cuCtxDestroy_v2", &[Is(context)]).ok();
    }
    console.finish();
}

#[test]
fn stream_that_is_destroyed_waits_for_the_helper_that_is_about_to_use_it() {
    let machine = Machine::new();
    let (mut worker, _) = in_a_context(with_a_slow_helper(&machine));
    for pause in 0..6 {
        worker.launch(4);
        sleep(Duration::from_millis(42 + 4 * pause));
        // Made before: else it may be where the other was.
        let next = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        let _ = worker.console.call("cuStreamDestroy_v2", &[Is(worker.stream)]).ok();
        sleep(Duration::from_millis(100));
        worker.stream = next;
    }
    worker.console.finish();
}

#[test]
fn idle_time_behind_more_batches_than_are_followed_is_not_charged() {
    const WORK: u64 = 400 * MS;
    let machine = Machine::new();
    let console = machine.tenant_with("t", &["--compute", "50%"]).start_with_context();
    let mut worker = Worker::with(console, &spin_as_told());
    worker.launch_as_told(WORK, worker.stream);
    // Each of a shape that is not known, and so a batch of its own.
    let (one, none, parameter) = (Is(1), Is(0), 1_000_u64.to_le_bytes());
    for grid in 2..20 {
        let shape = [Is(worker.function), Is(grid), one, one, one, one, one, none];
        let rest = [Is(worker.stream), Parameter(&parameter), none];
        let _ = worker.console.call("cuLaunchKernel", &[&shape[..], &rest[..]].concat()).ok();
    }
    worker.synchronize();
    sleep(Duration::from_secs(1));
    worker.launch_as_told(1_000, worker.stream);
    worker.synchronize();
    let (used_ns, _) = meter(&machine, "t");
    assert!(used_ns <= WORK * 3 / 2, "{used_ns} ns for {WORK} ns of work");
    worker.console.finish();
}

/// Lets the program take so many bytes of memory more, or with `None` as many as it likes. `false`: that cannot be done here.
fn leave_room(console: &Console, bytes: Option<u64>) -> bool {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", console.pid())).expect("it runs");
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
    let most = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| (pages * 4096 + bytes).to_string());
    let pid = console.pid().to_string();
    let output = Command::new("prlimit").args(["--pid", &pid, &format!("--as={most}:unlimited")]).output();
    output.is_ok_and(|output| output.status.success())
}

fn threads(console: &Console) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", console.pid())).expect("it runs").count()
}

#[test]
fn helper_that_had_no_room_comes_later_and_what_ran_without_it_is_charged() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", 10 * LONG);
    if !leave_room(&first.console, Some(160 << 10)) {
        return skip("there is no prlimit here, or it may not limit the program");
    }
    let before = threads(&first.console);
    first.launch(1);
    assert_eq!(threads(&first.console), before, "there was room for a thread");
    assert!(leave_room(&first.console, None));
    eventually("the kernel has ended", || {
        first.console.call("cuStreamQuery", &[Is(first.stream)]).status == 0
    });
    first.console.kill();
    let (used_ns, _) = after_the_next_joins(&machine);
    assert!(used_ns >= 10 * MOST_OF_IT, "{used_ns} ns");
    let mut second = Worker::start(&machine, "u", "20%", MS);
    assert!(leave_room(&second.console, Some(160 << 10)));
    second.launch(1);
    let before = threads(&second.console);
    assert!(leave_room(&second.console, None));
    sleep(Duration::from_nanos(LONG));
    second.launch(1);
    eventually("there is a helper", || threads(&second.console) > before);
    second.console.finish();
}
