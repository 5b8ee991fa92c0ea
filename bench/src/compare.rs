//! `cuota-bench compare A B`: what became better or worse from one file to the other, with an exit status for CI.
//!
//! A system is compared by what its hooks add within its processes, and by what it makes of native in each turn, so that a slower
//! machine in B is no finding, or by its values where native is no baseline. Native itself does not count.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::judge::{is_native, verdict_text};
use crate::metrics::{self, Comparison};
use crate::results::{AddedBy, MetricResult, Results, Status, SystemResult};
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

/// One system in one metric, by one kind of figures.
struct Row {
    metric: String,
    system: String,
    /// Of the first file and of the second.
    figures: Option<(Figures, Figures)>,
    direction: Direction,
    /// A change of status, which no figure can make up for.
    status: Option<(Change, String)>,
}

impl Row {
    fn medians(&self) -> Option<(f64, f64)> {
        self.figures.as_ref().and_then(|(one, two)| one.median().zip(two.median()))
    }

    /// From the one to the other, in per cent of the first value, or of the whole where the values are differences.
    fn moved_percent(&self) -> Option<f64> {
        let (before, after) = self.medians()?;
        let whole = self.figures.as_ref()?.0.whole.unwrap_or(before.abs());
        Some(if before == after { 0.0 } else { 100.0 * (after - before) / whole })
    }

    fn p(&self) -> Option<f64> {
        self.figures.as_ref().and_then(|(one, two)| one.against(two))
    }
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
    text.push_str(&verdicts(&first, &second));
    write_out(&text)?;
    Ok(if count(Change::Worse) > 0 { ExitCode::from(WORSE) } else { ExitCode::SUCCESS })
}

fn rows(first: &Results, second: &Results) -> Vec<Row> {
    in_both(first, second).flat_map(|(name, first, second)| rows_of(name, first, second)).collect()
}

/// A system in a metric, of one file.
type Side<'a> = (&'a MetricResult, &'a SystemResult);

/// Each system but native in each metric that both files have.
fn in_both<'a>(
    first: &'a Results,
    second: &'a Results,
) -> impl Iterator<Item = (&'a str, Side<'a>, Side<'a>)> {
    first.metrics.iter().flat_map(|metric| {
        let other = second.metrics.iter().find(|other| other.id == metric.id);
        metric.systems.iter().filter(|(name, _)| !is_native(name)).filter_map(move |(name, system)| {
            let other = other?;
            Some((name.as_str(), (metric, system), (other, other.systems.get(name)?)))
        })
    })
}

/// Whether the second file says the same of each system as the first: what a rerun is judged by. A line for each system.
fn verdicts(first: &Results, second: &Results) -> String {
    let mut systems: BTreeMap<&str, Vec<(&str, String, String)>> = BTreeMap::new();
    for (name, one, two) in in_both(first, second) {
        let verdicts = (one.0.id.as_str(), verdict_text(one.0, one.1), verdict_text(two.0, two.1));
        systems.entry(name).or_default().push(verdicts);
    }
    let mut text = String::new();
    for (name, all) in systems {
        let (same, changed): (Vec<_>, Vec<_>) = all.iter().partition(|(_, before, after)| before == after);
        let ties = same.iter().filter(|(_, verdict, _)| verdict == "tie").count();
        let _ = write!(
            text,
            "Verdicts of {name}: {} of {} the same, {} of them no ties",
            same.len(),
            all.len(),
            same.len() - ties
        );
        for (number, (metric, before, after)) in changed.into_iter().enumerate() {
            let _ =
                write!(text, "{} {metric} {before} → {after}", if number == 0 { "; other:" } else { "," });
        }
        text.push('\n');
    }
    text
}

