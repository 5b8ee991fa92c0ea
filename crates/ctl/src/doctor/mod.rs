//! `cuota doctor`: what is here, who could lift a limit, and the proof that one holds.
//!
//! - [`system`], [`gpus`], [`mps`], [`caps`], [`turns`]: what was found.
//! - [`files`]: what can become of the directory's files.
//! - [`protection`], [`namespaces`]: the directory, and whether a tenant could change its limits, or leave them.
//! - [`proof`], [`verdict`]: the probe under a quota, and what its facts show.
//! - [`report`]: the table and the JSON.

mod caps;
pub(crate) mod files;
mod gpus;
mod mps;
mod namespaces;
mod proof;
pub(crate) mod protection;
mod report;
mod system;
mod turns;
mod verdict;

use std::path::{Path, PathBuf};

use cuota_governor::quota::UNLIMITED;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::Found;

use crate::cli::Doctor;
use crate::home::Home;
use crate::probe::Fact;
use crate::run::assigned_tenant;
use crate::size::show_bytes;
use crate::{lease, locate, output, status};
use gpus::Gpu;
use proof::{Outcome, Terms};
use protection::{Level, Protection};
use report::{Check, Mark, Report, SCHEMA, Verdict};
use verdict::Circumstances;

/// The quota that the proof is made with: over twice a context, and small beside any GPU.
const PROOF_BYTES: u64 = 1 << 30;

/// Looks, proves, prints. Returns the exit status.
pub(crate) fn doctor(home: &Home, asked: &Doctor) -> u8 {
    let (system, mut checks) = system::look();
    let library = locate::library(asked.lib.as_deref());
    let sim = asked.sim.then(locate::sim).transpose();
    let (mut protection, directory_checks) = protection::look(home, &system);
    checks.push(library_check(&library));
    checks.push(caps::look(home));
    checks.extend(turns::look(home));
    checks.extend(directory_checks);
    checks.extend(files::look(home));
    let (sim, sim_error) = match sim {
        Ok(folder) => (folder, None),
        Err(error) => (None, Some(error)),
    };
    let (mut gpus, mut facts) = (Vec::new(), Vec::new());
    match sim_error {
        Some(error) => checks.push(missing("gpu", "driver", &error.to_string())),
        None => {
            let (found, gpu_checks) = gpus::look(sim.as_deref());
            gpus = found;
            checks.extend(gpu_checks);
            checks.extend(mps::look());
            if let Ok(library) = &library {
                let is_preloaded = system.preloaded.is_some();
                let proof = Proof { home, asked, library, sim: sim.as_deref(), gpus: &gpus, is_preloaded };
                let (told, proof_checks) = proof.make(&mut protection);
                facts = told;
                checks.extend(proof_checks);
            }
        }
    }
    // Said last, and after what was tried out.
    checks.push(protection.check());
    let verdict = Verdict::of(&checks, has_gpu(&gpus, &facts));
    let version = env!("CARGO_PKG_VERSION");
    let simulated = asked.sim;
    let report = Report {
        schema: SCHEMA,
        version,
        simulated,
        verdict,
        checks,
        system,
        protection,
        gpus,
        probe: facts,
    };
    print(&report, asked.json)
}

fn print(report: &Report, json: bool) -> u8 {
    let text = if json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => text + "\n",
            Err(error) => {
                eprintln!("cuota: the report cannot be written as JSON: {error}");
                return status::PROBLEM;
            }
        }
    } else {
        report::table(report)
    };
    match output::show(&text) {
        status::OK => report.verdict.status(),
        failed => failed,
    }
}

/// NVML can be absent where there is a GPU (WSL), so the probe's word counts too.
fn has_gpu(gpus: &[Gpu], facts: &[Fact]) -> bool {
    let driver_says_none = facts.iter().any(|fact| match fact {
        Fact::NoDriver { .. } => true,
        Fact::Failed { call, status } => call == "cuInit" && *status == 100,
        _ => false,
    });
    !driver_says_none && (!gpus.is_empty() || facts.iter().any(|fact| matches!(fact, Fact::Device { .. })))
}

fn library_check(library: &Result<PathBuf, locate::Missing>) -> Check {
    match library {
        Ok(path) => {
            let bytes = std::fs::metadata(path).map_or(0, |about| about.len());
            Check::ok("cuota", "library", format!("{}, {}", path.display(), show_bytes(bytes)))
        }
        Err(error) => missing("cuota", "library", &error.to_string()),
    }
}

/// An error's first lines are what is so, its last what to do.
fn missing(section: &'static str, id: &'static str, text: &str) -> Check {
    let (found, advice) = text.rsplit_once("\n  ").or_else(|| text.rsplit_once("; ")).unwrap_or((text, ""));
    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
    Check::not_ok(Mark::Problem, section, id, found, advice)
}

/// The GPU that the proof is made on, and the value for `--device`: what was asked for, else what the environment
/// leaves visible, else the first.
fn choose<'a>(asked: &Doctor, gpus: &'a [Gpu]) -> (Option<&'a Gpu>, Option<String>) {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let device = asked.device.as_ref().map(|device| device.visible.clone());
    let wanted = device.clone().or_else(|| visible.clone()).unwrap_or_else(|| "0".to_owned());
    let first = wanted.split(',').next().unwrap_or("0").trim();
    let is_wanted = |gpu: &&Gpu| {
        gpu.index.to_string() == first || gpu.uuid.as_deref().is_some_and(|uuid| uuid.starts_with(first))
    };
    let gpu = gpus.iter().find(is_wanted);
    let pass_on = device.or_else(|| (visible.is_none() && gpu.is_some()).then(|| first.to_owned()));
    (gpu, pass_on)
}

