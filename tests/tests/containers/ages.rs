//! Root file systems of different age: what is shipped must run in each. And musl, whose programs no preload list reaches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuota_tests::build;
use cuota_tests::machine::skip;

use crate::RUNTIMES;
use crate::runtime::{Container, Runtime};
use crate::site::Site;

/// What `tests/fetch-rootfs` has unpacked below this name; where it is not there the running test says that it is skipped.
pub(crate) fn fetched(names: &[&str]) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = names.iter().map(|name| build::target().join("rootfs").join(name)).collect();
    let found: Vec<PathBuf> = paths.into_iter().filter(|path| path.exists()).collect();
    if found.is_empty() {
        skip(&format!("none of {} is there: tests/fetch-rootfs fetches them", names.join(", ")));
    }
    found
}

/// What `scripts/dist` has laid out for the archive; where it is not there the running test says that it is skipped.
pub(crate) fn dist() -> Option<PathBuf> {
    let entries = fs::read_dir(build::target().join("dist")).into_iter().flatten().flatten();
    let tree = entries.map(|entry| entry.path()).find(|path| path.join("install.sh").exists());
    if tree.is_none() {
        skip("there is no archive: scripts/dist makes it");
    }
    tree
}

#[test]
fn what_is_shipped_runs_in_root_file_systems_old_and_new() {
    let roots = fetched(&["bullseye", "bookworm", "trixie", "focal", "jammy", "noble"]);
    let Some(dist) = dist().filter(|_| !roots.is_empty()) else { return };
    let runtimes: Vec<Runtime> = RUNTIMES.into_iter().filter(|runtime| runtime.is_there()).collect();
    let mut versions = Vec::new();
    for (root, runtime) in roots.iter().zip(runtimes.iter().copied().cycle()) {
        let site = Site::new();
        for (from, to) in [
            ("bin/cuota", "guest/cuota"),
            ("lib/cuota/libcuota.so", "lib/libcuota.so"),
            ("lib/cuota/sim/libcuda.so.1", "sim/libcuda.so.1"),
            ("lib/cuota/sim/libnvidia-ml.so.1", "sim/libnvidia-ml.so.1"),
        ] {
            fs::copy(dist.join(from), site.path(to)).expect("the archive holds it");
        }
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        for uid in [0, 1000] {
            let container = Container::new(&site, runtime, &tenant).on(root).without_namespaces();
            let output = container.run(uid, &["/guest/cuota", "doctor", "--sim", "--json"]);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaint = String::from_utf8_lossy(&output.stderr);
            let place = root.display();
            assert!(output.status.success(), "{place}, user {uid}: {report} {complaint}");
            assert!(report.contains(r#""level": "protected""#), "{place}, user {uid}: {report}");
            let glibc = report
                .lines()
                .find(|line| line.contains(r#""glibc""#))
                .expect("it tells the version")
                .to_owned();
            versions.push(glibc.trim().to_owned());
        }
    }
    versions.sort();
    versions.dedup();
    if versions.is_empty() {
        return;
    }
    // Which three, `tests/fetch-rootfs` says.
    match roots.len() {
        0..3 => {
            skip(&format!("of three root file systems only {} are there: tests/fetch-rootfs", roots.len()))
        }
        _ => assert!(versions.len() >= 3, "{versions:?}"),
    }
}

/// A program linked with musl, which prints what is mapped into it. Its dynamic loader is `loader`.
fn musl_program(libc: &Path, loader: &Path, folder: &Path) -> PathBuf {
    let source = r#"
        int open(const char *, int, ...);
        long read(int, void *, unsigned long);
        long write(int, const void *, unsigned long);
        void _exit(int);
        static char buffer[4096];
        int start(void) {
            int maps = open("/proc/self/maps", 0);
            for (long n; (n = read(maps, buffer, sizeof buffer)) > 0;)
                if (write(1, buffer, n) != n) _exit(1);
            _exit(0);
        }
        __asm__(".globl _start\n_start: and $-16, %rsp\ncall start\n");
    "#;
    let (text, program) = (folder.join("musl.c"), folder.join("musl"));
    fs::write(&text, source).expect("the folder is ours");
    let interpreter = format!("-Wl,--dynamic-linker={}", loader.display());
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-fno-builtin", "-fno-stack-protector", "-nostdlib", "-nostartfiles", "-o"]);
    // By its name: musl's loader knows that the library of this name is itself.
    let search = format!("-L{}", libc.parent().expect("it lies in a folder").display());
    let status =
        compiler.arg(&program).arg(&text).args([search.as_str(), "-l:libc.so", &interpreter]).status();
    assert!(status.expect("a C compiler").success());
    program
}

/// musl's C library, which is its dynamic loader, too.
fn musl() -> Option<PathBuf> {
    let root = fetched(&["musl"]).into_iter().next()?;
    ["usr/lib/x86_64-linux-musl/libc.so", "lib/x86_64-linux-musl/libc.so"]
        .map(|path| root.join(path))
        .into_iter()
        .find(|path| path.exists())
}

#[test]
fn musl_program_in_a_container_starts_without_the_library() {
    let Some(libc) = musl() else { return };
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        fs::copy(&libc, site.path("guest/ld-musl.so")).expect("the folder is ours");
        musl_program(&libc, Path::new("/guest/ld-musl.so"), &site.path("guest"));
        let maps = Container::new(&site, runtime, &tenant).shell(0, "/guest/musl");
        assert!(
            maps.contains("ld-musl.so") && !maps.contains("libcuota"),
            "docs/threat-model.md says otherwise: {maps}"
        );
    }
}

/// `LD_PRELOAD` reaches musl's loader, which finds functions of glibc missing.
#[test]
fn musl_program_under_cuota_run_does_not_start_unlimited() {
    let Some(libc) = musl() else { return };
    let site = Site::new();
    let program = musl_program(&libc, &libc, &site.path("guest"));
    let output = site.cuota(&["run", "--memory", "1GiB", "--", &program.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("libcuota.so"), "{}: {said}", output.status);
}

/// The hook stops the making of a container whose library is gone, rather than to let it run without.
#[test]
fn container_without_its_library_is_not_made() {
    if !Runtime::Runc.is_there() {
        return;
    }
    let site = Site::new();
    let tenant = site.tenant(Runtime::Runc, "alice", &["--memory", "2GiB"]);
    let container = Container::new(&site, Runtime::Runc, &tenant);
    fs::remove_file(site.library()).expect("the folder is ours");
    let output = container.run(0, &["true"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("libcuota.so"), "{said}");
}
