//! What a launch itself takes of the device: local memory, the heap of `malloc`, the FIFO of `printf`.

use crate::program::{Program, call, in_child};
use cuota_abi::cuda::*;
use std::ffi::CString;

const MIB: u64 = 1 << 20;
/// 1 KiB of local memory for each of 132 × 2,048 threads.
pub(crate) const KIB_OF_FRAME: u64 = 264 * MIB;
const NONE: CUstream = std::ptr::null_mut();

/// Kernels `frame1` to `frame14` with so many KiB of local memory each, one with 512 bytes, and two that call the device's
/// own functions.
fn text() -> String {
    let frame = |name: &str, bytes: u64| {
        format!(".visible .entry {name}() {{\n .local .align 16 .b8 __local_depot[{bytes}];\n ret;\n}}\n")
    };
    let frames: String = (1..=14).map(|kib| frame(&format!("frame{kib}"), kib * 1024)).collect();
    let huge = frame("huge", 1 << 20);
    let small = frame("small", 512);
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
         .extern .func (.param .b64 r) malloc (.param .b64 a);\n\
         .extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n\
         {frames}{huge}{small}\
         .visible .entry grabs() {{ call.uni (r), malloc, (a); ret; }}\n\
         .visible .entry speaks() {{ call.uni (r), vprintf, (a, b); ret; }}\n"
    )
}

pub(crate) struct Launches {
    pub(crate) program: Program,
    module: CUmodule,
}

impl Launches {
    /// A program whose context has grown by its first launch.
    pub(crate) fn start() -> Self {
        let program = Program::start();
        let (image, mut module) = (CString::new(text()).expect("no zeros"), std::ptr::null_mut());
        let load = call!(
            program.cuda,
            cuModuleLoadData: PFN_cuModuleLoadData_v2000(&raw mut module, image.as_ptr().cast())
        );
        assert_eq!((load, program.launch("spin", 1000, NONE)), (0, 0));
        Self { program, module }
    }

    pub(crate) fn function(&self, name: &str) -> CUfunction {
        let (name, mut function) = (CString::new(name).expect("no zeros"), std::ptr::null_mut());
        let get = call!(
            self.program.cuda,
            cuModuleGetFunction: PFN_cuModuleGetFunction_v2000(&raw mut function, self.module, name.as_ptr())
        );
        assert_eq!(get, 0);
        function
    }

    fn launch(&self, name: &str) -> u32 {
        let (f, none) = (self.function(name), std::ptr::null_mut());
        call!(
            self.program.cuda,
            cuLaunchKernel: PFN_cuLaunchKernel_v4000(f, 1, 1, 1, 1, 1, 1, 0, NONE, none, none)
        )
    }

    fn set(&self, limit: CUlimit, value: usize) -> u32 {
        call!(self.program.cuda, cuCtxSetLimit: PFN_cuCtxSetLimit_v3010(limit, value))
    }

    /// Each way to launch `function`, by number; `None` beyond the last.
    fn launch_in_way(&self, way: u64, function: CUfunction) -> Option<u32> {
        let (cuda, none) = (&self.program.cuda, std::ptr::null_mut());
        // SAFETY: every field is a plain number or a null pointer.
        let mut c: CUlaunchConfig = unsafe { std::mem::zeroed() };
        (c.gridDimX, c.gridDimY, c.gridDimZ) = (1, 1, 1);
        (c.blockDimX, c.blockDimY, c.blockDimZ) = (1, 1, 1);
        let c = &raw const c;
        Some(match way {
            0 => call!(
                cuda,
                cuLaunchKernel: PFN_cuLaunchKernel_v4000(function, 1, 1, 1, 1, 1, 1, 0, NONE, none, none)
            ),
            1 => call!(
                cuda,
                cuLaunchKernel_ptsz:
                    PFN_cuLaunchKernel_v7000_ptsz(function, 1, 1, 1, 1, 1, 1, 0, NONE, none, none)
            ),
            2 => call!(cuda, cuLaunchKernelEx: PFN_cuLaunchKernelEx_v11060(c, function, none, none)),
            3 => {
                call!(cuda, cuLaunchKernelEx_ptsz: PFN_cuLaunchKernelEx_v11060_ptsz(c, function, none, none))
            }
            4 => call!(
                cuda,
                cuLaunchCooperativeKernel:
                    PFN_cuLaunchCooperativeKernel_v9000(function, 1, 1, 1, 1, 1, 1, 0, NONE, none)
            ),
            5 => call!(
                cuda,
                cuLaunchCooperativeKernel_ptsz:
                    PFN_cuLaunchCooperativeKernel_v9000_ptsz(function, 1, 1, 1, 1, 1, 1, 0, NONE, none)
            ),
            6 => call!(cuda, cuLaunch: PFN_cuLaunch_v2000(function)),
            7 => call!(cuda, cuLaunchGrid: PFN_cuLaunchGrid_v2000(function, 2, 2)),
            8 => call!(cuda, cuLaunchGridAsync: PFN_cuLaunchGridAsync_v2000(function, 2, 2, NONE)),
            9 => self.launch_graph(self.graph_of(function)),
            10 => self.launch_graph(self.capture_of(function)),
            11 => self.launch_on_all(&mut [function], self.program.stream(1)),
            _ => return None,
        })
    }

