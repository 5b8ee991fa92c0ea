//! The results file. Its schema is documented in docs/bench-method.md; a reader checks `schema` first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::PrettyFormatter;

use crate::environment::Environment;
use crate::judge::Winner;
use crate::metrics::{Comparison, Info};
use crate::stats::{Direction, Interval, Verdict};
use crate::worker::Effort;

/// The schema's name and version. The number rises when a field changes its meaning or goes.
pub const SCHEMA: &str = "cuota-bench/3";
/// Earlier schemas that are read as well: they lack fields, and their chances come from other tests.
pub const READABLE: [&str; 3] = ["cuota-bench/1", "cuota-bench/2", SCHEMA];

/// A results file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// Where and how it was measured.
    pub environment: Environment,
    /// What was measured, in the order of reports.
    pub metrics: Vec<MetricResult>,
}

/// One metric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MetricResult {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The unit of its headline.
    pub unit: String,
    /// Which way is better.
    pub direction: Direction,
    /// The series that `value` is taken from.
    pub headline: String,
    /// What `added` and `verdict` are against.
    pub comparison: Comparison,
    /// How it was measured.
    pub method: String,
    /// True when the figures come from the software GPU.
    pub simulated: bool,
    /// When and how long it was measured.
    #[serde(default)]
    pub run: RunRecord,
    /// Which of the systems that share the GPU is best, where there are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<Winner>,
    /// The systems by name.
    pub systems: BTreeMap<String, SystemResult>,
}

/// How one metric came about: a file that was merged has metrics of several runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When it was finished, UTC.
    pub date: String,
    /// How long its whole interleaved set took, in seconds.
    pub seconds: f64,
    /// Why sampling ended.
    pub stopped: String,
    /// The UUID of the card: runs on several cards of one model may be merged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// How much work: quick and full runs may be merged, and one may go on with the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
}

/// Whether a system has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has.
    Measured,
    /// It does not hold the tenant to its limit: whatever it costs is no score.
    NotEnforced,
    /// The metric has no meaning for it, as a limit's accuracy has none without a limit.
    NotApplicable,
    /// It cannot be measured here, as on one GPU.
    NotMeasured,
    /// Too few samples came back good.
    Failed,
}

/// One system's part of a metric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SystemResult {
    /// Whether there is a value.
    pub status: Status,
    /// Why not, or what stands beside the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The median of `samples`.
    pub value: Option<f64>,
    /// Its 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// The headline's samples, one a process, in the order of measurement.
    pub samples: Vec<f64>,
    /// The turn of each of them: samples of different systems in the same turn are a pair.
    #[serde(default)]
    pub turns: Vec<usize>,
    /// The paired difference to native, where the metric has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<Interval>,
    /// The paired ratio to native, where all values are above zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Interval>,
    /// What the difference says, corrected for the family of all comparisons in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The chance of such samples without a difference, before the correction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The same after it: below 0.05 is a difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_corrected: Option<f64>,
    /// The smallest difference that would be found in 80 of 100 runs like this one, in the metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
    /// The same in per cent of native, corrected for the family of all comparisons in the file: what a verdict can see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable_in_family_percent: Option<f64>,
    /// The same in per cent of native, alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable_percent: Option<f64>,
    /// What the system adds by measurements within its own processes, where the metric has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_in_process: Option<Interval>,
    /// What that says, corrected too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_in_process: Option<Verdict>,
    /// Its chance without a difference, before the correction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_in_process: Option<f64>,
    /// All series, the headline included.
    pub series: BTreeMap<String, SeriesResult>,
    /// Samples that are void, and why.
    pub voids: Vec<String>,
    /// Samples that were thrown away because the device was throttled.
    #[serde(default)]
    pub throttled: usize,
}

/// One series of a system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeriesResult {
    /// Its unit.
    pub unit: String,
    /// The median of `samples`, with its interval.
    #[serde(flatten)]
    pub value: Interval,
    /// One a process.
    pub samples: Vec<f64>,
    /// The median over processes of the 99th percentile of calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Calls in all processes together.
    pub calls: usize,
    /// What the system adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<Interval>,
    /// What it makes of native's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Interval>,
    /// How that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_by: Option<AddedBy>,
    /// The chance of such samples without a difference, not corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// What the difference says by itself: one series of many, not corrected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Points x, y of the curve of one sample, where the series has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<[f64; 2]>,
}

/// How an added amount was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddedBy {
    /// Within the system's own processes: the series is the difference.
    InProcess,
    /// The differences of processes of the same turn, the system's and native's.
    ProcessAgainstProcess,
}

impl AddedBy {
    /// The words for it in a report.
    pub fn text(self) -> &'static str {
        match self {
            Self::InProcess => "in process",
            Self::ProcessAgainstProcess => "process against process",
        }
    }
}

