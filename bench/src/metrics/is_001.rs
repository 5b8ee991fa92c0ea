//! IS-001: how exactly a memory limit is kept, from below (what can be had) and from above (what NVML sees).

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Comparison, Fault, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Filled, Further, Gpu, PathKind, Plain, Pool, Taker, Vmm, fill};
use crate::nvml::MemorySample;
use crate::stats::Direction;
use crate::system::{self, Launcher, Tracked};
use crate::units::mib;
use crate::worker::{Measure, Series, Tenant, Window, Work};

/// Bytes granted against the limit, for each path.
pub(super) struct LimitAccuracy;

static INFO: Info = Info {
    id: "IS-001",
    name: "Memory limit accuracy",
    unit: "%",
    direction: Direction::Higher,
    headline: "plain: granted",
    in_process: &[],
    comparison: Comparison::Limit,
    method: "a fresh process for each path (plain, the default pool, mapped memory, a pool of its own, arrays, a graph's node) takes all it can, to one block of 2 MiB: granted / (limit - what NVML shows before the first allocation); and NVML's maximum for the process in 10 ms samples / limit, which must not exceed 100",
    presumes: Presumes::Memory,
};

/// How long a state is held still for the sampler, which looks each 10 ms.
const HOLD: Duration = Duration::from_millis(120);
/// The state before the first allocation: the context alone.
const BEFORE: &str = "before";
/// The fact that holds the sum of what was granted.
const GRANTED: &str = "granted_bytes";
/// The fact that names a refusal that is no CUDA error.
const UNDEFINED: &str = "undefined_refusal";
/// The end of the names of series of what was granted against the whole limit.
const OF_LIMIT: &str = "granted / limit";
/// The end of the names of series of what NVML saw against the limit.
const SEEN: &str = "NVML's maximum / limit";

impl Metric for LimitAccuracy {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let request = tenant.request;
        let gpu = Gpu::open(request.device)?;
        let mut work = Work::default();
        work.windows.push(hold(BEFORE));
        let limit_bytes = request.limit_bytes;
        let ceiling_bytes = system::ceiling_bytes(limit_bytes);
        let filled: Filled = match request.variant.as_str() {
            "plain" => fill(limit_bytes, ceiling_bytes, |bytes| Plain.take(bytes)),
            "pool" => {
                let mut pool = Pool::new(&gpu)?;
                fill(limit_bytes, ceiling_bytes, |bytes| pool.take(bytes))
            }
            "vmm" => {
                let mut vmm = Vmm::new(&gpu, ceiling_bytes)?;
                fill(limit_bytes, ceiling_bytes, |bytes| vmm.take(bytes))
            }
            other => match Further::ALL.into_iter().find(|path| path.text() == other) {
                Some(path) => {
                    let mut taker = Taker::new(&gpu, path)?;
                    let largest_bytes = limit_bytes.min(path.largest_bytes());
                    fill(largest_bytes, ceiling_bytes, |bytes| taker.take(bytes))
                }
                None => bail!("`{other}` is not a path"),
            },
        }?;
        work.windows.push(hold("full"));
        work.facts.insert(GRANTED.to_owned(), filled.granted_bytes.to_string());
        let undefined = filled.undefined.map(|error| (UNDEFINED.to_owned(), error.to_string()));
        work.facts.extend(undefined);
        Ok(work)
    }

    /// What is granted is the same in each process, to the block.
    fn fewest_samples(&self) -> usize {
        3
    }

    fn warms_up(&self) -> bool {
        false
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let mut series = Series::new();
        for path in paths() {
            let tracked = launcher.run_tracked(INFO.id, path).with_context(|| path)?;
            let figures = Figures::of(&tracked, launcher.session.limit_bytes).with_context(|| path)?;
            figures.add_to(&mut series, path);
        }
        Ok(series)
    }

    fn fault(&self, series: &Series) -> Option<Fault> {
        let over = |suffix: &str| {
            let text = |(name, measure): (&String, &Measure)| {
                let is_over = name.ends_with(suffix) && measure.value > 100.0;
                is_over.then(|| format!("{name} is {:.2} %", measure.value))
            };
            let all: Vec<String> = series.iter().filter_map(text).collect();
            (!all.is_empty()).then(|| all.join("; "))
        };
        over(OF_LIMIT).map(Fault::NotEnforced).or_else(|| over(SEEN).map(Fault::Exceeded))
    }
}

/// Every path by its name, the timed ones first.
fn paths() -> impl Iterator<Item = &'static str> {
    PathKind::ALL.into_iter().map(PathKind::text).chain(Further::ALL.into_iter().map(Further::text))
}

fn hold(name: &str) -> Window {
    let from_ns = now_ns();
    thread::sleep(HOLD);
    Window { name: name.to_owned(), from_ns, to_ns: now_ns() }
}

/// What one path gave under the limit.
#[derive(Debug, PartialEq)]
struct Figures {
    granted_percent: f64,
    of_limit_percent: f64,
    seen_percent: f64,
    overhead_mib: f64,
    over_mib: f64,
    refuses_as_cuda: bool,
}

