//! A small decoder with random weights: real products, real attention over a growing cache, no sampling (the normed output
//! of a step is the input of the next). Its speed is that of its memory traffic and launches, as in serving.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Load;
use super::matmul::{Activation, Gemm, Product, exact, verify_samples};
use crate::gpu::{
    Arguments, Buffer, CudaError, Gpu, Graph, Kernel, Module, Shape, Source, Stream, StreamHandle, bf16,
    fill_bf16,
};

/// Numbers in a token's state.
const WIDTH: u32 = 1_024;
/// Heads of 64 numbers.
const HEADS: u32 = WIDTH / 64;
/// Numbers inside the feed-forward part.
const INNER: u32 = 4 * WIDTH;
/// Numbers that the last product gives: a small vocabulary.
const WORDS: u32 = 8_192;
/// Keys that a sequence's cache has room for.
const CAPACITY: i32 = 256;
/// Keys that it begins with, and begins anew with when it is full.
const BEGIN: i32 = 128;
/// Weights are evenly spread over plus and minus this: sums of 1,024 of them stay near 1.
const SCALE: f32 = 0.05;
/// What the software GPU is told a small kernel takes, in nanoseconds.
const SMALL_NS: u64 = 3_000;

/// How large a decoder is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Layers.
    pub layers: usize,
    /// The most sequences that are decoded at one time.
    pub batch: u32,
}

/// The kernels beside the products.
struct Kernels {
    rms_norm: Kernel,
    append_kv: Kernel,
    attention: Kernel,
    advance: Kernel,
}

/// A layer's weights, one after the other in a buffer, and its caches.
struct Layer {
    weights: Buffer,
    keys: Buffer,
    values: Buffer,
}

/// Offsets of a layer's weights, in numbers: QKV, the output projection, and both parts of the feed-forward.
const QKV: u64 = 0;
const OUT: u64 = QKV + 3 * (WIDTH as u64) * (WIDTH as u64);
const UP: u64 = OUT + (WIDTH as u64) * (WIDTH as u64);
const DOWN: u64 = UP + (INNER as u64) * (WIDTH as u64);
const ALL: u64 = DOWN + (INNER as u64) * (WIDTH as u64);

/// The decoder, its state, and graphs of a step for the batch sizes that were asked for.
pub(crate) struct Decoder {
    size: Size,
    gemm: Gemm,
    basic: Module,
    kernels: Kernels,
    stream: Stream,
    layers: Vec<Layer>,
    head: Buffer,
    state: Buffer,
    normed: Buffer,
    qkv: Buffer,
    attended: Buffer,
    inner: Buffer,
    logits: Buffer,
    lengths: Buffer,
    graphs: BTreeMap<u32, Graph>,
}

impl Decoder {
    /// Makes weights, caches and state.
    pub(crate) fn new(gpu: &Gpu, size: Size) -> Result<Self> {
        let model = Module::load(gpu, Source::Model)?;
        let basic = Module::load(gpu, Source::Basic)?;
        let kernels = Kernels {
            rms_norm: model.kernel("rms_norm")?,
            append_kv: model.kernel("append_kv")?,
            attention: model.kernel("decode_attention")?,
            advance: model.kernel("advance")?,
        };
        let stream = Stream::new(gpu)?;
        let numbers = |count: u64| Buffer::new(gpu, usize::try_from(2 * count).unwrap_or(usize::MAX));
        let rows = |width: u32| numbers(u64::from(size.batch) * u64::from(width));
        let cache = || rows(WIDTH * CAPACITY.cast_unsigned());
        let layers = (0..size.layers)
            .map(|_| Ok(Layer { weights: numbers(ALL)?, keys: cache()?, values: cache()? }))
            .collect::<Result<Vec<_>, CudaError>>()?;
        let mut decoder = Self {
            size,
            gemm: Gemm::load(gpu)?,
            basic,
            kernels,
            stream,
            layers,
            head: numbers(u64::from(WORDS) * u64::from(WIDTH))?,
            state: rows(WIDTH)?,
            normed: rows(WIDTH)?,
            qkv: rows(3 * WIDTH)?,
            attended: rows(WIDTH)?,
            inner: rows(INNER)?,
            logits: rows(WORDS)?,
            lengths: Buffer::zeroed(gpu, size.batch as usize)?,
            graphs: BTreeMap::new(),
        };
        decoder.fill_weights()?;
        decoder.reset()?;
        Ok(decoder)
    }

