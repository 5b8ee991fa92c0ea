//! Programs that have lost HAMi's variables, as after `env -i`, `su -` or a login by ssh, in a container that mounts the library under
//! HAMi's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuota_region::event::{Event, Problem};
use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, skip};

use crate::{Container, FITS_ALONE, FITS_BESIDE_TWO, QUOTA, QUOTA_BYTES, places_of};

/// The library as the plugin mounts it: under this name, in the folder that the monitor's file is in.
fn mounted(container: &Container) -> PathBuf {
    let library = container.folder.path().join("libvgpu.so");
    fs::copy(build::libcuota(), &library).expect("the folder is ours");
    library
}

/// A program that has nothing but the library.
#[track_caller]
fn start_without_variables(container: &Container, library: &Path) -> Console {
    let program = container.machine.native().with("LD_PRELOAD", library);
    program.with_empty_default_directory().expect("its own policy can be kept away").start_with_context()
}

/// A program of the container, as its specification says.
fn start_with_variables(container: &Container, library: &Path) -> Console {
    container.program_of(container.machine.native().with("LD_PRELOAD", library), &[QUOTA]).start()
}

/// The books of the container with this file, which a container's end would take along.
struct Places(PathBuf);

impl Drop for Places {
    fn drop(&mut self) {
        for place in places_of(&self.0) {
            let _ = fs::remove_dir_all(place);
        }
    }
}

#[test]
fn program_without_variables_is_held_to_the_file_of_its_container() {
    let container = Container::new();
    let library = mounted(&container);
    let mut first = start_with_variables(&container, &library);
    first.use_primary_context();
    let _ = first.alloc(FITS_BESIDE_TWO).expect("it fits");
    let mut second = start_without_variables(&container, &library);
    assert_eq!(second.total(), QUOTA_BYTES);
    assert_eq!(second.alloc(FITS_ALONE), Err(OUT_OF_MEMORY), "they are one tenant");
    assert_eq!(container.monitor().look().slots.len(), 2);
    [first, second].into_iter().for_each(Console::finish);
}

#[test]
fn program_without_variables_is_held_also_where_none_before_it_has_used_a_gpu() {
    let container = Container::new();
    let library = mounted(&container);
    // Such as the ssh server that the container runs.
    start_with_variables(&container, &library).finish();
    let mut login = start_without_variables(&container, &library);
    assert_eq!(login.total(), QUOTA_BYTES);
    assert_eq!(login.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    let piece = login.alloc(64 * MIB).expect("it fits");
    assert_eq!(container.monitor().look().slots[0].memory[0].data, 64 * MIB);
    assert_eq!(login.free(piece), 0);
    login.finish();
}

#[test]
fn variable_of_ones_own_is_no_way_out_without_the_name_of_the_file() {
    let container = Container::new();
    let library = mounted(&container);
    start_with_variables(&container, &library).finish();
    let program = container.machine.native().with("LD_PRELOAD", &library);
    let program = program.with("CUDA_DEVICE_MEMORY_LIMIT", "64g").with_empty_default_directory();
    let mut console = program.expect("its own policy can be kept away").start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES);
    console.finish();
}

