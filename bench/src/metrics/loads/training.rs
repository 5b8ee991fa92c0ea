//! Training steps of a network with one hidden layer: a batch that a loader has made is copied, the loss of its prediction of
//! a fixed teacher goes backwards, the weights descend, and the host reads the loss, as training loops do.

use anyhow::{Result, bail};

use super::Load;
use super::matmul::{Activation, Gemm, Product};
use crate::gpu::{
    Arguments, Buffer, CudaError, Gpu, Kernel, Module, Shape, Source, Stream, StreamHandle, bf16, fill_bf16,
};

/// Examples of a batch.
const BATCH: u32 = 2_048;
/// Numbers of an example, and of its target.
const WIDTH: u32 = 1_024;
/// Hidden numbers.
const HIDDEN: u32 = 4_096;
/// Batches that the loader has made, taken in turn: made within the step, by one core, they left the work 3.7 % of an H100's time.
const BATCHES: u64 = 4;
/// What the weights move against the sum of the gradient over the batch.
const RATE: f32 = 2e-4 / BATCH as f32;
/// What the software GPU is told of kernels that stream over memory, in nanoseconds.
const STREAMING_NS: u64 = 12_000;
/// Blocks of those kernels.
const BLOCKS: u32 = 1_056;

struct Kernels {
    transpose: Kernel,
    squared_error: Kernel,
    relu_backward: Kernel,
    descend: Kernel,
}

/// A matrix of weights: the copy that is multiplied with, the one that is learned, its gradient and its transpose.
struct Weights {
    rows: u32,
    columns: u32,
    bf16: Buffer,
    master: Buffer,
    gradient: Buffer,
}

/// The network and everything of a step.
pub(super) struct Training {
    gemm: Gemm,
    kernels: Kernels,
    stream: Stream,
    first: Weights,
    second: Weights,
    teacher: Buffer,
    input: Buffer,
    input_t: Buffer,
    target: Buffer,
    hidden: Buffer,
    hidden_t: Buffer,
    output: Buffer,
    output_gradient: Buffer,
    output_gradient_t: Buffer,
    hidden_gradient: Buffer,
    hidden_gradient_t: Buffer,
    second_t: Buffer,
    loss: Buffer,
    batches: Vec<Vec<u16>>,
    steps: usize,
    losses: Vec<f32>,
}

