//! What OH-002 and OH-003 measure together: each call of pairs of an allocation and its free, by path and size, with one
//! other allocation alive in the same block of the driver, with none, and with 10,000; and what the hooks add.

use anyhow::{Context, Result, bail};

use super::hooked_paths;
use crate::clock::now_ns;
use crate::gpu::{CudaError, Gpu, Plain, Pool, Taken, Vmm};
use crate::units::{BLOCK_BYTES, GIB, MIB, bytes_text};
use crate::worker::{Measure, Series, Tenant, Work};

/// Sizes of plain allocations, in bytes.
const PLAIN_SIZES: [u64; 6] = [256, 64 << 10, MIB, 2 * MIB, 64 * MIB, GIB];
/// The size on the pool.
const POOL_SIZE: u64 = 64 << 10;
/// Allocations alive in the second half: enough that a list walked by each free shows.
const LIVE: usize = 10_000;
/// Their size; 625 MiB in all.
const LIVE_BYTES: usize = 64 << 10;
/// The state of the first half, in names of series.
const NONE_LIVE: &str = "none live";
/// Live blocks that are freed again, here and there: so that the timed small allocations find room in blocks that the
/// driver holds already, with many live allocations as with none.
const HOLES: usize = 16;
/// Allocations that are tried until one lands in a block that another has made the driver's.
const NEIGHBOURS: usize = 64;
/// Calls that are not counted, at the start of each series.
const WARM_UP: usize = 16;
/// A series ends at its number of calls, or at this time once it has [`FEWEST`].
const SERIES_NS: u64 = 40_000_000;
const CALLS: usize = 2_000;
const FEWEST: usize = 100;

/// Measures all series in one process; names are `alloc/...` and `free/...`.
pub(super) fn work(tenant: &Tenant<'_>) -> Result<Work> {
    let gpu = Gpu::open(tenant.request.device)?;
    let mut timed = Timed { tenant, work: Work::default() };
    timed.block_in_use()?;
    hooked_paths::work(tenant, &gpu, &mut timed.work)?;
    timed.all_paths(&gpu, NONE_LIVE)?;
    let live = live_allocations().context("making the live allocations")?;
    timed.all_paths(&gpu, "10000 live")?;
    for taken in live {
        Plain.give(taken).context("freeing the live allocations")?;
    }
    Ok(timed.work)
}

/// 10,000 live allocations with room for a few more in the blocks that hold them.
fn live_allocations() -> Result<Vec<Taken>, CudaError> {
    let mut live = (0..LIVE + HOLES).map(|_| Plain.take(LIVE_BYTES)).collect::<Result<Vec<_>, _>>()?;
    for hole in 0..HOLES {
        let taken = live.swap_remove(hole * (LIVE / HOLES));
        Plain.give(taken)?;
    }
    Ok(live)
}

/// Live allocations of `bytes` such that the next one lands in a block of one of them: the driver then neither takes a
/// block from the device nor gives one back, and the call alone is timed. `None` where the driver shares no block so.
fn neighbours(bytes: usize) -> Result<Option<Vec<Taken>>, CudaError> {
    let mut live: Vec<Taken> = Vec::new();
    for _ in 0..NEIGHBOURS {
        let next = Plain.take(bytes)?;
        if live.iter().any(|taken| taken.block() == next.block()) {
            Plain.give(next)?;
            return Ok(Some(live));
        }
        live.push(next);
    }
    for taken in live {
        Plain.give(taken)?;
    }
    Ok(None)
}

struct Timed<'a> {
    tenant: &'a Tenant<'a>,
    work: Work,
}