/// The rows of one system in one metric: what its hooks add within its processes, and what the processes make of native. The
/// first is the sharper, the second sees what a library does elsewhere.
fn rows_of(name: &str, first: Side<'_>, second: Side<'_>) -> Vec<Row> {
    let row = |figures: Option<(Figures, Figures)>, status| Row {
        metric: first.0.id.clone(),
        system: name.to_owned(),
        figures,
        direction: first.0.direction,
        status,
    };
    if let Some(status) = change_of_status(first, second) {
        return vec![row(None, Some(status))];
    }
    let both = |get: fn(Side<'_>) -> Option<Figures>| get(first).zip(get(second));
    let headline = both(against_native).or_else(|| both(values));
    let mut rows: Vec<Row> = both(added_in_process).into_iter().map(|both| row(Some(both), None)).collect();
    if headline.is_some() || rows.is_empty() {
        rows.push(row(headline, None));
    }
    rows
}

/// What a system is compared by.
struct Figures {
    what: &'static str,
    samples: Vec<f64>,
    /// What a change is a part of where the samples are differences: native's value, or 100 where they are per cent already.
    whole: Option<f64>,
}

impl Figures {
    /// The fewest samples that are compared.
    const FEWEST: usize = 4;

    fn of(what: &'static str, samples: Vec<f64>, whole: Option<f64>) -> Option<Self> {
        (samples.len() >= Self::FEWEST).then_some(Self { what, samples, whole })
    }

    fn median(&self) -> Option<f64> {
        median(&self.samples)
    }

    /// The chance of such samples without a difference. Of their logarithms where they are all above zero: on a busy machine
    /// the ratios to native after a slowdown to a hundredfold are 30 as well as 400, so that six of them seem to say nothing.
    fn against(&self, other: &Self) -> Option<f64> {
        let all = || self.samples.iter().chain(&other.samples);
        let by_ratio = self.whole.is_none() && all().all(|sample| *sample > 0.0);
        let scaled = |figures: &Self| -> Vec<f64> {
            figures.samples.iter().map(|sample| if by_ratio { sample.ln() } else { *sample }).collect()
        };
        about_each_other(&scaled(self), &scaled(other)).map(|test| test.p)
    }
}

/// What the hooks add within the system's processes, a change of which is a part of native's value.
fn added_in_process((metric, system): Side<'_>) -> Option<Figures> {
    let name = *metrics::find(&metric.id)?.info().in_process.first()?;
    let series = system.series.get(name)?;
    let native = metric.systems.get("native").and_then(|native| native.value).filter(|value| *value > 0.0);
    Figures::of("added, in process", series.samples.clone(), Some(native?))
}

/// The system's samples as parts of native's of the same turns.
fn against_native((metric, system): Side<'_>) -> Option<Figures> {
    let paired = matches!(metric.comparison, Comparison::AddedToNative | Comparison::RatioToNative);
    let native = metric.systems.get("native").filter(|_| paired && !is_difference(metric, system))?;
    let by_turn: BTreeMap<usize, f64> =
        native.turns.iter().copied().zip(native.samples.iter().copied()).collect();
    let turns = system.turns.iter().zip(&system.samples);
    let ratios: Vec<f64> = turns
        .filter_map(|(turn, sample)| Some(sample / by_turn.get(turn).filter(|native| **native > 0.0)?))
        .collect();
    Figures::of("÷ native", ratios, None)
}

/// The system's samples as they are; differences in per cent are parts of native already.
fn values((metric, system): Side<'_>) -> Option<Figures> {
    let whole = (is_difference(metric, system) && metric.unit == "%").then_some(100.0);
    Figures::of("value", system.samples.clone(), whole)
}

/// Whether the headline is a difference, so that parts of native's are parts of noise.
fn is_difference(metric: &MetricResult, system: &SystemResult) -> bool {
    system.series.get(&metric.headline).is_some_and(|series| series.added_by == Some(AddedBy::InProcess))
}

fn change_of_status((metric, system): Side<'_>, (other, later): Side<'_>) -> Option<(Change, String)> {
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
    let family: Vec<f64> = rows.iter().filter_map(Row::p).collect();
    let mut corrected = holm(&family).into_iter();
    let mut change = |row: &Row| {
        if let Some((change, _)) = &row.status {
            return *change;
        }
        let p = row.p().and_then(|_| corrected.next());
        let Some((moved_percent, p)) = row.moved_percent().zip(p) else { return Change::Unknown };
        if p >= SIGNIFICANCE || moved_percent.abs() <= tolerance_percent {
            return Change::Same;
        }
        match (moved_percent < 0.0, row.direction) {
            (true, Direction::Lower) | (false, Direction::Higher) => Change::Better,
            _ => Change::Worse,
        }
    };
    rows.iter().map(&mut change).collect()
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
        let (before, after) = row
            .medians()
            .map_or(Default::default(), |(before, after)| (value_text(before), value_text(after)));
        let moved = row.moved_percent().map_or(String::new(), |percent| format!("{percent:+.1} %"));
        let status = row.status.as_ref().map_or("", |(_, text)| text);
        let what = row.figures.as_ref().map_or("", |(one, _)| one.what);
        let Row { metric, system, .. } = row;
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

    #[test]
    fn a_rerun_is_told_what_it_says_otherwise() {
        let (first, mut second) = (example::results(), example::results());
        let all = first.metrics.iter().filter(|metric| metric.systems.contains_key("cuota")).count();
        let line = |second: &Results| {
            let text = verdicts(&first, second);
            text.lines().find(|line| line.starts_with("Verdicts of cuota")).unwrap().to_owned()
        };
        assert!(line(&second).contains(&format!("{all} of {all} the same")), "{}", line(&second));
        assert!(!line(&second).contains("other") && !verdicts(&first, &second).contains("native:"));
        let metric = &mut second.metrics[0];
        metric.systems.get_mut("cuota").unwrap().status = Status::Failed;
        let other = format!("; other: {} ", metric.id);
        let line = line(&second);
        assert!(line.contains(&format!("{} of {all} the same", all - 1)), "{line}");
        assert!(line.contains(&other) && line.ends_with("→ failed"), "{line}");
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

    /// Ratios to native of six processes each that a busy machine gave before and after a slowdown to a hundredfold.
    #[test]
    fn a_slowdown_to_a_hundredfold_is_found_however_noisy_the_machine() {
        let with = |ratios: [f64; 6]| {
            let mut results = example::results();
            let metric = &mut results.metrics[0];
            metric.systems.get_mut("native").unwrap().samples = vec![1.0; 6];
            metric.systems.get_mut("cuota").unwrap().samples = ratios.to_vec();
            results
        };
        let (quiet, slow) = ([0.7, 1.0, 1.3, 0.9, 2.6, 1.1], [12.0, 102.0, 390.0, 96.0, 540.0, 58.0]);
        let raw = about_each_other(&quiet, &slow).unwrap();
        assert!(raw.p > SIGNIFICANCE, "the differences of these samples are lost in their spread: {}", raw.p);
        assert_eq!(change_of(&with(quiet), &with(slow), 5.0)[0].1, Change::Worse);
        assert_eq!(change_of(&with(slow), &with(quiet), 5.0)[0].1, Change::Better);
    }

    #[test]
    fn what_the_hooks_add_is_compared_as_a_part_of_native() {
        let with = |added_us: f64| {
            let mut results = example::results();
            let metric = &mut results.metrics[0];
            let name = metrics::find(&metric.id).unwrap().info().in_process[0];
            let samples = [0.98, 1.0, 1.02, 0.99, 1.01, 1.0].map(|part| part * added_us);
            let cuota = metric.systems.get_mut("cuota").unwrap();
            cuota.series.insert(name.to_owned(), example::series(&samples, "µs"));
            results
        };
        // Native takes 0.94 µs: 0.05 more is 5.3 % of it, whatever the processes as a whole say.
        assert_eq!(change_of(&with(0.1), &with(0.15), 5.0)[0].1, Change::Worse);
        assert_eq!(change_of(&with(0.1), &with(0.15), 6.0)[0].1, Change::Same);
        assert_eq!(change_of(&with(0.1), &with(0.02), 5.0)[0].1, Change::Better);
    }

    #[test]
    fn differences_in_per_cent_are_compared_by_points_and_not_as_parts_of_natives_noise() {
        let with = |lost: f64| {
            let mut results = example::results();
            let mut metric = MetricResult::new(metrics::find("OH-010").unwrap().info());
            for (name, base) in [("native", 0.0), ("cuota", lost)] {
                let samples = [0.01, -0.02, 0.03, 0.02, -0.01, 0.015].map(|noise| base + noise);
                let mut system = example::measured(&metric.headline, &samples, "%");
                if let Some(series) = system.series.get_mut(&metric.headline) {
                    series.added_by = Some(AddedBy::InProcess);
                }
                metric.systems.insert(name.to_owned(), system);
            }
            results.metrics = vec![metric];
            results
        };
        assert_eq!(change_of(&with(0.5), &with(3.0), 2.0)[0].1, Change::Worse);
        assert_eq!(change_of(&with(0.5), &with(3.0), 3.0)[0].1, Change::Same);
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
