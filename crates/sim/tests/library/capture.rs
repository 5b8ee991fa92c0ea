//! Capture, and what it forbids to whom. The rows are those measured on driver 580.

use crate::program::{Program, call, in_child};
use cuota_abi::cuda::*;

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode(0);
const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode(1);
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode(2);

fn begin(program: &Program, stream: CUstream, mode: CUstreamCaptureMode) {
    assert_eq!(
        call!(program.cuda, cuStreamBeginCapture_v2: PFN_cuStreamBeginCapture_v10010(stream, mode)),
        0
    );
}

fn end(program: &Program, stream: CUstream) -> (u32, CUgraph) {
    let mut graph = std::ptr::null_mut();
    let result =
        call!(program.cuda, cuStreamEndCapture: PFN_cuStreamEndCapture_v10000(stream, &raw mut graph));
    (result, graph)
}

/// What another thread gets from `cuEventQuery`, its own mode set to `own` before.
fn query_elsewhere(program: &Program, event: CUevent, own: CUstreamCaptureMode) -> u32 {
    let query: PFN_cuEventQuery_v2000 = program.cuda.get("cuEventQuery");
    let exchange: PFN_cuThreadExchangeStreamCaptureMode_v10010 =
        program.cuda.get("cuThreadExchangeStreamCaptureMode");
    let (event, mut mode) = (event as u64, own);
    let other = std::thread::spawn(move || {
        // SAFETY: the event exists and the mode is a valid place to write.
        unsafe {
            assert_eq!(exchange(&raw mut mode).0, 0);
            query(event as CUevent).0
        }
    });
    other.join().expect("the thread ends")
}

#[test]
fn a_global_capture_is_ruined_by_a_query_of_another_thread() {
    in_child("capture::a_global_capture_is_ruined_by_a_query_of_another_thread", || {
        let program = Program::start();
        let (stream, event) = (program.stream(1), program.event());
        for (capture, thread, query, ended) in [
            (GLOBAL, GLOBAL, 900, 901),
            (GLOBAL, RELAXED, 0, 0),
            (GLOBAL, THREAD_LOCAL, 0, 0),
            (THREAD_LOCAL, GLOBAL, 0, 0),
            (RELAXED, GLOBAL, 0, 0),
        ] {
            begin(&program, stream, capture);
            assert_eq!(query_elsewhere(&program, event, thread), query, "{capture:?} {thread:?}");
            assert_eq!(end(&program, stream).0, ended, "{capture:?} {thread:?}");
        }
    });
}

#[test]
fn a_record_on_the_legacy_stream_ruins_a_blocking_capture_in_every_mode() {
    in_child("capture::a_record_on_the_legacy_stream_ruins_a_blocking_capture_in_every_mode", || {
        let program = Program::start();
        let event = program.event();
        for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
            for (flags, record, ended) in [(0, 906, 901), (1, 0, 0)] {
                let stream = program.stream(flags);
                begin(&program, stream, mode);
                assert_eq!(program.record(event, std::ptr::null_mut()), record, "{mode:?} {flags}");
                assert_eq!(end(&program, stream).0, ended, "{mode:?} {flags}");
            }
        }
    });
}