#[test]
fn file_of_a_claim_and_of_volcano_are_found_too() {
    let container = Container::new();
    let library = mounted(&container);
    let claim = container.folder.path().join("claims/0a-1b");
    fs::create_dir_all(&claim).expect("the folder is ours");
    start_with_variables(&container, &library).finish();
    fs::rename(container.cache(), claim.join("5f0c6ab4.cache")).expect("it was made");
    let _books = Places(claim.join("5f0c6ab4.cache"));
    let mut console = start_without_variables(&container, &library);
    assert_eq!(console.total(), QUOTA_BYTES);
    console.finish();
    // Volcano's folder, in mounts of its own.
    let script = "mkdir -p /tmp/vgpu && mount --bind \"$1\" /tmp/vgpu && LD_PRELOAD=\"$2\" exec \"$3\"";
    let own_mounts = ["--mount", "--", "sh", "-c", script, "sh"];
    if !Command::new("unshare").args(["--mount", "--", "true"]).status().is_ok_and(|status| status.success())
    {
        return skip("nothing can be mounted here");
    }
    let elsewhere = tempfile::tempdir().expect("the system has a folder for temporary files");
    let other = elsewhere.path().join("libvgpu.so");
    fs::copy(&library, &other).expect("the folder is ours");
    let mut program = container.machine.native_of(Path::new("unshare"));
    program.command().args(own_mounts).arg(&claim).arg(&other).arg(build::program("console"));
    let mut console = program.start_with_context();
    assert_eq!(console.total(), QUOTA_BYTES);
    console.finish();
    let _ = fs::remove_dir("/tmp/vgpu");
}

/// It was a container of HAMi's, and what its limit was nobody can say.
#[test]
fn program_without_variables_is_granted_nothing_where_its_containers_file_cannot_be_used() {
    type Spoil = fn(&Container);
    let spoils: [(&str, Spoil); 3] = [
        ("short", |container| fs::write(container.cache(), "short").expect("the folder is ours")),
        ("of another version", |container| container.monitor().set_minor_version(3)),
        ("a folder", |container| {
            fs::remove_file(container.cache()).expect("it was made");
            fs::create_dir(container.cache()).expect("the folder is ours");
        }),
    ];
    for (what, spoil) in spoils {
        let container = Container::new();
        let library = mounted(&container);
        start_with_variables(&container, &library).finish();
        spoil(&container);
        let program = container.machine.native().with("LD_PRELOAD", &library);
        let program = program.with_empty_default_directory().expect("its own policy can be kept away");
        let mut login = program.start();
        let _ = login.call("cuInit", &[Is(0)]).ok();
        assert_eq!(login.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status, OUT_OF_MEMORY, "{what}");
        login.finish();
        // With its variables a program has their limit.
        let mut console = start_with_variables(&container, &library);
        console.use_primary_context();
        assert_eq!(console.total(), QUOTA_BYTES, "{what}");
        console.finish();
        let problem = Event::Setting { variable: 4, problem: Problem::BadFile, error: 0 };
        let kind = |event: &Event| std::mem::discriminant(event);
        assert!(container.complaints().iter().all(|event| kind(event) == kind(&problem)), "{what}");
        assert_eq!(container.complaints().len(), 2, "{what}: {:?}", container.complaints());
    }
}

#[test]
fn file_that_somebody_has_put_beside_the_containers_own_and_cannot_be_used_lifts_no_limit() {
    let container = Container::new();
    let library = mounted(&container);
    start_with_variables(&container, &library).finish();
    for number in 0..8 {
        fs::create_dir(container.folder.path().join(format!("{number}.cache"))).expect("the folder is ours");
    }
    let mut login = start_without_variables(&container, &library);
    assert_eq!((login.total(), login.alloc(QUOTA_BYTES)), (QUOTA_BYTES, Err(OUT_OF_MEMORY)));
    login.finish();
}

#[test]
fn library_under_another_name_takes_no_file_that_lies_beside_it() {
    let container = Container::new();
    let library = mounted(&container);
    start_with_variables(&container, &library).finish();
    let own = container.folder.path().join("libcuota.so");
    fs::rename(&library, &own).expect("the folder is ours");
    let mut native = container.machine.native().start_with_context();
    let mut console = start_without_variables(&container, &own);
    assert_eq!(console.total(), native.total());
    [native, console].into_iter().for_each(Console::finish);
}

#[test]
fn file_is_not_made_where_a_policy_of_ours_counts() {
    let container = Container::new();
    let library = mounted(&container);
    let program = container.machine.native().with("LD_PRELOAD", &library).with("CUOTA_TENANT", "t");
    container.program_of(program, &[QUOTA]).start().finish();
    assert!(!container.cache().exists());
}
