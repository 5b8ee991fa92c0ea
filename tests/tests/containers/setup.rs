//! What `cuota inject` leaves on this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuota_tests::build;
use cuota_tests::machine::skip;

use crate::RUNTIMES;
use crate::runtime::{Container, Runtime};
use crate::site::Site;

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn set_up_twice_is_set_up_once_and_removal_leaves_nothing() {
    let site = Site::new();
    let specs = site.path("specs").display().to_string();
    let inject = |more: &[&str]| {
        site.cuota_ok(&[&["inject", "--cdi", "--folder", &specs, "--tenant", "alice"], more].concat())
    };
    // The policy itself is the operator's, and stays.
    site.cuota_ok(&["run", "--lib", &site.library().display().to_string(), "--memory", "1GiB", "--", "true"]);
    site.cuota_ok(&["ps"]);
    let before = files(&site.machine.region());
    let printed = inject(&["--print"]);
    assert_eq!(files(&site.machine.region()), before, "printing changes nothing");
    let first = inject(&["--memory", "2GiB", "--install"]);
    assert!(first.contains("written: ") && first.contains("--device cuota/tenant=alice"), "{first}");
    assert_eq!(
        fs::read_to_string(site.path("specs/cuota-tenant-alice.json")).expect("it is written"),
        printed
    );
    let installed = files(&site.machine.region());
    let second = inject(&["--install"]);
    assert!(!second.contains("written: "), "{second}");
    assert_eq!(files(&site.machine.region()), installed);
    inject(&["--remove"]);
    let gone = |path: &PathBuf| !path.to_string_lossy().contains(".lease");
    assert_eq!(
        files(&site.machine.region()).into_iter().filter(gone).collect::<Vec<_>>(),
        before.into_iter().filter(gone).collect::<Vec<_>>()
    );
    assert!(!Path::new(&specs).exists());
    assert!(!site.cuota_ok(&["ps"]).contains("alice"));
    assert_eq!(inject(&["--remove"]), "", "nothing is left to remove");
}

/// What there is of tenants: files but leases, and what `ps` lists.
fn traces(site: &Site) -> (Vec<PathBuf>, String) {
    let listed = site.cuota_ok(&["ps"]);
    let all = files(&site.machine.region()).into_iter();
    (all.filter(|path| !path.to_string_lossy().contains(".lease")).collect(), listed)
}