    fn launch_on_all(&self, functions: &mut [CUfunction], stream: CUstream) -> u32 {
        let params = |function: &mut CUfunction| CUDA_LAUNCH_PARAMS {
            function: *function,
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            kernelParams: std::ptr::null_mut(),
        };
        let mut all: Vec<CUDA_LAUNCH_PARAMS> = functions.iter_mut().map(params).collect();
        let count = u32::try_from(all.len()).expect("few");
        call!(
            self.program.cuda,
            cuLaunchCooperativeKernelMultiDevice:
                PFN_cuLaunchCooperativeKernelMultiDevice_v9000(all.as_mut_ptr(), count, 0)
        )
    }

    pub(crate) fn graph_of(&self, function: CUfunction) -> CUgraph {
        let (cuda, mut graph, mut node) = (&self.program.cuda, std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(call!(cuda, cuGraphCreate: PFN_cuGraphCreate_v10000(&raw mut graph, 0)), 0);
        // SAFETY: every field is a plain number or a null pointer.
        let mut params: CUDA_KERNEL_NODE_PARAMS_v1 = unsafe { std::mem::zeroed() };
        params.func = function;
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (1, 1, 1);
        let add = call!(
            cuda,
            cuGraphAddKernelNode:
                PFN_cuGraphAddKernelNode_v10000(
                    &raw mut node,
                    graph,
                    std::ptr::null(),
                    0,
                    &raw const params
                )
        );
        assert_eq!(add, 0);
        graph
    }

    fn capture_of(&self, function: CUfunction) -> CUgraph {
        let (cuda, stream, none) = (&self.program.cuda, self.program.stream(1), std::ptr::null_mut());
        let mode = CUstreamCaptureMode(2);
        let begin = call!(cuda, cuStreamBeginCapture_v2: PFN_cuStreamBeginCapture_v10010(stream, mode));
        let launch = call!(
            cuda,
            cuLaunchKernel: PFN_cuLaunchKernel_v4000(function, 1, 1, 1, 1, 1, 1, 0, stream, none, none)
        );
        let mut graph = std::ptr::null_mut();
        let end = call!(cuda, cuStreamEndCapture: PFN_cuStreamEndCapture_v10000(stream, &raw mut graph));
        assert_eq!((begin, launch, end), (0, 0, 0));
        graph
    }

    fn launch_graph(&self, graph: CUgraph) -> u32 {
        let (cuda, mut executable) = (&self.program.cuda, std::ptr::null_mut());
        let before = self.program.free_bytes();
        let make = call!(
            cuda,
            cuGraphInstantiateWithFlags: PFN_cuGraphInstantiateWithFlags_v11040(&raw mut executable, graph, 0)
        );
        assert_eq!((make, self.program.free_bytes()), (0, before), "nothing before the launch");
        call!(cuda, cuGraphLaunch: PFN_cuGraphLaunch_v10000(executable, NONE))
    }
}

#[test]
fn a_local_frame_beyond_the_stack_grows_the_context_at_its_launch_in_every_way() {
    in_child("launches::a_local_frame_beyond_the_stack_grows_the_context_at_its_launch_in_every_way", || {
        let launches = Launches::start();
        let program = &launches.program;
        let (before, shown) = (program.free_bytes(), program.shown_bytes());
        assert_eq!(
            (launches.launch("small"), launches.launch("frame1"), program.free_bytes()),
            (0, 0, before)
        );
        let mut way = 0;
        loop {
            let function = launches.function(&format!("frame{}", way + 2));
            assert_eq!(program.free_bytes(), before - way * KIB_OF_FRAME);
            let Some(launch) = launches.launch_in_way(way, function) else { break };
            way += 1;
            assert_eq!((launch, program.free_bytes()), (0, before - way * KIB_OF_FRAME), "way {way}");
        }
        assert_eq!((way, program.shown_bytes()), (12, shown + 12 * KIB_OF_FRAME));
        assert_eq!((launches.launch("frame13"), launches.launch("small")), (0, 0));
        assert_eq!(program.free_bytes(), before - 12 * KIB_OF_FRAME, "it is there, and stays");
        assert_eq!((launches.launch("huge"), program.free_bytes()), (2, before - 12 * KIB_OF_FRAME));
    });
}

#[test]
fn a_function_says_its_local_frame() {
    in_child("launches::a_function_says_its_local_frame", || {
        let launches = Launches::start();
        let of = |name| {
            let (mut bytes, function) = (-1, launches.function(name));
            let kind = CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
            let cuda = &launches.program.cuda;
            let get = call!(
                cuda,
                cuFuncGetAttribute: PFN_cuFuncGetAttribute_v2020(&raw mut bytes, kind, function)
            );
            assert_eq!(get, 0);
            bytes
        };
        assert_eq!((of("small"), of("frame3"), of("grabs")), (512, 3072, 0));
    });
}

#[test]
fn a_larger_stack_holds_the_frames_that_fit_it() {
    in_child("launches::a_larger_stack_holds_the_frames_that_fit_it", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        let taken = || (before - launches.program.free_bytes()) / KIB_OF_FRAME;
        assert_eq!((launches.set(CUlimit::CU_LIMIT_STACK_SIZE, 4096), taken()), (0, 3));
        assert_eq!((launches.launch("frame4"), taken()), (0, 3));
        assert_eq!((launches.launch("frame6"), taken()), (0, 5));
        assert_eq!((launches.set(CUlimit::CU_LIMIT_STACK_SIZE, 1024), taken()), (0, 5), "frames stay");
        assert_eq!((launches.set(CUlimit::CU_LIMIT_STACK_SIZE, 7168), taken()), (0, 6));
    });
}

