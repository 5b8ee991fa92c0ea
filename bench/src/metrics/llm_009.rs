//! LLM-009: how evenly requests are answered when they are batched as they come.

use std::collections::VecDeque;

use anyhow::Result;

use super::control::by_effort_ns;
use super::loads::{Arrivals, Decoder, DecoderSize, wait_until, whole_ns};
use super::{Comparison, Info, Metric, Presumes, figures, serving};
use crate::clock::now_ns;
use crate::gpu::Gpu;
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// Variation of latency under dynamic batching.
pub(super) struct DynamicBatching;

static INFO: Info = Info {
    id: "LLM-009",
    name: "Dynamic batching variation",
    unit: "CV",
    direction: Direction::Lower,
    headline: "latency: CV",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "requests of 16 tokens that arrive as a Poisson process (fixed seed) whose rate goes up and down by 80 % in a second; each step decodes all that wait, up to 64, by the graph of the next batch of 1, 4, 16 or 64; each request's time from arrival to its last token: coefficient of variation, p50, p99",
    presumes: Presumes::Nothing,
};

const TOKENS: u32 = 16;
/// Batches that there are graphs for.
const BATCHES: [u32; 4] = [1, 4, 16, 64];
/// How far the rate goes up and down, and in what time.
const SWING: f64 = 0.8;
const CYCLE_NS: f64 = 1e9;
/// Requests at one time, on average, by the native step: enough that batches form.
const BUSY: f64 = 6.0;
const SEED: u64 = 9;

impl Metric for DynamicBatching {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        if tenant.request.variant.starts_with('{') {
            return serving::work(tenant); // The native step, for the load.
        }
        let gpu = Gpu::open(tenant.request.device)?;
        let mut decoder = Decoder::new(&gpu, DecoderSize { layers: 8, batch: 64 })?;
        for batch in BATCHES {
            decoder.step_by_graph(batch)?;
        }
        decoder.stream().synchronize()?;
        let mean_gap_ns: f64 = tenant.request.variant.parse()?;
        let run_ns = by_effort_ns(tenant.request.effort, [1_500, 3_000, 6_000]);
        let latencies_ns = answer(&mut decoder, mean_gap_ns, run_ns)?;
        if !tenant.request.simulated {
            decoder.verify()?;
        }
        let mut work = Work::default();
        let calls = latencies_ns.len();
        let mut record = |name: &str, value: Option<f64>, unit: &str| {
            let measure = value.map(|value| Measure { calls, ..Measure::single(value, unit) });
            work.series.extend(measure.map(|measure| (name.to_owned(), measure)));
        };
        record(INFO.headline, figures::variation(&latencies_ns), INFO.unit);
        record("latency: p50", stats::median(&latencies_ns).map(|ns| ns / 1e6), "ms");
        record("latency: p99", stats::quantile(&latencies_ns, 0.99).map(|ns| ns / 1e6), "ms");
        let values_ms: Vec<f64> = latencies_ns.iter().map(|ns| ns / 1e6).collect();
        if let Some(median) = stats::median(&values_ms) {
            let measure = Measure::single(median, "ms").with_curve(figures::distribution(&values_ms));
            work.series.insert("distribution: latency".to_owned(), measure);
        }
        Ok(work)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let launcher = launcher.clone().on_cpu(None);
        let step_ns = serving::native_step_ns(&launcher, INFO.id)?;
        let mean_gap_ns = f64::from(TOKENS) * step_ns / BUSY;
        Ok(launcher.run(INFO.id, &mean_gap_ns.to_string())?.series)
    }
}

/// Stretches and squeezes time, so that arrivals come more and less often.
fn swung_ns(at_ns: f64) -> f64 {
    let turn = std::f64::consts::TAU / CYCLE_NS;
    at_ns - SWING * (turn * at_ns).sin() / turn
}

/// Answers requests as they come, and returns each one's time in nanoseconds.
fn answer(decoder: &mut Decoder, mean_gap_ns: f64, run_ns: u64) -> Result<Vec<f64>> {
    let from_ns = now_ns();
    let mut arrivals = Arrivals::new(SEED, mean_gap_ns).map(|at| from_ns + whole_ns(swung_ns(at))).peekable();
    // Arrival, and tokens still to come.
    let mut active: VecDeque<(u64, u32)> = VecDeque::new();
    let mut latencies_ns = Vec::new();
    loop {
        while let Some(at_ns) = arrivals.next_if(|at_ns| *at_ns <= now_ns() && *at_ns < from_ns + run_ns) {
            active.push_back((at_ns, TOKENS));
        }
        if active.is_empty() {
            match arrivals.peek() {
                Some(at_ns) if *at_ns < from_ns + run_ns => wait_until(*at_ns),
                _ => return Ok(latencies_ns),
            }
            continue;
        }
        let size = active.len().min(64);
        let batch = BATCHES.into_iter().find(|batch| *batch as usize >= size).unwrap_or(64);
        decoder.step_by_graph(batch)?;
        decoder.stream().synchronize()?;
        let ended_ns = now_ns();
        for (_, left) in active.iter_mut().take(size) {
            *left -= 1;
        }
        active.retain(|(at_ns, left)| {
            if *left == 0 {
                latencies_ns.push((ended_ns - at_ns) as f64);
            }
            *left > 0
        });
        // Far behind, and a sample must end: those who still wait have waited so long at the least.
        if ended_ns > from_ns + 4 * run_ns {
            let late = arrivals.take_while(|at_ns| *at_ns < from_ns + run_ns);
            let waiting = active.iter().map(|(at_ns, _)| *at_ns).chain(late);
            latencies_ns.extend(waiting.map(|at_ns| (ended_ns - at_ns) as f64));
            return Ok(latencies_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_swing_keeps_the_order_and_the_mean() {
        let times: Vec<f64> = (0..10_000).map(|n| swung_ns(f64::from(n) * 1e6)).collect();
        assert!(times.windows(2).all(|pair| pair[1] > pair[0]));
        assert!((swung_ns(5.0 * CYCLE_NS) - 5.0 * CYCLE_NS).abs() < 1.0);
    }
}
