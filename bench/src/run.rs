//! `cuota-bench run`: everything that can be wrong is found before the device is touched; then proofs, then the metrics, the
//! results written after each.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::{DeviceChoice, RunArguments};
use crate::environment::{Environment, SystemRecord, sha256};
use crate::gpu::DeviceInfo;
use crate::metrics::{self, Comparison, Metric};
use crate::nvml::Monitor;
use crate::report;
use crate::results::{Results, SCHEMA, Status, SystemResult};
use crate::runner::{self, Samples};
use crate::system::{self, Proof, ProofReport, Session, System};
use crate::units::{GIB, bytes_text, mib};
use crate::worker;

/// Exit status when a metric of a system failed.
const INCOMPLETE: u8 = 3;
/// The smallest limit: OH-002's 10,000 live allocations, the largest single one and a context fit below it.
const SMALLEST_LIMIT_BYTES: u64 = 2 * GIB;

/// Measures what `arguments` ask for.
pub fn main(arguments: &RunArguments) -> Result<ExitCode> {
    let metrics = metrics::select(&arguments.metrics)?;
    let systems = system::resolve(&arguments.system)?;
    refuse_own_preload()?;
    let simulator = simulator(arguments.device)?;
    prepare_folder(&arguments.out)?;

    let mut environment = Environment::of_machine(env::args().collect());
    environment.effort = Some(arguments.effort());
    let mut session = open_session(arguments, simulator, &systems[0], &mut environment)?;
    environment.cpu_of_turns =
        (0..session.effort.processes()).filter_map(|turn| session.cpu_of_turn(turn)).collect();
    session.limit_bytes = limit_on(arguments, &environment.device)?;
    environment.limit_bytes = session.limit_bytes;
    record_systems(&session, &systems, &mut environment)?;
    prove(&session, &systems, &mut environment)?;

    let results = Results { schema: SCHEMA.to_owned(), environment, metrics: Vec::new() };
    let run = Run { session, systems, results, collected: BTreeMap::new(), folder: arguments.out.clone() };
    run.all(&metrics)
}

/// A run under way.
struct Run {
    session: Session,
    systems: Vec<System>,
    results: Results,
    /// Samples by the metric that they were taken for, for those that share them; then by system.
    collected: BTreeMap<&'static str, BTreeMap<usize, Samples>>,
    folder: PathBuf,
}

impl Run {
    fn all(mut self, metrics: &[&'static dyn Metric]) -> Result<ExitCode> {
        for metric in metrics {
            self.measure(*metric);
            self.record_unpinned();
            // After each metric, so that a run that is broken off has what it had.
            self.results.write(&self.folder.join("results.json"))?;
        }
        let report = self.folder.join("report.md");
        fs::write(&report, report::markdown(&self.results))
            .with_context(|| format!("the report cannot be written to {}", report.display()))?;
        write_out(&report::summary(&self.results))?;
        eprintln!("written: {} and results.json beside it", report.display());
        let failed = self.results.metrics.iter().flat_map(|metric| metric.systems.values());
        let complete = failed.into_iter().all(|system| system.status != Status::Failed);
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
    }

    fn measure(&mut self, metric: &'static dyn Metric) {
        let excused = self.excused(metric);
        let source = metrics::find(metric.sampled_as()).unwrap_or(metric);
        if !self.collected.contains_key(source.info().id) {
            let samples = self.sample(source, &excused);
            self.collected.insert(source.info().id, samples);
        }
        let labels: Vec<String> = self.systems.iter().map(|system| system.label.clone()).collect();
        let none = BTreeMap::new();
        let samples = self.collected.get(source.info().id).unwrap_or(&none);
        let mut result = runner::result_of(metric, &labels, &excused, samples);
        result.simulated = self.session.simulator.is_some();
        self.results.metrics.push(result);
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
            let proof = self.results.environment.systems.get(&system.label)?.proof.as_ref()?;
            let result = match proof {
                Proof::Enforced(_) => return None,
                Proof::NotEnforced(why) => SystemResult::without_value(Status::NotEnforced, why),
                Proof::Failed(why) => SystemResult::without_value(Status::Failed, why),
                Proof::NoLimit if metric.info().comparison == Comparison::Limit => {
                    SystemResult::without_value(Status::NotApplicable, "it has no limit")
                }
                Proof::NoLimit => return None,
            };
            Some((index, result))
        };
        self.systems.iter().enumerate().filter_map(excuse).collect()
    }