#[test]
fn a_raised_heap_is_taken_once_at_the_first_launch_that_uses_it() {
    in_child("launches::a_raised_heap_is_taken_once_at_the_first_launch_that_uses_it", || {
        let launches = Launches::start();
        let (heap, fifo) = (CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE, CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE);
        let before = launches.program.free_bytes();
        let taken_mib = || (before - launches.program.free_bytes()) / MIB;
        assert_eq!((launches.set(heap, 16 << 30), launches.set(fifo, 108 << 20), taken_mib()), (0, 0, 0));
        assert_eq!((launches.launch("small"), taken_mib()), (0, 0));
        assert_eq!((launches.launch("grabs"), taken_mib()), (2, 0), "more than there is");
        assert_eq!((launches.set(heap, 1 << 30), launches.launch("grabs"), taken_mib()), (0, 0, 1016));
        assert_eq!((launches.launch("speaks"), taken_mib()), (0, 1116));
        assert_eq!((launches.launch("grabs"), launches.launch("speaks"), taken_mib()), (0, 0, 1116));
        assert_eq!((launches.set(heap, 2 << 30), launches.set(fifo, 1 << 30)), (1, 1), "in use");
    });
}

#[test]
fn an_untouched_heap_is_part_of_the_context() {
    in_child("launches::an_untouched_heap_is_part_of_the_context", || {
        let launches = Launches::start();
        let before = launches.program.free_bytes();
        assert_eq!((launches.launch("grabs"), launches.launch("speaks")), (0, 0));
        assert_eq!(launches.program.free_bytes(), before);
    });
}

#[test]
fn a_cooperative_launch_takes_each_device_once_and_no_default_stream() {
    in_child("launches::a_cooperative_launch_takes_each_device_once_and_no_default_stream", || {
        let launches = Launches::start();
        let (function, stream) = (launches.function("small"), launches.program.stream(1));
        assert_eq!(launches.launch_on_all(&mut [function], stream), 0);
        assert_eq!(launches.launch_on_all(&mut [function, function], stream), 1);
        assert_eq!(
            (launches.launch_on_all(&mut [function], NONE), launches.launch_on_all(&mut [], stream)),
            (1, 1)
        );
        assert_eq!(launches.launch_on_all(&mut [std::ptr::null_mut()], stream), 400);
    });
}
