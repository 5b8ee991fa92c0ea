//! What the samples of a metric say: medians, intervals, what is added to native; and what takes a value away.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::{Comparison, Fault, Info, Metric};
use crate::results::{AddedBy, MetricResult, SeriesResult, Status, SystemResult};
use crate::runner::{Collected, Samples};
use crate::stats::{self, Paired, Scale, Verdict};
use crate::worker::{Measure, Series};

/// How a metric's pairs are compared; `None` where native is no baseline.
pub fn scale(comparison: Comparison) -> Option<Scale> {
    match comparison {
        Comparison::AddedToNative => Some(Scale::Difference),
        Comparison::RatioToNative => Some(Scale::Ratio),
        Comparison::Limit | Comparison::Pass => None,
    }
}

/// The result of `metric` for a system with what was `collected`, against the `native` samples of the same turns.
pub fn summarise(
    metric: &dyn Metric,
    collected: &Collected,
    native: &Samples,
    is_native: bool,
) -> SystemResult {
    let info = metric.info();
    if let Some(why) = &collected.not_measured {
        return SystemResult::without_value(Status::NotMeasured, why);
    }
    let own = |all: &Samples| -> Vec<Option<Series>> {
        all.iter().map(|sample| sample.as_ref().ok().map(|series| metric.series(series))).collect()
    };
    let (mine, natives) = (own(&collected.samples), own(native));
    let baseline = scale(info.comparison);
    let paired = baseline.filter(|_| !is_native).map(|scale| (scale, natives.as_slice()));
    let mut result = SystemResult::without_value(Status::Failed, "");
    result.voids = voids(&collected.samples);
    result.throttled = collected.throttled;
    result.series = all_series(metric, &mine, paired);
    let fewest = metric.fewest_samples();
    let good = |name: &str| result.series.get(name).filter(|series| series.samples.len() >= fewest);
    let Some(headline) = good(info.headline).cloned() else {
        let good = mine.iter().flatten().count();
        let first = result.voids.first().map_or(String::new(), |void| format!("; first void: {void}"));
        result.reason =
            Some(format!("{good} of {} samples are good, {fewest} are needed{first}", mine.len()));
        return result;
    };
    result.reason = None;
    result.status = Status::Measured;
    result.value = Some(if info.comparison == Comparison::Pass {
        headline.samples.iter().sum::<f64>() / headline.samples.len() as f64
    } else {
        headline.value.value
    });
    result.ci95 = Some(headline.value.ci95);
    result.turns = turns(&mine, info.headline);
    // Where native is no baseline, a series may still be a difference of two things; it says nothing of native.
    if baseline.is_some() {
        against_native(info, &mine, paired, &headline, &mut result);
    }
    result.samples = headline.samples;
    apply_fault(metric, &mine, &mut result);
    result
}

/// What the headline, and what is measured within processes, say against native; of native itself, the controls.
fn against_native(
    info: &Info,
    mine: &[Option<Series>],
    natives: Option<(Scale, &[Option<Series>])>,
    headline: &SeriesResult,
    result: &mut SystemResult,
) {
    result.added = headline.added;
    result.ratio = headline.ratio;
    result.verdict = headline.verdict;
    result.p = headline.p;
    if headline.added_by == Some(AddedBy::InProcess) {
        // A difference in per cent is one in per cent of native already.
        let found = stats::added(&headline.samples, None).filter(|_| natives.is_some());
        result.detectable = found.map(|found| found.detectable);
        result.detectable_percent = result.detectable.filter(|_| headline.unit == "%");
    } else if let Some((scale, natives)) = natives
        && let Some(found) = compared(info.headline, mine, natives, scale)
    {
        result.detectable = Some(found.detectable);
        result.detectable_percent = found.detectable_percent;
    }
    if let Some(series) = info.in_process.first().and_then(|name| result.series.get(*name)) {
        result.added_in_process = series.added;
        result.verdict_in_process = series.verdict;
        result.p_in_process = series.p;
    }
}

/// The turns in which a sample has the series `name`: what pairs systems.
fn turns(samples: &[Option<Series>], name: &str) -> Vec<usize> {
    let has = |sample: &Option<Series>| sample.as_ref().is_some_and(|series| series.contains_key(name));
    samples.iter().enumerate().filter(|(_, sample)| has(sample)).map(|(turn, _)| turn).collect()
}

