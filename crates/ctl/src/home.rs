//! The directory that holds the policy and the tenants' files, as the command sees it.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cuota_region::DEFAULT_DIR;
use cuota_region::header::Unusable;
use cuota_region::name::TenantName;
use cuota_region::path::Directory;
use cuota_region::policy::{Policy, PolicyWriter};
use cuota_region::sys;
use cuota_region::tenant::Tenant;

use crate::hami;

/// The directory.
pub(crate) struct Home {
    path: PathBuf,
    files: Directory,
    /// The file of HAMi's monitor whose container this is the directory of.
    monitored: Option<PathBuf>,
}

/// The policy, open for writing. While it lives, no other command writes: it holds the lock of `policy.lock`.
pub(crate) struct Operator {
    /// The policy file.
    pub(crate) writer: PolicyWriter,
    _lock: File,
}

/// Why the directory cannot be used as asked.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A step failed.
    Failed {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// It is another user's, who alone sets quotas in it.
    OthersOwn {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others than this user can change what lies in it.
    OthersChange(PathBuf),
    /// A file in it cannot be used.
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: Unusable,
    },
    /// Its path does not fit.
    TooLong(PathBuf),
    /// It is a container of HAMi's, by this file, and has no policy.
    OfHami(PathBuf),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Failed { doing, path, error } => write!(
                f,
                "cannot {doing} {}: {error}\n  name a directory of your own with --dir or CUOTA_DIR",
                path.display()
            ),
            Trouble::OthersOwn { path, owner } => write!(
                f,
                "quotas in {path} are set by its owner, user {owner}, and you are user {uid}\n  \
                 run without --memory, --compute and --tenant to take what the owner has set, or name a directory of your own \
                 with --dir or CUOTA_DIR, such as /dev/shm/cuota-{uid}",
                path = path.display(),
                uid = user(),
            ),
            Trouble::OthersChange(path) => write!(
                f,
                "{path} is not a directory that you, user {uid}, alone can change: containers set up from it would have the limits that \
                 another user wants\n  look at what is there, and remove it; or name a directory of your own with --dir or CUOTA_DIR",
                path = path.display(),
                uid = user(),
            ),
            Trouble::Unusable { path, why } => write!(
                f,
                "{} cannot be used: {why}\n  remove the directory when nothing runs in it, or name another with \
                 --dir or CUOTA_DIR",
                path.display()
            ),
            Trouble::TooLong(path) => {
                write!(
                    f,
                    "the directory's path is too long: {}\n  name a shorter one with --dir",
                    path.display()
                )
            }
            Trouble::OfHami(file) => write!(
                f,
                "{} is a file, and as such that of a container of HAMi's, which has its limits there and no policy\n  \
                 use ps, events or set with it, or name a directory with --dir",
                file.display()
            ),
        }
    }
}

impl std::error::Error for Trouble {}

