//! What another user of the container, or a neighbour that shares its `/dev/shm`, has put there. Programs of different users in one
//! container can write each other's books and end each other; they must not lift limits, or write outside of the container's files.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Program, skip};

use crate::{Container, NOT_AS_OTHERS, QUOTA, QUOTA_BYTES, finish_all, others_can_run, start_all};

/// The offset of the first `life` in a tenant's file by which a process sees that it has its place: the golden layout's `books`.
const FIRST_LIFE: u64 = 66_688;

/// Why a test is skipped that needs what others have put there.
const NOT_PLANTED: &str = "nothing can be mounted here, or no program run as another user";

/// Runs a command as this user.
const AS: &str = "as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups \"$@\"; };";

/// A program of this user in a container whose `/dev/shm` is new, after `before`: there `as USER COMMAND` is at hand, `$1` is the library and
/// `$2` the command `cuota`. `None`: [`NOT_PLANTED`].
fn start_beside(container: &Container, user: u32, before: &str) -> Option<Console> {
    program_beside(container, user, before).map(Program::start_with_context)
}

fn program_beside(container: &Container, user: u32, before: &str) -> Option<Program> {
    let mount = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm";
    let own_mounts = ["--mount", "--", "sh", "-c"];
    let tried = Command::new("unshare").args(own_mounts).arg(mount).output();
    if !others_can_run() || !tried.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let program = container.machine.native_of(Path::new("unshare")).with(QUOTA.0, QUOTA.1);
    let mut program = program.with("CUDA_DEVICE_MEMORY_SHARED_CACHE", container.cache());
    let script =
        format!("umask 0; {AS} {mount} && {{ {before}; }} && as {user} env LD_PRELOAD=\"$1\" \"$3\"");
    let command = program.command().args(own_mounts).args([&script, "sh"]);
    command.args([build::libcuota(), build::command(), &build::program("console")]);
    Some(program)
}

/// A policy with half the quota, which a user has made where an operator's would be, as others may read it.
const PLANTED: &str = "as 2000 env CUOTA_DIR=/dev/shm/cuota \"$2\" run --tenant default --memory 1GiB --lib \"$1\" -- true && \
                       chmod 755 /dev/shm/cuota && chmod 1777 /dev/shm/cuota/tenant && chmod 644 /dev/shm/cuota/policy.v1 && \
                       rm -f /dev/shm/cuota/tenant/*";

/// Programs of root's and of a user's, each beside what each of these has put there, see a GPU of the quota's size and have no more.
#[track_caller]
fn quota_holds_beside(plants: [&str; 2]) {
    let cases: Vec<(u32, &str)> = plants.into_iter().flat_map(|plant| [(0, plant), (1000, plant)]).collect();
    let containers: Vec<Container> = cases.iter().map(|_| Container::new()).collect();
    let program =
        |(container, (user, plant)): (&Container, &(u32, &str))| program_beside(container, *user, plant);
    let Some(programs) = containers.iter().zip(&cases).map(program).collect::<Option<Vec<_>>>() else {
        return skip(NOT_PLANTED);
    };
    let mut consoles = start_all(programs);
    for (console, (user, plant)) in consoles.iter_mut().zip(&cases) {
        assert_eq!(console.total(), QUOTA_BYTES, "user {user}: {plant}");
        assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY), "user {user}: {plant}");
    }
    finish_all(consoles);
}

#[test]
fn tenant_that_a_neighbour_assigns_is_not_believed() {
    quota_holds_beside([
        "as 2000 mkdir /dev/shm/cuota && as 2000 sh -c 'printf x >/dev/shm/cuota/assigned'",
        // Root's file, in a folder where another user can put it.
        "mkdir -m 777 /dev/shm/cuota && printf x >/dev/shm/cuota/assigned && chmod 644 /dev/shm/cuota/assigned",
    ]);
}

#[test]
fn policy_of_a_neighbour_lifts_no_limit() {
    // Its owner's own, who makes it read-only for itself, too.
    let own = "as 1000 sh -c 'umask 022; mkdir -m 755 /dev/shm/cuota'; as 1000 cp \"$2\" /dev/null; \
               as 1000 env CUOTA_DIR=/dev/shm/cuota \"$2\" run --lib \"$1\" -- true; \
               as 1000 sh -c 'chmod 755 /dev/shm/cuota; chmod 1777 /dev/shm/cuota/tenant; chmod 444 /dev/shm/cuota/policy.v1'";
    quota_holds_beside([PLANTED, own]);
}

#[test]
fn policy_of_roots_that_a_user_cannot_change_counts_for_that_user() {
    let container = Container::new();
    let by_root = PLANTED.replace("as 2000 ", "");
    let Some(mut console) = start_beside(&container, 1000, &by_root) else {
        return skip(NOT_PLANTED);
    };
    assert_eq!(console.total(), QUOTA_BYTES / 2);
    console.finish();
}