impl Figures {
    fn of(tracked: &Tracked, limit_bytes: u64) -> Result<Self> {
        let granted_bytes: u64 =
            tracked.work.facts.get(GRANTED).context("the worker did not say what it was granted")?.parse()?;
        let window = tracked.work.windows.iter().find(|window| window.name == BEFORE);
        let window = window.context("the worker did not say when it was empty")?;
        let overhead_bytes = overhead_bytes(&tracked.samples, window)
            .context("NVML showed nothing of the process before its first allocation")?;
        let seen_bytes = tracked.samples.iter().map(|sample| sample.bytes).max().unwrap_or(0);
        let grantable_bytes = limit_bytes.checked_sub(overhead_bytes).filter(|bytes| *bytes > 0);
        let grantable_bytes = grantable_bytes.context("the context alone is larger than the limit")?;
        Ok(Self {
            granted_percent: 100.0 * granted_bytes as f64 / grantable_bytes as f64,
            of_limit_percent: 100.0 * granted_bytes as f64 / limit_bytes as f64,
            seen_percent: 100.0 * seen_bytes as f64 / limit_bytes as f64,
            overhead_mib: mib(overhead_bytes),
            over_mib: mib(seen_bytes.saturating_sub(limit_bytes)),
            refuses_as_cuda: !tracked.work.facts.contains_key(UNDEFINED),
        })
    }

    fn add_to(&self, series: &mut Series, path: &str) {
        for (name, value, unit) in [
            ("granted", self.granted_percent, "%"),
            (OF_LIMIT, self.of_limit_percent, "%"),
            (SEEN, self.seen_percent, "%"),
            ("overhead", self.overhead_mib, "MiB"),
            ("over the limit", self.over_mib, "MiB"),
            ("refuses with a CUDA error", f64::from(u8::from(self.refuses_as_cuda)), "pass"),
        ] {
            series.insert(format!("{path}: {name}"), Measure::single(value, unit));
        }
    }
}

/// The median of what NVML showed while the process held nothing but its context.
fn overhead_bytes(samples: &[MemorySample], window: &Window) -> Option<u64> {
    let within = |sample: &&MemorySample| (window.from_ns..=window.to_ns).contains(&sample.at_ns);
    let mut bytes: Vec<u64> = samples.iter().filter(within).map(|sample| sample.bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, MIB};

    fn tracked(granted_bytes: u64, seen: &[(u64, u64)]) -> Tracked {
        let mut work = Work::default();
        work.facts.insert(GRANTED.to_owned(), granted_bytes.to_string());
        work.windows.push(Window { name: BEFORE.to_owned(), from_ns: 100, to_ns: 200 });
        let samples = seen.iter().map(|&(at_ns, bytes)| MemorySample { at_ns, pid: 1, bytes }).collect();
        Tracked { work, samples }
    }

    #[test]
    fn granting_all_that_the_context_leaves_is_a_hundred_per_cent() {
        let tracked = tracked(8 * GIB - 500 * MIB, &[(50, 9), (110, 500 * MIB), (300, 8 * GIB)]);
        let figures = Figures::of(&tracked, 8 * GIB).unwrap();
        assert!((figures.granted_percent - 100.0).abs() < 1e-9);
        assert!((figures.seen_percent - 100.0).abs() < 1e-9);
        assert!((figures.overhead_mib - 500.0).abs() < 1e-9);
        assert!(figures.over_mib.abs() < 1e-9);
    }

    #[test]
    fn a_single_sample_over_the_limit_is_seen() {
        let tracked = tracked(7 * GIB, &[(110, 500 * MIB), (300, 8 * GIB + 16 * MIB), (310, 7 * GIB)]);
        let figures = Figures::of(&tracked, 8 * GIB).unwrap();
        assert!(figures.seen_percent > 100.0);
        assert!((figures.over_mib - 16.0).abs() < 1e-9);
        let mut series = Series::new();
        figures.add_to(&mut series, PathKind::Plain.text());
        let fault = LimitAccuracy.fault(&series);
        assert!(matches!(fault, Some(Fault::Exceeded(what)) if what.contains("plain: NVML's maximum")));
    }

    #[test]
    fn a_path_that_grants_more_than_the_limit_is_not_enforced() {
        let tracked = tracked(9 * GIB, &[(110, 500 * MIB), (300, 9 * GIB + 500 * MIB)]);
        let mut series = Series::new();
        Figures::of(&tracked, 8 * GIB).unwrap().add_to(&mut series, PathKind::Pool.text());
        let fault = LimitAccuracy.fault(&series);
        assert!(matches!(fault, Some(Fault::NotEnforced(what)) if what.contains("pool: granted")));
    }

    #[test]
    fn a_refusal_that_is_no_cuda_error_is_counted_and_shown() {
        let mut tracked = tracked(7 * GIB, &[(110, 500 * MIB)]);
        let shown = |tracked: &Tracked| {
            let mut series = Series::new();
            Figures::of(tracked, 8 * GIB).unwrap().add_to(&mut series, PathKind::Pool.text());
            series["pool: refuses with a CUDA error"].value
        };
        assert_eq!(shown(&tracked), 1.0);
        tracked.work.facts.insert(UNDEFINED.to_owned(), "cuMemAllocAsync returned -1".to_owned());
        assert_eq!(shown(&tracked), 0.0);
    }

    #[test]
    fn a_process_that_nvml_never_showed_is_an_error_and_no_figure() {
        assert!(Figures::of(&tracked(7 * GIB, &[(300, 8 * GIB)]), 8 * GIB).is_err());
    }
}
