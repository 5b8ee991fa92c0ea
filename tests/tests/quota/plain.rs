//! Plain memory is booked by what it takes of the device, and refused at the quota.

use std::collections::BTreeMap;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::{Arg, Console};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{Moment, QUOTA, QUOTA_BYTES, eventually};

/// The driver's unit of plain memory.
const BLOCK: u64 = 2 * MIB;

/// Allocations by the 2 MiB block that they lie in.
fn by_block(addresses: &[u64]) -> BTreeMap<u64, Vec<u64>> {
    let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    addresses.iter().for_each(|address| blocks.entry(address / BLOCK).or_default().push(*address));
    blocks
}

fn small(console: &mut Console, count: usize) -> Vec<u64> {
    (0..count).map(|_| console.alloc(MIB / 16).expect("there is room")).collect()
}

#[test]
fn memory_is_granted_up_to_the_quota_then_refused_then_granted_again_after_a_free() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let pieces = console.fill(32 * MIB);
    assert_eq!(machine.held("t"), pieces.len() as u64 * 32 * MIB);
    let booked = machine.books("t").booked;
    assert!(booked <= QUOTA_BYTES && booked + 32 * MIB > QUOTA_BYTES, "{booked} booked");
    assert!(console.nvml_own() <= QUOTA_BYTES);
    let (free, _) = native.memory();
    assert!(free > 64 * MIB, "the device itself has room");
    assert_eq!(console.free(pieces[0]), 0);
    assert!(console.alloc(32 * MIB).is_ok());
    assert_eq!(console.alloc(32 * MIB), Err(OUT_OF_MEMORY));
    assert!(machine.books("t").refused >= 2);
    console.finish();
    native.finish();
}

#[test]
fn small_allocations_are_booked_as_the_blocks_that_they_share() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    // The first one may bring lazy growth of the context with it.
    let _first = console.alloc(4 * MIB).expect("there is room");
    let before = Moment::of(&machine, "t", &mut console);
    let pieces = small(&mut console, 200);
    let blocks = by_block(&pieces).len() as u64;
    assert!(blocks < 20, "200 × 64 KiB lie in {blocks} blocks");
    before.plus(blocks * BLOCK, &machine, &mut console);
    pieces.iter().for_each(|piece| assert_eq!(console.free(*piece), 0));
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn sizes_are_booked_in_whole_blocks() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc(4 * MIB).expect("there is room");
    for (bytes, taken) in [(3 * MIB / 2, 2), (2 * MIB, 2), (2 * MIB + 1, 4), (5 * MIB, 6), (100 * MIB, 100)] {
        let before = Moment::of(&machine, "t", &mut console);
        let piece = console.alloc(bytes).expect("there is room");
        before.plus(taken * MIB, &machine, &mut console);
        assert_eq!(console.free(piece), 0);
        before.plus(0, &machine, &mut console);
    }
    console.finish();
}

#[test]
fn books_come_to_equal_what_nvml_says_of_the_process() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _kept = [small(&mut console, 40), vec![console.alloc(700 * MIB + 1).expect("there is room")]];
    eventually("the books equal NVML's figure", || {
        // A refusal near the quota looks at the contexts' true size, at most ten times a second.
        assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
        machine.books("t").booked == console.nvml_own()
    });
    console.finish();
}

#[test]
fn fragmented_blocks_stay_booked_until_their_last_allocation_is_freed() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc(4 * MIB).expect("there is room");
    let before = Moment::of(&machine, "t", &mut console);
    let blocks = by_block(&small(&mut console, 320));
    for piece in blocks.values().flat_map(|pieces| &pieces[1..]) {
        assert_eq!(console.free(*piece), 0);
    }
    before.plus(blocks.len() as u64 * BLOCK, &machine, &mut console);
    for pieces in blocks.values() {
        assert_eq!(console.free(pieces[0]), 0);
    }
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn free_of_what_is_no_allocation_gets_the_drivers_answer_and_changes_no_books() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let mut answers = Vec::new();
    for guest in [&mut native, &mut console] {
        let (piece, large) = (guest.alloc(MIB / 2).expect("room"), guest.alloc(5 * MIB).expect("room"));
        let neighbour = guest.alloc(MIB / 2).expect("room");
        let held = machine.held("t");
        let mut statuses = vec![guest.free(0), guest.free(0x1234), guest.free(u64::MAX)];
        statuses.extend([guest.free(piece + 256), guest.free(large + 512), guest.free(large + 2 * MIB)]);
        assert_eq!(machine.held("t"), held);
        statuses.extend([guest.free(piece), guest.free(piece), guest.free(large), guest.free(large)]);
        statuses.push(guest.free_async(large));
        statuses.push(guest.free(neighbour));
        answers.push(statuses);
    }
    assert_eq!(answers[0], answers[1], "natively, and as a tenant");
    assert_eq!(machine.held("t"), 0);
    console.finish();
    native.finish();
}