impl MetricResult {
    /// A metric without systems.
    pub fn new(info: &Info) -> Self {
        Self {
            id: info.id.to_owned(),
            name: info.name.to_owned(),
            unit: info.unit.to_owned(),
            direction: info.direction,
            headline: info.headline.to_owned(),
            comparison: info.comparison,
            method: info.method.to_owned(),
            simulated: false,
            run: RunRecord::default(),
            winner: None,
            systems: BTreeMap::new(),
        }
    }
}

impl SystemResult {
    /// A system without a value.
    pub fn without_value(status: Status, reason: &str) -> Self {
        Self {
            status,
            reason: Some(reason.to_owned()),
            value: None,
            ci95: None,
            samples: Vec::new(),
            turns: Vec::new(),
            added: None,
            ratio: None,
            verdict: None,
            p: None,
            p_corrected: None,
            detectable: None,
            detectable_percent: None,
            detectable_in_family_percent: None,
            added_in_process: None,
            verdict_in_process: None,
            p_in_process: None,
            series: BTreeMap::new(),
            voids: Vec::new(),
            throttled: 0,
        }
    }
}

impl Results {
    /// Reads a file that `run` or `merge` wrote.
    ///
    /// # Errors
    /// In words, when it is not there, is no results file, or one of another schema.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!("the results {} cannot be read: give the path of a results.json", path.display())
        })?;
        let schema = serde_json::from_str::<serde_json::Value>(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?["schema"]
            .as_str()
            .unwrap_or("none")
            .to_owned();
        if !READABLE.contains(&schema.as_str()) {
            bail!(
                "{} has the schema `{schema}`, and this version reads {}: if it is a file of GPU-Virt-Bench, \
                 `cuota-bench import` takes it",
                path.display(),
                READABLE.join(", ")
            );
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{} does not have the fields of {schema}", path.display()))
    }

    /// Its systems in the order of turns.
    pub fn order(&self) -> Vec<&str> {
        let mut systems: Vec<_> = self.environment.systems.iter().collect();
        systems.sort_by_key(|(_, record)| record.order);
        systems.into_iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let partial = path.with_extension("json.partial");
        let mut text = Vec::new();
        // One space a level: most lines are numbers deep inside.
        let formatter = PrettyFormatter::with_indent(b" ");
        self.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
        text.push(b'\n');
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, path))
            .with_context(|| format!("the results cannot be written to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut system = SystemResult::without_value(Status::Measured, "x");
        system.value = Some(1.5);
        system.ci95 = Some([1.0, 2.0]);
        system.samples = vec![1.0, 1.5, 2.0];
        system.added = Some(Interval { value: 0.1, ci95: [0.05, 0.2] });
        system.verdict = Some(Verdict::Worse);
        system.series.insert(
            "plain".to_owned(),
            SeriesResult {
                unit: "µs".to_owned(),
                value: Interval { value: 1.5, ci95: [1.0, 2.0] },
                samples: vec![1.0, 1.5, 2.0],
                p99: None,
                calls: 300,
                added: None,
                ratio: None,
                added_by: None,
                p: None,
                verdict: None,
                curve: Vec::new(),
            },
        );
        let mut metric = MetricResult::new(crate::metrics::find("OH-002").unwrap().info());
        metric.systems.insert("cuota".to_owned(), system);
        metric.systems.insert("hami".to_owned(), SystemResult::without_value(Status::NotEnforced, "granted"));
        Results { schema: SCHEMA.to_owned(), environment: Environment::default(), metrics: vec![metric] }
    }

    #[test]
    fn the_file_has_the_documented_shape() {
        let json = serde_json::to_value(results()).unwrap();
        assert_eq!(json["schema"], "cuota-bench/3");
        assert!(json["environment"].is_object());
        let metric = &json["metrics"][0];
        assert_eq!(metric["id"], "OH-002");
        assert_eq!(metric["unit"], "µs");
        assert_eq!(metric["direction"], "lower");
        let cuota = &metric["systems"]["cuota"];
        assert_eq!(cuota["status"], "measured");
        assert_eq!(cuota["value"], 1.5);
        assert_eq!(cuota["ci95"], serde_json::json!([1.0, 2.0]));
        assert_eq!(cuota["samples"], serde_json::json!([1.0, 1.5, 2.0]));
        assert_eq!(cuota["series"]["plain"]["ci95"], serde_json::json!([1.0, 2.0]));
        let hami = &metric["systems"]["hami"];
        assert_eq!(hami["status"], "not_enforced");
        assert!(hami["value"].is_null());
    }

    #[test]
    fn a_written_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        results().write(&path).unwrap();
        let back = Results::read(&path).unwrap();
        assert_eq!(back.metrics[0].systems["cuota"].verdict, Some(Verdict::Worse));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written is left");
    }
}
