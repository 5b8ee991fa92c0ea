//! Containers as HAMi's plugin sets them up, with our library under its name: mounts and variables, and nothing of `cuota inject`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{GIB, MIB};

use crate::RUNTIMES;
use crate::runtime::{Container, Runtime};
use crate::site::Site;

/// The container's folder on the node: the plugin makes it for everybody.
fn folder(site: &Site, name: &str) -> PathBuf {
    let folder = site.path(name);
    fs::create_dir(&folder).expect("the folder is ours");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    folder
}

/// A container with a quota of 2 GiB.
fn container(site: &Site, runtime: Runtime, folder: PathBuf) -> Container<'_> {
    let list = site.path("list");
    fs::write(&list, "/hook/vgpu/libvgpu.so\n").expect("the folder is ours");
    Container::plain(site, runtime)
        .with_volume(folder, "/hook/vgpu", true)
        .with_volume(site.library(), "/hook/vgpu/libvgpu.so", false)
        .with_volume(list, "/etc/ld.so.preload", false)
        .with_variable("CUDA_DEVICE_MEMORY_LIMIT_0", "2048m")
        .with_variable("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/hook/vgpu/5f0c6ab4.cache")
}

/// What the node finds in the container's folder: Volcano's monitor, and HAMi's up to 2.9.0, take none with more than two names.
fn names_in(folder: &PathBuf) -> Vec<String> {
    let names = fs::read_dir(folder).expect("it is there");
    let mut names: Vec<String> =
        names.map(|name| name.expect("it is there").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn container_of_hamis_keeps_its_limit_without_its_environment_and_two_names_in_its_folder() {
    // The software GPU is found by these.
    const SIM: &str = "LD_LIBRARY_PATH=/sim CUOTA_SIM_DIR=/gpu";
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        for (number, (uid, script)) in [
            (0, "exec /guest/console".to_owned()),
            (0, format!("exec env -i {SIM} /guest/console")),
            (1000, format!("exec env -i {SIM} /guest/console")),
            (0, format!("exec su - user -c 'exec env {SIM} /guest/console'")),
        ]
        .into_iter()
        .enumerate()
        {
            let folder = folder(&site, &format!("vgpu-{number}"));
            let container = container(&site, runtime, folder.clone());
            let mut console = container.start(uid, &["bash", "-c", &script]);
            console.use_primary_context();
            assert_eq!(console.total(), 2 * GIB, "user {uid}: {script} ({runtime:?})");
            assert!(console.alloc(2 * GIB).is_err() && console.alloc(GIB).is_ok(), "user {uid}: {script}");
            assert_eq!(names_in(&folder), ["5f0c6ab4.cache", "libvgpu.so"], "user {uid}: {script}");
            // A context of 500 MiB and 1 GiB. The node finds the books, which lie in the container's own memory.
            let file = folder.join("5f0c6ab4.cache").display().to_string();
            let listed = site.cuota_ok(&["--dir", &file, "ps"]);
            assert!(listed.contains("2 GiB") && listed.contains("1.4 GiB"), "{listed}");
            console.finish();
        }
    }
}

/// Processes of one container, started with its environment and without, in turn.
#[test]
fn processes_of_a_container_of_hamis_share_one_quota() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let container = container(&site, runtime, folder(&site, "vgpu"));
        let script = "exec env -i LD_LIBRARY_PATH=/sim CUOTA_SIM_DIR=/gpu /guest/console";
        let mut first = container.start(0, &["bash", "-c", script]);
        first.use_primary_context();
        let _ = first.alloc(GIB).expect("it fits");
        let mut second = container.console_inside();
        second.use_primary_context();
        assert_eq!(second.total(), 2 * GIB);
        assert!(second.alloc(GIB).is_err() && second.alloc(16 * MIB).is_ok());
        second.finish();
        first.finish();
    }
}

/// As in a pod, and with the file in the default place, as KAI has it: the same path in both.
#[test]
fn containers_of_a_pod_with_one_memory_and_one_path_have_a_quota_each() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let memory = folder(&site, "shm");
        let list = site.path("list");
        fs::write(&list, "/kai/libvgpu.so\n").expect("the folder is ours");
        let container = || {
            Container::plain(&site, runtime)
                .with_volume(memory.clone(), "/dev/shm", true)
                .with_volume(site.library(), "/kai/libvgpu.so", false)
                .with_volume(list.clone(), "/etc/ld.so.preload", false)
                .with_variable("CUDA_DEVICE_MEMORY_LIMIT", "2g")
        };
        let containers = [container(), container()];
        let mut consoles = containers.each_ref().map(|container| {
            let mut console = container.start(0, &["/guest/console"]);
            console.use_primary_context();
            console
        });
        for console in &mut consoles {
            assert_eq!(console.total(), 2 * GIB);
            assert!(console.alloc(GIB).is_ok() && console.alloc(GIB).is_err(), "{runtime:?}");
        }
        // In the pod's memory they would stay when a container is started again, each time others.
        let left = names_in(&memory);
        assert!(!left.iter().any(|name| name.starts_with(".cuota-hami-")), "{left:?}");
        // And one that comes later has its own container's.
        let mut later = containers[0].console_inside();
        later.use_primary_context();
        assert!(later.alloc(64 * MIB).is_err() && later.alloc(16 * MIB).is_ok());
        later.finish();
        consoles.into_iter().for_each(Console::finish);
    }
}

