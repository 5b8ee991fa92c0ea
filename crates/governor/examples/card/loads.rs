//! The workloads: the nine of IS-003 in `bench/`, by its own kernels, and those that a sensor may get wrong.

use std::path::Path;

use cuota_governor::batch::Unit;
use cuota_governor::cost::Key;

use crate::cuda::{self, Device, Function, Graph, Kernel, Module, Pinned, Stream};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Multiply-adds come in groups of so many (`bench/kernels/basic.cu`).
const GROUP: u64 = 32;
/// An example batch of the training step, bytes: 2,048 × 1,024 numbers in bf16.
const UPLOAD_BYTES: usize = 4 << 20;
/// Room for 4,096 × 4,096 numbers in bf16, bytes.
const MATRIX_BYTES: usize = 32 << 20;
/// Flags of the spinning kernels: rounds that a process can run.
pub(crate) const ROUNDS: u64 = 1 << 20;

/// What goes to a stream.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Kernel(Kernel),
    Graph(Graph),
    /// Spins for the round's flag.
    Spin,
    /// Sets it.
    Set,
}

/// What the program does next.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Launch {
        stream: usize,
        work: Work,
        unit: Unit,
    },
    Upload {
        stream: usize,
    },
    Sync {
        stream: usize,
    },
    /// The CPU computes, ns.
    Host(u64),
    /// So many units of work were submitted since the last mark; the stream that had the last.
    Mark {
        stream: usize,
        units: u64,
    },
}

/// A workload: the same operations again and again.
pub(crate) struct Load {
    pub(crate) streams: Vec<Stream>,
    pub(crate) cycle: Vec<Op>,
    /// About what passes between two marks, ns.
    pub(crate) mark_ns: u64,
    /// For the kernels that spin.
    pub(crate) spin: Kernel,
    pub(crate) set: Kernel,
    pub(crate) flags: u64,
    pub(crate) upload: (u64, Pinned, usize),
}

/// The names, for errors and for the scripts.
pub(crate) const NAMES: [&str; 18] = [
    "5us",
    "100us",
    "1ms",
    "20ms",
    "graph",
    "sync",
    "slow_cpu",
    "bursts",
    "matmul",
    "training",
    "decode",
    "four_quarter",
    "four_full",
    "upload",
    "dependent",
    "dynamic",
    "spin",
    "spin_debt",
];

struct Kit {
    device: Device,
    burn: Function,
    dependent: Function,
    gemm: [Function; 2],
    words: u64,
    matrices: [u64; 3],
}

impl Kit {
    /// Steps of about `ns` where every multiprocessor has 1,024 threads: 8 clocks for a step of all of them.
    fn steps(&self, ns: u64) -> u64 {
        (ns * self.device.clock_khz / 1_000_000 / 8).next_multiple_of(GROUP)
    }

    /// Numbers between -1 and 1 in the matrices: a product of zeros takes less power, and so runs at another clock.
    fn fill(&self, fill_bf16: Function, stream: Stream) {
        for (seed, at) in (1..).zip(self.matrices) {
            let scale = u64::from(1.0_f32.to_bits());
            let arguments = [100_000, at, MATRIX_BYTES as u64 / 2, scale, seed, 0, 0, 0, 0];
            let kernel =
                Kernel { function: fill_bf16, grid: [1_056, 1], threads: 256, arguments, dependent: false };
            kernel.launch(stream);
        }
        stream.synchronize();
    }

    fn work(&self, function: Function, ns: u64, blocks: u32, dependent: bool) -> Kernel {
        let mut arguments = [0; 9];
        arguments[..4].copy_from_slice(&[ns, self.steps(ns), self.words, self.words + 64]);
        Kernel { function, grid: [blocks, 1], threads: 256, arguments, dependent }
    }

    fn full(&self, ns: u64) -> Kernel {
        self.work(self.burn, ns, 4 * self.device.multiprocessors, false)
    }

    fn gemm(&self, [m, n, k]: [u32; 3]) -> Kernel {
        let (function, tile_m, tile_n, threads) =
            if m <= 64 { (self.gemm[1], 64, 32, 128) } else { (self.gemm[0], 128, 128, 256) };
        let flop = 2 * u64::from(m) * u64::from(n) * u64::from(k);
        let bytes = 2 * (u64::from(m) * u64::from(k) + u64::from(n) * u64::from(k));
        let ns = 2_000 + (flop / 400_000).max(bytes / 2_500);
        let [a, b, c] = self.matrices;
        let arguments = [ns, a, b, 0, c, u64::from(m), u64::from(n), u64::from(k), 0];
        Kernel { function, grid: [m.div_ceil(tile_m), n / tile_n], threads, arguments, dependent: false }
    }
}

