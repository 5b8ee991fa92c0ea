//! Programs that are themselves held short by the system: few descriptors, little address space, no files of any size.

use std::fs;
use std::process::Command;

use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program};

use crate::QUOTA_BYTES;

/// A tenant whose shell sets a limit before it becomes the program.
fn limited(machine: &Machine, limit: &str) -> Program {
    machine.set_quota("t", QUOTA_BYTES);
    fs::create_dir_all(machine.region().join("tenant")).expect("the folder is ours");
    let mut program = machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t");
    let console = program.command().get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\"")]).arg(console);
    for (name, value) in program.command().get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    *program.command() = shell;
    program
}

/// What the program gets, natively and as a tenant: it ends well, and is granted what fits the quota or nothing.
#[track_caller]
fn gets_what_fits_or_nothing(mut console: Console) {
    use cuota_tests::console::Arg::{Is, Out};
    let _ = console.call("cuInit", &[Is(0)]);
    let context = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]);
    if context.status == 0 {
        let _ = console.call("cuCtxSetCurrent", &[Is(context.number(0))]).ok();
        for _ in 0..3 {
            assert!(console.alloc(QUOTA_BYTES).is_err());
        }
        if let Ok(piece) = console.alloc(64 * MIB) {
            assert_eq!(console.free(piece), 0);
        }
    }
    console.finish();
}

#[test]
fn few_descriptors_grant_what_fits_or_nothing() {
    for descriptors in [6, 8, 12, 16, 32, 50, 64] {
        let machine = Machine::new();
        gets_what_fits_or_nothing(limited(&machine, &format!("-n {descriptors}")).start());
    }
}

#[test]
fn little_address_space_grants_what_fits_or_nothing() {
    for kibibytes in [16 << 10, 64 << 10, 256 << 10, 4 << 20] {
        let machine = Machine::new();
        gets_what_fits_or_nothing(limited(&machine, &format!("-v {kibibytes}")).start());
    }
}

#[test]
fn limit_on_the_size_of_files_ends_no_program() {
    if cuota_tests::machine::has_real_gpu() {
        // The software GPU's own files are what is in the way there; NVIDIA's driver has none.
        let machine = Machine::new();
        return gets_what_fits_or_nothing(limited(&machine, "-f 0").start());
    }
    // The device's files are there before the limit is.
    let machine = Machine::new();
    let first = machine.native().start_with_context();
    let mut console = limited(&machine, "-f 0").start();
    assert_eq!(console.call("cuInit", &[cuota_tests::console::Arg::Is(0)]).status, 0);
    assert_eq!(console.alloc(MIB).err().map(|status| status == OUT_OF_MEMORY || status == 201), Some(true));
    console.finish();
    first.finish();
}

#[test]
fn stack_of_a_thread_may_be_small() {
    let machine = Machine::new();
    let mut console = limited(&machine, "-s 128").start();
    console.use_primary_context();
    assert!(console.alloc(64 * MIB).is_ok());
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    console.finish();
}
