//! Local memory of kernels in graphs: booked from the moment at which a launch can take it, however late the launch is.

use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES, slack};

/// A frame for which the threads of a device with 100 multiprocessors or more take more than half a GiB.
const FRAME: u64 = 4 << 10;

/// What is more than NVML's and the context's inaccuracy, and less than the frame takes.
const MUCH: u64 = 256 * MIB;

/// How often an allocation is refused, so that NVML is asked again.
const REFUSALS: usize = 4;
const APART_MS: u64 = 120;

/// `CUDA_KERNEL_NODE_PARAMS_v2` for one thread.
fn parameters(function: u64) -> [u8; 72] {
    let mut parameters = [0; 72];
    parameters[..8].copy_from_slice(&function.to_le_bytes());
    (0..6).for_each(|place| parameters[8 + 4 * place] = 1);
    parameters
}

/// A tenant, and in it a kernel that needs nothing and one with a frame.
struct Bench {
    console: Console,
    idle: u64,
    framed: u64,
    stream: u64,
}

impl Bench {
    fn new(machine: &Machine) -> Self {
        let mut console = machine.start("t", QUOTA);
        let mut kernel = |image: &[u8], name| {
            let module = console.call("cuModuleLoadData", &[Out(8), At(image)]).ok().number(0);
            console.call("cuModuleGetFunction", &[Out(8), Is(module), Text(name)]).ok().number(0)
        };
        let (idle, framed) = (kernel(&code::idle(), "idle"), kernel(&code::with_frame(FRAME), "framed"));
        let stream = console.stream();
        let mut bench = Bench { console, idle, framed, stream };
        assert_eq!(bench.launch(idle, stream), 0);
        bench.console.synchronize();
        bench
    }

    fn launch(&mut self, function: u64, stream: u64) -> i64 {
        let (one, none) = (Is(1), Is(0));
        let arguments = [Is(function), one, one, one, one, one, one, none, Is(stream), none, none];
        self.console.call("cuLaunchKernel", &arguments).status
    }

    /// A graph of one kernel, and its node.
    fn graph_of(&mut self, function: u64) -> (u64, u64) {
        let graph = self.console.graph();
        let node = [Out(8), Is(graph), Is(0), Is(0), At(&parameters(function))];
        (graph, self.console.call("cuGraphAddKernelNode_v2", &node).ok().number(0))
    }

    /// Fills the quota; asks again when NVML may be asked again.
    fn fill(&mut self) -> Vec<u64> {
        let mut pieces = Vec::new();
        for _ in 0..REFUSALS {
            pieces.extend(self.console.fill(32 * MIB));
            std::thread::sleep(std::time::Duration::from_millis(APART_MS));
        }
        pieces
    }

    /// The graph is launched after the quota was filled, and the device has no more for the tenant than that.
    #[track_caller]
    fn stays_within_when_it_is_launched_late(mut self, executable: u64) {
        let pieces = self.fill();
        assert!(!pieces.is_empty());
        assert_eq!(self.console.launch_graph(executable, self.stream), 0, "it was booked");
        self.console.synchronize();
        let own = self.console.nvml_own();
        assert!(own <= QUOTA_BYTES + slack(), "{} MiB", own / MIB);
        // What was booked for it is not booked twice: no more room is missing than the pieces' grain.
        self.fill();
        assert!(self.console.nvml_own() + 64 * MIB >= QUOTA_BYTES, "{} MiB", self.console.nvml_own() / MIB);
        self.console.finish();
    }
}

#[test]
fn frame_of_an_executable_graph_stays_booked_until_its_first_launch() {
    let machine = Machine::new();
    let mut bench = Bench::new(&machine);
    let (graph, _) = bench.graph_of(bench.framed);
    let executable = bench.console.instantiate(graph, 0);
    bench.stays_within_when_it_is_launched_late(executable);
}

