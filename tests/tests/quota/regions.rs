//! Where there should be a policy and it cannot be used, nothing is granted, and nothing else happens.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program, skip};

use crate::QUOTA_BYTES;

/// Why a test is skipped that needs the default directory not to be there.
const DEFAULT_DIRECTORY: &str =
    "this machine has the default directory, and a test may not mount another /dev/shm";

/// A user that is not root.
const NOBODY: u32 = 1_000;

/// The program is granted nothing, whichever way it asks, and ends well with nothing said.
#[track_caller]
fn is_granted_nothing(program: Program) {
    let mut console = program.start();
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    for _ in 0..3 {
        assert_eq!(console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
        assert_eq!(console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).status, OUT_OF_MEMORY);
        assert_eq!(console.alloc(MIB), Err(OUT_OF_MEMORY));
        assert_eq!(console.alloc_async(MIB), Err(OUT_OF_MEMORY));
        assert_eq!(console.create(2 * MIB), Err(OUT_OF_MEMORY));
    }
    assert_eq!(console.nvml_own(), 0);
    console.finish();
}

/// A machine with a policy that grants the tenant `t` a quota.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.set_quota("t", QUOTA_BYTES);
    machine
}

fn as_tenant(machine: &Machine) -> Program {
    machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t")
}

fn change_byte(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the file is ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the file is longer");
    file.write_all_at(&[byte[0] ^ 0x55], offset).expect("the file is ours");
}

/// Runs the program as a user that is not root. `false`, and the test is skipped: that cannot be done here.
fn as_nobody(program: &mut Program) -> bool {
    let needed = [build::program("console"), build::libcuota().to_owned()];
    let mut can_read = Command::new("sh");
    can_read.args(["-c", "test -x \"$0\" && test -r \"$1\""]).args(needed).uid(NOBODY).gid(NOBODY);
    let can = can_read.status().is_ok_and(|status| status.success());
    if can {
        program.command().uid(NOBODY).gid(NOBODY);
    } else {
        skip("a program cannot be run as another user here");
    }
    can
}

#[test]
fn good_policy_grants() {
    let machine = machine();
    let folder = machine.region().join("tenant");
    fs::create_dir(folder).expect("the folder is ours");
    let mut console = as_tenant(&machine).start_with_context();
    assert!(console.alloc(64 * MIB).is_ok());
    assert_eq!(console.memory().1, QUOTA_BYTES);
    console.finish();
}

#[test]
fn named_tenant_without_a_policy_is_granted_nothing() {
    let machine = Machine::new();
    is_granted_nothing(as_tenant(&machine));
    is_granted_nothing(machine.preloaded().with("CUOTA_DIR", "/no/such/directory").with("CUOTA_TENANT", "t"));
    is_granted_nothing(machine.preloaded().with("CUOTA_DIR", machine.region()));
    let long = format!("/{}", "d/".repeat(600));
    is_granted_nothing(machine.preloaded().with("CUOTA_DIR", long).with("CUOTA_TENANT", "t"));
    match machine.preloaded().with("CUOTA_TENANT", "t").without_default_directory() {
        Some(program) => is_granted_nothing(program),
        None => skip(DEFAULT_DIRECTORY),
    }
}

#[test]
fn policy_that_is_truncated_of_another_version_or_no_policy_grants_nothing() {
    let whole = fs::metadata(machine().policy()).expect("it was made").len();
    for bytes in [0, 1, 63, 64, 4096, whole - 1] {
        let machine = machine();
        let file = fs::OpenOptions::new().write(true).open(machine.policy()).expect("the file is ours");
        file.set_len(bytes).expect("the file is ours");
        is_granted_nothing(as_tenant(&machine));
    }
    // The magic, the version, the header's length, the layout's hash, the file's length.
    for offset in [0, 8, 12, 16, 28] {
        let machine = machine();
        change_byte(&machine.policy(), offset);
        is_granted_nothing(as_tenant(&machine));
    }
    let machine = machine();
    fs::remove_file(machine.policy()).expect("the file is ours");
    fs::create_dir(machine.policy()).expect("the folder is ours");
    is_granted_nothing(as_tenant(&machine));
}

