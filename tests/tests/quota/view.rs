//! The tenant sees a GPU of the size of its quota.

use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES};

#[test]
fn tenant_sees_a_gpu_of_the_size_of_its_quota() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    for _ in 0..3 {
        let _piece = console.alloc(100 * MIB).expect("there is room");
        let booked = machine.books("t").booked;
        let (free, total) = console.memory();
        assert_eq!((total, console.total()), (QUOTA_BYTES, QUOTA_BYTES));
        assert!(free <= QUOTA_BYTES - booked, "{free} free of {QUOTA_BYTES} with {booked} booked");
        for memory in [console.nvml_memory(), console.nvml_memory_v2()] {
            assert_eq!((memory.total, memory.used), (QUOTA_BYTES, booked));
            assert_eq!(memory.free, QUOTA_BYTES - booked);
        }
    }
    console.finish();
}

#[test]
fn what_is_shown_as_free_is_granted() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    // A refusal has the context booked at its true size.
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    let (free, _) = console.memory();
    assert!(console.alloc(free - free % (2 * MIB)).is_ok(), "{free} bytes were free");
    let (free, _) = console.memory();
    assert!(free < 256 * MIB);
    console.finish();
}

#[test]
fn quota_may_be_a_share_of_the_gpu() {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let half = native.total() / 2;
    let mut console = machine.start("t", "50%");
    let (_, total) = console.memory();
    assert_eq!(total, half - half % (2 * MIB));
    assert_eq!(console.nvml_memory().total, total);
    console.finish();
    native.finish();
}

#[test]
fn quota_beyond_the_gpus_size_shows_the_gpu_as_it_is() {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let mut console = machine.start("t", "4096GiB");
    assert_eq!(console.total(), native.total());
    assert_eq!(console.memory().1, native.memory().1);
    console.finish();
    native.finish();
}

#[test]
fn without_a_quota_everything_is_as_the_driver_says() {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let mut console = machine.tenant("t", None).start_with_context();
    assert_eq!(console.total(), native.total());
    assert_eq!(console.memory(), native.memory());
    assert_eq!(console.nvml_memory(), native.nvml_memory());
    assert_eq!(console.nvml_memory_v2(), native.nvml_memory_v2());
    let held = machine.held("t");
    let _piece = console.alloc(3 * QUOTA_BYTES).expect("the device has room");
    assert_eq!(machine.held("t"), held + 3 * QUOTA_BYTES, "it is listed all the same");
    assert_eq!(console.memory(), native.memory());
    console.finish();
    native.finish();
}

#[test]
fn tenant_is_shown_its_own_processes_with_what_they_have_booked() {
    let machine = Machine::new();
    let (mut one, mut two) = (machine.start("t", "4GiB"), machine.start("t", "4GiB"));
    let (mut other, mut native) = (machine.start("other", QUOTA), machine.native().start_with_context());
    let _pieces = [one.alloc(64 * MIB), two.alloc(128 * MIB), other.alloc(MIB), native.alloc(MIB)];
    let mut booked: Vec<(u64, u64)> =
        machine.processes("t").iter().map(|p| (u64::from(p.pid), p.usage.booked)).collect();
    booked.sort_unstable();
    for console in [&mut one, &mut two] {
        let mut shown = console.nvml_neighbours();
        shown.sort_unstable();
        assert_eq!(shown, booked);
    }
    assert_eq!(other.nvml_neighbours().len(), 1);
    // Who is in no tenant sees all of them.
    assert!(native.nvml_neighbours().len() >= 4);
    [one, two, other, native].into_iter().for_each(cuota_tests::console::Console::finish);
}
