//! LLM-003: what larger batches bring to a decoder.

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::loads::{Decoder, DecoderSize, Load, drive};
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Gpu, StreamHandle};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Effort, Measure, Series, Tenant, Work};

/// Tokens a second by batch size.
pub(super) struct BatchScaling;

static INFO: Info = Info {
    id: "LLM-003",
    name: "Batch size scaling",
    unit: "ratio",
    direction: Direction::Higher,
    headline: "batch 16: scaling",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "steps of two decoder layers (real products and attention, a CUDA graph) launched without a pause at batches of 1 to 64 (with --quick 1, 16 and 64): tokens/s / (batch x tokens/s at 1); and the tokens/s themselves; where the system has a cap, also at the run's",
    presumes: Presumes::Nothing,
};

impl Metric for BatchScaling {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let decoder = Decoder::new(&gpu, DecoderSize { layers: 2, batch: 64 })?;
        let mut steps = Steps { decoder, batch: 1 };
        let warm_ns = 100_000_000;
        let run_ns = warm_ns + by_effort_ns(tenant.request.effort, [150, 400, 1_000]);
        let mut work = Work::default();
        let mut single = None;
        for batch in batches(tenant.request.effort) {
            steps.batch = *batch;
            let progress = drive(&gpu, &mut steps, now_ns() + run_ns, false, None, 0)?;
            let rate =
                progress.steady_rate(warm_ns).with_context(|| format!("batch {batch}: too few steps"))?;
            let tokens = rate * f64::from(*batch);
            let one = *single.get_or_insert(tokens);
            let calls = usize::try_from(progress.units())?;
            let mut record = |what: &str, value: f64, unit: &str| {
                let measure = Measure { calls, ..Measure::single(value, unit) };
                work.series.insert(format!("batch {batch}: {what}"), measure);
            };
            record("tokens a second", tokens, "tokens/s");
            record("scaling", tokens / (f64::from(*batch) * one), INFO.unit);
        }
        if !tenant.request.simulated {
            steps.verify(0)?;
        }
        Ok(work)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let launcher = launcher.clone().on_cpu(None);
        let mut series = launcher.run(INFO.id, "")?.series;
        let percent = launcher.session.compute_percent;
        if launcher.system.profile.limits_compute {
            let capped = launcher.with_compute(percent).run(INFO.id, "")?.series;
            series.extend(capped.into_iter().map(|(name, m)| (format!("asked for {percent} %: {name}"), m)));
        }
        Ok(series)
    }
}

fn batches(effort: Effort) -> &'static [u32] {
    match effort {
        Effort::Quick => &[1, 16, 64],
        Effort::Standard | Effort::Full => &[1, 2, 4, 8, 16, 32, 64],
    }
}

/// Steps of the first sequences of a decoder.
struct Steps {
    decoder: Decoder,
    batch: u32,
}

impl Load for Steps {
    fn stream(&self) -> StreamHandle {
        self.decoder.stream().handle()
    }

    fn submit(&mut self) -> Result<()> {
        Ok(self.decoder.step_by_graph(self.batch)?)
    }

    fn unit_ns(&self) -> u64 {
        100_000
    }

    fn verify(&mut self, _units: u64) -> Result<()> {
        self.decoder.verify()
    }
}
