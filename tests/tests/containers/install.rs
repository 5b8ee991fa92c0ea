//! `install.sh`, as it lies in the archive.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use cuota_tests::build;
use cuota_tests::console::Console;
use cuota_tests::machine::{GIB, Machine, skip};

use crate::ages::dist;
use crate::runtime::{Container, Runtime};
use crate::site::{Site, folder};

fn install(dist: &Path, prefix: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(dist.join("install.sh"));
    command.arg("--prefix").arg(prefix).args(more).output().expect("a shell")
}

#[track_caller]
fn must(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A console as the installed command starts it.
fn start(machine: &Machine, prefix: &Path) -> Console {
    let mut command = Command::new(prefix.join("bin/cuota"));
    for variable in ["LD_PRELOAD", "LD_LIBRARY_PATH", "CUOTA_LIB", "CUOTA_SIM_LIB", "CUOTA_TENANT"] {
        command.env_remove(variable);
    }
    command.env("CUOTA_DIR", machine.region()).env("CUOTA_SIM_DIR", machine.gpu_folder());
    command
        .args(["run", "--sim", "--tenant", "alice", "--memory", "4GiB", "--"])
        .arg(build::program("console"));
    let mut console = Console::observed(&mut command, machine.observer());
    console.use_primary_context();
    console
}

#[test]
fn upgrade_and_removal_leave_running_tenants_alone() {
    let Some(dist) = dist() else { return };
    let (machine, place) = (Machine::new(), folder());
    let prefix = place.path().join("usr");
    assert!(must(&install(&dist, &prefix, &[])).contains("installed"));
    let library = prefix.join("lib/cuota/libcuota.so");
    let inode = || fs::metadata(&library).expect("it is installed").ino();
    let (mut old, before) = (start(&machine, &prefix), inode());
    old.alloc(GIB).expect("there is room");

    must(&install(&dist, &prefix, &[]));
    assert_ne!(inode(), before, "renamed into place, not written over");
    let mut new = start(&machine, &prefix);
    // Each has its context, of 500 MiB, beside.
    assert!(new.alloc(GIB).is_ok() && new.alloc(3 * GIB / 2).is_err(), "old and new share one quota");
    assert!(old.alloc(3 * GIB / 2).is_err());

    must(&install(&dist, &prefix, &["--remove"]));
    assert_eq!(new.alloc(1 << 20).map(|_| ()), Ok(()));
    new.finish();
    assert!(old.alloc(3 * GIB / 2).is_ok());
    old.finish();
    let left = |folder: &str| fs::read_dir(prefix.join(folder)).expect("the folder is there").count();
    assert_eq!(["bin", "lib", "include"].map(left), [0, 0, 0]);
    assert!(must(&install(&dist, &prefix, &["--remove"])).contains("nothing of cuota"));
}

/// Who cannot read the library runs without a limit.
#[test]
fn umask_of_who_installs_closes_nothing() {
    let Some(dist) = dist() else { return };
    let place = folder();
    let prefix = place.path().join("usr");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" --prefix \"$1\""]);
    must(&shell.arg(dist.join("install.sh")).arg(&prefix).output().expect("a shell"));
    for (name, mode) in [("", 0o755), ("lib", 0o755), ("lib/cuota", 0o755), ("lib/cuota/libcuota.so", 0o755)]
    {
        let about = fs::metadata(prefix.join(name)).expect("it is installed");
        assert_eq!(about.mode() & 0o777, mode, "{name}");
    }
}

/// A folder that is deleted is gone from running containers, too: what they start later would have no limit.
#[test]
fn library_that_a_running_container_has_mounted_is_not_removed() {
    if !Runtime::Podman.is_there() {
        return;
    }
    // Of an archive the script is all that removal needs.
    let site = Site::new();
    let (prefix, linked) = (site.path("usr"), site.path("linked"));
    fs::create_dir_all(prefix.join("lib/cuota")).expect("the folder is ours");
    let library = prefix.join("lib/cuota/libcuota.so");
    fs::copy(site.library(), &library).expect("the folder is ours");
    std::os::unix::fs::symlink(&prefix, &linked).expect("the folder is ours");
    let lib = library.display().to_string();
    let inject = |more: &[&str]| {
        site.cuota_ok(&[&["inject", "--volumes", "--lib", &lib, "--tenant", "alice"], more].concat())
    };
    inject(&["--memory", "2GiB", "--install"]);
    let options = inject(&["--print"]);
    let container = Container::plain(&site, Runtime::Podman).with_options(options.lines());
    let mut sleeper = container.spawn(0, &["bash", "-c", "echo up; read -r _"]);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    for prefix in [&prefix, &linked] {
        let refused = install(&scripts, prefix, &["--remove"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("mounted"), "{said}");
        assert!(library.exists());
    }
    drop(sleeper.stdin.take());
    sleeper.wait().expect("it is ours");
    // What one that was killed has left goes, too.
    fs::write(prefix.join("lib/cuota/libcuota.so.new.4711"), "half").expect("the folder is ours");
    must(&install(&scripts, &linked, &["--remove"]));
    assert!(!prefix.join("lib/cuota").exists());
}

/// Anybody can put one into the default directory of a machine that has none yet.
#[test]
fn link_to_the_library_that_somebody_has_planted_does_not_keep_it() {
    let place = folder();
    let prefix = place.path().join("usr");
    fs::create_dir_all(prefix.join("lib/cuota")).expect("the folder is ours");
    fs::write(prefix.join("lib/cuota/libcuota.so"), "a library").expect("the folder is ours");
    let script = "mount -t tmpfs tmpfs /dev/shm || exit 77; mkdir /dev/shm/cuota; ln -s \"$2/lib/cuota\" /dev/shm/cuota/lib
                  exec \"$1\" --prefix \"$2\" --remove";
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install.sh");
    let mut shell = Command::new("unshare");
    let done = shell.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(installer).arg(&prefix).output();
    let done = done.expect("util-linux");
    if done.status.code() == Some(77) || String::from_utf8_lossy(&done.stderr).contains("unshare failed") {
        return skip("nothing can be mounted here");
    }
    must(&done);
    assert!(!prefix.join("lib/cuota").exists());
}

#[test]
fn wrong_prefix_is_told_and_nothing_is_written() {
    let Some(dist) = dist() else { return };
    for (prefix, why) in [
        ("here", "no full path"),
        ("/tmp/a b", "cannot preload from a path"),
        ("/proc/1/nowhere", "cannot make"),
    ] {
        let output = install(&dist, Path::new(prefix), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{prefix}: {said}");
    }
}
