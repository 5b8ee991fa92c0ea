//! LLM-010: what more GPUs bring to one step.

use anyhow::{Context, Result, bail};

use super::loads::{Activation, Gemm, Product};
use super::nccl::Group;
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Buffer, Device, Gpu, Module, Source, Stream, fill_bf16};
use crate::stats::{self, Direction};
use crate::system::Session;
use crate::worker::{Measure, NotMeasured, Tenant, Work};

/// Speed-up of a tensor-parallel step.
pub(super) struct MultiGpu;

static INFO: Info = Info {
    id: "LLM-010",
    name: "Multi-GPU scaling",
    unit: "factor",
    direction: Direction::Higher,
    headline: "all GPUs: speed-up",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "a feed-forward step (2,048 tokens, 4,096 wide, 16,384 inside) whose inner part is divided among 2 and all GPUs, with an all-reduce by NCCL: time on one / time on n; every GPU must end with the same sums; never 1.0 where there is one GPU",
    presumes: Presumes::Nothing,
};

const TOKENS: u32 = 2_048;
const WIDTH: u32 = 4_096;
const INNER: u32 = 16_384;
/// Steps of a measurement, and how often.
const STEPS: usize = 10;
const TIMES: usize = 9;

impl Metric for MultiGpu {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn not_measured(&self, session: &Session) -> Option<String> {
        session.simulator.as_ref().map(|_| "the software GPU has no NCCL".to_owned())
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let _first = Device::open(tenant.request.device)?;
        let count = Device::count()?;
        if count < 2 {
            return Err(NotMeasured::because("one GPU").into());
        }
        let one = step_ns(1)?;
        let mut work = Work::default();
        let mut sizes = vec![2, count];
        sizes.dedup();
        for size in sizes.into_iter().filter(|size| INNER.is_multiple_of(128 * size.unsigned_abs())) {
            let speedup = one / step_ns(size).with_context(|| format!("{size} GPUs"))?;
            let measure = Measure { calls: STEPS * TIMES, ..Measure::single(speedup, INFO.unit) };
            work.series.insert(format!("{size} GPUs: speed-up"), measure.clone());
            work.series.insert(INFO.headline.to_owned(), measure);
        }
        Ok(work)
    }
}

/// One GPU's part of the step.
struct Part {
    gpu: Gpu,
    stream: Stream,
    gemm: Gemm,
    input: Buffer,
    up: Buffer,
    down: Buffer,
    inner: Buffer,
    output: Buffer,
    width: u32,
}

impl Part {
    fn new(device: i32, of: i32) -> Result<Self> {
        let gpu = Gpu::open(device)?;
        let stream = Stream::new(&gpu)?;
        let basic = Module::load(&gpu, Source::Basic)?;
        let width = INNER / of.unsigned_abs();
        let matrix = |rows: u32, columns: u32, seed: u32| -> Result<Buffer> {
            let count = u64::from(rows) * u64::from(columns);
            let buffer = Buffer::new(&gpu, usize::try_from(2 * count)?)?;
            fill_bf16(&basic, stream.handle(), buffer.address(), count, 0.05, seed)?;
            Ok(buffer)
        };
        let part = Self {
            input: matrix(TOKENS, WIDTH, 1)?, // The same everywhere.
            up: matrix(width, WIDTH, 100 + device.unsigned_abs())?,
            down: matrix(WIDTH, width, 200 + device.unsigned_abs())?,
            inner: matrix(TOKENS, width, 2)?,
            output: matrix(TOKENS, WIDTH, 3)?,
            gemm: Gemm::load(&gpu)?,
            stream,
            gpu,
            width,
        };
        part.stream.synchronize()?;
        Ok(part)
    }

    fn submit(&self) -> Result<()> {
        self.gpu.make_current()?;
        let operands = [self.input.address(), self.up.address(), self.inner.address()];
        let up =
            Product { activation: Activation::Gelu, ..Product::plain([TOKENS, self.width, WIDTH], operands) };
        self.gemm.launch(self.stream.handle(), up)?;
        let operands = [self.inner.address(), self.down.address(), self.output.address()];
        let down = Product::plain([TOKENS, WIDTH, self.width], operands);
        Ok(self.gemm.launch(self.stream.handle(), down)?)
    }

    fn wait(&self) -> Result<()> {
        self.gpu.make_current()?;
        Ok(self.stream.synchronize()?)
    }
}

/// The median time of a step on the first `count` GPUs, in nanoseconds.
fn step_ns(count: i32) -> Result<f64> {
    let parts = (0..count).map(|device| Part::new(device, count)).collect::<Result<Vec<_>>>()?;
    let group = (count > 1).then(|| Group::of_first(count)).transpose()?;
    let numbers = TOKENS as usize * WIDTH as usize;
    let mut times_ns = Vec::new();
    for time in 0..TIMES + 2 {
        let from_ns = now_ns();
        for _ in 0..STEPS {
            parts.iter().try_for_each(Part::submit)?;
            if let Some(group) = &group {
                let operands: Vec<_> =
                    parts.iter().map(|part| (part.output.pointer(), part.stream.handle())).collect();
                group.sum_bf16(&operands, numbers)?;
            }
        }
        parts.iter().try_for_each(Part::wait)?;
        if time >= 2 {
            times_ns.push((now_ns() - from_ns) as f64 / STEPS as f64);
        }
    }
    verify_same(&parts)?;
    stats::median(&times_ns).context("no step was timed")
}

/// After the all-reduce every GPU must hold the same sums.
fn verify_same(parts: &[Part]) -> Result<()> {
    let mut sums = Vec::new();
    for part in parts {
        part.gpu.make_current()?;
        let mut sample = vec![0_u16; 4_096];
        part.output.download(12_345, &mut sample)?;
        sums.push(sample);
    }
    if sums.windows(2).any(|pair| pair[0] != pair[1]) || sums.iter().flatten().all(|bits| *bits == 0) {
        bail!("the GPUs do not hold the same sums after the all-reduce");
    }
    Ok(())
}
