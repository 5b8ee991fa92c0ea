//! Tenants that are killed, stopped, overrun, or lie.

use proptest::prelude::*;

use crate::model::{Habit, Tenant, World, guaranteed, jain, normal};
use crate::{MS, SECOND};

fn two_and(third: Tenant) -> World {
    let saturates = Tenant::new(normal(100), Habit::Saturates);
    World::new(vec![saturates, saturates, third])
}

#[test]
fn one_that_lies_about_its_work_gets_nothing_and_costs_the_others_no_more_than_its_share() {
    for habit in [Habit::Lies, Habit::Flickers] {
        let mut world = two_and(Tenant::new(normal(100), habit));
        world.run_until(world.now_ns + SECOND);
        let got = world.measure(10 * SECOND);
        assert_eq!(world.tenants[2].got_ns, 0);
        assert!(got[0] >= 0.32 && got[1] >= 0.32, "{habit:?}: {got:?}");
    }
}

#[test]
fn an_overrun_is_paid_for_by_who_overruns() {
    for by_ms in [1, 5, 20, 100] {
        let mut world = two_and(Tenant::new(normal(100), Habit::Overruns { by_ns: by_ms * MS }));
        world.run_until(world.now_ns + SECOND);
        let got = world.measure(30 * SECOND);
        assert!(got[2] <= 0.36, "{by_ms} ms: {got:?}");
        assert!(jain(&got[..2]) > 0.999, "{by_ms} ms: {got:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn one_that_is_killed_or_stopped_stalls_the_others_for_fifty_milliseconds_at_most_and_once(
        count in 2..=16_usize, dead in 0..16_usize, at_us in 0..200_000_u64, share in 0..60_u32,
    ) {
        let dead = dead % count;
        let mut tenants: Vec<Tenant> =
            (0..count).map(|_| Tenant::new(normal(100), Habit::Saturates)).collect();
        tenants[dead] = Tenant::new(guaranteed(share), Habit::Saturates);
        let mut world = World::new(tenants);
        let dies_ns = world.now_ns + SECOND + at_us * 1_000;
        world.tenants[dead].dies_ns = dies_ns;
        world.run_until(dies_ns);
        let got = |world: &World| -> u64 { world.tenants.iter().map(|tenant| tenant.got_ns).sum() };
        let (mut stalls, mut longest_ns, mut stalled_ns) = (0, 0, 0);
        // Half a second in steps of a millisecond: those in which nobody got anything.
        for _ in 0..500 {
            let before = got(&world);
            world.run_until(world.now_ns + MS);
            if got(&world) == before {
                stalls += u64::from(stalled_ns == 0);
                stalled_ns += MS;
                longest_ns = longest_ns.max(stalled_ns);
            } else {
                stalled_ns = 0;
            }
        }
        prop_assert!(longest_ns <= 50 * MS, "{longest_ns}");
        prop_assert!(stalls <= 1, "{stalls} stalls");
        // And what the others have is fair again.
        let after = world.measure(2 * SECOND);
        let living: Vec<f64> = (0..count).filter(|n| *n != dead).map(|n| after[n]).collect();
        prop_assert!(jain(&living) >= 0.998, "{living:?}");
        prop_assert_eq!(after[dead], 0.0);
    }
}