/// What the proof is made with.
struct Proof<'a> {
    home: &'a Home,
    asked: &'a Doctor,
    library: &'a Path,
    sim: Option<&'a Path>,
    gpus: &'a [Gpu],
    /// Whether the library is in every program, and so in this one.
    is_preloaded: bool,
}

impl Proof<'_> {
    /// Runs the probe, and returns what it told and what that proves.
    fn make(&self, protection: &mut Protection) -> (Vec<Fact>, Vec<Check>) {
        let (gpu, device) = choose(self.asked, self.gpus);
        let (set_quota, quota_bytes) = match self.quota(gpu) {
            Ok((_, UNLIMITED)) => return (Vec::new(), vec![nothing_to_prove()]),
            Ok(quota) => quota,
            Err(error) => return (Vec::new(), vec![missing("proof", "directory", &error.to_string())]),
        };
        let sim = self.sim.is_some();
        let terms =
            Terms { home: self.home.path(), library: self.library, sim, device, set_quota, quota_bytes };
        let Outcome { facts, trouble } = proof::run(&terms);
        // What doctor made, doctor takes away.
        if set_quota && let Ok(operator) = self.home.operate() {
            lease::sweep(self.home, &operator);
        }
        // Only where nothing else is open: it takes as long as the proof.
        if protection.level == Level::Protected {
            match proof::attempt_with_own_directory(&terms, self.sim) {
                Ok(Some(shown)) if shown > quota_bytes => {
                    protection.found_open("a program can name a directory of its own with CUOTA_DIR");
                }
                _ => {}
            }
        }
        let free_bytes = gpu.and_then(|gpu| gpu.free_bytes);
        let mut checks = verdict::judge(
            &facts,
            &Circumstances { quota_bytes, free_bytes, sees_the_quota_only: self.is_preloaded },
        );
        checks.extend(trouble.map(|text| {
            Check::not_ok(Mark::Problem, "proof", "probe", text, "see whether `cuota run -- true` works")
        }));
        (facts, checks)
    }

    /// Whether the quota is to be set for the probe, and the quota in bytes. Where the directory is another's, it is
    /// what that one has set.
    fn quota(&self, gpu: Option<&Gpu>) -> anyhow::Result<(bool, u64)> {
        match self.home.operate() {
            Ok(_) => {
                let total = gpu.and_then(|gpu| gpu.total_bytes).unwrap_or(UNLIMITED);
                Ok((true, PROOF_BYTES.min(total)))
            }
            Err(trouble) => match assigned_quota(self.home, gpu) {
                Ok(bytes) => Ok((false, bytes)),
                Err(_) => Err(trouble.into()),
            },
        }
    }
}

fn nothing_to_prove() -> Check {
    Check::not_ok(
        Mark::Warning,
        "proof",
        "quota",
        "the directory's owner has set no quota for this tenant, so there is none to prove",
        "ask the owner for one, or name a directory of your own with --dir",
    )
}

/// The quota that the directory's owner has set for this process's tenant, bytes.
fn assigned_quota(home: &Home, gpu: Option<&Gpu>) -> anyhow::Result<u64> {
    let tenant: TenantName = assigned_tenant()?;
    let policy = home.policy()?.ok_or_else(|| anyhow::anyhow!("there is no policy"))?;
    let id = gpu.and_then(|gpu| gpu.uuid.as_deref()).and_then(parse_uuid).unwrap_or(GpuId::ANY);
    let total = gpu.and_then(|gpu| gpu.total_bytes).unwrap_or(UNLIMITED);
    Ok(match policy.look_up(&tenant, id) {
        Found::Limits(limits) => limits.memory.in_bytes(total),
        Found::Nothing => UNLIMITED,
        Found::Unsettled => anyhow::bail!("the policy is being changed"),
    })
}

/// Reads `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn parse_uuid(text: &str) -> Option<GpuId> {
    let digits: String = text.split_once('-')?.1.chars().filter(|c| *c != '-').collect();
    let value = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(GpuId::from_uuid(value.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_as_it_is_shown() {
        let gpu = GpuId::from_words([0x0102_0304_0506_0708, 0x1122_3344_5566_7788]);
        assert_eq!(parse_uuid(&gpu.to_string()), Some(gpu));
        assert_eq!(parse_uuid("GPU-12"), None);
        assert_eq!(parse_uuid("nonsense"), None);
    }

    #[test]
    fn a_driver_that_knows_no_device_is_no_gpu_whatever_nvml_says() {
        let none = Fact::Failed { call: "cuInit".into(), status: 100 };
        assert!(!has_gpu(&[Gpu::default()], &[none]));
        assert!(has_gpu(&[Gpu::default()], &[]));
        assert!(has_gpu(&[], &[Fact::Device { name: "a".into(), uuid: "b".into() }]));
    }

    #[test]
    fn what_to_do_is_told_apart_from_what_is_so() {
        let check = missing("a", "b", "it was not found; looked for\n    /x\n  name it");
        assert_eq!(check.found, "it was not found; looked for /x");
        assert_eq!(check.advice.as_deref(), Some("name it"));
    }
}
