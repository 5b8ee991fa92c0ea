//! The kernels that come with the binary, as PTX text that the driver compiles when it is loaded, and how one is launched.

use std::ffi::{CString, c_void};
use std::ptr;

use anyhow::{Context, Result};
use cudarc::driver::sys::{self, CUdeviceptr, CUfunction, CUmodule};

use super::device::Gpu;
use super::error::{CudaError, check};
use super::stream::StreamHandle;

/// One file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Arithmetic, memory, patterns, faults: any GPU from compute capability 7.0 on.
    Basic,
    /// Products of matrices on tensor cores: 8.0.
    Gemm,
    /// Fused attention on tensor cores: 8.0.
    Attention,
    /// The rest of a decoder and of a training step: 8.0.
    Model,
}

impl Source {
    /// The PTX.
    fn ptx(self) -> &'static str {
        match self {
            Self::Basic => include_str!("../../kernels/basic.ptx"),
            Self::Gemm => include_str!("../../kernels/gemm.ptx"),
            Self::Attention => include_str!("../../kernels/attention.ptx"),
            Self::Model => include_str!("../../kernels/model.ptx"),
        }
    }
}

/// Kernels in device memory, for as long as the process lives.
pub struct Module(CUmodule);

impl Module {
    /// Has the driver compile and load `source`.
    pub fn load(_gpu: &Gpu, source: Source) -> Result<Self> {
        let image = CString::new(source.ptx())?;
        let mut module = ptr::null_mut();
        // SAFETY: the output is writable; the image is NUL-terminated text, which cuModuleLoadData takes for PTX; a
        // context is current since a `Gpu` exists.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) })
            .with_context(|| format!("loading the kernels of {source:?}"))?;
        Ok(Self(module))
    }

    /// The kernel `name`.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let symbol = CString::new(name)?;
        let mut function = ptr::null_mut();
        // SAFETY: the output is writable, the module is loaded and never unloaded, the name ends with NUL.
        let found = unsafe { sys::cuModuleGetFunction(&raw mut function, self.0, symbol.as_ptr()) };
        check("cuModuleGetFunction", found).with_context(|| name.to_owned())?;
        Ok(Kernel(function))
    }
}

/// A kernel.
#[derive(Clone, Copy)]
pub struct Kernel(CUfunction);

// SAFETY: a handle, not memory: the driver's functions take it in any thread whose current context is that of the module
// (CUDA programming guide, driver API), and it lives as long as the process.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// Blocks in each direction, and threads in each direction of a block.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks: x and y.
    pub grid: [u32; 2],
    /// Threads: x and y.
    pub block: [u32; 2],
}

impl Shape {
    /// `blocks` of `threads`, in one direction.
    pub fn line(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1], block: [threads, 1] }
    }
}

/// The most parameters of a kernel.
const MOST: usize = 12;

/// The parameters of a launch: eight bytes each, of which the driver reads as many as the kernel declares (the machine is
/// little-endian, as all that CUDA runs on). The first is what the launch takes on the software GPU.
#[derive(Clone, Copy)]
pub struct Arguments {
    values: [u64; MOST],
    count: usize,
}

impl Arguments {
    /// Begins with the modelled time, in nanoseconds.
    #[inline(always)]
    pub fn costing(sim_ns: u64) -> Self {
        Self { values: [0; MOST], count: 0 }.u64(sim_ns)
    }

    /// A number of 64 bits, or an address.
    #[inline(always)]
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.values[self.count] = value;
        self.count += 1;
        self
    }

    /// A number of 32 bits.
    #[inline(always)]
    #[must_use]
    pub fn i32(self, value: i32) -> Self {
        self.u64(u64::from(value.cast_unsigned()))
    }

    /// A floating-point number of 32 bits.
    #[inline(always)]
    #[must_use]
    pub fn f32(self, value: f32) -> Self {
        self.u64(u64::from(value.to_bits()))
    }

    /// Pointers to the parameters, as `cuLaunchKernel` takes them; they hold while `self` does.
    #[inline(always)]
    pub fn pointers(&mut self) -> [*mut c_void; MOST] {
        self.values.each_mut().map(|value| (&raw mut *value).cast())
    }
}

