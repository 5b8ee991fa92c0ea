//! The functions that submit work, twice: as a program finds them and the driver's own; for OH-001.

use std::ptr;

use anyhow::{Context, Result};
use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchConfig, CUstream};

use super::in_process::{Plan, alternate};
use crate::clock::now_ns;
use crate::gpu::{
    Arguments, Both, CudaError, Gpu, Graph, Kernel, Launches, Module, Shape, Side, Source, Stream, check,
};
use crate::worker::{Measure, Tenant, Work};

/// Launches between two readings of the clock, and between two waits: so the queue stays short.
const BATCH: usize = 50;
/// Batches of a series.
const BATCHES: usize = 400;
/// Quads of the comparison in process.
const QUADS: usize = 300;
/// What they may take, once there is a fifth.
const QUADS_NS: u64 = 300_000_000;
/// What the software GPU takes for the kernel.
const SIM_NS: u64 = 2_000;

/// A way to submit an empty kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Launch,
    LaunchEx,
    Graph,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Launch, Self::LaunchEx, Self::Graph];

    /// The function's name.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Launch => "cuLaunchKernel",
            Self::LaunchEx => "cuLaunchKernelEx",
            Self::Graph => "cuGraphLaunch",
        }
    }
}

/// An empty kernel, and a graph of one, ready to be submitted.
pub(super) struct Ready {
    stream: Stream,
    kernel: Kernel,
    graph: Graph,
    both: Both<Launches>,
}

impl Ready {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let kernel = Module::load(gpu, Source::Basic)?.kernel("empty")?;
        let shape = Shape::line(1, 1);
        let graph =
            stream.capture::<CudaError>(|stream| kernel.launch(stream, shape, Arguments::costing(SIM_NS)))?;
        Ok(Self { stream, kernel, graph, both: Both::find()? })
    }

    /// Submits it once through `functions`.
    #[inline(always)]
    fn submit(&self, way: Way, functions: &Launches) -> Result<(), CudaError> {
        let stream: CUstream = self.stream.handle().raw();
        let function = self.kernel.handle();
        let mut arguments = Arguments::costing(SIM_NS);
        let mut pointers = arguments.pointers();
        let parameters = pointers.as_mut_ptr();
        // SAFETY: kernel, graph and stream live as long as the process; the kernel takes the one parameter that
        // `parameters` begins with, and the driver copies it during the call.
        unsafe {
            match way {
                Way::Launch => {
                    let result = (functions.cuLaunchKernel)(
                        function,
                        1,
                        1,
                        1,
                        1,
                        1,
                        1,
                        0,
                        stream,
                        parameters,
                        ptr::null_mut(),
                    );
                    check("cuLaunchKernel", result)
                }
                Way::LaunchEx => {
                    let config = CUlaunchConfig {
                        gridDimX: 1,
                        gridDimY: 1,
                        gridDimZ: 1,
                        blockDimX: 1,
                        blockDimY: 1,
                        blockDimZ: 1,
                        sharedMemBytes: 0,
                        hStream: stream,
                        attrs: ptr::null_mut::<CUlaunchAttribute>(),
                        numAttrs: 0,
                    };
                    let result = (functions.cuLaunchKernelEx)(
                        &raw const config,
                        function,
                        parameters,
                        ptr::null_mut(),
                    );
                    check("cuLaunchKernelEx", result)
                }
                Way::Graph => check("cuGraphLaunch", (functions.cuGraphLaunch)(self.graph.handle(), stream)),
            }
        }
    }

    /// The time of one submission, in batches on an empty queue, and the round trip, in nanoseconds a call.
    pub(super) fn series(&self, tenant: &Tenant<'_>, work: &mut Work) -> Result<()> {
        let hooked = self.both.of(Side::Hooked);
        for way in Way::ALL {
            let batches = tenant.request.effort.calls(BATCHES);
            let mut means_ns = Vec::with_capacity(batches);
            for batch in 0..batches + 10 {
                let from_ns = now_ns();
                for _ in 0..BATCH {
                    self.submit(way, hooked)?;
                }
                let took_ns = tenant.clock.elapsed_ns(from_ns, now_ns());
                self.stream.synchronize()?;
                if batch >= 10 {
                    means_ns.push(took_ns / BATCH as f64);
                }
            }
            let measure = Measure::of_calls_us(&means_ns).map(|measure| Measure { p99: None, ..measure });
            work.series.extend(measure.map(|measure| (format!("{}: submit", way.text()), measure)));
        }
        self.round_trip(tenant, work)
    }

    fn round_trip(&self, tenant: &Tenant<'_>, work: &mut Work) -> Result<()> {
        let calls = tenant.request.effort.calls(4 * BATCHES);
        let mut values_ns = Vec::with_capacity(calls);
        for _ in 0..calls {
            let (took_ns, done) = tenant.clock.time(|| -> Result<(), CudaError> {
                self.submit(Way::Launch, self.both.of(Side::Hooked))?;
                self.stream.synchronize()
            });
            done?;
            values_ns.push(took_ns);
        }
        let measure = Measure::of_calls_us(&values_ns);
        work.series.extend(measure.map(|measure| ("launch to done, one at a time".to_owned(), measure)));
        Ok(())
    }

    /// What the hooks add, function beside function.
    pub(super) fn in_process(&self, tenant: &Tenant<'_>, work: &mut Work) -> Result<()> {
        for way in Way::ALL {
            let quads = tenant.request.effort.calls(QUADS);
            let plan = Plan { quads, fewest: quads / 5, warm_up: 4, budget_ns: QUADS_NS, calls: BATCH };
            let all = alternate(plan, |side| {
                let functions = self.both.of(side);
                let from_ns = now_ns();
                for _ in 0..BATCH {
                    self.submit(way, functions)?;
                }
                let took_ns = tenant.clock.elapsed_ns(from_ns, now_ns());
                self.stream.synchronize()?;
                Ok([took_ns / BATCH as f64])
            });
            let added = all.with_context(|| way.text())?.added(0, "µs", 1e3);
            work.series.extend(added.map(|added| (added_name(way), added)));
        }
        Ok(())
    }
}

/// The name of the series of what the hook of `way` adds.
pub(super) fn added_name(way: Way) -> String {
    format!("{}: added by the hook, in process", way.text())
}
