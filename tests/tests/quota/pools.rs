//! Stream-ordered memory is booked by what its pool holds, and a pool is trimmed before anything is refused.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::{NOT_SUPPORTED, OUT_OF_MEMORY};
use cuota_tests::machine::{MIB, Machine, skip};

use crate::{Moment, QUOTA, QUOTA_BYTES, slack};

/// `CU_STREAM_NON_BLOCKING`, and the modes of a capture.
const NON_BLOCKING: u64 = 1;
const GLOBAL: u64 = 0;
const RELAXED: u64 = 2;

/// `CUmemPoolProps`: pinned, no handle types, on the first device.
pub(crate) fn on_first_device() -> [u8; 88] {
    let mut properties = [0; 88];
    (properties[0], properties[8]) = (1, 1);
    properties
}

pub(crate) fn create_pool(console: &mut Console) -> u64 {
    console.call("cuMemPoolCreate", &[Out(8), At(&on_first_device())]).ok().number(0)
}

pub(crate) fn alloc_from(console: &mut Console, pool: u64, bytes: u64) -> Result<u64, i64> {
    let answer = console.call("cuMemAllocFromPoolAsync", &[Out(8), Is(bytes), Is(pool), Is(0)]);
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

#[test]
fn stream_ordered_memory_is_granted_up_to_the_quota() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    let mut granted = 0;
    let refused = loop {
        match console.alloc_async(32 * MIB) {
            Ok(_) => granted += 32 * MIB,
            Err(status) => break status,
        }
        assert!(granted <= QUOTA_BYTES);
    };
    assert_eq!(refused, OUT_OF_MEMORY);
    let booked = machine.books("t").booked;
    assert_eq!(machine.held("t"), console.reserved(pool));
    assert!(booked <= QUOTA_BYTES && booked + 64 * MIB > QUOTA_BYTES, "{booked} booked");
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn memory_that_a_pool_uses_again_is_booked_once() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    let mut piece = console.alloc_async(64 * MIB).expect("there is room");
    let held = machine.held("t");
    assert_eq!(held, console.reserved(pool));
    for _ in 0..8 {
        assert_eq!(console.free_async(piece), 0);
        console.synchronize();
        piece = console.alloc_async(64 * MIB).expect("the pool has room");
        assert_eq!(machine.held("t"), held);
    }
    console.finish();
}

#[test]
fn pool_that_keeps_freed_memory_is_trimmed_before_an_allocation_is_refused() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    let pieces: Vec<u64> = (0..8).map(|_| console.alloc_async(64 * MIB).expect("there is room")).collect();
    pieces.into_iter().for_each(|piece| assert_eq!(console.free_async(piece), 0));
    console.synchronize();
    let kept = console.reserved(pool);
    assert!(kept >= 512 * MIB && machine.held("t") == kept, "the pool keeps {kept}");
    // What is left, and half of what the pool keeps.
    let wanted = QUOTA_BYTES - machine.books("t").booked + 256 * MIB;
    let piece = console.alloc(wanted).expect("the pool's reserve makes room");
    assert!(console.reserved(pool) < kept);
    assert!(machine.books("t").booked <= QUOTA_BYTES);
    assert!(console.nvml_own() <= QUOTA_BYTES);
    assert_eq!(console.free(piece), 0);
    assert_eq!(machine.held("t"), console.reserved(pool));
    console.finish();
}

#[test]
fn trimmed_pool_gives_back_at_once() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    let before = Moment::of(&machine, "t", &mut console);
    let piece = console.alloc_async(256 * MIB).expect("there is room");
    assert_eq!(console.free_async(piece), 0);
    console.synchronize();
    assert_eq!(machine.held("t"), before.held + console.reserved(pool));
    assert_eq!(console.call("cuMemPoolTrimTo", &[Is(pool), Is(0)]).status, 0);
    let left = console.reserved(pool);
    before.plus(left, &machine, &mut console);
    console.finish();
}

