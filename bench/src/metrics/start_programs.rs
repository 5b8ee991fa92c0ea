//! Programs that a tenant starts, by turns with the variables of its system and without: `true`, and workers of this
//! binary.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::start_parts;
use crate::spawn::{Program, Ran, Variables};
use crate::stats;
use crate::worker::{Measure, Reply, Request, Series};

/// What the system adds to `true`.
pub(super) const TRUE_ADDED: &str = "`true`: added, spawn beside spawn";

/// Turns of `true`, one start of each kind in a turn.
const TRUE_TURNS: usize = 150;
/// Turns of workers that open the driver: a few milliseconds each.
const OPEN_TURNS: usize = 16;
/// Turns that do not count.
const WARM_UP: usize = 4;
/// The program that does nothing.
const TRUE: &str = "/bin/true";

/// Starts programs for the process that it lives in.
pub(super) struct Starter<'a> {
    request: &'a Request,
    /// As the system made them for this process.
    with_system: Variables,
    /// The same without what is the system's.
    without: Variables,
}

/// One start of each kind, neighbours in time, in nanoseconds.
struct Turn {
    system_ns: f64,
    native_ns: f64,
    /// With a library preloaded that does nothing.
    empty_ns: Option<f64>,
}

impl<'a> Starter<'a> {
    /// Tells the system's variables from the others by the names that a native tenant has.
    pub(super) fn new(request: &'a Request) -> Result<Self> {
        let with_system: Variables = env::vars_os().collect();
        let is_native = |name: &OsStr| {
            name != "LD_PRELOAD" && request.native_variables.iter().any(|native| OsStr::new(native) == name)
        };
        let without = with_system.iter().filter(|(name, _)| is_native(name));
        Ok(Self { request, without: without.map(|(n, v)| (n.clone(), v.clone())).collect(), with_system })
    }

    /// Fails unless the system's library is in programs that are started with its variables, and is not in the others:
    /// otherwise nothing would be compared.
    pub(super) fn prove(&self) -> Result<()> {
        let Some(file) = &self.request.loaded else { return Ok(()) };
        for (variables, expected) in [(&self.with_system, true), (&self.without, false)] {
            let output = Command::new("/bin/cat").arg("/proc/self/maps").env_clear().envs(variables).output();
            let maps = output.context("/bin/cat could not be started")?.stdout;
            let is_loaded = String::from_utf8_lossy(&maps)
                .lines()
                .any(|line| Path::new(line).file_name() == Some(OsStr::new(file)));
            if is_loaded != expected {
                bail!(
                    "a program was started {} the system's variables, and {file} is {}in it",
                    if expected { "with" } else { "without" },
                    if is_loaded { "" } else { "not " },
                );
            }
        }
        Ok(())
    }

    /// `true` by turns: with the system, natively, with an empty library; then the other way round.
    pub(super) fn true_by_turns(&self) -> Result<Series> {
        let program = |variables: &Variables| Program::new(Path::new(TRUE), &[], variables);
        let empty = self.request.empty_library.as_ref().map(|library| {
            let mut variables = self.without.clone();
            variables.insert("LD_PRELOAD".into(), library.clone().into());
            program(&variables)
        });
        let empty = empty.transpose()?;
        let (system, native) = (program(&self.with_system)?, program(&self.without)?);
        let span_ns = |program: &Program| program.run().map(Ran::span_ns);
        let turn = |number: usize| -> Result<Turn> {
            let empty_ns = || empty.as_ref().map(span_ns).transpose();
            Ok(if number.is_multiple_of(2) {
                Turn { system_ns: span_ns(&system)?, native_ns: span_ns(&native)?, empty_ns: empty_ns()? }
            } else {
                let (empty_ns, native_ns) = (empty_ns()?, span_ns(&native)?);
                Turn { system_ns: span_ns(&system)?, native_ns, empty_ns }
            })
        };
        let turns = (0..WARM_UP + TRUE_TURNS).map(turn).skip(WARM_UP).collect::<Result<Vec<_>>>()?;
        Ok(true_series(&turns))
    }

    /// Workers of `variant` by turns, with the system and without: each series as a value with the system, and as what
    /// the system adds, under the names of its parts.
    pub(super) fn workers_by_turns(&self, variant: &str) -> Result<Series> {
        let turns = self.request.effort.calls(OPEN_TURNS).max(OPEN_TURNS / 2);
        let (mut with_system, mut without) = (Vec::new(), Vec::new());
        for number in 0..turns + 1 {
            let system_first = number.is_multiple_of(2);
            for with in [system_first, !system_first] {
                let variables = if with { &self.with_system } else { &self.without };
                let series = self.worker_with(variant, variables)?;
                if number > 0 {
                    if with { &mut with_system } else { &mut without }.push(series);
                }
            }
        }
        Ok(added_by_parts(&with_system, &without))
    }

