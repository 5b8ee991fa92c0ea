//! What streams and launchable graphs take of a context. The figures are those measured on an H100.

use crate::launches::Launches;
use crate::program::{Program, call, in_child};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;

fn destroy(program: &Program, stream: CUstream) {
    assert_eq!(call!(program.cuda, cuStreamDestroy_v2: PFN_cuStreamDestroy_v4000(stream)), 0);
}

#[test]
fn streams_grow_their_context_in_whole_blocks_until_it_ends() {
    in_child("sundries::streams_grow_their_context_in_whole_blocks_until_it_ends", || {
        let program = Program::start();
        let (before, shown) = (program.free_bytes(), program.shown_bytes());
        let taken = || (before - program.free_bytes()) / MIB;
        let (cuda, mut context, mut own) = (&program.cuda, std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(call!(cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut own)), 0);
        assert_eq!(call!(cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut context, 0, 0)), 0);
        let first = program.stream(1);
        assert_eq!(taken(), 500, "a context has room for a few");
        let streams: Vec<CUstream> = (1..1000).map(|_| program.stream(1)).collect();
        let grown = taken() - 500;
        assert!((530..=560).contains(&grown) && grown.is_multiple_of(2), "{grown} MiB for 1,000 streams");
        assert_eq!(program.shown_bytes() - shown, (500 + grown) * MIB, "NVML shows it");
        streams.into_iter().for_each(|stream| destroy(&program, stream));
        assert_eq!(taken(), 500 + grown, "the context keeps it");
        let _again: Vec<CUstream> = (1..1000).map(|_| program.stream(0)).collect();
        assert_eq!(taken(), 500 + grown, "for the next ones");
        destroy(&program, first);
        assert_eq!(call!(cuda, cuCtxDestroy_v2: PFN_cuCtxDestroy_v4000(context)), 0);
        assert_eq!(taken(), 0);
    });
}

#[test]
fn a_stream_for_which_there_is_no_room_is_refused() {
    in_child("sundries::a_stream_for_which_there_is_no_room_is_refused", || {
        let program = Program::start();
        let all = program.allocate(usize::try_from(program.free_bytes()).expect("a size")).expect("room");
        let (mut stream, mut made) = (std::ptr::null_mut(), 0);
        let refused = loop {
            let status = call!(program.cuda, cuStreamCreate: PFN_cuStreamCreate_v2000(&raw mut stream, 1));
            if status != 0 {
                break status;
            }
            made += 1;
            assert!(made < 100, "no end of streams");
        };
        assert_eq!((refused, program.free_bytes()), (2, 0));
        assert_eq!(call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(all)), 0);
        let _there_is_room = program.stream(1);
    });
}

#[test]
fn a_launchable_graph_grows_its_context_when_it_is_instantiated() {
    in_child("sundries::a_launchable_graph_grows_its_context_when_it_is_instantiated", || {
        let launches = Launches::start();
        let program = &launches.program;
        let graph = launches.graph_of(launches.function("small"));
        let make = || launches.instantiate(graph).expect("a graph");
        let upload = |executable| {
            let none = std::ptr::null_mut();
            call!(program.cuda, cuGraphUpload: PFN_cuGraphUpload_v11010(executable, none))
        };
        let first = make();
        assert_eq!(launches.run(first), 0);
        let before = program.free_bytes();
        let all: Vec<CUgraphExec> = (1..1000).map(|_| make()).collect();
        let grown = (before - program.free_bytes()) / MIB;
        assert!((100..=112).contains(&grown), "{grown} MiB for 1,000 graphs");
        all.iter()
            .for_each(|executable| assert_eq!((upload(*executable), launches.run(*executable)), (0, 0)));
        assert_eq!((before - program.free_bytes()) / MIB, grown, "each once");
    });
}
