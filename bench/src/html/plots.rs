//! The plots: samples of each system, cap against share, a limited tenant over time, distributions, verdicts.

use super::svg::{Axis, Plot, WIDTH};
use crate::judge::is_native;
use crate::results::{MetricResult, Results};
use crate::scorecard::Score;

/// How series are named whose curve is over time, in ms.
pub(super) const TIME_SERIES: &str = "time series: ";
/// How series are named whose curve is a cumulative distribution.
pub(super) const DISTRIBUTION: &str = "distribution: ";
/// Room left of a plot for names or ticks.
const LEFT: f64 = 78.0;
/// The right end of axes.
const RIGHT: f64 = WIDTH - 14.0;

/// The colour of a system: native's own, else by its place among the others.
pub(super) fn class_of(results: &Results, name: &str) -> String {
    if is_native(name) {
        return "native".to_owned();
    }
    let others: Vec<&str> = results.order().into_iter().filter(|name| !is_native(name)).collect();
    let place = others.iter().position(|other| *other == name).unwrap_or(0);
    format!("s{}", place % 5)
}

/// Every sample of the headline, a row a system, with median and interval: what the table's figures are made of.
pub(super) fn samples(results: &Results, metric: &MetricResult) -> Option<String> {
    let rows: Vec<_> = results
        .order()
        .into_iter()
        .filter_map(|name| Some((name, metric.systems.get(name)?)))
        .filter(|(_, system)| !system.samples.is_empty() && system.value.is_some())
        .collect();
    let axis = Axis::around(rows.iter().flat_map(|(_, system)| system.samples.iter().copied()), LEFT, RIGHT)?;
    let bottom = 10.0 + 30.0 * rows.len() as f64;
    let mut plot = Plot::new(bottom + 34.0);
    for (place, (name, system)) in rows.iter().enumerate() {
        let y = 22.0 + 30.0 * place as f64;
        let class = class_of(results, name);
        plot.text(LEFT - 8.0, y + 4.0, "end", "", &shortened(name, 12));
        for (number, sample) in system.samples.iter().enumerate() {
            // Spread by their order, so that equal ones are seen.
            let spread = (number % 5) as f64 - 2.0;
            plot.dot(axis.place(*sample), y + 2.5 * spread, &class);
        }
        if let (Some(value), Some([low, high])) = (system.value, system.ci95) {
            plot.line([axis.place(low), y], [axis.place(high), y], &format!("middle {class}"));
            let x = axis.place(value);
            plot.line([x, y - 9.0], [x, y + 9.0], &format!("middle {class}"));
        }
    }
    plot.below(&axis, bottom, &metric.unit);
    Some(plot.figure(&format!(
        "{}, each sample of each system in {}; upright: median, bar: 95 % interval",
        metric.headline, metric.unit
    )))
}

/// One workload's shares by cap.
struct Workload<'a> {
    name: &'a str,
    points: Vec<[f64; 2]>,
}

/// Cap against share of one system, a curve a workload; the diagonal is what was asked for.
pub(super) fn cap_against_share(metric: &MetricResult, name: &str) -> Option<String> {
    let system = metric.systems.get(name)?;
    let mut workloads: Vec<Workload<'_>> = Vec::new();
    for (series, result) in &system.series {
        let is_curve = series.starts_with(TIME_SERIES) || series.starts_with(DISTRIBUTION);
        let Some((workload, cap)) = series.rsplit_once(" at cap ").filter(|_| !is_curve) else { continue };
        let Ok(cap) = cap.trim_end_matches('%').trim().parse::<f64>() else { continue };
        let point = [cap, result.value.value];
        match workloads.iter_mut().find(|known| known.name == workload) {
            Some(known) => known.points.push(point),
            None => workloads.push(Workload { name: workload, points: vec![point] }),
        }
    }
    if workloads.is_empty() {
        return None;
    }
    let most = workloads
        .iter()
        .flat_map(|workload| &workload.points)
        .fold(100.0_f64, |most, [_, share]| most.max(*share));
    let (x, y) = (Axis::between(0.0, 100.0, 40.0, 210.0), Axis::between(0.0, most, 180.0, 10.0));
    let mut plot = Plot::new((180.0_f64 + 34.0).max(20.0 + 14.0 * workloads.len() as f64));
    plot.curve([[x.place(0.0), y.place(0.0)], [x.place(100.0), y.place(100.0)]], "ideal");
    for (number, workload) in workloads.iter_mut().enumerate() {
        let class = format!("s{}", number % 5);
        workload.points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let places: Vec<[f64; 2]> =
            workload.points.iter().map(|[cap, share]| [x.place(*cap), y.place(*share)]).collect();
        plot.curve(places.iter().copied(), &class);
        places.iter().for_each(|[x, y]| plot.dot(*x, *y, &class));
        // A second turn of the colours is told by the number at the curve's end.
        if let Some([x, y]) = places.last() {
            plot.text(x + 5.0, y + 4.0, "start", "faint", &(number + 1).to_string());
        }
        let line = 20.0 + 14.0 * number as f64;
        plot.bar(226.0, line - 8.0, 8.0, 8.0, &class);
        plot.text(238.0, line, "start", "", &format!("{} {}", number + 1, shortened(workload.name, 19)));
    }
    plot.below(&x, 180.0, "cap, %");
    plot.beside(&y, 40.0);
    Some(plot.figure(&format!(
        "{name}: share of the GPU that was had under each cap, %; dashed: what was asked for"
    )))
}