    fn sample(
        &self,
        metric: &dyn Metric,
        excused: &BTreeMap<usize, SystemResult>,
    ) -> BTreeMap<usize, Samples> {
        let active: Vec<usize> =
            (0..self.systems.len()).filter(|index| !excused.contains_key(index)).collect();
        if active.is_empty() {
            return BTreeMap::new();
        }
        let turns = self.session.effort.processes();
        let id = metric.info().id;
        eprint!("{id} {}: {turns} processes each of {} systems ", metric.info().name, active.len());
        let collected = runner::collect(
            active.len(),
            turns,
            |turn, place| {
                let launcher = self.session.launcher(&self.systems[active[place]]);
                metric.sample(&launcher.on_cpu(self.session.cpu_of_turn(turn)))
            },
            |_, sample| eprint!("{}", if sample.is_ok() { '.' } else { '!' }),
        );
        eprintln!();
        active.into_iter().zip(collected).collect()
    }
}

/// What is preloaded into this process would be in native's too, and NVML here would no longer be the truth.
fn refuse_own_preload() -> Result<()> {
    match env::var("LD_PRELOAD") {
        Ok(libraries) if !libraries.is_empty() => bail!(
            "LD_PRELOAD is set to `{libraries}`: native would not be native. Run it as \
             `env -u LD_PRELOAD cuota-bench ...` and name the library with --system"
        ),
        _ => Ok(()),
    }
}

/// The software GPU's folder, when that is the device.
fn simulator(device: DeviceChoice) -> Result<Option<PathBuf>> {
    if device != DeviceChoice::Simulated {
        return Ok(None);
    }
    let folder = env::var_os("CUOTA_SIM_LIB").map(PathBuf::from).context(
        "`--device sim` was asked for and CUOTA_SIM_LIB is not set: set it to the folder that holds the software \
         GPU's libcuda.so.1 and libnvidia-ml.so.1",
    )?;
    for library in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        if !folder.join(library).is_file() {
            bail!(
                "CUOTA_SIM_LIB names {}, which holds no {library}: build the software GPU and install its libraries \
                 there",
                folder.display()
            );
        }
    }
    Ok(Some(folder.canonicalize()?))
}

/// Makes sure that results can be written, before anything is measured.
fn prepare_folder(folder: &Path) -> Result<()> {
    let probe = folder.join(".cuota-bench-can-write");
    fs::create_dir_all(folder)
        .and_then(|()| File::create(&probe))
        .and_then(|_| fs::remove_file(&probe))
        .with_context(|| {
            format!(
                "results were to go to {}, which cannot be written: choose another folder with --out",
                folder.display()
            )
        })
}

/// Describes the device through a native worker and opens NVML for it.
fn open_session(
    arguments: &RunArguments,
    simulator: Option<PathBuf>,
    native: &System,
    environment: &mut Environment,
) -> Result<Session> {
    let number = match arguments.device {
        DeviceChoice::Number(number) => number,
        DeviceChoice::Simulated => 0,
    };
    let mut session = Session::new(number, simulator, arguments.effort(), arguments.deadline())?;
    let work = session.launcher(native).run(worker::DEVICE, "").with_context(|| {
        format!("device {number} cannot be used natively; without a GPU, `--device sim` measures on the software GPU")
    })?;
    environment.device = metrics::device_of(&work)?;
    environment.simulated = session.simulator.is_some();
    let library = session.simulator.as_ref().map(|folder| folder.join("libnvidia-ml.so.1"));
    match Monitor::open(library.as_deref(), &environment.device.uuid) {
        Ok(monitor) => {
            environment.driver_version = monitor.driver_version();
            environment.device_state = monitor.state();
            record_others(&monitor, environment);
            session.monitor = Some(monitor);
        }
        Err(error) => environment.warnings.push(format!("no NVML, so no IS-001: {error:#}")),
    }
    Ok(session)
}

