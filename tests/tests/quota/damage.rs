//! Files that change under a running tenant: it goes on, or is granted nothing, and does not crash.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES};

fn books(machine: &Machine) -> PathBuf {
    machine.region().join("tenant/t.v1")
}

fn live(machine: &Machine) -> PathBuf {
    machine.region().join("tenant/t.v1.live")
}

/// It still answers, never grants more than the quota, and ends well.
#[track_caller]
fn goes_on(mut console: Console) {
    for _ in 0..3 {
        for answer in
            [console.alloc(MIB), console.alloc_async(MIB), console.create(2 * MIB), console.alloc(64 * MIB)]
        {
            assert!(answer.is_ok() || answer == Err(OUT_OF_MEMORY), "{answer:?}");
        }
        assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
        let _ = console.memory();
        let _ = console.nvml_memory();
    }
    assert!(console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}

/// Writes the same byte over a whole file.
fn scribble(path: &Path, byte: u8) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file is ours");
    let length = usize::try_from(file.metadata().expect("it is there").len()).expect("a small file");
    file.write_all_at(&vec![byte; length], 0).expect("the file is ours");
}

#[test]
fn rubbish_in_the_books_crashes_nobody() {
    for byte in [0x00, 0x01, 0x55, 0x7f, 0xff] {
        let machine = Machine::new();
        let mut console = machine.start("t", QUOTA);
        let piece = console.alloc(64 * MIB).expect("there is room");
        scribble(&books(&machine), byte);
        assert_eq!(console.free(piece), 0);
        goes_on(console);
        // And a newcomer is granted nothing, or what fits.
        let program = machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t");
        let mut next = program.start();
        let _ = next.call("cuInit", &[Is(0)]);
        let _ = next.alloc(MIB);
        next.finish();
    }
}

#[test]
fn rubbish_in_the_policy_crashes_nobody_and_lifts_no_limit() {
    for byte in [0x00, 0x01, 0x55, 0x7f, 0xff] {
        let machine = Machine::new();
        let mut console = machine.start("t", QUOTA);
        let piece = console.alloc(64 * MIB).expect("there is room");
        scribble(&machine.policy(), byte);
        assert_eq!(console.free(piece), 0);
        let _ = console.alloc(MIB);
        let _ = console.memory();
        assert!(console.nvml_own() <= QUOTA_BYTES);
        console.finish();
    }
}

#[test]
fn books_that_are_removed_under_a_tenant_hold_it_all_the_same() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _piece = console.alloc(64 * MIB).expect("there is room");
    fs::remove_file(books(&machine)).expect("the file is ours");
    goes_on(console);
}

#[test]
fn live_file_that_is_no_file_grants_nothing() {
    let machine = Machine::new();
    machine.start("t", QUOTA).finish();
    fs::remove_file(live(&machine)).expect("the file is ours");
    fs::create_dir(live(&machine)).expect("the folder is ours");
    let mut console =
        machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t").start();
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    assert_eq!(console.alloc(MIB), Err(OUT_OF_MEMORY));
    console.finish();
}

#[test]
fn content_of_the_live_file_is_no_matter() {
    let machine = Machine::new();
    machine.start("t", QUOTA).finish();
    fs::write(live(&machine), [0xff; 5_000]).expect("the file is ours");
    let mut console = machine.start("t", QUOTA);
    assert!(console.alloc(64 * MIB).is_ok());
    fs::write(live(&machine), "").expect("the file is ours");
    goes_on(console);
}

#[test]
fn live_file_that_is_removed_under_tenants_books_nobody_twice_and_lifts_no_limit() {
    let machine = Machine::new();
    let mut one = machine.start("t", "4GiB");
    let _piece = one.alloc(1024 * MIB).expect("there is room");
    fs::remove_file(live(&machine)).expect("the file is ours");
    let mut other = machine.start("t", "4GiB");
    let _rest = other.fill(32 * MIB);
    let _ = one.alloc(64 * MIB);
    let by_the_device = one.nvml_own() + other.nvml_own();
    one.finish();
    other.finish();
    assert!(by_the_device <= 2 * QUOTA_BYTES, "{} MiB by NVML", by_the_device / MIB);
}

/// What is mapped beyond a file's end cannot be read: SIGBUS. A library without signal handlers cannot come between, so who
/// truncates a file of the region ends the tenant's own processes at their next call. Nobody else's.
#[track_caller]
fn truncation_ends_at_most_the_tenant(file: impl Fn(&Machine) -> PathBuf, bytes: u64) {
    let machine = Machine::new();
    let (mut console, mut other) = (machine.start("t", QUOTA), machine.start("other", QUOTA));
    let _piece = console.alloc(64 * MIB).expect("there is room");
    let path = file(&machine);
    let opened = fs::OpenOptions::new().write(true).open(path).expect("the file is ours");
    opened.set_len(bytes).expect("the file is ours");
    drop(opened);
    match console.try_call("cuMemAlloc_v2", &[Out(8), Is(QUOTA_BYTES)]) {
        Ok(answer) => {
            assert_eq!(answer.status, OUT_OF_MEMORY);
            assert!(console.nvml_own() <= QUOTA_BYTES);
            console.finish();
        }
        Err(words) => assert_eq!(words, "ended with signal: 7 (SIGBUS), and said ``"),
    }
    if file(&machine) == books(&machine) {
        assert!(other.alloc(64 * MIB).is_ok());
        other.finish();
    } else {
        other.kill();
    }
}

#[test]
fn truncated_books_end_at_most_their_tenant() {
    for bytes in [0, 64, 4096] {
        truncation_ends_at_most_the_tenant(books, bytes);
    }
}

#[test]
fn truncated_policy_ends_at_most_its_tenants() {
    for bytes in [0, 64] {
        truncation_ends_at_most_the_tenant(Machine::policy, bytes);
    }
}
