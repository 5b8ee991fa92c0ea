//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::units::MemoryLimit;
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
    /// Measure, and write results.json and report.md
    ///
    /// Every metric is measured in fresh processes, the systems in turns (A B B A), native always among them. A system
    /// must first prove that it is loaded and holds a tenant to its limit; one that does not gets no score. Exit
    /// status: 0 when all was measured, 1 on an error, 3 when a metric of a system failed.
    Run(RunArguments),
    /// List the metrics and the systems
    List,
    /// A tenant of a measurement: started by `run`, not by people
    #[command(hide = true)]
    Worker {
        /// The request, as JSON.
        request: String,
    },
}

/// What to measure.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The fewest samples that can be judged: 6 processes a system
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Samples for figures that will be published: 24 processes a system (12 without either option)
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
    /// The device: its number, or `sim` for the software GPU in the folder that CUOTA_SIM_LIB names
    #[arg(long, value_name = "N|sim", default_value = "0")]
    pub device: DeviceChoice,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub out: PathBuf,
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
