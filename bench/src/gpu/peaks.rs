//! What a device could do at the very best: a measured figure beyond it is wrong.

use anyhow::Result;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use serde::{Deserialize, Serialize};

use super::device::Device;

/// Upper bounds, from the multiprocessors, the clocks and the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Multiprocessors.
    pub multiprocessors: u64,
    /// Their highest clock, in kHz.
    pub clock_khz: u64,
    /// Compute capability: major × 10 + minor.
    pub capability: u64,
    /// FP32 without tensor cores, in GFLOP/s.
    pub fp32_gflops: u64,
    /// Dense BF16 on tensor cores with FP32 sums, in GFLOP/s; 0 where the model is not known.
    pub bf16_gflops: u64,
    /// Device memory, in MB/s (10^6).
    pub memory_mb_per_s: u64,
}

/// Published dense BF16 figures, where the highest clock would promise more than the maker does: the name's part, and
/// GFLOP/s (NVIDIA's data sheets of H100, H200 and A100; half of the figure with sparsity).
const PUBLISHED: [(&str, u64); 5] = [
    ("H100 80GB HBM3", 989_400),
    ("H200", 989_400),
    ("H100 PCIe", 756_000),
    ("H100 NVL", 835_500),
    ("A100", 312_000),
];

impl Peaks {
    /// Asks the driver.
    pub(super) fn of(device: Device) -> Result<Self> {
        let ask = |attribute| device.attribute(attribute);
        let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let bus_bits = ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        // Twice a clock: all of these memories move data at both edges.
        let memory_khz = 2 * ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let base = Self {
            multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            clock_khz: ask(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            capability: major * 10 + minor,
            memory_mb_per_s: memory_khz * bus_bits / 8 / 1_000,
            ..Self::default()
        };
        Ok(base.with_arithmetic())
    }

    /// Fills in what the compute capability says of a multiprocessor.
    fn with_arithmetic(self) -> Self {
        let (fp32, bf16) = per_clock(self.capability);
        let gflops = |per_clock: u64| self.multiprocessors * self.clock_khz * per_clock / 1_000_000;
        Self { fp32_gflops: gflops(fp32), bf16_gflops: gflops(bf16), ..self }
    }

    /// The BF16 bound of the device `name`, in TFLOP/s: the maker's figure where it is known.
    pub fn bf16_tflops(&self, name: &str) -> Option<f64> {
        let published = PUBLISHED.iter().find(|(part, _)| name.contains(part)).map(|(_, gflops)| *gflops);
        let gflops = published.unwrap_or(self.bf16_gflops);
        (gflops > 0).then(|| gflops as f64 / 1e3)
    }

    /// The FP32 bound in TFLOP/s.
    pub fn fp32_tflops(&self) -> f64 {
        self.fp32_gflops as f64 / 1e3
    }

    /// The bound of device memory in TB/s.
    pub fn memory_tb_per_s(&self) -> f64 {
        self.memory_mb_per_s as f64 / 1e6
    }
}

/// FLOP a clock and multiprocessor, FP32 and dense BF16 with FP32 sums, by compute capability (NVIDIA's CUDA programming
/// guide, "Arithmetic Instructions", and the architectures' white papers); 0 where it is not known here.
fn per_clock(capability: u64) -> (u64, u64) {
    match capability {
        70 | 72 | 75 => (128, 0),
        80 => (128, 2_048),
        86 | 87 => (256, 1_024),
        89 => (256, 1_024),
        90 => (256, 4_096),
        _ => (256, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_h100s_peaks_are_those_of_its_data_sheet() {
        let peaks = Peaks {
            multiprocessors: 132,
            clock_khz: 1_980_000,
            capability: 90,
            memory_mb_per_s: 2 * 2_619_000 * 5_120 / 8 / 1_000,
            ..Peaks::default()
        };
        let peaks = peaks.with_arithmetic();
        assert!((peaks.bf16_tflops("NVIDIA H100 80GB HBM3").unwrap() - 989.4).abs() < 1e-9);
        assert!((peaks.fp32_tflops() - 66.9).abs() < 0.1);
        assert!((peaks.memory_tb_per_s() - 3.35).abs() < 0.01);
    }

    #[test]
    fn a_model_that_is_not_known_has_no_bound_for_tensor_cores() {
        let peaks = Peaks { multiprocessors: 1, clock_khz: 1, capability: 120, ..Peaks::default() };
        assert_eq!(peaks.with_arithmetic().bf16_tflops("another"), None);
    }
}