#[test]
fn set_up_that_is_refused_leaves_nothing() {
    let site = Site::new();
    site.cuota_ok(&["run", "--lib", &site.library().display().to_string(), "--memory", "1GiB", "--", "true"]);
    let before = traces(&site);
    let specs = site.path("specs").display().to_string();
    // The folder is open to other users, and nobody says whose the tenant's files are to be.
    fs::set_permissions(site.machine.region().join("tenant"), fs::Permissions::from_mode(0o755))
        .expect("the folder is ours");
    let refused = site.cuota(&[
        "inject",
        "--cdi",
        "--folder",
        &specs,
        "--tenant",
        "carol",
        "--memory",
        "2GiB",
        "--install",
    ]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--user"), "{refused:?}");
    assert_eq!(traces(&site), before);
    assert!(!Path::new(&specs).exists());
}

/// Killed at whatever moment, the one command and the other: the next removal takes all of it away.
#[test]
fn set_up_and_removal_that_are_killed_leave_nothing_after_a_removal() {
    let site = Site::new();
    site.cuota_ok(&["run", "--lib", &site.library().display().to_string(), "--memory", "1GiB", "--", "true"]);
    let before = traces(&site);
    let specs = site.path("specs").display().to_string();
    let inject =
        |action| ["inject", "--cdi", "--folder", specs.as_str(), "--tenant", "k", "--memory", "2GiB", action];
    let kill_after = |arguments: &[&str], delay_us: u64| {
        let mut command = std::process::Command::new(cuota_tests::build::command());
        command.env("CUOTA_DIR", site.machine.region()).env("CUOTA_LIB", site.library()).args(arguments);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("the command was built");
        std::thread::sleep(std::time::Duration::from_micros(delay_us));
        // It may have ended.
        let _ = child.kill();
        child.wait().expect("it is ours");
    };
    let remove = ["inject", "--cdi", "--folder", specs.as_str(), "--tenant", "k", "--remove"];
    for round in 0..60 {
        kill_after(&inject("--install"), 250 * round);
        kill_after(&remove, 250 * (59 - round));
        site.cuota_ok(&remove);
        assert_eq!(traces(&site), before, "round {round}");
        // Killed beside its making or its end, the folder for the specs may be left, without anything in it.
        assert_eq!(files(Path::new(&specs)), Vec::<PathBuf>::new(), "round {round}");
    }
}

#[test]
fn quota_that_the_operator_had_set_before_stays_when_the_containers_are_gone() {
    let site = Site::new();
    let library = site.library().display().to_string();
    site.cuota_ok(&["run", "--lib", &library, "--tenant", "prod", "--memory", "4GiB", "--", "true"]);
    let specs = site.path("specs").display().to_string();
    for action in ["--install", "--install", "--remove", "--remove"] {
        site.cuota_ok(&["inject", "--cdi", "--folder", &specs, "--tenant", "prod", action]);
    }
    let listed = site.cuota_ok(&["ps"]);
    assert!(listed.contains("prod") && listed.contains("4 GiB"), "{listed}");
    assert!(!site.machine.region().join("view").exists());
    // The files that were given to containers are not the operator's any more.
    assert!(!site.machine.region().join("tenant/prod.v1").exists());
}

#[test]
fn tenant_whose_container_runs_is_not_removed() {
    if !Runtime::Podman.is_there() {
        return;
    }
    let site = Site::new();
    let tenant = site.tenant(Runtime::Podman, "alice", &["--memory", "2GiB"]);
    let (container, mut console) = site.console(Runtime::Podman, &tenant, 0);
    let refused = site.cuota(&["inject", "--cdi", "--tenant", &tenant, "--remove"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("still run"), "{said}");
    console.alloc(1 << 20).expect("it goes on");
    drop((container, console));
}

/// A container without a CUDA program has the library mounted all the same, for those that it starts later.
#[test]
fn tenant_whose_container_only_sleeps_is_not_removed() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let container = Container::new(&site, runtime, &tenant);
        let way = if runtime == Runtime::Podman { "--cdi" } else { "--hook" };
        let remove = || site.cuota(&["inject", way, "--folder", "/run/cdi", "--tenant", &tenant, "--remove"]);
        let mut sleeper = container.spawn(0, &["bash", "-c", "echo up; read -r _"]);
        let refused = remove();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("has") && said.contains("mounted"), "{said}");
        let mut later = container.console_inside();
        later.use_primary_context();
        assert_eq!(later.total(), 2 << 30, "{runtime:?}");
        later.finish();
        drop(sleeper.stdin.take());
        sleeper.wait().expect("it is ours");
        let removed = remove();
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    }
}

#[test]
fn hook_of_podman_serves_containers_with_the_annotation_and_no_others() {
    if !Runtime::Podman.is_there() {
        return;
    }
    let site = Site::new();
    let hooks = site.path("hooks");
    let folder = hooks.display().to_string();
    let inject = |more: &[&str]| site.cuota_ok(&[&["inject", "--hook", "--folder", &folder], more].concat());
    inject(&["--tenant", "alice", "--memory", "2GiB", "--install"]);
    let run = |annotation: &str, script: &str| {
        let container = Container::plain(&site, Runtime::Podman).with_hooks(&hooks);
        container.with_options([annotation].into_iter()).run(1000, &["bash", "-c", script])
    };
    let with = run("--annotation=cuota.tenant=alice", "cat /dev/shm/cuota/assigned");
    assert_eq!(String::from_utf8_lossy(&with.stdout), "alice", "{}", String::from_utf8_lossy(&with.stderr));
    let without = run("--annotation=other=alice", "! test -e /dev/shm/cuota");
    assert!(without.status.success());
    let unknown = run("--annotation=cuota.tenant=bob", "true");
    assert!(!unknown.status.success(), "nobody has set bob up, so no container is made for it");
    inject(&["--tenant", "alice", "--remove"]);
    inject(&["--remove"]);
    assert!(!hooks.exists());
}