impl Training {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let model = Module::load(gpu, Source::Model)?;
        let basic = Module::load(gpu, Source::Basic)?;
        let stream = Stream::new(gpu)?;
        let matrix = |rows: u32, columns: u32| Buffer::new(gpu, rows as usize * columns as usize * 2);
        let widen = model.kernel("widen")?;
        let weights = |rows: u32, columns: u32, scale: f32, seed: u32| -> Result<Weights> {
            let count = u64::from(rows) * u64::from(columns);
            let bf16 = matrix(rows, columns)?;
            let master = Buffer::new(gpu, usize::try_from(4 * count)?)?;
            fill_bf16(&basic, stream.handle(), bf16.address(), count, scale, seed)?;
            let arguments =
                Arguments::costing(STREAMING_NS).u64(bf16.address()).u64(master.address()).u64(count);
            widen.launch(stream.handle(), Shape::line(BLOCKS, 256), arguments)?;
            Ok(Weights { rows, columns, bf16, master, gradient: matrix(rows, columns)? })
        };
        let teacher = weights(WIDTH, WIDTH, 0.05, 3)?.bf16;
        let training = Self {
            gemm: Gemm::load(gpu)?,
            kernels: Kernels {
                transpose: model.kernel("transpose")?,
                squared_error: model.kernel("squared_error")?,
                relu_backward: model.kernel("relu_backward")?,
                descend: model.kernel("descend")?,
            },
            first: weights(HIDDEN, WIDTH, 0.05, 1)?,
            second: weights(WIDTH, HIDDEN, 0.02, 2)?,
            teacher,
            input: matrix(BATCH, WIDTH)?,
            input_t: matrix(BATCH, WIDTH)?,
            target: matrix(BATCH, WIDTH)?,
            hidden: matrix(BATCH, HIDDEN)?,
            hidden_t: matrix(BATCH, HIDDEN)?,
            output: matrix(BATCH, WIDTH)?,
            output_gradient: matrix(BATCH, WIDTH)?,
            output_gradient_t: matrix(BATCH, WIDTH)?,
            hidden_gradient: matrix(BATCH, HIDDEN)?,
            hidden_gradient_t: matrix(BATCH, HIDDEN)?,
            second_t: matrix(WIDTH, HIDDEN)?,
            loss: Buffer::zeroed(gpu, 1)?,
            batches: (0..BATCHES).map(batch).collect(),
            steps: 0,
            losses: Vec::new(),
            stream,
        };
        training.stream.synchronize()?;
        Ok(training)
    }

    fn transpose(&self, from: &Buffer, to: &Buffer, rows: u32, columns: u32) -> Result<(), CudaError> {
        let arguments = Arguments::costing(STREAMING_NS)
            .u64(from.address())
            .u64(to.address())
            .i32(rows.cast_signed())
            .i32(columns.cast_signed());
        let shape = Shape { grid: [columns / 32, rows / 32], block: [32, 8] };
        self.kernels.transpose.launch(self.stream.handle(), shape, arguments)
    }

    /// to (m x n) = a (m x k) b^T (n x k).
    fn multiply(
        &self,
        sizes: [u32; 3],
        [a, b, to]: [&Buffer; 3],
        activation: Activation,
    ) -> Result<(), CudaError> {
        let operands = [a.address(), b.address(), to.address()];
        let product = Product { activation, ..Product::plain(sizes, operands) };
        self.gemm.launch(self.stream.handle(), product)
    }

    fn forward(&self) -> Result<(), CudaError> {
        let none = Activation::None;
        self.multiply([BATCH, WIDTH, WIDTH], [&self.input, &self.teacher, &self.target], none)?;
        let hidden = [&self.input, &self.first.bf16, &self.hidden];
        self.multiply([BATCH, HIDDEN, WIDTH], hidden, Activation::Relu)?;
        self.multiply([BATCH, WIDTH, HIDDEN], [&self.hidden, &self.second.bf16, &self.output], none)
    }

    fn backward(&self) -> Result<(), CudaError> {
        let none = Activation::None;
        let stream = self.stream.handle();
        let count = u64::from(BATCH) * u64::from(WIDTH);
        let arguments = Arguments::costing(STREAMING_NS)
            .u64(self.output.address())
            .u64(self.target.address())
            .u64(self.output_gradient.address())
            .u64(self.loss.address())
            .u64(count);
        self.kernels.squared_error.launch(stream, Shape::line(BLOCKS, 256), arguments)?;
        self.transpose(&self.output_gradient, &self.output_gradient_t, BATCH, WIDTH)?;
        self.transpose(&self.hidden, &self.hidden_t, BATCH, HIDDEN)?;
        let second = [&self.output_gradient_t, &self.hidden_t, &self.second.gradient];
        self.multiply([WIDTH, HIDDEN, BATCH], second, none)?;
        self.transpose(&self.second.bf16, &self.second_t, WIDTH, HIDDEN)?;
        let hidden = [&self.output_gradient, &self.second_t, &self.hidden_gradient];
        self.multiply([BATCH, HIDDEN, WIDTH], hidden, none)?;
        let arguments = Arguments::costing(STREAMING_NS)
            .u64(self.hidden.address())
            .u64(self.hidden_gradient.address())
            .u64(u64::from(BATCH) * u64::from(HIDDEN));
        self.kernels.relu_backward.launch(stream, Shape::line(BLOCKS, 256), arguments)?;
        self.transpose(&self.hidden_gradient, &self.hidden_gradient_t, BATCH, HIDDEN)?;
        self.transpose(&self.input, &self.input_t, BATCH, WIDTH)?;
        let first = [&self.hidden_gradient_t, &self.input_t, &self.first.gradient];
        self.multiply([HIDDEN, WIDTH, BATCH], first, none)
    }

    fn descend(&self, weights: &Weights) -> Result<(), CudaError> {
        let arguments = Arguments::costing(STREAMING_NS)
            .u64(weights.master.address())
            .u64(weights.bf16.address())
            .u64(weights.gradient.address())
            .f32(RATE)
            .u64(u64::from(weights.rows) * u64::from(weights.columns));
        self.kernels.descend.launch(self.stream.handle(), Shape::line(BLOCKS, 256), arguments)
    }
}

/// The numbers of batch `number`.
fn batch(number: u64) -> Vec<u16> {
    let count = u64::from(BATCH) * u64::from(WIDTH);
    (number * count..(number + 1) * count).map(|index| bf16::filled(index, 1.0, 4)).collect()
}

/// Training ends with a loss below this part of the first one, after enough steps.
const FALLS_TO: f32 = 0.98;
/// Steps after which the loss must have fallen.
const ENOUGH: usize = 40;

impl Load for Training {
    fn stream(&self) -> StreamHandle {
        self.stream.handle()
    }

    /// Reads the loss of the step before, and copies the next batch.
    fn prepare(&mut self) -> Result<()> {
        if self.steps > 0 {
            let mut loss = [0.0_f32];
            self.loss.download(0, &mut loss)?;
            self.losses.push(loss[0]);
        }
        let batch = &self.batches[self.steps % self.batches.len()];
        self.steps += 1;
        Ok(self.input.upload(batch)?)
    }

    fn submit(&mut self) -> Result<()> {
        self.loss.set_words_on(self.stream.handle(), 0)?;
        self.forward()?;
        self.backward()?;
        self.descend(&self.first)?;
        Ok(self.descend(&self.second)?)
    }

    fn unit_ns(&self) -> u64 {
        2_000_000
    }

    fn waits(&self) -> bool {
        true
    }

    fn verify(&mut self, _units: u64) -> Result<()> {
        let (Some(first), Some(last)) = (self.losses.first(), self.losses.last()) else { return Ok(()) };
        let fell = *last < FALLS_TO * first || self.losses.len() < ENOUGH;
        if !last.is_finite() || *last <= 0.0 || !fell {
            bail!(
                "after {} steps the loss went from {first} to {last}: nothing was learned",
                self.losses.len()
            );
        }
        Ok(())
    }
}
