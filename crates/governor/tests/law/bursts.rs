//! Programs that compute on the CPU between bursts of kernels, and never synchronise: the gaps are not theirs to pay for.

use proptest::prelude::*;

use crate::model::{LAUNCH_NS, Op, Script};
use crate::{MS, SECOND, launch, world};

/// A program of one thread: each round, bursts of these kernels (stream, cost in ns), each followed by so many ns of the CPU.
#[derive(Clone, Debug)]
struct Rounds(Vec<(Vec<(usize, u64)>, u64)>);

impl Rounds {
    fn script(&self) -> Script {
        let burst = |(kernels, gap_ns): &(Vec<(usize, u64)>, u64)| {
            let launches = kernels.iter().map(|&(stream, cost_ns)| launch(stream, cost_ns, cost_ns));
            launches.chain([Op::Host(*gap_ns)]).collect::<Vec<_>>()
        };
        let ops: Vec<Op> = self.0.iter().flat_map(burst).collect();
        Box::new(move |step| ops[usize::try_from(step).unwrap_or(0) % ops.len()])
    }
}

/// What a program does in two seconds, from the third on: work done, and the time occupied, ns.
struct Got {
    work_ns: f64,
    occupied_ns: f64,
}

const SPAN_NS: u64 = 2 * SECOND;

fn run(rounds: &Rounds, cap_ppm: u32, helper: bool) -> Got {
    let mut world = world(cap_ppm, 4, helper);
    world.thread(0, rounds.script());
    // The first gaps are charged: nobody knows yet what the kernels take.
    world.run_until(2 * SECOND);
    let before = world.gpu.truth(0).clone();
    world.run_until(2 * SECOND + SPAN_NS);
    let after = world.gpu.truth(0);
    Got { work_ns: after.work_ns - before.work_ns, occupied_ns: after.occupied_ns - before.occupied_ns }
}

/// What it gets without a cap, when nothing is counted.
fn native(rounds: &Rounds) -> Got {
    run(rounds, 1_000_000, false)
}

/// What it gets of what it is to get, which is: native × min(1, cap ÷ occupied).
fn part_of_due(rounds: &Rounds, native: &Got, cap_ppm: u32, helper: bool) -> f64 {
    let occupied = native.occupied_ns / SPAN_NS as f64;
    let due_ns = native.work_ns * (f64::from(cap_ppm) / 1e6 / occupied).min(1.0);
    run(rounds, cap_ppm, helper).work_ns / due_ns
}

/// A burst, and a time of the CPU after it that leaves the GPU nothing to do for `gap_ns`.
fn burst(kernels: Vec<(usize, u64)>, gap_ns: u64) -> (Vec<(usize, u64)>, u64) {
    let work_ns: u64 = kernels.iter().map(|&(_, cost_ns)| cost_ns).sum();
    let launched_ns = LAUNCH_NS * kernels.len() as u64;
    (kernels, gap_ns + work_ns.saturating_sub(launched_ns))
}

/// Without a helper, bursts that the host's hiccups cut are charged the gaps behind them. A tenant whose bursts are as short as its measuring
/// pays for that by its CPU.
#[test]
fn gaps_between_bursts_are_not_charged_and_without_a_helper_nobody_gets_more_by_them() {
    let shapes = [
        ("5", vec![(0, 5_000)]),
        ("16, 2 and 32", vec![(0, 16_000), (0, 2_000), (0, 32_000)]),
        ("16 beside 2 and 32", vec![(0, 16_000), (1, 2_000), (1, 32_000)]),
        ("20 of 5", vec![(0, 5_000); 20]),
        ("20 of 40", vec![(0, 40_000); 20]),
        ("12 of 8 on four streams", (0..12).map(|n| (n % 4, 8_000)).collect()),
        ("300", vec![(0, 300_000)]),
    ];
    let (mut table, mut least, mut most) = (String::new(), f64::INFINITY, 0.0_f64);
    for (name, kernels) in shapes {
        for gap_ns in [60_000, 120_000, MS] {
            let rounds = Rounds(vec![burst(kernels.clone(), gap_ns)]);
            let native = native(&rounds);
            for (cap_ppm, helper) in [50_000, 500_000].into_iter().flat_map(|cap| [(cap, true), (cap, false)])
            {
                let part = part_of_due(&rounds, &native, cap_ppm, helper);
                table += &format!(
                    "{name:24} us, gap {gap_ns:8} ns, cap {cap_ppm:7}, helper {helper:5}: {part:.3} of its due\n"
                );
                (least, most) = (if helper { least.min(part) } else { least }, most.max(part));
            }
        }
    }
    println!("{table}from {least:.3} to {most:.3}");
    assert!(least >= 0.91 && most <= 1.03, "from {least:.3} to {most:.3}\n{table}");
}