#[test]
fn pitched_memory_is_booked_as_the_driver_lays_it_out() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc(4 * MIB).expect("there is room");
    let before = Moment::of(&machine, "t", &mut console);
    let (width, height) = (1_000, 5_000);
    let answer = console.call("cuMemAllocPitch_v2", &[Out(8), Out(8), Is(width), Is(height), Is(4)]).ok();
    let (piece, pitch) = (answer.number(0), answer.number(1));
    assert!(pitch >= width, "a pitch of {pitch}");
    before.plus((pitch * height).next_multiple_of(BLOCK), &machine, &mut console);
    assert_eq!(console.free(piece), 0);
    before.plus(0, &machine, &mut console);
    let rows = QUOTA_BYTES / 4096;
    let beyond = console.call("cuMemAllocPitch_v2", &[Out(8), Out(8), Is(4096), Is(rows), Is(4)]);
    assert_eq!(beyond.status, OUT_OF_MEMORY);
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn managed_memory_is_booked_in_full_and_refused_at_the_quota() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let managed =
        |console: &mut Console, bytes| console.call("cuMemAllocManaged", &[Out(8), Is(bytes), Is(1)]);
    let held = machine.held("t");
    let piece = managed(&mut console, 64 * MIB).ok().number(0);
    assert_eq!(machine.held("t"), held + 64 * MIB);
    assert_eq!(managed(&mut console, QUOTA_BYTES - 64 * MIB).status, OUT_OF_MEMORY);
    assert_eq!(machine.held("t"), held + 64 * MIB);
    assert_eq!(console.free(piece), 0);
    assert_eq!(machine.held("t"), held);
    let (status, _) = console.repeat(1_000, "cuMemAllocManaged", &[Out(8), Is(32 * MIB), Is(1)]);
    assert_eq!(status, OUT_OF_MEMORY);
    assert!(machine.books("t").booked <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn plain_memory_that_is_freed_in_stream_order_is_given_back() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let held = machine.held("t");
    let piece = console.alloc(64 * MIB).expect("there is room");
    let status = console.free_async(piece);
    console.synchronize();
    if status == 0 {
        assert_eq!(machine.held("t"), held);
    } else {
        assert_eq!(machine.held("t"), held + 64 * MIB, "the driver kept it, with status {status}");
        assert_eq!(console.free(piece), 0);
        assert_eq!(machine.held("t"), held);
    }
    console.finish();
}

/// A call that takes as much memory as an argument says, and the place of that argument.
const SIZED: [(&str, &[Arg<'_>], usize); 6] = [
    ("cuMemAlloc_v2", &[Out(8), Is(0)], 1),
    ("cuMemAllocManaged", &[Out(8), Is(0), Is(1)], 1),
    ("cuMemAllocPitch_v2", &[Out(8), Out(8), Is(0), Is(16), Is(4)], 2),
    ("cuMemAllocPitch_v2", &[Out(8), Out(8), Is(512), Is(0), Is(4)], 3),
    ("cuMemAllocAsync", &[Out(8), Is(0), Is(0)], 1),
    ("cuMemAllocPitch_v2", &[Out(8), Out(8), Is(u64::MAX), Is(0), Is(4)], 3),
];

/// Asks for sizes that nobody has, natively and as a tenant with this quota.
#[track_caller]
fn absurd_sizes_book_nothing(quota: Option<&str>) {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let mut console = machine.tenant("t", quota).start_with_context();
    let _piece = console.alloc(64 * MIB).expect("there is room");
    let held = machine.held("t");
    for (name, arguments, place) in SIZED {
        for bytes in
            [0, 1 << 48, 1 << 62, 1 << 63, u64::MAX - 2 * BLOCK, u64::MAX - BLOCK, u64::MAX - 1, u64::MAX]
        {
            let mut arguments = arguments.to_vec();
            arguments[place] = Is(bytes);
            let (theirs, ours) =
                (native.call(name, &arguments).status, console.call(name, &arguments).status);
            assert!(
                ours == theirs || ours == OUT_OF_MEMORY,
                "{name} of {bytes:#x}: {theirs} natively, {ours} here"
            );
            assert_eq!(machine.held("t"), held, "{name} of {bytes:#x}, status {ours}");
        }
    }
    console.finish();
    native.finish();
}

#[test]
fn zero_and_absurd_sizes_get_the_drivers_answer_or_are_refused_and_book_nothing() {
    absurd_sizes_book_nothing(Some(QUOTA));
}

#[test]
fn absurd_sizes_book_nothing_without_a_quota_either() {
    absurd_sizes_book_nothing(None);
}
