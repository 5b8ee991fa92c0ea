//! Other interposers, in front of us and behind us: nobody calls in a circle, and nobody gets around us.

use std::path::PathBuf;

use cuota_tests::build;
use cuota_tests::guest::Guest;

use crate::lookup::linked;

fn other(name: &str) -> PathBuf {
    build::library(&format!("{name}.c"), &format!("lib{name}.so"), &[])
}

fn before(program: PathBuf, other: PathBuf) -> Guest {
    Guest::new(program).preload(other).preload(build::libcuota()).driver(build::fake_driver())
}

fn behind(program: PathBuf, other: PathBuf) -> Guest {
    Guest::new(program).preload(build::libcuota()).preload(other).driver(build::fake_driver())
}

const OPENED: &str = "hooked: libcuota.so\n\
                      not hooked: libcuda.so.1\n\
                      nvml hooked: libcuota.so\n\
                      nvml not hooked: libnvidia-ml.so.1\n\
                      default: libcuota.so\n\
                      program: PROGRAM\n\
                      unknown to this driver: null\n\
                      unknown to the program's driver: null\n\
                      alloc 0\n\
                      reached the driver 1\n";

#[test]
fn interposer_of_an_allocation_in_front_of_us_leads_to_the_hook() {
    before(linked(), other("other_alloc")).must_print(
        "bound: libother_alloc.so\n\
         init 0\n\
         other interposer, next is in libcuota.so\n\
         alloc 0\n\
         reached the driver 1\n",
    );
}

#[test]
fn interposer_of_an_allocation_behind_us_is_not_between_us_and_the_driver() {
    behind(linked(), other("other_alloc")).must_print(
        "bound: libcuota.so\n\
         init 0\n\
         alloc 0\n\
         reached the driver 1\n",
    );
}

#[test]
fn lookup_in_the_program_finds_an_interposer_in_front_of_us_as_natively() {
    before(build::program("opened"), other("other_alloc"))
        .must_print(&OPENED.replace("PROGRAM", "libother_alloc.so"));
    behind(build::program("opened"), other("other_alloc"))
        .must_print(&OPENED.replace("PROGRAM", "libcuota.so"));
}

#[test]
fn interposer_of_dlsym_in_front_of_us_leads_to_the_hook() {
    before(build::program("opened"), other("other_dlsym"))
        .must_print(&OPENED.replace("PROGRAM", "libcuota.so"));
}

#[test]
fn interposer_of_dlsym_behind_us_is_not_called_in_a_circle() {
    behind(build::program("opened"), other("other_dlsym"))
        .must_print(&OPENED.replace("PROGRAM", "libcuota.so"));
}

#[test]
fn interposer_of_libc_finds_what_is_behind_itself_each_time() {
    for guest in [
        before(build::program("calls_libc"), other("other_libc")),
        behind(build::program("calls_libc"), other("other_libc")),
    ] {
        guest.must_print(
            "next, first time: libc.so.6\n\
             next, second time: libc.so.6\n\
             page 1\n\
             objects 1\n",
        );
    }
}

#[test]
fn interposer_of_dl_iterate_phdr_that_uses_dlsym_is_not_called_in_a_circle() {
    for program in ["opened", "calls_libc"] {
        let expected = if program == "opened" { OPENED } else { "page 1\nobjects 1\n" };
        before(build::program(program), other("other_iterate"))
            .must_print(&expected.replace("PROGRAM", "libcuota.so"));
        behind(build::program(program), other("other_iterate"))
            .must_print(&expected.replace("PROGRAM", "libcuota.so"));
    }
}

#[test]
fn allocation_interposers_on_both_sides_do_not_call_in_a_circle() {
    let behind = build::library("other_alloc.c", "libother_behind.so", &[]);
    before(linked(), other("other_alloc")).preload(behind).must_print(
        "bound: libother_alloc.so\n\
         init 0\n\
         other interposer, next is in libcuota.so\n\
         alloc 0\n\
         reached the driver 1\n",
    );
}