#[test]
fn policy_of_a_neighbour_is_no_way_around_the_directory_that_was_named() {
    let container = Container::new();
    let named = "mkdir -m 755 /dev/shm/named && CUOTA_DIR=/dev/shm/named \"$2\" run --tenant t --memory 2GiB --lib \"$1\" -- true && \
                 chmod 755 /dev/shm/named && chmod 1777 /dev/shm/named/tenant && rm -f /dev/shm/named/tenant/* && \
                 chmod 644 /dev/shm/named/policy.v1";
    let Some(program) = program_beside(
        &container,
        1000,
        &format!("{PLANTED} && {named} && export CUOTA_DIR=/dev/shm/named CUOTA_TENANT=t"),
    ) else {
        return skip(NOT_PLANTED);
    };
    let mut console = program.start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES, "by the named one's policy");
    console.finish();
}

#[test]
fn doctor_calls_the_policy_of_a_neighbour_no_protection() {
    let said = |plant: &str| {
        let script = format!(
            "umask 0; {AS} mount -t tmpfs -o mode=1777 tmpfs /dev/shm && {{ {plant}; }} && as 1000 \"$2\" --dir /dev/shm/cuota doctor --json"
        );
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--", "sh", "-c", &script, "sh"]).args([build::libcuota(), build::command()]);
        String::from_utf8(shell.output().expect("util-linux").stdout).expect("it prints text")
    };
    let report = said(PLANTED);
    if !others_can_run() || !report.contains("cuota.doctor") {
        return skip(NOT_PLANTED);
    }
    assert!(report.contains("CUOTA_DIR leads around the policy"), "{report}");
    let by_root = said(&PLANTED.replace("as 2000 ", ""));
    assert!(by_root.contains("cuota.doctor") && !by_root.contains("CUOTA_DIR leads around"), "{by_root}");
}

#[test]
fn root_sets_no_quota_in_a_default_directory_that_a_user_has_made() {
    let mount = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm";
    for plant in [
        "as 2000 mkdir -m 755 /dev/shm/cuota",
        "mkdir /dev/shm/real && as 2000 ln -s /dev/shm/real /dev/shm/cuota",
    ] {
        let script = format!(
            "{AS} {mount} || exit 77; {plant}; \"$2\" run --tenant t --memory 1GiB --lib \"$1\" -- true; echo $?; find -L /dev/shm -mindepth 2"
        );
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--", "sh", "-c", &script, "sh"]).args([build::libcuota(), build::command()]);
        let done = shell.env_remove("CUOTA_DIR").output().expect("util-linux");
        if !others_can_run() || done.status.code() == Some(77) {
            return skip(NOT_PLANTED);
        }
        let (said, complaint) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(complaint.contains("are set by its owner, user 2000"), "{plant}: {complaint}");
        assert_ne!(said.trim(), "0", "{plant}");
        assert_eq!(said.lines().count(), 1, "it made nothing there: {said}");
    }
}

/// Who joins again goes by the path of the books once more.
#[test]
fn link_in_the_place_of_the_books_lets_nobody_write_elsewhere() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA]);
    let _ = console.alloc(64 * MIB).expect("it fits");
    let place = container.places()[0].clone();
    let elsewhere = tempfile::tempdir().expect("the system has a folder for temporary files");
    // As another user may who made the folder first. The program then finds that it has lost its place.
    fs::rename(place.join("tenant"), place.join("old")).expect("the folder is ours");
    symlink(elsewhere.path(), place.join("tenant")).expect("the folder is ours");
    let books = fs::OpenOptions::new().write(true).open(place.join("old/default.v1")).expect("it is there");
    books.write_all_at(&[0; 8], FIRST_LIFE).expect("it is ours");
    drop(books);
    for _ in 0..3 {
        let _ = console.alloc(2 * MIB);
    }
    let made: Vec<_> = fs::read_dir(elsewhere.path()).expect("it is there").collect();
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(console.alloc(2 * MIB), Err(OUT_OF_MEMORY), "without books nothing is granted");
    console.finish();
}

#[test]
fn books_of_one_user_are_not_renamed_or_removed_by_another() {
    if !others_can_run() {
        return skip(NOT_AS_OTHERS);
    }
    let container = Container::new();
    container.start(&[QUOTA]).finish();
    let place = container.places()[0].display().to_string();
    for attempt in ["mv tenant old", "rm -f tenant/default.v1", "mv tenant/default.v1.live tenant/x"] {
        let script = format!("{AS} cd {place} && as 1000 {attempt}");
        let done = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
        assert!(!done.status.success(), "{attempt}");
    }
    assert!(container.places()[0].join("tenant/default.v1.live").exists());
}

#[test]
fn limit_that_one_program_cannot_read_grants_nothing_to_it_alone() {
    let container = Container::new();
    let mut first = container.start(&[("CUDA_DEVICE_SM_LIMIT", "50")]);
    let all = first.total();
    let mut bad = container.program(&[("CUDA_DEVICE_MEMORY_LIMIT", "lots")]).start();
    let _ = bad.call("cuInit", &[Is(0)]).ok();
    assert_eq!(bad.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
    assert_eq!((first.total(), container.monitor().look().limit[0]), (all, 0));
    let mut later = container.start(&[QUOTA]);
    assert_eq!(later.total(), QUOTA_BYTES);
    [first, bad, later].into_iter().for_each(Console::finish);
}
