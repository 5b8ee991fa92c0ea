//! IS-004: how soon a changed cap is in force.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Part, Plan, Progress, alone, progress_of, together_with};
use super::neighbours::OfTurn;
use super::{Comparison, Fault, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Measure, NotMeasured, Series, Tenant, Work};

/// Time from a change of the cap to a share that keeps it.
pub(super) struct LimitResponse;

static INFO: Info = Info {
    id: "IS-004",
    name: "SM limit response time",
    unit: "ms",
    direction: Direction::Lower,
    headline: "75 to 25 %: settled after",
    in_process: &[],
    comparison: Comparison::Limit,
    method: "the cap of a tenant with 100 µs kernels is changed from 75 to 25 % and back while it runs; the smallest time after the change returned such that for the next second the work done since then stays within one quantum (20 ms x cap) and one unit of cap x time; and by how much GPU time it is exceeded at most",
    presumes: Presumes::Compute,
};

/// The same kernels natively.
static NATIVE: OfTurn<Vec<Progress>> = OfTurn::new();

/// The caps before and after.
const STEPS: [[u32; 2]; 2] = [[75, 25], [25, 75]];
/// The period of a quantum.
const PERIOD_NS: f64 = 20e6;
/// How long a share must be kept.
const KEPT_NS: u64 = 1_000_000_000;

impl Metric for LimitResponse {
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
        let before_ns = by_effort_ns(effort, [1_000, 1_200, 2_000]);
        let run_ns = before_ns + KEPT_NS + by_effort_ns(effort, [500, 1_500, 3_000]);
        let native = NATIVE.get(launcher, |native| alone(native, &Plan::of(Kind::Medium, before_ns)))?;
        let native_rate = native.first().and_then(|progress| progress.steady_rate(before_ns / 4));
        let native_rate = native_rate.context("nothing was done natively")?;
        let mut series = Series::new();
        for [from, to] in STEPS {
            let launcher = launcher.clone().tenant("changed").with_compute(from);
            let mut changed_ns = None;
            let part = Part::load(&launcher, &Plan::of(Kind::Medium, run_ns))?;
            let (_, works) = together_with(&[part], |_, go_ns| {
                thread::sleep(Duration::from_nanos((go_ns + before_ns).saturating_sub(now_ns())));
                if launcher.set_compute(to)? {
                    changed_ns = Some(now_ns());
                }
                Ok(())
            })?;
            let changed_ns = changed_ns.ok_or_else(|| {
                NotMeasured::because("the system has no way to change a cap while a tenant runs")
            })?;
            let work = works.first().context("the tenant left nothing")?;
            let progress = progress_of(work)?.into_iter().next().context("the tenant did nothing")?;
            let response = Response::of(&progress, native_rate, f64::from(to) / 100.0, changed_ns);
            response.add_to(&mut series, &format!("{from} to {to} %"), run_ns - before_ns);
        }
        Ok(series)
    }

    fn fault(&self, series: &Series) -> Option<Fault> {
        let is_never =
            |(name, measure): &(&String, &Measure)| name.ends_with(AT_ALL) && measure.value < 100.0;
        let never: Vec<&str> =
            series.iter().filter(is_never).filter_map(|(name, _)| name.split(':').next()).collect();
        let text = || format!("never settled in a sample: {}; its time is a lower bound", never.join(", "));
        (!never.is_empty()).then(|| Fault::Remark(text()))
    }
}

/// The end of the names of series that say whether a share was ever kept.
const AT_ALL: &str = ": settled at all";

/// What a change led to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Response {
    /// Nanoseconds after the change; none where the share was never kept.
    settled_ns: Option<f64>,
    /// GPU time beyond cap x time since the change, at most, in ns.
    overshoot_ns: f64,
}

