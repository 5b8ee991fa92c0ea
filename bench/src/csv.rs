//! The results as comma-separated values (RFC 4180): a row for each series of each system.

use std::fmt::Write;

use crate::results::{MetricResult, Results, SeriesResult, SystemResult};
use crate::stats::{Verdict, quantile};

/// The columns.
const HEADER: &str = "metric,name,system,status,series,unit,headline,simulated,median,ci95_low,ci95_high,\
                      p50,p95,p99,p99_of_calls,processes,calls,added,added_low,added_high,ratio,ratio_low,\
                      ratio_high,p,verdict,reason";

/// The whole table, with its header.
pub fn table(results: &Results) -> String {
    let mut text = format!("{HEADER}\n");
    for metric in &results.metrics {
        for system in results.order() {
            let Some(result) = metric.systems.get(system) else { continue };
            if result.series.is_empty() {
                row(&mut text, metric, system, result, None);
            }
            for (name, series) in &result.series {
                row(&mut text, metric, system, result, Some((name, series)));
            }
        }
    }
    text
}

fn row(
    text: &mut String,
    metric: &MetricResult,
    system: &str,
    result: &SystemResult,
    series: Option<(&String, &SeriesResult)>,
) {
    let is_headline = series.is_some_and(|(name, _)| *name == metric.headline);
    let of = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let series_of = |get: fn(&SeriesResult) -> Option<f64>| of(series.and_then(|(_, series)| get(series)));
    let count =
        |get: fn(&SeriesResult) -> usize| series.map_or(String::new(), |(_, series)| get(series).to_string());
    let verdict = match is_headline {
        // The headline's is the one that is corrected.
        true => result.verdict,
        false => series.and_then(|(_, series)| series.verdict),
    };
    let cells = [
        metric.id.clone(),
        metric.name.clone(),
        system.to_owned(),
        status(result),
        series.map_or(String::new(), |(name, _)| name.clone()),
        series.map_or(metric.unit.clone(), |(_, series)| series.unit.clone()),
        is_headline.to_string(),
        metric.simulated.to_string(),
        series_of(|series| Some(series.value.value)),
        series_of(|series| Some(series.value.ci95[0])),
        series_of(|series| Some(series.value.ci95[1])),
        series_of(|series| quantile(&series.samples, 0.5)),
        series_of(|series| quantile(&series.samples, 0.95)),
        series_of(|series| quantile(&series.samples, 0.99)),
        series_of(|series| series.p99),
        count(|series| series.samples.len()),
        count(|series| series.calls),
        series_of(|series| Some(series.added?.value)),
        series_of(|series| Some(series.added?.ci95[0])),
        series_of(|series| Some(series.added?.ci95[1])),
        series_of(|series| Some(series.ratio?.value)),
        series_of(|series| Some(series.ratio?.ci95[0])),
        series_of(|series| Some(series.ratio?.ci95[1])),
        series_of(|series| series.p),
        verdict.map_or(String::new(), |verdict| Verdict::text(verdict).to_owned()),
        result.reason.clone().unwrap_or_default(),
    ];
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    let _ = writeln!(text, "{}", cells.join(","));
}

fn status(result: &SystemResult) -> String {
    serde_json::to_value(result.status)
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()))
        .unwrap_or_default()
}

/// A cell, in quotes where it holds what separates.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn each_row_has_as_many_cells_as_the_header() {
        let text = table(&example::results());
        let mut lines = text.lines();
        let columns = lines.next().unwrap().split(',').count();
        let mut rows = 0;
        for line in lines {
            // No cell of the example holds a quoted comma but in quotes.
            let (mut cells, mut inside) = (1, false);
            for c in line.chars() {
                inside ^= c == '"';
                cells += usize::from(c == ',' && !inside);
            }
            assert_eq!(cells, columns, "{line}");
            rows += 1;
        }
        assert!(rows >= 3);
    }

    #[test]
    fn a_system_without_figures_has_a_row_that_says_why() {
        let text = table(&example::results());
        assert!(
            text.lines().any(|line| line.contains(",hami,not_enforced,") && line.contains("9 GiB")),
            "{text}"
        );
    }

    #[test]
    fn what_separates_is_quoted() {
        assert_eq!(quoted("a,b \"c\""), "\"a,b \"\"c\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
