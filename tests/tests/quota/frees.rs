//! Frees that are not what they seem: the driver's answer, and books that stay right.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{Moment, QUOTA, QUOTA_BYTES};

/// Every function that frees by an address, with a stream where it takes one.
const FREES: [(&str, bool); 3] =
    [("cuMemFree_v2", false), ("cuMemFreeAsync", true), ("cuMemFreeAsync_ptsz", true)];

fn free(console: &mut Console, (function, in_order): (&str, bool), address: u64) -> i64 {
    let arguments = [Is(address), Is(0)];
    console.call(function, &arguments[..1 + usize::from(in_order)]).status
}

#[test]
fn either_free_takes_either_kind_of_memory_and_gives_it_back() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    for freeing in FREES {
        for ordered in [false, true] {
            let mut taken = 0;
            for turn in 0..40 {
                let piece = if ordered { console.alloc_async(128 * MIB) } else { console.alloc(128 * MIB) };
                let piece =
                    piece.unwrap_or_else(|status| panic!("turn {turn}, {freeing:?}, {ordered}: {status}"));
                assert_eq!(free(&mut console, freeing, piece), 0, "{freeing:?}, ordered {ordered}");
                console.synchronize();
                taken += 128 * MIB;
            }
            assert!(taken > QUOTA_BYTES, "more than the quota went through");
        }
    }
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    assert_eq!(machine.books("t").booked, console.nvml_own());
    console.finish();
}

#[test]
fn addresses_that_nobody_allocated_get_the_drivers_answer_and_change_no_books() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let mut seen = Vec::new();
    for guest in [&mut native, &mut console] {
        let plain = guest.alloc(5 * MIB).expect("room");
        let ordered = guest.alloc_async(5 * MIB).expect("room");
        let reserved = guest.reserve(4 * MIB);
        let host = guest.call("cuMemHostAlloc", &[Out(8), Is(MIB), Is(0)]).ok().number(0);
        let held = machine.held("t");
        let mut statuses = Vec::new();
        for freeing in FREES {
            for address in [1, 0xfff, plain + 256, ordered + 256, plain + (5 << 20), reserved, host, u64::MAX]
            {
                statuses.push((freeing.0, free(guest, freeing, address)));
                assert_eq!(machine.held("t"), held, "{freeing:?} of {address:#x}");
            }
        }
        statuses.push(("cuMemFree_v2", guest.free(plain)));
        statuses.push(("cuMemFree_v2", guest.free(ordered)));
        seen.push(statuses);
    }
    assert_eq!(seen[0], seen[1], "natively, and as a tenant");
    console.finish();
    native.finish();
}

#[test]
fn mapped_memory_is_not_given_back_by_a_free() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let handle = console.create(64 * MIB).expect("there is room");
    let at = console.reserve(64 * MIB);
    assert_eq!(console.map(at, 64 * MIB, handle), 0);
    let held = machine.held("t");
    for freeing in FREES {
        assert_ne!(free(&mut console, freeing, at), 0, "{freeing:?}");
        assert_eq!(machine.held("t"), held);
    }
    assert_eq!((console.unmap(at, 64 * MIB), console.release(handle)), (0, 0));
    assert_eq!(machine.held("t"), held - 64 * MIB);
    console.finish();
}

#[test]
fn managed_memory_is_given_back_by_either_free() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    for freeing in FREES {
        let mut statuses = Vec::new();
        for guest in [&mut native, &mut console] {
            let held = machine.held("t");
            let piece = guest.call("cuMemAllocManaged", &[Out(8), Is(64 * MIB), Is(1)]).ok().number(0);
            let status = free(guest, freeing, piece);
            guest.synchronize();
            if status != 0 {
                assert_eq!(guest.free(piece), 0);
            }
            assert_eq!(machine.held("t"), held, "{freeing:?}, status {status}");
            statuses.push(status);
        }
        assert_eq!(statuses[0], statuses[1], "{freeing:?} of managed memory, natively, and as a tenant");
    }
    console.finish();
    native.finish();
}

#[test]
fn host_memory_is_not_counted() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let before = Moment::of(&machine, "t", &mut console);
    let pinned = console.call("cuMemHostAlloc", &[Out(8), Is(256 * MIB), Is(0)]).ok().number(0);
    let plain = console.call("cuMemAllocHost_v2", &[Out(8), Is(256 * MIB)]).ok().number(0);
    before.plus(0, &machine, &mut console);
    assert_eq!(console.call("cuMemFreeHost", &[Is(pinned)]).status, 0);
    assert_eq!(console.call("cuMemFreeHost", &[Is(plain)]).status, 0);
    before.plus(0, &machine, &mut console);
    console.finish();
}
