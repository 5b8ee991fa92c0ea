//! Work that no timing event measures, since its context has no more of them: it is charged by the host's clock, whatever becomes of its
//! stream meanwhile.

use cuota_tests::console::Arg::{Is, Out, Parameter};
use cuota_tests::machine::{Machine, has_real_gpu, skip};

use crate::{MS, Worker, eventually, meter, spin_as_told};

/// What each kernel takes of which the books are to have all.
const LONG: u64 = 100 * MS;

/// `CUDA_ERROR_NOT_PERMITTED`.
const NOT_PERMITTED: i64 = 800;

/// A program whose context has no two timing events left: the others lie behind a value that nobody writes, in streams that wait for it.
/// A stream has two for each of 16 batches and one more at most, and the union has one of the 512.
#[track_caller]
fn blind(machine: &Machine) -> Worker {
    const BATCHES: [u64; 16] = [17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 8];
    let console = machine.tenant_with("t", &["--compute", "90%"]).start_with_context();
    let mut worker = Worker::with(console, &spin_as_told());
    for _ in 0..5 {
        worker.launch_as_told(1_000, worker.stream);
        worker.synchronize();
    }
    let word = worker.console.alloc(4096).expect("a page");
    for batches in BATCHES {
        let stream = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        for _ in 0..batches {
            let arguments = [Is(stream), Is(word), Is(1), Is(0)];
            let _ = worker.console.call("cuStreamWaitValue32_v2", &arguments).ok();
            worker.launch_as_told(1_000, stream);
        }
    }
    worker
}

/// What is charged while `act` does something with a kernel of 100 ms, whose end nobody is told.
#[track_caller]
fn is_charged(machine: &Machine, worker: &mut Worker, what: &str, act: fn(&mut Worker)) {
    let before_ns = meter(machine, "t").0;
    act(worker);
    let charged = || meter(machine, "t").0 - before_ns;
    eventually(what, || charged() >= LONG * 9 / 10);
    assert!(charged() <= LONG * 4, "{what}: {} ns", charged());
}

/// Waits as a program does that tells nobody.
#[track_caller]
fn poll(worker: &mut Worker, stream: u64) {
    eventually("the stream has ended", || worker.console.call("cuStreamQuery", &[Is(stream)]).status == 0);
}

#[test]
fn work_without_events_is_charged_whatever_becomes_of_its_stream() {
    if has_real_gpu() {
        return skip("streams share a card's channels, and one that waits holds up others");
    }
    let machine = Machine::new();
    let mut worker = blind(&machine);
    is_charged(&machine, &mut worker, "the stream captures", |worker| {
        worker.launch_as_told(LONG, worker.stream);
        let _ = worker.console.call("cuStreamBeginCapture_v2", &[Is(worker.stream), Is(2)]).ok();
        std::thread::sleep(std::time::Duration::from_nanos(LONG));
        let _ = worker.console.call("cuStreamEndCapture", &[Is(worker.stream), Out(8)]).ok();
        let stream = worker.stream;
        poll(worker, stream);
    });
    is_charged(&machine, &mut worker, "the stream is destroyed", |worker| {
        worker.launch_as_told(LONG, worker.stream);
        let _ = worker.console.call("cuStreamDestroy_v2", &[Is(worker.stream)]).ok();
    });
    is_charged(
        &machine,
        &mut worker,
        "the legacy stream is used in one context, and another is current",
        |worker| {
            let context = worker.console.call("cuCtxGetCurrent", &[Out(8)]).ok().number(0);
            worker.launch_as_told(LONG, 0);
            let _ = worker.console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok();
            std::thread::sleep(std::time::Duration::from_nanos(LONG));
            let _ = worker.console.call("cuCtxSetCurrent", &[Is(context)]).ok();
        },
    );
    is_charged(&machine, &mut worker, "the stream is that of a thread which has ended", |worker| {
        let (one, none, parameter) = (Is(1), Is(0), LONG.to_le_bytes());
        let function = Is(worker.function);
        let arguments = [function, one, one, one, one, one, one, none, Is(2), Parameter(&parameter), none];
        let done = worker.console.in_threads(1, 1, "cuLaunchKernel", &arguments);
        assert_eq!(done, (0, 1));
    });
    worker.console.kill();
}

/// The driver says of nothing there whether it has ended (`cuLaunchHostFunc`: a call may be `CUDA_ERROR_NOT_PERMITTED`).
#[test]
fn work_that_is_asked_for_in_a_host_function_is_charged_until_it_ends() {
    let machine = Machine::new();
    let console = machine.tenant_with("t", &["--compute", "90%"]).start_with_context();
    let mut worker = Worker::with(console, &spin_as_told());
    for _ in 0..5 {
        worker.launch_as_told(1_000, worker.stream);
        worker.synchronize();
    }
    // Where a card's driver permits it, the first would wait for its own end.
    let calls = ["cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"];
    for name in calls.into_iter().skip(usize::from(has_real_gpu())) {
        let before_ns = meter(&machine, "t").0;
        let calling = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        let event = worker.console.call("cuEventCreate", &[Out(8), Is(2)]).ok().number(0);
        worker.launch_as_told(LONG, worker.stream);
        let _ = worker.console.call("cuEventRecord", &[Is(event), Is(worker.stream)]).ok();
        let argument = if name.starts_with("cuEvent") { event } else { worker.stream };
        for _ in 0..3 {
            let status = worker.console.in_host_function(calling, name, &[Is(argument)]);
            assert!(status == NOT_PERMITTED || status == 0 && has_real_gpu(), "{name}: {status}");
        }
        let stream = worker.stream;
        poll(&mut worker, stream);
        worker.launch_as_told(1_000, worker.stream);
        worker.synchronize();
        let charged_ns = meter(&machine, "t").0 - before_ns;
        assert!((LONG * 9 / 10..=LONG * 4).contains(&charged_ns), "{name}: {charged_ns} ns for 100 ms");
    }
    worker.console.finish();
}
