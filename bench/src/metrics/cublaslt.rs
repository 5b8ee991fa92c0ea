//! cuBLASLt, as far as one kind of product needs it: D = A B^T with rows of A and B that lie together in memory, the layout
//! that all formats have, FP8 among them.

use std::ffi::{c_int, c_void};
use std::ptr;

use anyhow::{Result, bail};
use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cudaDataType_t as Type,
};
use cudarc::driver::sys::CUstream;

use super::loads::sampled_places;
use crate::gpu::{Buffer, Gpu, Library, PlainData, StreamHandle, bf16};

/// Names that installations have, newest first.
const NAMES: [&str; 4] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"];
/// Device memory that an algorithm may use.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// 32 bits, without tensor cores.
    Fp32,
    /// 32 bits in memory, 19 on tensor cores.
    Tf32,
    /// The upper half of FP32.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// E4M3.
    Fp8,
}

impl Numbers {
    pub(super) const ALL: [Self; 5] = [Self::Fp32, Self::Tf32, Self::Bf16, Self::Fp16, Self::Fp8];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Tf32 => "TF32",
            Self::Bf16 => "BF16",
            Self::Fp16 => "FP16",
            Self::Fp8 => "FP8",
        }
    }

    /// Types of A and B, and of D.
    fn types(self) -> [Type; 2] {
        match self {
            Self::Fp32 | Self::Tf32 => [Type::CUDA_R_32F; 2],
            Self::Bf16 => [Type::CUDA_R_16BF; 2],
            Self::Fp16 => [Type::CUDA_R_16F; 2],
            Self::Fp8 => [Type::CUDA_R_8F_E4M3, Type::CUDA_R_16BF],
        }
    }

    fn compute(self) -> Compute {
        match self {
            Self::Tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => Compute::CUBLAS_COMPUTE_32F,
        }
    }
}

/// Quarters from -1 to 1 are exact in every format; so are their products, and their sums in FP32.
fn quarter(index: u64, seed: u64) -> i32 {
    let x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
    i32::try_from((x ^ x >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40).map_or(0, |bits| bits % 9 - 4)
}

/// The bits of `quarters` quarters in FP16, and in E4M3.
fn half_bits(quarters: i32) -> u16 {
    const BITS: [u16; 5] = [0, 0x3400, 0x3800, 0x3a00, 0x3c00];
    BITS[quarters.unsigned_abs() as usize] | if quarters < 0 { 0x8000 } else { 0 }
}
fn e4m3_bits(quarters: i32) -> u8 {
    const BITS: [u8; 5] = [0, 0x28, 0x30, 0x34, 0x38];
    BITS[quarters.unsigned_abs() as usize] | if quarters < 0 { 0x80 } else { 0 }
}

macro_rules! functions {
    ($($field:ident = $name:literal: fn($($argument:ty),*);)*) => {
        /// The library's functions.
        /// They return a number: a library can be newer than any list of its statuses.
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            fn find(library: &Library) -> Result<Self> {
                // SAFETY: the signatures are those of cublasLt.h, as cudarc's bindings have them.
                unsafe { Ok(Self { $($field: library.function($name)?,)* }) }
            }
        }
    };
}

functions! {
    create = "cublasLtCreate": fn(*mut cublasLtHandle_t);
    describe = "cublasLtMatmulDescCreate": fn(*mut cublasLtMatmulDesc_t, Compute, Type);
    set = "cublasLtMatmulDescSetAttribute": fn(cublasLtMatmulDesc_t, Attribute, *const c_void, usize);
    layout = "cublasLtMatrixLayoutCreate": fn(*mut cublasLtMatrixLayout_t, Type, u64, u64, i64);
    prefer = "cublasLtMatmulPreferenceCreate": fn(*mut cublasLtMatmulPreference_t);
    set_preference = "cublasLtMatmulPreferenceSetAttribute": fn(cublasLtMatmulPreference_t, Preference, *const c_void, usize);
    heuristic = "cublasLtMatmulAlgoGetHeuristic": fn(
        cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int, *mut cublasLtMatmulHeuristicResult_t, *mut c_int
    );
    multiply = "cublasLtMatmul": fn(
        cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *const c_void,
        cublasLtMatrixLayout_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *mut c_void,
        cublasLtMatrixLayout_t, *const cublasLtMatmulAlgo_t, *mut c_void, usize, CUstream
    );
}

