//! Several streams and processes under one cap, changed caps, idle times, and a neighbour.

use cuota_governor::cap::{Cap, PERIOD_NS};

use crate::model::gpu::Kernel;
use crate::model::{Op, World};
use crate::{MS, SECOND, kernel, launch, world};

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

/// One thread that launches into four streams in turn. With a part of 4 each kernel fills a quarter of the GPU.
fn four_streams(cap_ppm: u32, part: u32, cost_ns: u64) -> (f64, f64) {
    let mut world = world(cap_ppm, 4, true);
    let kernel = Kernel { part, ..kernel(cost_ns) };
    world.thread(
        0,
        Box::new(move |step| Op::Launch {
            stream: usize::try_from(step % 4).unwrap_or(0),
            function: 1,
            kernel,
        }),
    );
    world.run_until(SECOND);
    let (before, charged) = (world.gpu.truth(0).work_ns, world.guests[0].1.charged_ns);
    world.run_until(3 * SECOND);
    let whole = f64::from(part) * 2.0 * SECOND as f64;
    let share = (world.gpu.truth(0).work_ns - before) / whole;
    (100.0 * share, 100.0 * (world.guests[0].1.charged_ns - charged) as f64 / (2.0 * SECOND as f64))
}

#[test]
fn streams_get_their_cap_whether_each_fills_the_gpu_or_a_quarter_of_it() {
    for (part, cost_ns) in [(4, 115_000), (1, 118_000), (4, 20_000)] {
        for percent in [10, 25, 50, 75, 90] {
            let (share, charged) = four_streams(percent * 10_000, part, cost_ns);
            // 0.7: the last kernels of each quantum run beside none.
            assert!((share - f64::from(percent)).abs() <= 0.7, "{part}, {cost_ns} ns, {percent}: {share}");
            assert!(
                (charged - f64::from(percent)).abs() <= 0.1,
                "{part}, {cost_ns} ns, {percent}: {charged}"
            );
        }
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

/// It launches and pauses and never waits, so the helper closes its batches; a boundary that came late says little.
#[test]
fn an_argument_that_makes_kernels_dearer_is_charged_though_the_helper_closes_every_batch() {
    for (dear_ns, pause_ns) in [(500_000, 2 * MS), (3 * MS, 10 * MS), (200_000, 300_000)] {
        let mut world = world(100_000, 1, true);
        let script = move |step: u64| match step % 2 {
            0 => launch(0, 1, if step < 400 { 30_000 } else { dear_ns }),
            _ => Op::Host(pause_ns),
        };
        world.thread(0, Box::new(script));
        world.run_until(10 * SECOND);
        let before = world.gpu.truth(0).work_ns;
        world.run_until(15 * SECOND);
        let share = (world.gpu.truth(0).work_ns - before) / (5 * SECOND) as f64;
        // A pause shorter than the helper's two rounds may count as occupied.
        let least = if pause_ns < MS { 0.06 } else { 0.09 };
        assert!((least..=0.105).contains(&share), "{dear_ns} ns each {pause_ns}: {share}");
    }
}

#[test]
fn the_helper_takes_some_two_hundred_rounds_a_second_while_launches_keep_coming() {
    for percent in [10, 50, 90] {
        let mut world = world(percent * 10_000, 1, true);
        world.thread(0, Box::new(|_| launch(0, 1, 100_000)));
        world.run_until(SECOND);
        let before = world.guests[0].1.naps;
        world.run_until(3 * SECOND);
        let rounds = (world.guests[0].1.naps - before) / 2;
        assert!(rounds <= 260, "{rounds} a second at {percent}");
    }
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
        world.process(tenant, true, None);
        let stream = world.gpu.stream(process);
        // Alone at first, so that each learns what its kernels cost.
        world.thread(process, Box::new(move |_| launch(stream, 1, 100_000)));
        world.run_until((process as u64 + 1) * 200 * MS);
        world.guests[process].1.strangers = Some(0);
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
    world.guests[0].1.strangers = Some(1);
    let free = world.tenant(1_000_000);
    let neighbour = world.process(free, false, None);
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

/// Bursts of short kernels, waited for, and as long nothing: a third of the GPU's time.
fn bursts_that_are_waited_for(stream: usize, step: u64, cost_ns: u64) -> Op {
    match step % 202 {
        200 => Op::Sync { stream },
        201 => Op::Host(3 * MS),
        _ => launch(stream, 1, cost_ns),
    }
}

#[test]
fn under_a_cap_that_is_never_reached_a_burst_looks_a_few_times_and_pays_what_it_takes() {
    // 200 launches wait for the GPU once; a sixteenth of the budget is 0.6 ms at 50 %.
    for (cap_ppm, least) in [(500_000, 50), (990_000, 150)] {
        let mut world = world(cap_ppm, 1, true);
        let thread = world.thread(0, Box::new(|step| bursts_that_are_waited_for(0, step, 4_000)));
        world.run_until(SECOND);
        let (launches, looks) = (world.launches(thread), world.guests[0].1.looks);
        let (work_ns, charged_ns) = (world.gpu.truth(0).work_ns, world.guests[0].1.charged_ns);
        world.run_until(3 * SECOND);
        let launches_a_look = (world.launches(thread) - launches) / (world.guests[0].1.looks - looks);
        assert!(launches_a_look >= least, "{launches_a_look} at {cap_ppm}");
        let paid =
            (world.guests[0].1.charged_ns - charged_ns) as f64 / (world.gpu.truth(0).work_ns - work_ns);
        // The gap of a host's hiccup is seen in a small batch, and is a part of a large one.
        assert!((0.99..=1.04).contains(&paid), "{paid:.3} at {cap_ppm}");
    }
}

#[test]
fn far_below_its_cap_a_program_of_eight_streams_looks_about_once_a_burst_on_each_from_the_second_on() {
    let mut world = world(990_000, 8, true);
    let threads: Vec<usize> = (0..8)
        .map(|stream| world.thread(0, Box::new(move |step| bursts_that_are_waited_for(stream, step, 1_000))))
        .collect();
    let launches = |world: &World| threads.iter().map(|&thread| world.launches(thread)).sum::<u64>();
    while launches(&world) < 8 * 400 {
        world.run_until(world.now_ns + MS);
    }
    let (before, looks) = (launches(&world), world.guests[0].1.looks);
    world.run_until(world.now_ns + SECOND);
    let launches_a_look = (launches(&world) - before) / (world.guests[0].1.looks - looks);
    assert!(launches_a_look >= 150, "{launches_a_look}");
}

/// While nothing binds batches are large, and rest on estimates for longer.
#[test]
fn who_was_far_below_its_cap_gets_no_more_when_its_kernels_become_dear() {
    for streams in [1, 4] {
        for (cap_ppm, dear_ns) in [(500_000, 40_000), (500_000, MS), (250_000, MS), (900_000, MS)] {
            let mut world = world(cap_ppm, streams, true);
            let cheap = 202 * 200 / streams as u64;
            let program = |stream| {
                move |step| match step < cheap {
                    true => bursts_that_are_waited_for(stream, step, 4_000),
                    false => launch(stream, 1, dear_ns),
                }
            };
            let threads: Vec<usize> =
                (0..streams).map(|stream| world.thread(0, Box::new(program(stream)))).collect();
            while threads.iter().any(|&thread| world.launches(thread) < cheap / 202 * 200) {
                world.run_until(world.now_ns + MS);
            }
            let (begun_ns, work_ns) = (world.now_ns, world.gpu.truth(0).work_ns);
            world.run_until(begun_ns + 10 * SECOND);
            let share = (world.gpu.truth(0).work_ns - work_ns) / (world.now_ns - begun_ns) as f64;
            let cap = f64::from(cap_ppm) / 1e6;
            println!("{share:.3} at {cap_ppm}, {dear_ns} ns on {streams} streams");
            assert!(
                (cap - 0.025..=cap + 0.005).contains(&share),
                "{share:.3} at {cap_ppm}, {dear_ns} ns on {streams} streams"
            );
        }
    }
}
