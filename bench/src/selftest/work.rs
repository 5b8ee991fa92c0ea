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

/// How long a block lasts: long beside a reading of the clock, short beside a turn of the CPU's scheduler, so that most
/// blocks run through also on a machine that is busy.
const BLOCK_NS: f64 = 50_000.0;
/// Quads of blocks, two plain and two slowed each; the first few do not count.
const QUADS: usize = 400;
const WARM_UP: usize = 20;

/// Runs blocks; the variant is the injected slowdown in per cent.
pub fn work(request: &Request) -> Result<Work> {
    let percent: f64 = request.variant.parse().context("the slowdown to inject")?;
    let _gpu = Gpu::open(request.device)?;
    let mut plain = Plain;
    // Its block of the driver stays open, so that the calls below are all alike.
    let _kept = plain.take(65_536)?;
    let pairs = pairs_for_block(&mut plain)?;
    let (mut slowed_ns, mut percents) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + QUADS {
        let (mut slowed, mut base) = (0.0, 0.0);
        let first = number.is_multiple_of(2);
        for is_slowed in [first, !first, !first, first] {
            let took_ns = block_ns(&mut plain, pairs, if is_slowed { percent } else { 0.0 })?;
            *if is_slowed { &mut slowed } else { &mut base } += took_ns / 2.0;
        }
        if number >= WARM_UP {
            slowed_ns.push(slowed / pairs as f64);
            // Neighbours are compared, so that what drifts within the process cancels.
            percents.push(100.0 * (slowed / base - 1.0));
        }
    }
    let slowed = stats::median(&slowed_ns).context("no blocks")?;
    let added = stats::median(&percents).context("no blocks")?;
    let mut work = Work::default();
    let calls = 2 * pairs * QUADS;
    work.series.insert(PAIR.to_owned(), Measure { calls, ..Measure::single(slowed / 1e3, "µs") });
    let in_process = Measure { calls, ..Measure::difference(added, "%") };
    work.series.insert(IN_PROCESS.to_owned(), in_process);
    Ok(work)
}

/// How many pairs fill a block, by doubling; which warms up as well.
fn pairs_for_block(plain: &mut Plain) -> Result<usize> {
    let mut pairs = 1;
    while block_ns(plain, pairs, 0.0)? < BLOCK_NS && pairs < 1 << 20 {
        pairs *= 2;
    }
    Ok(pairs)
}

/// The time of a block of `pairs`, with `percent` of it added.
fn block_ns(plain: &mut Plain, pairs: usize, percent: f64) -> Result<f64> {
    let from_ns = now_ns();
    for _ in 0..pairs {
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
