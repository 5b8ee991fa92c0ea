//! `cuota-bench compare A B`: what became better or worse from one file to the other, with an exit status for CI.
//!
//! A system that has native beside it is compared by what it makes of native in each turn, so that a slower machine in B is
//! no finding; native itself is shown and does not count.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::judge::{is_native, verdict_text};
use crate::metrics::Comparison;
use crate::results::{MetricResult, Results, Status, SystemResult};
use crate::run::write_out;
use crate::stats::{Direction, SIGNIFICANCE, about_each_other, holm, median};
use crate::units::value_text;

/// Exit status when something became worse.
const WORSE: u8 = 4;

/// How a value changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Better,
    Same,
    Worse,
    /// Too few samples, or in one file only.
    Unknown,
}

/// One system in one metric.
struct Row {
    metric: String,
    system: String,
    what: &'static str,
    values: Option<(f64, f64)>,
    p: Option<f64>,
    direction: Direction,
    /// A change of status, which no figure can make up for.
    status: Option<(Change, String)>,
}

/// Compares the files; a change below `tolerance_percent` is none.
pub fn main(first: &Path, second: &Path, tolerance_percent: f64) -> Result<ExitCode> {
    let (first, second) = (Results::read(first)?, Results::read(second)?);
    let rows = rows(&first, &second);
    if rows.is_empty() {
        bail!("the files have no metric and system in common: nothing can be compared");
    }
    let changes = changes(&rows, tolerance_percent);
    let mut text = String::new();
    for difference in first.environment.differences(&second.environment) {
        let _ = writeln!(text, "Not alike: {difference}");
    }
    text.push_str(&table(&rows, &changes));
    let count = |wanted: Change| changes.iter().filter(|change| **change == wanted).count();
    let _ = writeln!(
        text,
        "\n{} better, {} the same within {tolerance_percent} % or the noise, {} worse, {} not comparable",
        count(Change::Better),
        count(Change::Same),
        count(Change::Worse),
        count(Change::Unknown)
    );
    write_out(&text)?;
    Ok(if count(Change::Worse) > 0 { ExitCode::from(WORSE) } else { ExitCode::SUCCESS })
}

fn rows(first: &Results, second: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for metric in &first.metrics {
        let Some(other) = second.metrics.iter().find(|other| other.id == metric.id) else { continue };
        for (name, system) in metric.systems.iter().filter(|(name, _)| !is_native(name)) {
            if let Some(later) = other.systems.get(name) {
                rows.push(row(metric, other, name, system, later));
            }
        }
    }
    rows
}

fn row(
    metric: &MetricResult,
    other: &MetricResult,
    name: &str,
    system: &SystemResult,
    later: &SystemResult,
) -> Row {
    let paired = matches!(metric.comparison, Comparison::AddedToNative | Comparison::RatioToNative);
    let relative = || Some((against_native(metric, system)?, against_native(other, later)?));
    let (samples, what) = match relative().filter(|_| paired) {
        Some(samples) => (samples, "÷ native"),
        None => ((system.samples.clone(), later.samples.clone()), "value"),
    };
    let measured = system.status == Status::Measured && later.status == Status::Measured;
    let values = median(&samples.0).zip(median(&samples.1)).filter(|_| measured);
    let test = about_each_other(&samples.0, &samples.1).filter(|_| measured);
    Row {
        metric: metric.id.clone(),
        system: name.to_owned(),
        what,
        values,
        p: test.map(|test| test.p),
        direction: metric.direction,
        status: change_of_status(metric, other, system, later),
    }
}

/// The system's samples as parts of native's of the same turns; `None` where fewer than four are.
fn against_native(metric: &MetricResult, system: &SystemResult) -> Option<Vec<f64>> {
    let native = metric.systems.get("native")?;
    let by_turn: BTreeMap<usize, f64> =
        native.turns.iter().copied().zip(native.samples.iter().copied()).collect();
    let turns = system.turns.iter().zip(&system.samples);
    let ratios: Vec<f64> = turns
        .filter_map(|(turn, sample)| Some(sample / by_turn.get(turn).filter(|native| **native > 0.0)?))
        .collect();
    (ratios.len() >= 4).then_some(ratios)
}

