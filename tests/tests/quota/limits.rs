//! Programs that are themselves held short by the system: few descriptors, little address space, no files of any size.

use std::fs;
use std::process::Command;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program};

use crate::QUOTA_BYTES;

/// A tenant, for [`limited`].
fn tenant(machine: &Machine) -> Program {
    machine.set_quota("t", QUOTA_BYTES);
    fs::create_dir_all(machine.region().join("tenant")).expect("the folder is ours");
    machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t")
}

/// A console whose shell sets a limit before it becomes the program.
fn limited(mut program: Program, limit: &str) -> Program {
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

/// Uses the GPU, and ends well. Whether it was granted all of its quota at once, which is more than fits beside a context.
///
/// # Errors
/// How it ended before.
fn uses_the_gpu(mut console: Console) -> Result<bool, String> {
    let mut has_all = false;
    let _ = console.try_call("cuInit", &[Is(0)])?;
    let context = console.try_call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)])?;
    if context.status == 0 {
        let _ = console.try_call("cuCtxSetCurrent", &[Is(context.number(0))])?.ok();
        for _ in 0..3 {
            has_all |= console.try_call("cuMemAlloc_v2", &[Out(8), Is(QUOTA_BYTES)])?.status == 0;
        }
        let piece = console.try_call("cuMemAlloc_v2", &[Out(8), Is(64 * MIB)])?;
        if piece.status == 0 {
            let _ = console.try_call("cuMemFree_v2", &[Is(piece.number(0))])?.ok();
        }
    }
    console.finish();
    Ok(has_all)
}

/// A tenant with a limit ends well, and is granted what fits the quota or nothing. One that ends otherwise must end natively in the
/// same way: NVIDIA's driver cannot even be loaded into 64 MiB.
#[track_caller]
fn gets_what_fits_or_nothing(machine: &Machine, limit: &str) {
    match uses_the_gpu(limited(tenant(machine), limit).start()) {
        Ok(has_all) => assert!(!has_all, "{limit}: beyond the quota"),
        Err(end) => {
            let native = uses_the_gpu(limited(machine.native(), limit).start());
            assert_eq!(Err(end), native, "{limit}: as a tenant, and natively");
        }
    }
}

#[test]
fn few_descriptors_grant_what_fits_or_nothing() {
    for descriptors in [6, 8, 12, 16, 32, 50, 64] {
        let machine = Machine::new();
        gets_what_fits_or_nothing(&machine, &format!("-n {descriptors}"));
    }
}

#[test]
fn little_address_space_grants_what_fits_or_nothing() {
    for kibibytes in [16 << 10, 64 << 10, 256 << 10, 4 << 20] {
        let machine = Machine::new();
        gets_what_fits_or_nothing(&machine, &format!("-v {kibibytes}"));
    }
}

#[test]
fn limit_on_the_size_of_files_ends_no_program() {
    if cuota_tests::machine::has_real_gpu() {
        // The software GPU's own files are what is in the way there; NVIDIA's driver has none.
        let machine = Machine::new();
        return gets_what_fits_or_nothing(&machine, "-f 0");
    }
    // The device's files are there before the limit is.
    let machine = Machine::new();
    let first = machine.native().start_with_context();
    let mut console = limited(tenant(&machine), "-f 0").start();
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    assert_eq!(console.alloc(MIB).err().map(|status| status == OUT_OF_MEMORY || status == 201), Some(true));
    console.finish();
    first.finish();
}

#[test]
fn stack_of_a_thread_may_be_small() {
    let machine = Machine::new();
    let mut console = limited(tenant(&machine), "-s 128").start();
    console.use_primary_context();
    assert!(console.alloc(64 * MIB).is_ok());
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    console.finish();
}
