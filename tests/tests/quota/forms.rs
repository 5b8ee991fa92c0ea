//! Old forms and twins of a call are the same call: 32-bit forms of CUDA 2, and `_ptsz` forms of per-thread streams.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program};

use crate::pools::create_pool;
use crate::{Moment, QUOTA, QUOTA_BYTES};

#[test]
fn old_forms_answer_as_natively_and_take_nothing_beyond_the_quota() {
    let machine = Machine::new();
    old_forms_take_nothing(&machine, machine.native(), machine.tenant("t", Some(QUOTA)));
    let tenant = machine.tenant("t", Some(QUOTA)).with_old_forms();
    old_forms_take_nothing(&machine, machine.native().with_old_forms(), tenant);
}

fn old_forms_take_nothing(machine: &Machine, native: Program, tenant: Program) {
    let (mut native, mut console) = (native.start_with_context(), tenant.start_with_context());
    let before = Moment::of(machine, "t", &mut console);
    let mut seen = Vec::new();
    for guest in [&mut native, &mut console] {
        let plain = guest.call("cuMemAlloc", &[Out(4), Is(MIB)]);
        let pitched = guest.call("cuMemAllocPitch", &[Out(4), Out(4), Is(1000), Is(1000), Is(4)]);
        for answer in [&plain, &pitched] {
            if answer.status == 0 {
                assert_eq!(guest.call("cuMemFree", &[Is(answer.number(0))]).status, 0);
            }
        }
        let unknown = guest.call("cuMemFree", &[Is(0x1000)]).status;
        seen.push([plain.status, pitched.status, unknown]);
    }
    assert_eq!(seen[0], seen[1], "natively, and as a tenant");
    before.plus(0, machine, &mut console);
    let _pieces = console.fill(32 * MIB);
    for _ in 0..3 {
        assert_eq!(console.call("cuMemAlloc", &[Out(4), Is(1 << 30)]).status, OUT_OF_MEMORY);
        assert_eq!(console.call("cuMemAlloc", &[Out(4), Is(u64::from(u32::MAX))]).status, OUT_OF_MEMORY);
        let pitched = [Out(4), Out(4), Is(1 << 16), Is(1 << 15), Is(4)];
        assert_eq!(console.call("cuMemAllocPitch", &pitched).status, OUT_OF_MEMORY);
    }
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
    native.finish();
}

#[test]
fn sizes_in_32_bits_show_no_more_than_fits_them() {
    let machine = Machine::new();
    let sixfold = || machine.tenant("t", Some("6GiB"));
    for (native, tenant) in
        [(machine.native(), sixfold()), (machine.native().with_old_forms(), sixfold().with_old_forms())]
    {
        let (mut native, mut console) = (native.start_with_context(), tenant.start_with_context());
        let [theirs, ours] =
            [&mut native, &mut console].map(|guest| guest.call("cuMemGetInfo", &[Out(4), Out(4)]));
        assert_eq!(ours.status, theirs.status, "the driver may have no context for such a question");
        if ours.status == 0 {
            let (free, total) = (ours.number(0), ours.number(1));
            assert!(free <= total && total <= u64::from(u32::MAX), "{free} of {total}");
            assert!(free > 1 << 30, "a GPU with much room shows much: {free}");
        }
        let total = console.call("cuDeviceTotalMem", &[Out(4), Is(0)]).ok().number(0);
        assert!(total > 1 << 30);
        console.finish();
        native.finish();
    }
}

#[test]
fn per_thread_twins_book_in_the_same_books() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let pool = create_pool(&mut console);
    for (take, arguments) in [
        ("cuMemAllocAsync_ptsz", vec![Out(8), Is(64 * MIB), Is(0)]),
        ("cuMemAllocFromPoolAsync_ptsz", vec![Out(8), Is(64 * MIB), Is(pool), Is(0)]),
    ] {
        for free in ["cuMemFreeAsync", "cuMemFreeAsync_ptsz"] {
            let held = machine.held("t");
            let piece = console.call(take, &arguments).ok().number(0);
            assert!(machine.held("t") >= held + 64 * MIB, "{take}");
            console.synchronize();
            assert_eq!(console.call(free, &[Is(piece), Is(0)]).status, 0);
            console.synchronize();
            assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
            assert_eq!(console.call("cuMemPoolTrimTo", &[Is(pool), Is(0)]).status, 0);
            let default = console.default_pool();
            assert_eq!(
                machine.held("t"),
                console.reserved(pool) + console.reserved(default),
                "{take}, {free}"
            );
        }
        let mut beyond = arguments.clone();
        beyond[1] = Is(QUOTA_BYTES);
        assert_eq!(console.call(take, &beyond).status, OUT_OF_MEMORY, "{take}");
    }
    console.finish();
}
