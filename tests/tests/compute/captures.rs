//! The capture table: under a cap, a program that captures gets the driver's own answers, call by call.

use std::thread::sleep;
use std::time::Duration;

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;

use crate::{MS, Worker, eventually, meter};

/// `CU_STREAM_CAPTURE_MODE_*`: global, of the thread, relaxed.
const MODES: [u64; 3] = [0, 1, 2];

/// What the driver answers while one stream captures in `mode`: to launches on it, on another stream that is or is not blocking, on the
/// legacy stream; at the end; and to the graph's launch.
fn answers(console: Console, mode: u64, captures_blocking: bool) -> Vec<i64> {
    let mut worker = Worker::on(console, MS / 10);
    // Known kernels and open batches, on the legacy stream too.
    worker.launch(30);
    worker.begin(3, 0);
    let _ = worker.console.hear();
    let flag = u64::from(!captures_blocking);
    let captured = worker.console.call("cuStreamCreate", &[Out(8), Is(flag)]).ok().number(0);
    let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    worker.begin(3, captured);
    let _ = worker.console.hear();
    let mut answers = Vec::new();
    answers.push(worker.console.call("cuStreamBeginCapture_v2", &[Is(captured), Is(mode)]).status);
    for stream in [captured, worker.stream, blocking, captured] {
        for _ in 0..12 {
            worker.begin(1, stream);
            answers.push(worker.console.hear().status);
        }
    }
    let ended = worker.console.call("cuStreamEndCapture", &[Is(captured), Out(8)]);
    answers.push(ended.status);
    let graph = ended.number(0);
    let executable = worker.console.call("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(0)]);
    answers.push(executable.status);
    for _ in 0..5 {
        let launched = [Is(executable.number(0)), Is(worker.stream)];
        answers.push(worker.console.call("cuGraphLaunch", &launched).status);
    }
    // A capture that the legacy stream ruins, or not: as the driver says.
    answers.push(worker.console.call("cuStreamBeginCapture_v2", &[Is(captured), Is(mode)]).status);
    worker.begin(1, 0);
    answers.push(worker.console.hear().status);
    answers.push(worker.console.call("cuStreamEndCapture", &[Is(captured), Out(8)]).status);
    worker.launch(30);
    answers.push(worker.console.call("cuCtxSynchronize", &[]).status);
    worker.console.finish();
    answers
}

#[test]
fn captures_get_the_drivers_own_answers_under_a_cap() {
    let machine = Machine::new();
    for mode in MODES {
        for captures_blocking in [false, true] {
            let native = answers(machine.native().start_with_context(), mode, captures_blocking);
            let capped = machine.tenant_with("t", &["--compute", "50%"]).start_with_context();
            assert_eq!(
                answers(capped, mode, captures_blocking),
                native,
                "mode {mode}, capturing stream blocking: {captures_blocking}"
            );
        }
    }
}

#[test]
fn capture_is_not_ruined_by_what_is_asked_of_bursts_on_another_stream_meanwhile() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", MS / 10);
    // Bursts of changing lengths: when one has ended is looked at from outside.
    let bursts = |worker: &mut Worker| {
        for turn in 0..100 {
            worker.begin(1 + turn % 5, worker.stream);
            assert_eq!(worker.console.hear().status, 0);
            sleep(Duration::from_micros(700));
        }
    };
    bursts(&mut worker);
    let captured = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
    let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(captured), Is(0)]).ok();
    bursts(&mut worker);
    let _ = worker.console.call("cuStreamEndCapture", &[Is(captured), Out(8)]).ok();
    worker.console.finish();
}

/// Launches on the legacy stream `count` times, and waits for all.
#[track_caller]
fn launch_on_legacy(worker: &mut Worker, count: u64) {
    for _ in 0..count {
        worker.begin(1, 0);
        assert_eq!(worker.console.hear().status, 0);
        // Not the context: it has a stream that captures, which no card's driver waits for.
        let _ = worker.console.call("cuStreamSynchronize", &[Is(0)]).ok();
    }
}

/// Begins a capture that is never ended.
#[track_caller]
fn leave_a_capture_open(worker: &mut Worker) {
    let stream = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
    let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(stream), Is(2)]).ok();
}

#[test]
fn legacy_stream_is_measured_while_a_stream_that_does_not_block_it_captures() {
    const COUNT: u64 = 8;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", 10 * MS);
    leave_a_capture_open(&mut worker);
    // One that did block it is over.
    let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(blocking), Is(2)]).ok();
    let _ = worker.console.call("cuStreamEndCapture", &[Is(blocking), Out(8)]).ok();
    launch_on_legacy(&mut worker, COUNT);
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 9 * MS);
    let used_ns = meter(&machine, "t").0;
    assert!(used_ns <= COUNT * 25 * MS, "{used_ns} ns for {COUNT} kernels of 10 ms");
    worker.console.finish();
}

