//! OH-007: what it costs to know an allocation again when it is freed, against how many there are.

use anyhow::{Context, Result};

use super::in_process::{Plan, alternate};
use super::{Comparison, Info, Metric, Presumes, figures};
use crate::clock::now_ns;
use crate::gpu::{Both, Functions, Gpu, Plain, check};
use crate::stats::Direction;
use crate::worker::{Measure, Tenant, Work};

/// Time of an allocation and its free against the number of live ones.
pub(super) struct Tracking;

static INFO: Info = Info {
    id: "OH-007",
    name: "Memory tracking",
    unit: "ns",
    direction: Direction::Lower,
    headline: "pair, 100000 live",
    in_process: &["pair, 100000 live: added by the hooks, in process", "slope: added for each 1000 live"],
    comparison: Comparison::AddedToNative,
    method: "a 64 KiB allocation and its free beside 0, 1,000, 10,000 and 100,000 live allocations of 4 KiB; what the hooks add: functions as found and the driver's own in alternating blocks of 10 pairs, median over quads; slope and intercept of the least-squares line through these",
    presumes: Presumes::Memory,
};

/// Numbers of live allocations.
const LIVE: [usize; 4] = [0, 1_000, 10_000, 100_000];
/// Their size: 391 MiB for the most of them.
const LIVE_BYTES: usize = 4 << 10;
/// The size that is allocated and freed.
const BYTES: usize = 64 << 10;
/// Pairs in a block.
const PAIRS: usize = 10;
/// Quads, and what they may take once there are a few: a system that walks a list needs a millisecond a pair.
const QUADS: usize = 300;
const QUADS_NS: u64 = 200_000_000;

impl Metric for Tracking {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let _gpu = Gpu::open(tenant.request.device)?;
        let both = Both::<Functions>::find()?;
        // In the block that pairs land in, so that the driver neither takes a block nor gives one back.
        let _neighbour = Plain.take(BYTES)?;
        let mut work = Work::default();
        let (mut made, mut points) = (0, Vec::new());
        for live in LIVE {
            while made < live {
                // Left to the end of the process: a system with a list would take minutes to free them.
                Plain.take(LIVE_BYTES).with_context(|| format!("live allocation {made}"))?;
                made += 1;
            }
            let quads = tenant.request.effort.calls(QUADS);
            let plan = Plan { quads, fewest: 8, warm_up: 2, budget_ns: QUADS_NS, calls: PAIRS };
            let all = alternate(plan, |side| {
                let functions = both.of(side);
                let from_ns = now_ns();
                for _ in 0..PAIRS {
                    let mut address = 0;
                    // SAFETY: the address is writable, and the same side frees what it has given out.
                    unsafe {
                        check("cuMemAlloc_v2", (functions.cuMemAlloc_v2)(&raw mut address, BYTES))?;
                        check("cuMemFree_v2", (functions.cuMemFree_v2)(address))?;
                    }
                }
                Ok([tenant.clock.elapsed_ns(from_ns, now_ns()) / PAIRS as f64])
            });
            let all = all.with_context(|| format!("{live} live"))?;
            let name = format!("pair, {live} live");
            if let Some(added) = all.added(0, "ns", 1.0) {
                points.push([live as f64 / 1e3, added.value]);
                work.series.insert(format!("{name}: added by the hooks, in process"), added);
            }
            work.series.extend(all.hooked(0, "ns", 1.0).map(|measure| (name, measure)));
        }
        if let Some((slope, intercept)) = figures::line(&points) {
            work.series.insert(INFO.in_process[1].to_owned(), Measure::difference(slope, "ns"));
            work.series
                .insert("intercept: added with none live".to_owned(), Measure::difference(intercept, "ns"));
        }
        Ok(work)
    }
}
