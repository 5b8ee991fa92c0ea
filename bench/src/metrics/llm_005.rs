//! LLM-005: what is left of a pool's advantage over plain allocation.

use anyhow::{Context, Result};

use super::control::beside_native;
use super::{Comparison, Info, Metric, Presumes};
use crate::gpu::{CudaError, Gpu, Plain, Pool};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::units::{BLOCK_BYTES, MIB, bytes_text};
use crate::worker::{Measure, Series, Tenant, Work};

/// Pool against plain allocation.
pub(super) struct PoolEfficiency;

static INFO: Info = Info {
    id: "LLM-005",
    name: "Memory-pool efficiency",
    unit: "%",
    direction: Direction::Lower,
    headline: "2 MiB, hit: overhead",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "pool allocation and free / plain allocation and free, for 64 KiB to 16 MiB, where the pool has the memory (hit) and where it must take it (miss, the pool trimmed before): the ratio under the system / the ratio natively, less one, from neighbouring processes of one sample; natively the same, as a control",
    presumes: Presumes::Memory,
};

const SIZES: [u64; 4] = [64 << 10, MIB, BLOCK_BYTES, 16 * MIB];
/// Pairs of a figure.
const HITS: usize = 400;
const MISSES: usize = 60;

impl Metric for PoolEfficiency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let mut work = Work::default();
        for bytes in SIZES {
            let size = usize::try_from(bytes)?;
            let plain = pairs(tenant, HITS, &mut Plain, |p| p.take(size), Plain::give, |_| Ok(()))?;
            let mut pool = Pool::new(&gpu)?;
            let kept = pool.take(size)?; // Alive, so that waiting does not empty the pool.
            let hit = pairs(tenant, HITS, &mut pool, |p| p.take(size), Pool::give, |_| Ok(()))?;
            pool.give(kept)?;
            pool.settle()?;
            let miss = pairs(tenant, MISSES, &mut pool, |p| p.take(size), Pool::give, Pool::settle)?;
            for (what, pool_ns) in [("hit", hit), ("miss", miss)] {
                let name = format!("{}, {what}", bytes_text(bytes));
                work.series.insert(name, Measure::single(pool_ns / plain, "ratio"));
            }
        }
        Ok(work)
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let run = |launcher: &Launcher<'_>| Ok(launcher.run(INFO.id, "")?.series);
        let [native, system] = beside_native(launcher, run)?;
        let mut series = Series::new();
        for (name, ratio) in &system {
            let native = native.get(name).context("the native control has other sizes")?;
            let overhead = 100.0 * (ratio.value / native.value - 1.0);
            series.insert(format!("{name}: overhead"), Measure::difference(overhead, "%"));
            series.insert(format!("{name}: pool / plain"), ratio.clone());
        }
        Ok(series)
    }
}

/// The median of the time of a pair, in nanoseconds, with `between` before each one.
fn pairs<P, T>(
    tenant: &Tenant<'_>,
    calls: usize,
    path: &mut P,
    mut take: impl FnMut(&mut P) -> Result<T, CudaError>,
    mut give: impl FnMut(&mut P, T) -> Result<(), CudaError>,
    mut between: impl FnMut(&mut P) -> Result<(), CudaError>,
) -> Result<f64> {
    let mut values_ns = Vec::with_capacity(calls);
    for call in 0..calls + 10 {
        between(path)?;
        let (took_ns, taken) = tenant.clock.time(|| take(path));
        let taken = taken?;
        let (gave_ns, given) = tenant.clock.time(|| give(path, taken));
        given?;
        if call >= 10 {
            values_ns.push(took_ns + gave_ns);
        }
    }
    stats::median(&values_ns).context("no pair was timed")
}
