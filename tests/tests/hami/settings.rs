//! What is found beside the limits: files that cannot be used, our own policy, and what must not be a way out.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cuota_region::event::{Event, Problem};
use cuota_region::hami::variables;
use cuota_region::name::TenantName;
use cuota_region::path::Directory;
use cuota_region::tenant::Tenant;
use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, Program, skip};

use crate::{
    Container, FITS_ALONE, FITS_BESIDE_TWO, NOT_AS_OTHERS, QUOTA, QUOTA_BYTES, finish_all, for_all,
    others_can_run, places_of, start_all, tenant_in,
};

/// What the container's events say of variables, by name.
fn complaints(container: &Container) -> Vec<(&'static str, Problem)> {
    complaints_of(&container.tenant())
}

fn complaints_of(tenant: &Tenant) -> Vec<(&'static str, Problem)> {
    let complaint = |event| match event {
        Event::Setting { variable, problem, .. } => {
            Some((variables::name(variable as usize).expect("it has a name"), problem))
        }
        _ => None,
    };
    tenant.events().entries().filter_map(|entry| complaint(entry.event)).collect()
}

#[test]
fn control_is_not_disabled_from_within() {
    let values = ["true", "1", "yes"];
    let containers = values.map(|_| Container::new());
    let program =
        |(container, value): (&Container, _)| container.program(&[QUOTA, ("CUDA_DISABLE_CONTROL", value)]);
    let mut consoles = start_all(containers.iter().zip(values).map(program));
    for ((console, container), value) in consoles.iter_mut().zip(&containers).zip(values) {
        assert_eq!(console.total(), QUOTA_BYTES, "{value}");
        assert_eq!(complaints(container), [("CUDA_DISABLE_CONTROL", Problem::NotSupported)], "{value}");
    }
    finish_all(consoles);
}

#[test]
fn more_memory_than_the_device_has_is_not_promised_and_an_event_says_so() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA, ("CUDA_OVERSUBSCRIBE", "true")]);
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    assert_eq!(complaints(&container), [("CUDA_OVERSUBSCRIBE", Problem::NotSupported)]);
    console.finish();
}

#[test]
fn what_fcsp_asks_for_and_is_not_done_is_named() {
    let container = Container::new();
    let asked = [
        ("BUD_MEMORY_LIMIT", "2G"),
        ("BUD_MEMORY_LIMIT_MODE", "soft"),
        ("BUD_ISOLATION_MODE", "balanced"),
        ("BUD_TENANT_FLOOR_PCT", "20"),
        ("BUD_BURST_MAX_PCT", "40"),
    ];
    let mut console = container.start(&asked);
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    let mut named: Vec<_> = complaints(&container).into_iter().map(|(name, _)| name).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        ["BUD_BURST_MAX_PCT", "BUD_ISOLATION_MODE", "BUD_MEMORY_LIMIT_MODE", "BUD_TENANT_FLOOR_PCT"]
    );
    console.finish();
}

#[test]
fn our_own_policy_goes_before_the_variables() {
    let container = Container::new();
    let machine = &container.machine;
    let program = machine.tenant("t", Some("1GiB"));
    let mut console = container.program_of(program, &[QUOTA]).start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES / 2);
    assert!(!container.cache().exists());
    assert!(machine.books("t").booked > 0);
    console.finish();
    let overruled = ["CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_MEMORY_SHARED_CACHE"];
    assert_eq!(complaints_of(&tenant(machine, "t")), overruled.map(|name| (name, Problem::Overruled)));
    // Nor is it a way out of a policy of ours.
    let program = machine.tenant("u", Some("1GiB")).with("CUDA_DISABLE_CONTROL", "true");
    let mut console = program.start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES / 2);
    assert_eq!(complaints_of(&tenant(machine, "u")), [("CUDA_DISABLE_CONTROL", Problem::Overruled)]);
    console.finish();
}

/// The file of a tenant of a policy of ours.
fn tenant(machine: &Machine, name: &str) -> Tenant {
    let directory = Directory::at(machine.region().as_os_str().as_bytes()).expect("a short path");
    let name = TenantName::parse(name.as_bytes()).expect("a tenant's name");
    Tenant::open(&directory.tenant(&name).expect("a short path")).expect("the tenant has a file")
}