impl Kernel {
    /// Launches it on `stream` with `arguments`, which must be those that its source declares.
    #[inline(always)]
    pub fn launch(
        self,
        stream: StreamHandle,
        shape: Shape,
        mut arguments: Arguments,
    ) -> Result<(), CudaError> {
        let ([gx, gy], [bx, by]) = (shape.grid, shape.block);
        let mut pointers = arguments.pointers();
        // SAFETY: the callers in this crate pass what the kernel's source declares, addresses of live device memory
        // among it; the driver copies the parameters during the call.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                self.0,
                gx,
                gy,
                1,
                bx,
                by,
                1,
                0,
                stream.raw(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    /// The driver's handle.
    pub fn handle(self) -> CUfunction {
        self.0
    }
}

/// Fills `to` with `count` numbers in bf16 from a hash of their places, spread over (-scale, scale).
pub fn fill_bf16(
    basic: &Module,
    stream: StreamHandle,
    to: CUdeviceptr,
    count: u64,
    scale: f32,
    seed: u32,
) -> Result<()> {
    let arguments = Arguments::costing(20_000).u64(to).u64(count).f32(scale).i32(seed.cast_signed());
    Ok(basic.kernel("fill_bf16")?.launch(stream, Shape::line(1_024, 256), arguments)?)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const HEADER: &str = include_str!("../../kernels/mma.h");

    fn source_text(source: Source) -> &'static str {
        match source {
            Source::Basic => include_str!("../../kernels/basic.cu"),
            Source::Gemm => include_str!("../../kernels/gemm.cu"),
            Source::Attention => include_str!("../../kernels/attention.cu"),
            Source::Model => include_str!("../../kernels/model.cu"),
        }
    }

    const ALL: [Source; 4] = [Source::Basic, Source::Gemm, Source::Attention, Source::Model];

    #[test]
    fn the_ptx_is_made_from_the_sources_beside_it() {
        for source in ALL {
            let mut hash = Sha256::new();
            hash.update(source_text(source));
            if source_text(source).contains("#include \"mma.h\"") {
                hash.update(HEADER);
            }
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            let line = source.ptx().lines().find_map(|line| line.strip_prefix("// sources-sha256: "));
            assert_eq!(line, Some(hash.as_str()), "{source:?}: run scripts/regenerate-kernels");
        }
    }

    #[test]
    fn every_driver_from_535_on_reads_the_ptx_and_the_software_gpu_knows_its_costs() {
        for source in ALL {
            let ptx = source.ptx();
            assert!(ptx.contains("\n.version 8.2\n"), "{source:?}"); // CUDA 12.2, so driver 535
            let kernels = ptx.lines().filter(|line| line.starts_with(".visible .entry")).count();
            let costs = ptx.lines().filter(|line| line.starts_with("// cuota-sim: ")).count();
            assert!(kernels > 0 && kernels == costs, "{source:?}: {costs} costs of {kernels} kernels");
            let declared = source_text(source).lines().filter(|line| line.contains("extern \"C\"")).count();
            assert_eq!(kernels, declared, "{source:?}");
        }
    }

    #[test]
    fn the_first_parameter_of_every_kernel_is_what_it_costs_on_the_software_gpu() {
        for source in ALL {
            for (_, list) in
                source_text(source).split("extern \"C\"").skip(1).filter_map(|k| k.split_once('('))
            {
                let list = list.strip_prefix("256)").or(list.strip_prefix("128)")).unwrap_or(list);
                assert!(list.contains("u64 sim_ns"), "{source:?}: {}", &list[..40]);
            }
        }
    }
}
