//! LLM-002: how fast a paged cache of keys and values grows.

use anyhow::{Context, Result};

use super::{Comparison, Info, Metric, Presumes};
use crate::clock::Clock;
use crate::gpu::{CudaError, Gpu, PathKind, Plain, Pool, Taken, Vmm};
use crate::stats::{self, Direction};
use crate::units::{BLOCK_BYTES, MIB, bytes_text};
use crate::worker::{Measure, Tenant, Work};

/// Blocks of a cache a second.
pub(super) struct CacheGrowth;

static INFO: Info = Info {
    id: "LLM-002",
    name: "KV cache allocation speed",
    unit: "allocs/s",
    direction: Direction::Higher,
    headline: "pool 2 MiB",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "a cache that grows by 1,000 blocks, from nothing (dropped and begun anew where they would be more than 60 % of the limit): plain, from the pool, and physical memory created, mapped and made accessible; 256 KiB to 2 MiB; blocks / the time that taking them took, clock cost subtracted",
    presumes: Presumes::Memory,
};

/// Blocks that a figure rests on.
const BLOCKS: usize = 1_000;
const SIZES: [u64; 3] = [256 << 10, MIB, BLOCK_BYTES];

impl Metric for CacheGrowth {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let room_bytes = tenant.request.limit_bytes / 5 * 3;
        let mut work = Work::default();
        for path in PathKind::ALL {
            for bytes in SIZES {
                if path == PathKind::Vmm && bytes < BLOCK_BYTES {
                    continue; // The granularity of physical memory.
                }
                let name = format!("{} {}", path.text(), bytes_text(bytes));
                let growth = Growth { bytes: usize::try_from(bytes)?, room_bytes };
                let times_ns = match path {
                    PathKind::Plain => {
                        growth.run(&tenant.clock, &mut Plain, |p, b| p.take(b), Plain::give, |_| Ok(()))
                    }
                    PathKind::Pool => {
                        let mut pool = Pool::new(&gpu)?;
                        growth.run(&tenant.clock, &mut pool, |p, b| p.take(b), Pool::give, Pool::settle)
                    }
                    PathKind::Vmm => {
                        let mut vmm = Vmm::new(&gpu, room_bytes + BLOCK_BYTES)?;
                        let take = |vmm: &mut Vmm, bytes| {
                            let taken = vmm.take(bytes)?;
                            vmm.allow_access(&taken)?;
                            Ok(taken)
                        };
                        growth.run(&tenant.clock, &mut vmm, take, Vmm::give, |_| Ok(()))
                    }
                };
                let times_ns = times_ns.with_context(|| name.clone())?;
                let rate = times_ns.len() as f64 / (times_ns.iter().sum::<f64>() / 1e9);
                let calls = times_ns.len();
                work.series.insert(name.clone(), Measure { calls, ..Measure::single(rate, INFO.unit) });
                let tail = stats::quantile(&times_ns, 0.99);
                let tail = tail.map(|ns| Measure { calls, ..Measure::single(ns / 1e3, "µs") });
                work.series.extend(tail.map(|tail| (format!("{name}: p99 of a block"), tail)));
            }
        }
        Ok(work)
    }
}

/// A cache of blocks of one size.
struct Growth {
    bytes: usize,
    room_bytes: u64,
}

impl Growth {
    /// Grows, drops and grows again until there are blocks enough; the time of each.
    fn run<P>(
        &self,
        clock: &Clock,
        path: &mut P,
        mut take: impl FnMut(&mut P, usize) -> Result<Taken, CudaError>,
        mut give: impl FnMut(&mut P, Taken) -> Result<(), CudaError>,
        mut settle: impl FnMut(&mut P) -> Result<(), CudaError>,
    ) -> Result<Vec<f64>> {
        let most = usize::try_from(self.room_bytes)? / self.bytes;
        let mut times_ns = Vec::with_capacity(BLOCKS);
        while times_ns.len() < BLOCKS {
            let mut cache = Vec::new();
            while cache.len() < most && times_ns.len() < BLOCKS {
                let (took_ns, taken) = clock.time(|| take(path, self.bytes));
                cache.push(taken?);
                times_ns.push(took_ns);
            }
            for taken in cache.into_iter().rev() {
                give(path, taken)?;
            }
            settle(path)?;
        }
        Ok(times_ns)
    }
}
