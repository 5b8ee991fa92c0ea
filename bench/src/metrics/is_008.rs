//! IS-008: whether tenants get what they are entitled to, in proportion.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Part, Plan, Progress, alone, progress_of, together};
use super::neighbours::OfTurn;
use super::{Comparison, Info, Metric, Presumes, figures};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Effort, Measure, Series, Tenant, Work};

/// Jain's index over useful work by entitlement.
pub(super) struct Fairness;

static INFO: Info = Info {
    id: "IS-008",
    name: "Fairness",
    unit: "index",
    direction: Direction::Higher,
    headline: "4 equal, different kernels: Jain's index",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "tenants that run together: rate / native rate alone (measured once a turn) / entitlement for each, Jain's index over them, and the worst of them; four equal ones with kernels of 5 µs, 100 µs, 1 ms and a graph, two equal ones (not with --quick), and two of 75 and 25 % with 100 µs; natively without caps, so that unequal ones are not asked for",
    presumes: Presumes::Compute,
};

/// The kinds natively, each alone.
static SOLO: OfTurn<Vec<Progress>> = OfTurn::new();

/// Tenants that run together: their kinds and entitlements in per cent.
const GROUPS: [(&str, &[(Kind, u32)]); 3] = [
    (
        "4 equal, different kernels",
        &[(Kind::Small, 25), (Kind::Medium, 25), (Kind::Long, 25), (Kind::Graph, 25)],
    ),
    ("2 equal", &[(Kind::Medium, 50), (Kind::Medium, 50)]),
    ("75 and 25 %", &[(Kind::Medium, 75), (Kind::Medium, 25)]),
];

impl Metric for Fairness {
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
        const KINDS: [Kind; 4] = [Kind::Small, Kind::Medium, Kind::Long, Kind::Graph];
        let effort = launcher.session.effort;
        let warm_ns = by_effort_ns(effort, [400, 400, 500]);
        let run_ns = warm_ns + by_effort_ns(effort, [800, 1_200, 3_000]);
        let plan = Plan::of_all(&KINDS, run_ns / 2);
        let solo = SOLO.get(launcher, |native| alone(native, &plan)).context("native, alone")?;
        let solo_rate = |kind: Kind| {
            let number = KINDS.iter().position(|known| *known == kind)?;
            solo.get(number)?.steady_rate(warm_ns / 2)
        };
        let mut series = Series::new();
        for (name, tenants) in groups(effort) {
            let parts = tenants.iter().zip(["a", "b", "c", "d"]).map(|((kind, percent), tenant)| {
                let launcher = launcher.clone().tenant(tenant).with_compute(*percent);
                Part::load(&launcher, &Plan::of(*kind, run_ns))
            });
            let (go_ns, works) = together(&parts.collect::<Result<Vec<_>>>()?).context(name)?;
            let mut parts_of_due = Vec::new();
            for (work, (kind, percent)) in works.iter().zip(tenants) {
                let progress = progress_of(work)?.into_iter().next().context("a tenant did nothing")?;
                let rate = progress.rate(go_ns + warm_ns, go_ns + run_ns);
                let solo = solo_rate(*kind).with_context(|| format!("{}: nothing natively", kind.text()))?;
                parts_of_due.push(100.0 * rate / solo / f64::from(*percent));
            }
            let jain = figures::jain(&parts_of_due).context("nobody did anything")?;
            let worst = parts_of_due.iter().copied().fold(f64::INFINITY, f64::min);
            series.insert(format!("{name}: Jain's index"), Measure::single(jain, "index"));
            series.insert(format!("{name}: worst tenant, of its due"), Measure::single(100.0 * worst, "%"));
        }
        Ok(series)
    }
}

/// The groups that are asked: the fewest are four equal tenants, and two unequal ones.
fn groups(effort: Effort) -> impl Iterator<Item = (&'static str, &'static [(Kind, u32)])> {
    GROUPS.into_iter().filter(move |(name, _)| effort != Effort::Quick || *name != "2 equal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entitlements_are_the_whole_gpu() {
        for (name, tenants) in GROUPS {
            assert_eq!(tenants.iter().map(|tenant| tenant.1).sum::<u32>(), 100, "{name}");
        }
        assert!(INFO.headline.starts_with(GROUPS[0].0));
        assert_eq!((groups(Effort::Quick).count(), groups(Effort::Full).count()), (2, 3));
    }
}
