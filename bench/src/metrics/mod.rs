//! The metrics, one file each. A metric says what it is, what one fresh process of a tenant does for it, and which processes
//! make one sample.

mod allocation;
mod control;
mod cublaslt;
mod figures;
mod hooked_paths;
mod in_process;
mod is_001;
mod is_002;
mod is_003;
mod is_004;
mod is_005;
mod is_006;
mod is_007;
mod is_008;
mod is_009;
mod is_010;
mod launching;
mod llm_001;
mod llm_002;
mod llm_003;
mod llm_004;
mod llm_005;
mod llm_006;
mod llm_007;
mod llm_008;
mod llm_009;
mod llm_010;
mod loads;
mod nccl;
mod neighbours;
mod oh_001;
mod oh_002;
mod oh_003;
mod oh_004;
mod oh_005;
mod oh_006;
mod oh_007;
mod oh_008;
mod oh_009;
mod oh_010;
mod serving;
mod start_parts;
mod start_programs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::gpu::{Device, DeviceInfo, Gpu};
use crate::stats::{self, Direction};
use crate::system::{Launcher, Session};
use crate::worker::{Request, Series, Tenant, Work};

/// What a metric is.
pub struct Info {
    /// Its ID, as in GPU-Virt-Bench.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The unit of its headline.
    pub unit: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// The series that stands for it.
    pub headline: &'static str,
    /// Series of what the system adds, measured within a process, that reports show at the top: the first beside the
    /// headline, others in rows of their own.
    pub in_process: &'static [&'static str],
    /// What a system's value is held against.
    pub comparison: Comparison,
    /// How it is measured, in one sentence.
    pub method: &'static str,
    /// Which limit of the system the figure means nothing without.
    pub presumes: Presumes,
}

/// Which limit of the system a figure means nothing without: one that is not in force takes the score away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presumes {
    /// None beyond what every row presumes: a system that claims to limit memory and does not has no score at all.
    Nothing,
    /// The memory limit.
    Memory,
    /// The cap on GPU time.
    Compute,
}

/// What a system's value is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Native in the same run: the figure is what the system adds, and it can tie.
    AddedToNative,
    /// Native in the same run, as a ratio: throughputs, latencies of whole steps.
    RatioToNative,
    /// The limit itself: native has none, so it has no value here.
    Limit,
    /// Nothing: each sample is passed (1) or failed (0).
    Pass,
}

/// A promise that a sample shows to be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no limit where one was asked for: no score.
    NotEnforced(String),
    /// The limit is there and was exceeded: the score stands, with this beside it.
    Exceeded(String),
    /// The score stands, and whoever reads it must know this.
    Remark(String),
}

/// A metric of the benchmark.
pub trait Metric: Sync {
    /// What it is.
    fn info(&self) -> &'static Info;

    /// The tenant's side: what one fresh process does, under whatever system it was started.
    ///
    /// # Errors
    /// Any CUDA error: the whole sample is void then.
    fn work(&self, tenant: &Tenant<'_>) -> Result<Work>;

    /// The parent's side: one sample, which is one process unless the metric needs more.
    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        Ok(launcher.run(self.info().id, "")?.series)
    }

    /// The metric whose samples this one is read from: its own, unless two measure the same processes.
    fn sampled_as(&self) -> &'static str {
        self.info().id
    }

    /// The fewest samples that are judged: fewer than usual where a sample itself takes minutes.
    fn fewest_samples(&self) -> usize {
        stats::FEWEST_PAIRS
    }

    /// Whether a first sample of each system is thrown away, since it fills caches.
    fn warms_up(&self) -> bool {
        true
    }

    /// Why it cannot be measured here at all, where that is known before the first sample.
    fn not_measured(&self, _session: &Session) -> Option<String> {
        None
    }

    /// Why a sample cannot be true: a rate beyond the device's peak. The sample is void then.
    fn impossible(&self, _series: &Series, _device: &DeviceInfo) -> Option<String> {
        None
    }

    /// What in a sample breaks the promise that the metric is about.
    fn fault(&self, _series: &Series) -> Option<Fault> {
        None
    }

    /// The part of a sample that is this metric's.
    fn series(&self, sampled: &Series) -> Series {
        sampled.clone()
    }
}

