//! IS-002: how fast an allocation over the limit is refused while the device still has room.

use anyhow::{Context, Result, bail};

use super::{Comparison, Info, Metric, Presumes};
use crate::gpu::{Gpu, Plain, fill};
use crate::stats::{self, Direction};
use crate::system;
use crate::units::{BLOCK_BYTES, bytes_text};
use crate::worker::{Measure, Tenant, Work};

/// Time of a refused allocation.
pub(super) struct RefusalLatency;

static INFO: Info = Info {
    id: "IS-002",
    name: "Limit enforcement time",
    unit: "µs",
    direction: Direction::Lower,
    headline: "full, one block more: typical",
    in_process: &[],
    comparison: Comparison::Limit,
    method: "each refused cuMemAlloc timed, clock cost subtracted, while the device has room: one block of 2 MiB more in a full tenant, and limit + 2 MiB at once in an empty one; the first refusal of a process apart",
    presumes: Presumes::Memory,
};

/// Refusals timed in each state.
const CALLS: usize = 10_000;

impl Metric for RefusalLatency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let request = tenant.request;
        let _gpu = Gpu::open(request.device)?;
        let mut work = Work::default();
        let over_bytes = request.limit_bytes + BLOCK_BYTES;
        let first_ns = refused_ns(tenant, over_bytes)?;
        work.series.insert("first refusal of a process".to_owned(), Measure::single(first_ns / 1e3, "µs"));
        self.state(tenant, "empty, limit + 2 MiB", over_bytes, &mut work)?;
        let ceiling_bytes = system::ceiling_bytes(request.limit_bytes);
        let filled =
            fill(request.limit_bytes, ceiling_bytes, |bytes| Plain.take(bytes)).context("filling")?;
        if !filled.refused {
            bail!("{} were granted and nothing was refused", bytes_text(filled.granted_bytes));
        }
        self.state(tenant, "full, one block more", BLOCK_BYTES, &mut work)?;
        for taken in filled.taken {
            Plain.give(taken)?;
        }
        Ok(work)
    }
}

impl RefusalLatency {
    /// Records the typical time and the 99th percentile of refusals of `bytes`.
    fn state(&self, tenant: &Tenant<'_>, name: &str, bytes: u64, work: &mut Work) -> Result<()> {
        let calls = tenant.request.effort.calls(CALLS);
        let values_ns = (0..calls)
            .map(|_| refused_ns(tenant, bytes))
            .collect::<Result<Vec<f64>>>()
            .context(name.to_owned())?;
        let p99 = stats::quantile(&values_ns, 0.99).map(|p99| p99 / 1e3);
        let typical = Measure::of_short_calls_us(&values_ns);
        work.series.extend(typical.map(|measure| (format!("{name}: typical"), measure)));
        work.series
            .extend(p99.map(|p99| (format!("{name}: p99"), Measure { calls, ..Measure::single(p99, "µs") })));
        Ok(())
    }
}

/// The time of one allocation that must be refused for want of memory, in nanoseconds.
fn refused_ns(tenant: &Tenant<'_>, bytes: u64) -> Result<f64> {
    let size = usize::try_from(bytes)?;
    let (took_ns, answer) = tenant.clock.time(|| Plain.take(size));
    match answer {
        Err(error) if error.is_out_of_memory() => Ok(took_ns),
        Err(error) => Err(error).context("a refusal must be CUDA_ERROR_OUT_OF_MEMORY"),
        Ok(taken) => {
            Plain.give(taken)?;
            bail!("an allocation of {} over the limit was granted", bytes_text(bytes))
        }
    }
}