/// Launches on the legacy stream `count` times, and waits for each as a program does that tells nobody.
#[track_caller]
fn launch_on_legacy_and_poll(worker: &mut Worker, count: u64) {
    for _ in 0..count {
        worker.begin(1, 0);
        assert_eq!(worker.console.hear().status, 0);
        eventually("it has ended", || worker.console.call("cuStreamQuery", &[Is(0)]).status == 0);
    }
}

/// Two streams wait for one another, so that the second takes part in the first one's capture.
#[track_caller]
fn join(worker: &mut Worker, captured: u64, joining: u64) {
    let event = worker.console.call("cuEventCreate", &[Out(8), Is(2)]).ok().number(0);
    for (from, to) in [(captured, joining), (joining, captured)] {
        let _ = worker.console.call("cuEventRecord", &[Is(event), Is(from)]).ok();
        let _ = worker.console.call("cuStreamWaitEvent", &[Is(to), Is(event), Is(0)]).ok();
        worker.begin(1, to);
        assert_eq!(worker.console.hear().status, 0);
    }
}

#[test]
fn blocking_stream_bars_the_legacy_one_no_longer_than_its_own_capture_lives() {
    const COUNT: u64 = 8;
    for is_destroyed in [false, true] {
        let machine = Machine::new();
        let mut worker = Worker::start(&machine, "t", "90%", 10 * MS);
        leave_a_capture_open(&mut worker);
        let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
        if is_destroyed {
            let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(blocking), Is(2)]).ok();
            let _ = worker.console.call("cuStreamDestroy_v2", &[Is(blocking)]).ok();
        } else {
            let captured = worker.stream;
            let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(captured), Is(2)]).ok();
            join(&mut worker, captured, blocking);
            let _ = worker.console.call("cuStreamEndCapture", &[Is(captured), Out(8)]).ok();
        }
        launch_on_legacy_and_poll(&mut worker, COUNT);
        eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 9 * MS);
        let used_ns = meter(&machine, "t").0;
        assert!(used_ns <= COUNT * 25 * MS, "{used_ns} ns for {COUNT} kernels of 10 ms");
        worker.console.finish();
    }
}

/// With 64 streams in captures the next is not noted by itself.
#[test]
fn blocking_stream_that_captures_beside_64_others_bars_the_legacy_one_no_longer_than_it_does() {
    const COUNT: u64 = 8;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", 10 * MS);
    for _ in 0..64 {
        leave_a_capture_open(&mut worker);
    }
    let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(blocking), Is(2)]).ok();
    let _ = worker.console.call("cuStreamEndCapture", &[Is(blocking), Out(8)]).ok();
    launch_on_legacy_and_poll(&mut worker, COUNT);
    sleep(Duration::from_secs(1));
    launch_on_legacy_and_poll(&mut worker, COUNT);
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 18 * MS);
    let used_ns = meter(&machine, "t").0;
    assert!(used_ns <= COUNT * 50 * MS, "{used_ns} ns for {COUNT} kernels of 20 ms");
    worker.console.finish();
}

#[test]
fn capture_that_goes_with_its_context_leaves_nothing_behind() {
    const COUNT: u64 = 8;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", 10 * MS);
    let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(blocking), Is(2)]).ok();
    let _ = worker.console.call("cuDevicePrimaryCtxReset_v2", &[Is(0)]).ok();
    worker.console.use_primary_context();
    let mut worker = Worker::on(worker.console, 10 * MS);
    launch_on_legacy(&mut worker, COUNT);
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 9 * MS);
    worker.console.finish();
}

#[test]
fn capture_that_a_blocking_stream_has_joined_is_not_ruined() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "50%", MS / 10);
    let blocking = worker.console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    for _ in 0..3 {
        // A batch is open on the legacy stream when the other joins, and the helper will find it quiet.
        launch_on_legacy(&mut worker, 3);
        worker.begin(3, 0);
        assert_eq!(worker.console.hear().status, 0);
        let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(worker.stream), Is(2)]).ok();
        worker.launch(1);
        let captured = worker.stream;
        join(&mut worker, captured, blocking);
        std::thread::sleep(std::time::Duration::from_millis(5));
        let ended = worker.console.call("cuStreamEndCapture", &[Is(worker.stream), Out(8)]);
        assert_eq!(ended.status, 0);
    }
    worker.console.finish();
}

#[test]
fn captures_of_several_threads_are_not_ruined_and_what_runs_beside_them_is_charged() {
    let machine = Machine::new();
    let guest = build::program("capturers");
    for mode in MODES {
        let name = format!("t{mode}");
        let programs = [machine.native_of(&guest), machine.run(&guest, &name, &["--compute", "60%"])];
        for mut program in programs {
            let output = program.command().arg(mode.to_string()).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said, "failures: 0, the last with 0\n", "mode {mode}: {output:?}");
        }
        // 900 launches of 50 µs beside captures, and 180 between them.
        let used_ns = meter(&machine, &name).0;
        assert!(used_ns >= 1_080 * MS / 20 * 8 / 10, "mode {mode}: {used_ns} ns");
    }
}
