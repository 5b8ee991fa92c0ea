//! Hosts that leave calls half-way, end while they call, or bring their own allocator: as natively, and never stuck.

use std::path::PathBuf;

use cuota_tests::build;
use cuota_tests::guest::{Guest, Said};
use cuota_tests::machine::skip;

/// What `callbacks.cpp` prints in each of its three turns.
const OUT_AND_IN_AGAIN: &str =
    "longjmp: out\npthread_exit: left\ncancel: cancelled\nexception: caught\nthen: 0\n";

fn callbacks(place: &str) -> Option<Guest> {
    if std::process::Command::new("c++").arg("--version").output().is_err() {
        skip("there is no C++ compiler: install g++ or clang, so that `c++` runs");
        return None;
    }
    let program = build::compile("callbacks.cpp", "callbacks", &[]);
    Some(Guest::new(program).argument(place).driver(build::fake_driver()))
}

#[test]
fn program_that_leaves_an_allocation_half_way_goes_on_as_natively() {
    let Some(guest) = callbacks("alloc") else { return };
    guest.must_print(&OUT_AND_IN_AGAIN.repeat(3));
    guest.preload(build::libcuota()).must_print(&OUT_AND_IN_AGAIN.repeat(3));
}

#[test]
fn program_that_leaves_the_making_of_a_context_half_way_goes_on_as_natively() {
    let Some(guest) = callbacks("context") else { return };
    guest.must_print(&OUT_AND_IN_AGAIN.repeat(3));
    guest.preload(build::libcuota()).must_print(&OUT_AND_IN_AGAIN.repeat(3));
}

/// Runs a guest on a software GPU of its own, natively or as a tenant.
fn on_software_gpu(program: PathBuf, preload: &[PathBuf], is_tenant: bool) -> Said {
    let home = tempfile::tempdir().expect("the system has a folder for temporary files");
    if !is_tenant {
        return Guest::new(program)
            .driver(build::software_gpu())
            .variable("CUOTA_SIM_DIR", home.path().join("gpu"))
            .run();
    }
    let preload: Vec<_> = preload.iter().map(PathBuf::as_path).collect();
    Guest::tenant(home.path(), "2GiB", &preload, &program).run()
}

#[test]
fn calls_before_the_start_and_after_the_end_are_as_natively() {
    let mut survives = true;
    for _ in 0..5 {
        let program = build::program("ends");
        let native = on_software_gpu(program.clone(), &[], false);
        let tenant = on_software_gpu(program, &[build::libcuota().to_owned()], true);
        assert_eq!(tenant.stderr, native.stderr);
        // A driver that does not survive its own end is as bad with us as without.
        if native.status.code() == Some(3) {
            assert_eq!((tenant.stdout, tenant.status.code()), (native.stdout, Some(3)));
        } else {
            survives = false;
        }
    }
    if !survives {
        skip("in part: the software GPU ends the program when exit handlers call it");
    }
    // A driver without an end.
    let guest = Guest::new(build::program("ends")).driver(build::fake_driver());
    let (native, managed) = (guest.clone().run(), guest.preload(build::libcuota()).run());
    assert_eq!(native.status.code(), Some(3), "{native:?}");
    assert_eq!(managed, native);
}

/// 2 GiB less the 500 MiB that a context takes on the software GPU, in pieces of 32 MiB.
const GRANTED: &str = "granted 1536 MiB, then status 2";

#[test]
fn program_built_with_address_sanitizer_runs_and_stops_at_the_quota() {
    for (how, flags) in [("static", vec!["-static-libasan"]), ("shared", vec![])] {
        let flags: Vec<&std::ffi::OsStr> =
            ["-fsanitize=address", "-g"].into_iter().chain(flags).map(std::ffi::OsStr::new).collect();
        let probe = std::process::Command::new("sh")
            .args(["-c", "echo 'int main(void){return 0;}' | cc -xc -fsanitize=address -o /dev/null -"])
            .output();
        if !probe.is_ok_and(|output| output.status.success()) {
            return skip("the C compiler has no AddressSanitizer");
        }
        let program = build::compile("quota.c", "quota", &flags);
        let home = tempfile::tempdir().expect("the system has a folder for temporary files");
        // The shared runtime wants to be first in the list of libraries, and says so, unless it is told not to.
        let guest = Guest::tenant(home.path(), "2GiB", &[build::libcuota()], &program)
            .variable("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0");
        for way in ["dlsym", "proc", "next"] {
            let said = guest.clone().argument(way).run();
            assert_eq!(said.stdout.lines().last(), Some(GRANTED), "{how}, {way}: {said:?}");
            assert_eq!((said.stderr.as_str(), said.status.code()), ("", Some(0)), "{how}, {way}");
        }
    }
}

#[test]
fn jemalloc_beside_us_changes_nothing() {
    let names = ["/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"];
    let fetched = build::target().join("jemalloc/libjemalloc.so.2");
    let Some(jemalloc) = names.into_iter().map(PathBuf::from).chain([fetched]).find(|path| path.exists())
    else {
        return skip("no libjemalloc.so.2; tests/fetch-jemalloc fetches it from the system's packages");
    };
    let ours = build::libcuota().to_owned();
    for preload in [[jemalloc.clone(), ours.clone()], [ours, jemalloc]] {
        let program = build::program("ends");
        let guest = Guest::new(program).driver(build::fake_driver());
        let beside = preload.iter().fold(guest.clone(), Guest::preload);
        assert_eq!(beside.run(), guest.run(), "{preload:?}");
        let paths: Vec<_> = preload.iter().map(PathBuf::as_path).collect();
        let home = tempfile::tempdir().expect("the system has a folder for temporary files");
        let said =
            Guest::tenant(home.path(), "2GiB", &paths, &build::program("quota")).argument("dlsym").run();
        assert_eq!(said.stdout.lines().last(), Some(GRANTED), "{preload:?}: {said:?}");
        assert_eq!((said.stderr.as_str(), said.status.code()), ("", Some(0)));
    }
}
