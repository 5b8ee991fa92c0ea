//! OH-003: what a free costs. Measured by the same processes as OH-002.

use anyhow::Result;

use super::{Comparison, Info, Metric, Presumes, allocation, oh_002};
use crate::stats::Direction;
use crate::worker::{Series, Tenant, Work};

/// Time of one free call.
pub(super) struct FreeLatency;

static INFO: Info = Info {
    id: "OH-003",
    name: "Free latency",
    unit: "µs",
    direction: Direction::Lower,
    headline: "plain 64 KiB, block in use",
    in_process: &["plain 64 KiB: added by the hook, in process"],
    comparison: Comparison::AddedToNative,
    method: "each free of alloc/free pairs timed, clock cost subtracted; a process counts by the median of means of 16 calls; by path and size, with another live allocation in the same block, none, and 10,000; added by the hook: the function as found and the driver's own in alternating blocks of 20 calls (4 of 2 MiB), median over quads of blocks",
    presumes: Presumes::Nothing,
};

impl Metric for FreeLatency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        allocation::work(tenant)
    }

    fn sampled_as(&self) -> &'static str {
        oh_002::AllocationLatency.info().id
    }

    fn series(&self, sampled: &Series) -> Series {
        allocation::only("free", sampled)
    }
}
