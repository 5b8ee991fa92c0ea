//! OH-002: what an allocation costs.

use anyhow::Result;

use super::{Comparison, Info, Metric, Presumes, allocation};
use crate::stats::Direction;
use crate::worker::{Series, Tenant, Work};

/// Time of one allocation call.
pub(super) struct AllocationLatency;

static INFO: Info = Info {
    id: "OH-002",
    name: "Allocation latency",
    unit: "µs",
    direction: Direction::Lower,
    headline: "plain 64 KiB, block in use",
    in_process: &["plain 64 KiB: added by the hook, in process"],
    comparison: Comparison::AddedToNative,
    method: "each allocation of alloc/free pairs timed, clock cost subtracted; a process counts by the median of means of 16 calls; by path and size, with another live allocation in the same block, none, and 10,000; added by the hook: the function as found and the driver's own in alternating blocks of 20 calls (4 of 2 MiB), median over quads of blocks",
    presumes: Presumes::Nothing,
};

impl Metric for AllocationLatency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        allocation::work(tenant)
    }

    fn series(&self, sampled: &Series) -> Series {
        allocation::only("alloc", sampled)
    }
}
