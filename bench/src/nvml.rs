//! What NVML sees from outside the tenant: the physical truth that a limit is held against.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nvml_wrapper::enum_wrappers::device::{Clock as ClockDomain, PerformancePolicy};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device, Nvml};

use crate::clock::now_ns;

/// The distance of two samples.
const PERIOD: Duration = Duration::from_millis(10);

/// NVML, opened in this process, which no system under test is loaded into.
pub struct Monitor {
    nvml: Nvml,
    uuid: String,
}

/// The memory of one process at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySample {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The process.
    pub pid: u32,
    /// Its memory on the device, context included.
    pub bytes: u64,
}

/// The clock of the multiprocessors at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Its frequency.
    pub mhz: u32,
}

impl Monitor {
    /// Opens NVML, from `library` or else by its usual name, for the device of `uuid`.
    pub fn open(library: Option<&Path>, uuid: &str) -> Result<Self> {
        let mut builder = Nvml::builder();
        if let Some(library) = library {
            builder.lib_path(library.as_os_str());
        }
        let nvml = builder.init().context("NVML could not be opened")?;
        let monitor = Self { nvml, uuid: uuid.to_owned() };
        monitor.device()?;
        Ok(monitor)
    }

    fn device(&self) -> Result<Device<'_>> {
        self.nvml
            .device_by_uuid(self.uuid.as_str())
            .with_context(|| format!("NVML does not know {}", self.uuid))
    }

    /// The version of the kernel driver.
    pub fn driver_version(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// Clocks, temperature and power in one line, for the record.
    pub fn state(&self) -> Option<String> {
        let device = self.device().ok()?;
        let mhz = |domain| device.clock_info(domain).map_or("?".to_owned(), |mhz| mhz.to_string());
        let power =
            device.power_usage().map_or("?".to_owned(), |milliwatts| (milliwatts / 1_000).to_string());
        Some(format!("SM {} MHz, memory {} MHz, {power} W", mhz(ClockDomain::SM), mhz(ClockDomain::Memory)))
    }

    /// How long the device has been slowed down for heat, a power brake or reliability since the driver was loaded, in
    /// nanoseconds; `None` where NVML does not count it. A power cap is left out: under heavy work it is the normal state
    /// of a card, for all systems alike.
    pub fn throttled_ns(&self) -> Option<u64> {
        let device = self.device().ok()?;
        let policies =
            [PerformancePolicy::Thermal, PerformancePolicy::BoardLimit, PerformancePolicy::Reliability];
        let times = policies.map(|policy| device.violation_status(policy).ok());
        times.into_iter().flatten().map(|time| time.violation_time).reduce(|a, b| a + b)
    }

    /// Processes that hold a context now, with their bytes.
    pub fn processes(&self) -> Result<Vec<(u32, u64)>> {
        let processes = self.device()?.running_compute_processes().context("NVML's list of processes")?;
        Ok(processes
            .into_iter()
            .filter_map(|process| match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some((process.pid, bytes)),
                UsedGpuMemory::Unavailable => None,
            })
            .collect())
    }

    /// Runs `work` while another thread samples all processes each 10 ms.
    pub fn memory_during<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<MemorySample>) {
        self.sample_during(work, |at_ns| {
            // A list that changes while NVML writes it is an error of that one sample.
            let processes = self.processes().unwrap_or_default();
            processes.into_iter().map(|(pid, bytes)| MemorySample { at_ns, pid, bytes }).collect()
        })
    }

    /// Runs `work` while another thread reads the clock of the multiprocessors each 10 ms.
    pub fn clock_during<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<ClockSample>) {
        self.sample_during(work, |at_ns| {
            let mhz = self.device().ok().and_then(|device| device.clock_info(ClockDomain::SM).ok());
            mhz.map(|mhz| ClockSample { at_ns, mhz }).into_iter().collect()
        })
    }

    fn sample_during<T, S: Send>(
        &self,
        work: impl FnOnce() -> T,
        sample: impl Fn(u64) -> Vec<S> + Sync,
    ) -> (T, Vec<S>) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut samples = Vec::new();
                while !done.load(Ordering::Acquire) {
                    samples.extend(sample(now_ns()));
                    thread::sleep(PERIOD);
                }
                samples
            });
            let result = work();
            done.store(true, Ordering::Release);
            (result, sampler.join().unwrap_or_default())
        })
    }
}
