//! A tenant of high priority that comes and goes.

use cuota_governor::entitlement::Priority;

use crate::model::{Habit, LOST_NS, Tenant, World, normal, with_priority};
use crate::{MS, SECOND};

fn beside(bursts: Habit, others: usize, guarantee_percent: u32) -> World {
    let mut tenants = vec![Tenant::new(with_priority(Priority::High, 0), bursts)];
    let other = with_priority(Priority::Normal, guarantee_percent);
    tenants.extend((0..others).map(|_| Tenant::new(other, Habit::Saturates)));
    let mut world = World::new(tenants);
    world.run_until(world.now_ns + SECOND);
    world.tenants.iter_mut().for_each(|tenant| tenant.longest_wait_ns = 0);
    world
}

#[test]
fn a_high_priority_that_becomes_busy_is_let_in_at_once() {
    for others in [1, 4, 63] {
        let mut world = beside(Habit::Bursts { busy_ns: 3 * MS, idle_ns: 3 * MS }, others, 0);
        let got = world.measure(10 * SECOND);
        assert_eq!(world.tenants[0].longest_wait_ns, 0, "{others} others");
        // Its half of the time, and the others what is left of the rest: each change of hands is lost.
        assert!(got[0] > 0.42, "{got:?}");
        let rest: f64 = got[1..].iter().sum();
        let changes = world.tenants.iter().map(|tenant| tenant.turns).sum::<u64>() as f64 / 11.0;
        let lost = changes * LOST_NS as f64 / SECOND as f64;
        assert!(rest >= 0.9 * (1.0 - got[0] - lost), "{rest} of {}", 1.0 - got[0]);
    }
}

#[test]
fn a_floor_is_what_a_high_priority_may_have_to_wait_for() {
    let mut world = beside(Habit::Saturates, 1, 5);
    let got = world.measure(10 * SECOND);
    assert!(got[1] > 0.04, "{got:?}");
    // One turn of the floor's, its end, and the wake-up.
    assert!(world.tenants[0].longest_wait_ns <= 6 * MS, "{}", world.tenants[0].longest_wait_ns);
}

#[test]
fn nobody_stands_still_below_a_high_priority_that_never_ends() {
    let mut world = beside(Habit::Saturates, 63, 0);
    let got = world.measure(10 * SECOND);
    assert!(got[1..].iter().all(|had| *had > 0.001), "{got:?}");
}

#[test]
fn those_of_high_priority_share_among_themselves_by_weight() {
    let high =
        |weight| cuota_governor::entitlement::Entitlement { priority: Priority::High, ..normal(weight) };
    let mut world = crate::model::saturating([high(100), high(300), normal(100)]);
    let got = world.measure(10 * SECOND);
    assert!((got[1] / got[0] - 3.0).abs() < 0.1, "{got:?}");
    assert!(got[2] < 0.01, "{got:?}");
}
