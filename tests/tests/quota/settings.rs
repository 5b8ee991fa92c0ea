//! What a program does to its environment moves no limit.

use std::fs;

use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{Machine, Program};

use crate::{QUOTA, QUOTA_BYTES};

/// It has the quota, whatever it did before its first call.
#[track_caller]
fn has_the_quota(mut console: Console) {
    console.use_primary_context();
    assert_eq!(console.total(), QUOTA_BYTES);
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    console.finish();
}

#[test]
fn environment_that_is_changed_after_the_start_moves_no_limit() {
    let machine = Machine::new();
    machine.set_quota("rich", 8 * QUOTA_BYTES);
    let changes: [&[&str]; 6] = [
        &["setenv CUOTA_TENANT rich"],
        &["setenv CUOTA_DIR /no/such/directory"],
        &["putenv CUOTA_TENANT=rich", "putenv CUOTA_DIR=/"],
        &["putenv CUOTA_TENANT="],
        &["clearenv"],
        &["clearenv", "setenv CUOTA_TENANT rich"],
    ];
    for change in changes {
        let mut console = machine.tenant("t", Some(QUOTA)).start();
        change.iter().for_each(|line| assert_eq!(console.ask(line).status, 0));
        has_the_quota(console);
    }
}

#[test]
fn environment_that_is_changed_after_the_first_call_moves_no_limit() {
    let machine = Machine::new();
    machine.set_quota("rich", 8 * QUOTA_BYTES);
    for change in ["setenv CUOTA_TENANT rich", "clearenv"] {
        let mut console = machine.start("t", QUOTA);
        assert_eq!(console.ask(change).status, 0);
        has_the_quota(console);
    }
}

fn with_default(machine: &Machine) -> Program {
    machine.set_quota("default", QUOTA_BYTES);
    let folder = machine.region().join("tenant");
    fs::create_dir_all(folder).expect("the folder is ours");
    machine.preloaded().with("CUOTA_DIR", machine.region())
}

#[test]
fn tenant_that_is_named_nowhere_has_the_default_quota() {
    let machine = Machine::new();
    has_the_quota(with_default(&machine).start());
    has_the_quota(with_default(&machine).with("CUOTA_TENANT", "").start());
    has_the_quota(with_default(&machine).with("CUOTA_TENANT", "unheard-of").start());
}

#[test]
fn name_that_is_none_does_not_lift_the_limit() {
    let machine = Machine::new();
    let long = "n".repeat(32);
    let longer = "n".repeat(5_000);
    for name in ["../default", "a/b", ".hidden", "a b", "a\u{e9}", "t:1", &long, &longer] {
        has_the_quota(with_default(&machine).with("CUOTA_TENANT", name).start());
    }
    assert!(machine.books("default").refused > 0, "they are the default tenant's processes");
}