/// The library, open.
pub(super) struct Blas {
    functions: Functions,
}

/// One product, ready to be launched.
pub(super) struct Problem {
    numbers: Numbers,
    size: usize,
    handle: cublasLtHandle_t,
    description: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 2],
    algorithm: cublasLtMatmulAlgo_t,
    a: Buffer,
    b: Buffer,
    d: Buffer,
    workspace: Buffer,
}

/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

fn check(call: &str, status: c_int) -> Result<()> {
    let name = match status {
        0 => return Ok(()),
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        NOT_SUPPORTED => "CUBLAS_STATUS_NOT_SUPPORTED",
        _ => "a cuBLAS status",
    };
    bail!("{call} returned {name} ({status})")
}

impl Blas {
    /// Opens the library.
    ///
    /// # Errors
    /// `NotMeasured` where there is none.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { functions: Functions::find(&Library::open(&NAMES)?)? })
    }

    /// Makes a product of `size` x `size` matrices ready; `None` where card or library have no algorithm for it.
    pub(super) fn problem(&self, gpu: &Gpu, numbers: Numbers, size: usize) -> Result<Option<Problem>> {
        let functions = &self.functions;
        let (mut handle, mut description) = (ptr::null_mut(), ptr::null_mut());
        let [mut inputs, mut outputs] = [ptr::null_mut(); 2];
        let mut preference = ptr::null_mut();
        let (count, leading) = (size as u64, i64::try_from(size)?);
        let transposed = 1_i32; // CUBLAS_OP_T: to cuBLAS, whose matrices lie by columns, our rows of A are columns.
        let [input, output] = numbers.types();
        let workspace_bytes = WORKSPACE_BYTES;
        // SAFETY: outputs are writable, values are passed with their sizes, and every object is one that was just made.
        // They live as long as the process.
        unsafe {
            check("cublasLtCreate", (functions.create)(&raw mut handle))?;
            let described = (functions.describe)(&raw mut description, numbers.compute(), Type::CUDA_R_32F);
            check("cublasLtMatmulDescCreate", described)?;
            let attribute = Attribute::CUBLASLT_MATMUL_DESC_TRANSA;
            let set = (functions.set)(description, attribute, (&raw const transposed).cast(), 4);
            check("cublasLtMatmulDescSetAttribute", set)?;
            for (layout, kind) in [(&raw mut inputs, input), (&raw mut outputs, output)] {
                check("cublasLtMatrixLayoutCreate", (functions.layout)(layout, kind, count, count, leading))?;
            }
            check("cublasLtMatmulPreferenceCreate", (functions.prefer)(&raw mut preference))?;
            let most = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let set = (functions.set_preference)(preference, most, (&raw const workspace_bytes).cast(), 8);
            check("cublasLtMatmulPreferenceSetAttribute", set)?;
        }
        let mut found = 0;
        // SAFETY: the result is plain C data for which zero is valid, and is written where `found` is 1.
        let mut result: cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: all objects were made above; there is room for the one result that is asked for.
        let status = unsafe {
            (functions.heuristic)(
                handle,
                description,
                inputs,
                inputs,
                outputs,
                outputs,
                preference,
                1,
                &raw mut result,
                &raw mut found,
            )
        };
        if status == NOT_SUPPORTED || (status == 0 && found == 0) {
            return Ok(None);
        }
        check("cublasLtMatmulAlgoGetHeuristic", status)?;
        let [a, b] = [1_u64, 2].map(|seed| operand(gpu, numbers, size, seed));
        Ok(Some(Problem {
            numbers,
            size,
            handle,
            description,
            layouts: [inputs, outputs],
            algorithm: result.algo,
            a: a?,
            b: b?,
            d: Buffer::zeroed(gpu, size * size)?,
            workspace: Buffer::new(gpu, WORKSPACE_BYTES)?,
        }))
    }

    /// Launches `problem` once.
    pub(super) fn multiply(&self, stream: StreamHandle, problem: &Problem) -> Result<()> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let [inputs, outputs] = problem.layouts;
        let at = |buffer: &Buffer| buffer.pointer();
        // SAFETY: the objects fit each other, the buffers are as long as the layouts say, and the algorithm is one that the
        // library chose for them and for this workspace.
        check("cublasLtMatmul", unsafe {
            (self.functions.multiply)(
                problem.handle,
                problem.description,
                (&raw const one).cast(),
                at(&problem.a),
                inputs,
                at(&problem.b),
                inputs,
                (&raw const zero).cast(),
                at(&problem.d),
                outputs,
                at(&problem.d),
                outputs,
                &raw const problem.algorithm,
                at(&problem.workspace),
                WORKSPACE_BYTES,
                stream.raw(),
            )
        })
    }
}

