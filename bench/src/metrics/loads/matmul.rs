//! Products of matrices on tensor cores.

use anyhow::{Result, bail};
use cudarc::driver::sys::CUdeviceptr;

use super::Load;
use crate::gpu::{
    Arguments, Buffer, CudaError, Gpu, Kernel, Module, Shape, Source, Stream, StreamHandle, bf16,
};

/// What the software GPU is told: a rate, in FLOP a microsecond, and bytes a microsecond.
const MODEL_FLOP_PER_US: u64 = 400_000_000;
const MODEL_BYTES_PER_US: u64 = 2_500_000;
/// What it is told a launch takes at the least, in nanoseconds.
const MODEL_LEAST_NS: u64 = 2_000;

/// C = f(A B^T) + R, all in bf16 by rows, with sums in FP32.
pub(crate) struct Gemm {
    large: Kernel,
    small: Kernel,
}

/// What happens to a sum before R is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Nothing.
    None,
    /// Negative ones become zero.
    Relu,
    /// The tanh form of GELU.
    Gelu,
}

/// The operands of one product: A is m x k, B is n x k, C and R are m x n.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Rows of C, columns of C, depth; n a multiple of 128 (32 where m is at most 64), k of 32.
    pub sizes: [u32; 3],
    /// A, B and C.
    pub operands: [CUdeviceptr; 3],
    /// R; 0 for none.
    pub residual: CUdeviceptr,
    /// What happens to a sum.
    pub activation: Activation,
}

impl Product {
    /// A plain product.
    pub(crate) fn plain(sizes: [u32; 3], operands: [CUdeviceptr; 3]) -> Self {
        Self { sizes, operands, residual: 0, activation: Activation::None }
    }

    /// Floating-point operations.
    pub(crate) fn flop(&self) -> u64 {
        2 * self.sizes.iter().map(|size| u64::from(*size)).product::<u64>()
    }

    fn model_ns(&self) -> u64 {
        let [m, n, k] = self.sizes.map(u64::from);
        let bytes = 2 * (m * k + n * k + m * n);
        let us = (self.flop() / MODEL_FLOP_PER_US).max(bytes / MODEL_BYTES_PER_US);
        MODEL_LEAST_NS + us * 1_000
    }
}

impl Gemm {
    /// Loads the kernels.
    pub(crate) fn load(gpu: &Gpu) -> Result<Self> {
        let module = Module::load(gpu, Source::Gemm)?;
        Ok(Self { large: module.kernel("gemm_128x128")?, small: module.kernel("gemm_64x32")? })
    }

    /// Launches one product.
    ///
    /// # Panics
    /// When the sizes are none that the kernel takes: it would read past the ends.
    pub(crate) fn launch(&self, stream: StreamHandle, product: Product) -> Result<(), CudaError> {
        let [m, n, k] = product.sizes;
        let (kernel, tile_m, tile_n, threads) =
            if m <= 64 { (self.small, 64, 32, 128) } else { (self.large, 128, 128, 256) };
        assert!(n.is_multiple_of(tile_n) && k.is_multiple_of(32), "sizes {:?}", product.sizes);
        let shape = Shape { grid: [m.div_ceil(tile_m), n / tile_n], block: [threads, 1] };
        let [a, b, c] = product.operands;
        let activation = match product.activation {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::Gelu => 2,
        };
        let arguments = Arguments::costing(product.model_ns())
            .u64(a)
            .u64(b)
            .u64(product.residual)
            .u64(c)
            .i32(m.cast_signed())
            .i32(n.cast_signed())
            .i32(k.cast_signed())
            .i32(activation);
        kernel.launch(stream, shape, arguments)
    }
}

/// Places of a result that are computed again on the host: spread over it, corners included.
pub(crate) fn sampled_places(rows: u64, columns: u64) -> impl Iterator<Item = (u64, u64)> {
    const SAMPLES: u64 = 64;
    (0..SAMPLES).map(move |n| {
        let row = if n == 0 { 0 } else { (n * 7_919 + n * n * 31) % rows };
        let column = if n == 0 { columns - 1 } else { (n * 104_729 + n * n * 17) % columns };
        (row, column)
    })
}

/// The sum in FP64 of row `row` of A times row `column` of B, both as `fill_bf16` made them.
pub(crate) fn exact([row, column]: [u64; 2], depth: u64, scales: [f32; 2], seeds: [u32; 2]) -> f64 {
    (0..depth)
        .map(|k| {
            bf16::to_f64(bf16::filled(row * depth + k, scales[0], seeds[0]))
                * bf16::to_f64(bf16::filled(column * depth + k, scales[1], seeds[1]))
        })
        .sum()
}

