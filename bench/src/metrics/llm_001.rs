//! LLM-001: the throughput of fused attention.

use anyhow::{Context, Result, bail};

use super::control::by_effort_ns;
use super::loads::{Load, drive};
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{
    Arguments, Buffer, DeviceInfo, Gpu, Kernel, Module, Shape, Source, Stream, StreamHandle, bf16, fill_bf16,
};
use crate::stats::Direction;
use crate::system::Session;
use crate::worker::{Measure, Series, Tenant, Work};

/// TFLOP/s of attention on tensor cores.
pub(super) struct Attention;

static INFO: Info = Info {
    id: "LLM-001",
    name: "Attention throughput",
    unit: "TFLOP/s",
    direction: Direction::Higher,
    headline: "64 heads x 4096",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "a fused forward attention in bf16 on tensor cores, heads of 128 numbers, no mask, launched without a pause: 4 x heads x length^2 x 128 FLOP / time; rows of the result against FP64; no more than the device's peak",
    presumes: Presumes::Nothing,
};

/// Heads (of all sequences together) and lengths.
const SHAPES: [(u32, u32); 2] = [(64, 4_096), (256, 1_024)];
/// Numbers of a head.
const DEPTH: u64 = 128;
/// Scale and seeds of Q, K and V: scores spread enough that the softmax is no mean.
const SCALES: [f32; 3] = [2.0, 2.0, 1.0];
const SEEDS: [u32; 3] = [11, 12, 13];

impl Metric for Attention {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn not_measured(&self, session: &Session) -> Option<String> {
        session.simulator.as_ref().map(|_| "the software GPU computes nothing".to_owned())
    }

    fn impossible(&self, series: &Series, device: &DeviceInfo) -> Option<String> {
        let peak = device.peaks.as_ref()?.bf16_tflops(&device.name)?;
        let beyond = series.iter().find(|(_, measure)| measure.unit == INFO.unit && measure.value > peak);
        beyond.map(|(name, m)| format!("{name}: {:.0} TFLOP/s is beyond the peak of {peak:.0}", m.value))
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let mut work = Work::default();
        for (heads, length) in SHAPES {
            let name = format!("{heads} heads x {length}");
            let mut load = Heads::new(&gpu, heads, length)?;
            let warm_ns = 200_000_000;
            let until_ns = now_ns() + warm_ns + by_effort_ns(tenant.request.effort, [400, 1_000, 2_000]);
            let progress = drive(&gpu, &mut load, until_ns, false, None, 0).with_context(|| name.clone())?;
            load.verify(progress.units()).with_context(|| name.clone())?;
            let rate = progress.steady_rate(warm_ns).context("too few launches")?;
            let tflops = rate * load.flop() / 1e12;
            let calls = usize::try_from(progress.units())?;
            work.series.insert(name, Measure { calls, ..Measure::single(tflops, INFO.unit) });
        }
        Ok(work)
    }
}

/// One attention over all heads.
struct Heads {
    kernel: Kernel,
    stream: Stream,
    operands: [Buffer; 3],
    out: Buffer,
    heads: u32,
    length: u32,
}

impl Heads {
    fn new(gpu: &Gpu, heads: u32, length: u32) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let basic = Module::load(gpu, Source::Basic)?;
        let count = u64::from(heads) * u64::from(length) * DEPTH;
        let buffer = || Buffer::new(gpu, usize::try_from(2 * count).unwrap_or(usize::MAX));
        let operands = [buffer()?, buffer()?, buffer()?];
        for ((operand, scale), seed) in operands.iter().zip(SCALES).zip(SEEDS) {
            fill_bf16(&basic, stream.handle(), operand.address(), count, scale, seed)?;
        }
        stream.synchronize()?;
        let kernel = Module::load(gpu, Source::Attention)?.kernel("attention_128")?;
        Ok(Self { kernel, stream, operands, out: buffer()?, heads, length })
    }

    fn flop(&self) -> f64 {
        4.0 * f64::from(self.heads) * f64::from(self.length).powi(2) * DEPTH as f64
    }
}

impl Load for Heads {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        let [q, k, v] = &self.operands;
        let arguments = Arguments::costing(self.unit_ns())
            .u64(q.address())
            .u64(k.address())
            .u64(v.address())
            .u64(self.out.address())
            .i32(self.length.cast_signed());
        let shape = Shape { grid: [self.length / 128, self.heads], block: [256, 1] };
        Ok(self.kernel.launch(self.stream.handle(), shape, arguments)?)
    }

    fn unit_ns(&self) -> u64 {
        2_000_000
    }

    fn verify(&mut self, _units: u64) -> Result<()> {
        let length = u64::from(self.length);
        for (head, row) in [(0, 0), (1, length / 2 + 5), (u64::from(self.heads) - 1, length - 1)] {
            let first = (head * length + row) * DEPTH;
            let mut got = [0_u16; 128];
            self.out.download(usize::try_from(first)?, &mut got)?;
            let right = exact_row(head, row, length);
            for (place, (got, right)) in got.iter().zip(right).enumerate() {
                let got = bf16::to_f64(*got);
                // Weights and result are rounded to 8 bits, and the weights sum to 1.
                if (got - right).abs() > 0.01 + right.abs() / 64.0 || !got.is_finite() {
                    bail!("O[{head}][{row}][{place}] is {got} and should be {right}");
                }
            }
        }
        Ok(())
    }
}

/// One row of the result in FP64, from the numbers that `fill_bf16` made.
fn exact_row(head: u64, row: u64, length: u64) -> Vec<f64> {
    let number = |operand: usize, row: u64, place: u64| {
        let index = (head * length + row) * DEPTH + place;
        bf16::to_f64(bf16::filled(index, SCALES[operand], SEEDS[operand]))
    };
    let query: Vec<f64> = (0..DEPTH).map(|place| number(0, row, place)).collect();
    let score = |key: u64| {
        let dot: f64 = (0..DEPTH).zip(&query).map(|(place, q)| q * number(1, key, place)).sum();
        dot / (DEPTH as f64).sqrt()
    };
    let scores: Vec<f64> = (0..length).map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; query.len()];
    for (key, weight) in (0..length).zip(&weights) {
        for (place, sum) in (0..DEPTH).zip(&mut out) {
            *sum += weight / total * number(2, key, place);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Peaks;

    #[test]
    fn more_than_the_peak_is_impossible() {
        let device = DeviceInfo {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            peaks: Some(Peaks::default()),
            ..DeviceInfo::default()
        };
        let with = |value| Series::from([("x".to_owned(), Measure::single(value, INFO.unit))]);
        assert_eq!(Attention.impossible(&with(600.0), &device), None);
        assert!(Attention.impossible(&with(2_400.0), &device).unwrap().contains("2400"));
    }

    #[test]
    fn a_row_of_attention_is_a_mean_of_values() {
        let row = exact_row(0, 3, 64);
        assert_eq!(row.len(), 128);
        assert!(row.iter().all(|value| value.abs() <= 1.0));
        assert!(row.iter().any(|value| value.abs() > 0.05));
    }
}
