//! Every way in which a program finds the driver's functions leads to the hook.

use cuota_tests::build;
use cuota_tests::guest::Guest;

fn guest(name: &str) -> Guest {
    Guest::managed(name).driver(build::fake_driver())
}

/// A guest that is held to something: the environment names a directory, so there must be a policy. There is none in it, so
/// nothing is granted, and these guests ask for nothing.
fn managed(name: &str) -> Guest {
    guest(name).variable("CUOTA_DIR", build::scratch().join("no-policy"))
}

/// The guest that is linked with -lcuda.
pub(crate) fn linked() -> std::path::PathBuf {
    let folder = format!("-L{}", build::fake_driver().display());
    build::compile("linked.c", "linked", &[folder.as_ref(), "-lcuda".as_ref()])
}

#[test]
fn linked_program_is_bound_to_the_hook() {
    Guest::new(linked()).preload(build::libcuota()).driver(build::fake_driver()).must_print(
        "bound: libcuota.so\n\
         init 0\n\
         alloc 0\n\
         reached the driver 1\n",
    );
}

const OPENED: &str = "hooked: libcuota.so\n\
                      not hooked: libcuda.so.1\n\
                      nvml hooked: libcuota.so\n\
                      nvml not hooked: libnvidia-ml.so.1\n\
                      default: libcuota.so\n\
                      program: libcuota.so\n\
                      unknown to this driver: null\n\
                      unknown to the program's driver: null\n\
                      alloc 0\n\
                      reached the driver 1\n";

#[test]
fn dlsym_yields_the_hook_for_hooked_names_only() {
    guest("opened").must_print(OPENED);
}

#[test]
fn driver_that_has_only_a_sysv_hash_table_is_understood() {
    Guest::managed("opened").driver(build::sysv_driver()).must_print(OPENED);
}

#[test]
fn dlvsym_yields_the_hook_for_versions_that_the_driver_has() {
    Guest::managed("versioned").driver(build::versioned_driver()).must_print(
        "its version: libcuota.so\n\
         another version: null\n\
         not hooked: libcuda.so.1\n\
         next, its version: libcuota.so\n\
         next, another version: null\n",
    );
}

#[test]
fn cu_get_proc_address_yields_the_hook_in_every_version_and_stream_mode() {
    guest("proc_address").must_print(
        "v1: libcuota.so\n\
         v2: libcuota.so\n\
         cuMemAlloc 12000 mode 0: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAllocAsync 12000 mode 0: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAlloc 12000 mode 1: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAllocAsync 12000 mode 1: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAlloc 12000 mode 2: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAllocAsync 12000 mode 2: 0 libcuota.so / 0 libcuota.so 0\n\
         cuMemAlloc 2000 mode 0: 0 libcuota.so / 0 libcuota.so 0\n\
         cuInit 12000 mode 0: 0 libcuda.so.1 / 0 libcuda.so.1 0\n\
         cuGetProcAddress 12000 mode 0: 0 libcuota.so / 0 libcuota.so 0\n\
         cuGetProcAddress 11030 mode 0: 0 libcuota.so / 0 libcuota.so 0\n\
         cuNoSuchFunction 12000 mode 0: 500 none / 500 none 1\n\
         twins differ: 1\n\
         null: 1 1\n\
         no status wanted: 0\n",
    );
}

#[test]
fn second_lookup_through_rtld_next_is_not_null() {
    let turn = "hooked: libcuota.so\n\
                not hooked: libcuda.so.1\n\
                libc: libc.so.6\n\
                dlsym: libcuota.so\n\
                dlopen: libcuota.so\n";
    guest("next").must_print(&format!(
        "turn 1\n{turn}turn 2\n{turn}\
         dlsym of libc: libcuota.so\n\
         dlvsym of libc: libcuota.so\n\
         dlclose of libc: libc.so.6\n\
         dlsym of a version that glibc lacks: null\n",
    ));
}

#[test]
fn deepbind_plugin_does_not_see_the_driver_in_front_of_us() {
    let folder = format!("-L{}", build::fake_driver().display());
    let plugin = build::library("plugin.c", "plugin.so", &[folder.as_ref(), "-lcuda".as_ref()]);
    managed("deepbind").argument(plugin).must_print(
        "plugin bound: libcuota.so\n\
         plugin dlsym: libcuota.so\n\
         plugin default: libcuota.so\n\
         plugin looked up: libcuota.so\n",
    );
}

#[test]
fn driver_opened_in_a_namespace_of_its_own_is_the_one_of_the_base() {
    managed("namespace").must_print(
        "namespace 0, the same driver 1\n\
         hooked: libcuota.so\n\
         libm has its own namespace 1\n",
    );
}

#[test]
fn driver_that_is_closed_and_opened_again_is_still_hooked() {
    guest("reopened").must_print(
        "turn 1: libcuota.so, alloc 0\n\
         turn 2: libcuota.so, alloc 0\n\
         turn 3: libcuota.so, alloc 0\n",
    );
}

#[test]
fn second_copy_of_the_driver_is_hooked_too() {
    let copy = build::scratch().join("copy-of-libcuda.so");
    std::fs::copy(build::fake_driver().join("libcuda.so.1"), &copy).expect("the target folder is writable");
    guest("copied").argument(copy).must_print(
        "two copies 1\n\
         hooked: libcuota.so\n\
         not hooked: copy-of-libcuda.so\n",
    );
}
