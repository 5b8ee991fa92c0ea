//! What is refused is counted, and `cuota events` says why, as it is.

use std::io::Read;
use std::process::{Command, Stdio};

use cuota_tests::build;
use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES};

/// How many pools of a process are followed.
const POOLS: u64 = 256;

/// More than `LOG_INTERVAL_NS` of the library: of refusals that follow each other faster, one is logged.
const APART_MS: u64 = 30;

const DESCRIPTOR: u64 = 1;

/// `cuota events t`.
fn events(machine: &Machine) -> Command {
    let mut command = Command::new(build::command());
    command.env("CUOTA_DIR", machine.region()).args(["events", "t"]);
    command
}

fn said(machine: &Machine) -> String {
    let output = events(machine).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn apart() {
    std::thread::sleep(std::time::Duration::from_millis(APART_MS));
}

/// A pool of `owner` that `console` can open.
fn handed_over(console: &mut Console, owner: &mut Console) -> u64 {
    let mut properties = [0; 88];
    (properties[0], properties[4], properties[8]) = (1, 1, 1);
    let pool = owner.call("cuMemPoolCreate", &[Out(8), At(&properties)]).ok().number(0);
    let export = [Out(8), Is(pool), Is(DESCRIPTOR), Is(0)];
    let descriptor = owner.call("cuMemPoolExportToShareableHandle", &export).ok().number(0);
    let take = format!("takefd {} {}", owner.pid(), descriptor & u64::from(u32::MAX));
    console.ask(&take).ok().number(0)
}

fn open(console: &mut Console, descriptor: u64) -> i64 {
    let import = [Out(8), Is(descriptor), Is(DESCRIPTOR), Is(0)];
    console.call("cuMemPoolImportFromShareableHandle", &import).status
}

#[test]
fn refused_code_is_counted_and_the_event_says_what_was_booked() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let large = code::with_variable(512 * MIB);
    let pieces = console.fill(32 * MIB);
    apart();
    let before = machine.books("t");
    let load = console.call("cuModuleLoadData", &[Out(8), At(&large)]);
    assert_eq!(load.status, OUT_OF_MEMORY);
    let after = machine.books("t");
    assert_eq!(after.refused, before.refused + 1);
    let said = said(&machine);
    let last = said.lines().last().expect("an event");
    // The variable, and a little for the code.
    assert!(last.contains("refused 51") && last.contains("booked of 2 GiB)"), "{last}");
    assert!(!last.contains("(2 GiB booked") || after.booked == QUOTA_BYTES, "{last} of {after:?}");
    drop(pieces);
    console.finish();
}

#[test]
fn another_tenants_pool_is_refused_with_the_reason() {
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let descriptor = handed_over(&mut console, &mut owner);
    let before = machine.books("t").refused;
    assert_eq!(open(&mut console, descriptor), OUT_OF_MEMORY);
    assert_eq!(machine.books("t").refused, before + 1);
    let said = said(&machine);
    assert!(said.contains("another tenant's memory pool") && !said.contains("refused 0 B"), "{said}");
    console.finish();
    owner.finish();
}

#[test]
fn pool_that_cannot_be_followed_is_not_opened() {
    let machine = Machine::new();
    let (mut owner, mut console) = (machine.start("t", QUOTA), machine.start("t", QUOTA));
    let descriptor = handed_over(&mut console, &mut owner);
    let mut properties = [0; 88];
    (properties[0], properties[8]) = (1, 1);
    let make = [Out(8), At(&properties)];
    let made = (0..POOLS).filter_map(|_| {
        let pool = console.call("cuMemPoolCreate", &make);
        (pool.status == 0).then(|| pool.number(0))
    });
    let pools = made.collect::<Vec<_>>();
    assert_eq!(pools.len() as u64, POOLS);
    apart();
    assert_eq!(open(&mut console, descriptor), OUT_OF_MEMORY);
    assert!(said(&machine).contains("at most 256 memory pools"), "{}", said(&machine));
    for pool in &pools[..2] {
        let _ = console.call("cuMemPoolDestroy", &[Is(*pool)]).ok();
    }
    assert_eq!(open(&mut console, descriptor), 0, "there is a place for it");
    console.finish();
    owner.finish();
}

#[test]
fn reader_that_has_seen_enough_ends_no_listing_with_a_panic() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    // Longer than a pipe holds: 64 KiB.
    for _ in 0..POOLS * 4 {
        assert_eq!(console.alloc(2 * QUOTA_BYTES), Err(OUT_OF_MEMORY));
        std::thread::sleep(std::time::Duration::from_millis(11));
    }
    let mut child =
        events(&machine).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut first = [0];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("a line");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    console.finish();
}