fn change_of_status(
    metric: &MetricResult,
    other: &MetricResult,
    system: &SystemResult,
    later: &SystemResult,
) -> Option<(Change, String)> {
    let (before, after) = (verdict_text(metric, system), verdict_text(other, later));
    let change = match (system.status, later.status) {
        (Status::Measured, Status::NotEnforced | Status::Failed) => Change::Worse,
        (Status::NotEnforced | Status::Failed, Status::Measured) => Change::Better,
        (Status::Measured, Status::Measured) if metric.comparison == Comparison::Pass => {
            match before.as_str().cmp(after.as_str()) {
                std::cmp::Ordering::Equal => Change::Same,
                _ if after == "pass" => Change::Better,
                _ => Change::Worse,
            }
        }
        (Status::Measured, Status::Measured) => return None,
        (before, after) if before == after => Change::Same,
        _ => Change::Unknown,
    };
    Some((change, if before == after { after } else { format!("{before} → {after}") }))
}

/// What changed, corrected for all rows together.
fn changes(rows: &[Row], tolerance_percent: f64) -> Vec<Change> {
    let family: Vec<f64> = rows.iter().filter(|row| row.status.is_none()).filter_map(|row| row.p).collect();
    let mut corrected = holm(&family).into_iter();
    rows.iter()
        .map(|row| {
            if let Some((change, _)) = &row.status {
                return *change;
            }
            let Some(((before, after), p)) = row.values.zip(row.p.and_then(|_| corrected.next())) else {
                return Change::Unknown;
            };
            let moved_percent = 100.0 * (after - before).abs() / before.abs();
            if p >= SIGNIFICANCE || moved_percent <= tolerance_percent {
                return Change::Same;
            }
            match (after < before, row.direction) {
                (true, Direction::Lower) | (false, Direction::Higher) => Change::Better,
                _ => Change::Worse,
            }
        })
        .collect()
}

fn table(rows: &[Row], changes: &[Change]) -> String {
    let mut text =
        String::from("| metric | system | what | A | B | change | |\n|---|---|---|---|---|---|---|\n");
    for (row, change) in rows.iter().zip(changes) {
        let word = match change {
            Change::Better => "better",
            Change::Same => "the same",
            Change::Worse => "WORSE",
            Change::Unknown => "not comparable",
        };
        let (before, after, moved) = row.values.map_or(Default::default(), |(before, after)| {
            let moved = 100.0 * (after / before - 1.0);
            (value_text(before), value_text(after), format!("{moved:+.1} %"))
        });
        let status = row.status.as_ref().map_or("", |(_, text)| text);
        let Row { metric, system, what, .. } = row;
        let _ = writeln!(
            text,
            "| {metric} | {system} | {what} | {before} | {after} | {moved} {status} | {word} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn scaled(factor: f64) -> Results {
        let mut results = example::results();
        let system = results.metrics[0].systems.get_mut("cuota").unwrap();
        system.samples.iter_mut().for_each(|sample| *sample *= factor);
        results
    }

    fn change_of(first: &Results, second: &Results, tolerance_percent: f64) -> Vec<(String, Change)> {
        let rows = rows(first, second);
        let changes = changes(&rows, tolerance_percent);
        rows.iter().map(|row| format!("{} {}", row.metric, row.system)).zip(changes).collect()
    }

    #[test]
    fn a_file_is_the_same_as_itself() {
        let results = example::results();
        assert!(change_of(&results, &results, 0.0).iter().all(|(_, change)| *change == Change::Same));
    }

    #[test]
    fn a_slower_system_is_worse_unless_it_is_within_the_tolerance() {
        let find = |tolerance| change_of(&scaled(1.0), &scaled(1.3), tolerance)[0].clone();
        assert_eq!(find(5.0), ("OH-002 cuota".to_owned(), Change::Worse));
        assert_eq!(find(50.0).1, Change::Same);
        assert_eq!(change_of(&scaled(1.3), &scaled(1.0), 5.0)[0].1, Change::Better);
    }

    #[test]
    fn a_machine_that_is_slower_for_native_too_is_no_finding() {
        let mut slower = scaled(1.3);
        let native = slower.metrics[0].systems.get_mut("native").unwrap();
        native.samples.iter_mut().for_each(|sample| *sample *= 1.3);
        assert_eq!(change_of(&scaled(1.0), &slower, 1.0)[0].1, Change::Same);
    }

    #[test]
    fn a_system_that_no_longer_enforces_is_worse_whatever_its_figures_were() {
        let mut loose = example::results();
        let refused = SystemResult::without_value(Status::NotEnforced, "granted");
        loose.metrics[1].systems.insert("cuota".to_owned(), refused);
        let changes = change_of(&example::results(), &loose, 5.0);
        assert!(changes.contains(&("IS-002 cuota".to_owned(), Change::Worse)), "{changes:?}");
        let table = table(&rows(&example::results(), &loose), &[Change::Same; 4]);
        assert!(table.contains("measured → not enforced"), "{table}");
    }
}
