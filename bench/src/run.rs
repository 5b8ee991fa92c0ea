//! `cuota-bench run`: everything that can be wrong is found before the device is touched; then proofs, then the metrics, the
//! results written after each.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::RunArguments;
use crate::environment::{Environment, now_utc};
use crate::interrupt;
use crate::judge;
use crate::metrics::{self, Comparison, Metric, Presumes};
use crate::output;
use crate::prepare;
use crate::prove;
use crate::report;
use crate::results::{MetricResult, Results, RunRecord, SCHEMA, Status, SystemResult};
use crate::resume;
use crate::runner::{self, Collected, Plan, Stop};
use crate::sampling::Tenants;
use crate::stats::FEWEST_PAIRS;
use crate::summary;
use crate::system::{self, Proof, Session, System};

/// Exit status when a metric of a system failed.
const INCOMPLETE: u8 = 3;
/// Exit status when the time of `--stop-after` was up before all was measured.
const LEFT: u8 = 5;
/// Exit status of what Ctrl-C ended, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Measures what `arguments` ask for.
pub fn main(arguments: &RunArguments) -> Result<ExitCode> {
    measure(arguments).or_else(|error| {
        if !interrupt::is_requested() {
            return Err(error);
        }
        // Whatever could not be done then was ended by the user.
        eprintln!("cuota-bench: interrupted; earlier results are as they were");
        Ok(ExitCode::from(INTERRUPTED))
    })
}

fn measure(arguments: &RunArguments) -> Result<ExitCode> {
    let began = Instant::now();
    let metrics = metrics::select(&arguments.metrics)?;
    let systems = system::resolve(&arguments.system)?;
    prepare::refuse_own_preload()?;
    let simulator = prepare::simulator(arguments.device)?;
    prepare::prepare_folder(&arguments.out)?;
    interrupt::catch().context("Ctrl-C cannot be caught")?;

    let mut environment = Environment::of_machine(env::args().collect());
    environment.effort = Some(arguments.effort());
    let mut session = prepare::open_session(arguments, simulator, &systems[0], &mut environment)?;
    let most_turns = Plan::of(session.effort, arguments.budget(false), FEWEST_PAIRS).most;
    environment.cpu_of_turns = (0..most_turns).filter_map(|turn| session.cpu_of_turn(turn)).collect();
    session.limit_bytes = prepare::limit_on(arguments, &environment.device)?;
    session.compute_percent = arguments.compute.0;
    environment.limit_bytes = session.limit_bytes;
    environment.compute_percent = session.compute_percent;
    for system in &systems {
        session.start_daemon(system)?;
    }
    prepare::record_systems(&session, &systems, &mut environment)?;
    prove::memory(&session, &systems, &mut environment)?;
    if metrics.iter().any(|metric| metric.info().presumes == Presumes::Compute) {
        prove::compute(&session, &systems, &mut environment)?;
    }

    if interrupt::is_requested() {
        bail!("interrupted during the proofs");
    }
    let results = Results { schema: SCHEMA.to_owned(), environment, metrics: Vec::new() };
    let results = resume::begin(&arguments.out, arguments.resume, results)?;
    let run = Run {
        session,
        systems,
        arguments: arguments.clone(),
        results,
        collected: BTreeMap::new(),
        folder: arguments.out.clone(),
        end: arguments.stop_after.map(|seconds| began + Duration::from_secs(seconds)),
    };
    run.all(&metrics)
}

/// A run under way.
struct Run {
    session: Session,
    systems: Vec<System>,
    arguments: RunArguments,
    results: Results,
    /// Samples by the metric that they were taken for, for those that share them; then by system.
    collected: BTreeMap<&'static str, Taken>,
    folder: PathBuf,
    /// When no further turn begins, whatever is left.
    end: Option<Instant>,
}

/// The samples of one metric.
#[derive(Default)]
struct Taken {
    systems: BTreeMap<usize, Collected>,
    record: RunRecord,
    /// The user, or the end of the run's time, ended it before it was whole.
    cut_off: bool,
}

