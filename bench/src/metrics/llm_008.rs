//! LLM-008: what narrower numbers bring, through cuBLASLt.

use anyhow::{Context, Result, bail};

use super::cublaslt::{Blas, Numbers, Problem};
use super::{Comparison, Info, Metric, Presumes};
use crate::gpu::{DeviceInfo, Event, Gpu, Stream};
use crate::stats::{self, Direction};
use crate::system::Session;
use crate::worker::{Measure, Series, Tenant, Work};

/// Throughput of products by number format.
pub(super) struct MixedPrecision;

static INFO: Info = Info {
    id: "LLM-008",
    name: "Mixed precision speed-up",
    unit: "ratio",
    direction: Direction::Higher,
    headline: "BF16 / FP32",
    in_process: &[],
    comparison: Comparison::RatioToNative,
    method: "products of 4096 x 4096 matrices by cuBLASLt in FP32, TF32, BF16, FP16 and, where the card has it, FP8, by GPU time of 10 at a time: TFLOP/s, and the ratio to FP32; samples of each result against exact sums; no more than the device's peak",
    presumes: Presumes::Nothing,
};

/// The side of the matrices.
const SIZE: usize = 4_096;
/// Products between two events, and how often.
const GROUP: usize = 10;
const GROUPS: usize = 20;

impl Metric for MixedPrecision {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn not_measured(&self, session: &Session) -> Option<String> {
        session.simulator.as_ref().map(|_| "the software GPU computes nothing".to_owned())
    }

    fn impossible(&self, series: &Series, device: &DeviceInfo) -> Option<String> {
        let peaks = device.peaks.as_ref()?;
        let bf16 = peaks.bf16_tflops(&device.name)?;
        Numbers::ALL.into_iter().find_map(|numbers| {
            let measure = series.get(&rate_name(numbers))?;
            let peak = peak_tflops(numbers, bf16, peaks.fp32_tflops());
            (measure.value > peak).then(|| {
                format!("{}: {:.0} TFLOP/s is beyond the peak of {peak:.0}", numbers.text(), measure.value)
            })
        })
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let blas = Blas::open()?;
        let gpu = Gpu::open(tenant.request.device)?;
        let info = gpu.device.info()?;
        let bf16 = info.peaks.as_ref().and_then(|peaks| peaks.bf16_tflops(&info.name));
        let stream = Stream::new(&gpu)?;
        let mut work = Work::default();
        let mut fp32 = None;
        for numbers in Numbers::ALL {
            // A format that the card or the library has not is left out; the others stand.
            let Some(problem) = blas.problem(&gpu, numbers, SIZE).with_context(|| numbers.text())? else {
                continue;
            };
            let groups = tenant.request.effort.calls(GROUPS);
            let tflops = tflops(&blas, &gpu, &stream, &problem, groups).with_context(|| numbers.text())?;
            problem.verify().with_context(|| numbers.text())?;
            let calls = groups * GROUP;
            let mut record = |name: String, value: f64, unit: &str| {
                work.series.insert(name, Measure { calls, ..Measure::single(value, unit) });
            };
            record(rate_name(numbers), tflops, "TFLOP/s");
            match (numbers, fp32) {
                (Numbers::Fp32, _) => fp32 = Some(tflops),
                (_, Some(base)) => record(format!("{} / FP32", numbers.text()), tflops / base, INFO.unit),
                (_, None) => {}
            }
            if let (Some(bf16), Some(peaks)) = (bf16, info.peaks.as_ref()) {
                let peak = peak_tflops(numbers, bf16, peaks.fp32_tflops());
                record(format!("{}: of peak", numbers.text()), 100.0 * tflops / peak, "%");
            }
        }
        if work.series.len() < 2 {
            bail!("cuBLASLt has no product of any of the formats");
        }
        Ok(work)
    }
}

fn rate_name(numbers: Numbers) -> String {
    format!("{}: TFLOP/s", numbers.text())
}

/// The bound of a format, from that of BF16 and of FP32 without tensor cores: TF32 half of BF16, FP8 twice (NVIDIA's data
/// sheets of A100 and H100).
fn peak_tflops(numbers: Numbers, bf16: f64, fp32: f64) -> f64 {
    match numbers {
        Numbers::Fp32 => fp32,
        Numbers::Tf32 => bf16 / 2.0,
        Numbers::Bf16 | Numbers::Fp16 => bf16,
        Numbers::Fp8 => bf16 * 2.0,
    }
}

/// TFLOP/s by GPU time: the median over groups.
fn tflops(blas: &Blas, gpu: &Gpu, stream: &Stream, problem: &Problem, groups: usize) -> Result<f64> {
    let (from, to) = (Event::timing(gpu)?, Event::timing(gpu)?);
    let mut rates = Vec::with_capacity(groups);
    for group in 0..groups + 2 {
        from.record(stream.handle())?;
        for _ in 0..GROUP {
            blas.multiply(stream.handle(), problem)?;
        }
        to.record(stream.handle())?;
        to.synchronize()?;
        if group >= 2 {
            rates.push(GROUP as f64 * problem.flop() / to.since_ns(&from)? / 1e3);
        }
    }
    stats::median(&rates).context("no group was timed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Peaks;

    #[test]
    fn each_format_has_a_bound_of_its_own() {
        let peaks = Peaks { fp32_gflops: 66_900, bf16_gflops: 989_400, ..Peaks::default() };
        let device = DeviceInfo { peaks: Some(peaks), ..DeviceInfo::default() };
        let with = |name: &str, value| Series::from([(name.to_owned(), Measure::single(value, "TFLOP/s"))]);
        assert_eq!(MixedPrecision.impossible(&with("FP8: TFLOP/s", 1_500.0), &device), None);
        assert!(MixedPrecision.impossible(&with("TF32: TFLOP/s", 600.0), &device).is_some());
        assert!(MixedPrecision.impossible(&with("FP32: TFLOP/s", 70.0), &device).is_some());
    }
}