/// The library makes the container's file when it is loaded; where the variable says so, and so not for a program that has more rights
/// than who has set the variable.
#[test]
fn setuid_program_makes_no_file_where_its_caller_says() {
    if !Runtime::Runc.is_there() {
        return;
    }
    let site = Site::new();
    let container = container(&site, Runtime::Runc, folder(&site, "vgpu"));
    // Root may write there, and the caller may not.
    let script = "rm -f /hook/vgpu/*.cache; export CUDA_DEVICE_MEMORY_SHARED_CACHE=/etc/x.cache; \
                  su -c true user </dev/null >/dev/null 2>&1; test -u \"$(command -v su)\" && ls /etc; id -u";
    let said = container.shell(1000, script);
    assert!(said.contains("passwd") && said.ends_with("1000\n"), "su is not what it was: {said}");
    assert!(!said.contains("x.cache"), "{said}");
}

/// A setuid program, where the library has not HAMi's name and so looks for no file: it must not have books of its own, which were a
/// second quota.
#[test]
fn setuid_program_has_the_quota_of_its_container_and_no_other() {
    if !Runtime::Runc.is_there() {
        return;
    }
    let site = Site::new();
    let list = site.path("list");
    fs::write(&list, "/cuota/libcuota.so\n").expect("the folder is ours");
    // The loader takes no LD_LIBRARY_PATH of such a program.
    let start = |folder: PathBuf, first: &str| {
        let container = Container::plain(&site, Runtime::Runc)
            .with_volume(folder, "/hook/vgpu", true)
            .with_volume(site.library(), "/cuota/libcuota.so", false)
            .with_volume(list.clone(), "/etc/ld.so.preload", false)
            .with_variable("CUDA_DEVICE_MEMORY_LIMIT_0", "2048m")
            .with_variable("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/hook/vgpu/5f0c6ab4.cache");
        let script = format!(
            "echo /sim >/etc/ld.so.conf && /usr/sbin/ldconfig && cp /guest/console /tmp/setuid && chmod 4755 /tmp/setuid && {first} \
             exec su user -c /tmp/setuid"
        );
        let console = container.start(0, &["bash", "-c", &script]);
        (container, console)
    };
    // Where there is no file yet it makes none.
    let none = folder(&site, "vgpu-0");
    let (_container, mut early) = start(none.clone(), "");
    let _ = early.call("cuInit", &[Is(0)]).ok();
    assert_eq!(early.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY);
    assert_eq!(names_in(&none), Vec::<String>::new());
    early.finish();
    let there = folder(&site, "vgpu-1");
    let (_container, mut later) = start(
        there,
        "printf 'call cuInit 0x0\\ncall cuDevicePrimaryCtxRetain z:8 0x0\\n' | /guest/console >/dev/null &&",
    );
    later.use_primary_context();
    assert_eq!(later.total(), 2 * GIB);
    assert!(later.alloc(2 * GIB).is_err() && later.alloc(GIB).is_ok());
    later.finish();
}

/// The folder that the variable names is not mounted: the file is the one that nobody named, and is there for who has no environment.
#[test]
fn program_without_environment_is_held_also_where_the_folder_of_the_file_is_missing() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let list = site.path("list");
        fs::write(&list, "/kai/libvgpu.so\n").expect("the folder is ours");
        let container = Container::plain(&site, runtime)
            .with_volume(site.library(), "/kai/libvgpu.so", false)
            .with_volume(list, "/etc/ld.so.preload", false)
            .with_variable("CUDA_DEVICE_MEMORY_LIMIT", "2g")
            .with_variable("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/no/such/folder/x.cache");
        let script = "exec env -i LD_LIBRARY_PATH=/sim CUOTA_SIM_DIR=/gpu /guest/console";
        let mut console = container.start(0, &["bash", "-c", script]);
        console.use_primary_context();
        assert_eq!(console.total(), 2 * GIB, "{runtime:?}");
        assert!(console.alloc(2 * GIB).is_err() && console.alloc(GIB).is_ok(), "{runtime:?}");
        console.finish();
    }
}