#[test]
fn library_that_others_cannot_read_is_refused_for_containers() {
    let site = Site::new();
    fs::set_permissions(site.path("lib"), fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    let folder = site.path("specs").display().to_string();
    for way in [&["--cdi", "--folder", &folder][..], &["--hook", "--folder", &folder], &["--volumes"]] {
        let refused = site.cuota(&[&["inject"], way, &["--tenant", "alice", "--install"]].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("chmod go+x"), "{way:?}: {said}");
    }
    assert!(!Path::new(&folder).exists());
}

/// A strict umask of the operator's: the container's users still have the library and the policy.
#[test]
fn umask_of_the_operator_closes_nothing_to_a_container() {
    let site = Site::new();
    let specs = site.path("specs").display().to_string();
    let mut shell = std::process::Command::new("sh");
    shell.env("CUOTA_DIR", site.machine.region()).env("CUOTA_LIB", site.library());
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(cuota_tests::build::command());
    shell.args(["inject", "--cdi", "--folder", &specs, "--tenant", "alice", "--memory", "1GiB", "--install"]);
    let output = shell.output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mode = |path: PathBuf| fs::metadata(path).expect("it was made").permissions().mode() & 0o777;
    let view = site.machine.region().join("view/alice");
    assert_eq!(mode(view.join("policy.v1")), 0o644);
    assert_eq!(mode(view.join("ld.so.preload")), 0o644);
    assert_eq!([view.clone(), view.join("lib"), view.join("tenant")].map(mode), [0o755; 3]);
    assert_eq!(mode(site.path("specs")), 0o755);
}

#[test]
fn line_is_taken_out_of_a_read_only_root_that_has_none() {
    let site = Site::new();
    let root = site.path("root");
    fs::create_dir_all(root.join("etc")).expect("the folder is ours");
    let script = "mount --bind \"$2\" \"$2\" && mount -o remount,bind,ro \"$2\" || exit 77
                  exec \"$1\" inject --preload --root \"$2\" --remove";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(build::command()).arg(&root);
    let done = shell.output().expect("util-linux");
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.code() == Some(77) || said.contains("unshare failed") {
        return skip("nothing can be mounted here");
    }
    assert!(done.status.success(), "{said}");
}

#[test]
fn line_of_the_preload_list_is_put_into_another_root_and_taken_out() {
    let site = Site::new();
    let root = site.path("root");
    for folder in ["etc", "usr/lib"] {
        fs::create_dir_all(root.join(folder)).expect("the folder is ours");
    }
    let at = root.display().to_string();
    let preload = |action: &str| site.cuota_ok(&["inject", "--preload", "--root", &at, action]);
    assert_eq!(preload("--print"), "/usr/lib/cuota/libcuota.so\n");
    assert_eq!(files(&root).len(), 3);
    preload("--install");
    assert_eq!(
        fs::read_to_string(root.join("etc/ld.so.preload")).expect("it is written"),
        "/usr/lib/cuota/libcuota.so\n"
    );
    preload("--remove");
    assert_eq!(files(&root).len(), 3);
}

#[test]
fn options_for_a_command_line_give_the_same_mounts() {
    if !Runtime::Podman.is_there() {
        return;
    }
    let site = Site::new();
    site.cuota_ok(&["inject", "--volumes", "--tenant", "alice", "--memory", "2GiB", "--install"]);
    let options = site.cuota_ok(&["inject", "--volumes", "--tenant", "alice", "--print"]);
    let container = Container::plain(&site, Runtime::Podman).with_options(options.lines());
    let said = container.shell(1000, "cat /dev/shm/cuota/assigned; env -i /bin/cat /proc/self/maps");
    assert!(said.starts_with("alice") && said.contains("/dev/shm/cuota/lib/libcuota.so"), "{said}");
}
