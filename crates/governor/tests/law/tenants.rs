//! Several streams and processes under one cap, changed caps, idle times, and a neighbour.

use cuota_governor::cap::{Cap, PERIOD_NS};

use crate::model::{Op, World};
use crate::{MS, SECOND, launch, world};

#[test]
fn streams_that_overlap_share_one_cap() {
    for streams in [2, 4, 8] {
        let mut world = world(300_000, streams, true);
        for stream in 0..streams {
            world.thread(0, Box::new(move |_| launch(stream, 1 + stream as u64, 150_000)));
        }
        world.run_until(2 * SECOND);
        let before = world.gpu.truth(0).work_ns;
        world.run_until(5 * SECOND);
        let share = (world.gpu.truth(0).work_ns - before) / (3 * SECOND) as f64;
        assert!((share - 0.3).abs() <= 0.005, "{streams} streams: {share}");
    }
}

#[test]
fn kernels_whose_cost_an_argument_decides_keep_their_cap() {
    let mut world = world(400_000, 1, true);
    let mut state = 1u64;
    let script = move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        launch(0, 1, if state >> 60 == 0 { 3 * MS } else { 20_000 + (state >> 40) % 400_000 })
    };
    world.thread(0, Box::new(script));
    world.run_until(2 * SECOND);
    let before = world.gpu.truth(0).work_ns;
    world.run_until(12 * SECOND);
    let share = (world.gpu.truth(0).work_ns - before) / (10 * SECOND) as f64;
    assert!((share - 0.4).abs() <= 0.005, "{share}");
}

#[test]
fn a_changed_cap_is_in_force_within_one_period_and_never_overshoots_by_more_than_a_quantum() {
    for (before_ppm, after_ppm) in [(900_000, 100_000), (100_000, 900_000), (500_000, 250_000)] {
        let mut world = world(before_ppm, 1, true);
        world.thread(0, Box::new(|_| launch(0, 1, 100_000)));
        let set_ns = 3 * SECOND + 7 * MS;
        world.run_until(set_ns);
        let cap = Cap::from_ppm(after_ppm).expect("a cap");
        world.tenants[0].cap = cap;
        world.run_until(set_ns + PERIOD_NS);
        let start = world.gpu.truth(0).work_ns;
        for ms in 1..1_000 {
            world.run_until(set_ns + PERIOD_NS + ms * MS);
            let done = world.gpu.truth(0).work_ns - start;
            let earned = cap.earned_in(ms * MS) as f64;
            assert!(done <= earned + cap.quantum_ns() as f64 + 1.0e5, "{done} in {ms} ms at {cap:?}");
        }
        let share = (world.gpu.truth(0).work_ns - start) / (999 * MS) as f64;
        assert!((share * 1.0e6 - f64::from(after_ppm)).abs() <= 15_000.0, "{share} after {after_ppm}");
    }
}

#[test]
fn over_any_window_the_work_done_stays_within_the_cap_a_quantum_and_what_is_in_flight() {
    for (cost_ns, idle) in [(5_000, false), (100_000, true), (MS, true), (20 * MS, false)] {
        let mut world = world(250_000, 1, true);
        // Bursts after idle times of all lengths are what a bucket lets through.
        let mut burst = 0u64;
        world.thread(
            0,
            Box::new(move |step| {
                if idle && step % 97 == 96 {
                    burst += 1;
                    return Op::Host(burst * 7 % 61 * MS);
                }
                launch(0, 1, cost_ns)
            }),
        );
        world.run_until(SECOND);
        let mut lowest = f64::INFINITY;
        let start = world.gpu.truth(0).work_ns;
        for step in 0..6_000u64 {
            let balance = world.gpu.truth(0).work_ns - start - 0.25 * (step * MS / 2) as f64;
            lowest = lowest.min(balance);
            // A quantum, the longest unit, and a millisecond on the GPU.
            let bound = (5 * MS + cost_ns + MS) as f64;
            assert!(balance - lowest <= bound, "{} of {bound}", balance - lowest);
            world.run_until(SECOND + step * MS / 2);
        }
    }
}

#[test]
fn processes_of_a_tenant_share_one_cap() {
    let mut world = World::new(true);
    let tenant = world.tenant(300_000);
    for process in 0..3 {
        world.process(tenant, true, true);
        let stream = world.gpu.stream(process);
        // Alone at first, so that each learns what its kernels cost.
        world.thread(process, Box::new(move |_| launch(stream, 1, 100_000)));
        world.run_until((process as u64 + 1) * 200 * MS);
        world.guests[process].1.exclusive = false;
    }
    world.run_until(3 * SECOND);
    let work = |world: &World| (0..3).map(|p| world.gpu.truth(p).work_ns).sum::<f64>();
    let before = work(&world);
    world.run_until(8 * SECOND);
    let share = (work(&world) - before) / (5 * SECOND) as f64;
    assert!((share - 0.3).abs() <= 0.01, "{share}");
}

#[test]
fn beside_a_neighbour_a_tenant_is_charged_what_it_learned_alone() {
    let mut world = world(200_000, 1, true);
    world.thread(0, Box::new(|_| launch(0, 1, 100_000)));
    world.run_until(SECOND);
    world.guests[0].1.exclusive = false;
    let free = world.tenant(1_000_000);
    let neighbour = world.process(free, false, false);
    let stream = world.gpu.stream(neighbour);
    world.thread(neighbour, Box::new(move |_| launch(stream, 1, 100_000)));
    world.run_until(2 * SECOND);
    let before = world.gpu.truth(0).work_ns;
    world.run_until(7 * SECOND);
    let share = (world.gpu.truth(0).work_ns - before) / (5 * SECOND) as f64;
    assert!((share - 0.2).abs() <= 0.01, "{share}");
}

#[test]
fn a_full_cap_changes_nothing_and_looks_at_nothing() {
    let mut world = world(1_000_000, 1, true);
    world.thread(0, Box::new(|_| launch(0, 1, 5_000)));
    world.run_until(SECOND);
    assert!(world.gpu.truth(0).work_ns > 0.9999 * SECOND as f64);
    assert_eq!(world.guests[0].1.looks, 0);
}

#[test]
fn under_a_cap_one_launch_in_a_batch_looks_at_the_clock() {
    let mut world = world(500_000, 1, true);
    let thread = world.thread(0, Box::new(|_| launch(0, 1, 5_000)));
    world.run_until(2 * SECOND);
    let launches_a_look = world.launches(thread) / world.guests[0].1.looks;
    assert!(launches_a_look >= 40, "{launches_a_look}");
}