/// Withdraws the value, or adds a remark, when any sample shows a broken promise.
fn apply_fault(metric: &dyn Metric, samples: &[Option<Series>], result: &mut SystemResult) {
    let faults: Vec<Fault> = samples.iter().flatten().filter_map(|series| metric.fault(series)).collect();
    let not_enforced = faults.iter().find(|fault| matches!(fault, Fault::NotEnforced(_)));
    match not_enforced.or(faults.first()) {
        Some(Fault::NotEnforced(why)) => {
            let series = std::mem::take(&mut result.series);
            let voids = std::mem::take(&mut result.voids);
            *result = SystemResult { series, voids, ..SystemResult::without_value(Status::NotEnforced, why) };
        }
        Some(Fault::Exceeded(why)) => result.reason = Some(format!("the limit was exceeded: {why}")),
        Some(Fault::Remark(what)) => result.reason = Some(what.clone()),
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
    natives: Option<(Scale, &[Option<Series>])>,
) -> BTreeMap<String, SeriesResult> {
    let names: BTreeSet<&String> = mine.iter().flatten().flat_map(|series| series.keys()).collect();
    let result = |name: &&String| one_series(metric, name, mine, natives);
    names.iter().filter_map(|name| Some(((*name).clone(), result(name)?))).collect()
}

fn one_series(
    metric: &dyn Metric,
    name: &str,
    mine: &[Option<Series>],
    natives: Option<(Scale, &[Option<Series>])>,
) -> Option<SeriesResult> {
    let measures: Vec<&Measure> = mine.iter().flatten().filter_map(|series| series.get(name)).collect();
    let samples: Vec<f64> = measures.iter().map(|measure| rounded(measure.value)).collect();
    let value = stats::median_interval(&samples)?;
    let tails: Vec<f64> = measures.iter().filter_map(|measure| measure.p99).collect();
    let first = measures.first()?;
    // A difference that was measured within the process is held against zero, natively too: a control.
    let (found, by) = match first.is_difference {
        true => {
            let logarithms: Option<Vec<f64>> = measures.iter().map(|measure| measure.log_ratio).collect();
            (stats::added(&samples, logarithms.as_deref()), AddedBy::InProcess)
        }
        false => {
            let found = natives.and_then(|(scale, natives)| compared(name, mine, natives, scale));
            (found, AddedBy::ProcessAgainstProcess)
        }
    };
    let curve = measures.iter().find(|measure| !measure.curve.is_empty());
    Some(SeriesResult {
        unit: first.unit.clone(),
        value,
        p99: stats::median(&tails),
        calls: measures.iter().map(|measure| measure.calls).sum(),
        added: found.map(|found| found.difference),
        ratio: found.and_then(|found| found.ratio),
        added_by: found.map(|_| by),
        p: found.map(|found| found.p),
        verdict: found.map(|found| Verdict::of(&found.difference, found.p, metric.info().direction)),
        curve: curve.map(|measure| measure.curve.clone()).unwrap_or_default(),
        samples,
    })
}

/// `value` to six significant digits: more are noise, and make the results file large.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The paired comparison over the turns in which both sides are good.
fn compared(name: &str, mine: &[Option<Series>], natives: &[Option<Series>], scale: Scale) -> Option<Paired> {
    let value = |side: &Option<Series>| Some(side.as_ref()?.get(name)?.value);
    let pairs: Vec<(f64, f64)> =
        natives.iter().zip(mine).filter_map(|(native, mine)| Some((value(native)?, value(mine)?))).collect();
    stats::paired(&pairs, scale)
}

/// A metric's result with the systems that get no samples filled in by `excused`.
pub fn result_of(
    metric: &dyn Metric,
    labels: &[String],
    excused: &BTreeMap<usize, SystemResult>,
    collected: &BTreeMap<usize, Collected>,
) -> MetricResult {
    let mut result = MetricResult::new(metric.info());
    let none = Samples::new();
    let native = collected.get(&0).map_or(&none, |native| &native.samples);
    for (index, label) in labels.iter().enumerate() {
        let system = match (excused.get(&index), collected.get(&index)) {
            (Some(excuse), _) => excuse.clone(),
            (None, Some(collected)) => summarise(metric, collected, native, index == 0),
            (None, None) => SystemResult::without_value(Status::Failed, "no samples were taken"),
        };
        result.systems.insert(label.clone(), system);
    }
    result
}

#[cfg(test)]
mod tests {
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

    /// A system's result from its samples alone.
    fn summarised(metric: &dyn Metric, samples: &Samples, native: &Samples, is_native: bool) -> SystemResult {
        let collected = Collected { samples: samples.clone(), ..Collected::default() };
        summarise(metric, &collected, native, is_native)
    }

    #[test]
    fn a_constant_addition_under_shared_drift_is_found_exactly() {
        let samples = |shift: u32| -> Samples {
            (0..8).map(|turn| Ok(sample(f64::from(100 + 10 * turn + shift)))).collect()
        };
        let result = summarised(metric(), &samples(50), &samples(0), false);
        assert_eq!(result.added.unwrap().ci95, [50.0, 50.0]);
        assert_eq!(result.verdict, Some(Verdict::Worse));
        assert_eq!(result.turns, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(result.p.unwrap() < 1e-9 && result.detectable_percent.unwrap() < 1e-9);
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
        let result = summarised(metric(), &mine, &native, false);
        assert!((result.added_in_process.unwrap().value - 0.0535).abs() < 1e-9);
        assert_eq!(result.verdict_in_process, Some(Verdict::Worse));
        assert_eq!(result.verdict, Some(Verdict::Tie));
        let added_by: Vec<_> = result.series.values().map(|series| series.added_by.unwrap()).collect();
        assert_eq!(added_by, [AddedBy::ProcessAgainstProcess, AddedBy::InProcess]);
        let control = summarised(metric(), &native, &native, true);
        assert_eq!(control.verdict_in_process, Some(Verdict::Tie));
    }

    #[test]
    fn values_are_kept_to_six_significant_digits() {
        assert_eq!(rounded(0.123_456_789), 0.123_457);
        assert_eq!(rounded(-190_432.71), -190_433.0);
        assert_eq!(rounded(0.0), 0.0);
        assert!(rounded(f64::NAN).is_nan());
    }

    /// OH-008: what its limiter adds to a launch is held against the same library without it.
    #[test]
    fn where_native_is_no_baseline_there_is_no_verdict_against_it() {
        let metric = find("OH-008").unwrap();
        let one =
            |ns: f64| Series::from([(metric.info().headline.to_owned(), Measure::difference(ns, "ns"))]);
        let mine: Samples = (0..8).map(|turn| Ok(one(50.0 + f64::from(turn)))).collect();
        let result = summarised(metric, &mine, &Samples::new(), false);
        assert_eq!(
            (result.status, result.verdict, result.verdict_in_process),
            (Status::Measured, None, None)
        );
        assert!(result.p.is_none() && result.p_in_process.is_none());
        assert_eq!(result.series[metric.info().headline].verdict, Some(Verdict::Worse));
    }

    #[test]
    fn what_is_detectable_of_a_difference_is_what_its_own_test_would_find() {
        let metric = find("OH-010").unwrap();
        let one = |lost: f64| {
            Ok(Series::from([(metric.info().headline.to_owned(), Measure::difference(lost, "%"))]))
        };
        let mine: Samples = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0].into_iter().map(one).collect();
        // A wild native column is a control and no part of the system's test.
        let native: Samples = [9.0, -9.0, 8.0, -8.0, 7.0, -7.0].into_iter().map(one).collect();
        let result = summarised(metric, &mine, &native, false);
        assert_eq!(result.verdict, Some(Verdict::Worse));
        assert!(result.detectable_percent.unwrap() < 0.5, "{result:?}");
    }

    #[test]
    fn the_same_values_on_both_sides_tie() {
        let noise = [0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.05, -0.05];
        let mine: Samples = noise.iter().map(|n| Ok(sample(1.0 + n))).collect();
        let native: Samples = noise.iter().rev().map(|n| Ok(sample(1.0 + n))).collect();
        let result = summarised(metric(), &mine, &native, false);
        assert_eq!((result.status, result.verdict), (Status::Measured, Some(Verdict::Tie)));
    }

    #[test]
    fn a_cuda_error_voids_its_sample_and_is_reported() {
        let mut mine: Samples = (0..8).map(|_| Ok(sample(1.0))).collect();
        let native = mine.clone();
        mine[3] = Err("cuMemAlloc_v2 returned CUDA_ERROR_UNKNOWN (999)".to_owned());
        let result = summarised(metric(), &mine, &native, false);
        assert_eq!(result.status, Status::Measured);
        assert_eq!(result.samples.len(), 7);
        assert_eq!(result.voids, ["1 × cuMemAlloc_v2 returned CUDA_ERROR_UNKNOWN (999)"]);
    }

    #[test]
    fn too_few_good_samples_are_a_failure_with_its_reason() {
        let mine: Samples = vec![Err("no".to_owned()); 8];
        let result = summarised(metric(), &mine, &mine, false);
        assert_eq!(result.status, Status::Failed);
        assert!(result.value.is_none());
        assert!(result.reason.unwrap().contains("0 of 8 samples are good"));
    }

    #[test]
    fn a_metric_that_cannot_be_measured_says_why() {
        let collected = Collected { not_measured: Some("one GPU".to_owned()), ..Collected::default() };
        let result = summarise(metric(), &collected, &Samples::new(), false);
        assert_eq!((result.status, result.reason.as_deref()), (Status::NotMeasured, Some("one GPU")));
    }

    #[test]
    fn a_path_without_a_limit_takes_the_score_away() {
        let metric = find("IS-001").unwrap();
        let series = Series::from([
            ("plain: granted".to_owned(), Measure::single(99.9, "%")),
            ("pool: granted / limit".to_owned(), Measure::single(112.0, "%")),
        ]);
        let samples: Samples = (0..8).map(|_| Ok(series.clone())).collect();
        let result = summarised(metric, &samples, &Samples::new(), false);
        assert_eq!((result.status, result.value), (Status::NotEnforced, None));
        assert!(result.reason.unwrap().contains("pool"));
    }
}