/// A matrix of quarters in device memory.
fn operand(gpu: &Gpu, numbers: Numbers, size: usize, seed: u64) -> Result<Buffer> {
    let quarters = (0..(size * size) as u64).map(|index| quarter(index, seed));
    let buffer = Buffer::new(gpu, size * size * 4)?;
    #[expect(clippy::cast_precision_loss, reason = "quarters from -4 to 4")]
    match numbers {
        Numbers::Fp32 | Numbers::Tf32 => upload(&buffer, quarters.map(|n| n as f32 / 4.0))?,
        Numbers::Bf16 => upload(&buffer, quarters.map(|n| bf16::from_f32(n as f32 / 4.0)))?,
        Numbers::Fp16 => upload(&buffer, quarters.map(half_bits))?,
        Numbers::Fp8 => upload(&buffer, quarters.map(e4m3_bits))?,
    }
    Ok(buffer)
}

fn upload<T: PlainData>(buffer: &Buffer, values: impl Iterator<Item = T>) -> Result<()> {
    Ok(buffer.upload(&values.collect::<Vec<T>>())?)
}

impl Problem {
    /// Floating-point operations of one product.
    pub(super) fn flop(&self) -> f64 {
        2.0 * (self.size as f64).powi(3)
    }

    /// Fails unless samples of D are right, to the precision of the format: `D[i][j]` = sum of `A[i][k] B[j][k]`, by columns.
    pub(super) fn verify(&self) -> Result<()> {
        let size = self.size as u64;
        for (row, column) in sampled_places(size, size) {
            let sum: i64 = (0..size)
                .map(|k| i64::from(quarter(row * size + k, 1)) * i64::from(quarter(column * size + k, 2)))
                .sum();
            let right = sum as f64 / 16.0;
            let place = usize::try_from(column * size + row)?;
            let got = self.number(place)?;
            // Results are rounded to as little as 8 bits; tensor cores sum FP8 in fewer bits than FP32 has.
            if (got - right).abs() > 0.25 + right.abs() / 64.0 || !got.is_finite() {
                bail!("D[{row}][{column}] is {got} and should be {right}");
            }
        }
        Ok(())
    }

    fn number(&self, place: usize) -> Result<f64> {
        let mut wide = [0.0_f32];
        let mut narrow = [0_u16];
        Ok(match self.numbers {
            Numbers::Fp32 | Numbers::Tf32 => {
                self.d.download(place, &mut wide)?;
                f64::from(wide[0])
            }
            Numbers::Bf16 | Numbers::Fp8 => {
                self.d.download(place, &mut narrow)?;
                bf16::to_f64(narrow[0])
            }
            Numbers::Fp16 => {
                self.d.download(place, &mut narrow)?;
                half_to_f64(narrow[0])
            }
        })
    }
}

/// An IEEE half-precision number.
fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2.0_f64.powi(-24),
        31 => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_what_their_bits_say() {
        for quarters in -4..=4 {
            let value = f64::from(quarters) / 4.0;
            assert_eq!(half_to_f64(half_bits(quarters)), value);
            let bits = e4m3_bits(quarters);
            // E4M3: a sign, four bits of exponent with a bias of 7, three of fraction.
            let (exponent, fraction) = (i32::from(bits >> 3 & 0xf), f64::from(bits & 7));
            let size =
                if bits & 0x7f == 0 { 0.0 } else { (1.0 + fraction / 8.0) * 2.0_f64.powi(exponent - 7) };
            assert_eq!(if bits & 0x80 == 0 { size } else { -size }, value);
        }
    }

    #[test]
    fn quarters_take_every_value() {
        let all: std::collections::BTreeSet<i32> = (0..200).map(|index| quarter(index, 1)).collect();
        assert_eq!(all.len(), 9);
    }
}