fn unit(key: [u64; 2], continues_chain: bool) -> Unit {
    Unit { key: Key { function: key[0], shape: key[1] }, continues_chain }
}

fn launch(stream: usize, kernel: Kernel) -> Op {
    let unit = unit(kernel.key(), kernel.dependent);
    Op::Launch { stream, work: Work::Kernel(kernel), unit }
}

fn graph(stream: usize, graph: Graph) -> Op {
    Op::Launch { stream, work: Work::Graph(graph), unit: unit([graph.id(), 0], false) }
}

fn times(count: usize, op: &Op) -> Vec<Op> {
    vec![op.clone(); count]
}

fn with_mark(mut ops: Vec<Op>, stream: usize, units: u64) -> Vec<Op> {
    ops.push(Op::Mark { stream, units });
    ops
}

impl Load {
    /// The workload of this name. `kernels` is `bench/kernels`, `own` the experiments' PTX file.
    pub(crate) fn new(name: &str, device: &Device, kernels: &Path, own: &Path) -> Self {
        let read = |path: &Path| {
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let basic = Module::load(&read(&kernels.join("basic.ptx")));
        let gemm = Module::load(&read(&kernels.join("gemm.ptx")));
        let own = Module::load(&read(own));
        let streams: Vec<Stream> = (0..4).map(|_| Stream::new()).collect();
        let kit = Kit {
            device: device.clone(),
            burn: basic.function("burn"),
            dependent: own.function("dependent"),
            gemm: [gemm.function("gemm_128x128"), gemm.function("gemm_64x32")],
            words: cuda::zeroed(4_096),
            matrices: [(); 3].map(|()| cuda::zeroed(MATRIX_BYTES)),
        };
        kit.fill(basic.function("fill_bf16"), streams[0]);
        let flags = cuda::zeroed(usize::try_from(4 * ROUNDS).expect("64 bits"));
        let flagged = |name: &str| Kernel {
            function: own.function(name),
            grid: [1, 1],
            threads: 1,
            arguments: [flags; 9],
            dependent: false,
        };
        let (cycle, mark_ns) = cycle(name, &kit, &streams);
        let upload = (kit.matrices[0], Pinned::new(UPLOAD_BYTES), UPLOAD_BYTES);
        let load =
            Self { streams, cycle, mark_ns, spin: flagged("spin"), set: flagged("set"), flags, upload };
        load.warm_up();
        load
    }

    /// Every kernel once, and nothing spins: a kernel that is loaded lazily may wait for the device to be idle.
    fn warm_up(&self) {
        let first = |kernel: &Kernel| Kernel { arguments: [self.flags; 9], ..kernel.clone() };
        first(&self.set).launch(self.streams[0]);
        first(&self.spin).launch(self.streams[0]);
        for op in &self.cycle {
            match op {
                Op::Launch { stream, work: Work::Kernel(kernel), .. } => kernel.launch(self.streams[*stream]),
                Op::Launch { stream, work: Work::Graph(graph), .. } => graph.launch(self.streams[*stream]),
                _ => {}
            }
        }
        self.streams.iter().for_each(|stream| stream.synchronize());
    }
}

fn cycle(name: &str, kit: &Kit, streams: &[Stream]) -> (Vec<Op>, u64) {
    let repeated = |count: usize, ns: u64| {
        let ops = times(count, &launch(0, kit.full(ns)));
        (with_mark(ops, 0, count as u64), count as u64 * ns)
    };
    let sync = Op::Sync { stream: 0 };
    match name {
        "5us" => repeated(64, 5 * US),
        "100us" => repeated(4, 100 * US),
        "1ms" => repeated(1, MS),
        "20ms" => repeated(1, 20 * MS),
        "graph" => {
            let small = kit.full(5 * US);
            let chain = streams[0].capture(|| (0..20).for_each(|_| small.launch(streams[0])));
            (with_mark(times(4, &graph(0, chain)), 0, 4), 400 * US)
        }
        "sync" => (with_mark(vec![launch(0, kit.full(100 * US)), sync], 0, 1), 110 * US),
        "slow_cpu" => {
            // A program that launches too slowly to keep the GPU busy: 5 of some 14 µs.
            let ops = (0..32).flat_map(|_| [launch(0, kit.full(5 * US)), Op::Host(9 * US)]).collect();
            (with_mark(ops, 0, 32), 450 * US)
        }
        "bursts" => {
            // 25 requests of 0.13 ms, each launched and waited for, then 3 ms of nothing.
            let step = streams[0].capture(|| (0..24).for_each(|_| kit.full(4 * US).launch(streams[0])));
            let mut ops: Vec<Op> = (0..25).flat_map(|_| [graph(0, step), Op::Sync { stream: 0 }]).collect();
            ops.push(Op::Host(3 * MS));
            (with_mark(ops, 0, 25), 6 * MS)
        }
        "matmul" => (with_mark(times(1, &launch(0, kit.gemm([4_096; 3]))), 0, 1), 350 * US),
        "training" => (training(kit), 6 * MS),
        "decode" => {
            let step = streams[0].capture(|| decode(kit).iter().for_each(|kernel| kernel.launch(streams[0])));
            (with_mark(vec![graph(0, step), sync], 0, 1), 400 * US)
        }
        "four_quarter" => {
            let blocks = (kit.device.multiprocessors / 4).max(1);
            // Alone on its multiprocessor a block of 256 threads takes half the time for a step.
            let kernel = kit.work(kit.burn, 200 * US, blocks, false);
            four_streams(&kernel, 250 * US)
        }
        "four_full" => four_streams(&kit.full(100 * US), 800 * US),
        "upload" => {
            let mut ops = times(10, &launch(0, kit.full(100 * US)));
            ops.push(Op::Upload { stream: 0 });
            (with_mark(ops, 0, 1), 1_100 * US)
        }
        "dependent" => {
            let blocks = 4 * kit.device.multiprocessors;
            let link = |dependent| launch(0, kit.work(kit.dependent, 20 * US, blocks, dependent));
            let mut ops = vec![link(false)];
            ops.extend(times(19, &link(true)));
            (with_mark(ops, 0, 20), 400 * US)
        }
        "dynamic" => (dynamic(kit), 4 * MS),
        "spin" => (spin(kit, None), MS),
        "spin_debt" => (spin(kit, Some(50 * MS)), 100 * MS),
        _ => panic!("{name} is no workload; there are {}", NAMES.join(", ")),
    }
}

fn four_streams(kernel: &Kernel, mark_ns: u64) -> (Vec<Op>, u64) {
    let ops = (0..8).map(|n| launch(n % 4, kernel.clone())).collect();
    (with_mark(ops, 3, 8), mark_ns)
}

/// As the benchmark's: a batch copied, three products forward, three backward, the small kernels between them, a loss
/// that the host reads, and a CPU that makes the next batch.
fn training(kit: &Kit) -> Vec<Op> {
    let small = || launch(0, kit.full(12 * US));
    let product = |sizes| launch(0, kit.gemm(sizes));
    let mut ops = vec![Op::Upload { stream: 0 }];
    ops.extend([[2_048, 1_024, 1_024], [2_048, 4_096, 1_024], [2_048, 1_024, 4_096]].map(product));
    ops.extend([small(), small(), small(), product([1_024, 4_096, 2_048]), small()]);
    ops.extend([product([2_048, 4_096, 1_024]), small(), small(), small()]);
    ops.extend([product([4_096, 1_024, 2_048]), small(), small(), Op::Sync { stream: 0 }, Op::Host(3 * MS)]);
    with_mark(ops, 0, 1)
}

/// A step of eight layers for four sequences.
fn decode(kit: &Kit) -> Vec<Kernel> {
    let small = || kit.work(kit.burn, 3 * US, 64, false);
    let mut step = Vec::new();
    for _ in 0..8 {
        step.extend([small(), kit.gemm([4, 3_072, 1_024]), small(), small(), kit.gemm([4, 1_024, 1_024])]);
        step.extend([small(), kit.gemm([4, 4_096, 1_024]), kit.gemm([4, 1_024, 4_096])]);
    }
    step.extend([small(), kit.gemm([4, 8_192, 1_024])]);
    step
}

/// One function, one grid, and an argument that decides: 5 to 200 µs in a fixed disorder.
fn dynamic(kit: &Kit) -> Vec<Op> {
    let costs = [5, 10, 20, 50, 100, 200].map(|us| us * US);
    let ops = (0..64_usize).map(|n| launch(0, kit.full(costs[(n * n * 7 + n * 3) % 6]))).collect();
    with_mark(ops, 0, 64)
}

/// A kernel spins for one that comes after three others on another stream; perhaps behind a debt made meanwhile.
fn spin(kit: &Kit, debt_ns: Option<u64>) -> Vec<Op> {
    // The spinning kernel has a multiprocessor, the others need not wait for it.
    let blocks = kit.device.multiprocessors.saturating_sub(4).max(1);
    let mut ops = vec![Op::Launch { stream: 0, work: Work::Spin, unit: unit([1, 0], false) }];
    ops.extend(debt_ns.map(|ns| launch(2, kit.work(kit.burn, ns, blocks, false))));
    ops.extend(times(3, &launch(1, kit.work(kit.burn, 100 * US, blocks, false))));
    ops.push(Op::Launch { stream: 1, work: Work::Set, unit: unit([2, 0], false) });
    ops.extend((0..3).map(|stream| Op::Sync { stream }));
    with_mark(ops, 0, 1)
}
