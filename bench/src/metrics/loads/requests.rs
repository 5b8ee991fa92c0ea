//! Requests to a decoder that arrive when they will, whether the last one is answered or not: what a user of a service
//! waits for. Arrivals are a Poisson process from a fixed seed, so every system gets the same ones.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::Decoder;
use crate::clock::now_ns;
use crate::stats::SplitMix64;

/// Times at which requests arrive, in nanoseconds from the beginning.
pub(crate) struct Arrivals {
    random: SplitMix64,
    mean_gap_ns: f64,
    at_ns: f64,
}

impl Arrivals {
    /// Gaps of `mean_gap_ns` on average.
    pub(crate) fn new(seed: u64, mean_gap_ns: f64) -> Self {
        Self { random: SplitMix64::new(seed), mean_gap_ns, at_ns: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.at_ns -= self.mean_gap_ns * (1.0 - unit(&mut self.random)).ln();
        Some(self.at_ns)
    }
}

/// A number in [0, 1).
fn unit(random: &mut SplitMix64) -> f64 {
    const STEPS: usize = 1 << 30;
    random.index(STEPS) as f64 / STEPS as f64
}

/// What requests of `steps` steps each had to wait for, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    /// Arrival to the end of the step that gives the first token.
    pub first_token_ns: Vec<f64>,
    /// From each token to the next of the same request.
    pub between_tokens_ns: Vec<f64>,
    /// The first step of a request that found the device without work.
    pub after_idle_ns: Vec<f64>,
    /// Steps that followed another one directly.
    pub inside_ns: Vec<f64>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Sequences that are decoded together.
    pub batch: u32,
    /// Tokens that are fed before the first one comes out.
    pub prompt: u32,
    /// Steps in all.
    pub steps: u32,
    /// By graph, or kernel by kernel.
    pub by_graph: bool,
}

/// Serves requests one after the other from `from_ns` to `until_ns`, each step waited for.
///
/// # Errors
/// Any CUDA error.
pub(crate) fn serve(
    decoder: &mut Decoder,
    request: Request,
    arrivals: Arrivals,
    from_ns: u64,
    until_ns: u64,
) -> Result<Served> {
    let mut served = Served::default();
    for arrival_ns in arrivals {
        let arrived_ns = from_ns + whole_ns(arrival_ns);
        if arrived_ns >= until_ns || now_ns() >= until_ns {
            break;
        }
        let was_idle = now_ns() < arrived_ns;
        wait_until(arrived_ns);
        let mut last_ns = now_ns();
        for step in 1..=request.steps {
            if request.by_graph {
                decoder.step_by_graph(request.batch)?;
            } else {
                decoder.step(request.batch)?;
            }
            decoder.stream().synchronize()?;
            let ended_ns = now_ns();
            let took_ns = (ended_ns - last_ns) as f64;
            match step {
                1 if was_idle => served.after_idle_ns.push(took_ns),
                _ => served.inside_ns.push(took_ns),
            }
            if step == request.prompt {
                served.first_token_ns.push((ended_ns - arrived_ns) as f64);
            } else if step > request.prompt {
                served.between_tokens_ns.push(took_ns);
            }
            last_ns = ended_ns;
        }
    }
    Ok(served)
}

/// Sleeps until shortly before `at_ns` and then looks at the clock, so that sleeping late is not taken for waiting.
pub(crate) fn wait_until(at_ns: u64) {
    const EARLY_NS: u64 = 150_000;
    let left_ns = at_ns.saturating_sub(now_ns());
    if left_ns > EARLY_NS {
        thread::sleep(Duration::from_nanos(left_ns - EARLY_NS));
    }
    while now_ns() < at_ns {
        std::hint::spin_loop();
    }
}

/// Whole nanoseconds of a time that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, and days at the most")]
pub(crate) fn whole_ns(value: f64) -> u64 {
    value.clamp(0.0, 9e15) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_the_same_for_everybody_and_as_frequent_as_was_asked() {
        let times: Vec<f64> = Arrivals::new(7, 1_000.0).take(20_000).collect();
        assert_eq!(times, Arrivals::new(7, 1_000.0).take(20_000).collect::<Vec<f64>>());
        assert!(times.windows(2).all(|pair| pair[1] >= pair[0]));
        let mean = times.last().unwrap() / 20_000.0;
        assert!((970.0..1_030.0).contains(&mean), "{mean}");
        // Exponential gaps: as many below the mean as 1 - 1/e.
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 1_000.0).count();
        assert!((12_300..12_950).contains(&short), "{short}");
    }

    #[test]
    fn waiting_ends_at_the_time_and_not_before() {
        let at_ns = now_ns() + 400_000;
        wait_until(at_ns);
        assert!(now_ns() >= at_ns);
    }
}
