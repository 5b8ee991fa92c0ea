//! What a launch takes besides the program's own: local memory, and the heap of `malloc` in kernels.

use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out};

use super::code::kernel;
use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

/// A frame that takes more than half a GiB on a device with 100 multiprocessors or more, for 2,048 threads of each.
pub(super) const FRAME: u64 = 4 << 10;

/// `CU_LIMIT_STACK_SIZE`, `CU_LIMIT_PRINTF_FIFO_SIZE` and `CU_LIMIT_MALLOC_HEAP_SIZE`
const STACK: u64 = 0;
const FIFO: u64 = 1;
const HEAP: u64 = 2;

pub(super) const ROWS: &[Row] = &[
    take("local memory, cuLaunchKernel", |t| framed(t).and_then(|function| launch(t, function))),
    take("local memory, cuLaunchKernelEx", |t| {
        let function = framed(t)?;
        // CUlaunchConfig: three and three sizes, shared bytes, stream, attributes, how many.
        let mut config = [0; 56];
        (0..6).for_each(|place| config[4 * place] = 1);
        t.done("cuLaunchKernelEx", &[At(&config), Is(function), Is(0), Is(0)])?;
        t.settle()
    }),
    take("local memory, cuLaunchCooperativeKernel", |t| {
        let function = framed(t)?;
        let (one, none) = (Is(1), Is(0));
        let arguments = [Is(function), one, one, one, one, one, one, none, none, none];
        t.done("cuLaunchCooperativeKernel", &arguments)?;
        t.settle()
    }),
    take("local memory, cuLaunchCooperativeKernelMultiDevice", |t| {
        let function = framed(t)?;
        let stream = t.stream()?;
        // CUDA_LAUNCH_PARAMS: function, three and three sizes, shared bytes, stream, parameters.
        let mut launch = [0; 56];
        launch[..8].copy_from_slice(&function.to_le_bytes());
        (0..6).for_each(|place| launch[8 + 4 * place] = 1);
        launch[40..48].copy_from_slice(&stream.to_le_bytes());
        t.done("cuLaunchCooperativeKernelMultiDevice", &[At(&launch), Is(1), Is(0)])?;
        t.settle()
    }),
    take("local memory, cuLaunch (CUDA 2)", |t| {
        let function = framed(t)?;
        t.done("cuFuncSetBlockShape", &[Is(function), Is(1), Is(1), Is(1)])?;
        t.done("cuLaunch", &[Is(function)])?;
        t.settle()
    }),
    take("local memory, cuLaunchGrid (CUDA 2)", |t| {
        let function = framed(t)?;
        t.done("cuFuncSetBlockShape", &[Is(function), Is(1), Is(1), Is(1)])?;
        t.done("cuLaunchGrid", &[Is(function), Is(1), Is(1)])?;
        t.settle()
    }),
    take("local memory, cuLaunchGridAsync (CUDA 2)", |t| {
        let function = framed(t)?;
        t.done("cuFuncSetBlockShape", &[Is(function), Is(1), Is(1), Is(1)])?;
        t.done("cuLaunchGridAsync", &[Is(function), Is(1), Is(1), Is(0)])?;
        t.settle()
    }),
    take("local memory, kernel node of a graph", |t| {
        let function = framed(t)?;
        let graph = t.keep("cuGraphCreate", &[Out(8), Is(0)], "cuGraphDestroy")?;
        let _node = node(t, graph, function)?;
        launched(t, graph)
    }),
    take("local memory, captured launch", |t| {
        let function = framed(t)?;
        let stream = t.stream()?;
        t.done("cuStreamBeginCapture_v2", &[Is(stream), Is(2)])?;
        let (one, none) = (Is(1), Is(0));
        let arguments = [Is(function), one, one, one, one, one, one, none, Is(stream), none, none];
        let launched_status = t.done("cuLaunchKernel", &arguments);
        let graph = t.keep("cuStreamEndCapture", &[Is(stream), Out(8)], "cuGraphDestroy");
        launched_status?;
        launched(t, graph?)
    }),
    take("cuCtxSetLimit, stack", |t| {
        let now = t.make("cuCtxGetLimit", &[Out(8), Is(STACK)])?;
        t.done("cuCtxSetLimit", &[Is(STACK), Is(now + 2048)])?;
        t.later("cuCtxSetLimit", &[STACK, now]);
        Ok(())
    }),
    take("cuCtxSetLimit, heap, then a kernel that calls malloc", |t| limited(t, HEAP, &code::with_malloc())),
    take("cuCtxSetLimit, printf's buffer, then a kernel that prints", |t| {
        limited(t, FIFO, &code::with_printf())
    }),
];

/// Launches a kernel without arguments, one thread.
pub(super) fn launch(t: &mut Attempt<'_>, function: u64) -> Ended {
    let (one, none) = (Is(1), Is(0));
    t.done("cuLaunchKernel", &[Is(function), one, one, one, one, one, one, none, none, none, none])?;
    t.settle()
}

fn framed(t: &mut Attempt<'_>) -> Result<u64, i64> {
    t.first(|t| kernel(t, &code::with_frame(FRAME), "framed"))
}

/// `CUDA_KERNEL_NODE_PARAMS_v2` for one thread: function, three and three sizes, shared bytes, parameters, extra, kernel, context.
pub(super) fn kernel_parameters(function: u64) -> [u8; 72] {
    let mut parameters = [0; 72];
    parameters[..8].copy_from_slice(&function.to_le_bytes());
    (0..6).for_each(|place| parameters[8 + 4 * place] = 1);
    parameters
}

/// Adds a kernel to a graph.
pub(super) fn node(t: &mut Attempt<'_>, graph: u64, function: u64) -> Result<u64, i64> {
    let parameters = kernel_parameters(function);
    t.make("cuGraphAddKernelNode_v2", &[Out(8), Is(graph), Is(0), Is(0), At(&parameters)])
}

/// Makes a graph launchable and launches it.
pub(super) fn launched(t: &mut Attempt<'_>, graph: u64) -> Ended {
    let arguments = [Out(8), Is(graph), Is(0)];
    let executable = t.keep("cuGraphInstantiateWithFlags", &arguments, "cuGraphExecDestroy")?;
    run(t, executable)
}

/// Launches a launchable graph, and waits for it.
pub(super) fn run(t: &mut Attempt<'_>, executable: u64) -> Ended {
    let stream = t.stream()?;
    t.done("cuGraphLaunch", &[Is(executable), Is(stream)])?;
    t.settle()
}

fn limited(t: &mut Attempt<'_>, limit: u64, image: &[u8]) -> Ended {
    let function = t.first(|t| kernel(t, image, "calls"))?;
    let now = t.make("cuCtxGetLimit", &[Out(8), Is(limit)])?;
    t.done("cuCtxSetLimit", &[Is(limit), Is(TAKE)])?;
    t.later("cuCtxSetLimit", &[limit, now]);
    launch(t, function)
}
