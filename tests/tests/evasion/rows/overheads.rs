//! Streams and launchable graphs, of which each takes a little: so many that they take half a GiB.

use cuota_tests::code;
use cuota_tests::console::Arg::{Is, Out};

use super::code::kernel;
use super::contexts::green;
use super::launches::node;
use super::{Row, take};
use crate::attempt::{Attempt, Ended};

/// Streams of 0.547 MiB, as on an H100.
const STREAMS: u64 = 1_000;

/// Launchable graphs of 0.111 MiB, as on an H100.
const GRAPHS: u32 = 4_700;

/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u64 = 1;

pub(super) const ROWS: &[Row] = &[
    take("cuStreamCreate, over and over", |t| {
        t.repeat(STREAMS, "cuStreamCreate", &[Out(8), Is(NON_BLOCKING)])
    }),
    take("cuStreamCreateWithPriority, over and over", |t| {
        t.repeat(STREAMS, "cuStreamCreateWithPriority", &[Out(8), Is(NON_BLOCKING), Is(0)])
    }),
    take("cuGreenCtxStreamCreate, over and over", |t| {
        let green = t.first(green)?;
        t.repeat(STREAMS, "cuGreenCtxStreamCreate", &[Out(8), Is(green), Is(NON_BLOCKING), Is(0)])
    }),
    take("graphs without allocations, instantiated and uploaded, over and over", |t| {
        graphs(t, "cuGraphUpload")
    }),
    take("graphs without allocations, instantiated and launched, over and over", |t| {
        graphs(t, "cuGraphLaunch")
    }),
];

/// Makes a graph of one kernel launchable again and again, and passes each to a function with a stream.
fn graphs(t: &mut Attempt<'_>, function: &str) -> Ended {
    let (graph, stream) = t.first(|t| {
        let idle = kernel(t, &code::idle(), "idle")?;
        let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        let _node = node(t, graph, idle)?;
        Ok((graph, t.stream()?))
    })?;
    for _ in 0..GRAPHS {
        let arguments = [Out(8), Is(graph), Is(0)];
        let executable = t.keep("cuGraphInstantiateWithFlags", &arguments, "cuGraphExecDestroy")?;
        t.done(function, &[Is(executable), Is(stream)])?;
    }
    t.settle()
}
