//! Judging a whole file: a report asks dozens of questions at once, so each verdict is corrected for all of them, and a
//! winner is one that beats every other system by the same standard.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{self, Comparison, Metric};
use crate::results::{MetricResult, Results, Status, SystemResult};
use crate::stats::{self, Direction, Paired, SIGNIFICANCE, Verdict, correction, holm};
use crate::summary::scale;

/// Which of the systems that share the GPU is best in a metric. Native is no candidate: it shares nothing out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// One is better than each of the others.
    System(String),
    /// These cannot be told from the best one.
    Tie(Vec<String>),
}

/// Sets every corrected verdict and every winner of the file.
pub fn judge(results: &mut Results) {
    correct_verdicts(results);
    crown(results);
}

/// One family: what every system is against native, process against process and in process.
fn correct_verdicts(results: &mut Results) {
    let family: Vec<f64> =
        systems(results).flat_map(|(_, system)| [system.p, system.p_in_process]).flatten().collect();
    let size = family.len();
    let mut corrected = holm(&family).into_iter();
    for metric in &mut results.metrics {
        let direction = metric.direction;
        for system in metric.systems.values_mut() {
            if let Some(p) = system.p.and_then(|_| corrected.next()) {
                system.p_corrected = Some(p);
                system.verdict = system.added.map(|added| Verdict::of(&added, p, direction));
            }
            let correction = correction(system.turns.len(), size);
            system.detectable_in_family_percent =
                system.detectable_percent.map(|percent| percent * correction);
            if let Some(p) = system.p_in_process.and_then(|_| corrected.next()) {
                system.verdict_in_process =
                    system.added_in_process.map(|added| Verdict::of(&added, p, direction));
            }
        }
    }
}

fn systems(results: &Results) -> impl Iterator<Item = (&String, &SystemResult)> {
    results.metrics.iter().flat_map(|metric| metric.systems.iter())
}

/// The candidates of a metric that is no test to be passed: measured systems that share the GPU, of which there are at least two.
fn candidates(metric: &MetricResult) -> Vec<(&str, &SystemResult)> {
    if metric.comparison == Comparison::Pass {
        return Vec::new(); // To pass is no contest.
    }
    let measured =
        |(_, system): &(&String, &SystemResult)| system.status == Status::Measured && system.value.is_some();
    let all: Vec<_> = metric
        .systems
        .iter()
        .filter(|(name, _)| !is_native(name))
        .filter(measured)
        .map(|(name, system)| (name.as_str(), system))
        .collect();
    if all.len() >= 2 { all } else { Vec::new() }
}

/// Native, or native again in a run against itself.
pub fn is_native(name: &str) -> bool {
    name == "native" || name.starts_with("native#")
}

/// Finds the winners; the comparisons of the best with the others, over all metrics, are a family of their own.
fn crown(results: &mut Results) {
    let mut rivals = Vec::new();
    for (index, metric) in results.metrics.iter().enumerate() {
        let all = candidates(metric);
        let Some(best) = best(&all, metric.direction) else { continue };
        for (name, system) in all.iter().filter(|(name, _)| *name != best.0) {
            // Too few turns in common: nothing can be said, not even that they tie.
            let found = head_to_head(metric, best.1, system);
            rivals.extend(found.map(|found| (index, best.0.to_owned(), (*name).to_owned(), found)));
        }
    }
    let p: Vec<f64> = rivals.iter().map(|(.., found)| found.p).collect();
    let mut ties: BTreeMap<usize, (String, Vec<String>)> = BTreeMap::new();
    for ((index, best, rival, found), p) in rivals.into_iter().zip(holm(&p)) {
        let (_, tied) = ties.entry(index).or_insert((best, Vec::new()));
        let beaten = !found.difference.contains(0.0) && p < SIGNIFICANCE;
        if !beaten {
            tied.push(rival);
        }
    }
    for (index, metric) in results.metrics.iter_mut().enumerate() {
        metric.winner = ties.remove(&index).map(|(best, tied)| match tied.is_empty() {
            true => Winner::System(best),
            false => Winner::Tie([best].into_iter().chain(tied).collect()),
        });
    }
}

fn best<'a>(
    all: &[(&'a str, &'a SystemResult)],
    direction: Direction,
) -> Option<(&'a str, &'a SystemResult)> {
    let signed = |system: &SystemResult| {
        let value = system.value.unwrap_or(f64::NAN);
        if direction == Direction::Lower { value } else { -value }
    };
    all.iter().copied().min_by(|(_, a), (_, b)| signed(a).total_cmp(&signed(b)))
}