/// Square products, one after the other, of matrices whose rows have one number each: with random numbers an H100 is at its power limit, and
/// clocks down where nothing limits the work but not under a cap, so that rates would compare clocks.
pub(super) struct Matmul {
    gemm: Gemm,
    stream: Stream,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    size: u32,
}

/// The side of the matrices.
const SIZE: u32 = 4_096;
/// The numbers of A from the one, those of B from the other: so that a product of B and A is not one of A and B.
const LEAST: [f64; 2] = [1.0, 2.0];
/// BF16 keeps 8 bits; sums of 4,096 products in FP32 are far more exact than that.
const TOLERANCE: f64 = 1.0 / 128.0;

impl Matmul {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let matrix = || Buffer::new(gpu, 2 * SIZE as usize * SIZE as usize);
        let (a, b, c) = (matrix()?, matrix()?, matrix()?);
        for (operand, least) in [(&a, LEAST[0]), (&b, LEAST[1])] {
            let rows =
                (0..u64::from(SIZE)).flat_map(|row| std::iter::repeat_n(number(row, least), SIZE as usize));
            operand.upload(&rows.collect::<Vec<_>>())?;
        }
        Ok(Self { gemm: Gemm::load(gpu)?, stream, a, b, c, size: SIZE })
    }

    fn product(&self) -> Product {
        Product::plain([self.size; 3], [self.a.address(), self.b.address(), self.c.address()])
    }
}

impl Load for Matmul {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        Ok(self.gemm.launch(self.stream.handle(), self.product())?)
    }

    fn unit_ns(&self) -> u64 {
        self.product().model_ns()
    }

    /// Fails unless samples of C are right. A wrong place in a row of A or B would not be seen: it holds the same number.
    fn verify(&mut self, _units: u64) -> Result<()> {
        verify_samples("C", &self.c, [self.size.into(); 2], |row, column| {
            f64::from(self.size) * of_row(row, LEAST[0]) * of_row(column, LEAST[1])
        })
    }
}

/// Fails unless samples of `matrix`, rows x columns by rows, are what `right` says, to the precision of bf16.
pub(super) fn verify_samples(
    name: &str,
    matrix: &Buffer,
    [rows, columns]: [u64; 2],
    right: impl Fn(u64, u64) -> f64,
) -> Result<()> {
    for (row, column) in sampled_places(rows, columns) {
        let mut bits = [0_u16];
        matrix.download(usize::try_from(row * columns + column)?, &mut bits)?;
        let (got, right) = (bf16::to_f64(bits[0]), right(row, column));
        if (got - right).abs() > TOLERANCE * (1.0 + right.abs()) || !got.is_finite() {
            bail!("{name}[{row}][{column}] of {rows} x {columns} is {got} and should be {right}");
        }
    }
    Ok(())
}

/// A number of a row as it is in the matrix.
fn number(row: u64, least: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "bf16 has it exactly, and so does f32")]
    bf16::from_f32(of_row(row, least) as f32)
}

/// The number of a row: one of sixteen, a sixteenth of `least` apart, which bf16 has exactly. Rows that are 1 apart, or 16 to 256 by a power of two, have different ones.
fn of_row(row: u64, least: f64) -> f64 {
    least + least * ((row + 3 * (row / 16) + 5 * (row / 256)) % 16) as f64 / 16.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_places_are_inside_and_spread() {
        let places: std::collections::BTreeSet<_> = sampled_places(100, 50).collect();
        assert!(places.iter().all(|(row, column)| *row < 100 && *column < 50));
        assert!(places.len() >= 40, "{}", places.len());
    }

    #[test]
    fn neighbouring_rows_and_tiles_have_different_numbers_that_bf16_has_exactly() {
        for row in 0..u64::from(SIZE) - 256 {
            for least in LEAST {
                let of_this = of_row(row, least);
                assert!((bf16::to_f64(number(row, least)) - of_this).abs() < 1e-12, "{of_this}");
                for apart in [1, 16, 32, 64, 128, 256] {
                    let other = of_row(row + apart, least);
                    assert!((other - of_this).abs() >= least / 16.0, "rows {row} and {}", row + apart);
                }
            }
        }
    }

    #[test]
    fn a_product_of_two_4096_matrices_is_137_gflop() {
        assert_eq!(Product::plain([4_096; 3], [0; 3]).flop(), 137_438_953_472);
    }
}