    /// A worker of `variant` under the system.
    pub(super) fn worker(&self, variant: &str) -> Result<Series> {
        self.worker_with(variant, &self.with_system)
    }

    /// Starts this binary again, and adds the time from exec to the start of its `main`, and to the end of each window.
    fn worker_with(&self, variant: &str, variables: &Variables) -> Result<Series> {
        let path: PathBuf = self.request.reply.with_extension("started");
        let request = Request { variant: variant.to_owned(), reply: path.clone(), ..self.request.clone() };
        let words = ["worker", &serde_json::to_string(&request)?];
        let ran = Program::new(&env::current_exe()?, &words, variables)?.run()?;
        let text = fs::read(&path).context("the started program left no reply")?;
        fs::remove_file(&path)?;
        let reply: Reply = serde_json::from_slice(&text)?;
        let work = reply.outcome.map_err(anyhow::Error::from)?;
        let mut series = work.series;
        let mut since = |name: &str, at_ns: u64| {
            let span_us = at_ns.saturating_sub(ran.from_ns) as f64 / 1e3;
            series.insert(name.to_owned(), Measure::single(span_us, "µs"));
        };
        since(start_parts::TO_MAIN, reply.started_ns);
        for window in work.windows {
            since(&window.name, window.to_ns);
        }
        Ok(series)
    }
}

/// What the turns of `true` say.
fn true_series(turns: &[Turn]) -> Series {
    let mut series = Series::new();
    let values_ns: Vec<f64> = turns.iter().map(|turn| turn.system_ns).collect();
    series.extend(Measure::of_calls_us(&values_ns).map(|m| ("exec to exit of `true`".to_owned(), m)));
    let mut difference = |name: &str, of: &dyn Fn(&Turn) -> Option<f64>| {
        let differences_ns: Vec<f64> = turns.iter().filter_map(of).collect();
        let measure = Measure::of_calls_us(&differences_ns);
        series.extend(measure.map(|m| (name.to_owned(), Measure { is_difference: true, p99: None, ..m })));
    };
    difference(TRUE_ADDED, &|turn| Some(turn.system_ns - turn.native_ns));
    difference("`true`: added to an empty library", &|turn| Some(turn.system_ns - turn.empty_ns?));
    difference("`true`: an empty library's own", &|turn| Some(turn.empty_ns? - turn.native_ns));
    series
}

/// The medians with the system, and the medians of the paired differences as parts.
fn added_by_parts(with_system: &[Series], without: &[Series]) -> Series {
    let mut series = Series::new();
    for name in with_system.first().into_iter().flat_map(|first| first.keys()) {
        let values = |all: &[Series]| -> Vec<f64> {
            all.iter().filter_map(|series| series.get(name)).map(|measure| measure.value).collect()
        };
        let (mine, natives) = (values(with_system), values(without));
        let differences: Vec<f64> = mine.iter().zip(&natives).map(|(mine, native)| mine - native).collect();
        let (Some(value), Some(added)) = (stats::median(&mine), stats::median(&differences)) else {
            continue;
        };
        let calls = mine.len();
        series.insert(name.clone(), Measure { calls, ..Measure::single(value, "µs") });
        series.insert(start_parts::part(name), Measure { calls, ..Measure::difference(added, "µs") });
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_is_the_median_of_the_differences_of_neighbours() {
        let turn = |number: u32| {
            let drift_ns = 1_000.0 * f64::from(number * number);
            Turn { system_ns: drift_ns + 90.0, native_ns: drift_ns + 10.0, empty_ns: Some(drift_ns + 60.0) }
        };
        let turns: Vec<Turn> = (0..9).map(turn).collect();
        let series = true_series(&turns);
        let value = |name: &str| series[name].value * 1e3;
        assert!((value(TRUE_ADDED) - 80.0).abs() < 1e-6);
        assert!((value("`true`: added to an empty library") - 30.0).abs() < 1e-6);
        assert!((value("`true`: an empty library's own") - 50.0).abs() < 1e-6);
        assert!(series[TRUE_ADDED].is_difference && !series["exec to exit of `true`"].is_difference);
    }

    #[test]
    fn without_a_compiler_the_empty_library_is_left_out() {
        let series = true_series(&[Turn { system_ns: 2.0, native_ns: 1.0, empty_ns: None }]);
        assert_eq!(series.len(), 2);
    }

    #[test]
    fn parts_are_the_differences_of_the_workers_of_a_turn() {
        let one = |us: f64| Series::from([(start_parts::TO_MAIN.to_owned(), Measure::single(us, "µs"))]);
        let series = added_by_parts(&[one(510.0), one(920.0)], &[one(500.0), one(900.0)]);
        assert!((series[&start_parts::part(start_parts::TO_MAIN)].value - 15.0).abs() < 1e-9);
        assert!((series[start_parts::TO_MAIN].value - 715.0).abs() < 1e-9);
    }
}
