//! No deadlock that the limiter made: kernels that spin for others, at low caps, with and without a helper.

use cuota_governor::admission::Pass;

use crate::model::gpu::Kernel;
use crate::model::{Op, Script};
use crate::{MS, SECOND, kernel, launch, world};

/// In each round stream 0 spins until the last of the others has run; then all are waited for.
fn spin_for_the_last(others: usize, cost_ns: u64, rounds: u64) -> Script {
    let length = 2 * (others as u64 + 1);
    Box::new(move |step| {
        let (round, at) = (step / length, usize::try_from(step % length).unwrap_or(0));
        let flag = u32::try_from(round).ok();
        match at {
            _ if round == rounds => Op::End,
            0 => Op::Launch { stream: 0, function: 1, kernel: Kernel { waits: flag, ..kernel(cost_ns) } },
            at if at < others => launch(at, 2 + at as u64, cost_ns),
            at if at == others => {
                Op::Launch { stream: at, function: 99, kernel: Kernel { sets: flag, ..kernel(cost_ns) } }
            }
            at => Op::Sync { stream: at - others - 1 },
        }
    })
}

#[test]
fn a_stream_that_spins_for_another_is_never_kept_waiting_for_ever() {
    for helper in [true, false] {
        for others in 1..=8 {
            for cost_ns in [5_000, 300_000, 20 * MS] {
                let mut world = world(100_000, others + 1, helper);
                let thread = world.thread(0, spin_for_the_last(others, cost_ns, 10));
                let ended = world.run_to_the_end_of(thread, 120 * SECOND);
                assert!(ended, "{others} others of {cost_ns} ns, helper {helper}");
            }
        }
    }
}

#[test]
fn a_thread_that_spins_for_another_thread_is_never_kept_waiting_for_ever() {
    for cost_ns in [100_000, 20 * MS] {
        let mut world = world(100_000, 2, true);
        let spinner = world.thread(
            0,
            Box::new(move |step| match step {
                20 => Op::End,
                n if n % 2 == 0 => {
                    let waits = u32::try_from(n / 2).ok();
                    Op::Launch { stream: 0, function: 1, kernel: Kernel { waits, ..kernel(cost_ns) } }
                }
                _ => Op::Sync { stream: 0 },
            }),
        );
        // The partner needs three kernels before the one that lets the other go on.
        let partner = world.thread(
            0,
            Box::new(move |step| match step {
                40 => Op::End,
                n => {
                    let sets = u32::try_from(n / 4).ok().filter(|_| n % 4 == 3);
                    Op::Launch { stream: 1, function: 2 + n % 4, kernel: Kernel { sets, ..kernel(cost_ns) } }
                }
            }),
        );
        assert!(world.run_to_the_end_of(spinner, 120 * SECOND), "{cost_ns} ns");
        assert!(world.run_to_the_end_of(partner, 120 * SECOND), "{cost_ns} ns");
    }
}

#[test]
fn a_partner_kept_out_by_a_long_debt_goes_after_nothing_has_ended_for_50_ms() {
    let mut world = world(10_000, 3, true);
    // A kernel of 200 ms is 20 s of debt at 1 %.
    let debtor = Box::new(|step| match step {
        0 => launch(2, 1, 200 * MS),
        1 => Op::Sync { stream: 2 },
        _ => Op::End,
    });
    world.thread(0, debtor);
    world.run_until(MS);
    let spins = Kernel { waits: Some(1), ..kernel(5_000) };
    world.thread(
        0,
        Box::new(
            move |n| if n == 0 { Op::Launch { stream: 0, function: 2, kernel: spins } } else { Op::End },
        ),
    );
    world.run_until(250 * MS);
    let sets = Kernel { sets: Some(1), ..kernel(5_000) };
    let partner = world.thread(
        0,
        Box::new(move |n| if n == 0 { Op::Launch { stream: 1, function: 3, kernel: sets } } else { Op::End }),
    );
    world.run_until(250 * MS + 120 * MS);
    assert!(world.has_ended(partner));
    assert!(world.guests[0].1.passes.contains(&Pass::Stalled), "{:?}", world.guests[0].1.passes);
}

#[test]
fn a_unit_longer_than_a_period_does_not_open_the_valve_for_its_own_stream() {
    let mut world = world(100_000, 1, true);
    world.thread(0, Box::new(|_| launch(0, 1, 120 * MS)));
    world.run_until(60 * SECOND);
    let share = world.gpu.truth(0).work_ns / (60 * SECOND) as f64;
    assert!((0.09..0.115).contains(&share), "{share}");
    assert!(!world.guests[0].1.passes.contains(&Pass::Stalled));
}

#[test]
fn a_partner_is_not_starved_by_others_that_launch_on_its_stream() {
    let mut world = world(50_000, 2, true);
    world.thread(0, Box::new(|_| launch(1, 9, 8 * MS)));
    let pair = world.thread(0, spin_for_the_last(1, 10_000, 10));
    assert!(world.run_to_the_end_of(pair, 60 * SECOND));
}

/// As the card's experiment: a kernel spins for one that comes after three others on another stream; both are waited for.
fn rounds_a_second(cap_ppm: u32) -> f64 {
    let mut world = world(cap_ppm, 2, true);
    let script = |step: u64| {
        let flag = u32::try_from(step / 7).ok();
        match step % 7 {
            0 => Op::Launch { stream: 0, function: 1, kernel: Kernel { waits: flag, ..kernel(1_000) } },
            4 => Op::Launch { stream: 1, function: 3, kernel: Kernel { sets: flag, ..kernel(2_000) } },
            at @ 5..=6 => Op::Sync { stream: usize::try_from(at - 5).unwrap_or(0) },
            _ => launch(1, 2, 50_000),
        }
    };
    let thread = world.thread(0, Box::new(script));
    world.run_until(2 * SECOND);
    let before = world.launches(thread);
    world.run_until(12 * SECOND);
    // Five launches a round, ten seconds.
    (world.launches(thread) - before) as f64 / 50.0
}

/// The first time that its partner is held, the kernel spins for what is left of a period. Were that its cost from then on, its
/// partner would come behind it each time: 0.6, 246 and 439 rounds a second.
#[test]
fn a_program_that_spins_is_not_held_for_good_after_it_was_held_once() {
    for (percent, least) in [(10, 50.0), (25, 350.0), (50, 1_000.0)] {
        let rounds = rounds_a_second(percent * 10_000);
        assert!(rounds >= least, "{rounds} at {percent}");
    }
}
