//! The parent's side of workloads: tenants that run alone, one after the other, or together from one start on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Kind, PROGRESS, Progress};
use crate::system::{Launcher, Running};
use crate::worker::{LOAD, Page, Work};

/// How long the tenants of a sample may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a tenant does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Its workloads, one after the other.
    pub kinds: Vec<Kind>,
    /// How long each runs, in nanoseconds.
    pub run_ns: u64,
    /// Whether to measure how much of the time its work is on the device; for tenants without a limit.
    pub occupancy: bool,
}

impl Plan {
    /// One workload for `run_ns`.
    pub(crate) fn of(kind: Kind, run_ns: u64) -> Self {
        Self { kinds: vec![kind], run_ns, occupancy: false }
    }

    /// Several, one after the other.
    pub(crate) fn of_all(kinds: &[Kind], run_ns: u64) -> Self {
        Self { kinds: kinds.to_vec(), run_ns, occupancy: false }
    }

    /// The same, measuring occupancy.
    pub(crate) fn with_occupancy(self) -> Self {
        Self { occupancy: true, ..self }
    }

    fn text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// One of several tenants that run together.
pub(crate) struct Part<'a> {
    /// How it is started.
    pub launcher: Launcher<'a>,
    /// Its job.
    pub job: &'static str,
    /// The job's variant.
    pub variant: String,
}

impl<'a> Part<'a> {
    /// A tenant that runs `plan`. It keeps to no CPU: tenants that shared one would judge the CPU's scheduler.
    pub(crate) fn load(launcher: &Launcher<'a>, plan: &Plan) -> Result<Self> {
        Self::job(launcher, LOAD, plan.text()?)
    }

    /// A tenant that does `job`, which must open the shared page and wait for the start.
    pub(crate) fn job(launcher: &Launcher<'a>, job: &'static str, variant: String) -> Result<Self> {
        Ok(Self { launcher: launcher.clone().on_cpu(None), job, variant })
    }
}

/// Runs one tenant by itself; how far it got with each of its workloads.
pub(crate) fn alone(launcher: &Launcher<'_>, plan: &Plan) -> Result<Vec<Progress>> {
    progress_of(&launcher.clone().on_cpu(None).run(LOAD, &plan.text()?)?)
}

/// Runs all parts together; the time of their start, and what each measured.
pub(crate) fn together(parts: &[Part<'_>]) -> Result<(u64, Vec<Work>)> {
    together_with(parts, |_, _| Ok(()))
}

/// The same, with `meanwhile(page, start)` run in the parent once all have begun.
pub(crate) fn together_with(
    parts: &[Part<'_>],
    meanwhile: impl FnOnce(&Page, u64) -> Result<()>,
) -> Result<(u64, Vec<Work>)> {
    let page = Page::create()?;
    let mut running = Vec::new(); // Dropped on an error: that ends those that run.
    for (place, part) in parts.iter().enumerate() {
        running.push(part.launcher.spawn(part.job, &part.variant, Some((page.id(), place)))?);
    }
    let ready = page.wait_ready(u32::try_from(parts.len())?, PATIENCE, || {
        if page.is_stopped() || running.iter().any(has_ended) {
            bail!("a tenant ended");
        }
        Ok(())
    });
    if let Err(error) = ready {
        page.stop();
        // What the tenant itself says is the better reason.
        for tenant in running {
            tenant.wait()?;
        }
        return Err(error);
    }
    let go_ns = page.go();
    meanwhile(&page, go_ns)?;
    let works = running.into_iter().map(Running::wait).collect::<Result<Vec<_>>>()?;
    Ok((go_ns, works))
}

/// Whether the process is gone or waits to be reaped.
fn has_ended(running: &Running<'_>) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.pid()));
    // The state follows the command's name, which is in parentheses (proc_pid_stat(5)).
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

/// How far a tenant got with each of its workloads.
pub(crate) fn progress_of(work: &Work) -> Result<Vec<Progress>> {
    let text = work.facts.get(PROGRESS).context("the tenant did not say how far it got")?;
    Ok(serde_json::from_str(text)?)
}
