//! The table of headlines: what is printed after a run, and stands at the top of the report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::judge::verdict_text;
use crate::metrics::{self, Comparison, Metric};
use crate::results::{AddedBy, MetricResult, Results, Status, SystemResult};
use crate::stats::{Direction, Interval, Verdict};
use crate::units::value_text;

/// The table of headlines, as printed after a run.
pub fn summary(results: &Results) -> String {
    let systems = results.order();
    let mut text = String::from("| metric |");
    for system in &systems {
        let _ = write!(text, " {system}{} |", label(results.environment.simulated));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(systems.len()));
    text.push('\n');
    for metric in &results.metrics {
        let arrow = if metric.direction == Direction::Lower { "↓" } else { "↑" };
        let _ =
            write!(text, "| {} {} ({}, {} {arrow}) |", metric.id, metric.name, metric.headline, metric.unit);
        for system in &systems {
            let cell =
                metric.systems.get(*system).map_or("—".to_owned(), |system| headline_cell(metric, system));
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
        text.push_str(&more_rows(metric, &systems));
    }
    text.push('\n');
    for warning in warnings(results) {
        let _ = writeln!(text, "- {warning}");
    }
    text
}

/// A row for each further series of what a system adds, measured in process.
fn more_rows(metric: &MetricResult, systems: &[&str]) -> String {
    let mut text = String::new();
    let info = metrics::find(&metric.id).map(Metric::info);
    for name in info.into_iter().flat_map(|info| info.in_process.iter().skip(1)) {
        let cell = |system: &&str| {
            let series = metric.systems.get(*system)?.series.get(*name)?;
            let unit = format!(" {}", series.unit);
            Some(added_text(series.added_by?, &series.added?, &unit, series.verdict))
        };
        let cells: Vec<String> =
            systems.iter().map(|system| cell(system).unwrap_or("—".to_owned())).collect();
        let _ = writeln!(text, "| {} {name} | {} |", metric.id, cells.join(" | "));
    }
    text
}

/// An added amount with the way it was found; `unit` with the space before it.
fn added_text(by: AddedBy, added: &Interval, unit: &str, verdict: Option<Verdict>) -> String {
    let verdict = verdict.map_or(String::new(), |verdict| format!(": {}", verdict.text()));
    format!("added ({}) {}{unit}{verdict}", by.text(), signed(added))
}

/// What follows the head of every column of figures that no real GPU gave.
pub(super) fn label(simulated: bool) -> &'static str {
    if simulated { " (simulated)" } else { "" }
}

/// Remarks that a reader must not miss, a line each.
pub(super) fn warnings(results: &Results) -> Vec<String> {
    let mut lines = results.environment.warnings.clone();
    lines.extend(several_cards(results));
    for metric in &results.metrics {
        for (name, system) in &metric.systems {
            if system.status != Status::NotApplicable {
                lines.extend(system.reason.iter().map(|reason| format!("{} {name}: {reason}", metric.id)));
            }
            // A failure's reason has named the first void already.
            if system.status == Status::Measured {
                lines.extend(system.voids.iter().map(|void| format!("{} {name}: void: {void}", metric.id)));
            }
        }
    }
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// Merged runs may come from several cards of one model: the systems of one metric share a card, those of two need not.
fn several_cards(results: &Results) -> Option<String> {
    let mut metrics_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for metric in results.metrics.iter().filter(|metric| !metric.run.device.is_empty()) {
        metrics_of.entry(&metric.run.device).or_default().push(&metric.id);
    }
    let text = |(device, ids): (&&str, &Vec<&str>)| format!("{device}: {}", ids.join(", "));
    (metrics_of.len() > 1).then(|| {
        let list: Vec<String> = metrics_of.iter().map(text).collect();
        format!("measured on {} cards of one model, each metric on one: {}", list.len(), list.join("; "))
    })
}

fn headline_cell(metric: &MetricResult, system: &SystemResult) -> String {
    let (Status::Measured, Some(value), Some(ci95)) = (system.status, system.value, system.ci95) else {
        return verdict_text(metric, system);
    };
    let mut text = interval(&Interval { value, ci95 });
    match metric.comparison {
        Comparison::Pass => return verdict_text(metric, system),
        Comparison::RatioToNative => {
            if let Some(ratio) = system.ratio {
                let verdict = system.verdict.map_or("", Verdict::text);
                let _ = write!(text, "; {} of native: {verdict}", percent(&ratio));
            }
        }
        Comparison::AddedToNative | Comparison::Limit => {
            for (by, added, verdict) in [
                (AddedBy::InProcess, &system.added_in_process, system.verdict_in_process),
                (AddedBy::ProcessAgainstProcess, &system.added, system.verdict),
            ] {
                if let Some(added) = added {
                    let _ = write!(text, "; {}", added_text(by, added, "", verdict));
                }
            }
        }
    }
    text
}

/// A ratio in per cent, with its interval.
pub(super) fn percent(ratio: &Interval) -> String {
    let [low, high] = ratio.ci95.map(|end| value_text(100.0 * end));
    format!("{} % [{low}, {high}]", value_text(100.0 * ratio.value))
}

pub(super) fn interval(interval: &Interval) -> String {
    let [low, high] = interval.ci95.map(value_text);
    format!("{} [{low}, {high}]", value_text(interval.value))
}

pub(super) fn signed(interval: &Interval) -> String {
    let sign = |value: f64| if value >= 0.0 { format!("+{}", value_text(value)) } else { value_text(value) };
    let [low, high] = interval.ci95.map(sign);
    format!("{} [{low}, {high}]", sign(interval.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_system_that_does_not_enforce_shows_no_figure_and_why() {
        let text = summary(&example::results());
        assert!(text.contains("| not enforced |"), "{text}");
        assert!(text.contains("OH-002 hami: it granted 9 GiB"), "{text}");
    }

    #[test]
    fn systems_stand_in_the_order_of_turns() {
        assert!(summary(&example::results()).starts_with("| metric | native | cuota | hami |"));
    }

    #[test]
    fn an_added_amount_is_shown_with_its_interval_its_verdict_and_how_it_was_found() {
        let text = summary(&example::results());
        let cell = "1.020 [1.000, 1.040]; added (in process) +0.052 [+0.051, +0.053]: worse; \
                    added (process against process) +0.080 [-0.010, +0.100]: tie";
        assert!(text.contains(cell), "{text}");
    }

    #[test]
    fn simulated_figures_are_labelled() {
        let mut results = example::results();
        results.environment.simulated = true;
        assert!(summary(&results).starts_with("| metric | native (simulated) |"));
    }
}
