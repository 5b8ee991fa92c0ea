//! Contexts that come and go, and several at once.

use std::thread::sleep;
use std::time::Duration;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;

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
