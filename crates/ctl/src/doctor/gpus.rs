//! The driver and its GPUs as NVML shows them to a program without the shim.

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::enum_wrappers::device::ComputeMode;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::Serialize;

use super::report::{Check, Mark};
use crate::locate::LIBRARY;
use crate::size::show_bytes;

const SECTION: &str = "gpu";

/// A GPU. What NVML does not say (`NOT_SUPPORTED`, or a driver without the function) is `None`.
#[derive(Serialize, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gpu {
    pub(crate) index: u32,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) mig: Option<bool>,
    pub(crate) compute_mode: Option<String>,
    pub(crate) processes: Option<Vec<Neighbour>>,
}

/// A process on a GPU.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Neighbour {
    pub(crate) pid: u32,
    /// Whether it runs under the shim; `None` where its memory map is not this user's to read.
    pub(crate) managed: Option<bool>,
}

/// Looks. `sim`: the folder of the software GPU, where it is meant.
pub(crate) fn look(sim: Option<&Path>) -> (Vec<Gpu>, Vec<Check>) {
    let path = sim.map(|folder| folder.join("libnvidia-ml.so.1"));
    // By its soname: the plain name that the wrapper would take comes with development packages only.
    let library = path.as_deref().map_or(OsStr::new("libnvidia-ml.so.1"), Path::as_os_str);
    match Nvml::builder().lib_path(library).init() {
        Ok(nvml) => {
            let gpus: Vec<Gpu> = gpus(&nvml);
            let mut checks = vec![driver_check(&nvml)];
            checks.extend(gpus.iter().flat_map(checks_of));
            (gpus, checks)
        }
        Err(error) => (Vec::new(), vec![nvml_check(&error)]),
    }
}

fn nvml_check(error: &NvmlError) -> Check {
    let found = match error {
        NvmlError::LibloadingError(_) => "libnvidia-ml.so.1 is not here".to_owned(),
        other => format!("NVML does not start: {other}"),
    };
    let advice = "where there should be a GPU: install NVIDIA's driver, and in a container start it with the GPU \
                  (docker run --gpus …)";
    Check::not_ok(Mark::Unknown, SECTION, "driver", found, advice)
}

fn driver_check(nvml: &Nvml) -> Check {
    let driver = nvml.sys_driver_version().unwrap_or_else(|_| "of unknown version".to_owned());
    let cuda = nvml.sys_cuda_driver_version().map_or_else(
        |_| "unknown".to_owned(),
        |version| format!("{}.{}", version / 1000, version % 1000 / 10),
    );
    Check::ok(SECTION, "driver", format!("{driver}, CUDA {cuda}"))
}

fn gpus(nvml: &Nvml) -> Vec<Gpu> {
    let count = nvml.device_count().unwrap_or(0);
    (0..count)
        .filter_map(|index| nvml.device_by_index(index).ok().map(|device| gpu(index, &device)))
        .collect()
}

fn gpu(index: u32, device: &Device<'_>) -> Gpu {
    let memory = device.memory_info().ok();
    let processes = device.running_compute_processes().ok();
    Gpu {
        index,
        name: device.name().ok(),
        uuid: device.uuid().ok(),
        total_bytes: memory.as_ref().map(|memory| memory.total),
        free_bytes: memory.as_ref().map(|memory| memory.free),
        mig: device.mig_mode().ok().map(|mode| mode.current != 0),
        compute_mode: device.compute_mode().ok().map(|mode| compute_mode(&mode).to_owned()),
        processes: processes.map(|list| list.iter().map(|process| neighbour(process.pid)).collect()),
    }
}

fn compute_mode(mode: &ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive process",
    }
}

fn neighbour(pid: u32) -> Neighbour {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    Neighbour { pid, managed: maps.ok().filter(|maps| !maps.is_empty()).map(|maps| maps.contains(LIBRARY)) }
}

fn checks_of(gpu: &Gpu) -> Vec<Check> {
    let unknown = || "unknown".to_owned();
    let text = format!(
        "{}: {}, {}, {}, MIG {}, compute mode {}",
        gpu.index,
        gpu.name.clone().unwrap_or_else(unknown),
        gpu.uuid.clone().unwrap_or_else(unknown),
        gpu.total_bytes.map_or_else(unknown, show_bytes),
        gpu.mig.map_or("unknown", |on| if on { "on" } else { "off" }),
        gpu.compute_mode.clone().unwrap_or_else(unknown),
    );
    let mode = match gpu.compute_mode.as_deref() {
        Some("prohibited") => Some((Mark::Problem, "no program can use it")),
        Some("exclusive process") => Some((Mark::Warning, "one process at a time can use it")),
        _ => None,
    };
    let gpu_check = match mode {
        None => Check::ok(SECTION, "gpu", text),
        Some((mark, why)) => {
            let advice = format!("nvidia-smi -i {} -c DEFAULT lets several use it", gpu.index);
            Check::not_ok(mark, SECTION, "gpu", format!("{text}: {why}"), advice)
        }
    };
    [Some(gpu_check), gpu.processes.as_deref().and_then(|list| neighbours_check(gpu.index, list))]
        .into_iter()
        .flatten()
        .collect()
}

fn neighbours_check(index: u32, processes: &[Neighbour]) -> Option<Check> {
    let count = |managed| processes.iter().filter(|process| process.managed == managed).count();
    let (ours, others, unknown) = (count(Some(true)), count(Some(false)), count(None));
    let text = format!("GPU {index} has {ours} under cuota, {others} without, {unknown} that cannot be told");
    match (processes.len(), others) {
        (0, _) => None,
        (_, 0) => Some(Check::ok(SECTION, "processes", text)),
        _ => Some(Check::not_ok(
            Mark::Warning,
            SECTION,
            "processes",
            text,
            "what runs without cuota has no quota, and can take the memory that quotas promise to others",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nvml_does_not_say_is_unknown_and_no_problem() {
        let checks = checks_of(&Gpu::default());
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].mark, Mark::Ok);
        assert!(checks[0].found.contains("MIG unknown"));
    }

    #[test]
    fn a_prohibited_gpu_is_a_problem() {
        let gpu = Gpu { compute_mode: Some("prohibited".into()), ..Gpu::default() };
        assert_eq!(checks_of(&gpu)[0].mark, Mark::Problem);
    }

    #[test]
    fn a_neighbour_without_the_shim_is_worth_a_warning() {
        let neighbour = |managed| Neighbour { pid: 1, managed };
        assert_eq!(neighbours_check(0, &[neighbour(Some(true)), neighbour(None)]).unwrap().mark, Mark::Ok);
        assert_eq!(neighbours_check(0, &[neighbour(Some(false))]).unwrap().mark, Mark::Warning);
        assert!(neighbours_check(0, &[]).is_none());
    }
}
