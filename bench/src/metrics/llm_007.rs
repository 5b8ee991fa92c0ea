//! LLM-007: how long it takes until a large tensor can be used.

use anyhow::{Context, Result};

use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Arguments, Buffer, Gpu, Module, Shape, Source, Stream};
use crate::stats::{self, Direction};
use crate::units::{GIB, MIB, bytes_text};
use crate::worker::{Measure, Tenant, Work};

/// Time of large allocations with their first touch.
pub(super) struct LargeTensor;

static INFO: Info = Info {
    id: "LLM-007",
    name: "Large tensor allocation",
    unit: "ms",
    direction: Direction::Lower,
    headline: "1 GiB: allocate and touch",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "cuMemAlloc of 256 MiB to 8 GiB (as far as the limit goes), a kernel that writes to every 64 KiB of it, and the wait for that; allocation, first touch and free apart; the median of some repetitions in a process",
    presumes: Presumes::Memory,
};

const SIZES: [u64; 6] = [256 * MIB, 512 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB];
/// Repetitions of a size.
const TIMES: usize = 7;
/// Bytes from one touched word to the next.
const STRIDE: u64 = 64 << 10;

impl Metric for LargeTensor {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let (basic, stream) = (Module::load(&gpu, Source::Basic)?, Stream::new(&gpu)?);
        let kernel = basic.kernel("touch_pages")?;
        let mut work = Work::default();
        // What is left of the limit beside the context is at least this much.
        let room_bytes = tenant.request.limit_bytes - tenant.request.limit_bytes / 3;
        for bytes in SIZES.into_iter().filter(|bytes| *bytes <= room_bytes) {
            let mut times_ns: [Vec<f64>; 4] = Default::default();
            for _ in 0..TIMES {
                let began_ns = now_ns();
                let buffer = Buffer::new(&gpu, usize::try_from(bytes)?).with_context(|| bytes_text(bytes))?;
                let allocated_ns = now_ns();
                let arguments =
                    Arguments::costing(bytes / 2_500 / 32).u64(buffer.address()).u64(bytes).u64(STRIDE);
                kernel.launch(stream.handle(), Shape::line(132, 256), arguments)?;
                stream.synchronize()?;
                let touched_ns = now_ns();
                drop(buffer);
                let spans = [
                    touched_ns - began_ns,
                    allocated_ns - began_ns,
                    touched_ns - allocated_ns,
                    now_ns() - touched_ns,
                ];
                for (times, span) in times_ns.iter_mut().zip(spans) {
                    times.push(span as f64);
                }
            }
            let names = ["allocate and touch", "allocate", "first touch", "free"];
            for (name, times) in names.into_iter().zip(&times_ns) {
                let measure = stats::median(times)
                    .map(|ns| Measure { calls: TIMES, ..Measure::single(ns / 1e6, "ms") });
                work.series.extend(measure.map(|m| (format!("{}: {name}", bytes_text(bytes)), m)));
            }
        }
        Ok(work)
    }
}
