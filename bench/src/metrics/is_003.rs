//! IS-003: how near the share of the GPU's time that a tenant gets is to its cap.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Kind, Plan, Progress, alone};
use super::neighbours::{Between, OfTurn};
use super::{Comparison, Info, Metric, Presumes};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::worker::{Effort, Measure, Series, Tenant, Work};

/// Achieved shares against caps, for nine workloads and five caps.
pub(super) struct ShareAccuracy;

static INFO: Info = Info {
    id: "IS-003",
    name: "SM (GPU-time) limit accuracy",
    unit: "%",
    direction: Direction::Higher,
    headline: "accuracy",
    in_process: &[],
    comparison: Comparison::Limit,
    method: "nine workloads at caps of 10, 25, 50, 75 and 90 % (the middle three with --quick), a process for each cap between native ones; share = rate / native rate x occupancy, the occupancy measured in a native process of its own, once a turn; 100 less the mean distance of share and cap in points; and the same at the native runs' clock of the device; a cell with a cap of the occupancy or more is left out of the mean and must show 99 % of native's rate",
    presumes: Presumes::Compute,
};

/// What the workloads occupy natively.
static OCCUPANCIES: OfTurn<Vec<(Kind, f64)>> = OfTurn::new();
/// All workloads natively: after one sample, and so before the next.
static NATIVE: Between<Vec<Ran>> = Between::new();

const CAPS: [u32; 5] = [10, 25, 50, 75, 90];
/// Windows of the coefficient of variation.
const WINDOW_NS: u64 = 100_000_000;
/// What a workload that the cap does not reach must keep of native's rate, in per cent.
const UNTOUCHED: f64 = 99.0;

impl Metric for ShareAccuracy {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, _tenant: &Tenant<'_>) -> Result<Work> {
        Ok(Work::default()) // All is done by tenants that run workloads.
    }

    fn fewest_samples(&self) -> usize {
        2
    }

    fn warms_up(&self) -> bool {
        false
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let effort = launcher.session.effort;
        let warm_ns = by_effort_ns(effort, [400, 400, 500]);
        let run_ns = warm_ns + by_effort_ns(effort, [800, 1_200, 2_000]);
        let run = |launcher: &Launcher<'_>| run_all(launcher, run_ns, warm_ns);
        let native = || run(&launcher.native());
        let occupancies = OCCUPANCIES.get(launcher, |native| occupancies(native, run_ns / 2));
        let occupancies = occupancies.context("native occupancy")?;
        let before = NATIVE.take(launcher).map_or_else(native, Ok);
        let mut natives = vec![before.context("native")?];
        let mut capped = Vec::new();
        for cap in caps(effort) {
            let at_cap = launcher.clone().with_compute(*cap);
            capped.push((*cap, run(&at_cap).with_context(|| format!("at a cap of {cap} %"))?));
            if effort == Effort::Full {
                natives.push(native().context("native")?);
            }
        }
        let after = native().context("native")?;
        NATIVE.keep(launcher, after.clone());
        natives.push(after);
        let cells = cells(&natives, &occupancies, &capped, warm_ns)?;
        let mut series = summary(&cells);
        series.extend(cells.iter().map(Cell::series));
        series.extend(time_series(&natives, &capped, warm_ns));
        Ok(series)
    }
}

fn caps(effort: Effort) -> &'static [u32] {
    match effort {
        Effort::Quick => &CAPS[1..4],
        Effort::Standard | Effort::Full => &CAPS,
    }
}

/// One workload of one process.
#[derive(Clone, Debug)]
struct Ran {
    progress: Progress,
    /// The median clock of the multiprocessors meanwhile; `None` where NVML does not tell.
    mhz: Option<f64>,
}

/// Runs all nine workloads in one process, and looks at the device's clock meanwhile.
fn run_all(launcher: &Launcher<'_>, run_ns: u64, warm_ns: u64) -> Result<Vec<Ran>> {
    let work = || alone(launcher, &Plan::of_all(&Kind::NINE, run_ns));
    let (all, clocks) = match &launcher.session.monitor {
        Some(monitor) => monitor.clock_during(work),
        None => (work(), Vec::new()),
    };
    let ran = |progress: Progress| {
        let steady = progress.from_ns + warm_ns..progress.steady_end_ns();
        let mhz: Vec<f64> = clocks
            .iter()
            .filter(|sample| steady.contains(&sample.at_ns))
            .map(|sample| f64::from(sample.mhz))
            .filter(|mhz| *mhz > 0.0)
            .collect();
        Ran { mhz: stats::median(&mhz), progress }
    };
    Ok(all?.into_iter().map(ran).collect())
}

/// One workload at one cap.
#[derive(Clone, Debug)]
struct Cell {
    kind: Kind,
    cap: f64,
    /// Native occupancy in per cent.
    occupancy: f64,
    /// Rate over native's, in per cent.
    of_native: f64,
    /// The device's clock over that of the native runs; 1 for work that is waited for, whose rate does not follow it.
    clock: Option<f64>,
    /// Coefficient of variation over windows of 100 ms.
    variation: Option<f64>,
}

