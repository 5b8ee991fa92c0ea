//! One run of the benchmark: the device, the limit, and how tenants are started on it.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::System;
use super::template::Values;
use crate::affinity;
use crate::nvml::{MemorySample, Monitor};
use crate::process::{self, Ending};
use crate::worker::{Effort, Reply, Request, Work};

/// What all workers of a run share.
pub struct Session {
    /// The device's number.
    pub device: i32,
    /// The folder of the software GPU's libraries, when that is the device.
    pub simulator: Option<PathBuf>,
    /// The memory limit in bytes.
    pub limit_bytes: u64,
    /// How much work.
    pub effort: Effort,
    /// How long one worker may take.
    pub deadline: Duration,
    /// NVML, once the device is known.
    pub monitor: Option<Monitor>,
    scratch: TempDir,
    workers: AtomicU32,
    /// The CPUs that turns are given, one each, in rotation.
    cpus: Vec<usize>,
    /// A worker could not keep to its CPU.
    unpinned: AtomicBool,
    empty_library: OnceLock<Option<PathBuf>>,
}

/// How a system starts a tenant.
pub struct Start {
    /// The words before the tenant's command.
    pub prefix: Vec<String>,
    /// The variables that are set for it.
    pub variables: BTreeMap<String, String>,
}

/// A reply with what NVML showed for its process meanwhile.
pub struct Tracked {
    /// What the worker measured.
    pub work: Work,
    /// NVML's samples of the worker's process.
    pub samples: Vec<MemorySample>,
}

impl Session {
    /// A session with a scratch directory of its own.
    pub fn new(device: i32, simulator: Option<PathBuf>, effort: Effort, deadline: Duration) -> Result<Self> {
        let scratch =
            TempDir::with_prefix("cuota-bench-").context("no temporary directory can be created")?;
        Ok(Self {
            device,
            simulator,
            limit_bytes: 0,
            effort,
            deadline,
            monitor: None,
            scratch,
            workers: AtomicU32::new(0),
            cpus: affinity::allowed(),
            unpinned: AtomicBool::new(false),
            empty_library: OnceLock::new(),
        })
    }

    /// Starts tenants under `system`.
    pub fn launcher<'a>(&'a self, system: &'a System) -> Launcher<'a> {
        Launcher { session: self, system, cpu: None }
    }

    /// The CPU of a turn: the same for all systems, another for the next turn. `None` where they are not known.
    pub fn cpu_of_turn(&self, turn: usize) -> Option<usize> {
        self.cpus.get(turn.checked_rem(self.cpus.len())?).copied()
    }

    /// True when a worker was given a CPU and could not keep to it.
    pub fn has_unpinned(&self) -> bool {
        self.unpinned.load(Ordering::Relaxed)
    }

    /// A shared library that does nothing, built with `cc` where there is one: what any preloading costs.
    fn empty_library(&self) -> Option<PathBuf> {
        let build = || {
            let path = self.scratch.path().join("libempty.so");
            let words = ["-shared", "-fPIC", "-x", "c", "/dev/null", "-o"];
            let built = Command::new("cc").args(words).arg(&path).output();
            built.is_ok_and(|output| output.status.success()).then_some(path)
        };
        self.empty_library.get_or_init(build).clone()
    }

    /// Names of the variables that a native tenant has.
    fn native_variables(&self) -> Vec<String> {
        let own = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let more = self.simulator.iter().map(|_| "LD_LIBRARY_PATH").chain(["CUDA_DEVICE_ORDER"]);
        own.chain(more.map(str::to_owned)).collect()
    }

    fn values<'a>(&'a self, system: &'a System) -> Values<'a> {
        Values {
            library: system.library.as_deref(),
            memory_bytes: self.limit_bytes,
            scratch: self.scratch.path(),
        }
    }
}

/// Starts workers under one system.
pub struct Launcher<'a> {
    /// The run.
    pub session: &'a Session,
    /// The system.
    pub system: &'a System,
    cpu: Option<usize>,
}

