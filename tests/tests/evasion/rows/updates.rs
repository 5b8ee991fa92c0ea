//! Launchable graphs, and graphs, whose kernel is exchanged for one with a large frame.

use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out};

use super::code::kernel;
use super::launches::{FRAME, kernel_parameters, launched, node, run};
use super::{Row, take};
use crate::attempt::Attempt;

/// sizeof(CUDA_KERNEL_NODE_PARAMS_v1): the second form without its last two members.
const FIRST_FORM_BYTES: usize = 56;

/// sizeof(CUgraphNodeParams), and where the parameters begin; the type of a kernel's node is 0.
const ANY_NODE_BYTES: usize = 256;
const ANY_NODE_AT: usize = 16;

pub(super) const ROWS: &[Row] = &[
    take("local memory, cuGraphExecUpdate", |t| {
        let bench = Bench::new(t)?;
        let new = bench.replacement(t)?;
        t.done("cuGraphExecUpdate", &[Is(bench.executable), Is(new), Out(8), Out(4)])?;
        run(t, bench.executable)
    }),
    take("local memory, cuGraphExecUpdate_v2", |t| {
        let bench = Bench::new(t)?;
        let new = bench.replacement(t)?;
        t.done("cuGraphExecUpdate_v2", &[Is(bench.executable), Is(new), Out(24)])?;
        run(t, bench.executable)
    }),
    take("local memory, cuGraphExecKernelNodeSetParams", |t| {
        let bench = Bench::new(t)?;
        let parameters = &kernel_parameters(bench.framed)[..FIRST_FORM_BYTES];
        t.done("cuGraphExecKernelNodeSetParams", &[Is(bench.executable), Is(bench.node), At(parameters)])?;
        run(t, bench.executable)
    }),
    take("local memory, cuGraphExecKernelNodeSetParams_v2", |t| {
        let bench = Bench::new(t)?;
        let parameters = kernel_parameters(bench.framed);
        t.done(
            "cuGraphExecKernelNodeSetParams_v2",
            &[Is(bench.executable), Is(bench.node), At(&parameters)],
        )?;
        run(t, bench.executable)
    }),
    take("local memory, cuGraphExecNodeSetParams", |t| {
        let bench = Bench::new(t)?;
        let parameters = any_node(bench.framed);
        t.done("cuGraphExecNodeSetParams", &[Is(bench.executable), Is(bench.node), At(&parameters)])?;
        run(t, bench.executable)
    }),
    take("local memory, cuGraphKernelNodeSetParams", |t| {
        let bench = Bench::new(t)?;
        let parameters = &kernel_parameters(bench.framed)[..FIRST_FORM_BYTES];
        t.done("cuGraphKernelNodeSetParams", &[Is(bench.node), At(parameters)])?;
        launched(t, bench.graph)
    }),
    take("local memory, cuGraphKernelNodeSetParams_v2", |t| {
        let bench = Bench::new(t)?;
        let parameters = kernel_parameters(bench.framed);
        t.done("cuGraphKernelNodeSetParams_v2", &[Is(bench.node), At(&parameters)])?;
        launched(t, bench.graph)
    }),
    take("local memory, cuGraphNodeSetParams", |t| {
        let bench = Bench::new(t)?;
        t.done("cuGraphNodeSetParams", &[Is(bench.node), At(&any_node(bench.framed))])?;
        launched(t, bench.graph)
    }),
];

/// A graph of one kernel that needs nothing, also launchable, and a kernel with a frame.
struct Bench {
    framed: u64,
    graph: u64,
    node: u64,
    executable: u64,
}

impl Bench {
    fn new(t: &mut Attempt<'_>) -> Result<Self, i64> {
        t.first(|t| {
            let framed = kernel(t, &code::with_frame(FRAME), "framed")?;
            let idle = kernel(t, &code::idle(), "idle")?;
            let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
            let node = node(t, graph, idle)?;
            let arguments = [Out(8), Is(graph), Is(0)];
            let executable = t.keep("cuGraphInstantiateWithFlags", &arguments, "cuGraphExecDestroy")?;
            run(t, executable)?;
            Ok(Self { framed, graph, node, executable })
        })
    }

    /// A graph of the same form, with the other kernel.
    fn replacement(&self, t: &mut Attempt<'_>) -> Result<u64, i64> {
        let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        node(t, graph, self.framed).map(|_| graph)
    }
}

/// `CUgraphNodeParams` of a kernel.
fn any_node(function: u64) -> [u8; ANY_NODE_BYTES] {
    let mut parameters = [0; ANY_NODE_BYTES];
    let kernel = kernel_parameters(function);
    parameters[ANY_NODE_AT..ANY_NODE_AT + kernel.len()].copy_from_slice(&kernel);
    parameters
}
