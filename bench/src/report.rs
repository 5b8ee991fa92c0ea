//! The report as Markdown: a table of headlines, then a section a metric with every series.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::metrics::{self, Comparison, Metric};
use crate::results::{AddedBy, MetricResult, Results, SeriesResult, Status, SystemResult};
use crate::stats::{Direction, Interval, Verdict};
use crate::system::Proof;
use crate::units::{bytes_text, value_text};

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let mut text = String::from("# cuota-bench\n\n");
    text.push_str(&environment(results));
    text.push_str(&summary(results));
    for metric in &results.metrics {
        text.push_str(&section(metric, &order(results)));
    }
    text
}

/// The table of headlines, as printed after a run.
pub fn summary(results: &Results) -> String {
    let systems = order(results);
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
            let cell = metric.systems.get(*system).map_or("—".to_owned(), headline_cell);
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
fn label(simulated: bool) -> &'static str {
    if simulated { " (simulated)" } else { "" }
}

/// Systems in the order of turns.
fn order(results: &Results) -> Vec<&str> {
    let mut systems: Vec<_> = results.environment.systems.iter().collect();
    systems.sort_by_key(|(_, record)| record.order);
    systems.into_iter().map(|(name, _)| name.as_str()).collect()
}

fn environment(results: &Results) -> String {
    let environment = &results.environment;
    let mut text = String::new();
    if environment.simulated {
        text.push_str(
            "**Simulated: measured on the software GPU. No figure here says anything about a real GPU.**\n\n",
        );
    }
    let device = &environment.device;
    let _ =
        writeln!(text, "- Device: {} ({}), {}", device.name, bytes_text(device.memory_bytes), device.uuid);
    let driver = environment.driver_version.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "- Driver: {driver}, CUDA {}", device.cuda_version);
    let _ =
        writeln!(text, "- Date: {}; memory limit: {}", environment.date, bytes_text(environment.limit_bytes));
    let _ = writeln!(
        text,
        "- Machine: {}, Linux {}, clock {} ({} ns a reading)",
        environment.cpu, environment.kernel, environment.clock_source, environment.clock_cost_ns
    );
    let _ = writeln!(text, "- Command: `{}`", environment.command.join(" "));
    for name in order(results) {
        let record = &environment.systems[name];
        let proof = match &record.proof {
            Some(Proof::Enforced(what)) => format!("enforced: {what}"),
            Some(Proof::NotEnforced(why)) => format!("NOT ENFORCED: {why}"),
            Some(Proof::Failed(why)) => format!("failed: {why}"),
            Some(Proof::NoLimit) | None => "no limit".to_owned(),
        };
        let library = match (&record.library, &record.library_sha256) {
            (Some(library), Some(sha256)) => format!("; `{library}`, SHA-256 {sha256}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "- System {name}: {proof}{library}");
    }
    text.push('\n');
    text
}

/// Remarks that a reader must not miss, a line each.
fn warnings(results: &Results) -> Vec<String> {
    let mut lines = results.environment.warnings.clone();
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

fn headline_cell(system: &SystemResult) -> String {
    match (system.status, system.value, system.ci95) {
        (Status::Measured, Some(value), Some(ci95)) => {
            let mut text = interval(&Interval { value, ci95 });
            for (by, added, verdict) in [
                (AddedBy::InProcess, &system.added_in_process, system.verdict_in_process),
                (AddedBy::ProcessAgainstProcess, &system.added, system.verdict),
            ] {
                if let Some(added) = added {
                    let _ = write!(text, "; {}", added_text(by, added, "", verdict));
                }
            }
            text
        }
        (Status::NotEnforced, ..) => "not enforced".to_owned(),
        (Status::NotApplicable, ..) => "—".to_owned(),
        _ => "failed".to_owned(),
    }
}

fn section(metric: &MetricResult, systems: &[&str]) -> String {
    let mut text = format!("\n## {} {}\n\n{}.\n\n", metric.id, metric.name, metric.method);
    let simulated = label(metric.simulated);
    let added = match metric.comparison {
        Comparison::AddedToNative => format!(" added{simulated} | how | verdict |"),
        Comparison::RatioToNative | Comparison::Limit | Comparison::Pass => String::new(),
    };
    let _ =
        writeln!(text, "| series | system | median [95 %]{simulated} | p99{simulated} | processes |{added}");
    text.push_str("|---|---|---|---|---|");
    text.push_str(if added.is_empty() { "\n" } else { "---|---|---|\n" });
    let mut names: Vec<&String> = metric.systems.values().flat_map(|system| system.series.keys()).collect();
    names.sort_by_key(|name| (**name != metric.headline, *name));
    names.dedup();
    for name in names {
        for system in systems {
            let Some(series) = metric.systems.get(*system).and_then(|system| system.series.get(name)) else {
                continue;
            };
            let _ = writeln!(text, "| {name} | {system} | {} |", row(series, metric.comparison));
        }
    }
    text
}

fn row(series: &SeriesResult, comparison: Comparison) -> String {
    let p99 = series.p99.map_or(String::new(), value_text);
    let value = interval(&series.value);
    let own = format!("{value} {} | {p99} | {}", series.unit, series.samples.len());
    match comparison {
        Comparison::RatioToNative | Comparison::Limit | Comparison::Pass => own,
        Comparison::AddedToNative => {
            let added = series.added.as_ref().map_or(String::new(), signed);
            let by = series.added_by.map_or("", AddedBy::text);
            format!("{own} | {added} | {by} | {}", series.verdict.map_or("", Verdict::text))
        }
    }
}

fn interval(interval: &Interval) -> String {
    let [low, high] = interval.ci95.map(value_text);
    format!("{} [{low}, {high}]", value_text(interval.value))
}

fn signed(interval: &Interval) -> String {
    let sign = |value: f64| if value >= 0.0 { format!("+{}", value_text(value)) } else { value_text(value) };
    let [low, high] = interval.ci95.map(sign);
    format!("{} [{low}, {high}]", sign(interval.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Environment, SystemRecord};
    use crate::results::SCHEMA;

    fn results(simulated: bool) -> Results {
        let mut environment = Environment { simulated, ..Environment::default() };
        for (order, name) in ["native", "cuota", "hami"].into_iter().enumerate() {
            let record = SystemRecord { order, ..SystemRecord::default() };
            environment.systems.insert(name.to_owned(), record);
        }
        let mut metric = MetricResult::new(crate::metrics::ALL[0].info());
        let mut cuota = SystemResult::without_value(Status::Measured, "");
        cuota.reason = None;
        cuota.value = Some(1.02);
        cuota.ci95 = Some([1.0, 1.04]);
        cuota.added = Some(Interval { value: 0.08, ci95: [-0.01, 0.1] });
        cuota.verdict = Some(Verdict::Tie);
        cuota.added_in_process = Some(Interval { value: 0.052, ci95: [0.051, 0.053] });
        cuota.verdict_in_process = Some(Verdict::Worse);
        metric.systems.insert("cuota".to_owned(), cuota);
        let hami = SystemResult::without_value(Status::NotEnforced, "it granted 9 GiB");
        metric.systems.insert("hami".to_owned(), hami);
        Results { schema: SCHEMA.to_owned(), environment, metrics: vec![metric] }
    }

    #[test]
    fn a_system_that_does_not_enforce_shows_no_figure_and_why() {
        let text = summary(&results(false));
        assert!(text.contains("| not enforced |"), "{text}");
        assert!(text.contains("OH-002 hami: it granted 9 GiB"), "{text}");
    }

    #[test]
    fn systems_stand_in_the_order_of_turns() {
        assert!(summary(&results(false)).starts_with("| metric | native | cuota | hami |"));
    }

    #[test]
    fn an_added_amount_is_shown_with_its_interval_its_verdict_and_how_it_was_found() {
        let text = summary(&results(false));
        let cell = "1.020 [1.000, 1.040]; added (in process) +0.052 [+0.051, +0.053]: worse; \
                    added (process against process) +0.080 [-0.010, +0.100]: tie";
        assert!(text.contains(cell), "{text}");
    }

    #[test]
    fn simulated_figures_are_labelled_first() {
        assert!(markdown(&results(true)).contains("**Simulated"));
        assert!(summary(&results(true)).starts_with("| metric | native (simulated) |"));
        assert!(!markdown(&results(false)).contains("imulated"));
    }
}
