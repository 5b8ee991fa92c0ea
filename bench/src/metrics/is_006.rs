//! IS-006: what neighbours take from a tenant that has its own share.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Part, Plan, progress_of, together};
use super::{Comparison, Info, Metric, Presumes};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Effort, Measure, Series, Tenant, Work};

/// A tenant's rate beside aggressors against its rate alone.
pub(super) struct ComputeIsolation;

static INFO: Info = Info {
    id: "IS-006",
    name: "Compute isolation",
    unit: "%",
    direction: Direction::Higher,
    headline: "mean over cells",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "a tenant with 100 µs kernels and a cap of 1/(N+1) beside N aggressors of the same cap (kernels of 1 ms, memory copies, empty kernels, allocations, graphs; with --quick the first two and N = 1) against the same tenant at the same cap alone, alone measured before and after; natively without caps",
    presumes: Presumes::Compute,
};

/// Aggressors.
const AGGRESSORS: [Kind; 5] = [Kind::Long, Kind::Bandwidth, Kind::LaunchStorm, Kind::AllocStorm, Kind::Graph];

impl Metric for ComputeIsolation {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, _tenant: &Tenant<'_>) -> Result<Work> {
        Ok(Work::default()) // All is done by tenants that run workloads.
    }

    fn fewest_samples(&self) -> usize {
        3
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let cells = cells(launcher.session.effort);
        let most = cells.iter().map(|cell| cell.1).max().unwrap_or(1);
        // A B B A: alone, all cells, all cells' other half of the controls.
        let controls = |launcher: &Launcher<'_>| -> Result<Vec<f64>> {
            (1..=most).map(|count| rate(launcher, None, count)).collect()
        };
        let before = controls(launcher).context("alone, before")?;
        let mut beside = Vec::new();
        for (kind, count) in &cells {
            let rate = rate(launcher, Some(*kind), *count);
            beside.push(rate.with_context(|| format!("beside {count} x {}", kind.text()))?);
        }
        let after = controls(launcher).context("alone, after")?;
        let mut series = Series::new();
        let mut sum = 0.0;
        for ((kind, count), rate) in cells.iter().zip(&beside) {
            let alone = (before[count - 1] + after[count - 1]) / 2.0;
            let kept = 100.0 * rate / alone;
            sum += kept;
            series.insert(format!("beside {count} x {}", kind.text()), Measure::single(kept, "%"));
        }
        series.insert(INFO.headline.to_owned(), Measure::single(sum / cells.len() as f64, "%"));
        Ok(series)
    }
}

/// Kinds and numbers of aggressors.
fn cells(effort: Effort) -> Vec<(Kind, usize)> {
    match effort {
        Effort::Quick => vec![(Kind::Long, 1), (Kind::Bandwidth, 1)],
        Effort::Standard => {
            let one = AGGRESSORS.into_iter().map(|kind| (kind, 1));
            one.chain([(Kind::Long, 2), (Kind::Long, 3)]).collect()
        }
        Effort::Full => AGGRESSORS.into_iter().flat_map(|kind| (1..=3).map(move |n| (kind, n))).collect(),
    }
}

/// The tenant's rate at a cap for one of `count` + 1, beside so many aggressors, or alone.
fn rate(launcher: &Launcher<'_>, aggressor: Option<Kind>, count: usize) -> Result<f64> {
    let effort = launcher.session.effort;
    let warm_ns = by_effort_ns(effort, [400, 400, 500]);
    let run_ns = warm_ns + by_effort_ns(effort, [800, 800, 2_000]);
    let cap = 100 / u32::try_from(count + 1)?;
    let tenant = |name: &str, kind: Kind| {
        Part::load(&launcher.clone().tenant(name).with_compute(cap), &Plan::of(kind, run_ns))
    };
    let mut parts = vec![tenant("victim", Kind::Medium)?];
    if let Some(kind) = aggressor {
        for number in 0..count {
            parts.push(tenant(&format!("aggressor-{number}"), kind)?);
        }
    }
    let (go_ns, works) = together(&parts)?;
    let progress = progress_of(works.first().context("the tenant left nothing")?)?;
    let progress = progress.first().context("the tenant did nothing")?;
    Ok(progress.rate(go_ns + warm_ns, go_ns + run_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_run_has_every_aggressor_in_every_number() {
        assert_eq!(cells(Effort::Full).len(), 15);
        assert!(cells(Effort::Standard).contains(&(Kind::AllocStorm, 1)));
    }
}
