//! What a container that wants to get out of its limits can try without a loader of its own.

use std::os::unix::fs::PermissionsExt;

use cuota_tests::console::Arg;
use cuota_tests::driver::OUT_OF_MEMORY;

use crate::RUNTIMES;
use crate::runtime::{Container, Runtime};
use crate::site::Site;

/// How often a program's memory map names the library: it is loaded if at all.
const MAPS: &str = "/bin/grep -c /dev/shm/cuota/lib/libcuota.so /proc/self/maps";

#[test]
fn emptied_environment_or_another_user_keeps_the_library() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let container = Container::new(&site, runtime, &tenant);
        let script = format!(
            "env -i {MAPS} && su user -c '{MAPS}' && su - user -c '{MAPS}' && su - user -c 'env -i {MAPS}' \
             && LD_PRELOAD= LD_LIBRARY_PATH=/nowhere {MAPS}"
        );
        let loaded = container.shell(0, &script);
        assert_eq!(loaded.lines().count(), 5, "{loaded}");
        assert!(loaded.lines().all(|line| line != "0"), "{loaded}");
    }
}

/// An ssh server that serves one session on its standard input, and what logs in by it: a root file system's own, its root and a user.
const SSH: &str = r#"
set -e
ln -sf bash /bin/sh
mkdir -p /run/sshd /root/.ssh /home/user/.ssh
echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd
ssh-keygen -q -t ed25519 -N '' -f /root/key
cp /root/key.pub /root/.ssh/authorized_keys
cp /root/key.pub /home/user/.ssh/authorized_keys
printf '%s\n' 'HostKey /root/key' 'UsePAM no' 'StrictModes no' 'PermitRootLogin yes' >/root/config
log_in() {
    ssh -q -i /root/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o ProxyCommand='/usr/sbin/sshd -i -f /root/config' "$1@container" "$2"
}
"#;

#[test]
fn login_by_ssh_keeps_the_library_and_the_quota() {
    let Some(root) = crate::ages::fetched(&["ssh"]).pop() else { return };
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let doctor = "CUOTA_SIM_LIB=/sim CUOTA_SIM_DIR=/gpu /guest/cuota doctor --sim --json";
        for user in ["root", "user"] {
            let container =
                Container::new(&site, runtime, &tenant).on(&root).with_variable("NAMED", "outside");
            // What doctor thinks of the container is not asked here.
            let script =
                format!("{SSH} log_in {user} 'echo /$NAMED/ && {MAPS}'; log_in {user} '{doctor}' || true");
            let said = container.shell(0, &script);
            let mut lines = said.lines();
            assert_eq!(lines.next(), Some("//"), "the environment goes: {said}");
            assert!(
                lines.next().is_some_and(|count| count != "0"),
                "{user} has the library ({runtime:?}): {said}"
            );
            for fact in [r#""device_total_bytes": 2147483648"#, r#""own_full_bytes": 2147483648"#] {
                assert!(said.contains(fact), "{user} has the quota ({runtime:?}): {said}");
            }
        }
    }
}

/// A process that has lost its environment, or names another tenant or directory, has its container's quota all the same.
#[test]
fn no_environment_leads_to_another_quota() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        site.cuota_ok(&[
            "run",
            "--lib",
            &site.library().display().to_string(),
            "--tenant",
            "rich",
            "--memory",
            "9GiB",
            "--",
            "true",
        ]);
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let sim = ["LD_LIBRARY_PATH=/sim", "CUOTA_SIM_DIR=/gpu"];
        let ways: [(u32, &[&str]); 4] = [
            (1000, &["env", "-i", sim[0], sim[1]]),
            (0, &["env", "CUOTA_TENANT=rich"]),
            (1000, &["env", "CUOTA_DIR=/tmp"]),
            (0, &["env", "-i", sim[0], sim[1], "CUOTA_DIR=/tmp/own", "CUOTA_TENANT=default", "LD_PRELOAD="]),
        ];
        for (uid, way) in ways {
            let container = Container::new(&site, runtime, &tenant);
            let mut console = container.start(uid, &[way, &["/guest/console"]].concat());
            console.use_primary_context();
            assert_eq!(console.total(), 2 << 30, "{way:?} as user {uid} ({runtime:?})");
            assert!(
                console.alloc(2 << 30).is_err() && console.alloc(1 << 30).is_ok(),
                "{way:?} as user {uid}"
            );
        }
    }
}

