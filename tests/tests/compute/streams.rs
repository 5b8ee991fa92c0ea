//! Streams that are used from elsewhere than where they were made, that are many, and that come and go.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::machine::{Machine, has_real_gpu, skip};

use crate::changes::set;
use crate::{MS, Worker, eventually, meter, spin_as_told};

#[test]
fn stream_used_with_another_context_current_is_measured() {
    const COUNT: u64 = 10;
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "90%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let own = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
    let mut worker = Worker::on(console, 5 * MS);
    let memory = worker.console.alloc(4096).expect("a page");
    let other = worker.console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
    // The first batches of the stream begin and end here: with events of the stream's own context, not of this one.
    for _ in 0..3 {
        let arguments = [Is(memory), Is(7), Is(4096), Is(worker.stream)];
        let _ = worker.console.call("cuMemsetD8Async", &arguments).ok();
        worker.synchronize();
    }
    let current = worker.console.call("cuCtxGetCurrent", &[Out(8)]).ok().number(0);
    assert_eq!(current, other, "the program's context is current still");
    let _ = worker.console.call("cuCtxSetCurrent", &[Is(own)]).ok();
    for _ in 0..COUNT {
        worker.launch(1);
        worker.synchronize();
    }
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 4 * MS);
    worker.console.finish();
}

#[test]
fn launches_go_on_beside_many_streams_that_wait() {
    // Streams share a card's few channels, where one that waits holds up all behind it, with us or without.
    let streams = if has_real_gpu() { 4 } else { 160 };
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "50%", MS);
    let word = worker.console.alloc(4096).expect("a page");
    worker.launch(5);
    worker.synchronize();
    for _ in 0..streams {
        let stream = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        let _ = worker.console.call("cuStreamWaitValue32_v2", &[Is(stream), Is(word), Is(1), Is(0)]).ok();
        worker.begin(1, stream);
        assert_eq!(worker.console.hear().status, 0);
    }
    worker.launch(20);
    worker.synchronize();
    let arguments = [Is(worker.stream), Is(word), Is(1), Is(0)];
    let _ = worker.console.call("cuStreamWriteValue32_v2", &arguments).ok();
    worker.console.synchronize();
    eventually("all of it is in the books", || meter(&machine, "t").0 >= (streams + 20) * MS * 9 / 10);
    worker.console.finish();
}

#[test]
fn stream_with_the_handle_of_one_destroyed_while_no_cap_bound_is_measured() {
    const COUNT: u64 = 10;
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "90%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let _ = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok();
    let mut worker = Worker::on(console, MS);
    worker.launch(1);
    worker.synchronize();
    assert!(set(&machine, &["t", "--compute", "off"]).status.success());
    worker.launch(1);
    let _ = worker.console.call("cuStreamDestroy_v2", &[Is(worker.stream)]).ok();
    let _ = worker.console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok();
    // The driver may give its stream the handle again.
    let mut worker = Worker::on(worker.console, 5 * MS);
    assert!(set(&machine, &["t", "--compute", "90%"]).status.success());
    for _ in 0..COUNT {
        worker.launch(1);
        worker.synchronize();
    }
    eventually("the books have its work", || meter(&machine, "t").0 >= COUNT * 4 * MS);
    worker.console.finish();
}

/// Without a helper nobody else settles anything.
#[test]
fn synchronisation_settles_what_it_has_waited_for_on_however_many_streams() {
    const STREAMS: u64 = 24;
    let machine = Machine::new();
    let console =
        machine.tenant_with("t", &["--compute", "99%"]).with("CUOTA_HELPER", "off").start_with_context();
    let mut worker = Worker::on(console, 2 * MS);
    let mut stream = || worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
    let streams: Vec<u64> = (0..STREAMS).map(|_| stream()).collect();
    for wait_for_all in [true, false] {
        let before_ns = meter(&machine, "t").0;
        for &stream in &streams {
            worker.begin(1, stream);
            assert_eq!(worker.console.hear().status, 0);
        }
        if wait_for_all {
            worker.console.synchronize();
        } else {
            for &stream in &streams {
                let _ = worker.console.call("cuStreamSynchronize", &[Is(stream)]).ok();
            }
        }
        let used_ns = meter(&machine, "t").0 - before_ns;
        // A card runs several of these kernels, of one block each, at once.
        let at_once = if has_real_gpu() { STREAMS } else { 1 };
        assert!(
            used_ns >= STREAMS / at_once * 2 * MS * 9 / 10,
            "{used_ns} ns in the books, all of them: {wait_for_all}"
        );
        worker.console.synchronize();
        let later_ns = meter(&machine, "t").0 - before_ns;
        assert_eq!(later_ns, used_ns, "what was not settled by then, all of them: {wait_for_all}");
    }
    worker.console.finish();
}

/// More streams are in flight than there are places, and those that were first wait until the others have theirs.
#[test]
fn work_of_streams_that_gave_up_their_places_is_charged_whenever_it_begins() {
    const DEAR: u64 = 24;
    const ALL: u64 = 512 + 30;
    const LONG: u64 = 40 * MS;
    const CHEAP: u64 = 1;
    if has_real_gpu() {
        return skip("streams share a card's channels, and one that waits holds up others");
    }
    let machine = Machine::new();
    // Without a helper, which would look at all of them all the time; and unwatched, which takes minutes with so many calls.
    let mut console = machine
        .tenant_with("t", &["--compute", "90%"])
        .with("CUOTA_HELPER", "off")
        .with("CUOTA_SIM_WATCH", "")
        .start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    // Each has events for a part of the streams.
    let mut contexts = Vec::new();
    for _ in 0..3 {
        let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
        let mut worker = Worker::with(console, &spin_as_told());
        for _ in 0..20 {
            worker.launch_as_told(CHEAP, worker.stream);
            worker.synchronize();
        }
        contexts.push((context, worker.function, worker.stream));
        console = worker.console;
    }
    let mut worker = Worker { console, function: 0, stream: 0 };
    let words = [0; 2].map(|_| worker.console.alloc(4096).expect("a page"));
    let mut dear = Vec::new();
    for (number, (context, function, _)) in (0..ALL).zip(contexts.iter().cycle().copied()) {
        let is_dear = number < DEAR;
        let _ = worker.console.call("cuCtxSetCurrent", &[Is(context)]).ok();
        let stream = worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        let word = words[usize::from(!is_dear)];
        let _ = worker.console.call("cuStreamWaitValue32_v2", &[Is(stream), Is(word), Is(1), Is(0)]).ok();
        worker.function = function;
        worker.launch_as_told(if is_dear { LONG } else { CHEAP }, stream);
        dear.extend(is_dear.then_some(stream));
    }
    let before_ns = meter(&machine, "t").0;
    let (_, _, own) = contexts[2];
    let _ = worker.console.call("cuStreamWriteValue32_v2", &[Is(own), Is(words[0]), Is(1), Is(0)]).ok();
    for stream in dear {
        eventually("it has ended", || worker.console.call("cuStreamQuery", &[Is(stream)]).status == 0);
    }
    (worker.function, worker.stream) = (contexts[2].1, own);
    worker.launch_as_told(CHEAP, own);
    worker.synchronize();
    let charged_ns = meter(&machine, "t").0 - before_ns;
    assert!(charged_ns >= DEAR * LONG * 9 / 10, "{charged_ns} of {} ns", DEAR * LONG);
    worker.console.kill();
}