/// All metrics, in the order of reports.
pub static ALL: [&dyn Metric; 30] = [
    &oh_001::LaunchLatency,
    &oh_002::AllocationLatency,
    &oh_003::FreeLatency,
    &oh_004::ProcessStart,
    &oh_005::Interception,
    &oh_006::Contention,
    &oh_007::Tracking,
    &oh_008::RateLimiter,
    &oh_009::Monitoring,
    &oh_010::Degradation,
    &is_001::LimitAccuracy,
    &is_002::RefusalLatency,
    &is_003::ShareAccuracy,
    &is_004::LimitResponse,
    &is_005::MemoryIsolation,
    &is_006::ComputeIsolation,
    &is_007::Consistency,
    &is_008::Fairness,
    &is_009::NoisyNeighbour,
    &is_010::FaultIsolation,
    &llm_001::Attention,
    &llm_002::CacheGrowth,
    &llm_003::BatchScaling,
    &llm_004::TokenLatency,
    &llm_005::PoolEfficiency,
    &llm_006::MultiStream,
    &llm_007::LargeTensor,
    &llm_008::MixedPrecision,
    &llm_009::DynamicBatching,
    &llm_010::MultiGpu,
];

/// The metric `id`, whatever the case of its letters.
pub fn find(id: &str) -> Option<&'static dyn Metric> {
    ALL.into_iter().find(|metric| metric.info().id.eq_ignore_ascii_case(id))
}

/// The metrics of a list of IDs, in the order of reports; all of them for an empty list.
pub fn select(ids: &[String]) -> Result<Vec<&'static dyn Metric>> {
    let unknown: Vec<&str> = ids.iter().map(String::as_str).filter(|id| find(id).is_none()).collect();
    if unknown.iter().any(|id| id.is_empty()) {
        bail!(
            "--metrics has an empty place: give IDs with commas between them, as in OH-002,IS-001, or leave it out for all"
        );
    }
    if !unknown.is_empty() {
        let known: Vec<&str> = ALL.iter().map(|metric| metric.info().id).collect();
        bail!(
            "{} is not a metric of this benchmark: it has {} (`cuota-bench list` explains them)",
            unknown.join(", "),
            known.join(", ")
        );
    }
    let chosen = |metric: &&dyn Metric| {
        ids.is_empty() || ids.iter().any(|id| metric.info().id.eq_ignore_ascii_case(id))
    };
    Ok(ALL.into_iter().filter(chosen).collect())
}

/// The internal job that describes the device to the parent.
pub fn describe_device(request: &Request) -> Result<Work> {
    let info = Device::open(request.device)?.info()?;
    let mut work = Work::default();
    work.facts.insert("device".to_owned(), serde_json::to_string(&info)?);
    Ok(work)
}

/// The internal job that shows whether a cap on GPU time is in force: the rate of a saturating tenant, as the fact
/// `units_per_s`. Without a cap there is no controller that would have to settle first.
pub fn compute_proof(request: &Request) -> Result<Work> {
    let ms = if request.compute_percent < 100 { [1_500, 2_000] } else { [300, 700] };
    let [warm_ns, run_ns] = ms.map(|ms: u64| ms * 1_000_000);
    let gpu = Gpu::open(request.device)?;
    let mut load = loads::open(loads::Kind::Medium, &gpu)?;
    let progress = loads::drive(&gpu, load.as_mut(), now_ns() + warm_ns + run_ns, false, None, 0)?;
    let rate = progress.steady_rate(warm_ns).context("nothing was done after the warm-up")?;
    let mut work = Work::default();
    work.facts.insert("units_per_s".to_owned(), rate.to_string());
    Ok(work)
}

/// The internal job of a tenant that runs workloads.
pub fn load(request: &Request) -> Result<Work> {
    loads::work(request)
}

/// Reads what [`describe_device`] wrote.
pub fn device_of(work: &Work) -> Result<DeviceInfo> {
    match work.facts.get("device") {
        Some(text) => Ok(serde_json::from_str(text)?),
        None => bail!("the worker did not describe the device"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(list: &[&str]) -> Result<Vec<&'static str>> {
        let list: Vec<String> = list.iter().map(|id| (*id).to_owned()).collect();
        Ok(select(&list)?.into_iter().map(|metric| metric.info().id).collect())
    }

    #[test]
    fn every_metric_has_an_id_of_its_own() {
        let unique: BTreeSet<&str> = ALL.iter().map(|metric| metric.info().id).collect();
        assert_eq!(unique.len(), ALL.len());
    }

    #[test]
    fn ids_are_selected_in_the_order_of_reports_and_in_any_case() {
        assert_eq!(ids(&["is-002", "OH-002"]).unwrap(), ["OH-002", "IS-002"]);
        assert_eq!(ids(&[]).unwrap().len(), ALL.len());
    }

    #[test]
    fn an_empty_place_in_the_list_is_not_a_metric_without_a_name() {
        for list in [&[""][..], &["OH-002", ""]] {
            assert!(ids(list).unwrap_err().to_string().starts_with("--metrics has an empty place"));
        }
    }

    #[test]
    fn an_unknown_metric_is_answered_with_the_known_ones() {
        let error = ids(&["OH-002", "OH-999"]).unwrap_err().to_string();
        assert!(error.starts_with("OH-999 is not a metric") && error.contains("IS-001"), "{error}");
    }
}
