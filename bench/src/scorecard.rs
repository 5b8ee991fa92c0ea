//! Counting verdicts: what a reader wants first, and what must not be made from anything but verdicts.

use crate::category::{self, Category};
use crate::judge::{Winner, is_native};
use crate::metrics::Comparison;
use crate::results::{MetricResult, Results, Status, SystemResult};
use crate::stats::Verdict;

/// How one system stands in one category, or in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Better than native.
    pub better: usize,
    /// No difference to native was found.
    pub tie: usize,
    /// Worse than native.
    pub worse: usize,
    /// Passed, of metrics that are passed or failed.
    pub passed: usize,
    /// Failed them.
    pub not_passed: usize,
    /// Measured, where native is no baseline.
    pub alone: usize,
    /// The limit is not in force.
    pub not_enforced: usize,
    /// Not measured here, or not applicable.
    pub not_measured: usize,
    /// Too few samples were good.
    pub failed: usize,
    /// Metrics in which it beats every other system.
    pub wins: usize,
    /// Metrics in which it is among the best, and others too.
    pub shared: usize,
}

impl Score {
    /// Counts `system`, as `name`, in `metrics`.
    fn of<'a>(name: &str, metrics: impl Iterator<Item = &'a MetricResult>) -> Self {
        let mut score = Self::default();
        for metric in metrics {
            if let Some(system) = metric.systems.get(name) {
                score.count(metric.comparison, system);
            }
            match &metric.winner {
                Some(Winner::System(winner)) => score.wins += usize::from(winner == name),
                Some(Winner::Tie(tied)) => score.shared += usize::from(tied.iter().any(|one| one == name)),
                None => {}
            }
        }
        score
    }

    fn count(&mut self, comparison: Comparison, system: &SystemResult) {
        let counter = match (system.status, comparison, system.verdict_in_process.or(system.verdict)) {
            (Status::NotEnforced, ..) => &mut self.not_enforced,
            (Status::NotMeasured | Status::NotApplicable, ..) => &mut self.not_measured,
            (Status::Failed, ..) => &mut self.failed,
            (Status::Measured, Comparison::Pass, _) if system.value >= Some(1.0) => &mut self.passed,
            (Status::Measured, Comparison::Pass, _) => &mut self.not_passed,
            (Status::Measured, _, Some(Verdict::Better)) => &mut self.better,
            (Status::Measured, _, Some(Verdict::Tie)) => &mut self.tie,
            (Status::Measured, _, Some(Verdict::Worse)) => &mut self.worse,
            (Status::Measured, _, None) => &mut self.alone,
        };
        *counter += 1;
    }
}

/// A category, or all for `None`, with the score of each system.
pub type Row<'a> = (Option<&'static Category>, Vec<(&'a str, Score)>);

/// The scores of the systems that share the GPU: a row a category that has metrics, then all together under `None`.
pub fn scores(results: &Results) -> Vec<Row<'_>> {
    let systems: Vec<&str> = results.order().into_iter().filter(|name| !is_native(name)).collect();
    let row = |category: Option<&'static Category>| {
        let metrics = || {
            results
                .metrics
                .iter()
                .filter(move |metric| category.is_none_or(|category| category.has(&metric.id)))
        };
        let scores = systems.iter().map(|name| (*name, Score::of(name, metrics()))).collect();
        metrics().next().map(|_| (category, scores))
    };
    category::ALL.iter().map(Some).chain([None]).filter_map(row).collect()
}

/// A difference that was found: the larger the ratio to native, either way, the earlier it stands.
pub struct Difference<'a> {
    /// The metric.
    pub metric: &'a MetricResult,
    /// The system.
    pub name: &'a str,
    /// Its result.
    pub system: &'a SystemResult,
    /// Better or worse.
    pub verdict: Verdict,
}

/// All that is no tie, the largest ratios first.
pub fn differences(results: &Results) -> Vec<Difference<'_>> {
    let mut found: Vec<Difference<'_>> = Vec::new();
    for metric in &results.metrics {
        for (name, system) in metric.systems.iter().filter(|(name, _)| !is_native(name)) {
            let verdict = system.verdict_in_process.or(system.verdict);
            if let Some(verdict) = verdict.filter(|verdict| *verdict != Verdict::Tie) {
                found.push(Difference { metric, name, system, verdict });
            }
        }
    }
    found.sort_by(|a, b| b.size().total_cmp(&a.size()));
    found
}

impl Difference<'_> {
    /// The distance of the ratio from 1, alike for twice and for half.
    fn size(&self) -> f64 {
        self.system.ratio.map_or(0.0, |ratio| ratio.value.ln().abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn verdicts_are_counted_by_category_and_in_all() {
        let results = example::results();
        let scores = scores(&results);
        let names: Vec<_> =
            scores.iter().map(|(category, _)| category.map(|category| category.name)).collect();
        assert_eq!(names, [Some("Overhead"), Some("Isolation"), None]);
        let (_, all) = scores.last().unwrap();
        let score = |name: &str| all.iter().find(|(system, _)| *system == name).unwrap().1.clone();
        assert_eq!(score("cuota"), Score { worse: 1, alone: 1, wins: 1, ..Score::default() });
        assert_eq!(score("hami"), Score { not_enforced: 1, alone: 1, ..Score::default() });
        assert!(all.iter().all(|(system, _)| *system != "native"));
    }

    #[test]
    fn ties_are_no_differences() {
        let mut results = example::results();
        assert_eq!(differences(&results).len(), 1);
        results.metrics[0].systems.get_mut("cuota").unwrap().verdict_in_process = Some(Verdict::Tie);
        assert!(differences(&results).is_empty());
    }
}
