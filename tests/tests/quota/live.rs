//! A quota that the operator changes is in force with the tenant's next call.

use std::fs;

use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::{Limits, MemoryLimit};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, has_real_gpu, skip};

use crate::{QUOTA, QUOTA_BYTES};

fn name(name: &str) -> TenantName {
    TenantName::parse(name.as_bytes()).expect("a tenant's name")
}

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
fn entry_that_is_gone_lifts_no_limit_of_what_runs() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _piece = console.alloc(64 * MIB).expect("there is room");
    assert!(machine.operate().remove(&name("t"), GpuId::ANY));
    assert_eq!(console.memory().1, QUOTA_BYTES);
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    machine.set_quota("t", 2 * QUOTA_BYTES);
    assert!(console.alloc(QUOTA_BYTES).is_ok());
    console.finish();
}

#[test]
fn program_that_outlives_cuota_run_without_its_descriptors_keeps_its_tenant_until_it_ends() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    let machine = Machine::new();
    let limits = Limits { ephemeral: true, ..Limits::of_memory(MemoryLimit::Bytes(QUOTA_BYTES)) };
    machine.operate().set(&name("t"), GpuId::ANY, limits).expect("the policy has room");
    fs::create_dir_all(machine.region().join("tenant")).expect("the folder is ours");
    let program = machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t");
    let mut console = program.start_with_context();
    let _piece = console.alloc(64 * MIB).expect("there is room");
    let _ = console.ask("closefrom 3");
    let is_there = || machine.operate().policy().rows().any(|row| row.tenant == name("t"));
    // Each looks for tenants of which nothing runs any more.
    machine.tenant("other", Some(QUOTA)).start().finish();
    assert!(is_there());
    assert_eq!(machine.held("t"), 64 * MIB);
    assert_eq!(console.memory().1, QUOTA_BYTES);
    console.kill();
    machine.tenant("other", Some(QUOTA)).start().finish();
    assert!(!is_there());
}

#[test]
fn quota_is_changed_by_cuota_run_for_what_already_runs() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    machine.tenant("t", Some("3GiB")).start().finish();
    assert_eq!(console.memory().1, QUOTA_BYTES + 1024 * MIB);
    console.finish();
}
