//! Contexts are booked, and given back with all that they hold.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{Moment, QUOTA, QUOTA_BYTES, eventually, slack};

#[test]
fn created_context_is_booked_and_given_back_with_all_its_memory() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let own = console.alloc(64 * MIB).expect("there is room");
    let (before, overhead) = (Moment::of(&machine, "t", &mut console), machine.books("t").overhead);
    for size in [64 * MIB, MIB / 16] {
        let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
        assert!(machine.books("t").overhead > overhead, "the context is booked");
        let _theirs: Vec<u64> = (0..4).map(|_| console.alloc(size).expect("there is room")).collect();
        assert!(machine.held("t") > before.held);
        assert_eq!(console.call("cuCtxDestroy_v2", &[Is(context)]).status, 0);
        assert_eq!(machine.held("t"), before.held);
    }
    eventually("NVML no longer shows the context", || console.nvml_own() <= before.nvml + 16 * MIB);
    // The other context's memory is still there, and still booked.
    let context = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).ok().number(0);
    assert_eq!(console.call("cuCtxSetCurrent", &[Is(context)]).status, 0);
    assert_eq!(console.free(own), 0);
    assert_eq!(machine.held("t"), before.held - 64 * MIB);
    console.finish();
}

#[test]
fn contexts_are_refused_when_they_no_longer_fit() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let (status, made) = console.repeat(100, "cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]);
    assert_eq!(status, OUT_OF_MEMORY, "after {made} contexts");
    assert!(machine.books("t").booked <= QUOTA_BYTES);
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn context_that_does_not_fit_the_quota_is_refused() {
    let machine = Machine::new();
    let mut console = machine.tenant("t", Some("256MiB")).start();
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    for _ in 0..3 {
        assert_eq!(console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
        assert_eq!(console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).status, OUT_OF_MEMORY);
        assert_eq!(
            console.call("cuCtxCreate_v3", &[Out(8), Is(0), Is(0), Is(0), Is(0)]).status,
            OUT_OF_MEMORY
        );
        assert_eq!(console.call("cuCtxCreate_v4", &[Out(8), Is(0), Is(0), Is(0)]).status, OUT_OF_MEMORY);
    }
    assert_eq!(machine.books("t").booked, 0);
    assert_eq!(console.nvml_own(), 0);
    console.finish();
}

#[test]
fn last_release_of_the_primary_context_gives_everything_back() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _ = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).ok();
    let _kept = [console.alloc(64 * MIB), console.alloc(MIB / 16), console.alloc(MIB / 16)];
    let booked = machine.books("t").booked;
    assert_eq!(console.call("cuDevicePrimaryCtxRelease_v2", &[Is(0)]).status, 0);
    assert_eq!(machine.books("t").booked, booked, "one user is left");
    assert_eq!(console.call("cuDevicePrimaryCtxRelease_v2", &[Is(0)]).status, 0);
    assert_eq!(machine.books("t").booked, 0);
    eventually("NVML shows nothing of it", || console.nvml_own() <= slack());
    // And once more, with as much as before.
    console.use_primary_context();
    let pieces = console.fill(32 * MIB);
    assert!(pieces.len() as u64 * 32 * MIB > QUOTA_BYTES / 2);
    console.finish();
}

#[test]
fn reset_of_the_primary_context_gives_everything_back() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let first = console.fill(32 * MIB).len();
    assert_eq!(console.call("cuDevicePrimaryCtxReset_v2", &[Is(0)]).status, 0);
    assert_eq!(machine.held("t"), 0);
    console.use_primary_context();
    let second = console.fill(32 * MIB).len();
    assert!(second.abs_diff(first) <= 1, "{first} pieces, then {second}");
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}
