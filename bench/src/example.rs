//! A small file of results for the tests of what is made from one.

use crate::environment::{Environment, SystemRecord};
use crate::judge::Winner;
use crate::metrics;
use crate::results::{AddedBy, MetricResult, Results, SCHEMA, SeriesResult, Status, SystemResult};
use crate::stats::{Interval, Verdict, median_interval};

/// A series of `samples`.
pub(crate) fn series(samples: &[f64], unit: &str) -> SeriesResult {
    SeriesResult {
        unit: unit.to_owned(),
        value: median_interval(samples).unwrap(),
        samples: samples.to_vec(),
        p99: Some(9.0),
        calls: 100 * samples.len(),
        added: None,
        ratio: None,
        added_by: None,
        p: None,
        verdict: None,
        curve: Vec::new(),
    }
}

/// A measured system whose headline has `samples`.
pub(crate) fn measured(headline: &str, samples: &[f64], unit: &str) -> SystemResult {
    let series = series(samples, unit);
    let mut system = SystemResult::without_value(Status::Measured, "");
    system.reason = None;
    system.value = Some(series.value.value);
    system.ci95 = Some(series.value.ci95);
    system.turns = (0..samples.len()).collect();
    system.samples = samples.to_vec();
    system.series.insert(headline.to_owned(), series);
    system
}

/// Native, cuota and a HAMi that does not enforce, in OH-002 and IS-002.
pub(crate) fn results() -> Results {
    let mut environment = Environment::default();
    environment.device.name = "NVIDIA H100 80GB HBM3".to_owned();
    environment.driver_version = Some("580.1".to_owned());
    environment.date = "2026-11-22T17:30:00Z".to_owned();
    for (order, name) in ["native", "cuota", "hami"].into_iter().enumerate() {
        environment.systems.insert(name.to_owned(), SystemRecord { order, ..SystemRecord::default() });
    }
    Results { schema: SCHEMA.to_owned(), environment, metrics: vec![allocation(), refusal()] }
}

fn allocation() -> MetricResult {
    let mut metric = MetricResult::new(metrics::find("OH-002").unwrap().info());
    let headline = metric.headline.clone();
    let mut cuota = measured(&headline, &[1.0, 1.02, 1.04, 1.02, 1.0, 1.04], "µs");
    cuota.value = Some(1.02);
    cuota.ci95 = Some([1.0, 1.04]);
    cuota.added = Some(Interval { value: 0.08, ci95: [-0.01, 0.1] });
    cuota.verdict = Some(Verdict::Tie);
    cuota.p = Some(0.2);
    cuota.p_corrected = Some(0.4);
    cuota.detectable = Some(0.15);
    cuota.detectable_percent = Some(16.0);
    cuota.detectable_in_family_percent = Some(20.0);
    cuota.added_in_process = Some(Interval { value: 0.052, ci95: [0.051, 0.053] });
    cuota.verdict_in_process = Some(Verdict::Worse);
    if let Some(series) = cuota.series.get_mut(&headline) {
        series.added = cuota.added;
        series.added_by = Some(AddedBy::ProcessAgainstProcess);
        series.verdict = cuota.verdict;
    }
    let native = measured(&headline, &[0.94, 0.95, 0.93, 0.94, 0.96, 0.94], "µs");
    metric.systems.insert("native".to_owned(), native);
    metric.systems.insert("cuota".to_owned(), cuota);
    let hami = SystemResult::without_value(Status::NotEnforced, "it granted 9 GiB, of 8");
    metric.systems.insert("hami".to_owned(), hami);
    metric
}

fn refusal() -> MetricResult {
    let mut metric = MetricResult::new(metrics::find("IS-002").unwrap().info());
    let headline = metric.headline.clone();
    metric
        .systems
        .insert("native".to_owned(), SystemResult::without_value(Status::NotApplicable, "it has no limit"));
    metric
        .systems
        .insert("cuota".to_owned(), measured(&headline, &[0.13, 0.14, 0.13, 0.13, 0.12, 0.13], "µs"));
    metric.systems.insert("hami".to_owned(), measured(&headline, &[8.5, 8.6, 8.4, 8.5, 8.5, 8.7], "µs"));
    metric.winner = Some(Winner::System("cuota".to_owned()));
    metric
}
