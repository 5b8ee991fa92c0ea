//! LLM-006: whether several streams still overlap.

use anyhow::{Context, Result};

use super::control::{beside_native, by_effort_ns};
use super::loads::BurnWork;
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Gpu, Stream};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// The gain of four streams against natively.
pub(super) struct MultiStream;

static INFO: Info = Info {
    id: "LLM-006",
    name: "Multi-stream efficiency",
    unit: "%",
    direction: Direction::Higher,
    headline: "4 streams: of native's gain",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "kernels of 100 to 200 µs that each have a block for a quarter of the multiprocessors, 25 in each of 4 streams against 100 in one: time of one stream / time of four, under the system / natively, from neighbouring processes of one sample; natively the same, as a control",
    presumes: Presumes::Nothing,
};

const STREAMS: usize = 4;
/// Kernels in each stream.
const KERNELS: usize = 25;
const KERNEL_NS: u64 = 200_000;

impl Metric for MultiStream {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let kernel = BurnWork::new(&gpu, KERNEL_NS, 1.0 / STREAMS as f64)?;
        let streams = (0..STREAMS).map(|_| Stream::new(&gpu)).collect::<Result<Vec<_>, _>>()?;
        let until_ns = now_ns() + by_effort_ns(tenant.request.effort, [500, 1_500, 3_000]);
        let mut gains = Vec::new();
        let mut launches = 0;
        let mut span_ns = |streams: &[Stream]| -> Result<f64> {
            let from_ns = now_ns();
            for number in 0..STREAMS * KERNELS {
                kernel.launch(streams[number % streams.len()].handle())?;
                launches += 1;
            }
            gpu.synchronize()?;
            Ok((now_ns() - from_ns) as f64)
        };
        span_ns(&streams)?;
        while gains.len() < 5 || now_ns() < until_ns {
            gains.push(span_ns(&streams[..1])? / span_ns(&streams)?);
        }
        if !tenant.request.simulated {
            kernel.verify(launches)?;
        }
        let value = stats::median(&gains).context("nothing was timed")?;
        let mut work = Work::default();
        work.series.insert("gain".to_owned(), Measure { calls: gains.len(), ..Measure::single(value, "x") });
        Ok(work)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let run = |launcher: &Launcher<'_>| {
            let work = launcher.clone().on_cpu(None).run(INFO.id, "")?;
            work.series.get("gain").cloned().context("no gain was measured")
        };
        let [native, system] = beside_native(launcher, run)?;
        let mut series = Series::new();
        series.insert(INFO.headline.to_owned(), Measure::single(100.0 * system.value / native.value, "%"));
        series.insert("4 streams: gain over one".to_owned(), system);
        Ok(series)
    }
}
