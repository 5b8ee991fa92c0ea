//! However a program finds the driver's allocation, and whoever stands between, it stops at the quota.

use std::path::{Path, PathBuf};

use cuota_tests::build;
use cuota_tests::guest::{Guest, Said};

/// 1 GiB less the 500 MiB that a context takes on the software GPU, in pieces of 32 MiB; then CUDA_ERROR_OUT_OF_MEMORY.
const GRANTED: &str = "granted 512 MiB, then status 2";

fn other(name: &str) -> PathBuf {
    build::library(&format!("{name}.c"), &format!("lib{name}.so"), &[])
}

fn with_the_driver() -> [String; 2] {
    [format!("-L{}", build::software_gpu().display()), "-lcuda".to_owned()]
}

/// Runs the guest under 1 GiB, with `preload` in this order.
fn run(how: &str, preload: &[&Path], last: Option<&Path>) -> Said {
    let [folder, name] = with_the_driver();
    let program = build::compile("quota.c", "quota", &["-DLINKED".as_ref(), folder.as_ref(), name.as_ref()]);
    let home = tempfile::tempdir().expect("the system has a folder for temporary files");
    Guest::tenant(home.path(), "1GiB", preload, &program).argument(how).arguments(last).run()
}

/// It must be granted what fits, and then be refused.
#[track_caller]
fn stops_at_the_quota(how: &str, preload: &[&Path], last: Option<&Path>) {
    let said = run(how, preload, last);
    assert_eq!(said.stdout.lines().last(), Some(GRANTED), "{how}: {said:?}");
    assert_eq!((said.stderr.as_str(), said.status.code()), ("", Some(0)), "{how}");
}

#[test]
fn every_way_to_the_allocation_stops_at_the_quota() {
    for how in ["linked", "dlsym", "default", "next", "next twice", "proc", "proc old", "proc of proc"] {
        stops_at_the_quota(how, &[build::libcuota()], None);
    }
    for how in ["dlsym of libc", "namespace"] {
        stops_at_the_quota(how, &[build::libcuota()], None);
    }
}

#[test]
fn plugin_that_is_opened_with_deepbind_stops_at_the_quota() {
    let [folder, name] = with_the_driver();
    let plugin = build::library("plugin_alloc.c", "plugin_alloc.so", &[folder.as_ref(), name.as_ref()]);
    stops_at_the_quota("plugin", &[build::libcuota()], Some(&plugin));
}

#[test]
fn other_interposers_on_either_side_do_not_move_the_quota() {
    for name in ["other_alloc", "other_dlsym", "other_iterate"] {
        let other = other(name);
        for how in ["linked", "dlsym", "next", "next twice", "proc"] {
            stops_at_the_quota(how, &[&other, build::libcuota()], None);
            stops_at_the_quota(how, &[build::libcuota(), &other], None);
        }
    }
}

#[test]
fn without_the_library_the_same_program_takes_more() {
    let said = run("dlsym", &[], None);
    assert_eq!(said.stdout, "granted 8192 MiB, then status 0\n", "{said:?}");
}
