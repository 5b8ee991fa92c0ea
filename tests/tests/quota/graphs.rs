//! Graphs that allocate are booked by what the driver takes for them, when it does.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::graph::FREES_AT_LAUNCH;
use cuota_tests::machine::{MIB, Machine};

use crate::{Moment, QUOTA, QUOTA_BYTES, slack};

/// A tenant whose driver has launched something: the first launch makes a context grow.
fn start(machine: &Machine) -> (Console, u64) {
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc(4 * MIB).expect("there is room");
    let stream = console.stream();
    let graph = console.allocating_graph(MIB, true);
    let executable = console.instantiate(graph, 0);
    assert_eq!(console.launch_graph(executable, stream), 0);
    console.synchronize();
    console.destroy_executable(executable);
    console.trim_graphs();
    (console, stream)
}

/// The books and the device agree that graphs hold what the driver says that it keeps for them.
#[track_caller]
fn holds_what_is_reserved(before: Moment, machine: &Machine, console: &mut Console) -> u64 {
    let reserved = console.reserved_for_graphs();
    before.plus(reserved, machine, console);
    reserved
}

#[test]
fn graph_is_booked_at_its_first_launch_and_given_back_by_a_trim_when_it_is_gone() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let graph = console.allocating_graph(100 * MIB, true);
    let executable = console.instantiate(graph, 0);
    before.plus(0, &machine, &mut console);
    for _ in 0..3 {
        assert_eq!(console.launch_graph(executable, stream), 0);
        console.synchronize();
        assert!(holds_what_is_reserved(before, &machine, &mut console) >= 100 * MIB);
    }
    console.destroy_executable(executable);
    holds_what_is_reserved(before, &machine, &mut console);
    console.trim_graphs();
    assert_eq!(holds_what_is_reserved(before, &machine, &mut console), 0);
    console.finish();
}

#[test]
fn uploaded_graph_is_booked_before_it_is_launched() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let graph = console.allocating_graph(100 * MIB, true);
    let executable = console.instantiate(graph, 0);
    assert_eq!(console.call("cuGraphUpload", &[Is(executable), Is(stream)]).status, 0);
    console.synchronize();
    assert!(holds_what_is_reserved(before, &machine, &mut console) >= 100 * MIB);
    console.finish();
}

#[test]
fn captured_allocations_are_booked_when_their_graph_is_launched() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let graph = console.captured_graph(100 * MIB);
    let executable = console.instantiate(graph, 0);
    before.plus(0, &machine, &mut console);
    assert_eq!(console.launch_graph(executable, stream), 0);
    console.synchronize();
    assert!(holds_what_is_reserved(before, &machine, &mut console) >= 100 * MIB);
    console.destroy_executable(executable);
    console.trim_graphs();
    assert_eq!(holds_what_is_reserved(before, &machine, &mut console), 0);
    console.finish();
}

#[test]
fn graph_is_refused_at_the_quota_and_launched_when_there_is_room() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let graph = console.allocating_graph(512 * MIB, true);
    let executable = console.instantiate(graph, 0);
    let pieces = console.fill(32 * MIB);
    for call in ["cuGraphLaunch", "cuGraphUpload", "cuGraphLaunch_ptsz", "cuGraphUpload_ptsz"] {
        assert_eq!(console.call(call, &[Is(executable), Is(stream)]).status, OUT_OF_MEMORY, "{call}");
    }
    console.synchronize();
    assert!(console.nvml_own() <= QUOTA_BYTES);
    pieces.iter().take(17).for_each(|piece| assert_eq!(console.free(*piece), 0));
    assert_eq!(console.launch_graph(executable, stream), 0, "there is room now");
    console.synchronize();
    assert!(console.nvml_own() <= QUOTA_BYTES && machine.books("t").booked <= QUOTA_BYTES);
    // The graph does not run, so that its memory is trimmed for an allocation; then there is no room for a launch.
    let piece = console.alloc(512 * MIB).expect("what an idle graph has is given back");
    for _ in 0..2 {
        assert_eq!(console.launch_graph(executable, stream), OUT_OF_MEMORY, "its memory is another's");
        console.synchronize();
        assert!(console.nvml_own() <= QUOTA_BYTES && machine.books("t").booked <= QUOTA_BYTES);
    }
    assert_eq!(
        (console.free(piece), console.launch_graph(executable, stream)),
        (0, 0),
        "there is room again"
    );
    console.synchronize();
    assert!(console.nvml_own() <= QUOTA_BYTES && machine.books("t").booked <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn memory_that_a_graph_does_not_free_stays_booked_until_it_is_freed() {
    for in_order in [false, true] {
        let machine = Machine::new();
        let (mut console, stream) = start(&machine);
        let before = Moment::of(&machine, "t", &mut console);
        let graph = console.graph();
        let (_, address) = console.add_allocation(graph, 100 * MIB);
        let executable = console.instantiate(graph, 0);
        assert_eq!(console.launch_graph(executable, stream), 0);
        console.synchronize();
        console.destroy_executable(executable);
        console.trim_graphs();
        assert!(holds_what_is_reserved(before, &machine, &mut console) >= 100 * MIB, "it lives");
        let free = if in_order { "cuMemFreeAsync" } else { "cuMemFree_v2" };
        assert_eq!(console.call(free, &[Is(address), Is(stream)]).status, 0);
        console.synchronize();
        console.trim_graphs();
        assert_eq!(holds_what_is_reserved(before, &machine, &mut console), 0, "{free}");
        console.finish();
    }
}

#[test]
fn graph_that_frees_at_its_launch_is_booked_once() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let graph = console.allocating_graph(64 * MIB, false);
    let executable = console.instantiate(graph, FREES_AT_LAUNCH);
    for _ in 0..4 {
        assert_eq!(console.launch_graph(executable, stream), 0);
        console.synchronize();
        let reserved = holds_what_is_reserved(before, &machine, &mut console);
        assert!((64 * MIB..128 * MIB).contains(&reserved), "{reserved}");
    }
    console.finish();
}

