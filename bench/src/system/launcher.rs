//! Starting tenants: fresh processes of this binary under one system, with the limits that a metric asks for.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::template::Values;
use super::{Session, System};
use crate::nvml::MemorySample;
use crate::process::{Ending, Group, tail};
use crate::worker::{Reply, Request, Work};

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

/// Starts workers under one system. A cheap value: each of its settings gives another one.
#[derive(Clone)]
pub struct Launcher<'a> {
    /// The run.
    pub session: &'a Session,
    /// The system.
    pub system: &'a System,
    cpu: Option<usize>,
    memory_bytes: u64,
    compute_percent: u32,
    tenant: Option<String>,
}

impl<'a> Launcher<'a> {
    /// Tenants with the run's memory limit, no cap on GPU time and no name.
    pub(super) fn new(session: &'a Session, system: &'a System) -> Self {
        let memory_bytes = session.limit_bytes;
        Self { session, system, cpu: None, memory_bytes, compute_percent: 100, tenant: None }
    }

    /// The same, its workers kept to `cpu`.
    #[must_use]
    pub fn on_cpu(self, cpu: Option<usize>) -> Self {
        Self { cpu, ..self }
    }

    /// The same, its tenants capped at `percent` of the GPU's time; 100 is no cap.
    #[must_use]
    pub fn with_compute(self, percent: u32) -> Self {
        Self { compute_percent: percent, ..self }
    }

    /// The same, its tenants limited to `bytes`.
    #[must_use]
    pub fn with_memory_bytes(self, bytes: u64) -> Self {
        Self { memory_bytes: bytes, ..self }
    }

    /// The same, its workers processes of the tenant `name`, who share its limits. Workers without a name are a tenant each,
    /// where the system can tell them apart.
    #[must_use]
    pub fn tenant(self, name: &str) -> Self {
        // Outlived by nothing, but two runs at a time must not meet.
        Self { tenant: Some(format!("bench-{}-{name}", process::id())), ..self }
    }

    /// The same tenants under the driver alone.
    #[must_use]
    pub fn native(&self) -> Self {
        Self { system: &self.session.native, ..self.clone() }
    }

    /// What the placeholders of the profile stand for.
    pub(super) fn values(&self) -> Values<'_> {
        Values {
            library: self.system.library.as_deref(),
            memory_bytes: self.memory_bytes,
            compute_percent: self.compute_percent,
            device: self.session.device,
            tenant: self.tenant.as_deref(),
            scratch: self.session.scratch(),
            shared_scratch: self.session.shared_scratch(),
        }
    }

    /// What the system adds to the tenant's command and variables: for the record and for use.
    pub fn start(&self) -> Result<Start> {
        let values = self.values();
        let mut variables = self.system.profile.environment(&values)?;
        if let Some(folder) = &self.session.simulator {
            variables.insert("LD_LIBRARY_PATH".to_owned(), search_path_with(folder));
        }
        Ok(Start { prefix: self.system.profile.prefix(&values)?, variables })
    }

    /// Runs `job` in a fresh process.
    pub fn run(&self, job: &str, variant: &str) -> Result<Work> {
        self.spawn(job, variant, None)?.wait()
    }

    /// Runs `job` while NVML is sampled each 10 ms.
    pub fn run_tracked(&self, job: &str, variant: &str) -> Result<Tracked> {
        let monitor =
            self.session.monitor.as_ref().context("NVML is needed for this and could not be opened")?;
        let (result, mut samples) =
            monitor.memory_during(|| self.spawn(job, variant, None)?.wait_for_reply());
        let reply = result?;
        samples.retain(|sample| sample.pid == reply.pid);
        Ok(Tracked { work: reply.outcome?, samples })
    }

    /// Starts `job` in a fresh process and returns at once; `shared` is the shared page of tenants that start together and
    /// this one's place in it.
    pub fn spawn(&self, job: &str, variant: &str, shared: Option<(&str, usize)>) -> Result<Running<'a>> {
        let number = self.session.next_worker();
        let path = |kind: &str| self.session.scratch().join(format!("worker-{number}.{kind}"));
        let (reply, log) = (path("json"), path("log"));
        let request = Request {
            job: job.to_owned(),
            variant: variant.to_owned(),
            device: self.session.device,
            limit_bytes: self.memory_bytes,
            compute_percent: self.compute_percent,
            effort: self.session.effort,
            simulated: self.session.simulator.is_some(),
            loaded: self.loaded_file()?,
            cpu: self.cpu,
            native_variables: self.session.native_variables(),
            empty_library: self.session.empty_library(),
            shared: shared.map(|(page, _)| page.to_owned()),
            place: shared.map_or(0, |(_, place)| place),
            reply: reply.clone(),
        };
        let mut command = self.command(&request)?;
        let deadline = self.session.deadline;
        let group = Group::start(&mut command, &log, deadline)
            .with_context(|| format!("`{}` could not be started", command.get_program().display()))?;
        Ok(Running { session: self.session, cpu: self.cpu, group, reply, log, deadline })
    }

    /// Changes the cap of the running processes of this launcher's tenant to `percent`; false where the system has no way
    /// to.
    pub fn set_compute(&self, percent: u32) -> Result<bool> {
        let words = &self.system.profile.set_compute;
        let values = Values { compute_percent: percent, ..self.values() };
        let words = words.iter().map(|word| values.expand(word)).collect::<Result<Vec<String>>>()?;
        let Some((program, rest)) = words.split_first() else { return Ok(false) };
        let output = Command::new(program)
            .args(rest)
            .envs(self.system.profile.environment(&values)?)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("`{program}` could not be started"))?;
        if !output.status.success() {
            let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("`{}` ended with {}: {says}", words.join(" "), output.status);
        }
        Ok(true)
    }

    /// The file name that shows the system in a process: that of the given library, else the profile's.
    fn loaded_file(&self) -> Result<Option<String>> {
        if let Some(file) = self.system.library_file() {
            return Ok(Some(file.to_owned()));
        }
        let values = self.values();
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

/// A worker that runs. Dropping it ends it and its children.
pub struct Running<'a> {
    session: &'a Session,
    cpu: Option<usize>,
    group: Group,
    reply: PathBuf,
    log: PathBuf,
    deadline: Duration,
}

impl Running<'_> {
    /// Its process; that of the system's launching command where it stays in between.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Ends it at once, by SIGKILL.
    pub fn end(&mut self) -> Result<()> {
        self.group.end().context("a tenant that was to be ended cannot be waited for")
    }

    /// What it measured, once it has ended.
    ///
    /// # Errors
    /// When it ended badly, was ended at its deadline, or could not measure.
    pub fn wait(self) -> Result<Work> {
        Ok(self.wait_for_reply()?.outcome?)
    }

    fn wait_for_reply(self) -> Result<Reply> {
        let Self { session, cpu, group, reply, log, deadline } = self;
        let ending = group.wait()?;
        let result = read_reply(&reply, &log, &ending, deadline);
        let _ = (fs::remove_file(&reply), fs::remove_file(&log)); // The scratch directory goes with the run anyway.
        if result.as_ref().is_ok_and(|reply| reply.cpu != cpu) {
            session.note_unpinned();
        }
        result
    }
}

fn read_reply(reply: &Path, log: &Path, ending: &Ending, deadline: Duration) -> Result<Reply> {
    let fault = ending.fault(deadline);
    if let (None, Ok(file)) = (&fault, File::open(reply)) {
        return serde_json::from_reader(file).context("the worker's reply");
    }
    let fault = fault.unwrap_or_else(|| "ended without a reply".to_owned());
    match tail(log) {
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
