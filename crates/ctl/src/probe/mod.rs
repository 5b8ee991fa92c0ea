//! `cuota probe`: a program under the shim that tells what it sees. `cuota doctor` starts it through `cuota run` and
//! judges; the probe only reports, one JSON object a line, each as soon as it is known.
//!
//! It reaches the driver as any program does: `dlopen("libcuda.so.1")`, then `dlsym`.

mod driver;
mod fact;
mod library;
mod lookups;
mod maps;
mod memory;
mod nvml;

use std::io::Write;

use cuota_region::name::GpuId;

pub(crate) use fact::{Ask, Fact, Lookup, Taken, Views};

use crate::status;
use driver::{Driver, Failure};
use library::{Library, Way};
use maps::Maps;
use nvml::Nvml;

/// Prints a fact.
fn tell(fact: &Fact) {
    // Locked and flushed line by line, so that a crash loses nothing that was said. A reader that is gone ends nothing.
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, fact);
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// Reports everything, under a quota of `quota_bytes`. Returns the exit status.
pub(crate) fn probe(quota_bytes: u64) -> u8 {
    let cuda = match Library::open(c"libcuda.so.1") {
        Ok(library) => library,
        Err(why) => {
            tell(&Fact::NoDriver { why });
            return status::NO_GPU;
        }
    };
    tell(&Fact::Mapped { libcuota: Maps::read().path_of(crate::locate::LIBRARY) });
    match report(Driver(cuda), quota_bytes) {
        Ok(()) => status::OK,
        Err(Failure { call, status }) => {
            tell(&Fact::Failed { call, status });
            status::PROBLEM
        }
    }
}

fn report(driver: Driver, quota_bytes: u64) -> Result<(), Failure> {
    let nvml = Nvml::open();
    let version = driver.version()?;
    // By a function that is not hooked, since the file may have another name than its link.
    let inside = driver.0.look_up(Way::Handle, c"cuDriverGetVersion");
    let libcuda = inside.and_then(|at| Maps::read().file_at(at.as_ptr() as usize).map(str::to_owned));
    tell(&Fact::Driver { libcuda, version });
    driver.init()?;
    for lookup in lookups::all(&driver.0, nvml.as_ref().map(|nvml| &nvml.0), version) {
        tell(&Fact::Lookups(lookup));
    }
    let device = driver.device(0)?;
    let gpu = GpuId::from_uuid(driver.uuid(device)?);
    let handle = nvml.as_ref().and_then(|nvml| nvml.device(gpu));
    tell(&Fact::Device { name: driver.name(device)?, uuid: gpu.to_string() });

    let total_bytes = driver.total_bytes(device)?;
    driver.retain_context(device)?;
    let (free_bytes, info_bytes) = driver.memory_info()?;
    tell(&Fact::Views(Views {
        device_total_bytes: total_bytes,
        info_total_bytes: info_bytes,
        info_free_bytes: free_bytes,
        nvml_total_bytes: handle.as_ref().and_then(nvml::Device::total_bytes),
        nvml_v2_total_bytes: handle.as_ref().and_then(nvml::Device::total_bytes_v2),
    }));
    let own = || handle.as_ref().and_then(nvml::Device::own_bytes);
    tell(&Fact::Blocks { rows: memory::blocks(&driver, own)? });
    tell(&memory::fill(&driver, quota_bytes, own)?);
    tell(&Fact::Refusals { rows: memory::refusals(&driver, device, quota_bytes) });
    Ok(())
}
