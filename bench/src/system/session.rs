//! One run of the benchmark: the device, the limits, and what its tenants share.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::daemon::{Daemon, Plan};
use super::{Launcher, System};
use crate::affinity;
use crate::gpu::DeviceInfo;
use crate::nvml::Monitor;
use crate::shown::Shown;
use crate::worker::Effort;

/// What all workers of a run share.
pub struct Session {
    /// The device's number.
    pub device: i32,
    /// The folder of the software GPU's libraries, when that is the device.
    pub simulator: Option<PathBuf>,
    /// The device.
    pub device_info: DeviceInfo,
    /// The memory limit in bytes.
    pub limit_bytes: u64,
    /// The cap on GPU time that metrics give a tenant, in per cent.
    pub compute_percent: u32,
    /// How much work.
    pub effort: Effort,
    /// How long one worker may take.
    pub deadline: Duration,
    /// NVML, once the device is known.
    pub monitor: Option<Monitor>,
    /// The driver alone, for baselines within a sample.
    pub native: System,
    scratch: TempDir,
    /// A directory in memory, for files that tenants map.
    shared_scratch: TempDir,
    workers: AtomicU32,
    /// Stopped when the run ends.
    daemons: Vec<Daemon>,
    /// The CPUs that turns are given, one each, in rotation.
    cpus: Vec<usize>,
    /// A worker could not keep to its CPU.
    unpinned: AtomicBool,
    turn: AtomicUsize,
    slowed: AtomicU32,
    empty_library: OnceLock<Option<PathBuf>>,
}

/// When a sample is taken, for controls that neighbours share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The turn.
    pub turn: usize,
    /// How often the device was found to have been slowed down until then.
    pub slowed: u32,
}

impl Session {
    /// A session with a scratch directory of its own.
    pub fn new(device: i32, simulator: Option<PathBuf>, effort: Effort, deadline: Duration) -> Result<Self> {
        let scratch =
            TempDir::with_prefix("cuota-bench-").context("no temporary directory can be created")?;
        // Where there is no such folder, files that are mapped lie with the others.
        let shared_scratch = TempDir::with_prefix_in("cuota-bench-", "/dev/shm")
            .or_else(|_| TempDir::with_prefix("cuota-bench-"))
            .context("no temporary directory can be created")?;
        Ok(Self {
            device,
            simulator,
            device_info: DeviceInfo::default(),
            limit_bytes: 0,
            compute_percent: 100,
            effort,
            deadline,
            monitor: None,
            native: System::parse("native")?,
            scratch,
            shared_scratch,
            workers: AtomicU32::new(0),
            daemons: Vec::new(),
            cpus: affinity::allowed(),
            unpinned: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            slowed: AtomicU32::new(0),
            empty_library: OnceLock::new(),
        })
    }

    /// Starts tenants under `system`.
    pub fn launcher<'a>(&'a self, system: &'a System) -> Launcher<'a> {
        Launcher::new(self, system)
    }

    /// The CPU of a turn: the same for all systems, another for the next turn. `None` where they are not known.
    pub fn cpu_of_turn(&self, turn: usize) -> Option<usize> {
        self.cpus.get(turn.checked_rem(self.cpus.len())?).copied()
    }

    /// When the sample that is being taken is taken.
    pub fn moment(&self) -> Moment {
        Moment { turn: self.turn.load(Ordering::Relaxed), slowed: self.slowed.load(Ordering::Relaxed) }
    }

    /// A sample of this turn begins.
    pub fn note_turn(&self, turn: usize) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// The device was slowed down, so what was measured meanwhile does not count.
    pub fn note_slowed(&self) {
        self.slowed.fetch_add(1, Ordering::Relaxed);
    }

    /// True when a worker was given a CPU and could not keep to it.
    pub fn has_unpinned(&self) -> bool {
        self.unpinned.load(Ordering::Relaxed)
    }

    /// A shared library that does nothing, built with `cc` where there is one: what any preloading costs.
    pub fn empty_library(&self) -> Option<PathBuf> {
        let build = || {
            let path = self.scratch.path().join("libempty.so");
            let words = ["-shared", "-fPIC", "-x", "c", "/dev/null", "-o"];
            let built = Command::new("cc").args(words).arg(&path).output();
            built.is_ok_and(|output| output.status.success()).then_some(path)
        };
        self.empty_library.get_or_init(build).clone()
    }

    /// Names of the variables that a native tenant has.
    pub(super) fn native_variables(&self) -> Vec<String> {
        let own = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let more = self.simulator.iter().map(|_| "LD_LIBRARY_PATH").chain(["CUDA_DEVICE_ORDER"]);
        own.chain(more.map(str::to_owned)).collect()
    }

    /// Starts the daemon of `system`, if it has one, for the rest of the run.
    pub fn start_daemon(&mut self, system: &System) -> Result<()> {
        let Some(profile) = &system.profile.daemon else { return Ok(()) };
        let launcher = self.launcher(system);
        let values = launcher.values();
        let expand = |words: &[String]| words.iter().map(|word| values.expand(word)).collect::<Result<_>>();
        let plan = Plan {
            start: expand(&profile.start)?,
            stop: expand(&profile.stop)?,
            stop_input: profile.stop_input.clone(),
            variables: system.profile.environment(&values)?,
        };
        for folder in plan.variables.values().map(Path::new).filter(|path| path.starts_with(self.scratch())) {
            fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        let daemon =
            Daemon::start(plan).with_context(|| format!("the daemon of system `{}`", system.label))?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// The CPUs that workers were kept to could not be used.
    pub(super) fn note_unpinned(&self) {
        self.unpinned.store(true, Ordering::Relaxed);
    }

    /// How paths of this run stand in its results.
    pub fn shown(&self) -> Shown {
        let simulator = self.simulator.iter().map(|folder| (folder.clone(), "{software GPU}"));
        let scratch = [(self.scratch(), "{scratch}"), (self.shared_scratch(), "{shared scratch}")];
        Shown::new(scratch.map(|(folder, name)| (folder.to_path_buf(), name)).into_iter().chain(simulator))
    }

    /// A number for the next worker's files.
    pub(super) fn next_worker(&self) -> u32 {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    /// The run's directory.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The run's directory in memory.
    pub(super) fn shared_scratch(&self) -> &Path {
        self.shared_scratch.path()
    }
}