impl Response {
    fn of(progress: &Progress, native_rate: f64, cap: f64, changed_ns: u64) -> Self {
        // Work in nanoseconds of GPU time: a unit takes what it takes natively.
        let unit_ns = 1e9 / native_rate;
        let tolerance_ns = PERIOD_NS * cap + unit_ns;
        let marks: Vec<(f64, f64)> = std::iter::once((changed_ns, progress.units_at(changed_ns)))
            .chain(progress.marks_ns().filter(|mark| mark.0 > changed_ns))
            .map(|(at_ns, units)| ((at_ns - changed_ns) as f64, units * unit_ns))
            .collect();
        let start = marks.first().map_or(0.0, |mark| mark.1);
        let beyond = marks.iter().map(|(at_ns, work_ns)| work_ns - start - cap * at_ns);
        let keeps = |from: usize| {
            let (from_ns, from_work_ns) = marks[from];
            let until_ns = from_ns + KEPT_NS as f64;
            let is_seen = marks.last().is_some_and(|last| last.0 >= until_ns);
            let within = |(at_ns, work_ns): &(f64, f64)| {
                (work_ns - from_work_ns - cap * (at_ns - from_ns)).abs() <= tolerance_ns
            };
            is_seen && marks[from..].iter().take_while(|mark| mark.0 <= until_ns).all(within)
        };
        Self {
            settled_ns: (0..marks.len()).find(|from| keeps(*from)).map(|from| marks[from].0),
            overshoot_ns: beyond.fold(0.0, f64::max),
        }
    }

    fn add_to(self, series: &mut Series, name: &str, most_ns: u64) {
        let settled_ms = self.settled_ns.map(|ns| ns / 1e6);
        // Never settled is at least as long as was looked: a lower bound, and said to be one beside it.
        let never = settled_ms.is_none();
        let value = settled_ms.unwrap_or((most_ns - KEPT_NS) as f64 / 1e6);
        series.insert(format!("{name}: settled after"), Measure::single(value, "ms"));
        let did = if never { 0.0 } else { 100.0 };
        series.insert(format!("{name}{AT_ALL}"), Measure::single(did, "%"));
        let overshoot_ms = self.overshoot_ns / 1e6;
        series.insert(format!("{name}: overshoot"), Measure::single(overshoot_ms, "ms of GPU time"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units of 100 µs: 75 % until `late_ms` after the change at 100 ms, then 25 %.
    fn stepped(late_ms: u64) -> Progress {
        let mut progress = Progress::default();
        let (mut units, mut parts) = (0, 0);
        for ms in 1..=2_000_u64 {
            parts += if ms <= 100 + late_ms { 75 } else { 25 };
            while parts >= 10 {
                parts -= 10;
                units += 1;
            }
            progress.mark(ms * 1_000_000, units);
        }
        progress
    }

    #[test]
    fn a_cap_that_holds_at_once_has_no_delay() {
        let response = Response::of(&stepped(0), 10_000.0, 0.25, 100_000_000);
        assert_eq!(response.settled_ns, Some(0.0));
        assert!(response.overshoot_ns < 1e6, "{response:?}");
    }

    #[test]
    fn a_late_change_is_seen_with_its_overshoot() {
        let response = Response::of(&stepped(200), 10_000.0, 0.25, 100_000_000);
        let settled_ms = response.settled_ns.unwrap() / 1e6;
        // Half of each ms is too much: the quantum of 5 ms covers the last 10 of the 200.
        assert!((185.0..=200.0).contains(&settled_ms), "{settled_ms}");
        assert!((response.overshoot_ns / 1e6 - 100.0).abs() < 1.0, "{response:?}");
    }

    #[test]
    fn a_cap_that_is_never_kept_is_never_settled() {
        let response = Response::of(&stepped(1_900), 10_000.0, 0.25, 100_000_000);
        assert_eq!(response.settled_ns, None);
        let mut series = Series::new();
        response.add_to(&mut series, "75 to 25 %", 2 * KEPT_NS);
        let fault = LimitResponse.fault(&series);
        assert!(
            matches!(fault, Some(Fault::Remark(what)) if what.contains("75 to 25 %; its time is a lower bound"))
        );
        assert!(series.values().all(|measure| !measure.is_difference), "a time is not held against zero");
    }
}
