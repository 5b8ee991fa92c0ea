//! Contexts that come and go, and several at once.

use std::thread::sleep;
use std::time::Duration;

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::machine::{Machine, skip};

use crate::{MS, Worker, eventually, meter, spin_as_told};

/// Makes a context of the first device, which is current then.
#[track_caller]
fn make_context(console: &mut Console) -> u64 {
    console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0)
}

/// Waits until all work on `stream` has ended, as a program does that asks now and then: nothing tells the limiter.
#[track_caller]
fn poll(worker: &mut Worker, stream: u64) {
    eventually("the stream has ended", || worker.console.call("cuStreamQuery", &[Is(stream)]).status == 0);
}

/// Launches on the legacy stream kernels that are known to take a microsecond, and lets the helper close their batches.
#[track_caller]
fn learn(worker: &mut Worker) {
    for _ in 0..10 {
        worker.launch_as_told(1_000, 0);
        poll(worker, 0);
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn helper_measures_in_the_context_that_took_anothers_place() {
    const COUNT: u64 = 10;
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "90%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let first = make_context(&mut console);
    let mut worker = Worker::with(console, &spin_as_told());
    learn(&mut worker);
    let _ = worker.console.call("cuCtxDestroy_v2", &[Is(first)]).ok();
    make_context(&mut worker.console);
    let mut worker = Worker::with(worker.console, &spin_as_told());
    learn(&mut worker);
    for _ in 0..COUNT {
        worker.launch_as_told(10 * MS, 0);
        poll(&mut worker, 0);
    }
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 8 * MS);
    worker.console.finish();
}

/// A stream of a green context of the first device's multiprocessors, 33 at least; `None` where the driver makes none.
fn green_stream(console: &mut Console) -> Option<u64> {
    /// sizeof(CUdevResource), and `CU_DEV_RESOURCE_TYPE_SM`.
    const RESOURCE_BYTES: usize = 144;
    const SM: u64 = 1;
    /// `CU_GREEN_CTX_DEFAULT_STREAM`, and `CU_STREAM_NON_BLOCKING`.
    const DEFAULT_STREAM: u64 = 1;
    const NON_BLOCKING: u64 = 1;
    let resource = console.call("cuDeviceGetDevResource", &[Is(0), Out(RESOURCE_BYTES), Is(SM)]);
    if resource.status != 0 {
        return None;
    }
    let described = [Out(8), At(&resource.wrote[0]), Is(1)];
    let description = console.call("cuDevResourceGenerateDesc", &described).ok().number(0);
    let arguments = [Out(8), Is(description), Is(0), Is(DEFAULT_STREAM)];
    let green = console.call("cuGreenCtxCreate", &arguments).ok().number(0);
    let arguments = [Out(8), Is(green), Is(NON_BLOCKING), Is(0)];
    Some(console.call("cuGreenCtxStreamCreate", &arguments).ok().number(0))
}

#[test]
fn stream_of_a_green_context_is_charged_beside_other_contexts() {
    const COUNT: u64 = 10;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "90%", 10 * MS);
    let (primary, _) =
        (worker.console.call("cuCtxGetCurrent", &[Out(8)]).ok().number(0), make_context(&mut worker.console));
    let _ = worker.console.call("cuCtxSetCurrent", &[Is(primary)]).ok();
    let Some(stream) = green_stream(&mut worker.console) else {
        return skip("the driver makes no green context");
    };
    for _ in 0..COUNT {
        worker.begin(1, stream);
        assert_eq!(worker.console.hear().status, 0);
        let _ = worker.console.call("cuStreamSynchronize", &[Is(stream)]).ok();
    }
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 9 * MS);
    let used_ns = meter(&machine, "t").0;
    assert!(used_ns <= COUNT * 25 * MS, "{used_ns} ns for {COUNT} kernels of 10 ms");
    worker.console.finish();
}

#[test]
fn call_before_the_driver_is_begun_takes_no_cap_off() {
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "20%"]).start();
    assert_ne!(console.call("cuMemsetD8_v2", &[Is(0), Is(0), Is(0)]).status, 0);
    console.use_primary_context();
    let mut worker = Worker::on(console, 5 * MS);
    worker.launch(20);
    worker.synchronize();
    eventually("the books have its work", || meter(&machine, "t").0 >= 90 * MS);
    assert!(meter(&machine, "t").1 > 50 * MS, "its launches have waited");
    worker.console.finish();
}
