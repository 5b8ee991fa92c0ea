//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::units::{ComputeCap, MemoryLimit, Tolerance};
use crate::worker::Effort;

/// Measures what GPU sharing costs and how well it isolates, system beside system.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Measure, and write results.json, a report (Markdown, HTML) and a table (CSV)
    ///
    /// Every metric is measured in fresh processes, the systems in turns (A B B A), native always among them. A system
    /// must first prove that it is loaded and holds a tenant to its limit; one that does not gets no score. Exit
    /// status: 0 when all was measured, 1 on an error, 3 when a metric of a system failed, 5 when --stop-after left some.
    Run(RunArguments),
    /// List the metrics and the systems
    List,
    /// Write the reports of a results file again, also beside published figures
    Report(ReportArguments),
    /// Put results of several runs together, by metric
    ///
    /// Only runs on one card, driver and set of limits and libraries are merged. Where two files have a metric, the later
    /// file's stands; all verdicts are corrected anew.
    Merge(MergeArguments),
    /// Say what became better or worse from one results file to another
    ///
    /// Systems are compared by what their hooks add and by what they make of native, so that a slower machine is no finding.
    /// Exit status: 0 when nothing became worse, 1 on an error, 4 when something did.
    Compare(CompareArguments),
    /// Test the benchmark against itself (SELF-001)
    ///
    /// Native again must tie, slowdowns of 1, 5 and 20 % that are put in must be found where they are detectable, and a
    /// library that does nothing must be called not enforced. Exit status: 0 when it keeps these promises, 1 on an error, 3
    /// when it does not.
    SelfTest(SelfTestArguments),
    /// Read figures that were published with GPU-Virt-Bench 1.0.0, for columns of their own in reports
    Import(ImportArguments),
    /// A tenant of a measurement: started by `run`, not by people
    #[command(hide = true)]
    Worker {
        /// The request, as JSON.
        request: String,
    },
}

/// What to test the benchmark on.
#[derive(Debug, Args)]
pub struct SelfTestArguments {
    /// The fewest samples that can be judged: 6 turns
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// 48 turns (24 without either option)
    #[arg(long)]
    pub full: bool,
    /// The device: its number, or `sim` for the software GPU
    #[arg(long, value_name = "N|sim", default_value = "0")]
    pub device: DeviceChoice,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "bench-self-test")]
    pub out: PathBuf,
    /// Measure although other processes use the device
    #[arg(long)]
    pub busy: bool,
}

impl SelfTestArguments {
    /// The arguments of a run like it.
    pub fn as_run(&self) -> RunArguments {
        RunArguments {
            quick: self.quick,
            full: self.full,
            metrics: Vec::new(),
            system: Vec::new(),
            memory: MemoryLimit::Percent(50.0),
            compute: ComputeCap(100),
            device: self.device,
            out: self.out.clone(),
            time_cap: None,
            stop_after: None,
            resume: false,
            busy: self.busy,
            deadline: 60,
        }
    }
}

/// What to report.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The results
    #[arg(value_name = "RESULTS.json")]
    pub results: PathBuf,
    /// Published figures to show beside them: a file that `import` wrote, or `seed` for the report of 2025-11-29; may be
    /// repeated
    #[arg(long, value_name = "FILE|seed")]
    pub published: Vec<PathBuf>,
    /// Where the reports go; beside the results by default
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What to put together.
#[derive(Debug, Args)]
pub struct MergeArguments {
    /// The results, at least two
    #[arg(value_name = "RESULTS.json", required = true, num_args = 2..)]
    pub results: Vec<PathBuf>,
    /// Where results.json and the reports go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What to compare.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// The earlier results
    #[arg(value_name = "A.json")]
    pub first: PathBuf,
    /// The later results
    #[arg(value_name = "B.json")]
    pub second: PathBuf,
    /// A change up to so much is none
    #[arg(long, value_name = "PERCENT", default_value = "5%")]
    pub tolerance: Tolerance,
}