impl Cell {
    /// What of the GPU's time it got, in per cent.
    fn share(&self) -> f64 {
        self.of_native * self.occupancy / 100.0
    }

    /// False where the workload by itself takes no more than the cap.
    fn is_capped(&self) -> bool {
        self.cap < self.occupancy - 1.0
    }

    /// How far the share is from what it should be, in points.
    fn distance(&self) -> f64 {
        (self.share() - self.cap).abs()
    }

    /// The same, of the share that it would have had if the device's clock had been that of the native runs. A card that reaches its
    /// power limit natively clocks down; under a cap it does not, and does more in the same part of its time.
    fn distance_at_one_clock(&self) -> Option<f64> {
        Some((self.share() / self.clock? - self.cap).abs())
    }

    fn series(&self) -> (String, Measure) {
        let name = format!("{} at cap {}", self.kind.text(), self.cap);
        (name, Measure::single(self.share(), "%"))
    }
}

/// What part of the time each workload that is waited for occupies the device natively. In a process of its own: the timing
/// events around each unit, about 2 µs of the device's time each on an H100, are none of the rates that are compared.
fn occupancies(native: &Launcher<'_>, run_ns: u64) -> Result<Vec<(Kind, f64)>> {
    let all = alone(native, &Plan::of_all(&Kind::WAITED_FOR, run_ns).with_occupancy())?;
    let of = |(progress, kind): (&Progress, Kind)| {
        Ok((kind, progress.occupancy.with_context(|| format!("{}: too few units", kind.text()))?))
    };
    all.iter().zip(Kind::WAITED_FOR).map(of).collect()
}

/// The cells of all caps, against the medians of the native processes; a workload that is not in `occupancies` is never
/// waited for and occupies the device always.
fn cells(
    natives: &[Vec<Ran>],
    occupancies: &[(Kind, f64)],
    capped: &[(u32, Vec<Ran>)],
    warm_ns: u64,
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for (number, kind) in Kind::NINE.into_iter().enumerate() {
        let rates: Vec<f64> =
            natives.iter().filter_map(|all| all.get(number)?.progress.steady_rate(warm_ns)).collect();
        let native_mhz: Vec<f64> = natives.iter().filter_map(|all| all.get(number)?.mhz).collect();
        let native_mhz = stats::median(&native_mhz);
        let native_rate =
            stats::median(&rates).with_context(|| format!("{}: too few units natively", kind.text()))?;
        let occupancy = occupancies.iter().find(|(known, _)| *known == kind).map_or(1.0, |known| known.1);
        for (cap, all) in capped {
            let Ran { progress, mhz } = all.get(number).context("a workload is missing")?;
            let rate = progress.steady_rate(warm_ns).unwrap_or_else(|| progress.units_rate());
            cells.push(Cell {
                kind,
                cap: f64::from(*cap),
                occupancy: 100.0 * occupancy,
                of_native: 100.0 * rate / native_rate,
                clock: if Kind::WAITED_FOR.contains(&kind) {
                    Some(1.0)
                } else {
                    mhz.zip(native_mhz).map(|(capped, native)| capped / native)
                },
                variation: progress.variation(warm_ns, WINDOW_NS),
            });
        }
    }
    Ok(cells)
}

fn summary(cells: &[Cell]) -> Series {
    let mut series = Series::new();
    let mut record = |name: &str, value: f64, unit: &str| {
        series.insert(name.to_owned(), Measure::single(value, unit));
    };
    let capped: Vec<&Cell> = cells.iter().filter(|cell| cell.is_capped()).collect();
    let distances: Vec<f64> = capped.iter().map(|cell| cell.distance()).collect();
    if !distances.is_empty() {
        record(INFO.headline, 100.0 - distances.iter().sum::<f64>() / distances.len() as f64, "%");
        record("worst cell: distance", distances.iter().copied().fold(0.0, f64::max), "points");
    }
    let at_one_clock: Vec<f64> = capped.iter().filter_map(|cell| cell.distance_at_one_clock()).collect();
    if !at_one_clock.is_empty() && at_one_clock.len() == capped.len() {
        let mean = at_one_clock.iter().sum::<f64>() / at_one_clock.len() as f64;
        record("accuracy at native's clock", 100.0 - mean, "%");
        let worst = at_one_clock.iter().copied().fold(0.0, f64::max);
        record("worst cell at native's clock: distance", worst, "points");
    }
    let variations: Vec<f64> = capped.iter().filter_map(|cell| cell.variation).collect();
    if let Some(median) = stats::median(&variations) {
        record("CV over windows of 100 ms, median", median, "");
    }
    let free: Vec<f64> = cells.iter().filter(|cell| !cell.is_capped()).map(|cell| cell.of_native).collect();
    if let Some(worst) = free.iter().copied().reduce(f64::min) {
        record("cap above occupancy: worst part of native (99 or more)", worst, "%");
        let kept = free.iter().filter(|part| **part >= UNTOUCHED).count();
        record("cap above occupancy: cells that keep 99 %", 100.0 * kept as f64 / free.len() as f64, "%");
    }
    for kind in Kind::NINE {
        let clocks: Vec<f64> =
            cells.iter().filter(|cell| cell.kind == kind).filter_map(|cell| cell.clock).collect();
        if let Some(clock) = stats::median(&clocks).filter(|_| !Kind::WAITED_FOR.contains(&kind)) {
            record(&format!("{}: clock under caps, of native's", kind.text()), 100.0 * clock, "%");
        }
        if let Some(cell) = cells.iter().find(|cell| cell.kind == kind) {
            record(&format!("{}: native occupancy", kind.text()), cell.occupancy, "%");
        }
    }
    series
}

