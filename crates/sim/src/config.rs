//! What the environment says about the modelled GPU. Read once a process, when the library is initialised.

use crate::engine::SMS;
use crate::mig;
use crate::units::{BLOCK, GIB, MIB, parse_bytes};
use std::path::PathBuf;

/// The variables of the software GPU.
#[derive(Debug, Clone)]
pub struct Config {
    /// `CUOTA_SIM_DIR`: the folder with the devices' shared files. One folder is one machine: the processes that
    /// name it share its GPUs. Default: `/dev/shm/cuota-sim-<uid>`.
    pub folder: PathBuf,
    /// `CUOTA_SIM_MEMORY`: a device's memory in bytes, for example `80GiB`. Default: 16 GiB.
    pub memory_bytes: u64,
    /// Whether the variable is set: without it a device that exists keeps its size.
    pub is_memory_set: bool,
    /// `CUOTA_SIM_DEVICES`: the number of devices, 1 to 16. Default: 1.
    pub devices: u32,
    /// `CUOTA_SIM_CONTEXT_MIB`: what a new context takes, in bytes here. Default: 500 MiB.
    pub context_bytes: u64,
    /// `CUOTA_SIM_MIG`: into how many instances device 0 is cut, 1 to 7; 0 for none. Default: none.
    pub mig: u32,
    /// `CUDA_VISIBLE_DEVICES`, read as [`crate::visible`] says: the devices that CUDA shows, in its order. NVML shows all.
    pub visible: Vec<u32>,
    /// `CUOTA_SIM_DEATH_MS`: how long the memory of a dead process stays taken after its death is noticed, in nanoseconds here.
    /// Default: 0.
    pub death_ns: u64,
    /// `CUOTA_SIM_HESITATION_MS`: how long `cuEventRecord` and `cuCtxSetCurrent` take in all threads but the process's first before
    /// they look at the handles that they are given, as if they lost the processor, in nanoseconds here. A handle that is none by then
    /// ends the process, as it may with NVIDIA's driver. Default: 0, and an error is the answer.
    pub hesitation_ns: u64,
    /// `CUOTA_SIM_MPS=1`: the driver says that programs reach the devices through an MPS server. Default: 0.
    pub is_under_mps: bool,
    /// `CUOTA_SIM_OLD_FORMS=1`: the 32-bit forms of CUDA 2 work, as far as they can; those of an H100's driver do not. Default: 0.
    pub has_old_forms: bool,
    /// `CUOTA_SIM_DRIVER_VERSION`: what `cuDriverGetVersion` answers. Default: 13000.
    pub driver_version: i32,
}

impl Config {
    /// Reads the environment. A value that cannot be read is named in the log and its default is used.
    #[must_use]
    pub fn from_environment() -> Self {
        let devices = read("CUOTA_SIM_DEVICES", 1, |t| t.parse().ok().filter(|n| (1..=16).contains(n)));
        let mig = read("CUOTA_SIM_MIG", 0, |t| t.parse().ok().filter(|n| (0..=mig::MOST).contains(n)));
        let visible = std::env::var_os("CUDA_VISIBLE_DEVICES");
        Self {
            folder: std::env::var_os("CUOTA_SIM_DIR").filter(|v| !v.is_empty()).map_or_else(
                || {
                    // SAFETY: getuid has no preconditions and cannot fail.
                    let uid = unsafe { libc::getuid() };
                    PathBuf::from(format!("/dev/shm/cuota-sim-{uid}"))
                },
                PathBuf::from,
            ),
            memory_bytes: read("CUOTA_SIM_MEMORY", 16 * GIB, |t| parse_bytes(t).filter(|&b| b > 0)),
            is_memory_set: std::env::var_os("CUOTA_SIM_MEMORY").is_some_and(|v| !v.is_empty()),
            devices,
            visible: crate::visible::devices(
                visible.as_ref().map(|v| v.to_string_lossy()).as_deref(),
                devices,
                mig,
            ),
            mig,
            context_bytes: read("CUOTA_SIM_CONTEXT_MIB", 500 * MIB, |t| {
                t.parse::<u64>().ok()?.checked_mul(MIB)
            }),
            death_ns: read("CUOTA_SIM_DEATH_MS", 0, nanoseconds),
            hesitation_ns: read("CUOTA_SIM_HESITATION_MS", 0, nanoseconds),
            is_under_mps: read("CUOTA_SIM_MPS", 0, flag) == 1,
            has_old_forms: read("CUOTA_SIM_OLD_FORMS", 0, flag) == 1,
            driver_version: read("CUOTA_SIM_DRIVER_VERSION", 13000, |t| t.parse().ok()),
        }
    }

    /// The memory of a device, or of an instance of one, in bytes.
    #[must_use]
    pub fn memory_of(&self, ordinal: u32) -> u64 {
        match mig::index(ordinal) {
            Some(_) if self.mig > 0 => self.memory_bytes / u64::from(self.mig) / BLOCK * BLOCK,
            _ => self.memory_bytes,
        }
    }

    /// The multiprocessors of a device, or of an instance of one.
    #[must_use]
    pub fn sms_of(&self, ordinal: u32) -> u32 {
        match mig::index(ordinal) {
            Some(_) if self.mig > 0 => mig::sms(self.mig),
            _ => SMS,
        }
    }

    /// What people read as the name of a device, or of an instance of one.
    #[must_use]
    pub fn name_of(&self, ordinal: u32) -> String {
        match mig::index(ordinal) {
            Some(_) => format!("{DEVICE_NAME} MIG 1g.{}gb", self.memory_of(ordinal) / GIB),
            None => DEVICE_NAME.to_owned(),
        }
    }

    /// The UUID of a device or an instance, the same in every process: bytes that spell the model's name.
    #[must_use]
    pub fn uuid(ordinal: u32) -> [u8; 16] {
        let (mut bytes, number) = match mig::index(ordinal) {
            Some(index) => (*b"cuota-sim-mig-\0\0", index),
            None => (*b"cuota-sim-gpu-\0\0", ordinal),
        };
        bytes[14..].copy_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes());
        bytes
    }

    /// `GPU-xxxxxxxx-xxxx-…`, or `MIG-…` for an instance: the UUID as NVML writes it.
    #[must_use]
    pub fn uuid_text(ordinal: u32) -> String {
        let hex: Vec<String> = Self::uuid(ordinal).iter().map(|b| format!("{b:02x}")).collect();
        let part = |range: std::ops::Range<usize>| hex[range].concat();
        let kind = if mig::index(ordinal).is_some() { "MIG" } else { "GPU" };
        format!("{kind}-{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16))
    }

    /// `0000:01:00.0`, the modelled PCI address: bus `ordinal + 1`; an instance has its device's.
    #[must_use]
    pub fn pci_bus_id(ordinal: u32) -> String {
        format!("0000:{:02X}:00.0", mig::parent(ordinal) + 1)
    }
}

/// What people read as the device's name.
pub const DEVICE_NAME: &str = "cuota software GPU";

/// 0 or 1.
fn flag(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n <= 1)
}

fn nanoseconds(milliseconds: &str) -> Option<u64> {
    milliseconds.parse::<u64>().ok()?.checked_mul(1_000_000)
}

fn read<T>(name: &str, default: T, parse: impl Fn(&str) -> Option<T>) -> T {
    let Some(text) = std::env::var_os(name).filter(|v| !v.is_empty()) else { return default };
    match text.to_str().and_then(parse) {
        Some(value) => value,
        None => {
            crate::log::line(&format!("{name}={} cannot be read; the default is used", text.display()));
            default
        }
    }
}
