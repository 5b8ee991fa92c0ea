//! Percentile-bootstrap intervals of a median (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13).

use serde::{Deserialize, Serialize};

use super::quantile::{median, quantile_of_sorted};
use super::random::SplitMix64;

/// Resamples an interval rests on.
const RESAMPLES: usize = 10_000;
/// Fixed, so that a report can be recomputed from its raw samples.
const SEED: u64 = 0xc007_a0be;

/// A median with the interval that covers 95 % of its resamples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The median of the samples.
    pub value: f64,
    /// The 2.5 % and the 97.5 % quantile of the resampled medians.
    pub ci95: [f64; 2],
}

impl Interval {
    /// True when `x` is inside, ends included.
    pub fn contains(&self, x: f64) -> bool {
        self.ci95[0] <= x && x <= self.ci95[1]
    }
}

/// The median of `samples` and its 95 % interval; `None` for no samples. One sample gives an interval of no width, so
/// callers ask for more before they judge.
pub fn median_interval(samples: &[f64]) -> Option<Interval> {
    let value = median(samples)?;
    let mut random = SplitMix64::new(SEED);
    let mut drawn = vec![0.0; samples.len()];
    let mut medians: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for slot in &mut drawn {
            *slot = samples[random.index(samples.len())];
        }
        drawn.sort_unstable_by(f64::total_cmp);
        medians.push(quantile_of_sorted(&drawn, 0.5)?);
    }
    medians.sort_unstable_by(f64::total_cmp);
    Some(Interval {
        value,
        ci95: [quantile_of_sorted(&medians, 0.025)?, quantile_of_sorted(&medians, 0.975)?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_samples_always_give_the_same_interval() {
        let samples = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0];
        assert_eq!(median_interval(&samples), median_interval(&samples));
    }

    #[test]
    fn the_interval_surrounds_the_median_and_stays_within_the_samples() {
        let samples = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0];
        let interval = median_interval(&samples).unwrap();
        assert!((interval.value - 3.5).abs() < 1e-9);
        assert!(interval.contains(interval.value));
        assert!(interval.ci95[0] >= 1.0 && interval.ci95[1] <= 9.0);
    }

    #[test]
    fn more_samples_of_the_same_spread_narrow_the_interval() {
        let few: Vec<f64> = (0..8).map(|i| f64::from(i % 4)).collect();
        let many: Vec<f64> = (0..200).map(|i| f64::from(i % 4)).collect();
        let width = |samples: &[f64]| {
            let ci95 = median_interval(samples).unwrap().ci95;
            ci95[1] - ci95[0]
        };
        assert!(width(&many) < width(&few));
    }

    /// What docs/bench-method.md promises of intervals of few samples.
    #[test]
    fn intervals_of_six_to_twelve_samples_hold_the_true_median_in_nine_of_ten_cases() {
        let mut random = SplitMix64::new(9);
        for count in [6, 8, 12] {
            let mut noise = || (0..12).map(|_| random.next_u64() as f64 / u64::MAX as f64).sum::<f64>() - 6.0;
            let holds = (0..200)
                .filter(|_| {
                    let samples: Vec<f64> = (0..count).map(|_| noise()).collect();
                    median_interval(&samples).unwrap().contains(0.0)
                })
                .count();
            assert!(holds >= 174, "{holds} of 200 with {count}");
        }
    }

    #[test]
    fn no_samples_give_no_interval() {
        assert_eq!(median_interval(&[]), None);
    }
}
