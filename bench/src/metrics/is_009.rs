//! IS-009: what a saturating neighbour costs a tenant that has work now and then.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Part, Plan, Progress, alone, progress_of, together};
use super::neighbours::OfTurn;
use super::serving::{self, Service};
use super::{Comparison, Info, Metric, Presumes};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// Slowdown of bursts of decoder steps beside a neighbour that never pauses.
pub(super) struct NoisyNeighbour;

static INFO: Info = Info {
    id: "IS-009",
    name: "Noisy neighbour impact",
    unit: "%",
    direction: Direction::Lower,
    headline: "step inside a burst: p50: slower by",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "bursts of 20 decoder steps, arriving as a Poisson process (fixed seed) that keeps half of the GPU's time busy alone, each step waited for, beside a tenant with 1 ms kernels that never pauses, both capped at 50 %: against the same bursts under the same system alone; the neighbour's rate against native's alone (measured once a turn); natively without caps, so the driver's slicing",
    presumes: Presumes::Compute,
};

/// The neighbour's kernels natively.
static NATIVE: OfTurn<Vec<Progress>> = OfTurn::new();

const STEPS: u32 = 20;
/// What is compared.
const NAMES: [&str; 4] = [
    "step inside a burst: p50",
    "step inside a burst: p99",
    "first step after idle: p50",
    "first step after idle: p99",
];

impl Metric for NoisyNeighbour {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        serving::work(tenant)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let run_ns = by_effort_ns(launcher.session.effort, [1_500, 3_000, 6_000]);
        let step_ns = serving::native_step_ns(launcher, INFO.id)?;
        let service = Service::at_duty(0.5, step_ns, 1, STEPS, run_ns);
        let server = launcher.clone().tenant("bursts").with_compute(50);
        let neighbour = launcher.clone().tenant("neighbour").with_compute(50);
        let (_, before) = together(&[Part::job(&server, INFO.id, service.text()?)?]).context("alone")?;
        let parts = [
            Part::job(&server, INFO.id, service.text()?)?,
            Part::load(&neighbour, &Plan::of(Kind::Long, run_ns))?,
        ];
        let (go_ns, beside) = together(&parts).context("beside the neighbour")?;
        let plan = Plan::of(Kind::Long, run_ns / 4);
        let native = NATIVE.get(launcher, |native| alone(native, &plan)).context("native, alone")?;
        let native_rate = native.first().and_then(|progress| progress.steady_rate(run_ns / 16));
        let native_rate = native_rate.context("nothing was done natively")?;
        let (alone_series, beside_series) = (
            &before.first().context("nothing alone")?.series,
            &beside.first().context("nothing beside")?.series,
        );
        let mut series = Series::new();
        for name in NAMES {
            let (Some(alone), Some(beside)) = (alone_series.get(name), beside_series.get(name)) else {
                continue;
            };
            let slower = 100.0 * (beside.value / alone.value - 1.0);
            series.insert(
                format!("{name}: slower by"),
                Measure { is_difference: false, ..Measure::difference(slower, "%") },
            );
            series.insert(format!("{name}: alone"), alone.clone());
            series.insert(format!("{name}: beside"), beside.clone());
        }
        let curves = beside_series.iter().filter(|(name, _)| name.starts_with("distribution: "));
        series.extend(curves.map(|(name, measure)| (name.clone(), measure.clone())));
        let progress = progress_of(beside.get(1).context("the neighbour left nothing")?)?;
        let rate = progress.first().map_or(0.0, |p| p.rate(go_ns + run_ns / 8, go_ns + run_ns));
        series.insert(
            "neighbour: of native alone".to_owned(),
            Measure::single(100.0 * rate / native_rate, "%"),
        );
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_is_one_of_the_compared_times() {
        assert_eq!(INFO.headline, format!("{}: slower by", NAMES[0]));
    }
}