impl Timed<'_> {
    /// The sizes that share blocks, beside a live allocation in the same one.
    fn block_in_use(&mut self) -> Result<()> {
        for bytes in PLAIN_SIZES.into_iter().filter(|bytes| *bytes < BLOCK_BYTES) {
            let name = format!("plain {}, block in use", bytes_text(bytes));
            let size = usize::try_from(bytes)?;
            let Some(live) = neighbours(size).with_context(|| name.clone())? else {
                if size == LIVE_BYTES {
                    bail!("{name}: of {NEIGHBOURS} allocations no two landed in one block of 2 MiB");
                }
                continue;
            };
            self.pairs(&name, &mut Plain, |plain| plain.take(size), Plain::give)?;
            for taken in live {
                Plain.give(taken)?;
            }
        }
        Ok(())
    }

    fn all_paths(&mut self, gpu: &Gpu, live: &str) -> Result<()> {
        // The largest one and 10,000 live ones do not fit the smallest limit together.
        let sizes = if live == NONE_LIVE { &PLAIN_SIZES[..] } else { &PLAIN_SIZES[..PLAIN_SIZES.len() - 1] };
        for bytes in sizes.iter().copied() {
            let name = format!("plain {}, {live}", bytes_text(bytes));
            let size = usize::try_from(bytes)?;
            self.pairs(&name, &mut Plain, |plain| plain.take(size), Plain::give)?;
        }
        let mut pool = Pool::new(gpu)?;
        let name = format!("pool {}, {live}", bytes_text(POOL_SIZE));
        let size = usize::try_from(POOL_SIZE)?;
        self.pairs(&name, &mut pool, |pool| pool.take(size), Pool::give)?;
        pool.settle()?;
        let mut vmm = Vmm::new(gpu, GIB)?;
        let name = format!("vmm {}, {live}", bytes_text(BLOCK_BYTES));
        let size = usize::try_from(BLOCK_BYTES)?;
        self.pairs(&name, &mut vmm, |vmm| vmm.take(size), Vmm::give)
    }

    /// Times each call of take and give in turn, the clock's cost subtracted, and records both series.
    fn pairs<P>(
        &mut self,
        name: &str,
        path: &mut P,
        mut take: impl FnMut(&mut P) -> Result<Taken, CudaError>,
        mut give: impl FnMut(&mut P, Taken) -> Result<(), CudaError>,
    ) -> Result<()> {
        let calls = self.tenant.request.effort.calls(CALLS).max(FEWEST);
        let (mut alloc_ns, mut free_ns) = (Vec::with_capacity(calls), Vec::with_capacity(calls));
        let end_ns = now_ns() + SERIES_NS;
        for call in 0..calls + WARM_UP {
            if alloc_ns.len() >= FEWEST && now_ns() >= end_ns {
                break;
            }
            let (took_ns, taken) = self.tenant.clock.time(|| take(path));
            let taken = taken.with_context(|| format!("allocating: {name}"))?;
            let (gave_ns, given) = self.tenant.clock.time(|| give(path, taken));
            given.with_context(|| format!("freeing: {name}"))?;
            if call >= WARM_UP {
                alloc_ns.push(took_ns);
                free_ns.push(gave_ns);
            }
        }
        for (kind, values_ns) in [("alloc", alloc_ns), ("free", free_ns)] {
            if let Some(measure) = Measure::of_short_calls_us(&values_ns) {
                self.work.series.insert(format!("{kind}/{name}"), measure);
            }
        }
        Ok(())
    }
}

/// Keeps the series of one kind, `alloc` or `free`, under their names without it.
pub(super) fn only(kind: &str, series: &Series) -> Series {
    series
        .iter()
        .filter_map(|(name, measure)| {
            let (of, rest) = name.split_once('/')?;
            (of == kind).then(|| (rest.to_owned(), measure.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_sees_only_its_own_series() {
        let series = Series::from([
            ("alloc/plain 64 KiB, none live".to_owned(), Measure::single(1.0, "µs")),
            ("free/plain 64 KiB, none live".to_owned(), Measure::single(2.0, "µs")),
        ]);
        let free = only("free", &series);
        assert_eq!(free.len(), 1);
        assert!((free["plain 64 KiB, none live"].value - 2.0).abs() < 1e-9);
    }
}
