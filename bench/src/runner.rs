//! Interleaved sampling, and what the samples say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::metrics::{Comparison, Fault, Metric};
use crate::results::{AddedBy, MetricResult, SeriesResult, Status, SystemResult};
use crate::stats::{self, FEWEST_PAIRS, Interval, Verdict};
use crate::worker::Series;

/// The samples of one system: one entry a turn, `Err` with the reason where it is void.
pub type Samples = Vec<Result<Series, String>>;

/// The order of turns: A B C, then C B A, and so on, so that what drifts meets all systems alike.
pub fn interleaved(systems: usize, turns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..turns).flat_map(move |turn| {
        (0..systems).map(move |place| (turn, if turn % 2 == 0 { place } else { systems - 1 - place }))
    })
}

/// Takes `turns` samples of each of `systems` systems by `sample(turn, system)`, interleaved, after one of each that is thrown away (it fills the
/// driver's and the file system's caches). A system whose first three samples are all void is not asked again.
pub fn collect(
    systems: usize,
    turns: usize,
    mut sample: impl FnMut(usize, usize) -> Result<Series>,
    mut progress: impl FnMut(usize, &Result<Series, String>),
) -> Vec<Samples> {
    const HOPELESS: usize = 3;
    for system in 0..systems {
        let _warm_up = sample(0, system);
    }
    let mut collected: Vec<Samples> = vec![Vec::with_capacity(turns); systems];
    for (turn, system) in interleaved(systems, turns) {
        let so_far = &collected[system];
        let hopeless = so_far.len() >= HOPELESS && so_far.iter().all(Result::is_err);
        let result = if hopeless {
            Err(format!("not tried again after {HOPELESS} failures"))
        } else {
            sample(turn, system).map_err(|error| format!("{error:#}"))
        };
        progress(system, &result);
        collected[system].push(result);
    }
    collected
}

/// The result of `metric` for a system with `samples`, against the `native` samples of the same turns.
pub fn summarise(metric: &dyn Metric, samples: &Samples, native: &Samples, is_native: bool) -> SystemResult {
    let info = metric.info();
    let own = |all: &Samples| -> Vec<Option<Series>> {
        all.iter().map(|sample| sample.as_ref().ok().map(|series| metric.series(series))).collect()
    };
    let (mine, natives) = (own(samples), own(native));
    let paired = (!is_native && info.comparison == Comparison::AddedToNative).then_some(&natives);
    let series = all_series(metric, &mine, paired.map(Vec::as_slice));
    let voids = voids(samples);
    let mut result = SystemResult::without_value(Status::Failed, "");
    result.voids = voids;
    result.series = series;
    let Some(headline) = result.series.get(info.headline).filter(|h| h.samples.len() >= FEWEST_PAIRS) else {
        let good = mine.iter().flatten().count();
        let first = result.voids.first().map_or(String::new(), |void| format!("; first void: {void}"));
        result.reason =
            Some(format!("{good} of {} samples are good, {FEWEST_PAIRS} are needed{first}", mine.len()));
        return result;
    };
    result.reason = None;
    result.status = Status::Measured;
    result.value = Some(headline.value.value);
    result.ci95 = Some(headline.value.ci95);
    result.samples = headline.samples.clone();
    result.added = headline.added;
    result.verdict = headline.verdict;
    if let Some(series) = info.in_process.first().and_then(|name| result.series.get(*name)) {
        result.added_in_process = series.added;
        result.verdict_in_process = series.verdict;
    }
    apply_fault(metric, &mine, &mut result);
    result
}

/// Withdraws the value, or adds a remark, when any sample shows a broken promise.
fn apply_fault(metric: &dyn Metric, samples: &[Option<Series>], result: &mut SystemResult) {
    let faults: Vec<Fault> = samples.iter().flatten().filter_map(|series| metric.fault(series)).collect();
    let not_enforced = faults.iter().find(|fault| matches!(fault, Fault::NotEnforced(_)));
    match not_enforced.or(faults.first()) {
        Some(Fault::NotEnforced(why)) => {
            result.status = Status::NotEnforced;
            result.value = None;
            result.ci95 = None;
            result.added = None;
            result.verdict = None;
            result.added_in_process = None;
            result.verdict_in_process = None;
            result.reason = Some(why.clone());
        }
        Some(Fault::Exceeded(why)) => result.reason = Some(format!("the limit was exceeded: {why}")),
        None => {}
    }
}

