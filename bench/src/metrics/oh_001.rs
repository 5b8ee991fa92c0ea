//! OH-001: what submitting a kernel costs.

use anyhow::Result;

use super::launching::Ready;
use super::{Comparison, Info, Metric, Presumes};
use crate::gpu::Gpu;
use crate::stats::Direction;
use crate::worker::{Tenant, Work};

/// Time of one launch call.
pub(super) struct LaunchLatency;

static INFO: Info = Info {
    id: "OH-001",
    name: "Kernel launch latency",
    unit: "µs",
    direction: Direction::Lower,
    headline: "cuLaunchKernel: submit",
    in_process: &[
        "cuLaunchKernel: added by the hook, in process",
        "cuLaunchKernelEx: added by the hook, in process",
        "cuGraphLaunch: added by the hook, in process",
    ],
    comparison: Comparison::AddedToNative,
    method: "an empty kernel submitted in batches of 50 on an empty queue, waited for between batches and not within: time of a batch / 50, clock cost subtracted; apart, launch to done one at a time; added by the hook: the function as found and the driver's own in alternating batches, median over quads",
    presumes: Presumes::Nothing,
};

impl Metric for LaunchLatency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let ready = Ready::new(&gpu)?;
        let mut work = Work::default();
        ready.series(tenant, &mut work)?;
        ready.in_process(tenant, &mut work)?;
        Ok(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::launching::{Way, added_name};

    #[test]
    fn what_is_shown_at_the_top_has_the_names_that_are_measured() {
        let names: Vec<String> = Way::ALL.into_iter().map(added_name).collect();
        assert_eq!(INFO.in_process, names);
        assert_eq!(INFO.headline, format!("{}: submit", Way::Launch.text()));
    }
}
