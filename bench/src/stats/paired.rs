//! Paired comparison: the difference of neighbours in time, so that drift of the machine cancels.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Interval, median_interval};
use super::quantile::median;
use super::trimmed::{SIGNIFICANCE, about_zero};

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
    /// Better than the baseline.
    Better,
    /// Worse than the baseline.
    Worse,
    /// No difference was found.
    Tie,
}

impl Verdict {
    /// The verdict on a difference (system - baseline) whose test says `p`, corrected for its family. Two must agree that
    /// there is one: the interval, which is that of the median, and the test.
    pub fn of(difference: &Interval, p: f64, direction: Direction) -> Self {
        if difference.contains(0.0) || p >= SIGNIFICANCE {
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

/// What is held against nothing: differences against 0, or ratios against 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// What the system adds.
    Difference,
    /// What the system makes of native's value. Falls back to differences where a value is not above zero.
    Ratio,
}

/// A paired comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The median of (system - baseline).
    pub difference: Interval,
    /// The median of system / baseline, where all values are above zero.
    pub ratio: Option<Interval>,
    /// The chance of such values without a difference, not yet corrected.
    pub p: f64,
    /// The smallest difference that would be found, in per cent of the baseline's median, where that is above zero.
    pub detectable_percent: Option<f64>,
    /// The same in the unit of the values.
    pub detectable: f64,
}

/// Compares `pairs` of (baseline, system); `None` below [`FEWEST_PAIRS`].
pub fn paired(pairs: &[(f64, f64)], scale: Scale) -> Option<Paired> {
    if pairs.len() < FEWEST_PAIRS {
        return None;
    }
    let differences: Vec<f64> = pairs.iter().map(|(baseline, system)| system - baseline).collect();
    let positive = pairs.iter().all(|(baseline, system)| *baseline > 0.0 && *system > 0.0);
    let ratios: Option<Vec<f64>> =
        positive.then(|| pairs.iter().map(|(baseline, system)| system / baseline).collect());
    let baseline = median(&pairs.iter().map(|(baseline, _)| *baseline).collect::<Vec<_>>())?;
    let (p, detectable) = match ratios.as_ref().filter(|_| scale == Scale::Ratio) {
        Some(ratios) => {
            let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
            let test = about_zero(&logarithms)?;
            (test.p, test.detectable.exp_m1() * baseline)
        }
        None => about_zero(&differences).map(|test| (test.p, test.detectable))?,
    };
    Some(Paired {
        difference: median_interval(&differences)?,
        ratio: ratios.and_then(|ratios| median_interval(&ratios)),
        p,
        detectable_percent: (baseline > 0.0).then(|| 100.0 * detectable / baseline),
        detectable,
    })
}

/// Holds `differences` against zero; `None` below [`FEWEST_PAIRS`]. Where the `logarithms` of the ratios that belong to them are
/// known they are what is tested: what slows a process down as a whole is not in them.
pub fn added(differences: &[f64], logarithms: Option<&[f64]>) -> Option<Paired> {
    let pairs: Vec<(f64, f64)> = differences.iter().map(|difference| (0.0, *difference)).collect();
    let found = paired(&pairs, Scale::Difference)?;
    let by_ratio = logarithms.and_then(about_zero).map(|test| test.p);
    Some(Paired { p: by_ratio.unwrap_or(found.p), ..found })
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

    fn judged(pairs: &[(f64, f64)], scale: Scale, direction: Direction) -> Verdict {
        let paired = paired(pairs, scale).unwrap();
        Verdict::of(&paired.difference, paired.p, direction)
    }

    #[test]
    fn the_same_against_itself_ties_in_nineteen_of_twenty_runs() {
        let mut random = SplitMix64::new(42);
        for count in [6, 12] {
            let is_tie = |pairs: &[(f64, f64)]| {
                let logarithms: Vec<f64> = pairs.iter().map(|pair| (pair.1 / pair.0).ln()).collect();
                // Where the test alone says so, the interval, which takes long, need not be asked.
                about_zero(&logarithms).unwrap().p >= SIGNIFICANCE
                    || judged(pairs, Scale::Ratio, Direction::Lower) == Verdict::Tie
            };
            let ties = (0..4_000).filter(|_| is_tie(&pairs(&mut random, count, 0.0))).count();
            assert!(ties >= 3_760, "{ties} of 4,000 with {count} pairs");
        }
    }

    #[test]
    fn a_shift_of_three_standard_deviations_is_always_found() {
        let mut random = SplitMix64::new(43);
        for scale in [Scale::Difference, Scale::Ratio] {
            for _ in 0..100 {
                let pairs = pairs(&mut random, 12, 3.0);
                assert_eq!(judged(&pairs, scale, Direction::Lower), Verdict::Worse);
                assert_eq!(judged(&pairs, scale, Direction::Higher), Verdict::Better);
            }
        }
    }

    #[test]
    fn drift_that_both_sides_share_does_not_widen_the_interval() {
        let pairs: Vec<(f64, f64)> =
            (1..13).map(|i| (f64::from(i) * 10.0, f64::from(i) * 10.0 + 1.0)).collect();
        let difference = paired(&pairs, Scale::Difference).unwrap().difference;
        assert_eq!(difference, Interval { value: 1.0, ci95: [1.0, 1.0] });
        let pairs: Vec<(f64, f64)> = (1..13).map(|i| (f64::from(i), f64::from(i) * 2.0)).collect();
        let found = paired(&pairs, Scale::Ratio).unwrap();
        assert_eq!(found.ratio.unwrap(), Interval { value: 2.0, ci95: [2.0, 2.0] });
        assert_eq!(found.detectable_percent, Some(0.0));
    }

    /// A hook that takes 20 µs more than the driver's 0.1, in processes of which others of the machine slow some down to a seventh.
    #[test]
    fn what_slows_processes_down_does_not_hide_what_a_hook_adds() {
        let slow = [1.0, 1.0, 1.5, 3.6, 2.4, 7.0];
        let differences = slow.map(|factor| 20.0 * factor);
        let logarithms = slow.map(|factor| (20.1_f64 / 0.1).ln() + 0.5 * (factor - 1.0_f64).min(1.0));
        let alone = added(&differences, None).unwrap();
        let both = added(&differences, Some(&logarithms)).unwrap();
        assert!(alone.p > 0.01 && both.p < 1e-5, "{} {}", alone.p, both.p);
        assert_eq!(alone.difference, both.difference);
        // Nothing is added where nothing is, however fast or slow.
        let nothing = [0.01, -0.02, 0.015, -0.01, 0.005, -0.002];
        assert!(added(&nothing, Some(&nothing)).unwrap().p > SIGNIFICANCE);
    }

    #[test]
    fn a_ratio_to_nothing_is_not_formed() {
        let pairs = [(0.0, 1.0); 8];
        let found = paired(&pairs, Scale::Ratio).unwrap();
        assert!(found.ratio.is_none() && found.detectable_percent.is_none());
        assert_eq!(Verdict::of(&found.difference, found.p, Direction::Lower), Verdict::Worse);
    }

    #[test]
    fn too_few_pairs_are_not_judged() {
        assert_eq!(paired(&[(1.0, 2.0); FEWEST_PAIRS - 1], Scale::Difference), None);
        assert!(paired(&[(1.0, 2.0); FEWEST_PAIRS], Scale::Difference).is_some());
    }
}