/// What a program sees in a container whose `/dev/shm` holds a policy with half the quota. `None`: such a container cannot be made here.
fn size_beside_a_policy_in_the_default_place(after: &str) -> Option<u64> {
    let script = format!(
        "mount -t tmpfs tmpfs /dev/shm && \"$1\" --dir /dev/shm/cuota run --tenant default --memory 1GiB --lib \"$2\" -- true \
         {after} && LD_PRELOAD=\"$2\" exec \"$3\""
    );
    let own_mounts = ["--mount", "--", "sh", "-c"];
    let tried = Command::new("unshare").args(own_mounts).arg("mount -t tmpfs tmpfs /dev/shm").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let container = Container::new();
    let program = container.machine.native_of(Path::new("unshare")).with(QUOTA.0, QUOTA.1);
    let mut program = program.with("CUDA_DEVICE_MEMORY_SHARED_CACHE", container.cache());
    let command = program.command().args(own_mounts).args([&script, "sh"]);
    command.args([build::command(), build::libcuota(), &build::program("console")]);
    let mut console = program.start_with_context();
    let total = console.total();
    console.finish();
    Some(total)
}

#[test]
fn policy_in_the_default_place_goes_before_the_variables_only_if_the_program_cannot_change_it() {
    let read_only = "&& mount --bind /dev/shm/cuota/policy.v1 /dev/shm/cuota/policy.v1 \
                     && mount -o remount,bind,ro /dev/shm/cuota/policy.v1";
    let Some(total) = size_beside_a_policy_in_the_default_place("") else {
        return skip("nothing can be mounted here");
    };
    assert_eq!(total, QUOTA_BYTES, "it can change the policy");
    assert_eq!(size_beside_a_policy_in_the_default_place(read_only), Some(QUOTA_BYTES / 2));
}

#[test]
fn file_of_another_version_stays_as_it_is_and_the_variables_count() {
    let container = Container::new();
    container.start(&[QUOTA]).finish();
    container.monitor().set_minor_version(9);
    let before = fs::read(container.cache()).expect("it is there");
    let mut console = container.start(&[("CUDA_DEVICE_MEMORY_LIMIT_0", "1024m")]);
    assert_eq!(console.total(), QUOTA_BYTES / 2);
    assert_eq!(console.alloc(QUOTA_BYTES / 2), Err(OUT_OF_MEMORY));
    let _ = console.alloc(64 * MIB).expect("it fits");
    let bad = Event::Setting { variable: 4, problem: Problem::BadFile, error: 1 << 16 | 9 };
    assert_eq!(container.complaints(), [bad]);
    console.finish();
    assert_eq!(fs::read(container.cache()).expect("it is there"), before);
}

#[test]
fn file_that_is_none_does_not_lift_the_limit() {
    let containers = [&b"x"[..], &[7; 2_008_953], &[]].map(|content| {
        let container = Container::new();
        fs::write(container.cache(), content).expect("the folder is ours");
        container
    });
    let mut consoles = start_all(containers.iter().map(|container| container.program(&[QUOTA])));
    let totals: Vec<u64> = consoles.iter_mut().map(Console::total).collect();
    assert_eq!(totals, [QUOTA_BYTES; 3]);
    finish_all(consoles);
}

#[test]
fn file_with_holes_on_a_full_disk_ends_no_program_and_the_variables_count() {
    let container = Container::new();
    let (folder, file) = (container.folder.path().display(), container.cache().display().to_string());
    // As HAMi-core leaves it, but for the magic number: all holes.
    let full = format!(
        "mount -t tmpfs -o size=1m tmpfs {folder} && truncate -s 2008952 {file} && \
         {{ cat /dev/zero >{folder}/rest 2>&- || true; }}"
    );
    let Some(mut console) = start_after(&container, &full) else {
        return skip("nothing can be mounted here");
    };
    assert_eq!(console.total(), QUOTA_BYTES);
    assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    let _ = console.alloc(64 * MIB).expect("it fits");
    let seen = format!("/proc/{}/root{file}", console.pid());
    let place = &places_of(Path::new(&seen))[0];
    let tenant = tenant_in(place);
    let first = tenant.events().entries().next().map(|entry| entry.event);
    assert_eq!(first, Some(Event::Setting { variable: 4, problem: Problem::BadFile, error: 28 }));
    console.finish();
    let _ = fs::remove_dir_all(place);
}

