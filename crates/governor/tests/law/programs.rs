//! Any program: random streams, costs, pauses, synchronisations, spins, changed caps, and rubbish in the shared words.

use cuota_governor::budget::Look;
use cuota_governor::cap::Cap;
use proptest::prelude::*;

use crate::model::gpu::Kernel;
use crate::model::{Op, Script};
use crate::{MS, SECOND, kernel, launch, world};

const STREAMS: usize = 4;

/// What a thread does, again and again. The function decides the cost, as with most programs.
fn op() -> impl Strategy<Value = Op> {
    let stream = 0..STREAMS;
    // 2 µs to 33 ms.
    let launched = (stream.clone(), 0..15u64).prop_map(|(stream, n)| launch(stream, n, 2_000 << n));
    prop_oneof![
        8 => launched,
        1 => stream.prop_map(|stream| Op::Sync { stream }),
        1 => (0..3 * MS).prop_map(Op::Host),
    ]
}

/// At least one launch, and what else.
fn program() -> impl Strategy<Value = Vec<Op>> {
    let launches = |ops: &Vec<Op>| ops.iter().any(|op| matches!(op, Op::Launch { .. }));
    prop::collection::vec(op(), 1..40).prop_filter("launches something", launches)
}

fn repeat(ops: Vec<Op>) -> Script {
    Box::new(move |step| ops[usize::try_from(step).unwrap_or(0) % ops.len()])
}

/// One in each round: stream 0 spins until stream 1 has run.
fn pair_of_spinners() -> Script {
    Box::new(|step| {
        let flag = u32::try_from(step / 3).ok();
        let kernel = kernel(10_000);
        match step % 3 {
            0 => Op::Launch { stream: 0, function: 20, kernel: Kernel { waits: flag, ..kernel } },
            1 => Op::Launch { stream: 1, function: 21, kernel: Kernel { sets: flag, ..kernel } },
            _ => Op::Sync { stream: 0 },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The model checks the promise at each admission.
    #[test]
    fn any_program_goes_on_and_gets_no_more_than_its_cap(
        ppm in 50_000..950_000u32, helper: bool, spin: bool,
        programs in prop::collection::vec(program(), 1..4),
    ) {
        let mut world = world(ppm, STREAMS, helper);
        let mut threads: Vec<_> = programs.into_iter().map(|ops| world.thread(0, repeat(ops))).collect();
        if spin {
            threads.push(world.thread(0, pair_of_spinners()));
        }
        world.run_until(SECOND);
        let (before, launched) = (world.gpu.truth(0).work_ns, threads.iter().map(|&t| world.launches(t)).sum::<u64>());
        world.run_until(11 * SECOND);
        let done = world.gpu.truth(0).work_ns - before;
        // Each thread may have one long unit on the GPU, and one in front of it, at either end.
        let slack = 2 * 33 * MS * threads.len() as u64 + 20 * MS;
        let cap = Cap::from_ppm(ppm).expect("a cap");
        // While a kernel spins the GPU is occupied anyway, and the valve lets others in.
        prop_assert!(spin || done <= (cap.earned_in(10 * SECOND) + slack) as f64, "{done} of {cap:?}");
        let later = threads.iter().map(|&t| world.launches(t)).sum::<u64>();
        prop_assert!(later > launched, "nothing was launched in ten seconds");
    }

    #[test]
    fn caps_changed_at_any_time_are_held_on_average(
        changes in prop::collection::vec((100_000..1_000_000u32, 1..400u64), 5..40), cost_ns in 5_000..2 * MS,
    ) {
        let mut world = world(500_000, 1, true);
        world.thread(0, Box::new(move |_| launch(0, 1, cost_ns)));
        world.run_until(SECOND);
        let (before, mut earned) = (world.gpu.truth(0).work_ns, 0);
        for (ppm, ms) in changes {
            world.tenants[0].cap = Cap::from_ppm(ppm).expect("a cap");
            world.run_until(world.now_ns + ms * MS);
            earned += world.tenants[0].cap.earned_in(ms * MS);
        }
        let done = world.gpu.truth(0).work_ns - before;
        prop_assert!(done <= (earned + 20 * MS + 4 * cost_ns) as f64, "{done} of {earned}");
        prop_assert!(done >= 0.9 * earned as f64 - 30.0e6, "{done} of {earned}");
    }

    #[test]
    fn rubbish_in_the_shared_words_gives_a_quantum_each_time_and_the_tenant_goes_on(
        rubbish in prop::collection::vec((any::<u64>(), any::<bool>()), 1..20),
    ) {
        let mut world = world(300_000, 1, true);
        world.thread(0, Box::new(|_| launch(0, 1, 100_000)));
        world.run_until(SECOND);
        let (before, times) = (world.gpu.truth(0).work_ns, rubbish.len() as u64);
        for (word, in_window) in rubbish {
            let look = Look { now_ns: world.now_ns, cap: world.tenants[0].cap, clock_went_back: false, takes_turns: false };
            let budget = &mut world.tenants[0].budget;
            let before = *budget;
            *if in_window { &mut budget.window } else { &mut budget.period } = word;
            // One word in 1,900 is a debt, of up to ten minutes.
            if budget.debt_ns(look) > before.debt_ns(look) + 30 * MS {
                *budget = before;
            }
            world.run_until(world.now_ns + 500 * MS);
        }
        let done = world.gpu.truth(0).work_ns - before;
        let earned = 150.0e6 * times as f64;
        prop_assert!(done <= earned + (times + 1) as f64 * 6.0e6 + 1.0e6, "{done} of {earned}");
        prop_assert!(done >= 0.9 * earned - 6.0e6, "{done} of {earned}");
    }
}
