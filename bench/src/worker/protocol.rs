//! What the parent asks of a worker, and what comes back: JSON, the request as an argument, the reply as a file (a
//! tenant's stdout belongs to whatever libraries are loaded into it).

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::stats;

/// How much work goes into a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// The fewest samples that can be judged.
    Quick,
    /// The default.
    Standard,
    /// For figures that will be published.
    Full,
}

impl Effort {
    /// The word for it in reports.
    pub fn text(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }

    /// Scales the number of calls inside one process.
    pub fn calls(self, standard: usize) -> usize {
        match self {
            Self::Quick => (standard / 4).max(1),
            Self::Standard | Self::Full => standard,
        }
    }
}

/// One job for one fresh process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// A metric's ID, or an internal job.
    pub job: String,
    /// Which of the metric's jobs; empty when it has one.
    pub variant: String,
    /// The device's number.
    pub device: i32,
    /// The memory limit, in bytes.
    pub limit_bytes: u64,
    /// The cap on GPU time that this tenant was started with, in per cent; 100 is none.
    pub compute_percent: u32,
    /// How much work.
    pub effort: Effort,
    /// True on the software GPU, which waits instead of computing.
    pub simulated: bool,
    /// The file name that shows the system's library in this process, where there is one.
    pub loaded: Option<String>,
    /// The CPU to run on, where one was chosen.
    pub cpu: Option<usize>,
    /// Names of the variables that a native tenant has: others are the system's.
    pub native_variables: Vec<String>,
    /// A shared library that does nothing, where one could be built.
    pub empty_library: Option<PathBuf>,
    /// The shared page of tenants that start together, where there is one.
    pub shared: Option<String>,
    /// This tenant's place in it.
    pub place: usize,
    /// Where the reply goes.
    pub reply: PathBuf,
}

/// What a worker leaves behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Its process, as NVML lists it.
    pub pid: u32,
    /// The CPU that it kept to, if it could.
    pub cpu: Option<usize>,
    /// When its `main` began, CLOCK_MONOTONIC.
    pub started_ns: u64,
    /// The measured series, or why there are none.
    pub outcome: Result<Work, Failure>,
}

/// Why a worker has no figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// What is to be measured is not there.
    NotMeasured(String),
    /// Something went wrong: the sample is void.
    Void(String),
}

/// The error of a metric that cannot be measured here, as on one GPU or without cuBLASLt: no sample is void by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotMeasured {
    why: String,
}

impl NotMeasured {
    /// The reason, without a full stop.
    pub fn because(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    /// The reason that the first cause of `error` gives, if it is one of these.
    pub fn in_error(error: &anyhow::Error) -> Option<String> {
        error.chain().find_map(|cause| cause.downcast_ref::<Self>()).map(|found| found.why.clone())
    }
}

impl fmt::Display for NotMeasured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not measured: {}", self.why)
    }
}

impl Error for NotMeasured {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match NotMeasured::in_error(&error) {
            Some(why) => Self::NotMeasured(why),
            None => Self::Void(format!("{error:#}")),
        }
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotMeasured(why) => NotMeasured::because(why).into(),
            Failure::Void(why) => Self::msg(why),
        }
    }
}

/// What a worker measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Work {
    /// The measured values by series.
    pub series: Series,
    /// Named spans of time for whoever samples from outside.
    pub windows: Vec<Window>,
    /// Facts that are no measurement, by name.
    pub facts: BTreeMap<String, String>,
}

/// Single calls whose mean is one value of [`Measure::of_short_calls_us`], which names their number.
const GROUP: usize = 16;

/// Measured values of one process, by series name.
pub type Series = BTreeMap<String, Measure>;

/// One series in one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The value that stands for this process: the median of its calls, unless the series says otherwise.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The 99th percentile of the calls, where there were enough of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Calls that the value rests on.
    pub calls: usize,
    /// True when the value is itself what the system adds, measured within the process: it is held against zero and not
    /// against native's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_difference: bool,
    /// Of a difference of two times: the logarithm of the one over the other, where both are above zero. What slows a whole
    /// process down is in the difference and not in this, so it is by this that the difference is tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f64>,
    /// Points x, y of a curve that belongs to the value: a time series, a distribution. 500 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<[f64; 2]>,
}

impl Measure {
    /// The same with the points of a curve.
    pub fn with_curve(self, curve: Vec<[f64; 2]>) -> Self {
        Self { curve, ..self }
    }