/// Other users of the device make every figure doubtful; they are named, and it is for the reader to judge.
fn record_others(monitor: &Monitor, environment: &mut Environment) {
    let others = monitor.processes().unwrap_or_default();
    if others.is_empty() {
        return;
    }
    environment.other_processes =
        others.iter().map(|(pid, bytes)| format!("{pid}: {:.0} MiB", mib(*bytes))).collect();
    let warning = format!(
        "the device was in use by others at the start (process: memory): {}. Stop them and measure again",
        environment.other_processes.join(", ")
    );
    eprintln!("cuota-bench: warning: {warning}");
    environment.warnings.push(warning);
}

fn limit_on(arguments: &RunArguments, device: &DeviceInfo) -> Result<u64> {
    let limit_bytes = arguments.memory.on_device(device.memory_bytes);
    let needed_bytes = system::ceiling_bytes(limit_bytes) + GIB;
    if limit_bytes < SMALLEST_LIMIT_BYTES {
        bail!(
            "a memory limit of {} was asked for; the metrics need {} or more",
            arguments.memory,
            bytes_text(SMALLEST_LIMIT_BYTES)
        );
    }
    if needed_bytes > device.memory_bytes {
        bail!(
            "a memory limit of {} was asked for on a device of {}: to see a limit enforced, the device needs an \
             eighth more than it and 1 GiB for contexts. Ask for less with --memory",
            arguments.memory,
            bytes_text(device.memory_bytes)
        );
    }
    Ok(limit_bytes)
}

fn record_systems(session: &Session, systems: &[System], environment: &mut Environment) -> Result<()> {
    for (order, system) in systems.iter().enumerate() {
        let start = session.launcher(system).start().with_context(|| system.label.clone())?;
        let record = SystemRecord {
            order,
            library: system.library.as_ref().map(|path| path.display().to_string()),
            library_sha256: system.library.as_deref().map(sha256).transpose()?,
            command: start.prefix,
            variables: start.variables,
            proof: None,
        };
        environment.systems.insert(system.label.clone(), record);
    }
    Ok(())
}

/// Runs the proof natively first: where native is refused too, a refusal proves nothing.
fn prove(session: &Session, systems: &[System], environment: &mut Environment) -> Result<()> {
    let report = |system: &System| -> Result<ProofReport> {
        ProofReport::from_fields(&session.launcher(system).run(worker::PROOF, "")?.facts)
    };
    let limits = systems.iter().any(|system| system.profile.limits_memory);
    if limits {
        let native = report(&systems[0]).context("the proof's control, natively")?;
        if !native.single_granted || native.granted_bytes < system::ceiling_bytes(session.limit_bytes) {
            bail!(
                "natively only {} could be allocated, not an eighth over the limit of {}: the device is in use. Stop \
                 its other users, or ask for less with --memory",
                bytes_text(native.granted_bytes),
                bytes_text(session.limit_bytes)
            );
        }
    }
    for system in systems {
        let (proof, mapped) = match system.profile.limits_memory {
            false => (Proof::NoLimit, None),
            true => match report(system) {
                Ok(report) => (system::judge(&report, session.limit_bytes), report.library),
                Err(error) => (Proof::Failed(format!("{error:#}")), None),
            },
        };
        match &proof {
            Proof::NotEnforced(why) => eprintln!("{}: NOT ENFORCED: {why}", system.label),
            Proof::Failed(why) => eprintln!("{}: cannot be measured: {why}", system.label),
            Proof::Enforced(what) => eprintln!("{}: {what}", system.label),
            Proof::NoLimit => {}
        }
        if let Some(record) = environment.systems.get_mut(&system.label) {
            record.proof = Some(proof);
            // What was found in the process is the truth, also where the system chose its library itself.
            if let Some(library) = mapped {
                record.library_sha256 = Some(sha256(Path::new(&library))?);
                record.library = Some(library);
            }
        }
    }
    Ok(())
}

/// Prints `text`; a closed pipe is no error, the files are written.
fn write_out(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
