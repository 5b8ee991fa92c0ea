//! OH-006: what it costs that many processes keep their books in one place.

use std::time::Duration;

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Part, together};
use super::{Comparison, Info, Metric, Presumes, figures};
use crate::clock::now_ns;
use crate::gpu::{Gpu, Plain};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::units::MIB;
use crate::worker::{Effort, Measure, Page, Series, Tenant, Work};

/// Allocations by many processes of one tenant.
pub(super) struct Contention;

static INFO: Info = Info {
    id: "OH-006",
    name: "Shared-region contention",
    unit: "µs",
    direction: Direction::Lower,
    headline: "4 processes: pair, p50",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "1, 2, 4, 8, 16 (--full: 64 too, --quick: 1 and 4) processes of one tenant allocate and free 64 KiB from one start on, another allocation alive in the block: median over processes of the p50 and p99 of a pair; the slope of p50 over the number of processes",
    presumes: Presumes::Memory,
};

/// What a process may take of the tenant's limit: its context, and a block.
const PROCESS_BYTES: u64 = 700 * MIB;
/// The size.
const BYTES: usize = 64 << 10;
/// Pairs that are not counted.
const WARM_UP: usize = 500;
/// The longest wait for the other processes.
const PATIENCE: Duration = Duration::from_secs(100);

impl Metric for Contention {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let request = tenant.request;
        let page = Page::open(request.shared.as_deref().context("this job needs a shared page")?)?;
        let _gpu = Gpu::open(request.device)?;
        let live = Plain.take(BYTES)?;
        let mut values_ns = Vec::with_capacity(1 << 20);
        for _ in 0..WARM_UP {
            Plain.give(Plain.take(BYTES)?)?;
        }
        let end_ns = page.wait_for_go(PATIENCE)? + by_effort_ns(request.effort, [200, 500, 1_000]);
        while now_ns() < end_ns {
            let (took_ns, pair) = tenant.clock.time(|| Plain.give(Plain.take(BYTES)?));
            pair?;
            values_ns.push(took_ns);
        }
        Plain.give(live)?;
        let mut work = Work::default();
        work.series.extend(Measure::of_calls_us(&values_ns).map(|measure| ("pair".to_owned(), measure)));
        Ok(work)
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let launcher = launcher.clone().tenant("region");
        let mut series = Series::new();
        let mut points = Vec::new();
        for count in counts(launcher.session.effort, launcher.session.limit_bytes) {
            let parts = (0..count)
                .map(|_| Part::job(&launcher, INFO.id, String::new()))
                .collect::<Result<Vec<_>>>()?;
            let (_, works) = together(&parts).with_context(|| format!("{count} processes"))?;
            let pairs: Vec<&Measure> = works.iter().filter_map(|work| work.series.get("pair")).collect();
            let p50 = stats::median(&pairs.iter().map(|pair| pair.value).collect::<Vec<_>>());
            let p99 = stats::median(&pairs.iter().filter_map(|pair| pair.p99).collect::<Vec<_>>());
            let calls = pairs.iter().map(|pair| pair.calls).sum();
            for (name, value) in [("p50", p50), ("p99", p99)] {
                let measure = value.map(|value| Measure { calls, ..Measure::single(value, "µs") });
                series.extend(measure.map(|measure| (format!("{count} processes: pair, {name}"), measure)));
            }
            points.extend(p50.map(|p50| [f64::from(count), p50]));
        }
        if let Some((slope, _)) = figures::line(&points) {
            // The driver's own processes meet too: what a system adds is its slope less native's.
            series.insert("slope over processes".to_owned(), Measure::single(slope, "µs a process"));
        }
        Ok(series)
    }
}

/// The numbers of processes that the limit has room for.
fn counts(effort: Effort, limit_bytes: u64) -> impl Iterator<Item = u32> {
    let most = match effort {
        Effort::Quick => 4,
        Effort::Standard => 16,
        Effort::Full => 64,
    };
    let fits = move |count: &u32| {
        *count <= most && u64::from(*count) * PROCESS_BYTES <= limit_bytes.max(4 * PROCESS_BYTES)
    };
    let is_asked = move |count: &u32| effort != Effort::Quick || *count != 2;
    [1, 2, 4, 8, 16, 64].into_iter().filter(fits).filter(is_asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    #[test]
    fn no_more_processes_are_started_than_the_limit_has_room_for() {
        let list = |effort, limit| counts(effort, limit).collect::<Vec<_>>();
        assert_eq!(list(Effort::Quick, 40 * GIB), [1, 4]);
        assert_eq!(list(Effort::Full, 8 * GIB), [1, 2, 4, 8]);
        assert_eq!(list(Effort::Full, 64 * GIB), [1, 2, 4, 8, 16, 64]);
        assert!(list(Effort::Quick, 2 * GIB).contains(&4));
    }
}