#[test]
fn captured_work_runs_when_its_graph_is_launched() {
    in_child("capture::captured_work_runs_when_its_graph_is_launched", || {
        let program = Program::start();
        let (cuda, stream, side) = (&program.cuda, program.stream(1), program.stream(1));
        let (fork, join) = (program.event(), program.event());
        begin(&program, stream, GLOBAL);
        assert_eq!(program.launch("spin", 1_000_000, stream), 0);
        assert_eq!(program.record(fork, stream), 0);
        assert_eq!(call!(cuda, cuStreamWaitEvent: PFN_cuStreamWaitEvent_v3020(side, fork, 0)), 0);
        assert_eq!(program.launch("spin", 2_000_000, side), 0);
        assert_eq!(program.record(join, side), 0);
        assert_eq!(call!(cuda, cuStreamWaitEvent: PFN_cuStreamWaitEvent_v3020(stream, join, 0)), 0);
        let (ended, graph) = end(&program, stream);
        assert_eq!(ended, 0);
        let mut nodes = 0;
        let none = std::ptr::null_mut();
        assert_eq!(call!(cuda, cuGraphGetNodes: PFN_cuGraphGetNodes_v10000(graph, none, &raw mut nodes)), 0);
        assert_eq!(nodes, 2);
        let mut executable = std::ptr::null_mut();
        let instantiated = call!(
            cuda,
            cuGraphInstantiateWithFlags: PFN_cuGraphInstantiateWithFlags_v11040(&raw mut executable, graph, 0)
        );
        assert_eq!(instantiated, 0);
        let (first, last) = (program.event(), program.event());
        assert_eq!(program.record(first, stream), 0);
        assert_eq!(call!(cuda, cuGraphLaunch: PFN_cuGraphLaunch_v10000(executable, stream)), 0);
        assert_eq!(program.record(last, stream), 0);
        assert_eq!(program.synchronize(stream), 0);
        assert!(program.elapsed_us(first, last) >= 3_000.0);
    });
}

#[test]
fn a_side_stream_that_is_not_joined_ruins_the_capture() {
    in_child("capture::a_side_stream_that_is_not_joined_ruins_the_capture", || {
        let program = Program::start();
        let (stream, side, fork) = (program.stream(1), program.stream(1), program.event());
        begin(&program, stream, RELAXED);
        assert_eq!(program.record(fork, stream), 0);
        assert_eq!(call!(program.cuda, cuStreamWaitEvent: PFN_cuStreamWaitEvent_v3020(side, fork, 0)), 0);
        assert_eq!(program.launch("spin", 1000, side), 0);
        assert_eq!(end(&program, stream).0, 904);
        assert_eq!(program.launch("spin", 1000, side), 0);
        assert_eq!(program.synchronize(side), 0);
    });
}

#[test]
fn a_global_capture_allows_what_only_reads_and_is_ruined_by_what_a_pool_is_asked() {
    in_child(
        "capture::a_global_capture_allows_what_only_reads_and_is_ruined_by_what_a_pool_is_asked",
        || {
            let program = Program::start();
            let (cuda, stream) = (&program.cuda, program.stream(1));
            let (mut pool, mut device, mut figure) = (std::ptr::null_mut(), 0, 0_u64);
            let (mut flags, mut active) = (0, 0);
            begin(&program, stream, GLOBAL);
            assert_eq!(call!(cuda, cuDeviceGetMemPool: PFN_cuDeviceGetMemPool_v11020(&raw mut pool, 0)), 0);
            assert_eq!(call!(cuda, cuCtxGetDevice: PFN_cuCtxGetDevice_v2000(&raw mut device)), 0);
            assert!(program.free_bytes() > 0);
            let state = call!(
                cuda,
                cuDevicePrimaryCtxGetState:
                    PFN_cuDevicePrimaryCtxGetState_v7000(0, &raw mut flags, &raw mut active)
            );
            assert_eq!(state, 0);
            let reserved = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
            let mut ask = || {
                call!(
                    cuda,
                    cuMemPoolGetAttribute:
                        PFN_cuMemPoolGetAttribute_v11020(pool, reserved, (&raw mut figure).cast())
                )
            };
            let mut mode = RELAXED;
            let exchange: PFN_cuThreadExchangeStreamCaptureMode_v10010 =
                cuda.get("cuThreadExchangeStreamCaptureMode");
            // SAFETY: the mode is a valid place to write.
            assert_eq!(unsafe { exchange(&raw mut mode) }.0, 0);
            assert_eq!(ask(), 0, "relaxed");
            // SAFETY: as above.
            assert_eq!(unsafe { exchange(&raw mut mode) }.0, 0);
            assert_eq!(end(&program, stream).0, 0);
            begin(&program, stream, GLOBAL);
            assert_eq!((ask(), end(&program, stream).0), (900, 901));
            begin(&program, stream, GLOBAL);
            assert_eq!((program.allocate(512), end(&program, stream).0), (Err(900), 901));
        },
    );
}
