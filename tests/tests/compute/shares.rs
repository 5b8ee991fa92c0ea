use std::time::Instant;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::machine::Machine;

use crate::{End, MS, Worker, assert_share, meter, spin};

/// What a program that never waits for its kernels gets done in some 1.5 s, in per cent of the time.
fn share_at(machine: &Machine, tenant: &str, percent: u64, helper: &str) -> f64 {
    let console = machine
        .tenant_with(tenant, &["--compute", &format!("{percent}%")])
        .with("CUOTA_HELPER", helper)
        .start_with_context();
    let mut worker = Worker::on(console, MS);
    // Kernels that are known, and a budget without credit.
    worker.launch(percent.max(20));
    worker.synchronize();
    let (count, begin) = (15 * percent, Instant::now());
    worker.launch(count);
    worker.synchronize();
    let share = 100.0 * count as f64 * MS as f64 / begin.elapsed().as_nanos() as f64;
    worker.console.finish();
    share
}

#[track_caller]
fn holds(percent: u64, helper: &str) {
    let machine = Machine::new();
    let (cap, mut turn) = (percent as f64, 0);
    // A quantum of credit is left at most: 20 ms of the cap in 1.5 s.
    for _ in 0..3 {
        assert_share((cap - 10.0).max(cap * 0.8), cap * 1.02 + 0.5, || {
            turn += 1;
            share_at(&machine, &format!("t{turn}"), percent, helper)
        });
    }
}

#[test]
fn program_gets_half_the_gpu_under_a_cap_of_half() {
    holds(50, "on");
}

#[test]
fn program_gets_a_tenth_and_nine_tenths() {
    holds(10, "on");
    holds(90, "on");
}

#[test]
fn nothing_rests_on_the_helper() {
    holds(50, "off");
}

#[test]
fn without_a_cap_nothing_is_counted_and_nothing_waits() {
    let machine = Machine::new();
    for compute in ["off", "100%"] {
        let mut worker = Worker::start(&machine, "free", compute, MS);
        worker.launch(50);
        worker.synchronize();
        assert_eq!(meter(&machine, "free"), (0, 0));
        worker.console.finish();
    }
}

#[test]
fn books_agree_with_the_work_and_the_time_waited() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "25%", MS);
    worker.launch(200);
    worker.synchronize();
    // What was in flight is settled by the helper, or by the next look.
    crate::eventually("what was launched is in the books", || meter(&machine, "t").0 >= 190 * MS);
    let (used_ns, throttled_ns) = meter(&machine, "t");
    assert!(used_ns <= 300 * MS, "{used_ns} ns for 200 ms of work");
    assert!(throttled_ns >= 300 * MS, "{throttled_ns} ns waited for 800 ms");
    worker.console.finish();
}

#[test]
fn streams_that_overlap_are_charged_once_beside_an_idle_neighbour() {
    const ROUNDS: u64 = 60;
    let machine = Machine::new();
    // A context on the GPU is all that makes it a neighbour.
    let neighbour = machine.native().start_with_context();
    let used_ns = |tenant: &str| {
        let console = machine.tenant_with(tenant, &["--compute", "95%"]).start_with_context();
        // Each fills a quarter of the GPU at most.
        let code = String::from_utf8(spin(MS, End::Well)).expect("PTX is text").replace("sms=132", "sms=33");
        let mut worker = Worker::with(console, code.as_bytes());
        let mut streams = vec![worker.stream];
        streams
            .extend((0..3).map(|_| worker.console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0)));
        for _ in 0..ROUNDS {
            for stream in &streams {
                worker.begin(1, *stream);
                assert_eq!(worker.console.hear().status, 0);
            }
        }
        worker.console.synchronize();
        worker.console.finish();
        meter(&machine, tenant).0
    };
    let used = ["t1", "t2", "t3"].map(used_ns);
    // Two at a time are let in, which makes half of the sum of the streams; a busy machine keeps some of them apart.
    let least_ns = used.into_iter().min().unwrap_or(u64::MAX);
    assert!(
        least_ns <= 4 * ROUNDS * MS * 7 / 10,
        "{used:?} ns for {} ms on four streams at once",
        4 * ROUNDS
    );
    neighbour.finish();
}