    fn fill_weights(&mut self) -> Result<()> {
        for (layer, seed) in self.layers.iter().zip(1..) {
            fill_bf16(&self.basic, self.stream.handle(), layer.weights.address(), ALL, SCALE, seed)?;
        }
        let count = u64::from(WORDS) * u64::from(WIDTH);
        fill_bf16(&self.basic, self.stream.handle(), self.head.address(), count, SCALE, 1_000)?;
        Ok(self.stream.synchronize()?)
    }

    /// Begins anew: the same state, caches and lengths as at first.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let stream = self.stream.handle();
        let cache = u64::from(self.size.batch) * u64::from(WIDTH) * u64::from(CAPACITY.cast_unsigned());
        for (layer, seed) in self.layers.iter().zip(2_000..) {
            fill_bf16(&self.basic, stream, layer.keys.address(), cache, 1.0, seed)?;
            fill_bf16(&self.basic, stream, layer.values.address(), cache, 1.0, seed + 1_000)?;
        }
        let count = u64::from(self.size.batch) * u64::from(WIDTH);
        fill_bf16(&self.basic, stream, self.state.address(), count, 1.0, 5_000)?;
        self.stream.synchronize()?;
        self.lengths.upload(&vec![BEGIN; self.size.batch as usize])?;
        Ok(())
    }

    /// Its stream.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Submits one step of the first `batch` sequences, kernel by kernel.
    pub(crate) fn step(&self, batch: u32) -> Result<(), CudaError> {
        self.submit(self.stream.handle(), batch)
    }

    /// Submits one step of the first `batch` sequences as a graph, which is made the first time.
    pub(crate) fn step_by_graph(&mut self, batch: u32) -> Result<(), CudaError> {
        if !self.graphs.contains_key(&batch) {
            let graph = self.stream.capture(|stream| self.submit(stream, batch))?;
            self.graphs.insert(batch, graph);
        }
        match self.graphs.get(&batch) {
            Some(graph) => graph.launch(self.stream.handle()),
            None => Ok(()),
        }
    }

    fn submit(&self, stream: StreamHandle, batch: u32) -> Result<(), CudaError> {
        for layer in &self.layers {
            self.attend(stream, batch, layer)?;
            self.feed_forward(stream, batch, layer)?;
        }
        // The state is normed in place, and the words' scores are computed from it.
        self.norm(stream, batch, self.state.address(), self.state.address())?;
        let operands = [self.state.address(), self.head.address(), self.logits.address()];
        self.gemm.launch(stream, Product::plain([batch, WORDS, WIDTH], operands))?;
        let arguments = Arguments::costing(SMALL_NS)
            .u64(self.lengths.address())
            .i32(batch.cast_signed())
            .i32(CAPACITY)
            .i32(BEGIN);
        self.kernels.advance.launch(stream, Shape::line(1, 128), arguments)
    }

    fn norm(&self, stream: StreamHandle, batch: u32, from: u64, to: u64) -> Result<(), CudaError> {
        let arguments = Arguments::costing(SMALL_NS).u64(from).u64(to).i32(WIDTH.cast_signed());
        self.kernels.rms_norm.launch(stream, Shape::line(batch, 256), arguments)
    }

    fn attend(&self, stream: StreamHandle, batch: u32, layer: &Layer) -> Result<(), CudaError> {
        self.norm(stream, batch, self.state.address(), self.normed.address())?;
        let at = |offset: u64| layer.weights.address() + 2 * offset;
        let operands = [self.normed.address(), at(QKV), self.qkv.address()];
        self.gemm.launch(stream, Product::plain([batch, 3 * WIDTH, WIDTH], operands))?;
        let (heads, lengths) = (HEADS.cast_signed(), self.lengths.address());
        let caches = Arguments::costing(SMALL_NS)
            .u64(self.qkv.address())
            .u64(layer.keys.address())
            .u64(layer.values.address());
        let append = caches.u64(lengths).i32(heads).i32(CAPACITY);
        let grid = [HEADS, batch];
        self.kernels.append_kv.launch(stream, Shape { grid, block: [64, 1] }, append)?;
        let attend = caches.u64(self.attended.address()).u64(lengths).i32(heads).i32(CAPACITY);
        self.kernels.attention.launch(stream, Shape { grid, block: [128, 1] }, attend)?;
        let operands = [self.attended.address(), at(OUT), self.state.address()];
        let product = Product::plain([batch, WIDTH, WIDTH], operands);
        self.gemm.launch(stream, Product { residual: self.state.address(), ..product })
    }

    fn feed_forward(&self, stream: StreamHandle, batch: u32, layer: &Layer) -> Result<(), CudaError> {
        self.norm(stream, batch, self.state.address(), self.normed.address())?;
        let at = |offset: u64| layer.weights.address() + 2 * offset;
        let operands = [self.normed.address(), at(UP), self.inner.address()];
        let product = Product::plain([batch, INNER, WIDTH], operands);
        self.gemm.launch(stream, Product { activation: Activation::Gelu, ..product })?;
        let operands = [self.inner.address(), at(DOWN), self.state.address()];
        let product = Product::plain([batch, WIDTH, INNER], operands);
        self.gemm.launch(stream, Product { residual: self.state.address(), ..product })
    }

    /// Fails unless a step by graph gives the very bits of a step by launches, products are right to the precision of
    /// bf16, and the state is a number.
    pub(crate) fn verify(&mut self) -> Result<()> {
        let batch = self.size.batch.min(4);
        let states = [false, true].map(|by_graph| self.state_after_steps(batch, by_graph));
        let [launched, by_graph] = states;
        let (launched, by_graph) = (launched?, by_graph?);
        if launched != by_graph {
            bail!("two steps by graph and two by launches end in different states");
        }
        if launched.iter().any(|bits| !bf16::to_f64(*bits).is_finite()) {
            bail!("the state is no number any more");
        }
        self.verify_first_product(batch)
    }

    fn state_after_steps(&mut self, batch: u32, by_graph: bool) -> Result<Vec<u16>> {
        self.reset()?;
        for _ in 0..2 {
            if by_graph { self.step_by_graph(batch)? } else { self.step(batch)? }
        }
        self.stream.synchronize()?;
        let mut state = vec![0_u16; (batch * WIDTH) as usize];
        self.state.download(0, &mut state)?;
        Ok(state)
    }

    /// The first product of the first layer, on the first state as it is, against FP64.
    fn verify_first_product(&mut self, batch: u32) -> Result<()> {
        self.reset()?;
        let Some(layer) = self.layers.first() else { return Ok(()) };
        let operands = [self.state.address(), layer.weights.address(), self.qkv.address()];
        let product = Product::plain([batch, 3 * WIDTH, WIDTH], operands);
        self.gemm.launch(self.stream.handle(), product)?;
        self.stream.synchronize()?;
        verify_samples("QKV", &self.qkv, [batch.into(), (3 * WIDTH).into()], |row, column| {
            exact([row, column], WIDTH.into(), [1.0, SCALE], [5_000, 1])
        })
    }
}

/// Steps of one sequence by graph, each waited for.
pub(super) struct DecodeLoop {
    decoder: Decoder,
}

impl DecodeLoop {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let mut decoder = Decoder::new(gpu, Size { layers: 8, batch: 4 })?;
        decoder.step_by_graph(4)?; // Made before anything is timed.
        decoder.stream.synchronize()?;
        Ok(Self { decoder })
    }
}

impl Load for DecodeLoop {
    fn stream(&self) -> StreamHandle {
        self.decoder.stream.handle()
    }

    fn submit(&mut self) -> Result<()> {
        Ok(self.decoder.step_by_graph(4)?)
    }

    fn unit_ns(&self) -> u64 {
        300_000
    }

    fn waits(&self) -> bool {
        true
    }

    fn verify(&mut self, _units: u64) -> Result<()> {
        self.decoder.verify()
    }
}
