//! Paired comparison: the difference of neighbours in time, so that drift of the machine cancels.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, median_interval};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A smaller value is better.
    Lower,
    /// A larger value is better.
    Higher,
}

/// What a paired difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better than the baseline by more than the interval.
    Better,
    /// Worse than the baseline by more than the interval.
    Worse,
    /// The interval holds zero: no difference was found.
    Tie,
}

impl Verdict {
    /// The verdict on a difference (system - baseline).
    pub fn of(difference: &Interval, direction: Direction) -> Self {
        if difference.contains(0.0) {
            return Self::Tie;
        }
        match (difference.value < 0.0, direction) {
            (true, Direction::Lower) | (false, Direction::Higher) => Self::Better,
            _ => Self::Worse,
        }
    }

    /// The word for it in a report.
    pub fn text(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Tie => "tie",
        }
    }
}

/// Pairs needed for a judgement: the interval of fewer covers less than the 95 % that it claims
/// (of 5 pairs, all on one side by chance in 6 % of cases).
pub const FEWEST_PAIRS: usize = 6;

/// The median of (system - baseline) over `pairs` of (baseline, system) with its 95 % interval; `None` below
/// [`FEWEST_PAIRS`].
pub fn paired_difference(pairs: &[(f64, f64)]) -> Option<Interval> {
    if pairs.len() < FEWEST_PAIRS {
        return None;
    }
    let differences: Vec<f64> = pairs.iter().map(|(baseline, system)| system - baseline).collect();
    median_interval(&differences)
}

#[cfg(test)]
mod tests {
    use super::super::random::SplitMix64;
    use super::*;

    /// About normal: the sum of twelve uniforms less six.
    fn noise(random: &mut SplitMix64) -> f64 {
        (0..12).map(|_| random.next_u64() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }

    fn pairs(random: &mut SplitMix64, count: usize, shift: f64) -> Vec<(f64, f64)> {
        (0..count).map(|_| (100.0 + noise(random), 100.0 + shift + noise(random))).collect()
    }

    #[test]
    fn the_same_against_itself_ties_in_about_nineteen_of_twenty_runs() {
        let mut random = SplitMix64::new(42);
        let ties = (0..200)
            .filter(|_| {
                let difference = paired_difference(&pairs(&mut random, 12, 0.0)).unwrap();
                Verdict::of(&difference, Direction::Lower) == Verdict::Tie
            })
            .count();
        assert!(ties >= 184, "{ties} of 200");
    }

    #[test]
    fn a_shift_of_three_standard_deviations_is_always_found() {
        let mut random = SplitMix64::new(43);
        for _ in 0..100 {
            let difference = paired_difference(&pairs(&mut random, 12, 3.0)).unwrap();
            assert_eq!(Verdict::of(&difference, Direction::Lower), Verdict::Worse);
            assert_eq!(Verdict::of(&difference, Direction::Higher), Verdict::Better);
        }
    }

    #[test]
    fn drift_that_both_sides_share_does_not_widen_the_interval() {
        let pairs: Vec<(f64, f64)> =
            (0..12).map(|i| (f64::from(i) * 10.0, f64::from(i) * 10.0 + 1.0)).collect();
        let difference = paired_difference(&pairs).unwrap();
        assert_eq!(difference, Interval { value: 1.0, ci95: [1.0, 1.0] });
    }

    #[test]
    fn too_few_pairs_are_not_judged() {
        assert_eq!(paired_difference(&[(1.0, 2.0); FEWEST_PAIRS - 1]), None);
        assert!(paired_difference(&[(1.0, 2.0); FEWEST_PAIRS]).is_some());
    }
}