#[test]
fn reserve_of_graphs_is_trimmed_before_an_allocation_is_refused() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let graph = console.allocating_graph(512 * MIB, true);
    let executable = console.instantiate(graph, 0);
    assert_eq!(console.launch_graph(executable, stream), 0);
    console.synchronize();
    console.destroy_executable(executable);
    assert!(console.reserved_for_graphs() >= 512 * MIB);
    // What is left, and half of what is kept for graphs.
    let wanted = QUOTA_BYTES - machine.books("t").booked + 256 * MIB;
    let wanted = wanted - wanted % (2 * MIB);
    assert!(console.alloc(wanted).is_ok(), "the graphs' reserve makes room");
    assert_eq!(console.reserved_for_graphs(), 0);
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn nothing_is_trimmed_while_a_capture_lives() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let graph = console.allocating_graph(512 * MIB, true);
    let executable = console.instantiate(graph, 0);
    assert_eq!(console.launch_graph(executable, stream), 0);
    console.synchronize();
    console.destroy_executable(executable);
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    let piece = console.alloc_async(64 * MIB).expect("there is room");
    assert_eq!(console.free_async(piece), 0);
    console.synchronize();
    for mode in [0, 1, 2] {
        let capturing = console.stream();
        let _ = console.call("cuStreamBeginCapture_v2", &[Is(capturing), Is(mode)]).ok();
        let _ = console.call("cuMemAlloc_v2", &[Out(8), Is(QUOTA_BYTES - 600 * MIB)]);
        let ended = console.call("cuStreamEndCapture", &[Is(capturing), Out(8)]);
        // What the program did to itself is the driver's to say: in modes 0 and 1 a plain allocation is forbidden when it
        // reaches the driver, and refused by us without reaching it. The capture lives, or fails as the manual says.
        assert!([0, 901].contains(&ended.status), "mode {mode}: {}", ended.status);
        if mode == 2 {
            assert_eq!(ended.status, 0, "nothing that it did is forbidden in this mode");
        }
    }
    console.finish();
}

#[test]
fn every_way_to_instantiate_is_followed() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let pieces = console.fill(32 * MIB);
    // CUDA_GRAPH_INSTANTIATE_PARAMS: flags, upload stream, error node, result.
    let parameters = [0; 32];
    let ways: [(&str, Vec<cuota_tests::console::Arg<'_>>); 5] = [
        ("cuGraphInstantiate", vec![Is(0), Is(0), Is(0)]),
        ("cuGraphInstantiate_v2", vec![Is(0), Is(0), Is(0)]),
        ("cuGraphInstantiateWithFlags", vec![Is(0)]),
        ("cuGraphInstantiateWithParams", vec![cuota_tests::console::Arg::At(&parameters)]),
        ("cuGraphInstantiateWithParams_ptsz", vec![cuota_tests::console::Arg::At(&parameters)]),
    ];
    for (way, rest) in ways {
        let graph = console.allocating_graph(512 * MIB, true);
        let arguments = [vec![Out(8), Is(graph)], rest].concat();
        let executable = console.call(way, &arguments).ok().number(0);
        assert_eq!(console.launch_graph(executable, stream), OUT_OF_MEMORY, "{way}");
        console.destroy_executable(executable);
    }
    // An upload that is part of the instantiation takes memory too.
    let graph = console.allocating_graph(512 * MIB, true);
    let mut upload = [0; 32];
    upload[0] = 2; // CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD
    upload[8..16].copy_from_slice(&stream.to_le_bytes());
    let arguments = [Out(8), Is(graph), cuota_tests::console::Arg::At(&upload)];
    let _ = console.call("cuGraphInstantiateWithParams", &arguments);
    console.synchronize();
    assert!(console.nvml_own() <= QUOTA_BYTES + slack(), "an instantiation took {}", console.nvml_own());
    pieces.iter().for_each(|piece| assert_eq!(console.free(*piece), 0));
    console.finish();
}

#[test]
fn graphs_in_turn_do_not_pile_up() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    for turn in 0..24 {
        let graph = console.allocating_graph(256 * MIB, true);
        let executable = console.instantiate(graph, 0);
        assert_eq!(console.launch_graph(executable, stream), 0, "turn {turn}");
        console.synchronize();
        console.destroy_executable(executable);
        assert!(console.nvml_own() <= QUOTA_BYTES);
    }
    console.finish();
}

#[test]
fn absurd_sizes_in_graphs_are_refused_and_book_nothing() {
    let machine = Machine::new();
    let (mut console, stream) = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    for bytes in [0, 1 << 48, 1 << 62, u64::MAX - MIB, u64::MAX] {
        let graph = console.graph();
        let node = cuota_tests::graph::alloc_node(bytes);
        let arguments = [Out(8), Is(graph), Is(0), Is(0), cuota_tests::console::Arg::At(&node)];
        if console.call("cuGraphAddMemAllocNode", &arguments).status == 0 {
            let answer = console.call("cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(0)]);
            if answer.status == 0 {
                assert_ne!(console.launch_graph(answer.number(0), stream), 0, "{bytes:#x} bytes");
                console.destroy_executable(answer.number(0));
            }
        }
        before.plus(0, &machine, &mut console);
    }
    console.finish();
}
