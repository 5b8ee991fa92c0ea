use std::time::Instant;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::machine::Machine;

use crate::{MS, Worker};

/// A stream of the worker's besides its own.
fn another_stream(worker: &mut Worker) -> u64 {
    worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0)
}

#[test]
fn stream_that_waits_for_a_value_of_another_goes_on_at_a_low_cap() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "10%", MS);
    let waiting = another_stream(&mut worker);
    let word = worker.console.alloc(4096).expect("a page");
    for round in 1..=3 {
        let arguments = [Is(waiting), Is(word), Is(round), Is(0)];
        let _ = worker.console.call("cuStreamWaitValue32_v2", &arguments).ok();
        worker.begin(2, waiting);
        assert_eq!(worker.console.hear().status, 0);
        worker.launch(5);
        let arguments = [Is(worker.stream), Is(word), Is(round), Is(0)];
        let _ = worker.console.call("cuStreamWriteValue32_v2", &arguments).ok();
        let _ = worker.console.call("cuStreamSynchronize", &[Is(waiting)]).ok();
    }
    worker.synchronize();
    worker.console.finish();
}

#[test]
fn streams_that_wait_for_one_anothers_events_go_on_at_a_low_cap() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "10%", MS);
    let other = another_stream(&mut worker);
    let event = worker.console.call("cuEventCreate", &[Out(8), Is(2)]).ok().number(0);
    for _ in 0..4 {
        for (from, to) in [(worker.stream, other), (other, worker.stream)] {
            worker.begin(3, from);
            assert_eq!(worker.console.hear().status, 0);
            let _ = worker.console.call("cuEventRecord", &[Is(event), Is(from)]).ok();
            let _ = worker.console.call("cuStreamWaitEvent", &[Is(to), Is(event), Is(0)]).ok();
        }
    }
    worker.console.synchronize();
    worker.console.finish();
}

#[test]
fn long_kernels_go_on_and_are_paid_for_afterwards() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "50%", 60 * MS);
    worker.launch(8);
    worker.synchronize();
    worker.console.finish();
}

#[test]
fn destroyed_streams_and_contexts_leave_nothing_that_waits() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "30%", MS);
    for _ in 0..20 {
        let stream = another_stream(&mut worker);
        worker.begin(3, stream);
        assert_eq!(worker.console.hear().status, 0);
        let _ = worker.console.call("cuStreamDestroy_v2", &[Is(stream)]).ok();
    }
    worker.console.synchronize();
    let _ = worker.console.call("cuDevicePrimaryCtxReset_v2", &[Is(0)]).ok();
    worker.console.use_primary_context();
    let mut worker = Worker::on(worker.console, MS);
    worker.launch(20);
    worker.synchronize();
    worker.console.finish();
}

#[test]
fn kernel_that_waits_for_ever_lets_no_others_exceed_the_cap() {
    const COUNT: u64 = 16;
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "20%", 30 * MS);
    worker.launch(2);
    worker.synchronize();
    let waiting = another_stream(&mut worker);
    let word = worker.console.alloc(4096).expect("a page");
    let _ = worker.console.call("cuStreamWaitValue32_v2", &[Is(waiting), Is(word), Is(1), Is(0)]).ok();
    worker.begin(1, waiting);
    assert_eq!(worker.console.hear().status, 0);
    let begin = Instant::now();
    for _ in 0..COUNT {
        worker.launch(1);
        worker.synchronize();
    }
    let share = 100.0 * (COUNT * 30 * MS) as f64 / begin.elapsed().as_nanos() as f64;
    let _ = worker.console.call("cuStreamWriteValue32_v2", &[Is(worker.stream), Is(word), Is(1), Is(0)]).ok();
    worker.console.synchronize();
    worker.console.finish();
    assert!(share <= 25.0, "{share} under a cap of 20 %");
}