/// Each different reason once, with the number of samples it made void.
fn voids(samples: &Samples) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for void in samples.iter().filter_map(|sample| sample.as_ref().err()) {
        *counts.entry(void).or_default() += 1;
    }
    counts.into_iter().map(|(why, count)| format!("{count} × {why}")).collect()
}

fn all_series(
    metric: &dyn Metric,
    mine: &[Option<Series>],
    natives: Option<&[Option<Series>]>,
) -> BTreeMap<String, SeriesResult> {
    let names: BTreeSet<&String> = mine.iter().flatten().flat_map(|series| series.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let measures: Vec<_> = mine.iter().flatten().filter_map(|series| series.get(name)).collect();
            let samples: Vec<f64> = measures.iter().map(|measure| rounded(measure.value)).collect();
            let value = stats::median_interval(&samples)?;
            let tails: Vec<f64> = measures.iter().filter_map(|measure| measure.p99).collect();
            // A difference that was measured within the process is held against zero, natively too: a control.
            let in_process = measures.first()?.is_difference;
            let added = match in_process {
                true => Some(value).filter(|_| samples.len() >= FEWEST_PAIRS),
                false => natives.and_then(|natives| added(name, mine, natives)),
            };
            let by = if in_process { AddedBy::InProcess } else { AddedBy::ProcessAgainstProcess };
            Some((
                name.clone(),
                SeriesResult {
                    unit: measures.first()?.unit.clone(),
                    value,
                    samples,
                    p99: stats::median(&tails),
                    calls: measures.iter().map(|measure| measure.calls).sum(),
                    added,
                    added_by: added.map(|_| by),
                    verdict: added.map(|added| Verdict::of(&added, metric.info().direction)),
                },
            ))
        })
        .collect()
}

/// `value` to six significant digits: more are noise, and make the results file large.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The paired difference over the turns in which both sides are good.
fn added(name: &str, mine: &[Option<Series>], natives: &[Option<Series>]) -> Option<Interval> {
    let value = |side: &Option<Series>| Some(side.as_ref()?.get(name)?.value);
    let pairs: Vec<(f64, f64)> =
        natives.iter().zip(mine).filter_map(|(native, mine)| Some((value(native)?, value(mine)?))).collect();
    stats::paired_difference(&pairs)
}

