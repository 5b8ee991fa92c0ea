//! A quota that the operator changes is in force with the tenant's next call.

use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES};

#[test]
fn quota_lowered_below_use_grants_nothing_more_and_kills_nothing() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let piece = console.alloc(512 * MIB).expect("there is room");
    machine.set_quota("t", 256 * MIB);
    assert_eq!(console.memory(), (0, 256 * MIB));
    let nvml = console.nvml_memory();
    assert_eq!((nvml.total, nvml.free), (256 * MIB, 0));
    assert_eq!(console.alloc(2 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(console.alloc_async(2 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(console.create(2 * MIB), Err(OUT_OF_MEMORY));
    // What it has it keeps, and can use and free.
    assert_eq!(machine.held("t"), 512 * MIB);
    console.synchronize();
    assert_eq!(console.free(piece), 0);
    assert_eq!(machine.held("t"), 0);
    console.finish();
}

#[test]
fn raised_quota_is_granted() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _all = console.fill(32 * MIB);
    machine.set_quota("t", QUOTA_BYTES + 512 * MIB);
    assert_eq!(console.memory().1, QUOTA_BYTES + 512 * MIB);
    let more = console.fill(32 * MIB).len() as u64;
    assert!((15..=17).contains(&more), "{more} pieces of 32 MiB more");
    machine.set_quota("t", QUOTA_BYTES);
    assert_eq!(console.memory(), (0, QUOTA_BYTES));
    assert_eq!(console.alloc(2 * MIB), Err(OUT_OF_MEMORY));
    console.finish();
}

#[test]
fn quota_is_changed_by_cuota_run_for_what_already_runs() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    machine.tenant("t", Some("3GiB")).start().finish();
    assert_eq!(console.memory().1, QUOTA_BYTES + 1024 * MIB);
    console.finish();
}
