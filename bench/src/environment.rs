//! Where and how a result was measured: without it no two results can be laid side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::gpu::DeviceInfo;
use crate::system::Proof;
use crate::worker::Effort;

/// The record of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// When it began, UTC, as in 2026-11-22T17:30:00Z.
    pub date: String,
    /// The version of this benchmark.
    pub bench_version: String,
    /// The command line.
    pub command: Vec<String>,
    /// True when the figures come from the software GPU: they say nothing about a real one.
    pub simulated: bool,
    /// The device.
    pub device: DeviceInfo,
    /// The version of the kernel driver, by NVML.
    pub driver_version: Option<String>,
    /// Clocks and power at the start, by NVML.
    pub device_state: Option<String>,
    /// Processes that held the device at the start, each `pid: MiB`.
    pub other_processes: Vec<String>,
    /// The processor.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// What CLOCK_MONOTONIC is read from.
    pub clock_source: String,
    /// What one reading of the clock costs, subtracted from calls that are timed singly, in ns.
    pub clock_cost_ns: u64,
    /// The memory limit in bytes.
    pub limit_bytes: u64,
    /// The cap on GPU time that capped tenants were given, in per cent.
    #[serde(default)]
    pub compute_percent: u32,
    /// How much work.
    pub effort: Option<Effort>,
    /// The CPU that the processes of each turn kept to, in the order of turns; empty where they could not be kept to one.
    #[serde(default)]
    pub cpu_of_turns: Vec<usize>,
    /// What was done to start each system, by name.
    pub systems: BTreeMap<String, SystemRecord>,
    /// What a reader of the figures must know.
    pub warnings: Vec<String>,
}

/// What was done to start a system.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SystemRecord {
    /// Its place in the order of turns.
    pub order: usize,
    /// Its library, as [`crate::shown`] has paths; so are command and variables.
    pub library: Option<String>,
    /// The library's SHA-256.
    pub library_sha256: Option<String>,
    /// The words before the tenant's command.
    pub command: Vec<String>,
    /// The variables that were set for the tenant.
    pub variables: BTreeMap<String, String>,
    /// The proof that its memory limit is in force.
    pub proof: Option<Proof>,
    /// The proof that its cap on GPU time is in force, where a metric needed one.
    #[serde(default)]
    pub compute_proof: Option<Proof>,
}

impl Environment {
    /// What can be known before the device is.
    pub fn of_machine(command: Vec<String>) -> Self {
        Self {
            date: now_utc(),
            bench_version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            cpu: cpu_model(),
            kernel: line("/proc/sys/kernel/osrelease"),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock_cost_ns: Clock::calibrate().cost_ns(),
            ..Self::default()
        }
    }
}

impl Environment {
    /// What makes the figures of `other` ones of another experiment, a phrase each: card, driver, limits, libraries.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let text = |environment: &Self| {
            [
                ("card", environment.device.name.clone()),
                ("driver", environment.driver_version.clone().unwrap_or_default()),
                ("memory limit", format!("{} bytes", environment.limit_bytes)),
                ("cap on GPU time", format!("{} %", environment.compute_percent)),
                ("software GPU", environment.simulated.to_string()),
            ]
        };
        let mut found: Vec<String> = text(self)
            .into_iter()
            .zip(text(other))
            .filter(|(mine, theirs)| mine != theirs)
            .map(|((what, mine), (_, theirs))| format!("{what}: {mine} and {theirs}"))
            .collect();
        for (name, record) in &self.systems {
            let theirs = other.systems.get(name).and_then(|record| record.library_sha256.as_ref());
            if let (Some(mine), Some(theirs)) = (&record.library_sha256, theirs)
                && mine != theirs
            {
                found.push(format!("library of {name}: SHA-256 {mine:.12} and {theirs:.12}"));
            }
        }
        found
    }
}

/// The time now, UTC.
pub fn now_utc() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("the library {} cannot be read", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{} × {}", count, model.map_or("unknown", |(_, name)| name.trim()))
}

/// Seconds since 1970 as a date and time. The calendar is Hinnant's `civil_from_days` (chrono-compatible low-level date
/// algorithms): years are counted from 1 March, so that the leap day comes last.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_368_600), "2026-11-22T17:30:00Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_library_is_recorded_by_its_sha_256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(file.path()).unwrap(), known);
    }
}