    /// A single value that is a difference.
    pub fn difference(value: f64, unit: &str) -> Self {
        Self { is_difference: true, ..Self::single(value, unit) }
    }

    /// A single value.
    pub fn single(value: f64, unit: &str) -> Self {
        Self {
            value,
            unit: unit.to_owned(),
            p99: None,
            calls: 1,
            is_difference: false,
            log_ratio: None,
            curve: Vec::new(),
        }
    }

    /// Calls of about a microsecond, timed singly in nanoseconds: the median of the means of 16 neighbours, in
    /// microseconds, since clocks tick in steps of up to 10 ns (measured on an EPYC) that a mean of several averages
    /// out and a median does not. The 99th percentile is that of single calls.
    pub fn of_short_calls_us(values_ns: &[f64]) -> Option<Self> {
        let means: Vec<f64> =
            values_ns.chunks(GROUP).map(|group| group.iter().sum::<f64>() / group.len() as f64).collect();
        Some(Self { value: stats::median(&means)? / 1_000.0, ..Self::of_calls_us(values_ns)? })
    }

    /// The median of `values`, which are nanoseconds, in microseconds; with the 99th percentile from 100 values on.
    /// `None` for no values.
    pub fn of_calls_us(values_ns: &[f64]) -> Option<Self> {
        let p99 = if values_ns.len() >= 100 { stats::quantile(values_ns, 0.99) } else { None };
        Some(Self {
            value: stats::median(values_ns)? / 1_000.0,
            unit: "µs".to_owned(),
            p99: p99.map(|value| value / 1_000.0),
            calls: values_ns.len(),
            is_difference: false,
            log_ratio: None,
            curve: Vec::new(),
        })
    }
}

/// A named span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// Its beginning, CLOCK_MONOTONIC.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_survives_its_way_through_the_file() {
        let mut work = Work::default();
        work.series.insert("alloc".to_owned(), Measure::single(0.94, "µs"));
        work.windows.push(Window { name: "full".to_owned(), from_ns: 1, to_ns: 2 });
        let reply = Reply { pid: 7, cpu: None, started_ns: 9, outcome: Ok(work) };
        let text = serde_json::to_string(&reply).unwrap();
        let back: Reply = serde_json::from_str(&text).unwrap();
        assert_eq!(back.outcome.unwrap().series["alloc"], Measure::single(0.94, "µs"));
        let failed =
            Reply { pid: 7, cpu: None, started_ns: 9, outcome: Err(Failure::Void("why".to_owned())) };
        let back: Reply = serde_json::from_str(&serde_json::to_string(&failed).unwrap()).unwrap();
        assert_eq!(back.outcome.unwrap_err(), Failure::Void("why".to_owned()));
    }

    #[test]
    fn what_cannot_be_measured_is_told_from_what_went_wrong() {
        let missing = anyhow::Error::from(NotMeasured::because("one GPU")).context("the step over NCCL");
        let failure = Failure::from(missing);
        assert_eq!(failure, Failure::NotMeasured("one GPU".to_owned()));
        assert_eq!(NotMeasured::in_error(&failure.into()), Some("one GPU".to_owned()));
        assert_eq!(Failure::from(anyhow::anyhow!("no")), Failure::Void("no".to_owned()));
    }

    #[test]
    fn the_steps_of_the_clock_are_averaged_out_and_rare_slow_calls_do_not_count() {
        // A call of 94 ns on a clock of 10 ns steps: 90 in six of ten, 100 in four; and one of 1,000 calls is slow.
        let call = |i: usize| match i {
            500 => 50_000.0,
            _ if i * 4 % 10 < 4 => 100.0,
            _ => 90.0,
        };
        let values_ns: Vec<f64> = (0..1_000).map(call).collect();
        let value = Measure::of_short_calls_us(&values_ns).unwrap().value;
        assert!((value - 0.094).abs() < 0.001, "{value}");
    }

    #[test]
    fn a_tail_is_stated_only_where_there_are_calls_enough() {
        assert_eq!(Measure::of_calls_us(&[1_000.0; 99]).unwrap().p99, None);
        assert_eq!(Measure::of_calls_us(&[1_000.0; 100]).unwrap().p99, Some(1.0));
        assert_eq!(Measure::of_calls_us(&[]), None);
    }
}