/// What to read.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// Result files (JSON) or comparison reports (Markdown) of GPU-Virt-Bench 1.0.0
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the columns go
    #[arg(long, value_name = "FILE", default_value = "published.json")]
    pub out: PathBuf,
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// The fewest samples that can be judged: 6 turns
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Samples for figures that will be published: 12 to 48 turns, until the intervals are within 1 % (8 to 24 and 2 %
    /// without either option)
    #[arg(long)]
    pub full: bool,
    /// Metrics by ID, separated by commas; all of them by default
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// A system, with its library where it needs one; may be repeated; the same one twice is a run against itself
    #[arg(long, value_name = "NAME[=LIB]", default_value = "cuota")]
    pub system: Vec<String>,
    /// The tenant's memory limit: an amount (8GiB, 512MiB) or a part of the device (50%)
    #[arg(long, value_name = "AMOUNT", default_value = "50%")]
    pub memory: MemoryLimit,
    /// The cap on GPU time of tenants that are measured under one, as in 50%
    #[arg(long, value_name = "PERCENT", default_value = "50%")]
    pub compute: ComputeCap,
    /// The device: its number, or `sim` for the software GPU in the folder that CUOTA_SIM_LIB names
    #[arg(long, value_name = "N|sim", default_value = "0")]
    pub device: DeviceChoice,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub out: PathBuf,
    /// The most time for one metric: no turn begins that would end after it [default: 120 with --quick, 540 with --full,
    /// otherwise 300; 560 where a single sample takes minutes]
    #[arg(long, value_name = "SECONDS")]
    pub time_cap: Option<u64>,
    /// The time for the whole run: no turn begins that would end after it; a metric that is not whole by then is left for
    /// --resume (exit status 5)
    #[arg(long, value_name = "SECONDS")]
    pub stop_after: Option<u64>,
    /// Go on with the results that are in DIR: metrics that are there are not measured again
    #[arg(long)]
    pub resume: bool,
    /// Measure although other processes use the device; the results say so
    #[arg(long)]
    pub busy: bool,
    /// How long one process of a tenant may take before it is ended and reported
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub deadline: u64,
}

impl RunArguments {
    /// How much work was asked for.
    pub fn effort(&self) -> Effort {
        match (self.quick, self.full) {
            (true, _) => Effort::Quick,
            (_, true) => Effort::Full,
            _ => Effort::Standard,
        }
    }

    /// The most time for one metric: `in_minutes` for one whose single sample takes minutes.
    pub fn budget(&self, in_minutes: bool) -> Duration {
        Duration::from_secs(self.time_cap.unwrap_or(match self.effort() {
            _ if in_minutes => 560,
            Effort::Quick => 120,
            Effort::Standard => 300,
            Effort::Full => 540,
        }))
    }

    /// The deadline of a worker.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }
}

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real one, by its number in PCI order.
    Number(i32),
    /// The software GPU.
    Simulated,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<i32>() {
            _ if text == "sim" => Ok(Self::Simulated),
            Ok(number) if number >= 0 => Ok(Self::Number(number)),
            _ => Err(format!(
                "`{text}` is not a device: give its number, from 0, or `sim` for the software GPU"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<RunArguments, String> {
        let words = ["cuota-bench", "run"].iter().chain(words);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.verb {
            Verb::Run(arguments) => Ok(arguments),
            _ => Err("not run".to_owned()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_of_metrics_and_systems_are_read() {
        let arguments =
            parse(&["--metrics", "OH-002,IS-001", "--system", "native", "--system", "hami=/x.so"]).unwrap();
        assert_eq!(arguments.metrics, ["OH-002", "IS-001"]);
        assert_eq!(arguments.system, ["native", "hami=/x.so"]);
        assert_eq!(arguments.effort(), Effort::Standard);
    }

    #[test]
    fn a_wrong_unit_or_device_is_answered_with_what_to_write() {
        let error = parse(&["--memory", "8GB"]).unwrap_err();
        assert!(error.contains("`8GB` is not an amount of memory") && error.contains("8GiB"), "{error}");
        let error = parse(&["--device", "gpu0"]).unwrap_err();
        assert!(error.contains("`gpu0` is not a device"), "{error}");
        assert!(parse(&["--quick", "--full"]).is_err());
    }

    #[test]
    fn the_software_gpu_is_a_device() {
        assert_eq!(parse(&["--device", "sim"]).unwrap().device, DeviceChoice::Simulated);
        assert_eq!(parse(&["--device", "3"]).unwrap().device, DeviceChoice::Number(3));
    }
}
