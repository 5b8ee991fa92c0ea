//! Hosts that are hostile without meaning it.

use std::fs;

use cuota_tests::build;
use cuota_tests::guest::Guest;

fn guest(name: &str) -> Guest {
    Guest::managed(name).driver(build::fake_driver())
}

#[test]
fn dlopen_from_a_library_in_another_folder_expands_its_origin() {
    let outer = build::library(
        "origin_outer.c",
        "libouter.so",
        &["-Wl,-rpath,$ORIGIN/inner".as_ref(), "-Wl,--enable-new-dtags".as_ref()],
    );
    let inner = build::library("origin_inner.c", "libinner.so", &[]);
    let folder = outer.parent().expect("a compiled guest lies in a folder").join("inner");
    fs::create_dir_all(&folder).expect("the target folder is writable");
    build::link(&inner, &folder.join("libinner.so"));
    Guest::managed("origin").argument(outer).must_print("inner: found\n");
}

#[test]
fn parent_and_child_are_hooked_across_fork() {
    guest("fork").must_print(
        "child before: libcuota.so libcuota.so\n\
         status 0\n\
         parent: libcuota.so libcuota.so\n\
         child after: libcuota.so libcuota.so\n\
         status 0\n\
         parent again: libcuota.so libcuota.so\n",
    );
}

#[test]
fn process_without_libcuda_finds_no_cuda() {
    Guest::managed("absent").must_print(
        "weak cuInit: null\n\
         cuInit: null, dlerror names it\n\
         cuMemAlloc_v2: null, dlerror names it\n\
         cuMemAlloc_v2: null, dlerror names it\n\
         cuMemAlloc_v2: null, dlerror names it\n\
         cuGetProcAddress_v2: null, dlerror names it\n\
         nvmlDeviceGetMemoryInfo: null, dlerror names it\n\
         alloc 3\n\
         nvml 1\n\
         after a failure: libcuota.so\n\
         error pending: no\n",
    );
}

#[test]
fn lookup_in_a_signal_handler_yields_the_hook() {
    guest("signal").must_print("in the driver: libcuota.so\nnext: libcuota.so\n");
}

#[test]
fn eight_threads_that_look_up_at_once_all_get_the_hook() {
    guest("threads").must_print("wrong 0, reached the driver 16000\nhooked: libcuota.so\n");
}

#[test]
fn constructor_that_runs_before_ours_gets_the_hook() {
    let early = build::library("early.c", "libearly.so", &[]);
    Guest::new("/bin/true")
        .preload(build::libcuota())
        .preload(early)
        .driver(build::fake_driver())
        .must_print(
            "constructor: libcuota.so\n\
         constructor, next: libcuota.so\n\
         alloc 0\n",
        );
}

#[test]
fn lookup_while_the_process_ends_yields_the_hook() {
    let said = guest("late").run();
    assert_eq!(said.stdout, "atexit: libcuota.so\nalloc 0\ndestructor: libcuota.so\nalloc 0\n");
    assert_eq!((said.stderr.as_str(), said.status.code()), ("", Some(3)));
}

#[test]
fn errno_survives_lookups_and_allocations_that_succeed() {
    guest("errno").must_print(
        "first look-up: kept\n\
         driver: kept\n\
         default: kept\n\
         next: kept\n\
         libc: kept\n\
         alloc: kept\n",
    );
}

/// Runs a tool of the system with and without us, held to nothing and held to something; every byte and the exit status
/// must be the same.
#[track_caller]
fn is_unchanged(tool: &str, arguments: &[&str]) {
    let free = Guest::new(tool).arguments(arguments);
    let held = free.clone().variable("CUOTA_DIR", build::scratch().join("no-policy"));
    for plain in [free, held] {
        assert_eq!(plain.clone().preload(build::libcuota()).run(), plain.run(), "{tool} {arguments:?}");
    }
}

#[test]
fn tools_behave_the_same_byte_for_byte() {
    is_unchanged("bash", &["-c", "echo out; echo err >&2; (exit 3); echo $?; true | false; exit 7"]);
    is_unchanged("bash", &["-c", "no_such_command"]);
    is_unchanged("ls", &["-la", "/usr/bin"]);
    is_unchanged("ls", &["/no/such/folder"]);
    is_unchanged("env", &["-u", "LD_PRELOAD"]);
    is_unchanged("gcc", &["--help"]);
    is_unchanged("gcc", &["-xc", "-S", "-o", "-", &build::guests().join("linked.c").display().to_string()]);
    is_unchanged("gcc", &["/no/such/file.c"]);
    let (source, binary) = (build::guests().join("absent.c"), build::scratch().join("compiled"));
    let compile =
        format!("gcc {} -o {binary} && cksum < {binary}", source.display(), binary = binary.display());
    is_unchanged("bash", &["-c", &compile]);
}

#[test]
fn python_behaves_the_same_byte_for_byte() {
    is_unchanged(
        "python3",
        &["-c", "import sys, ssl, ctypes, sqlite3, decimal; print(sys.version); sys.exit(5)"],
    );
    is_unchanged("python3", &["-c", "import ctypes; ctypes.CDLL('libcuda.so.1')"]);
    is_unchanged("python3", &["-c", "import ctypes; ctypes.CDLL(None).cuInit"]);
    is_unchanged("python3", &["-c", "raise RuntimeError('as natively')"]);
    is_unchanged("python3", &["-c", "import multiprocessing as m; print(m.Pool(2).map(abs, range(-9, 9)))"]);
    is_unchanged("python3", &["-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]);
}
