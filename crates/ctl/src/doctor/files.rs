//! What can become of the directory's files by others than cuota: a tenant that fills them, logind, SELinux.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cuota_region::DEFAULT_DIR;
use cuota_region::tenant;

use super::report::{Check, Mark};
use crate::home::Home;
use crate::size::show_bytes;

const SECTION: &str = "cuota";

/// From this user id on users are people's, unless a machine was set up otherwise (login.defs(5), SYS_UID_MAX).
const FIRST_PERSON: u32 = 1000;
/// The user that nobody is.
const NOBODY: u32 = 65_534;

/// The type of files that containers may read and write (container-selinux).
const CONTAINER_FILE: &str = "container_file_t";

/// Looks.
pub(crate) fn look(home: &Home) -> Vec<Check> {
    let label = label_advice(home).map(|advice| {
        let found =
            "SELinux is on, and containers may not write the tenants' files: they are granted nothing";
        Check::not_ok(Mark::Warning, SECTION, "selinux", found, advice)
    });
    [filled(home), removed_at_logout(home, Path::new("/")), label].into_iter().flatten().collect()
}

/// Files of tenants that are larger than anything of ours makes them. A container may write its own two.
fn filled(home: &Home) -> Option<Check> {
    let most = |name: &str| if name.ends_with(".v1") { tenant::KIND.bytes as u64 } else { 0 };
    let mut large = Vec::new();
    for entry in fs::read_dir(home.tenants_path()).into_iter().flatten().flatten() {
        let (Ok(name), Ok(about)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        let is_of_a_tenant = name.ends_with(".v1") || name.ends_with(".v1.live");
        // Neither holes nor the rest of a huge page are anybody's doing.
        let taken = about.len().min(about.blocks() * 512);
        if is_of_a_tenant && about.is_file() && taken > most(&name) {
            large.push(format!("{name} takes {}", show_bytes(taken)));
        }
    }
    large.sort();
    let advice = "whoever may write a tenant's files has filled them: end its programs, and remove the tenant (cuota inject --remove), \
                  or its files. A file system of its own with a size bounds it (docs/containers.md)";
    (!large.is_empty())
        .then(|| Check::not_ok(Mark::Warning, SECTION, "tenant_files", large.join(", "), advice))
}

/// Whether logind deletes tenants' files when the user whose they are logs out (logind.conf(5), `RemoveIPC`). `root`: the machine's.
fn removed_at_logout(home: &Home, root: &Path) -> Option<Check> {
    let is_shared_memory = home.path().starts_with(Path::new(DEFAULT_DIR).parent()?);
    let has_logind = root.join("run/systemd/seats").exists();
    if !is_shared_memory || !has_logind || !removes_ipc(root) {
        return None;
    }
    let files = fs::read_dir(home.tenants_path()).into_iter().flatten().flatten();
    let mut users: Vec<u32> = files
        .filter_map(|entry| Some(entry.metadata().ok()?.uid()))
        .filter(|user| *user >= FIRST_PERSON && *user != NOBODY && !lingers(*user, root))
        .collect();
    users.sort_unstable();
    users.dedup();
    let named: Vec<String> = users.iter().map(u32::to_string).collect();
    let found = format!(
        "logind deletes the tenants' files of user {} when that user's last session ends; programs that go on have no books",
        named.join(", ")
    );
    let advice = "set RemoveIPC=no in /etc/systemd/logind.conf and restart systemd-logind, or let the user linger: loginctl enable-linger";
    (!users.is_empty()).then(|| Check::not_ok(Mark::Warning, SECTION, "logout", found, advice))
}

/// `RemoveIPC` as logind reads it: its own file, then the pieces beside it by their names, the last word counts; yes without one.
fn removes_ipc(root: &Path) -> bool {
    // Of two files with one name the first folder's counts.
    let folders = ["etc", "run", "usr/local/lib", "usr/lib"].map(|folder| root.join(folder).join("systemd"));
    let own = folders.iter().map(|folder| folder.join("logind.conf")).find(|file| file.exists());
    let mut pieces: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in &folders {
        for entry in fs::read_dir(folder.join("logind.conf.d")).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && name.ends_with(".conf")
            {
                pieces.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    let texts = own.into_iter().chain(pieces.into_values()).filter_map(|file| fs::read_to_string(file).ok());
    let mut said = texts.filter_map(|text| {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix("RemoveIPC")).rev();
        values.filter_map(|rest| Some(rest.trim_start().strip_prefix('=')?.trim().to_lowercase())).next()
    });
    said.next_back().is_none_or(|value| !matches!(value.as_str(), "no" | "n" | "false" | "f" | "off" | "0"))
}

/// Whether a user's things outlive its sessions (loginctl(1), `enable-linger`).
fn lingers(user: u32, root: &Path) -> bool {
    let users = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user.to_string()).then_some(name)
    });
    name.is_some_and(|name| root.join("var/lib/systemd/linger").join(name).exists())
}

