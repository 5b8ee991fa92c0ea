//! Before anything is measured: everything that can be wrong is found, and said, while nothing is lost.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::{DeviceChoice, RunArguments};
use crate::environment::{Environment, SystemRecord, sha256};
use crate::gpu::DeviceInfo;
use crate::metrics;
use crate::nvml::Monitor;
use crate::system::{self, Session, System};
use crate::units::{GIB, bytes_text, mib};
use crate::worker;

/// The smallest limit: OH-002's 10,000 live allocations, the largest single one and a context fit below it.
const SMALLEST_LIMIT_BYTES: u64 = 2 * GIB;

/// What is preloaded into this process would be in native's too, and NVML here would no longer be the truth.
pub fn refuse_own_preload() -> Result<()> {
    match env::var("LD_PRELOAD") {
        Ok(libraries) if !libraries.is_empty() => bail!(
            "LD_PRELOAD is set to `{libraries}`: native would not be native. Run it as \
             `env -u LD_PRELOAD cuota-bench ...` and name the library with --system"
        ),
        _ => Ok(()),
    }
}

/// The software GPU's folder, when that is the device.
pub fn simulator(device: DeviceChoice) -> Result<Option<PathBuf>> {
    if device != DeviceChoice::Simulated {
        return Ok(None);
    }
    let beside = || {
        env::current_exe().ok()?.parent().map(|folder| folder.join("sim")).filter(|folder| folder.is_dir())
    };
    let named = env::var_os("CUOTA_SIM_LIB").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = named.or_else(beside).context(
        "`--device sim` was asked for, CUOTA_SIM_LIB is not set, and there is no folder `sim` beside this program: set it to \
         the folder that holds the software GPU's libcuda.so.1 and libnvidia-ml.so.1",
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
pub fn prepare_folder(folder: &Path) -> Result<()> {
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
pub fn open_session(
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
    session.device_info = environment.device.clone();
    environment.simulated = session.simulator.is_some();
    let library = session.simulator.as_ref().map(|folder| folder.join("libnvidia-ml.so.1"));
    match Monitor::open(library.as_deref(), &environment.device.uuid) {
        Ok(monitor) => {
            environment.driver_version = monitor.driver_version();
            environment.device_state = monitor.state();
            refuse_others(&monitor, arguments.busy, environment)?;
            if monitor.throttled_ns().is_none() {
                let what = "NVML does not count here how long the device is slowed down for heat and the like, so no \
                            sample was thrown away for it";
                environment.warnings.push(what.to_owned());
            }
            session.monitor = Some(monitor);
        }
        Err(error) => environment
            .warnings
            .push(format!("no NVML, so no IS-001, and nobody saw whether others used the device: {error:#}")),
    }
    Ok(session)
}

/// Other users of the device make every figure doubtful.
fn refuse_others(monitor: &Monitor, busy_is_fine: bool, environment: &mut Environment) -> Result<()> {
    let others = others_that_stay(monitor);
    if others.is_empty() {
        return Ok(());
    }
    environment.other_processes =
        others.iter().map(|(pid, bytes)| format!("{pid}: {:.0} MiB", mib(*bytes))).collect();
    let list = environment.other_processes.join(", ");
    if !busy_is_fine {
        bail!(
            "the device is in use by other processes (process: memory): {list}. Stop them and start again, or measure all \
             the same with --busy"
        );
    }
    environment
        .warnings
        .push(format!("the device was in use by others at the start (process: memory): {list}"));
    Ok(())
}

/// The processes that hold the device, once those that have just ended had time to give it back: a process that was killed
/// with 20 GiB was seen for 0.2 s more on an H100.
fn others_that_stay(monitor: &Monitor) -> Vec<(u32, u64)> {
    const LOOKS: u32 = 10;
    const BETWEEN: Duration = Duration::from_millis(200);
    for _ in 1..LOOKS {
        if monitor.processes().unwrap_or_default().is_empty() {
            break;
        }
        thread::sleep(BETWEEN);
    }
    monitor.processes().unwrap_or_default()
}

/// The memory limit of tenants on `device`.
pub fn limit_on(arguments: &RunArguments, device: &DeviceInfo) -> Result<u64> {
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

/// Writes down how each system is started.
pub fn record_systems(session: &Session, systems: &[System], environment: &mut Environment) -> Result<()> {
    let shown = session.shown();
    let word = |word: &String| shown.word(word);
    environment.command = environment.command.iter().map(word).collect();
    environment.warnings = environment.warnings.iter().map(|warning| shown.text(warning)).collect();
    for (order, system) in systems.iter().enumerate() {
        let start = session.launcher(system).start().with_context(|| system.label.clone())?;
        let record = SystemRecord {
            order,
            library: system.library.as_deref().map(|path| shown.path(path)),
            library_sha256: system.library.as_deref().map(sha256).transpose()?,
            command: start.prefix.iter().map(word).collect(),
            variables: start.variables.iter().map(|(name, value)| (name.clone(), word(value))).collect(),
            ..SystemRecord::default()
        };
        environment.systems.insert(system.label.clone(), record);
    }
    Ok(())
}