#[test]
fn tenant_file_that_is_damaged_grants_nothing() {
    let made = || {
        let machine = machine();
        fs::create_dir(machine.region().join("tenant")).expect("the folder is ours");
        let mut console = as_tenant(&machine).start_with_context();
        assert!(console.alloc(MIB).is_ok());
        console.finish();
        let file = machine.region().join("tenant/t.v1");
        (machine, file)
    };
    for bytes in [0, 64, 4096] {
        let (machine, file) = made();
        fs::OpenOptions::new().write(true).open(file).expect("ours").set_len(bytes).expect("ours");
        is_granted_nothing(as_tenant(&machine));
    }
    for offset in [0, 8, 16] {
        let (machine, file) = made();
        change_byte(&file, offset);
        is_granted_nothing(as_tenant(&machine));
    }
}

#[test]
fn policy_that_cannot_be_read_grants_nothing_until_it_can() {
    let machine = machine();
    let folder = machine.region().join("tenant");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    fs::set_permissions(machine.policy(), fs::Permissions::from_mode(0o000)).expect("the file is ours");
    let mut program = as_tenant(&machine);
    if as_nobody(&mut program) {
        is_granted_nothing(program);
        fs::set_permissions(machine.policy(), fs::Permissions::from_mode(0o444)).expect("the file is ours");
        let mut program = as_tenant(&machine);
        let _ = as_nobody(&mut program);
        let mut console = program.start_with_context();
        assert!(console.alloc(MIB).is_ok());
        console.finish();
    }
}

#[test]
fn region_without_a_folder_for_tenants_grants_nothing() {
    is_granted_nothing(as_tenant(&machine()));
}

#[test]
fn tenants_folder_that_cannot_be_written_grants_nothing_until_it_can() {
    let machine = machine();
    let folder = machine.region().join("tenant");
    fs::create_dir(&folder).expect("the folder is ours");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("the folder is ours");
    let mut program = as_tenant(&machine);
    if as_nobody(&mut program) {
        is_granted_nothing(program);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
        let mut program = as_tenant(&machine);
        let _ = as_nobody(&mut program);
        let mut console = program.start_with_context();
        assert!(console.alloc(MIB).is_ok());
        console.finish();
    }
}

/// A file system of so many bytes, mounted while it lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, bytes: u64) -> Option<Self> {
        let options = format!("size={bytes}");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        output.is_ok_and(|output| output.status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn full_directory_grants_nothing_and_crashes_nothing() {
    let machine = machine();
    let folder = machine.region().join("tenant");
    fs::create_dir(&folder).expect("the folder is ours");
    for bytes in [4 << 10, 16 << 10, 256 << 10] {
        let Some(_disk) = SmallDisk::mount(&folder, bytes) else {
            return skip("no small file system can be mounted here");
        };
        is_granted_nothing(as_tenant(&machine));
    }
}

#[test]
fn process_that_nobody_named_a_tenant_where_there_is_no_policy_is_left_alone() {
    let machine = Machine::new();
    let Some(program) = machine.preloaded().without_default_directory() else {
        return skip(DEFAULT_DIRECTORY);
    };
    let (mut native, mut console) = (machine.native().start_with_context(), program.start_with_context());
    assert_eq!(console.memory(), native.memory());
    assert_eq!((console.total(), console.nvml_memory()), (native.total(), native.nvml_memory()));
    let piece = console.alloc(QUOTA_BYTES).expect("the device has room");
    assert_eq!(console.memory(), native.memory());
    assert_eq!(console.free(piece), 0);
    assert!(console.alloc_async(64 * MIB).is_ok());
    assert!(console.create(64 * MIB).is_ok());
    let shm = format!("/proc/{}/root{}", console.pid(), cuota_region::DEFAULT_DIR);
    assert!(!Path::new(&shm).exists(), "nothing was made");
    console.finish();
    native.finish();
}