/// What to do where SELinux is on and the directory's label is not a container's. `None`: nothing, or there are no containers.
pub(crate) fn label_advice(home: &Home) -> Option<String> {
    let enforces = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
    if !enforces || !home.path().join("view").exists() {
        return None;
    }
    let mut label = [0; 256];
    let bytes = rustix::fs::getxattr(home.path(), "security.selinux", &mut label).ok()?;
    advice_for(&String::from_utf8_lossy(label.get(..bytes)?), home.path())
}

/// A label is `user:role:type:level`.
fn advice_for(label: &str, path: &Path) -> Option<String> {
    let is_containers = label.split(':').nth(2) == Some(CONTAINER_FILE);
    let path = path.display();
    (!is_containers).then(|| {
        format!("chcon -R -t {CONTAINER_FILE} {path}   # and once more after each restart of the machine, before `cuota inject`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_region::name::TenantName;

    #[test]
    fn file_that_a_tenant_has_filled_is_told_and_its_own_size_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        drop(home.operate().unwrap());
        for name in ["alice", "bob"] {
            home.make_tenant(&TenantName::parse(name.as_bytes()).unwrap()).unwrap();
        }
        assert_eq!(filled(&home), None);
        fs::write(home.tenants_path().join("alice.v1.live"), vec![1; 1 << 20]).unwrap();
        let check = filled(&home).unwrap();
        assert!(
            check.found.starts_with("alice.v1.live takes 1") && !check.found.contains("bob"),
            "{check:?}"
        );
        let books = fs::OpenOptions::new().append(true).open(home.tenants_path().join("bob.v1")).unwrap();
        std::io::Write::write_all(&mut &books, &vec![1; 1 << 20]).unwrap();
        assert!(filled(&home).unwrap().found.contains("bob.v1 takes"));
    }

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn logind_is_read_as_it_reads_itself() {
        const MAIN: &str = "etc/systemd/logind.conf";
        for (files, removes) in [
            (&[][..], true),
            (&[(MAIN, "[Login]\n#RemoveIPC=no\n")], true),
            (&[(MAIN, "[Login]\nRemoveIPC=no\n")], false),
            (&[(MAIN, "RemoveIPC=no"), ("usr/lib/systemd/logind.conf", "RemoveIPC=yes")], false),
            (&[(MAIN, "RemoveIPC=no"), ("usr/lib/systemd/logind.conf.d/9.conf", "RemoveIPC = yes")], true),
            (
                &[
                    ("etc/systemd/logind.conf.d/9.conf", "RemoveIPC=Off"),
                    ("run/systemd/logind.conf.d/9.conf", "RemoveIPC=yes"),
                ],
                false,
            ),
        ] {
            assert_eq!(removes_ipc(machine(files).path()), removes, "{files:?}");
        }
    }

    #[test]
    fn files_of_people_are_named_unless_they_linger_and_those_of_root_are_not() {
        let root = machine(&[("run/systemd/seats/seat0", ""), ("etc/passwd", "ann:x:1234:1234::/:\n")]);
        let shm = tempfile::tempdir_in("/dev/shm").unwrap();
        let home = Home::at(shm.path()).unwrap();
        drop(home.operate().unwrap());
        home.make_tenant(&TenantName::parse(b"alice").unwrap()).unwrap();
        if crate::home::user() != 0 {
            // Who is not root has made files of a person.
            assert!(removed_at_logout(&home, root.path()).is_some());
            return;
        }
        assert_eq!(removed_at_logout(&home, root.path()), None);
        let file = home.tenants_path().join("alice.v1");
        std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
        assert!(removed_at_logout(&home, root.path()).unwrap().found.contains("user 1234"));
        fs::create_dir_all(root.path().join("var/lib/systemd/linger")).unwrap();
        fs::write(root.path().join("var/lib/systemd/linger/ann"), "").unwrap();
        assert_eq!(removed_at_logout(&home, root.path()), None);
        // Only what lies in the machine's shared memory goes.
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(removed_at_logout(&Home::at(elsewhere.path()).unwrap(), root.path()), None);
    }

    #[test]
    fn label_of_containers_needs_nothing_and_another_the_command_that_sets_it() {
        let path = Path::new("/dev/shm/cuota");
        assert_eq!(advice_for("system_u:object_r:container_file_t:s0", path), None);
        let advice = advice_for("unconfined_u:object_r:tmpfs_t:s0\0", path).unwrap();
        assert!(advice.starts_with("chcon -R -t container_file_t /dev/shm/cuota "), "{advice}");
    }
}