impl Run {
    fn all(mut self, metrics: &[&'static dyn Metric]) -> Result<ExitCode> {
        let mut left = Vec::new();
        for metric in metrics {
            if resume::has(&self.results, metric.info().id) {
                eprintln!("{} {}: is there already", metric.info().id, metric.info().name);
                continue;
            }
            if self.is_over() || !self.measure(*metric) {
                left.push(metric.info().id);
                continue;
            }
            self.record_unpinned();
            judge::judge(&mut self.results);
            // After each metric, so that a run that is broken off has what it had.
            self.results.write(&self.folder.join("results.json"))?;
        }
        self.results.write(&self.folder.join("results.json"))?;
        let written = output::write_all(&self.results, &[], &self.folder)?;
        write_out(&report::summary(&self.results))?;
        eprintln!("written: {written}, beside results.json");
        if interrupt::is_requested() {
            eprintln!("cuota-bench: interrupted; go on with the same command and --resume");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        if !left.is_empty() {
            eprintln!(
                "cuota-bench: the time of --stop-after was up; left are {}: go on with the same command and --resume",
                left.join(", ")
            );
            return Ok(ExitCode::from(LEFT));
        }
        let failed = self.results.metrics.iter().flat_map(|metric| metric.systems.values());
        let complete = failed.into_iter().all(|system| system.status != Status::Failed);
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
    }

    /// Whether nothing more is to be begun.
    fn is_over(&self) -> bool {
        interrupt::is_requested() || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Measures `metric` and adds it to the results; false when it was cut off before it was whole.
    fn measure(&mut self, metric: &'static dyn Metric) -> bool {
        let excused = self.excused(metric);
        let source = metrics::find(metric.sampled_as()).unwrap_or(metric);
        if !self.collected.contains_key(source.info().id) {
            let taken = self.sample(source, &excused);
            self.collected.insert(source.info().id, taken);
        }
        let none = Taken::default();
        let taken = self.collected.get(source.info().id).unwrap_or(&none);
        if taken.cut_off {
            return false;
        }
        let labels: Vec<String> = self.systems.iter().map(|system| system.label.clone()).collect();
        let mut result = summary::result_of(metric, &labels, &excused, &taken.systems);
        result.simulated = self.session.simulator.is_some();
        if taken.record.stopped == Stop::Time.text() {
            say_that_time_was_up(&mut result);
        }
        result.run = taken.record.clone();
        let place = resume::place(&self.results, metric.info().id);
        self.results.metrics.insert(place, result);
        true
    }

    /// A worker that could not keep to its CPU makes pairs of processes less alike.
    fn record_unpinned(&mut self) {
        let environment = &mut self.results.environment;
        if self.session.has_unpinned() && !environment.cpu_of_turns.is_empty() {
            environment.cpu_of_turns.clear();
            environment.warnings.push(
                "processes could not be kept to one CPU (sched_setaffinity was refused), so those of a turn may have \
                 run on different ones"
                    .to_owned(),
            );
        }
    }

    /// The systems that get no samples of `metric`, and why.
    fn excused(&self, metric: &dyn Metric) -> BTreeMap<usize, SystemResult> {
        let excuse = |(index, system): (usize, &System)| {
            let record = self.results.environment.systems.get(&system.label)?;
            let excuse = excuse(metric, &system.label, record.proof.as_ref(), record.compute_proof.as_ref());
            let not_measured = || metric.not_measured(&self.session);
            let result = excuse
                .or_else(|| not_measured().map(|why| SystemResult::without_value(Status::NotMeasured, &why)));
            Some((index, result?))
        };
        self.systems.iter().enumerate().filter_map(excuse).collect()
    }

    fn sample(&self, metric: &'static dyn Metric, excused: &BTreeMap<usize, SystemResult>) -> Taken {
        let active: Vec<usize> =
            (0..self.systems.len()).filter(|index| !excused.contains_key(index)).collect();
        if active.is_empty() {
            return Taken::default();
        }
        let began = Instant::now();
        let fewest = metric.fewest_samples();
        let budget = self.arguments.budget(fewest < FEWEST_PAIRS);
        let left = self.end.map(|end| end.saturating_duration_since(began));
        let plan = Plan::of(self.session.effort, left.map_or(budget, |left| left.min(budget)), fewest);
        let systems = active.iter().map(|index| &self.systems[*index]).collect();
        let mut tenants = Tenants::new(&self.session, metric, systems, plan);
        let (mut collected, stop) = runner::collect(active.len(), plan, &mut tenants);
        tenants.finish(stop.text());
        let shown = self.session.shown();
        for reason in collected.iter_mut().flat_map(Collected::reasons) {
            *reason = shown.text(reason);
        }
        Taken {
            systems: active.into_iter().zip(collected).collect(),
            record: RunRecord {
                date: now_utc(),
                seconds: began.elapsed().as_secs_f64().round(),
                stopped: stop.text().to_owned(),
                device: self.session.device_info.uuid.clone(),
                effort: Some(self.session.effort),
            },
            // A metric that lacked only its own time has what it has; one that the run's end cut short can have it all later.
            cut_off: stop == Stop::Interrupted
                || interrupt::is_requested()
                || (stop == Stop::Time && plan.budget < budget),
        }
    }
}

/// A system with too few samples may only have lacked the time.
fn say_that_time_was_up(result: &mut MetricResult) {
    for system in result.systems.values_mut().filter(|system| system.status == Status::Failed) {
        if let Some(reason) = &mut system.reason {
            reason.push_str("; the time was up before all turns were taken: give more with --time-cap");
        }
    }
}

/// Why a system with these proofs gets no samples of `metric`, if it does not.
fn excuse(
    metric: &dyn Metric,
    label: &str,
    memory: Option<&Proof>,
    compute: Option<&Proof>,
) -> Option<SystemResult> {
    let info = metric.info();
    let against = |proof: Option<&Proof>, limit: &str, presumed: bool| match proof? {
        Proof::NotEnforced(why) => Some(SystemResult::without_value(Status::NotEnforced, why)),
        Proof::Failed(why) => Some(SystemResult::without_value(Status::Failed, why)),
        Proof::NoLimit if presumed && info.comparison == Comparison::Limit && judge::is_native(label) => {
            Some(SystemResult::without_value(Status::NotApplicable, "it has no limit"))
        }
        Proof::NoLimit if presumed && !judge::is_native(label) => {
            Some(SystemResult::without_value(Status::NotEnforced, &format!("it has no {limit}")))
        }
        Proof::NoLimit | Proof::Enforced(_) => None,
    };
    against(memory, "memory limit", info.presumes == Presumes::Memory).or_else(|| match info.presumes {
        Presumes::Compute => against(compute, "cap on GPU time", true),
        Presumes::Memory | Presumes::Nothing => None,
    })
}

/// Prints `text`; a closed pipe is no error, the files are written.
pub fn write_out(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