/// The effective user id.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Home {
    /// The directory at `path`, which need not exist; of a file of HAMi's monitor, that of its container.
    ///
    /// # Errors
    /// [`Trouble::TooLong`], or a relative path in a working directory that is gone.
    pub(crate) fn at(path: &Path) -> Result<Self, Trouble> {
        // In full: the program may change its directory before it reads the variable.
        let failed = |error| Trouble::Failed { doing: "find the place of", path: path.to_owned(), error };
        let named = std::path::absolute(path).map_err(failed)?;
        let monitored = named.is_file().then_some(named.clone());
        let path = monitored.as_deref().and_then(hami::directory_of).unwrap_or(named);
        match Directory::at(path.as_os_str().as_bytes()) {
            Ok(files) => Ok(Home { path, files, monitored }),
            Err(_) => Err(Trouble::TooLong(path)),
        }
    }

    /// The file of HAMi's monitor whose container this is the directory of.
    pub(crate) fn monitored(&self) -> Option<&Path> {
        self.monitored.as_deref()
    }

    /// Its path, in full.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of the files in it.
    pub(crate) fn files(&self) -> &Directory {
        &self.files
    }

    /// The policy's path.
    pub(crate) fn policy_path(&self) -> PathBuf {
        self.path.join("policy.v1")
    }

    /// The folder of the tenants' files.
    pub(crate) fn tenants_path(&self) -> PathBuf {
        self.path.join("tenant")
    }

    /// The file whose lock is held by everything that `cuota run` started for an ephemeral tenant.
    pub(crate) fn lease_path(&self, name: &TenantName) -> PathBuf {
        self.tenants_path().join(format!("{name}.v1.lease"))
    }

    /// The policy for reading; `None` where there is none yet.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn policy(&self) -> Result<Option<Policy>, Trouble> {
        let unusable = |why| Trouble::Unusable { path: self.policy_path(), why };
        match Policy::open(&self.files) {
            Ok(policy) => Ok(Some(policy)),
            Err(Unusable::System(sys::Errno(libc::ENOENT))) => Ok(None),
            Err(why) => Err(unusable(why)),
        }
    }

    /// Makes the directory where it does not exist, for this user alone, and opens the policy for writing. Waits while
    /// another command writes.
    ///
    /// # Errors
    /// [`Trouble::OthersOwn`] where it is another user's, else what failed.
    pub(crate) fn operate(&self) -> Result<Operator, Trouble> {
        if let Some(file) = &self.monitored {
            return Err(Trouble::OfHami(file.clone()));
        }
        self.make()?;
        let path = self.path.join("policy.lock");
        // Where the directory was another user's first, no link of that user's is followed.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = options.open(&path);
        let failed = |doing: &'static str| {
            let path = path.clone();
            move |error| Trouble::Failed { doing, path, error }
        };
        let lock = lock.map_err(failed("open"))?;
        lock.lock().map_err(failed("lock"))?;
        let unusable = |why| Trouble::Unusable { path: self.policy_path(), why };
        let policy = self.files.policy().map_err(unusable)?;
        let was_there = self.policy_path().exists();
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
        let fd = sys::open(policy.as_c_str(), flags, 0o644).map_err(|errno| unusable(errno.into()))?;
        if !was_there {
            // The umask may have taken bits away. Who may look into the directory is to read it.
            sys::set_mode(&fd, 0o644).map_err(|errno| Trouble::Failed {
                doing: "let users read",
                path: self.policy_path(),
                error: io::Error::from_raw_os_error(errno.0),
            })?;
        }
        let writer = PolicyWriter::on(&fd).map_err(unusable)?;
        Ok(Operator { writer, _lock: lock })
    }

    /// Refuses where this user is not the only one who can change what lies in the directory.
    ///
    /// # Errors
    /// [`Trouble::OthersChange`], or why it cannot be looked at.
    pub(crate) fn refuse_if_others_change_it(&self) -> Result<(), Trouble> {
        let about = std::fs::symlink_metadata(&self.path);
        let about =
            about.map_err(|error| Trouble::Failed { doing: "look at", path: self.path.clone(), error })?;
        let is_ours_alone = about.is_dir() && about.uid() == user() && about.mode() & 0o022 == 0;
        is_ours_alone.then_some(()).ok_or_else(|| Trouble::OthersChange(self.path.clone()))
    }

    /// Makes a tenant's files, so that they can be given to the user who is to be that tenant.
    ///
    /// # Errors
    /// Why they cannot be made, or used.
    pub(crate) fn make_tenant(&self, name: &TenantName) -> Result<(), Trouble> {
        let unusable = |why| Trouble::Unusable { path: self.tenants_path().join(format!("{name}.v1")), why };
        Tenant::open_or_create(&self.files, name).map_err(unusable)?;
        let live = self.files.live(name).map_err(unusable)?;
        sys::open(live.as_c_str(), libc::O_RDWR | libc::O_CREAT, 0o600)
            .map_err(|errno| unusable(errno.into()))?;
        Ok(())
    }

    fn make(&self) -> Result<(), Trouble> {
        let make = |path: PathBuf| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| Trouble::Failed { doing: "make", path, error })
        };
        make(self.path.clone())?;
        // In a place where anyone may make directories, such as /dev/shm, another user can have been first.
        let owner = self.owner()?;
        // Root may set the quotas in anybody's directory, but not in one that an ordinary user has put where nobody named any.
        if owner != user() && (user() != 0 || self.path == Path::new(DEFAULT_DIR)) {
            return Err(Trouble::OthersOwn { path: self.path.clone(), owner });
        }
        make(self.tenants_path())?;
        // Where this user's tenants take turns; to others the operator opens its files one by one. Without it there are no turns.
        let _ = DirBuilder::new().mode(0o700).create(self.path.join("arena"));
        Ok(())
    }

    /// Whose the directory is: the link's owner, where a link stands in the default directory's place.
    fn owner(&self) -> Result<u32, Trouble> {
        let about = match self.path == Path::new(DEFAULT_DIR) {
            true => std::fs::symlink_metadata(&self.path),
            false => std::fs::metadata(&self.path),
        };
        let failed = |error| Trouble::Failed { doing: "look at", path: self.path.clone(), error };
        about.map(|about| about.uid()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_made_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("a/b")).unwrap();
        drop(home.operate().unwrap());
        for path in [home.path().to_owned(), home.tenants_path()] {
            assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        assert!(home.policy().unwrap().is_some());
    }

    #[test]
    fn no_link_in_the_place_of_a_policy_is_followed() {
        for name in ["policy.v1", "policy.lock"] {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("target");
            std::os::unix::fs::symlink(&target, dir.path().join(name)).unwrap();
            assert!(Home::at(dir.path()).unwrap().operate().is_err(), "{name}");
            assert!(!target.exists(), "{name}");
        }
    }

    #[test]
    fn a_directory_that_others_can_change_is_told_from_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let home = Home::at(&own).unwrap();
        drop(home.operate().unwrap());
        home.refuse_if_others_change_it().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let error = Home::at(&link).unwrap().refuse_if_others_change_it().unwrap_err().to_string();
        assert!(error.contains("alone can change"), "{error}");
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(home.refuse_if_others_change_it().is_err());
    }

    #[test]
    fn a_tenants_files_are_made_for_its_user_to_be_given() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        drop(home.operate().unwrap());
        let name = TenantName::parse(b"alice").unwrap();
        home.make_tenant(&name).unwrap();
        home.make_tenant(&name).unwrap();
        for file in ["alice.v1", "alice.v1.live"] {
            assert_eq!(std::fs::metadata(home.tenants_path().join(file)).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn where_nothing_was_made_there_is_no_policy_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Home::at(dir.path()).unwrap().policy().unwrap().is_none());
    }

    #[test]
    fn a_policy_of_other_content_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.v1"), "something else").unwrap();
        let error = Home::at(dir.path()).unwrap().operate().err().unwrap().to_string();
        assert!(error.contains("policy.v1 cannot be used: it is 196658 bytes too short"), "{error}");
    }
}
