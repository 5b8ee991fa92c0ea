//! Kernels of a known amount of work: alone, in graphs, and empty ones.

use anyhow::{Result, bail};
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::Load;
use crate::gpu::{
    Arguments, Buffer, CudaError, Gpu, Graph, Kernel, Module, Shape, Source, Stream, StreamHandle,
};

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks for each multiprocessor: with 256 threads each, as many as keep all units of it busy.
const BLOCKS: u32 = 4;
/// Multiply-adds are done in groups of so many (bench/kernels/basic.cu).
const GROUP: u64 = 32;

/// A kernel whose work takes about a given time by itself on this device.
pub(crate) struct Work {
    kernel: Kernel,
    shape: Shape,
    steps: u64,
    ns: u64,
    /// What thread 0 computes, and a word that it does not write.
    out: Buffer,
    /// Launches that ended.
    count: Buffer,
}

impl Work {
    /// A kernel of about `ns` at the device's highest clock: the same number of steps for every system, since it is
    /// computed and not measured. `part` of the multiprocessors have blocks.
    pub(crate) fn new(gpu: &Gpu, ns: u64, part: f64) -> Result<Self> {
        let module = Module::load(gpu, Source::Basic)?;
        let multiprocessors = gpu.device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let clock_khz = gpu.device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?.max(1_000_000);
        let major = gpu.device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        // 1,024 threads on a multiprocessor with 128 FP32 lanes (64 before capability 8.6): 8 clocks (16) for a step of
        // all of them (CUDA programming guide, arithmetic throughput).
        let clocks_per_step = if major >= 9 { 8 } else { 16 };
        let steps = (ns * clock_khz / 1_000_000 / clocks_per_step).next_multiple_of(GROUP);
        let all = f64::from(u32::try_from(multiprocessors.max(1))?);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of some hundreds"
        )]
        let used = ((all * part) as u32).max(1);
        Ok(Self {
            kernel: module.kernel("burn")?,
            shape: Shape::line(used * if part < 1.0 { 1 } else { BLOCKS }, THREADS),
            steps,
            ns,
            out: Buffer::zeroed(gpu, 2)?,
            count: Buffer::zeroed(gpu, 1)?,
        })
    }

    /// Launches it once.
    #[inline(always)]
    pub(crate) fn launch(&self, stream: StreamHandle) -> Result<(), CudaError> {
        let arguments =
            Arguments::costing(self.ns).u64(self.steps).u64(self.out.address()).u64(self.count.address());
        self.kernel.launch(stream, self.shape, arguments)
    }

    /// Fails unless `launches` ended and left what they must.
    pub(crate) fn verify(&self, launches: u64) -> Result<()> {
        let (mut count, mut out) = ([0_u32], [0.0_f32]);
        self.count.download(0, &mut count)?;
        self.out.download(0, &mut out)?;
        let wrapped = u32::try_from(launches % (1 << 32))?;
        let right = expected(self.steps);
        if count[0] != wrapped || out[0].to_bits() != right.to_bits() {
            bail!(
                "{launches} launches were made; the kernel counted {} and left {}, not {right}",
                count[0],
                out[0]
            );
        }
        Ok(())
    }
}

/// What thread 0 computes in `steps` steps; settled long before 100,000, where adding more changes nothing.
fn expected(steps: u64) -> f32 {
    let mut x = 0.0_f32;
    for _ in 0..steps {
        let next = x.mul_add(0.999, 0.001);
        if next.to_bits() == x.to_bits() {
            break;
        }
        x = next;
    }
    x
}

/// Kernels of one length.
pub(super) struct Burn {
    work: Work,
    stream: Stream,
    waits: bool,
}

impl Burn {
    /// Kernels of `ns`; `waits` for each.
    pub(super) fn new(gpu: &Gpu, ns: u64, waits: bool) -> Result<Self> {
        Ok(Self { work: Work::new(gpu, ns, 1.0)?, stream: Stream::new(gpu)?, waits })
    }
}

impl Load for Burn {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        Ok(self.work.launch(self.stream.handle())?)
    }

    fn unit_ns(&self) -> u64 {
        self.work.ns
    }

    fn waits(&self) -> bool {
        self.waits
    }

    fn verify(&mut self, units: u64) -> Result<()> {
        self.work.verify(units)
    }
}

/// A graph of kernels, one after the other.
pub(super) struct Chain {
    work: Work,
    stream: Stream,
    graph: Graph,
    kernels: u64,
}

impl Chain {
    /// `kernels` of `ns` each.
    pub(super) fn new(gpu: &Gpu, kernels: u64, ns: u64) -> Result<Self> {
        let (work, stream) = (Work::new(gpu, ns, 1.0)?, Stream::new(gpu)?);
        let graph =
            stream.capture::<CudaError>(|stream| (0..kernels).try_for_each(|_| work.launch(stream)))?;
        Ok(Self { work, stream, graph, kernels })
    }
}

impl Load for Chain {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        Ok(self.graph.launch(self.stream.handle())?)
    }

    fn unit_ns(&self) -> u64 {
        self.kernels * self.work.ns
    }

    fn verify(&mut self, units: u64) -> Result<()> {
        self.work.verify(units * self.kernels)
    }
}

/// Launches of nothing.
pub(super) struct Empty {
    kernel: Kernel,
    stream: Stream,
}

/// About what an empty kernel takes on the device.
const EMPTY_NS: u64 = 2_000;

impl Empty {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = Module::load(gpu, Source::Basic)?.kernel("empty")?;
        Ok(Self { kernel, stream: Stream::new(gpu)? })
    }
}

impl Load for Empty {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        let arguments = Arguments::costing(EMPTY_NS);
        Ok(self.kernel.launch(self.stream.handle(), Shape::line(1, 32), arguments)?)
    }

    fn unit_ns(&self) -> u64 {
        EMPTY_NS
    }

    /// An empty kernel leaves nothing that could be wrong; that all ended is what the last event said.
    fn verify(&mut self, _units: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_value_settles_and_is_what_each_step_gives() {
        assert_eq!(expected(0), 0.0);
        assert_eq!(expected(1), 0.001);
        assert!(expected(1_000_000) > 0.99);
        assert_eq!(expected(1_000_000).to_bits(), expected(2_000_000).to_bits());
    }
}
