//! What a tenant of SELF-001 does: alloc/free pairs in blocks, half of which are made slower by a known part.

use anyhow::{Context, Result};

use crate::clock::now_ns;
use crate::gpu::{Gpu, Plain};
use crate::stats;
use crate::worker::{Measure, Request, Work};

/// The mean time of a pair, injected slowdown included: what two processes are compared by.
pub(super) const PAIR: &str = "alloc + free, 64 KiB";
/// The slowdown as two kinds of blocks of one process show it.
pub(super) const IN_PROCESS: &str = "slowdown, in process";

/// Pairs of calls in a block.
const PAIRS: usize = 200;
/// Quads of blocks, two plain and two slowed each; the first few do not count.
const QUADS: usize = 150;
const WARM_UP: usize = 10;

/// Runs blocks; the variant is the injected slowdown in per cent.
pub fn work(request: &Request) -> Result<Work> {
    let percent: f64 = request.variant.parse().context("the slowdown to inject")?;
    let _gpu = Gpu::open(request.device)?;
    let mut plain = Plain;
    // Its block of the driver stays open, so that the calls below are all alike.
    let _kept = plain.take(65_536)?;
    let (mut slowed_ns, mut plain_ns) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + QUADS {
        let first = number.is_multiple_of(2);
        for slowed in [first, !first, !first, first] {
            let took_ns = block_ns(&mut plain, if slowed { percent } else { 0.0 })?;
            if number >= WARM_UP {
                if slowed { &mut slowed_ns } else { &mut plain_ns }.push(took_ns / PAIRS as f64);
            }
        }
    }
    let slowed = stats::median(&slowed_ns).context("no slowed blocks")?;
    let base = stats::median(&plain_ns).context("no plain blocks")?;
    // Neighbours are compared, so that what drifts within the process cancels.
    let differences: Vec<f64> =
        slowed_ns.chunks(2).zip(plain_ns.chunks(2)).map(|(a, b)| mean(a) - mean(b)).collect();
    let added = stats::median(&differences).context("no pairs of blocks")?;
    let mut work = Work::default();
    let calls = 2 * PAIRS * QUADS;
    work.series.insert(PAIR.to_owned(), Measure { calls, ..Measure::single(slowed / 1e3, "µs") });
    let in_process = Measure { calls, ..Measure::difference(100.0 * added / base, "%") };
    work.series.insert(IN_PROCESS.to_owned(), in_process);
    Ok(work)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The time of a block, with `percent` of it added.
fn block_ns(plain: &mut Plain, percent: f64) -> Result<f64> {
    let from_ns = now_ns();
    for _ in 0..PAIRS {
        let taken = plain.take(65_536)?;
        plain.give(taken)?;
    }
    let took_ns = (now_ns() - from_ns) as f64;
    let until_ns = took_ns * (1.0 + percent / 100.0);
    // The clock is read in both kinds of blocks, so that reading it is no difference.
    loop {
        let so_far_ns = (now_ns() - from_ns) as f64;
        if so_far_ns >= until_ns {
            return Ok(so_far_ns);
        }
    }
}