#[test]
fn root_in_a_container_can_change_neither_the_policy_nor_the_library_nor_the_list() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let attempts = [
            "echo x > /dev/shm/cuota/policy.v1",
            "truncate -s 0 /dev/shm/cuota/policy.v1",
            "rm /dev/shm/cuota/policy.v1",
            "mv /dev/shm/cuota /dev/shm/other",
            "mv /dev/shm /dev/other",
            "mkdir /dev/shm/cuota/tenant/other",
            "touch /dev/shm/cuota/tenant/default.v1",
            "echo rich > /dev/shm/cuota/assigned",
            "rm /dev/shm/cuota/assigned",
            "echo > /etc/ld.so.preload",
            "rm /etc/ld.so.preload",
            "mv /etc/ld.so.preload /etc/other",
            "echo x > /dev/shm/cuota/lib/libcuota.so",
            "mv /dev/shm/cuota/lib/libcuota.so /tmp/",
            "mv /dev/shm/cuota/lib /dev/shm/cuota/other",
            "umount /etc/ld.so.preload",
            "umount /dev/shm/cuota",
            "mount -t tmpfs none /dev/shm/cuota",
            "mount -o remount,rw /dev/shm/cuota",
        ];
        let script =
            attempts.map(|attempt| format!("if {attempt} 2>/dev/null; then echo '{attempt}'; fi\n")).concat();
        let container = Container::new(&site, runtime, &tenant);
        let done = container.shell(0, &format!("{script} test -s /etc/ld.so.preload"));
        assert_eq!(done, "", "root did that ({runtime:?})");
        assert!(site.cuota_ok(&["ps"]).contains("2 GiB"), "{}", site.cuota_ok(&["ps"]));
    }
}

/// What doctor says in a container of this tenant, as JSON; it must find no problem.
#[track_caller]
fn doctor(container: &Container, uid: u32) -> String {
    let output = container.run(uid, &["/guest/cuota", "doctor", "--sim", "--json"]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "user {uid}: {report} {}", String::from_utf8_lossy(&output.stderr));
    report
}

#[test]
fn doctor_in_a_container_without_namespaces_says_protected_and_proves_the_quota() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        for uid in [0, 1000] {
            let report = doctor(&Container::new(&site, runtime, &tenant).without_namespaces(), uid);
            assert!(report.contains(r#""level": "protected""#), "user {uid}: {report}");
        }
    }
}

/// Where a user can make namespaces it can lay another file over the list: no library stops that, so doctor must say it.
#[test]
fn list_that_a_namespace_can_cover_is_told_by_doctor() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        let cover = format!("unshare -Urm bash -c 'mount --bind /dev/null /etc/ld.so.preload && {MAPS}'");
        for uid in [0, 1000] {
            let container = || Container::new(&site, runtime, &tenant);
            let left = container().shell(uid, &format!("{cover} 2>/dev/null || true")).trim() == "0";
            let report = doctor(&container(), uid);
            assert_eq!(report.contains("unshare -Urm"), left, "user {uid} ({runtime:?}): {report}");
            let kept = container().without_namespaces().shell(uid, &format!("{cover} 2>/dev/null || {MAPS}"));
            assert_ne!(kept.trim(), "0", "user {uid} ({runtime:?})");
        }
    }
}

/// An image's link at the list's place is the image's to remove: the hook makes no such container, and in Podman's doctor says it.
#[test]
fn list_behind_a_link_of_the_image_is_refused_or_told() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB"]);
        for (path, target) in [("etc/ld.so.preload", "own-list"), ("etc", "e")] {
            let container =
                || Container::new(&site, runtime, &tenant).without_namespaces().with_link(path, target);
            if runtime == Runtime::Runc {
                let output = container().run(0, &["true"]);
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && said.contains("cannot mount"), "{path}: {said}");
            } else {
                let report = doctor(&container(), 0);
                assert!(report.contains("this user can change /etc/ld.so.preload"), "{path}: {report}");
            }
        }
    }
}

/// A container sees its own tenant's books and the arenas, and nobody else's.
#[test]
fn other_tenants_files_are_not_there() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let arena = site.machine.region().join("arena");
        std::fs::create_dir_all(&arena).expect("the folder is ours");
        let arena = arena.join(format!("{}.v1", "0".repeat(32)));
        std::fs::write(&arena, "").expect("the folder is ours");
        // As the operator opens it to all tenants.
        std::fs::set_permissions(&arena, std::fs::Permissions::from_mode(0o666)).expect("the folder is ours");
        let (alice, _bob) = (
            site.tenant(runtime, "alice", &["--memory", "2GiB"]),
            site.tenant(runtime, "bob", &["--memory", "2GiB"]),
        );
        let container = Container::new(&site, runtime, &alice);
        let names = container.shell(
            1000,
            "cd /dev/shm/cuota && ls tenant && echo x > arena/* && cat arena/* && ! touch arena/other 2>/dev/null",
        );
        assert_eq!(names, format!("{alice}.v1\n{alice}.v1.live\nx\n"));
    }
}

/// With `--user` the books are one user's: whoever else is in the container is granted nothing.
#[test]
fn books_that_are_one_users_serve_that_user_alone() {
    for runtime in RUNTIMES.into_iter().filter(|runtime| runtime.is_there()) {
        let site = Site::new();
        let tenant = site.tenant(runtime, "alice", &["--memory", "2GiB", "--user", "1000"]);
        let (_container, mut user) = site.console(runtime, &tenant, 1000);
        user.alloc(1 << 30).expect("the books are its own");
        let container = Container::new(&site, runtime, &tenant);
        let mut other = container.start(1001, &["/guest/console"]);
        let _ = other.call("cuInit", &[Arg::Is(0)]).ok();
        let retained = other.call("cuDevicePrimaryCtxRetain", &[Arg::Out(8), Arg::Is(0)]);
        assert_eq!(retained.status, OUT_OF_MEMORY, "{runtime:?}");
    }
}