/// The curves of `metric` whose series begin with `kind`: a plot a series, a curve a system.
pub(super) fn curves(results: &Results, metric: &MetricResult, kind: &str) -> Vec<String> {
    let mut names: Vec<&String> = metric
        .systems
        .values()
        .flat_map(|system| &system.series)
        .filter(|(name, series)| name.starts_with(kind) && series.curve.len() > 1)
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| curve(results, metric, name)).collect()
}

/// A time series is over milliseconds, a distribution over its own unit.
fn curve(results: &Results, metric: &MetricResult, name: &str) -> Option<String> {
    let unit = metric.systems.values().find_map(|system| Some(system.series.get(name)?.unit.as_str()))?;
    let x_title = if name.starts_with(TIME_SERIES) { "ms" } else { unit };
    let all: Vec<(&str, &Vec<[f64; 2]>)> = results
        .order()
        .into_iter()
        .filter_map(|system| Some((system, &metric.systems.get(system)?.series.get(name)?.curve)))
        .filter(|(_, curve)| curve.len() > 1)
        .collect();
    let points = || all.iter().flat_map(|(_, curve)| curve.iter());
    let x = Axis::around(points().map(|[x, _]| *x), 46.0, RIGHT)?;
    let y = Axis::around(points().map(|[_, y]| *y).chain([0.0]), 160.0, 10.0)?;
    let mut plot = Plot::new(160.0 + 50.0);
    for (place, (system, curve)) in all.iter().enumerate() {
        let class = class_of(results, system);
        plot.curve(curve.iter().map(|[a, b]| [x.place(*a), y.place(*b)]), &class);
        let left = 46.0 + 80.0 * place as f64;
        plot.bar(left, 196.0, 10.0, 6.0, &class);
        plot.text(left + 14.0, 203.0, "start", "", &shortened(system, 10));
    }
    plot.below(&x, 160.0, x_title);
    plot.beside(&y, 46.0);
    Some(plot.figure(name))
}

/// The verdicts of each system as a bar of parts with their numbers.
pub(super) fn verdicts(scores: &[(&str, Score)]) -> String {
    let mut plot = Plot::new(26.0 * scores.len() as f64 + 6.0);
    for (place, (name, score)) in scores.iter().enumerate() {
        let y = 4.0 + 26.0 * place as f64;
        plot.text(LEFT - 8.0, y + 14.0, "end", "", &shortened(name, 12));
        let none = score.not_measured + score.failed + score.alone;
        let parts = [
            (score.better + score.passed, "bar-better"),
            (score.tie, "bar-tie"),
            (score.worse + score.not_passed, "bar-worse"),
            (score.not_enforced, "bar-loose"),
            (none, "bar-none"),
        ];
        let all: usize = parts.iter().map(|(count, _)| count).sum();
        let mut x = LEFT;
        for (count, class) in parts.into_iter().filter(|(count, _)| *count > 0) {
            let width = (RIGHT - LEFT) * count as f64 / all as f64;
            plot.bar(x, y, width - 1.0, 20.0, class);
            plot.text(x + width / 2.0, y + 14.0, "middle", "on", &count.to_string());
            x += width;
        }
    }
    plot.figure(
        "Metrics by verdict: better than native or passed, tie, worse or not passed, not enforced, without a verdict",
    )
}

/// `text` in at most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn every_sample_of_every_measured_system_is_a_dot() {
        let results = example::results();
        let figure = samples(&results, &results.metrics[0]).unwrap();
        assert_eq!(figure.matches("<circle").count(), 12);
        assert!(!figure.contains(">hami<"), "one that does not enforce has no samples to show");
    }

    #[test]
    fn caps_and_shares_are_read_from_the_names_of_series() {
        let mut metric = example::results().metrics.remove(1);
        let cuota = metric.systems.get_mut("cuota").unwrap();
        for (name, share) in [
            ("5 µs kernels at cap 10", 9.9),
            ("5 µs kernels at cap 50", 50.0),
            ("graph at cap 50", 49.0),
            ("time series: graph at cap 50", 49.0),
        ] {
            cuota.series.insert(name.to_owned(), example::series(&[share], "%"));
        }
        let figure = cap_against_share(&metric, "cuota").unwrap();
        assert_eq!(figure.matches("<circle").count(), 3);
        assert!(figure.contains("1 5 µs kernels") && figure.contains("2 graph"));
        assert!(cap_against_share(&metric, "hami").is_none());
    }

    #[test]
    fn a_time_series_is_a_curve_a_system() {
        let mut results = example::results();
        let cuota = results.metrics[1].systems.get_mut("cuota").unwrap();
        let series = crate::results::SeriesResult {
            curve: vec![[0.0, 50.0], [100.0, 49.0], [200.0, 51.0]],
            ..example::series(&[50.0], "%")
        };
        cuota.series.insert("time series: share at cap 50".to_owned(), series);
        let plots = curves(&results, &results.metrics[1], TIME_SERIES);
        assert_eq!(plots.len(), 1);
        assert_eq!(plots[0].matches("<polyline").count(), 1);
    }

    #[test]
    fn long_names_are_shortened_at_characters() {
        assert_eq!(shortened("µµµµµ", 5), "µµµµµ");
        assert_eq!(shortened("µµµµµµ", 5), "µµµµ…");
    }
}
