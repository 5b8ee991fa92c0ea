//! The rules of execution, on virtual time.

use super::*;
use std::cell::Cell;

#[derive(Default)]
struct Paper {
    stores: Vec<u64>,
    flag: Cell<u64>,
    calls: Vec<u64>,
}

impl World for Paper {
    fn perform(&mut self, effect: Effect) {
        if let Effect::Store { value, .. } = effect {
            self.stores.push(value);
            self.flag.set(value);
        }
    }

    fn load(&mut self, _word: Word) -> u64 {
        self.flag.get()
    }

    fn call(&mut self, stream: u64, _call: HostCall) {
        self.calls.push(stream);
    }
}

const WORD: Word = Word { host: 0, is_wide: false };

fn kernel(cost_ns: u64, sms: u32) -> Work {
    Work::Timed { cost_ns, lane: Lane::Sms(sms), effect: Effect::None, faults: false }
}

/// Legacy stream 0, blocking streams 1 and 2, free streams 3 and 4; events 1 and 2.
fn engine() -> Engine {
    let mut engine = Engine::default();
    for (stream, order) in
        [(0, Order::Legacy), (1, Order::Blocking), (2, Order::Blocking), (3, Order::Free), (4, Order::Free)]
    {
        engine.add_stream(stream, order, 9, 0);
    }
    engine.events.add(1, true);
    engine.events.add(2, true);
    engine
}

fn record(engine: &mut Engine, event: u64, stream: u64, now_ns: u64) {
    let generation = engine.events.submit(event).expect("an event");
    engine.submit(stream, Work::Record { event, generation, cost_ns: 0 }, now_ns);
}

fn reached_ns(engine: &Engine, event: u64) -> u64 {
    let state = engine.events.get(event).expect("an event");
    assert!(state.is_complete(), "event {event} is not reached at {}", engine.now_ns());
    state.reached_ns
}

#[test]
fn units_of_one_stream_run_one_after_the_other() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, kernel(100, 1), 0);
    engine.submit(3, kernel(50, 1), 0);
    record(&mut engine, 1, 3, 0);
    engine.run_to(1000, &mut world);
    assert_eq!(reached_ns(&engine, 1), 150);
}

#[test]
fn kernels_of_two_streams_overlap_only_where_their_sms_fit() {
    for (sms, end_ns) in [(66, 100), (67, 200)] {
        let (mut engine, mut world) = (engine(), Paper::default());
        engine.submit(3, kernel(100, sms), 0);
        engine.submit(4, kernel(100, sms), 0);
        record(&mut engine, 1, 4, 0);
        engine.run_to(1000, &mut world);
        assert_eq!(reached_ns(&engine, 1), end_ns, "{sms} of {SMS}");
    }
}

#[test]
fn time_without_the_gpu_lengthens_what_runs_and_shows_in_events() {
    let (mut engine, mut world) = (engine(), Paper::default());
    record(&mut engine, 1, 3, 0);
    engine.submit(3, kernel(100, 1), 0);
    record(&mut engine, 2, 3, 0);
    engine.run_to(40, &mut world);
    engine.skip_to(1040);
    engine.run_to(2000, &mut world);
    assert_eq!(engine.events.elapsed_ns(1, 2), Ok(1100));
}

#[test]
fn a_unit_never_starts_before_it_was_submitted() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, kernel(10, 1), 500);
    record(&mut engine, 1, 3, 500);
    engine.run_to(1000, &mut world);
    assert_eq!(reached_ns(&engine, 1), 510);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_holds_them() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(1, kernel(100, 1), 0);
    engine.submit(0, kernel(100, 1), 0);
    engine.submit(2, kernel(100, 1), 0);
    record(&mut engine, 1, 2, 0);
    engine.run_to(1000, &mut world);
    assert_eq!(reached_ns(&engine, 1), 300);
}

#[test]
fn a_free_stream_passes_the_legacy_stream() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(0, kernel(500, 1), 0);
    engine.submit(3, kernel(100, 1), 0);
    record(&mut engine, 1, 3, 0);
    engine.run_to(1000, &mut world);
    assert_eq!(reached_ns(&engine, 1), 100);
}

#[test]
fn a_stream_waits_for_the_record_that_was_submitted_before_the_wait() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, kernel(100, 1), 0);
    record(&mut engine, 1, 3, 0);
    engine.submit(4, Work::WaitEvent { event: 1, generation: 1 }, 0);
    record(&mut engine, 2, 4, 0);
    engine.submit(3, kernel(900, 1), 0);
    record(&mut engine, 1, 3, 0);
    engine.run_to(500, &mut world);
    assert_eq!(reached_ns(&engine, 2), 100);
    assert!(!engine.events.get(1).expect("an event").is_complete());
}

#[test]
fn a_spinning_kernel_ends_when_another_stream_writes_its_flag() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, Work::Spin { lane: Lane::Sms(1), word: WORD }, 0);
    record(&mut engine, 1, 3, 0);
    engine.run_to(100, &mut world);
    assert!(engine.is_polling());
    let effect = Effect::Store { word: WORD, value: 1 };
    engine.submit(4, Work::Timed { cost_ns: 50, lane: Lane::Sms(131), effect, faults: false }, 100);
    engine.run_to(1000, &mut world);
    assert_eq!(reached_ns(&engine, 1), 150);
}

#[test]
fn a_spinning_kernel_that_fills_the_gpu_blocks_the_one_it_waits_for() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, Work::Spin { lane: Lane::Sms(132), word: WORD }, 0);
    engine.run_to(100, &mut world);
    let ticket = engine.submit(4, kernel(50, 1), 100);
    engine.run_to(1000, &mut world);
    assert!(!engine.is_done(4, ticket));
}

#[test]
fn a_host_function_holds_its_stream_and_no_other() {
    let (mut engine, mut world) = (engine(), Paper::default());
    engine.submit(3, Work::Host(Box::new(|| ())), 0);
    let ticket = engine.submit(3, kernel(10, 1), 0);
    engine.submit(4, kernel(10, 1), 0);
    engine.run_to(100, &mut world);
    assert_eq!(world.calls, [3]);
    assert!(!engine.wants_gpu(&mut world));
    engine.host_done(3);
    engine.run_to(200, &mut world);
    assert!(engine.is_done(3, ticket));
}

#[test]
fn a_faulting_kernel_ends_all_work() {
    let (mut engine, mut world) = (engine(), Paper::default());
    let work = Work::Timed { cost_ns: 10, lane: Lane::Sms(1), effect: Effect::None, faults: true };
    engine.submit(3, work, 0);
    engine.submit(4, kernel(1_000_000, 1), 0);
    engine.run_to(100, &mut world);
    assert_eq!(engine.fault(), Some(Fault::IllegalAddress));
    assert!(engine.all_done(u64::MAX, None));
}

#[test]
fn copies_of_one_direction_share_one_engine() {
    let copy = |lane| Work::Timed { cost_ns: 100, lane, effect: Effect::None, faults: false };
    for (lane, end_ns) in [(Lane::HostToDevice, 200), (Lane::DeviceToHost, 100)] {
        let (mut engine, mut world) = (engine(), Paper::default());
        engine.submit(3, copy(Lane::HostToDevice), 0);
        engine.submit(4, copy(lane), 0);
        record(&mut engine, 1, 4, 0);
        engine.run_to(1000, &mut world);
        assert_eq!(reached_ns(&engine, 1), end_ns);
    }
}