#[test]
fn frame_of_a_captured_kernel_stays_booked_until_the_graphs_first_launch() {
    let machine = Machine::new();
    let mut bench = Bench::new(&machine);
    let (framed, stream) = (bench.framed, bench.stream);
    let _ = bench.console.call("cuStreamBeginCapture_v2", &[Is(stream), Is(2)]).ok();
    assert_eq!(bench.launch(framed, stream), 0);
    let graph = bench.console.call("cuStreamEndCapture", &[Is(stream), Out(8)]).ok().number(0);
    let executable = bench.console.instantiate(graph, 0);
    bench.stays_within_when_it_is_launched_late(executable);
}

#[test]
fn frame_that_an_update_brings_stays_booked_until_the_next_launch() {
    for function in ["cuGraphExecUpdate", "cuGraphExecUpdate_v2"] {
        let machine = Machine::new();
        let mut bench = Bench::new(&machine);
        let (graph, _) = bench.graph_of(bench.idle);
        let executable = bench.console.instantiate(graph, 0);
        assert_eq!(bench.console.launch_graph(executable, bench.stream), 0);
        let (new, _) = bench.graph_of(bench.framed);
        let results = if function.ends_with("_v2") { vec![Out(24)] } else { vec![Out(8), Out(4)] };
        let arguments = [vec![Is(executable), Is(new)], results].concat();
        assert_eq!(bench.console.call(function, &arguments).status, 0, "{function}");
        bench.stays_within_when_it_is_launched_late(executable);
    }
}

#[test]
fn frame_that_new_parameters_bring_stays_booked_until_the_next_launch() {
    let machine = Machine::new();
    let mut bench = Bench::new(&machine);
    let (graph, node) = bench.graph_of(bench.idle);
    let executable = bench.console.instantiate(graph, 0);
    assert_eq!(bench.console.launch_graph(executable, bench.stream), 0);
    let new = parameters(bench.framed);
    let arguments = [Is(executable), Is(node), At(&new)];
    // Twice: it waits once.
    for _ in 0..2 {
        assert_eq!(bench.console.call("cuGraphExecKernelNodeSetParams_v2", &arguments).status, 0);
    }
    bench.stays_within_when_it_is_launched_late(executable);
}

#[test]
fn kernel_that_was_put_into_a_graph_is_looked_at_when_it_is_launched_by_itself() {
    let machine = Machine::new();
    let mut bench = Bench::new(&machine);
    let (graph, _) = bench.graph_of(bench.framed);
    let executable = bench.console.instantiate(graph, 0);
    let booked = machine.books("t").booked;
    let (framed, stream) = (bench.framed, bench.stream);
    assert_eq!(bench.launch(framed, stream), 0, "its frame is booked, for the graph");
    bench.console.synchronize();
    assert!(machine.books("t").booked <= booked + MUCH, "and not booked again");
    bench.stays_within_when_it_is_launched_late(executable);
}

#[test]
fn frame_of_a_graph_that_is_never_launched_is_given_back_with_the_last_such_graph() {
    let machine = Machine::new();
    let mut bench = Bench::new(&machine);
    let before = machine.books("t").booked;
    let (graph, _) = bench.graph_of(bench.framed);
    let executables = [0; 3].map(|flags| bench.console.instantiate(graph, flags));
    let with_all = machine.books("t").booked;
    assert!(with_all >= before + 2 * MUCH);
    for (left, executable) in executables.into_iter().enumerate().rev() {
        bench.console.destroy_executable(executable);
        let booked = machine.books("t").booked;
        assert_eq!(booked >= before + 2 * MUCH, left != 0, "{} MiB with {left} left", booked / MIB);
    }
    // And it can be had again, or refused.
    let executable = bench.console.instantiate(graph, 0);
    bench.console.destroy_executable(executable);
    bench.fill();
    let refused = bench.console.call("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(0)]);
    assert_eq!(refused.status, OUT_OF_MEMORY);
    let (framed, stream) = (bench.framed, bench.stream);
    assert_eq!(
        bench.launch(framed, stream),
        OUT_OF_MEMORY,
        "a refusal leaves no frame behind that counts as booked"
    );
    assert!(bench.console.nvml_own() <= QUOTA_BYTES + slack());
    bench.console.finish();
}
