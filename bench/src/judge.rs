//! Judging a whole file: a report asks dozens of questions at once, so each verdict is corrected for all of them, and a
//! winner is one that beats every other system by the same standard.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{self, Comparison, Metric};
use crate::results::{MetricResult, Results, Status, SystemResult};
use crate::stats::{self, Direction, Paired, Scale, Verdict, correction, holm};
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

/// The first system, which all others are held against; native again in a run against itself is one of these.
const BASELINE: &str = "native";

/// The chances that make a family: what every system is against native, process against process and in process. What native is
/// against itself, in process, is a control and no claim of the report: a family of its own.
pub fn family(results: &Results, controls: bool) -> Vec<f64> {
    let of_family = |(name, _): &(&String, &SystemResult)| (name.as_str() == BASELINE) == controls;
    let p = |(_, system): (&String, &SystemResult)| [system.p, system.p_in_process];
    systems(results).filter(of_family).flat_map(p).flatten().collect()
}

fn correct_verdicts(results: &mut Results) {
    for controls in [false, true] {
        correct(results, controls);
    }
}

fn correct(results: &mut Results, controls: bool) {
    let family = family(results, controls);
    let size = family.len();
    let mut corrected = holm(&family).into_iter();
    for metric in &mut results.metrics {
        let direction = metric.direction;
        for (name, system) in &mut metric.systems {
            if (name.as_str() == BASELINE) != controls {
                continue;
            }
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

/// The candidates of a metric that is no test to be passed: measured systems that share the GPU.
fn candidates(metric: &MetricResult) -> Vec<(&str, &SystemResult)> {
    if metric.comparison == Comparison::Pass {
        return Vec::new(); // To pass is no contest.
    }
    let measured =
        |(_, system): &(&String, &SystemResult)| system.status == Status::Measured && system.value.is_some();
    metric
        .systems
        .iter()
        .filter(|(name, _)| !is_native(name))
        .filter(measured)
        .map(|(name, system)| (name.as_str(), system))
        .collect()
}

/// Why nobody is ahead in a metric without a winner or a tie.
pub fn why_no_winner(metric: &MetricResult) -> &'static str {
    match (metric.comparison, candidates(metric).len()) {
        (Comparison::Pass, _) => "none: to pass is no contest",
        (_, 0 | 1) => "none: fewer than two systems that share the GPU have values",
        _ => "not judged: fewer than 6 turns in common",
    }
}

/// Native, or native again in a run against itself.
pub fn is_native(name: &str) -> bool {
    name == BASELINE || name.starts_with("native#")
}

/// What the systems of a metric are ranked and told apart by: both by the same figures, or the best of one could lose by the
/// other.
struct Ranking<'a> {
    /// Each candidate with its figures by turn.
    all: Vec<(&'a str, BTreeMap<usize, f64>)>,
    scale: Scale,
}

impl<'a> Ranking<'a> {
    /// By what the hooks add within their processes where every candidate has that, since processes differ by more than a
    /// hook adds; else by the values. `None` for fewer than two candidates.
    fn of(metric: &'a MetricResult) -> Option<Self> {
        let candidates = candidates(metric);
        let name =
            metrics::find(&metric.id).and_then(|found| Metric::info(found).in_process.first().copied());
        let within = |system: &SystemResult| {
            let samples = &system.series.get(name?)?.samples;
            (samples.len() == system.turns.len()).then(|| by_turn(&system.turns, samples))
        };
        let within: Option<Vec<_>> =
            candidates.iter().map(|(name, system)| Some((*name, within(system)?))).collect();
        let (all, scale) = match within {
            Some(all) => (all, Scale::Difference),
            None => {
                let values = |(name, system): &(&'a str, &SystemResult)| {
                    (*name, by_turn(&system.turns, &system.samples))
                };
                let scale = scale(metric.comparison).unwrap_or(Scale::Difference);
                (candidates.iter().map(values).collect(), scale)
            }
        };
        (all.len() >= 2).then_some(Self { all, scale })
    }

    /// The place of the one with the best median.
    fn best(&self, direction: Direction) -> Option<usize> {
        let signed = |place: &usize| {
            let values: Vec<f64> = self.all[*place].1.values().copied().collect();
            let median = stats::median(&values).unwrap_or(f64::NAN);
            if direction == Direction::Lower { median } else { -median }
        };
        (0..self.all.len()).min_by(|a, b| signed(a).total_cmp(&signed(b)))
    }

    /// Two of them against each other, by the turns that both have.
    fn head_to_head(&self, best: usize, rival: usize) -> Option<Paired> {
        let rivals = &self.all[rival].1;
        let pairs: Vec<(f64, f64)> =
            self.all[best].1.iter().filter_map(|(turn, value)| Some((*value, *rivals.get(turn)?))).collect();
        stats::paired(&pairs, self.scale)
    }
}

/// Finds the winners; the comparisons of the best with the others, over all metrics, are a family of their own.
fn crown(results: &mut Results) {
    let mut rivals = Vec::new();
    for (index, metric) in results.metrics.iter().enumerate() {
        let Some(ranking) = Ranking::of(metric) else { continue };
        let Some(best) = ranking.best(metric.direction) else { continue };
        let name = |place: usize| ranking.all[place].0.to_owned();
        for rival in (0..ranking.all.len()).filter(|place| *place != best) {
            // Too few turns in common: nothing can be said, not even that they tie.
            let found = ranking.head_to_head(best, rival);
            rivals.extend(found.map(|found| (index, name(best), name(rival), found)));
        }
    }
    let p: Vec<f64> = rivals.iter().map(|(.., found)| found.p).collect();
    let mut ties: BTreeMap<usize, (String, Vec<String>)> = BTreeMap::new();
    for ((index, best, rival, found), p) in rivals.into_iter().zip(holm(&p)) {
        let (_, tied) = ties.entry(index).or_insert((best, Vec::new()));
        // Worse and not only different: the medians of all turns and of the differences can point two ways.
        if Verdict::of(&found.difference, p, results.metrics[index].direction) != Verdict::Worse {
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
    use crate::example;
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

    /// OH-003 on an H100: processes differ by tens of per cent, hooks by hundreds, and the values' noise may rank them wrongly.
    #[test]
    fn who_adds_more_in_process_never_wins_by_the_noise_of_the_values() {
        let info = metrics::find("OH-003").unwrap().info();
        let with = |added_us: f64, noise: f64| {
            let values: Vec<f64> = QUIET.iter().map(|value| noise * value).collect();
            let mut one = system(&values);
            let added: Vec<f64> = QUIET.iter().map(|value| added_us * value).collect();
            one.series.insert(info.in_process[0].to_owned(), example::series(&added, "µs"));
            one
        };
        let systems =
            BTreeMap::from([("cuota".to_owned(), with(0.080, 1.05)), ("hami".to_owned(), with(0.643, 1.0))]);
        let mut results = file(Vec::new());
        results.metrics.push(MetricResult { systems, ..MetricResult::new(info) });
        judge(&mut results);
        assert_eq!(results.metrics[0].winner, Some(Winner::System("cuota".to_owned())));
    }

    #[test]
    fn too_few_turns_in_common_are_said_to_be_too_few() {
        let mut results = file(vec![row(&[("cuota", &QUIET[..2]), ("hami", &SLOW[..2])])]);
        judge(&mut results);
        assert_eq!(results.metrics[0].winner, None);
        assert!(why_no_winner(&results.metrics[0]).starts_with("not judged"));
        results.metrics[0].systems.remove("hami");
        assert!(why_no_winner(&results.metrics[0]).starts_with("none: fewer than two"));
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