#[test]
fn two_streams_that_meet_once_a_cycle_get_their_cap() {
    let rounds = Rounds(vec![(vec![(0, 2_000), (1, 32_000)], 552_750), (vec![(0, 16_000)], 0)]);
    for helper in [true, false] {
        let part = part_of_due(&rounds, &native(&rounds), 55_306, helper);
        assert!((0.97..=1.03).contains(&part), "{part:.3} of its due, helper {helper}");
    }
}

/// The dear ones lie where nothing follows for a while, or where bursts are as long as never before.
#[test]
fn kernels_that_an_argument_makes_dear_are_paid_for_wherever_the_gaps_are() {
    for (dear_ns, pause_ns) in [(50 * MS, 100_000), (MS, 60_000), (200_000, 300_000), (200_000, 100_000)] {
        for (helper, strangers) in [(true, None), (false, None), (true, Some(0)), (false, Some(0))] {
            let mut world = world(100_000, 1, helper);
            world.guests[0].1.strangers = strangers;
            let (mut left, mut length) = (0, 0);
            let script: Script = Box::new(move |step| {
                if left == 0 {
                    length = length % 23 + 1;
                    left = length + 2;
                }
                left -= 1;
                match left {
                    // Nobody waits for it.
                    0 => Op::Host(dear_ns + pause_ns),
                    1 if step % 5 != 0 => launch(0, 1, dear_ns),
                    _ => launch(0, 1, 1_000),
                }
            });
            world.thread(0, script);
            world.run_until(2 * SECOND);
            let before = world.gpu.truth(0).work_ns;
            world.run_until(7 * SECOND);
            let share = (world.gpu.truth(0).work_ns - before) / (5 * SECOND) as f64;
            println!(
                "{share:.4} of 0.1: {dear_ns} ns each {pause_ns}, helper {helper}, beside {strangers:?}"
            );
            assert!(
                share <= 0.108,
                "{share} of 0.1: {dear_ns} ns each {pause_ns}, helper {helper}, {strangers:?}"
            );
        }
    }
}

fn any_burst() -> impl Strategy<Value = (Vec<(usize, u64)>, u64)> {
    let kernel = (0..3usize, 1..7u32).prop_map(|(stream, n)| (stream, 1_000 << n));
    // 60 µs to 3.8 ms.
    let gap = (0..7u32).prop_map(|n| 60_000 << n);
    (prop::collection::vec(kernel, 1..20), gap).prop_map(|(kernels, gap_ns)| burst(kernels, gap_ns))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn whatever_the_bursts_nobody_pays_for_the_gaps_nor_gets_more_than_its_cap(
        bursts in prop::collection::vec(any_burst(), 1..4), cap_ppm in 50_000..900_000u32, helper: bool,
    ) {
        let rounds = Rounds(bursts);
        let part = part_of_due(&rounds, &native(&rounds), cap_ppm, helper);
        let least = if helper { 0.75 } else { 0.0 };
        prop_assert!((least..=1.04).contains(&part), "{part:.3} of its due");
    }
}

#[test]
fn short_kernels_in_turn_on_several_streams_pay_for_the_gaps_between_them_once() {
    let rounds = Rounds(vec![(vec![(2, 8_000), (1, 8_000), (0, 16_000), (1, 64_000)], 140_400)]);
    let native = native(&rounds);
    for (cap_ppm, helper) in [(50_000, false), (200_000, true), (400_000, false), (400_000, true)] {
        let part = part_of_due(&rounds, &native, cap_ppm, helper);
        assert!((0.985..=1.015).contains(&part), "{part:.3} of its due at {cap_ppm}, helper {helper}");
    }
}
