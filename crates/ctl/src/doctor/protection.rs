//! Who could change the limits: the level of protection (docs/threat-model.md).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cuota_region::DEFAULT_DIR;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
use serde::Serialize;

use super::namespaces;
use super::report::{Check, Mark};
use super::system::System;
use crate::home::{Home, user};

const SECTION: &str = "cuota";

/// Whether a tenant can undo its own limits.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// It can, if it sets out to. Limits hold for programs that do not.
    Advisory,
    /// The user that `doctor` runs as cannot change them.
    Protected,
}

/// What was found about the directory.
#[derive(Serialize)]
pub(crate) struct Protection {
    pub(crate) level: Level,
    /// Why it is only advisory; empty where it is protected.
    pub(crate) because: Vec<String>,
    /// The directory.
    pub(crate) directory: String,
    /// Its owner's user id, where it exists.
    pub(crate) owner: Option<u32>,
    /// Its permission bits.
    pub(crate) mode: Option<u32>,
    /// How many entries the policy has; `None`: no policy.
    pub(crate) policy_entries: Option<usize>,
}

/// Whether this user can write to `path`, on a mount that takes writes.
pub(crate) fn is_writable(path: &Path) -> bool {
    // EACCESS: as the user that acts, not the one that called (faccessat(2)).
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn is_read_only_mount(path: &Path) -> bool {
    statvfs(path).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether this user can change what stands at `path`, or who may.
pub(crate) fn can_replace(path: &Path) -> bool {
    let owner = std::fs::metadata(path).map(|about| about.uid());
    !is_read_only_mount(path)
        && (user() == 0 || owner.is_ok_and(|owner| owner == user()) || is_writable(path))
}

impl Protection {
    /// Adds a way out that was tried and found open.
    pub(crate) fn found_open(&mut self, way: &str) {
        self.level = Level::Advisory;
        self.because.push(way.to_owned());
    }

    /// The line of the table.
    pub(crate) fn check(&self) -> Check {
        let found = match self.level {
            Level::Protected => "protected: this user cannot change its limits (docs/threat-model.md says what no library can stop)".to_owned(),
            // No warning: on one's own machine it is what one expects.
            Level::Advisory => format!("advisory: {}", self.because.join("; ")),
        };
        Check::ok("protection", "level", found)
    }
}

/// Looks. What must be tried out is not yet in it.
pub(crate) fn look(home: &Home, system: &System) -> (Protection, Vec<Check>) {
    let about = std::fs::metadata(home.path()).ok();
    let policy = home.policy();
    let because = ways_out(home, system, policy.as_ref().is_ok_and(Option::is_some));
    let protection = Protection {
        level: if because.is_empty() { Level::Protected } else { Level::Advisory },
        because,
        directory: home.path().display().to_string(),
        owner: about.as_ref().map(MetadataExt::uid),
        mode: about.as_ref().map(|about| about.mode() & 0o7777),
        policy_entries: policy.as_ref().ok().and_then(|p| p.as_ref().map(|p| p.rows().count())),
    };
    let mut checks = vec![directory_check(&protection)];
    if let Err(trouble) = policy {
        let text = trouble.to_string();
        let (found, advice) = text.split_once("\n  ").unwrap_or((&text, "name another with --dir"));
        checks.push(Check::not_ok(Mark::Problem, SECTION, "policy", found, advice));
    }
    (protection, checks)
}

/// How a program of this user could get out of its limits.
fn ways_out(home: &Home, system: &System, has_policy: bool) -> Vec<String> {
    let (policy, directory) = (home.policy_path(), home.path());
    let mut ways = Vec::new();
    if !has_policy {
        ways.push("there is no policy yet: this user makes its own".to_owned());
    } else if !is_read_only_mount(&policy) {
        let owner = std::fs::metadata(&policy).map_or(user(), |about| about.uid());
        // Whoever can write to the directory can put another file in the policy's place.
        if user() == 0 {
            ways.push("this user is root, and can write the policy".to_owned());
        } else if owner == user() {
            ways.push("this user owns the policy".to_owned());
        } else if is_writable(&policy) || is_writable(directory) {
            ways.push("this user can write the policy or its directory".to_owned());
        }
    }
    // By the same look as the library's own.
    if ways.is_empty() && (directory != Path::new(DEFAULT_DIR) || !home.files().is_protected()) {
        ways.push(format!(
            "CUOTA_DIR leads around the policy: the library takes none for the operator's but {DEFAULT_DIR}/policy.v1, and that if it is mounted \
             read-only, or root's in a directory of root's"
        ));
    }
    // Where it can make a tenant's file, it can be as many tenants as it likes, each with the default entry's quota.
    if ways.is_empty() && is_writable(&home.tenants_path()) {
        ways.push("this user can make tenants of its own, since it can write the folder tenant/".to_owned());
    }
    if system.preloaded.is_none() {
        ways.push("the library is loaded by LD_PRELOAD, which a program can unset".to_owned());
    } else if system.preload_is_ours {
        ways.push("this user can change /etc/ld.so.preload".to_owned());
    } else if system.library_is_ours {
        ways.push(
            "this user can put something else in the place of the library that is preloaded".to_owned(),
        );
    }
    if ways.is_empty() && namespaces::can_be_made() {
        ways.push(namespaces::WAY.to_owned());
    }
    ways
}

fn directory_check(found: &Protection) -> Check {
    let Protection { directory, owner, mode, policy_entries, .. } = found;
    let (Some(owner), Some(mode)) = (owner, mode) else {
        return Check::ok(
            SECTION,
            "directory",
            format!("{directory} does not exist yet; `cuota run` makes it"),
        );
    };
    let entries = match policy_entries {
        Some(1) => "1 policy entry".to_owned(),
        Some(count) => format!("{count} policy entries"),
        None => "no policy".to_owned(),
    };
    let text = format!("{directory}, user {owner}, mode {mode:04o}, {entries}");
    if mode & 0o022 != 0 {
        let advice = format!("take that right away: chmod go-w {directory}");
        return Check::not_ok(
            Mark::Problem,
            SECTION,
            "directory",
            format!("{text}: others can replace the policy"),
            advice,
        );
    }
    Check::ok(SECTION, "directory", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn system(preloaded: bool, ours: bool) -> System {
        let preloaded = preloaded.then(|| "/lib/libcuota.so".to_owned());
        System {
            kernel: String::new(),
            glibc: String::new(),
            preloaded,
            preload_is_ours: ours,
            library_is_ours: false,
        }
    }

    #[test]
    fn where_one_owns_the_policy_it_is_advisory() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        drop(home.operate().unwrap());
        let (protection, _) = look(&home, &system(true, false));
        assert_eq!(protection.level, Level::Advisory);
        assert_eq!(protection.because.len(), 1);
        let (protection, _) = look(&home, &system(false, false));
        assert_eq!(protection.because.len(), 2);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let (_, checks) = look(&Home::at(dir.path()).unwrap(), &system(false, false));
        assert_eq!(checks[0].mark, Mark::Problem);
    }
}
