//! A tenant that serves requests with a small decoder: the worker's side of IS-009 and LLM-004, and what a step takes
//! natively, from which the load that is offered to every system follows.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figures;
use super::loads::{Arrivals, Decoder, DecoderRequest, DecoderSize, Served, serve};
use crate::clock::now_ns;
use crate::gpu::Gpu;
use crate::stats;
use crate::system::Launcher;
use crate::worker::{Measure, Page, Tenant, Work};

/// What a serving tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Job {
    /// The time of a step by graph, alone.
    Step {
        /// Sequences of a step.
        batch: u32,
    },
    /// Serves Poisson arrivals.
    Serve(Service),
}

/// How requests arrive and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Sequences of a step.
    pub batch: u32,
    /// Steps before the first token.
    pub prompt: u32,
    /// Steps of a request.
    pub steps: u32,
    /// From one arrival to the next, on average.
    pub mean_gap_ns: f64,
    /// How long requests arrive.
    pub run_ns: u64,
    /// By graph, or kernel by kernel.
    pub by_graph: bool,
}

/// Layers of the decoder.
const LAYERS: usize = 8;
/// The seed of the arrivals: the same for everybody.
const SEED: u64 = 20_251_129;
const PATIENCE: Duration = Duration::from_secs(100);
/// Values that a median rests on at the least, and a 99th percentile.
const FEWEST: usize = 5;
const FEWEST_FOR_TAIL: usize = 50;
/// The series of the time of a step.
const STEP: &str = "step";

impl Service {
    /// Requests that keep a decoder busy for `duty` of the time, where a step takes `step_ns`.
    pub(super) fn at_duty(duty: f64, step_ns: f64, prompt: u32, steps: u32, run_ns: u64) -> Self {
        Self {
            batch: 1,
            prompt,
            steps,
            mean_gap_ns: f64::from(steps) * step_ns / duty,
            run_ns,
            by_graph: true,
        }
    }

    /// As the variant of a job.
    pub(super) fn text(self) -> Result<String> {
        Ok(serde_json::to_string(&Job::Serve(self))?)
    }
}

/// Does what the variant of the request says.
pub(super) fn work(tenant: &Tenant<'_>) -> Result<Work> {
    let request = tenant.request;
    let job: Job = serde_json::from_str(&request.variant).context("the job of a serving tenant")?;
    let gpu = Gpu::open(request.device)?;
    let mut work = Work::default();
    match job {
        Job::Step { batch } => {
            let mut decoder = Decoder::new(&gpu, DecoderSize { layers: LAYERS, batch })?;
            work.series.extend(steps(&mut decoder, batch)?.map(|measure| (STEP.to_owned(), measure)));
            if !request.simulated {
                decoder.verify()?;
            }
        }
        Job::Serve(service) => {
            let mut decoder = Decoder::new(&gpu, DecoderSize { layers: LAYERS, batch: service.batch })?;
            steps(&mut decoder, service.batch)?; // Makes the graph and warms up.
            let page = request.shared.as_deref().map(Page::open).transpose()?;
            let from_ns = match &page {
                Some(page) => page.wait_for_go(PATIENCE)?,
                None => now_ns(),
            };
            let what = DecoderRequest {
                batch: service.batch,
                prompt: service.prompt,
                steps: service.steps,
                by_graph: service.by_graph,
            };
            let arrivals = Arrivals::new(SEED, service.mean_gap_ns);
            let served = serve(&mut decoder, what, arrivals, from_ns, from_ns + service.run_ns)?;
            record(&served, &mut work);
            if !request.simulated {
                decoder.verify()?;
            }
        }
    }
    Ok(work)
}

/// The time of a step by graph, each waited for.
fn steps(decoder: &mut Decoder, batch: u32) -> Result<Option<Measure>> {
    const STEPS: usize = 60;
    let mut values_ns = Vec::new();
    for number in 0..STEPS + 10 {
        let from_ns = now_ns();
        decoder.step_by_graph(batch)?;
        decoder.stream().synchronize()?;
        if number >= 10 {
            values_ns.push((now_ns() - from_ns) as f64);
        }
    }
    Ok(Measure::of_calls_us(&values_ns))
}

/// Series of the waiting times, as medians and, from 100 on, 99th percentiles, in microseconds.
fn record(served: &Served, work: &mut Work) {
    for (name, values_ns) in [
        ("first token", &served.first_token_ns),
        ("between tokens", &served.between_tokens_ns),
        ("first step after idle", &served.after_idle_ns),
        ("step inside a burst", &served.inside_ns),
    ] {
        // An overloaded server finds hardly any idle moment: too few are no distribution.
        let Some(measure) = Measure::of_calls_us(values_ns).filter(|measure| measure.calls >= FEWEST) else {
            continue;
        };
        let p99 = stats::quantile(values_ns, 0.99).filter(|_| values_ns.len() >= FEWEST_FOR_TAIL);
        let p99 = p99.map(|ns| ns / 1e3);
        let calls = measure.calls;
        let tail = p99.map(|p99| Measure { calls, ..Measure::single(p99, "µs") });
        work.series.extend(tail.map(|tail| (format!("{name}: p99"), tail)));
        work.series.insert(format!("{name}: p50"), Measure { p99: None, ..measure.clone() });
        let values_ms: Vec<f64> = values_ns.iter().map(|ns| ns / 1e6).collect();
        let curve = figures::distribution(&values_ms);
        let measure = Measure { value: measure.value / 1e3, unit: "ms".to_owned(), p99: None, ..measure };
        work.series.insert(format!("distribution: {name}"), measure.with_curve(curve));
    }
}

/// What a step of one sequence takes natively and alone, in nanoseconds; measured once a run.
pub(super) fn native_step_ns(launcher: &Launcher<'_>, id: &'static str) -> Result<f64> {
    static STEP_NS: OnceLock<f64> = OnceLock::new();
    if let Some(known) = STEP_NS.get() {
        return Ok(*known);
    }
    let variant = serde_json::to_string(&Job::Step { batch: 1 })?;
    let work = launcher.native().on_cpu(None).run(id, &variant).context("the native step")?;
    let step_ns = work.series.get(STEP).context("no step was timed")?.value * 1e3;
    Ok(*STEP_NS.get_or_init(|| step_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_time_busy_means_a_burst_every_two_bursts() {
        let service = Service::at_duty(0.5, 200_000.0, 1, 20, 1);
        assert!((service.mean_gap_ns - 8e6).abs() < 1e-6);
        let text = service.text().unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), Job::Serve(service));
    }
}