/// The share over time at the middle cap, for 100 µs kernels.
fn time_series(natives: &[Vec<Ran>], capped: &[(u32, Vec<Ran>)], warm_ns: u64) -> Option<(String, Measure)> {
    const STEP_NS: u64 = 20_000_000;
    let number = Kind::NINE.iter().position(|kind| *kind == Kind::Medium)?;
    let native_rate = natives.first()?.get(number)?.progress.steady_rate(warm_ns)?;
    let (cap, all) = capped.get(capped.len() / 2)?;
    let progress = &all.get(number)?.progress;
    let windows = progress.windows(progress.from_ns, progress.steady_end_ns(), STEP_NS);
    let point = |(n, rate): (usize, &f64)| [(n as u64 * STEP_NS) as f64 / 1e6, 100.0 * rate / native_rate];
    let curve = windows.iter().enumerate().map(point).take(500).collect();
    let name = format!("time series: {} at cap {cap}", Kind::Medium.text());
    Some((name, Measure::single(f64::from(*cap), "%").with_curve(curve)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cap: f64, occupancy: f64, of_native: f64) -> Cell {
        Cell { kind: Kind::Medium, cap, occupancy, of_native, clock: Some(1.0), variation: Some(0.1) }
    }

    #[test]
    fn occupancy_and_clock_are_those_of_the_device_where_nobody_waits() {
        let ran = |units: u64, mhz: f64| {
            let mut progress = Progress::from(0);
            (1..=100).for_each(|ms: u64| progress.mark(ms * 1_000_000, ms * units));
            Ran { progress, mhz: Some(mhz) }
        };
        let (natives, capped) = (vec![vec![ran(10, 1_500.0); 9]], vec![(50, vec![ran(5, 1_650.0); 9])]);
        let cells = cells(&natives, &[(Kind::Training, 0.25)], &capped, 0).unwrap();
        let of = |kind: Kind| cells.iter().find(|cell| cell.kind == kind).unwrap();
        assert!((of(Kind::Training).share() - 12.5).abs() < 1e-6);
        assert!((of(Kind::Small).share() - 50.0).abs() < 1e-6);
        assert!((of(Kind::Small).clock.unwrap() - 1.1).abs() < 1e-9);
        assert_eq!(of(Kind::SyncEach).clock, Some(1.0));
    }

    #[test]
    fn a_share_is_speed_times_occupancy() {
        // A training step that occupies a quarter of the GPU, at 40 % of its speed: a tenth of the GPU.
        let cell = cell(10.0, 25.0, 40.0);
        assert!((cell.share() - 10.0).abs() < 1e-9);
        assert!(cell.is_capped() && cell.distance() < 1e-9);
    }

    #[test]
    fn a_cap_that_the_workload_does_not_reach_is_left_out_of_the_mean_and_must_not_slow_it() {
        let cells = [
            cell(50.0, 100.0, 47.0),
            cell(25.0, 100.0, 26.0),
            cell(50.0, 25.0, 98.0),
            cell(24.5, 25.0, 100.0),
        ];
        let series = summary(&cells);
        assert!((series["accuracy"].value - 98.0).abs() < 1e-9);
        assert!((series["worst cell: distance"].value - 3.0).abs() < 1e-9);
        assert!((series["cap above occupancy: worst part of native (99 or more)"].value - 98.0).abs() < 1e-9);
        assert!((series["cap above occupancy: cells that keep 99 %"].value - 50.0).abs() < 1e-9);
    }

    #[test]
    fn what_a_higher_clock_did_is_told_apart() {
        // Half of the time at a clock that is a tenth higher than the native one: 55 % of the native speed.
        let faster = Cell { clock: Some(1.1), ..cell(50.0, 100.0, 55.0) };
        let series = summary(&[faster]);
        assert!((series["accuracy"].value - 95.0).abs() < 1e-9);
        assert!((series["accuracy at native's clock"].value - 100.0).abs() < 1e-9);
    }

    #[test]
    fn no_limit_at_all_is_as_far_from_the_cap_as_it_is() {
        let series = summary(&[cell(10.0, 100.0, 100.0), cell(50.0, 100.0, 100.0)]);
        assert!((series["accuracy"].value - 30.0).abs() < 1e-9);
    }
}
