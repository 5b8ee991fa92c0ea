use std::time::{Duration, Instant};

use cuota_tests::machine::Machine;
use cuota_tests::wait::eventually;

use crate::{ENDLESS, MS, Worker};

/// What programs get of what all of them get together, in per cent, while each has work without end.
fn shares_of(machine: &Machine, workers: Vec<Worker>) -> Vec<f64> {
    shares_by(|worker| worker.used_ns(machine), workers)
}

/// The same, with what says how much GPU time a program's tenant has used, ns.
pub(crate) fn shares_by(used_ns: impl Fn(&Worker) -> u64, mut workers: Vec<Worker>) -> Vec<f64> {
    workers.iter_mut().for_each(|worker| worker.begin(ENDLESS));
    let used = || -> Vec<u64> { workers.iter().map(&used_ns).collect() };
    // What each learns at first is not looked at.
    eventually("they have begun", || used().iter().sum::<u64>() > 400 * MS);
    let before = used();
    eventually("they go on", || used().iter().sum::<u64>() > before.iter().sum::<u64>() + 1_500 * MS);
    let taken: Vec<u64> = used().iter().zip(&before).map(|(after, before)| after - before).collect();
    workers.into_iter().for_each(|worker| worker.console.kill());
    let all: u64 = taken.iter().sum();
    taken.iter().map(|ns| 100.0 * *ns as f64 / all as f64).collect()
}

#[track_caller]
fn share(options: &[&[&str]], due: &[f64]) {
    are_due(due, || {
        let machine = Machine::new();
        let workers = (0..).zip(options);
        let workers =
            workers.map(|(number, options)| Worker::start(&machine, &format!("t{number}"), options, MS / 2));
        shares_of(&machine, workers.collect())
    });
}

/// One of three tries is to be as it is due: who gets no processor loses its turn (docs/turns.md, Limits).
#[track_caller]
pub(crate) fn are_due(due: &[f64], shares: impl Fn() -> Vec<f64>) {
    let mut tries = Vec::new();
    for _ in 0..3 {
        let shares = shares();
        if shares.iter().zip(due).all(|(share, due)| (share - due).abs() <= 10.0) {
            return;
        }
        tries.push(shares);
    }
    panic!("{tries:?} where {due:?} was due");
}

#[test]
fn two_of_equal_weight_have_half_each() {
    share(&[&[], &[]], &[50.0, 50.0]);
}

#[test]
fn shares_follow_the_weights() {
    share(&[&["--weight", "300"], &["--weight", "100"]], &[75.0, 25.0]);
}

#[test]
fn guarantee_is_kept_beside_others_with_larger_weights() {
    let greedy: &[&str] = &["--weight", "1000"];
    share(&[&["--guarantee", "60%", "--weight", "1"], greedy, greedy], &[60.0, 20.0, 20.0]);
}

#[test]
fn high_priority_has_the_gpu_while_it_is_busy() {
    share(&[&["--priority", "high"], &[]], &[100.0, 0.0]);
}

#[test]
fn each_of_eight_has_turns() {
    let machine = Machine::new();
    let workers = (0..8).map(|number| Worker::start(&machine, &format!("t{number}"), &[], MS / 2));
    let shares = shares_of(&machine, workers.collect());
    // 12.5 each.
    assert!(shares.iter().all(|share| (3.0..30.0).contains(share)), "{shares:?}");
}

#[test]
fn what_was_queued_alone_is_no_debt() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "a", &[], MS / 2);
    // The driver's queue is full of them, for half a second.
    first.begin(ENDLESS);
    let mut second = Worker::start(&machine, "b", &[], MS / 2);
    second.begin(ENDLESS);
    let used = [&first, &second].map(|worker| move |machine: &Machine| worker.used_ns(machine));
    eventually("the queue has drained", || used[0](&machine) > 100 * MS);
    let second_had_ns = used[1](&machine);
    assert!(second_had_ns < 800 * MS, "the first waited while the second had {second_had_ns} ns");
    [first, second].into_iter().for_each(|worker| worker.console.kill());
}

#[test]
fn nothing_rests_on_the_helper() {
    let machine = Machine::new();
    let workers = ["a", "b"].map(|tenant| {
        let program = machine.tenant_with(tenant, &[]).with("CUOTA_HELPER", "off");
        Worker::on(program.start_with_context(), tenant, MS / 2)
    });
    let shares = shares_of(&machine, workers.into());
    assert!((shares[0] - 50.0).abs() <= 10.0, "{shares:?}");
}

/// Programs of the tenant that ended just before this one are dead, and not yet buried: what they had stays booked for up to two seconds.
#[test]
fn tenant_whose_programs_have_ended_one_after_the_other_is_no_company() {
    let machine = Machine::new();
    for _ in 0..3 {
        let mut gone = Worker::start(&machine, "gone", &["--compute", "90%"], MS);
        gone.work(3);
        gone.console.finish();
    }
    let mut left = Worker::start(&machine, "left", &[], MS);
    left.work(200);
    assert_eq!(left.used_ns(&machine), 0);
    left.console.finish();
}

#[test]
fn one_that_is_alone_is_not_counted_until_another_comes() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "a", &[], MS / 2);
    first.work(200);
    assert_eq!(first.used_ns(&machine), 0);
    first.begin(ENDLESS);
    let mut second = Worker::start(&machine, "b", &[], MS / 2);
    second.work(20);
    eventually("the first is counted", || first.used_ns(&machine) > 100 * MS);
    second.console.finish();
    let mut before = 0;
    eventually("it is not counted any more", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        core::mem::replace(&mut before, first.used_ns(&machine)) == before
    });
    first.console.kill();
}

#[test]
fn one_that_has_nothing_to_launch_keeps_nobody_waiting() {
    let machine = Machine::new();
    let [mut idle, mut busy] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS / 2));
    idle.work(20);
    let before = idle.used_ns(&machine);
    // Each of its turns would be waited for, were it offered any.
    busy.work(1_000);
    assert_eq!(idle.used_ns(&machine), before);
    idle.work(20);
    [idle, busy].into_iter().for_each(|worker| worker.console.finish());
}

#[test]
fn steps_that_a_program_waits_for_in_its_turns_count_in_the_books() {
    const STEPS: u32 = 60;
    let machine = Machine::new();
    let [mut high, mut other] = [("a", &["--priority", "high"][..]), ("b", &[])]
        .map(|(name, options)| Worker::start(&machine, name, options, MS));
    other.begin(ENDLESS);
    // The kernel is known, and others are there.
    high.work(20);
    let (began, before) = (Instant::now(), high.used_ns(&machine));
    (0..STEPS).for_each(|_| high.work(1));
    let (elapsed, used) = (began.elapsed(), Duration::from_nanos(high.used_ns(&machine) - before));
    let work = STEPS * Duration::from_millis(1);
    assert!((work * 9 / 10..=elapsed).contains(&used), "{used:?} of {work:?} in {elapsed:?}");
    [high, other].into_iter().for_each(|worker| worker.console.kill());
}
