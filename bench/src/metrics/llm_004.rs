//! LLM-004: what a user waits for a token.

use anyhow::Result;

use super::control::by_effort_ns;
use super::serving::{self, Service};
use super::{Comparison, Info, Metric, Presumes};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// Time to the first token, and between tokens.
pub(super) struct TokenLatency;

static INFO: Info = Info {
    id: "LLM-004",
    name: "Token latency",
    unit: "ms",
    direction: Direction::Lower,
    headline: "by graph: between tokens: p50",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "a decoder of 8 layers with random weights answers requests that arrive as a Poisson process (fixed seed, half of what it can serve natively), 16 steps for the prompt and 32 tokens, one after the other, each step waited for: time to first token, waiting included, and between tokens, p50 and p99; by CUDA graph, and kernel by kernel",
    presumes: Presumes::Nothing,
};

const PROMPT: u32 = 16;
const STEPS: u32 = 48;

impl Metric for TokenLatency {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        serving::work(tenant)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let launcher = launcher.clone().on_cpu(None);
        let step_ns = serving::native_step_ns(&launcher, INFO.id)?;
        let run_ns = by_effort_ns(launcher.session.effort, [1_000, 2_500, 5_000]);
        let service = Service::at_duty(0.5, step_ns, PROMPT, STEPS, run_ns);
        let mut series = Series::new();
        for (by_graph, how) in [(true, "by graph"), (false, "by launches")] {
            let variant = Service { by_graph, ..service }.text()?;
            let all = launcher.run(INFO.id, &variant)?.series;
            for (name, measure) in all {
                if name.starts_with("distribution: ") {
                    if by_graph {
                        series.insert(name, measure);
                    }
                } else if name.contains("token") {
                    let value = measure.value / 1e3;
                    let measure = Measure { value, unit: "ms".to_owned(), p99: None, ..measure };
                    series.insert(format!("{how}: {name}"), measure);
                }
            }
        }
        Ok(series)
    }
}
