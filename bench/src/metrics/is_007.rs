//! IS-007: how steadily a tenant gets on beside another one.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Part, Plan, Progress, progress_of, together};
use super::{Comparison, Info, Metric, Presumes, figures};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// How much the time for equal pieces of work varies under contention.
pub(super) struct Consistency;

static INFO: Info = Info {
    id: "IS-007",
    name: "QoS consistency",
    unit: "CV",
    direction: Direction::Lower,
    headline: "20 ms of work: CV",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "two tenants at half of the GPU each, one with 100 µs kernels, the other with kernels of 1 ms: the coefficient of variation and p99/p50 of the times in which the first gets 20 ms of work done (200 kernels), and 5 ms; natively without caps",
    presumes: Presumes::Compute,
};

/// Pieces of work, in units of 100 µs.
const PIECES: [(u64, &str); 2] = [(200, "20 ms of work"), (50, "5 ms of work")];

impl Metric for Consistency {
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
        let warm_ns = by_effort_ns(effort, [400, 500, 500]);
        let run_ns = warm_ns + by_effort_ns(effort, [1_500, 3_000, 5_000]);
        let tenant = |name: &str, kind: Kind| {
            Part::load(&launcher.clone().tenant(name).with_compute(50), &Plan::of(kind, run_ns))
        };
        let (_, works) = together(&[tenant("one", Kind::Medium)?, tenant("other", Kind::Long)?])?;
        let progress = progress_of(works.first().context("the tenant left nothing")?)?;
        let progress = progress.first().context("the tenant did nothing")?;
        let mut series = Series::new();
        for (units, name) in PIECES {
            let times_ms = piece_times_ms(progress, warm_ns, units);
            let mut record = |what: &str, value: Option<f64>, unit: &str| {
                let measure = value.map(|v| Measure { calls: times_ms.len(), ..Measure::single(v, unit) });
                series.extend(measure.map(|measure| (format!("{name}: {what}"), measure)));
            };
            record("CV", figures::variation(&times_ms), "CV");
            let tail = stats::quantile(&times_ms, 0.99).zip(stats::median(&times_ms));
            record("p99 / p50", tail.map(|(p99, p50)| p99 / p50), "ratio");
            let curve = figures::distribution(&times_ms);
            if let Some(median) = stats::median(&times_ms) {
                let measure = Measure::single(median, "ms").with_curve(curve);
                series.insert(format!("distribution: time of {name}"), measure);
            }
        }
        Ok(series)
    }
}

/// The times in which each piece of `units` was done after the warm-up, in milliseconds.
fn piece_times_ms(progress: &Progress, warm_ns: u64, units: u64) -> Vec<f64> {
    let from_ns = progress.from_ns + warm_ns;
    let mut edges = Vec::new();
    for (at_ns, done) in progress.marks_ns().filter(|mark| mark.0 >= from_ns) {
        if edges.last().is_none_or(|(_, last)| done >= last + units as f64) {
            edges.push((at_ns, done));
        }
    }
    edges.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64 / 1e6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pieces_take_equal_times_and_a_stall_shows_in_one() {
        let mut progress = Progress::from(0);
        for n in 1..=100_u64 {
            let stall_ns = if n > 50 { 100_000_000 } else { 0 };
            progress.mark(n * 1_000_000 + stall_ns, n * 10);
        }
        let times = piece_times_ms(&progress, 0, 200);
        assert_eq!(times.len(), 5);
        assert!((times[0] - 20.0).abs() < 0.01);
        assert!((times.iter().copied().fold(0.0, f64::max) - 120.0).abs() < 0.01);
    }
}