/// A metric's result with the systems that get no samples filled in by `excused`.
pub fn result_of(
    metric: &dyn Metric,
    labels: &[String],
    excused: &BTreeMap<usize, SystemResult>,
    samples: &BTreeMap<usize, Samples>,
) -> MetricResult {
    let mut result = MetricResult::new(metric.info());
    let none = Samples::new();
    let native = samples.get(&0).unwrap_or(&none);
    for (index, label) in labels.iter().enumerate() {
        let system = match (excused.get(&index), samples.get(&index)) {
            (Some(excuse), _) => excuse.clone(),
            (None, Some(samples)) => summarise(metric, samples, native, index == 0),
            (None, None) => SystemResult::without_value(Status::Failed, "no samples were taken"),
        };
        result.systems.insert(label.clone(), system);
    }
    result
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::metrics::find;
    use crate::worker::Measure;

    const HEADLINE: &str = "plain 64 KiB, block in use";

    fn sample(us: f64) -> Series {
        Series::from([(format!("alloc/{HEADLINE}"), Measure::single(us, "µs"))])
    }

    fn metric() -> &'static dyn Metric {
        find("OH-002").unwrap()
    }

    #[test]
    fn systems_take_turns_forwards_and_backwards() {
        let order: Vec<usize> = interleaved(3, 3).map(|(_, system)| system).collect();
        assert_eq!(order, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
    }

    #[test]
    fn the_first_sample_of_each_system_is_thrown_away() {
        let mut calls = Vec::new();
        let collected = collect(
            2,
            2,
            |_, system| {
                calls.push(system);
                Ok(sample(1.0))
            },
            |_, _| {},
        );
        assert_eq!(calls, [0, 1, 0, 1, 1, 0]);
        assert!(collected.iter().all(|samples| samples.len() == 2));
    }

    #[test]
    fn a_constant_addition_under_shared_drift_is_found_exactly() {
        let mut time = 0.0;
        let collected = collect(
            2,
            8,
            |_, system| {
                time += 1.0;
                Ok(sample(100.0 + time + if system == 1 { 50.0 } else { 0.0 }))
            },
            |_, _| {},
        );
        let result = summarise(metric(), &collected[1], &collected[0], false);
        let added = result.added.unwrap();
        assert!((added.value - 50.0).abs() <= 1.0, "{added:?}");
        assert_eq!(result.verdict, Some(Verdict::Worse));
    }

    #[test]
    fn a_difference_measured_in_process_is_held_against_zero_and_natively_it_is_a_control() {
        let name = metric().info().in_process[0];
        let with = |added_us: f64| {
            let difference = Measure::difference(added_us, "µs");
            Series::from([(format!("alloc/{name}"), difference)]).into_iter().chain(sample(1.0)).collect()
        };
        let mine: Samples = (0..8).map(|number| Ok(with(0.050 + 0.001 * f64::from(number)))).collect();
        let native: Samples = (0..8).map(|number| Ok(with(0.001 * f64::from(number) - 0.0035))).collect();
        let result = summarise(metric(), &mine, &native, false);
        assert!((result.added_in_process.unwrap().value - 0.0535).abs() < 1e-9);
        assert_eq!(result.verdict_in_process, Some(Verdict::Worse));
        assert_eq!(result.verdict, Some(Verdict::Tie));
        let added_by: Vec<_> = result.series.values().map(|series| series.added_by.unwrap()).collect();
        assert_eq!(added_by, [AddedBy::ProcessAgainstProcess, AddedBy::InProcess]);
        let control = summarise(metric(), &native, &native, true);
        assert_eq!(control.verdict_in_process, Some(Verdict::Tie));
    }

    #[test]
    fn values_are_kept_to_six_significant_digits() {
        assert_eq!(rounded(0.123_456_789), 0.123_457);
        assert_eq!(rounded(-190_432.71), -190_433.0);
        assert_eq!(rounded(0.0), 0.0);
        assert!(rounded(f64::NAN).is_nan());
    }

    #[test]
    fn the_same_values_on_both_sides_tie() {
        let noise = [0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.05, -0.05];
        let mine: Samples = noise.iter().map(|n| Ok(sample(1.0 + n))).collect();
        let native: Samples = noise.iter().rev().map(|n| Ok(sample(1.0 + n))).collect();
        let result = summarise(metric(), &mine, &native, false);
        assert_eq!((result.status, result.verdict), (Status::Measured, Some(Verdict::Tie)));
    }

    #[test]
    fn a_cuda_error_voids_its_sample_and_is_reported() {
        let mut mine: Samples = (0..8).map(|_| Ok(sample(1.0))).collect();
        let native = mine.clone();
        mine[3] = Err("cuMemAlloc_v2 returned CUDA_ERROR_UNKNOWN (999)".to_owned());
        let result = summarise(metric(), &mine, &native, false);
        assert_eq!(result.status, Status::Measured);
        assert_eq!(result.samples.len(), 7);
        assert_eq!(result.voids, ["1 × cuMemAlloc_v2 returned CUDA_ERROR_UNKNOWN (999)"]);
    }

    #[test]
    fn too_few_good_samples_are_a_failure_with_its_reason() {
        let mine: Samples = vec![Err("no".to_owned()); 8];
        let result = summarise(metric(), &mine, &mine, false);
        assert_eq!(result.status, Status::Failed);
        assert!(result.value.is_none());
        assert!(result.reason.unwrap().contains("0 of 8 samples are good"));
    }

    #[test]
    fn a_system_that_always_fails_is_not_asked_for_ever() {
        let mut calls = 0;
        let collected = collect(
            1,
            10,
            |_, _| {
                calls += 1;
                bail!("no")
            },
            |_, _| {},
        );
        assert_eq!(calls, 4);
        assert_eq!(collected[0].len(), 10);
    }

    #[test]
    fn a_path_without_a_limit_takes_the_score_away() {
        let metric = find("IS-001").unwrap();
        let series = Series::from([
            ("plain: granted".to_owned(), Measure::single(99.9, "%")),
            ("pool: granted / limit".to_owned(), Measure::single(112.0, "%")),
        ]);
        let samples: Samples = (0..8).map(|_| Ok(series.clone())).collect();
        let result = summarise(metric, &samples, &Samples::new(), false);
        assert_eq!((result.status, result.value), (Status::NotEnforced, None));
        assert!(result.reason.unwrap().contains("pool"));
    }
}