/// Two systems against each other, by the turns that both have: what their hooks add within their processes where both have
/// that, since processes differ by more than a hook adds; else their values.
fn head_to_head(metric: &MetricResult, best: &SystemResult, rival: &SystemResult) -> Option<Paired> {
    let scale = scale(metric.comparison).unwrap_or(stats::Scale::Difference);
    let name = metrics::find(&metric.id).and_then(|found| Metric::info(found).in_process.first().copied());
    let within = |system: &SystemResult| {
        let series = system.series.get(name?)?;
        (series.samples.len() == system.turns.len()).then(|| by_turn(&system.turns, &series.samples))
    };
    let (first, second, scale) = match (within(best), within(rival)) {
        (Some(first), Some(second)) => (first, second, stats::Scale::Difference),
        _ => (by_turn(&best.turns, &best.samples), by_turn(&rival.turns, &rival.samples), scale),
    };
    let pairs: Vec<(f64, f64)> =
        first.iter().filter_map(|(turn, value)| Some((*value, *second.get(turn)?))).collect();
    stats::paired(&pairs, scale)
}

fn by_turn(turns: &[usize], samples: &[f64]) -> BTreeMap<usize, f64> {
    turns.iter().copied().zip(samples.iter().copied()).collect()
}

/// What a reader is told of one system in one metric, in a word or two.
pub fn verdict_text(metric: &MetricResult, system: &SystemResult) -> String {
    match (system.status, metric.comparison) {
        (Status::NotEnforced, _) => "not enforced".to_owned(),
        (Status::NotMeasured, _) => "not measured".to_owned(),
        (Status::NotApplicable, _) => "—".to_owned(),
        (Status::Failed, _) => "failed".to_owned(),
        (Status::Measured, Comparison::Pass) => match system.value {
            Some(value) if value >= 1.0 => "pass".to_owned(),
            _ => "FAIL".to_owned(),
        },
        // What the hook adds within a process is the sharper of the two where a metric has both.
        (Status::Measured, _) => {
            system.verdict_in_process.or(system.verdict).map_or("measured", Verdict::text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::results::SCHEMA;

    fn system(samples: &[f64]) -> SystemResult {
        let mut system = SystemResult::without_value(Status::Measured, "");
        system.value = stats::median(samples);
        system.samples = samples.to_vec();
        system.turns = (0..samples.len()).collect();
        system
    }

    fn file(metrics: Vec<BTreeMap<String, SystemResult>>) -> Results {
        let metric =
            |systems| MetricResult { systems, ..MetricResult::new(metrics::find("IS-002").unwrap().info()) };
        Results {
            schema: SCHEMA.to_owned(),
            environment: Environment::default(),
            metrics: metrics.into_iter().map(metric).collect(),
        }
    }

    fn row(systems: &[(&str, &[f64])]) -> BTreeMap<String, SystemResult> {
        systems.iter().map(|(name, samples)| ((*name).to_owned(), system(samples))).collect()
    }

    const QUIET: [f64; 8] = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 0.98];
    const ALIKE: [f64; 8] = [1.02, 1.0, 1.0, 0.95, 1.05, 0.98, 1.0, 1.0];
    const SLOW: [f64; 8] = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.02, 1.98];

    #[test]
    fn a_clear_best_wins_and_native_is_no_candidate() {
        let mut results = file(vec![row(&[("cuota", &QUIET), ("hami", &SLOW), ("native", &[0.1; 8])])]);
        judge(&mut results);
        assert_eq!(results.metrics[0].winner, Some(Winner::System("cuota".to_owned())));
    }

    #[test]
    fn what_cannot_be_told_apart_is_a_tie() {
        let mut results = file(vec![row(&[("cuota", &QUIET), ("hami", &ALIKE), ("mps", &SLOW)])]);
        judge(&mut results);
        let Some(Winner::Tie(tied)) = &results.metrics[0].winner else { panic!("no tie") };
        assert!(tied.contains(&"cuota".to_owned()) && tied.contains(&"hami".to_owned()) && tied.len() == 2);
    }

    #[test]
    fn one_system_alone_has_nobody_to_beat_and_one_that_does_not_enforce_is_no_candidate() {
        let mut results = file(vec![row(&[("cuota", &QUIET), ("native", &SLOW)])]);
        let loose = SystemResult::without_value(Status::NotEnforced, "granted");
        results.metrics[0].systems.insert("hami".to_owned(), loose);
        judge(&mut results);
        assert_eq!(results.metrics[0].winner, None);
    }

    #[test]
    fn a_lone_small_p_among_many_questions_is_a_tie() {
        let asked = |p: f64| {
            let mut one = system(&QUIET);
            one.added = Some(stats::Interval { value: 0.1, ci95: [0.05, 0.2] });
            one.p = Some(p);
            BTreeMap::from([("cuota".to_owned(), one)])
        };
        let mut alone = file(vec![asked(0.03)]);
        judge(&mut alone);
        assert_eq!(alone.metrics[0].systems["cuota"].verdict, Some(Verdict::Worse));
        let mut many = file((0..10).map(|number| asked(if number == 0 { 0.03 } else { 0.5 })).collect());
        judge(&mut many);
        assert_eq!(many.metrics[0].systems["cuota"].verdict, Some(Verdict::Tie));
        assert!((many.metrics[0].systems["cuota"].p_corrected.unwrap() - 0.3).abs() < 1e-9);
    }
}