#[test]
fn limits_hold_where_the_folder_of_the_file_is_missing() {
    let file = Path::new("/tmp/cudevshr.cache");
    if file.exists() {
        return skip("this machine has a container's file in the default place");
    }
    let container = Container::new();
    let program =
        container.program(&[QUOTA]).with("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/no/such/folder/x.cache");
    let mut console = program.start_with_context();
    let total = console.total();
    console.finish();
    // Whatever it was: the place is everybody's.
    places_of(file).iter().for_each(|place| drop(fs::remove_dir_all(place)));
    let _ = fs::remove_file(file);
    assert_eq!(total, QUOTA_BYTES);
}

#[test]
fn books_that_cannot_be_used_are_no_way_to_others() {
    let container = Container::new();
    container.start(&[QUOTA]).finish();
    // Another user of the container, or a sibling that shares its memory.
    let live = container.places()[0].join("tenant/default.v1.live");
    fs::remove_file(&live).expect("it was made");
    std::os::unix::fs::symlink("/dev/null", &live).expect("the folder is everybody's");
    let mut console = container.program(&[QUOTA]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    assert_eq!(console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
    assert!(container.places()[1..].iter().all(|place| !place.exists()));
    console.finish();
}

#[test]
fn books_that_one_user_has_closed_are_no_way_to_others_for_the_next() {
    if !others_can_run() {
        return skip(NOT_AS_OTHERS);
    }
    let container = Container::new();
    program_of_user(&container, 1001).start_with_context().finish();
    let books = container.places()[0].join("tenant/default.v1");
    fs::set_permissions(&books, fs::Permissions::from_mode(0o600)).expect("it was made");
    let mut console = program_of_user(&container, 1000).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    assert_eq!(console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
    assert!(container.places()[1..].iter().all(|place| !place.exists()));
    console.finish();
}

/// A program of the container as this user. Only for root.
fn program_of_user(container: &Container, user: u32) -> Program {
    let program = container.machine.native_of(Path::new("/bin/sh")).with("LD_PRELOAD", build::libcuota());
    let mut program = container.program_of(program, &[QUOTA]);
    // So that the software GPU's own files are everybody's, too.
    let command = program.command().args(["-c", "umask 0; exec \"$0\""]).arg(build::program("console"));
    command.uid(user).gid(user);
    program
}

#[test]
fn environment_that_is_changed_after_the_start_moves_no_limit() {
    let changes =
        ["setenv CUDA_DEVICE_MEMORY_LIMIT_0 64g", "unsetenv CUDA_DEVICE_MEMORY_LIMIT_0", "clearenv"];
    let containers = changes.map(|_| Container::new());
    let consoles = containers.iter().map(|container| container.program(&[QUOTA]).start());
    for_all(consoles.zip(changes).collect::<Vec<_>>(), |(mut console, change)| {
        assert_eq!(console.ask(change).status, 0);
        console.use_primary_context();
        assert_eq!(console.total(), QUOTA_BYTES, "{change}");
        console.finish();
    });
}

#[test]
fn library_under_hamis_name_does_the_same() {
    let container = Container::new();
    let library = container.folder.path().join("libvgpu.so");
    fs::copy(build::libcuota(), &library).expect("the folder is ours");
    let program = container.machine.native().with("LD_PRELOAD", &library);
    let mut console = container.program_of(program, &[QUOTA]).start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES);
    let _ = console.alloc(64 * MIB).expect("it fits");
    console.finish();
    // The library's mount leaves its name on the node. Volcano's monitor, and HAMi's up to 2.9.0, take no folder with more than two
    // names; later ones none in which more than two are the library's or end in `.cache`.
    let names = names_in(&container);
    assert_eq!(names.len(), 2, "{names:?}");
    let counted = names.iter().filter(|name| name.contains("libvgpu.so") || name.ends_with(".cache"));
    assert_eq!(counted.count(), 2, "{names:?}");
    // Both take the first that has this in its name.
    let file = names.iter().find(|name| name.contains(".cache")).expect("it is there");
    assert_eq!(container.cache().file_name(), Some(OsStr::new(file)));
}

/// What lies in the folder that the monitor looks into.
fn names_in(container: &Container) -> Vec<String> {
    let names = container.folder.path().read_dir().expect("it is there");
    names.map(|name| name.expect("it is there").file_name().into_string().expect("a plain name")).collect()
}

/// A program of the container that sees its `/dev/shm`, after this command, in mounts of its own. `None`: nothing can be mounted here.
pub(crate) fn start_after(container: &Container, mount: &str) -> Option<Console> {
    let own_mounts = ["--mount", "--", "sh", "-c"];
    let tried = Command::new("unshare").args(own_mounts).arg(mount).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let program = container.machine.native_of(Path::new("unshare")).with(QUOTA.0, QUOTA.1);
    let mut program = program.with("CUDA_DEVICE_MEMORY_SHARED_CACHE", container.cache());
    let script = format!("{mount} && LD_PRELOAD=\"$1\" exec \"$2\"");
    let command = program.command().args(own_mounts).args([&script, "sh"]);
    command.args([build::libcuota(), &build::program("console")]);
    Some(program.start_with_context())
}

#[test]
fn books_lie_in_the_next_best_place_where_there_is_no_memory_for_them_and_an_event_says_so() {
    for (memory, is_disk_writable, place) in [
        ("mount -t tmpfs -o size=1m tmpfs /dev/shm", true, 1),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", true, 1),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", false, 2),
    ] {
        let container = Container::new();
        let on_disk = container.places()[1].display().to_string();
        let disk = format!(" && mkdir -p {on_disk} && mount -t tmpfs -o ro tmpfs {on_disk}");
        let mount = &format!("{memory}{}", if is_disk_writable { "" } else { &disk });
        let Some(mut console) = start_after(&container, mount) else {
            return skip("nothing can be mounted here");
        };
        assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
        let places = container.places().map(|place| place.join("tenant/default.v1").exists());
        assert_eq!(places.iter().position(|is_there| *is_there), Some(place), "{mount}");
        let tenant = container.tenant_at(place);
        let elsewhere = ("CUDA_DEVICE_MEMORY_SHARED_CACHE", Problem::NotInMemory);
        assert_eq!(complaints_of(&tenant), [elsewhere], "{mount}");
        // One that could have its books in memory finds them where they are: they are one quota.
        let _ = console.alloc(FITS_BESIDE_TWO).expect("it fits");
        let mut sibling = container.start(&[QUOTA]);
        assert_eq!(sibling.alloc(FITS_ALONE), Err(OUT_OF_MEMORY), "{mount}");
        sibling.finish();
        console.finish();
    }
}

#[test]
fn containers_of_a_pod_that_share_its_memory_have_a_quota_each() {
    // As in a pod whose containers have their files under the same path, such as the default one.
    let (one, other) = (Container::new(), Container::new());
    let own_path = |container: &Container| {
        format!(
            "mount --bind {} /mnt && export CUDA_DEVICE_MEMORY_SHARED_CACHE=/mnt/5f0c6ab4.cache",
            container.folder.path().display()
        )
    };
    let Some(mut first) = start_after(&one, &own_path(&one)) else {
        return skip("nothing can be mounted here");
    };
    let mut second = start_after(&other, &own_path(&other)).expect("as the first");
    for console in [&mut first, &mut second] {
        let _ = console.alloc(FITS_BESIDE_TWO).expect("it fits");
    }
    for container in [&one, &other] {
        let books = container.books();
        assert_eq!(books.booked - books.overhead, FITS_BESIDE_TWO);
    }
    // The node sees the same folder, at another path, and so does the container's next process.
    let mut third = one.start(&[QUOTA]);
    assert_eq!(third.alloc(FITS_ALONE), Err(OUT_OF_MEMORY));
    [first, second, third].into_iter().for_each(Console::finish);
}

#[test]
fn programs_of_two_users_are_one_tenant() {
    if !others_can_run() {
        return skip(NOT_AS_OTHERS);
    }
    let container = Container::new();
    let start = |user| program_of_user(&container, user).start_with_context();
    let (mut first, mut second) = (start(1000), start(1001));
    let _ = first.alloc(FITS_BESIDE_TWO).expect("it fits");
    assert_eq!(second.total(), QUOTA_BYTES);
    assert_eq!(second.alloc(FITS_ALONE), Err(OUT_OF_MEMORY));
    assert_eq!(container.monitor().look().slots.len(), 2);
    second.finish();
    first.finish();
}
