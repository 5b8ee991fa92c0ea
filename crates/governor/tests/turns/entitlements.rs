//! Guarantees, under overload and beside priority.

use cuota_governor::entitlement::{Entitlement, Priority};
use proptest::prelude::*;

use crate::SECOND;
use crate::model::{Habit, Tenant, World, guaranteed, normal, saturating, with_priority};

#[test]
fn a_guarantee_is_kept_under_overload() {
    for (percent, others) in [(10, 2), (30, 5), (50, 16), (80, 63)] {
        let mut tenants = vec![guaranteed(percent)];
        tenants.extend((0..others).map(|_| normal(100)));
        let mut world = saturating(tenants);
        let got = world.measure(10 * SECOND);
        let all: f64 = got.iter().sum();
        assert!(got[0] / all >= f64::from(percent) / 100.0 - 0.01, "{percent} %: {} of {all}", got[0]);
        assert!(got[1..].iter().all(|had| *had > 0.0));
    }
}

#[test]
fn adaptive_tenants_have_their_share_and_the_others_the_rest() {
    let adaptive = Entitlement { guarantee_ppm: 300_000, weight: 0, priority: Priority::Normal };
    let mut world = saturating([adaptive, normal(100)]);
    let got = world.measure(10 * SECOND);
    let all: f64 = got.iter().sum();
    assert!((got[0] / all - 0.3).abs() < 0.01, "{got:?}");
}

#[test]
fn what_nobody_with_a_weight_wants_goes_to_those_without_in_proportion_to_their_guarantees() {
    let adaptive = |ppm| Entitlement { guarantee_ppm: ppm, weight: 0, priority: Priority::Normal };
    let mut world = saturating([adaptive(300_000), adaptive(100_000)]);
    let got = world.measure(10 * SECOND);
    let all: f64 = got.iter().sum();
    assert!((got[0] / all - 0.75).abs() < 0.01, "{got:?}");
}

#[test]
fn a_guarantee_is_a_floor_below_a_busy_high_priority() {
    let mut world = saturating([with_priority(Priority::High, 0), with_priority(Priority::Low, 5)]);
    let got = world.measure(10 * SECOND);
    let all: f64 = got.iter().sum();
    assert!((got[1] / all - 0.05).abs() < 0.01, "{got:?}");
}

#[test]
fn more_guarantees_than_there_is_are_scaled_and_stop_nobody() {
    let mut world = saturating([guaranteed(90), guaranteed(90), normal(100)]);
    let got = world.measure(10 * SECOND);
    assert!((got[0] - got[1]).abs() < 0.02 && got[0] > 0.45, "{got:?}");
}

#[test]
fn a_changed_share_is_in_force_within_one_cycle() {
    let mut world = saturating([normal(50), normal(50)]);
    let change = |world: &mut World, weights: [u32; 2]| {
        for (tenant, weight) in world.tenants.iter_mut().zip(weights) {
            tenant.set_entitlement(normal(weight));
        }
    };
    change(&mut world, [75, 25]);
    // The cycle in which it was changed.
    world.measure(cuota_governor::arbiter::cycle_ns(2));
    for _ in 0..20 {
        let got = world.measure(SECOND / 5);
        let all: f64 = got.iter().sum();
        assert!((got[0] / all - 0.75).abs() < 0.02, "{got:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn guarantees_that_fit_are_kept_whoever_else_wants_the_gpu(
        parts in proptest::collection::vec(1..=20_u32, 1..=8),
        // 64 tenants at most, together.
        others in 0..=53_usize,
        high in 0..=3_usize,
    ) {
        let total: u32 = parts.iter().sum();
        // 90 % at most: those below a busy high priority have half a per cent each as well.
        let percents: Vec<u32> = parts.iter().map(|part| (part * 60 / total).max(1)).collect();
        let mut tenants: Vec<Tenant> =
            percents.iter().map(|percent| Tenant::new(guaranteed(*percent), Habit::Saturates)).collect();
        tenants.extend((0..others).map(|_| Tenant::new(normal(100), Habit::Saturates)));
        tenants.extend((0..high).map(|_| Tenant::new(with_priority(Priority::High, 0), Habit::Saturates)));
        let mut world = World::new(tenants);
        world.run_until(world.now_ns + 3 * SECOND);
        let got = world.measure(20 * SECOND);
        let all: f64 = got.iter().sum();
        for (percent, had) in percents.iter().zip(&got) {
            prop_assert!(had / all >= f64::from(*percent) / 100.0 - 0.01, "{} % had {}", percent, had / all);
        }
        // And nobody stands still.
        prop_assert!(got.iter().all(|had| *had > 0.0), "{got:?}");
    }
}