impl Launcher<'_> {
    /// The same, its workers kept to `cpu`.
    pub fn on_cpu(self, cpu: Option<usize>) -> Self {
        Self { cpu, ..self }
    }

    /// What the system adds to the tenant's command and variables: for the record and for use.
    pub fn start(&self) -> Result<Start> {
        let values = self.session.values(self.system);
        let mut variables = self.system.profile.environment(&values)?;
        if let Some(folder) = &self.session.simulator {
            variables.insert("LD_LIBRARY_PATH".to_owned(), search_path_with(folder));
        }
        Ok(Start { prefix: self.system.profile.prefix(&values)?, variables })
    }

    /// Runs `job` in a fresh process.
    pub fn run(&self, job: &str, variant: &str) -> Result<Work> {
        Ok(self.run_for_reply(job, variant)?.1)
    }

    /// Runs `job` while NVML is sampled each 10 ms.
    pub fn run_tracked(&self, job: &str, variant: &str) -> Result<Tracked> {
        let monitor =
            self.session.monitor.as_ref().context("NVML is needed for this and could not be opened")?;
        let (result, mut samples) = monitor.sample_during(|| self.run_for_reply(job, variant));
        let (pid, work) = result?;
        samples.retain(|sample| sample.pid == pid);
        Ok(Tracked { work, samples })
    }

    fn run_for_reply(&self, job: &str, variant: &str) -> Result<(u32, Work)> {
        let number = self.session.workers.fetch_add(1, Ordering::Relaxed);
        let path = |kind: &str| self.session.scratch.path().join(format!("worker-{number}.{kind}"));
        let (reply, log) = (path("json"), path("log"));
        let request = Request {
            job: job.to_owned(),
            variant: variant.to_owned(),
            device: self.session.device,
            limit_bytes: self.session.limit_bytes,
            effort: self.session.effort,
            simulated: self.session.simulator.is_some(),
            loaded: self.loaded_file()?,
            cpu: self.cpu,
            native_variables: self.session.native_variables(),
            empty_library: self.session.empty_library(),
            reply: reply.clone(),
        };
        let mut command = self.command(&request)?;
        let ending = process::run_to_deadline(&mut command, &log, self.session.deadline)
            .with_context(|| format!("`{}` could not be started", command.get_program().display()))?;
        let result = read_reply(&reply, &log, &ending, self.session.deadline);
        let _ = (fs::remove_file(&reply), fs::remove_file(&log)); // The scratch directory goes with the run anyway.
        let reply = result?;
        if reply.cpu != self.cpu {
            self.session.unpinned.store(true, Ordering::Relaxed);
        }
        let work = reply.outcome.map_err(anyhow::Error::msg)?;
        Ok((reply.pid, work))
    }

    /// The file name that shows the system in a process: that of the given library, else the profile's.
    fn loaded_file(&self) -> Result<Option<String>> {
        if let Some(file) = self.system.library_file() {
            return Ok(Some(file.to_owned()));
        }
        let values = self.session.values(self.system);
        self.system.profile.loaded.as_ref().map(|text| values.expand(text)).transpose()
    }

    fn command(&self, request: &Request) -> Result<Command> {
        let Start { prefix, variables } = self.start()?;
        let own = env::current_exe().context("the path of cuota-bench itself")?;
        let mut words = prefix.iter();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(own);
                command
            }
            None => Command::new(own),
        };
        command.arg("worker").arg(serde_json::to_string(request)?);
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").envs(variables);
        Ok(command)
    }
}

fn read_reply(reply: &Path, log: &Path, ending: &Ending, deadline: Duration) -> Result<Reply> {
    let fault = ending.fault(deadline);
    if let (None, Ok(file)) = (&fault, File::open(reply)) {
        return serde_json::from_reader(file).context("the worker's reply");
    }
    let fault = fault.unwrap_or_else(|| "ended without a reply".to_owned());
    match process::tail(log) {
        words if words.is_empty() => bail!("the worker {fault}"),
        words => bail!("the worker {fault}; its last words: {words}"),
    }
}

/// LD_LIBRARY_PATH with `folder` first.
fn search_path_with(folder: &Path) -> String {
    match env::var("LD_LIBRARY_PATH") {
        Ok(path) if !path.is_empty() => format!("{}:{path}", folder.display()),
        _ => folder.display().to_string(),
    }
}
