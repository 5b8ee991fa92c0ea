//! OH-004: what starting a process costs. One process under the system, which does not touch CUDA itself, starts fresh
//! programs as a container's shell does, in turns with the system's variables and without: the system's own launching
//! command, which is run once a tenant, is not in the figure.

use anyhow::Result;

use super::start_parts::{self, PART_NAMES};
use super::start_programs::{Starter, TRUE_ADDED};
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Device, Gpu, Touch};
use crate::stats::{self, Direction};
use crate::worker::{Measure, Request, Series, Tenant, Window, Work};

/// Time from exec to the first finished kernel, and its parts.
pub(super) struct ProcessStart;

/// The sum of what the parts add.
const BY_PARTS: &str = "added to the start, by parts";

static INFO: Info = Info {
    id: "OH-004",
    name: "Process start and context creation",
    unit: "µs",
    direction: Direction::Lower,
    headline: "exec to first kernel done",
    in_process: &[BY_PARTS, TRUE_ADDED],
    comparison: Comparison::AddedToNative,
    method: "fresh programs started by a tenant: exec to first kernel done, and its parts; added by parts: the sum of what the system adds to exec to main, to opening the driver, to the first cuInit, to the first call that joins, to the first booking, and to cuCtxCreate, each measured in one process or spawn beside spawn; `true`, which never touches CUDA, spawned with the system and without it by turns",
    presumes: Presumes::Nothing,
};

/// CUDA programs that one sample starts from beginning to end.
const WHOLE_STARTS: usize = 2;
/// Processes that one sample asks what their first calls cost.
const FIRST_CALLS: usize = 2;

/// A started program that uses the primary context up to its first kernel.
const WHOLE: &str = "whole";
/// Started programs that measure parts.
const OPEN: &str = "open";
const FIRST: &str = "first";
const CONTEXT: &str = "context";

impl Metric for ProcessStart {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        match tenant.request.variant.as_str() {
            WHOLE => first_kernel(tenant.request),
            OPEN => start_parts::open(),
            FIRST => start_parts::first_calls(tenant),
            CONTEXT => start_parts::context(tenant),
            _ => start_programs(tenant),
        }
    }
}

/// The tenant that starts the others.
fn start_programs(tenant: &Tenant<'_>) -> Result<Work> {
    let request = tenant.request;
    let starter = Starter::new(request)?;
    starter.prove()?;
    let mut series = starter.true_by_turns()?;
    series.extend(starter.workers_by_turns(OPEN)?);
    for (variant, starts) in [(WHOLE, request.effort.calls(WHOLE_STARTS)), (FIRST, FIRST_CALLS), (CONTEXT, 1)]
    {
        let replies = (0..starts).map(|_| starter.worker(variant)).collect::<Result<Vec<_>>>()?;
        for (name, measure) in medians(&replies) {
            // What was measured by turns stands.
            series.entry(name).or_insert(measure);
        }
    }
    let parts: Vec<f64> = PART_NAMES.iter().filter_map(|name| Some(series.get(*name)?.value)).collect();
    if parts.len() == PART_NAMES.len() {
        series.insert(BY_PARTS.to_owned(), Measure::difference(parts.iter().sum(), "µs"));
    }
    Ok(Work { series, ..Work::default() })
}

/// The median of each series of several processes.
fn medians(replies: &[Series]) -> Series {
    let of = |(name, first): (&String, &Measure)| {
        let measures: Vec<&Measure> = replies.iter().filter_map(|series| series.get(name)).collect();
        let values: Vec<f64> = measures.iter().map(|measure| measure.value).collect();
        let calls = measures.iter().map(|measure| measure.calls).sum();
        Some((name.clone(), Measure { value: stats::median(&values)?, calls, ..first.clone() }))
    };
    replies.first().into_iter().flatten().filter_map(of).collect()
}

/// The started program: the driver, the primary context, a module, one kernel.
fn first_kernel(request: &Request) -> Result<Work> {
    let mut work = Work::default();
    let from_ns = now_ns();
    let device = Device::open(request.device)?;
    let initialised_ns = now_ns();
    let gpu = Gpu::retain_primary(device)?;
    let retained_ns = now_ns();
    let mut kernel = Touch::load(&gpu)?;
    kernel.launch()?;
    gpu.synchronize()?;
    let done_ns = now_ns();
    // The software GPU waits instead of computing: there is nothing to check.
    if !request.simulated {
        kernel.verify()?;
    }
    for (name, span_ns) in [
        ("open the driver and cuInit", initialised_ns - from_ns),
        ("primary context", retained_ns - initialised_ns),
        ("first module and kernel", done_ns - retained_ns),
    ] {
        work.series.insert(name.to_owned(), Measure::single(span_ns as f64 / 1e3, "µs"));
    }
    work.windows.push(Window { name: INFO.headline.to_owned(), from_ns, to_ns: done_ns });
    Ok(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_processes_count_by_the_median_of_each_series() {
        let one = |value: f64| Series::from([("part".to_owned(), Measure::difference(value, "µs"))]);
        let all = medians(&[one(1.0), one(9.0), one(2.0)]);
        assert!((all["part"].value - 2.0).abs() < 1e-9);
        assert_eq!((all["part"].calls, all["part"].is_difference), (3, true));
    }
}
