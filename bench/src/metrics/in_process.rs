//! What a hook adds, measured within one process: the function as a program finds it and the driver's own are called in
//! alternating blocks. Processes differ by tens of per cent from one to the next on a shared machine, neighbouring blocks of
//! one process do not.

use anyhow::Result;

use crate::clock::now_ns;
use crate::gpu::Side;
use crate::stats;
use crate::worker::Measure;

/// The order of the blocks of a quad: what drifts evenly cancels, and so does the first place, by turns.
const QUADS: [[Side; 4]; 2] =
    [[Side::Own, Side::Hooked, Side::Hooked, Side::Own], [Side::Hooked, Side::Own, Side::Own, Side::Hooked]];

/// How many quads are measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The most; each has two blocks of either side.
    pub quads: usize,
    /// The fewest, however long they take.
    pub fewest: usize,
    /// Quads before, which do not count.
    pub warm_up: usize,
    /// When to stop once there are `fewest`, in nanoseconds.
    pub budget_ns: u64,
    /// Calls in a block, for the record.
    pub calls: usize,
}

/// What the quads gave for each of the values that a block measures, in nanoseconds a call.
pub(super) struct Alternated<const N: usize> {
    hooked_ns: [Vec<f64>; N],
    differences_ns: [Vec<f64>; N],
    /// Logarithms of hooked over own, of the quads in which both are above zero.
    log_ratios: [Vec<f64>; N],
    calls: usize,
}

/// Runs `block` on alternating sides; it returns the mean nanoseconds a call, for each of `N` functions that it calls.
pub(super) fn alternate<const N: usize>(
    plan: Plan,
    mut block: impl FnMut(Side) -> Result<[f64; N]>,
) -> Result<Alternated<N>> {
    let mut all = Alternated {
        hooked_ns: std::array::from_fn(|_| Vec::with_capacity(plan.quads)),
        differences_ns: std::array::from_fn(|_| Vec::with_capacity(plan.quads)),
        log_ratios: std::array::from_fn(|_| Vec::with_capacity(plan.quads)),
        calls: 0,
    };
    let end_ns = now_ns() + plan.budget_ns;
    for number in 0..plan.warm_up + plan.quads {
        if number >= plan.warm_up + plan.fewest && now_ns() >= end_ns {
            break;
        }
        let (mut hooked_ns, mut own_ns) = ([0.0; N], [0.0; N]);
        for side in QUADS[number % QUADS.len()] {
            let means_ns = block(side)?;
            let sum_ns = if side == Side::Hooked { &mut hooked_ns } else { &mut own_ns };
            for (sum_ns, mean_ns) in sum_ns.iter_mut().zip(means_ns) {
                *sum_ns += mean_ns / 2.0;
            }
        }
        if number < plan.warm_up {
            continue;
        }
        all.calls += 4 * plan.calls;
        for of in 0..N {
            all.hooked_ns[of].push(hooked_ns[of]);
            all.differences_ns[of].push(hooked_ns[of] - own_ns[of]);
            if hooked_ns[of] > 0.0 && own_ns[of] > 0.0 {
                all.log_ratios[of].push((hooked_ns[of] / own_ns[of]).ln());
            }
        }
    }
    Ok(all)
}

impl<const N: usize> Alternated<N> {
    /// The median over quads of what the hook adds to value `of`, a difference, in `unit` of `unit_ns` nanoseconds.
    pub(super) fn added(&self, of: usize, unit: &str, unit_ns: f64) -> Option<Measure> {
        let value = stats::median(&self.differences_ns[of])? / unit_ns;
        // Where a time is not above zero, calls are so short that the clock's noise counts: then differences say more.
        let all = self.log_ratios[of].len() == self.differences_ns[of].len();
        let log_ratio = stats::median(&self.log_ratios[of]).filter(|_| all);
        Some(Measure { calls: self.calls, is_difference: true, log_ratio, ..Measure::single(value, unit) })
    }

    /// The median over quads of value `of` on the hooked side.
    pub(super) fn hooked(&self, of: usize, unit: &str, unit_ns: f64) -> Option<Measure> {
        let value = stats::median(&self.hooked_ns[of])? / unit_ns;
        Some(Measure { calls: self.calls / 2, ..Measure::single(value, unit) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { quads: 100, fewest: 10, warm_up: 3, budget_ns: u64::MAX / 4, calls: 20 };

    /// A machine that slows down by 1 ns a block, and a hook that adds 50 ns.
    #[test]
    fn a_drift_that_both_sides_share_cancels() {
        let mut blocks = 0.0;
        let all = alternate(PLAN, |side| {
            blocks += 1.0;
            Ok([1_000.0 + blocks + if side == Side::Hooked { 50.0 } else { 0.0 }])
        });
        let added = all.unwrap().added(0, "ns", 1.0).unwrap();
        assert!((added.value - 50.0).abs() < 1e-9, "{added:?}");
        assert!((0.03..0.05).contains(&added.log_ratio.unwrap()), "{added:?}");
        assert!(added.is_difference);
        assert_eq!(added.calls, 100 * 4 * 20);
    }

    #[test]
    fn a_change_of_the_machines_speed_does_not_count() {
        let mut blocks = 0;
        let all = alternate(PLAN, |side| {
            blocks += 1;
            let speed = if blocks > 190 { 1.9 } else { 1.0 };
            Ok([speed * (1_000.0 + if side == Side::Hooked { 50.0 } else { 0.0 })])
        });
        let added = all.unwrap().added(0, "ns", 1.0).unwrap().value;
        assert!((50.0..=95.0).contains(&added), "{added}");
    }

    #[test]
    fn slow_calls_end_with_the_fewest_quads_and_each_value_is_its_own() {
        let plan = Plan { budget_ns: 0, ..PLAN };
        let mut blocks = 0;
        let all = alternate(plan, |side| {
            blocks += 1;
            Ok(if side == Side::Hooked { [11.0, 7.0] } else { [10.0, 7.0] })
        });
        let all = all.unwrap();
        assert_eq!(blocks, 4 * (3 + 10));
        let added = |of| all.added(of, "µs", 1e3).unwrap().value;
        assert!((added(0) - 0.001).abs() < 1e-12 && added(1).abs() < 1e-12);
        assert!((all.hooked(0, "ns", 1.0).unwrap().value - 11.0).abs() < 1e-12);
    }
}
