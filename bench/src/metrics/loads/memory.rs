//! Aggressors on memory: its bandwidth, and its allocator.

use anyhow::{Result, bail};

use super::Load;
use crate::gpu::{Arguments, Buffer, Gpu, Kernel, Module, Plain, Shape, Source, Stream, StreamHandle};

/// Bytes of one copy: far beyond any L2 cache.
const COPY_BYTES: usize = 256 << 20;
/// Blocks of the copy: enough for every multiprocessor.
const BLOCKS: u32 = 1_056;

/// Copies inside the device's memory.
pub(crate) struct Copies {
    kernel: Kernel,
    stream: Stream,
    from: Buffer,
    to: Buffer,
}

/// What the source holds.
const MARK: u32 = 0x5ca1_ab1e;

impl Copies {
    /// Two buffers of 256 MiB.
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        let kernel = Module::load(gpu, Source::Basic)?.kernel("copy16")?;
        let (from, to) = (Buffer::new(gpu, COPY_BYTES)?, Buffer::new(gpu, COPY_BYTES)?);
        from.set_words(MARK)?;
        Ok(Self { kernel, stream: Stream::new(gpu)?, from, to })
    }
}

impl Load for Copies {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        let arguments = Arguments::costing(self.unit_ns())
            .u64(self.from.address())
            .u64(self.to.address())
            .u64(COPY_BYTES as u64 / 16);
        Ok(self.kernel.launch(self.stream.handle(), Shape::line(BLOCKS, 512), arguments)?)
    }

    fn unit_ns(&self) -> u64 {
        200_000
    }

    fn verify(&mut self, _units: u64) -> Result<()> {
        for at in [0, COPY_BYTES / 8, COPY_BYTES / 4 - 1] {
            let mut word = [0_u32];
            self.to.download(at, &mut word)?;
            if word[0] != MARK {
                bail!("word {at} of the copy is {:#x} and should be {MARK:#x}", word[0]);
            }
        }
        Ok(())
    }
}

/// Allocations and frees of 2 MiB, which take a block of the device and give it back.
pub(super) struct Allocations {
    stream: Stream,
}

/// Their size.
const BLOCK: usize = 2 << 20;
/// About what a pair takes.
const PAIR_NS: u64 = 60_000;

impl Allocations {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self { stream: Stream::new(gpu)? })
    }
}

impl Load for Allocations {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        let taken = Plain.take(BLOCK)?;
        Ok(Plain.give(taken)?)
    }

    fn unit_ns(&self) -> u64 {
        PAIR_NS
    }

    /// Nothing is computed.
    fn verify(&mut self, _units: u64) -> Result<()> {
        Ok(())
    }
}
