//! OH-010: what is left of a program's speed when nothing is withheld from it.

use anyhow::{Context, Result};

use super::control::{beside_native, by_effort_ns};
use super::loads::{Kind, Plan, alone};
use super::{Comparison, Info, Metric, Presumes, figures};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// Throughput at a limit of 100 % against native's.
pub(super) struct Degradation;

static INFO: Info = Info {
    id: "OH-010",
    name: "Throughput degradation",
    unit: "%",
    direction: Direction::Lower,
    headline: "geometric mean: lost",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "bf16 products, training steps, decoder steps by graph and 5 µs kernels under the system without a cap, beside a native control in the same sample, first by turns: 100 x (1 - rate / native rate) for each, and of the geometric mean of the ratios; natively the same, as a control",
    presumes: Presumes::Nothing,
};

const KINDS: [Kind; 4] = [Kind::Matmul, Kind::Training, Kind::Decode, Kind::Small];

impl Metric for Degradation {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, _tenant: &Tenant<'_>) -> Result<Work> {
        Ok(Work::default()) // All is done by tenants that run workloads.
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let effort = launcher.session.effort;
        let warm_ns = by_effort_ns(effort, [150, 300, 500]);
        let plan = Plan::of_all(&KINDS, warm_ns + by_effort_ns(effort, [300, 700, 1_500]));
        let [native, system] = beside_native(launcher, |launcher| {
            let all = alone(launcher, &plan)?;
            let rate = |(progress, kind): (&super::loads::Progress, Kind)| {
                progress.steady_rate(warm_ns).with_context(|| format!("{}: too few units", kind.text()))
            };
            all.iter().zip(KINDS).map(rate).collect::<Result<Vec<f64>>>()
        })?;
        let ratios: Vec<f64> = system.iter().zip(&native).map(|(system, native)| system / native).collect();
        let mut series = Series::new();
        let mut record = |name: &str, ratio: f64| {
            series.insert(format!("{name}: lost"), Measure::difference(100.0 * (1.0 - ratio), "%"));
        };
        for (kind, ratio) in KINDS.into_iter().zip(&ratios) {
            record(kind.text(), *ratio);
        }
        record("geometric mean", figures::geometric_mean(&ratios).context("a rate is not positive")?);
        Ok(series)
    }
}
