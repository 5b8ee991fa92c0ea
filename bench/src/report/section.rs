//! One metric's section: what it is, a table of systems, the winner or tie, and every series.

use std::fmt::Write;

use super::summary::{interval, label, percent, signed};
use crate::judge::{Winner, verdict_text, why_no_winner};
use crate::metrics::Comparison;
use crate::published::Column;
use crate::results::{MetricResult, SeriesResult, Status, SystemResult};
use crate::stats::{Direction, Verdict, quantile};
use crate::units::value_text;

/// The section of `metric`.
pub(super) fn section(metric: &MetricResult, systems: &[&str], published: &[Column]) -> String {
    let simulated = label(metric.simulated);
    let better = match (metric.comparison, metric.direction) {
        (Comparison::Pass, _) => "1 is a pass",
        (_, Direction::Lower) => "lower is better",
        (_, Direction::Higher) => "higher is better",
    };
    let mut text = format!(
        "\n### {}: {}\n\n**Method:** {}.\n**Unit:** {} ({}){simulated} | **{better}**\n\n",
        metric.id, metric.name, metric.method, metric.unit, metric.headline
    );
    text.push_str("| System | Median [95 %] | Against native | Verdict | Detectable | Min | P95 | P99 | Max | Processes |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for name in systems {
        let Some(system) = metric.systems.get(*name) else { continue };
        let _ = writeln!(text, "| **{name}** | {} |", cells(metric, system).join(" | "));
    }
    for column in published {
        let Some(figure) = column.figures.get(&metric.id) else { continue };
        let note = figure.impossible.as_ref().map_or(String::new(), |why| format!(" (impossible: {why})"));
        let value = format!("{} {}{note}", value_text(figure.value), figure.unit);
        let _ = writeln!(text, "| {} | {value} | | not ranked | | | | | | |", column.title());
    }
    let _ = writeln!(text, "\n**Winner:** {}", winner_text(metric));
    for line in remarks(metric) {
        let _ = writeln!(text, "- {line}");
    }
    text.push_str(&all_series(metric, systems));
    text
}

/// The cells after the system's name.
fn cells(metric: &MetricResult, system: &SystemResult) -> Vec<String> {
    let none = || "—".to_owned();
    let Some((value, ci95)) = system.value.zip(system.ci95).filter(|_| system.status == Status::Measured)
    else {
        let mut cells = vec![none(), none(), verdict_text(metric, system)];
        cells.extend((0..6).map(|_| none()));
        return cells;
    };
    let of = |q: f64| quantile(&system.samples, q).map_or_else(none, value_text);
    let against = match metric.comparison {
        Comparison::RatioToNative => system.ratio.as_ref().map(percent),
        _ => system
            .added_in_process
            .as_ref()
            .map(|added| format!("{} in process", signed(added)))
            .or(system.added.as_ref().map(signed)),
    };
    let in_percent = |percent: f64| format!("{} %", value_text(percent));
    let detectable = system.detectable_in_family_percent.map_or_else(none, in_percent);
    let median = match metric.comparison {
        Comparison::Pass => format!("{} of {}", passed(system), system.samples.len()),
        _ => interval(&crate::stats::Interval { value, ci95 }),
    };
    vec![
        median,
        against.unwrap_or_else(none),
        verdict_text(metric, system),
        detectable,
        of(0.0),
        of(0.95),
        of(0.99),
        of(1.0),
        system.samples.len().to_string(),
    ]
}

/// Samples that are a pass.
fn passed(system: &SystemResult) -> usize {
    system.samples.iter().filter(|sample| **sample >= 1.0).count()
}

/// The winner or the tie, in words.
pub fn winner_text(metric: &MetricResult) -> String {
    match &metric.winner {
        Some(Winner::System(name)) => format!("{name}: it beats every other system that shares the GPU"),
        Some(Winner::Tie(names)) => format!("tie: {} cannot be told apart", names.join(", ")),
        None => why_no_winner(metric).to_owned(),
    }
}

/// What stands beside the values: reasons, voids, throttled samples, how sampling ended.
fn remarks(metric: &MetricResult) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, system) in &metric.systems {
        lines.extend(system.reason.iter().map(|reason| format!("{name}: {reason}")));
        lines.extend(system.voids.iter().map(|void| format!("{name}: void: {void}")));
        if system.throttled > 0 {
            lines.push(format!(
                "{name}: {} samples were thrown away, the device was throttled",
                system.throttled
            ));
        }
    }
    if !metric.run.date.is_empty() {
        let run = &metric.run;
        let effort = run.effort.map_or(String::new(), |effort| format!(", {} effort", effort.text()));
        lines.push(format!("measured {} in {} s{effort}; {}", run.date, run.seconds, run.stopped));
    }
    lines
}

/// The table of every series, the headline first.
fn all_series(metric: &MetricResult, systems: &[&str]) -> String {
    let mut names: Vec<&String> = metric.systems.values().flat_map(|system| system.series.keys()).collect();
    names.sort_by_key(|name| (**name != metric.headline, *name));
    names.dedup();
    if names.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n| series | system | median [95 %] | p99 of calls | processes | added | ratio | how | verdict (one of many) |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for name in names {
        for system in systems {
            let Some(series) = metric.systems.get(*system).and_then(|system| system.series.get(name)) else {
                continue;
            };
            let _ = writeln!(text, "| {name} | {system} | {} |", row(series));
        }
    }
    text
}

fn row(series: &SeriesResult) -> String {
    let p99 = series.p99.map_or(String::new(), value_text);
    let added = series.added.as_ref().map_or(String::new(), signed);
    let ratio = series.ratio.as_ref().map_or(String::new(), percent);
    let by = series.added_by.map_or("", |by| by.text());
    let verdict = series.verdict.map_or("", Verdict::text);
    let value = interval(&series.value);
    format!(
        "{value} {} | {p99} | {} | {added} | {ratio} | {by} | {verdict}",
        series.unit,
        series.samples.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_system_without_a_value_has_its_status_and_no_figures() {
        let results = example::results();
        let text = section(&results.metrics[0], &results.order(), &[]);
        assert!(text.contains("| **hami** | — | — | not enforced |"), "{text}");
        assert!(text.contains("- hami: it granted 9 GiB"), "{text}");
    }

    #[test]
    fn the_winner_or_the_tie_is_named() {
        let mut results = example::results();
        assert!(winner_text(&results.metrics[0]).starts_with("none"));
        assert!(winner_text(&results.metrics[1]).starts_with("cuota"));
        results.metrics[1].winner = Some(Winner::Tie(vec!["cuota".to_owned(), "hami".to_owned()]));
        assert!(winner_text(&results.metrics[1]).contains("cuota, hami cannot be told apart"));
    }
}