#[test]
fn destroyed_pool_gives_back_what_it_held() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc_async(32 * MIB).expect("there is room");
    let before = Moment::of(&machine, "t", &mut console);
    let pool = create_pool(&mut console);
    console.keep_freed_memory(pool);
    let piece = alloc_from(&mut console, pool, 128 * MIB).expect("there is room");
    let held = console.reserved(pool);
    before.plus(held, &machine, &mut console);
    assert_eq!(alloc_from(&mut console, pool, QUOTA_BYTES - 64 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(console.free_async(piece), 0);
    console.synchronize();
    before.plus(console.reserved(pool), &machine, &mut console);
    assert_eq!(console.call("cuMemPoolDestroy", &[Is(pool)]).status, 0);
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn memory_of_a_destroyed_pool_stays_booked_while_it_lives() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc_async(32 * MIB).expect("there is room");
    let mut live = Vec::new();
    // Over and over: a quota that forgets such memory is no quota.
    for _ in 0..16 {
        let pool = create_pool(&mut console);
        let Ok(piece) = alloc_from(&mut console, pool, 256 * MIB) else { break };
        live.push(piece);
        let _ = console.call("cuMemPoolDestroy", &[Is(pool)]);
        assert!(console.nvml_own() <= QUOTA_BYTES, "the device holds more after {} pools", live.len());
    }
    // Their last allocation's end ends the pools.
    let nvml = console.nvml_own();
    let count = live.len() as u64;
    live.into_iter().for_each(|piece| assert_eq!(console.free_async(piece), 0));
    console.synchronize();
    assert!(console.nvml_own() + count * 256 * MIB <= nvml + slack());
    assert!(console.alloc(1024 * MIB).is_ok(), "their room is free again");
    console.finish();
}

#[test]
fn stream_ordered_memory_may_be_freed_plainly() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    let piece = console.alloc_async(64 * MIB).expect("there is room");
    assert_eq!(console.free(piece), 0);
    console.synchronize();
    // What the pool let go of by itself is seen by the next one that needs room.
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    assert_eq!(machine.held("t"), console.reserved(pool));
    assert!(console.alloc(QUOTA_BYTES - machine.books("t").booked).is_ok());
    console.finish();
}

/// What a program sees that fills its memory and is refused an allocation while its stream captures.
fn capture(console: &mut Console, mode: u64, is_plain: bool) -> Option<Vec<i64>> {
    let stream = console.call("cuStreamCreate", &[Out(8), Is(NON_BLOCKING)]).ok().number(0);
    let begun = console.call("cuStreamBeginCapture_v2", &[Is(stream), Is(mode)]).status;
    if begun == NOT_SUPPORTED {
        return None;
    }
    let answer = if is_plain {
        console.call("cuMemAlloc_v2", &[Out(8), Is(64 * MIB)])
    } else {
        console.call("cuMemAllocAsync", &[Out(8), Is(64 * MIB), Is(stream)])
    };
    let ended = console.call("cuStreamEndCapture", &[Is(stream), Out(8)]);
    Some(vec![begun, answer.status, ended.status, i64::from(ended.number(0) != 0)])
}

#[test]
fn allocation_that_is_refused_during_a_capture_leaves_the_capture_whole() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    // A pool with a reserve: a refusal would trim it.
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    let live = console.alloc_async(32 * MIB).expect("there is room");
    let freed = console.alloc_async(32 * MIB).expect("there is room");
    assert_eq!(console.free_async(freed), 0);
    console.synchronize();
    let _all = console.fill(32 * MIB);
    for mode in [GLOBAL, RELAXED] {
        let Some(seen) = capture(&mut console, mode, true) else {
            return skip("the software GPU has no captures, no GPU");
        };
        assert_eq!(seen, [0, OUT_OF_MEMORY, 0, 1], "mode {mode}: begun, allocated, ended, a graph");
    }
    assert_eq!(console.free_async(live), 0);
    console.finish();
}

#[test]
fn allocation_that_is_granted_during_a_capture_is_captured_as_natively() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let mut unmodelled = None;
    for (mode, is_plain) in [(GLOBAL, false), (RELAXED, false), (RELAXED, true), (GLOBAL, true)] {
        let theirs = capture(&mut native, mode, is_plain);
        let ours = capture(&mut console, mode, is_plain);
        assert_eq!(ours, theirs, "mode {mode}, plain {is_plain}: begun, allocated, ended, a graph");
        match theirs.as_deref() {
            None => unmodelled = Some("the software GPU has no captures"),
            Some([_, NOT_SUPPORTED, ..]) => unmodelled = Some("the software GPU captures no allocations"),
            Some(_) => {}
        }
    }
    if let Some(why) = unmodelled {
        skip(&format!("in part: {why}, no GPU"));
    }
    console.finish();
    native.finish();
}

/// A pool with room in pieces alone grows all the same: what it took is given back in the order of the stream that asked.
#[test]
fn allocation_that_is_taken_back_from_a_per_thread_stream_leaves_a_capture_whole() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = console.default_pool();
    console.keep_freed_memory(pool);
    // Of each 32 MiB 12 are free.
    let _pieces = [0; 2].map(|_| console.alloc_async(20 * MIB).expect("there is room"));
    let _all = [32 * MIB, 2 * MIB].map(|bytes| console.fill(bytes));
    let held = machine.held("t");
    // One that the legacy stream waits for.
    let stream = console.call("cuStreamCreate", &[Out(8), Is(0)]).ok().number(0);
    let _ = console.call("cuStreamBeginCapture_v2", &[Is(stream), Is(RELAXED)]).ok();
    let refused = console.call("cuMemAllocAsync_ptsz", &[Out(8), Is(16 * MIB), Is(0)]);
    let ended = console.call("cuStreamEndCapture", &[Is(stream), Out(8)]);
    assert_eq!((refused.status, ended.status), (OUT_OF_MEMORY, 0));
    assert_eq!(machine.held("t"), held);
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}
