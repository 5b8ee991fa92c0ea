//! What a container sees of the directory: its policy, its tenant, and nothing of the others.
//!
//! A view is a folder of the operator's, `view/NAME` below the directory, that is mounted read-only at the default place
//! ([`cuota_region::DEFAULT_DIR`], so that `CUOTA_DIR` does not lead around it). Its policy and its tenant's two files are
//! further names of the real ones; the two are mounted once more, writable. Everything lies below `/dev`, which is a mount of
//! the container's own: root in the container cannot rename a mount point, nor a folder above it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use cuota_region::DEFAULT_DIR;
use cuota_region::name::TenantName;
use cuota_region::path::ASSIGNED;

use super::file;
use crate::home::Home;
use crate::locate::{LIBRARY, PRELOAD_LIST};

/// One mount of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// The file or folder of this machine.
    pub(super) source: PathBuf,
    /// Where the container sees it.
    pub(super) target: PathBuf,
    /// Whether the container may write to it.
    pub(super) writable: bool,
}

/// The view of one tenant.
pub(super) struct View<'a> {
    home: &'a Home,
    tenant: TenantName,
}

/// Where a container finds the library, whatever its image holds.
pub(super) fn library_in_container() -> PathBuf {
    Path::new(DEFAULT_DIR).join("lib").join(LIBRARY)
}

impl<'a> View<'a> {
    pub(super) fn of(home: &'a Home, tenant: TenantName) -> Self {
        View { home, tenant }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.home.path().join("view").join(self.tenant.as_str())
    }

    /// What says that the operator had this tenant before it was set up here, and keeps it.
    fn kept(&self) -> PathBuf {
        // No tenant's name begins with a dot.
        self.home.path().join("view").join(format!(".{}.kept", self.tenant))
    }

    /// Whether anything of any tenant's was begun here.
    pub(super) fn has_any(&self) -> bool {
        self.home.path().join("view").exists()
    }

    /// Whether anything was begun for this tenant that is to be taken away.
    pub(super) fn is_begun(&self) -> bool {
        self.path().exists() || self.kept().exists()
    }

    /// Whether the tenant's limits are the operator's, and stay when the view goes.
    pub(super) fn is_kept(&self) -> bool {
        self.kept().exists()
    }

    /// Makes the view's folder before anything else of the tenant: what a killed command leaves is found by it. `has_limits`: whether the
    /// tenant has limits already.
    pub(super) fn begin(&self, has_limits: bool) -> anyhow::Result<()> {
        let view = self.path();
        if view.exists() {
            return Ok(());
        }
        make_folder(view.parent().unwrap_or(&view), 0o700)?;
        if has_limits {
            let kept = self.kept();
            fs::write(&kept, "").with_context(|| format!("cannot write {}", kept.display()))?;
        }
        make_folder(&view, 0o755)
    }

    /// The tenant's files, below the directory and below the view alike.
    fn tenant_files(&self) -> Vec<PathBuf> {
        let files = [self.home.files().tenant(&self.tenant), self.home.files().live(&self.tenant)];
        let below = |path: &cuota_region::path::Path| {
            let path = Path::new(OsStr::from_bytes(path.as_bytes()));
            path.strip_prefix(self.home.path()).ok().map(Path::to_owned)
        };
        files.iter().flatten().filter_map(below).collect()
    }

    /// The files by which the tenants of a GPU take turns, one a GPU: those that the operator has opened to every user. Who can write one can
    /// cut it short, and so end the programs that have it mapped: no container gets one without being asked for. A container can make none,
    /// so that it fills no memory of this machine's with them.
    fn arena_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.home.path().join("arena")).into_iter().flatten().flatten();
        let is_arena = |name: &str| {
            name.split_once(".v")
                .is_some_and(|(gpu, _)| gpu.len() == 32 && gpu.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let is_open = |file: &fs::DirEntry| file.metadata().is_ok_and(|about| about.mode() & 0o002 != 0);
        let names = files
            .filter(is_open)
            .filter_map(|file| file.file_name().into_string().ok())
            .filter(|name| is_arena(name));
        let mut files: Vec<PathBuf> = names.map(|name| Path::new("arena").join(name)).collect();
        files.sort();
        files
    }

    /// What the container writes to, below the directory and below the view alike.
    fn writable_files(&self) -> impl Iterator<Item = PathBuf> {
        self.tenant_files().into_iter().chain(self.arena_files())
    }

    /// The mounts of a container of this tenant, in their order. `library` is mounted by its folder, so that a newer one that is
    /// renamed into its place reaches the programs that a running container starts from then on.
    pub(super) fn mounts(&self, library: &Path) -> anyhow::Result<Vec<Mount>> {
        let (Some(folder), Some(name)) = (library.parent(), library.file_name()) else {
            anyhow::bail!("{} is no path of a file\n  name the library with --lib", library.display());
        };
        anyhow::ensure!(
            name == LIBRARY,
            "the library is mounted by its folder, and is looked for there as {LIBRARY}; this one is {}\n  rename it, or name \
             another with --lib",
            library.display()
        );
        let view = self.path();
        let at = |path: &Path| Path::new(DEFAULT_DIR).join(path);
        let read_only = |source: PathBuf, target: PathBuf| Mount { source, target, writable: false };
        let mut mounts = vec![
            read_only(view.clone(), DEFAULT_DIR.into()),
            read_only(folder.to_owned(), at(Path::new("lib"))),
            read_only(view.join("ld.so.preload"), PRELOAD_LIST.into()),
        ];
        mounts.extend(self.writable_files().map(|file| Mount {
            source: view.join(&file),
            target: at(&file),
            writable: true,
        }));
        Ok(mounts)
    }

    /// Makes the view, or puts it right. The policy and the tenant's files must be there.
    ///
    /// `user` is who the tenant's files are for, outside of any user namespace; without it they are for every user of the
    /// container.
    pub(super) fn make(&self, user: Option<u32>) -> anyhow::Result<()> {
        let view = self.path();
        self.give_files(user)?;
        make_folder(view.parent().unwrap_or(&view), 0o700)?;
        for folder in [view.clone(), view.join("lib"), view.join("tenant"), view.join("arena")] {
            make_folder(&folder, 0o755)?;
        }
        let policy = self.home.policy_path();
        // It may have been made under a umask that closes it to the container's users, who would be granted nothing.
        fs::set_permissions(&policy, Permissions::from_mode(0o644))
            .with_context(|| format!("cannot let every user read {}", policy.display()))?;
        let policy = policy.file_name().map(PathBuf::from);
        for file in policy.into_iter().chain(self.writable_files()) {
            let (real, name) = (self.home.path().join(&file), view.join(&file));
            second_name(&real, &name)
                .with_context(|| format!("cannot link {} to {}", name.display(), real.display()))?;
        }
        file::write(&view.join(OsStr::from_bytes(ASSIGNED.to_bytes())), self.tenant.as_bytes(), 0o444)?;
        let line = format!("{}\n", library_in_container().display());
        file::write(&view.join("ld.so.preload"), line.as_bytes(), 0o644)?;
        Ok(())
    }

    /// Refuses to give the tenant's files to every user of the container where others of this machine can reach them.
    pub(super) fn refuse_if_open(&self, user: Option<u32>) -> anyhow::Result<()> {
        let folder = self.home.tenants_path();
        let is_open = |path: &Path| fs::metadata(path).is_ok_and(|about| about.mode() & 0o011 != 0);
        anyhow::ensure!(
            user.is_some() || !(is_open(self.home.path()) && is_open(&folder)),
            "without --user the tenant's files are for every user of the container, and the other users of this machine can \
             reach them in {folder}\n  name the container's user with --user, or close the folder: chmod 700 {folder}",
            folder = folder.display()
        );
        Ok(())
    }

    /// Lets the container's users, and nobody else, write to the tenant's files.
    fn give_files(&self, user: Option<u32>) -> anyhow::Result<()> {
        self.refuse_if_open(user)?;
        for file in self.tenant_files() {
            let path = self.home.path().join(file);
            let given = match user {
                Some(user) => std::os::unix::fs::chown(&path, Some(user), None)
                    .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600))),
                None => fs::set_permissions(&path, Permissions::from_mode(0o666)),
            };
            given.with_context(|| format!("cannot give {} to the container's users", path.display()))?;
        }
        Ok(())
    }

    /// Takes the view away, at the very last; `false` where there is none.
    pub(super) fn remove(&self) -> anyhow::Result<bool> {
        let view = self.path();
        let was_there = match fs::remove_dir_all(&view) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            done => done.map(|()| true).with_context(|| format!("cannot remove {}", view.display()))?,
        };
        let _ = fs::remove_file(self.kept());
        // With another tenant's view in it the kernel refuses.
        let _ = view.parent().map(fs::remove_dir);
        Ok(was_there)
    }
}

/// Makes a folder, or gives one that is there this mode.
fn make_folder(folder: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
    let made = made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode)));
    made.with_context(|| format!("cannot make {}", folder.display()))
}

/// Makes `name` a further name of the file `real`, whatever it was before.
fn second_name(real: &Path, name: &Path) -> io::Result<()> {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|about| (about.dev(), about.ino())).ok();
    if identity(name).is_some() && identity(name) == identity(real) {
        return Ok(());
    }
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::hard_link(real, name),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::inject) fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("cuota")).unwrap();
        drop(home.operate().unwrap());
        (dir, home)
    }

    pub(in crate::inject) fn alice(home: &Home) -> TenantName {
        let name = TenantName::parse(b"alice").unwrap();
        home.make_tenant(&name).unwrap();
        name
    }

    #[test]
    fn view_holds_the_tenants_own_files_and_no_others() {
        let (_dir, home) = home();
        home.make_tenant(&TenantName::parse(b"bob").unwrap()).unwrap();
        let view = View::of(&home, alice(&home));
        view.make(None).unwrap();
        let names = |path: &Path| {
            let mut names: Vec<String> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&view.path()), ["arena", "assigned", "ld.so.preload", "lib", "policy.v1", "tenant"]);
        assert_eq!(names(&view.path().join("tenant")), ["alice.v1", "alice.v1.live"]);
        assert_eq!(fs::read(view.path().join("assigned")).unwrap(), b"alice");
    }

    #[test]
    fn policy_that_was_closed_is_readable_by_every_user() {
        let (_dir, home) = home();
        fs::set_permissions(home.policy_path(), Permissions::from_mode(0o600)).unwrap();
        let view = View::of(&home, alice(&home));
        view.make(None).unwrap();
        assert_eq!(fs::metadata(view.path().join("policy.v1")).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn view_is_made_twice_and_removed_without_a_trace() {
        let (_dir, home) = home();
        let view = View::of(&home, alice(&home));
        view.make(None).unwrap();
        // Somebody has put another policy in its place: the view follows.
        fs::remove_file(home.policy_path()).unwrap();
        drop(home.operate().unwrap());
        view.make(None).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&home.policy_path()), inode(&view.path().join("policy.v1")));
        assert!(view.remove().unwrap());
        assert!(!view.remove().unwrap());
        assert!(!home.path().join("view").exists());
    }

    #[test]
    fn only_the_tenants_two_files_and_the_arenas_are_writable() {
        let (_dir, home) = home();
        let view = View::of(&home, alice(&home));
        let arena = format!("{}.v1", "0f".repeat(16));
        fs::create_dir_all(home.path().join("arena")).unwrap();
        let kept_shut = format!("{}.v1", "1f".repeat(16));
        for (name, mode) in [(arena.as_str(), 0o666), (".draft", 0o666), ("x.v1", 0o666), (&kept_shut, 0o600)]
        {
            let path = home.path().join("arena").join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        view.make(None).unwrap();
        assert!(view.path().join("arena").join(&arena).exists());
        let arena = format!("/dev/shm/cuota/arena/{arena}");
        let mounts = view.mounts(Path::new("/usr/lib/cuota/libcuota.so")).unwrap();
        let writable: Vec<_> =
            mounts.iter().filter(|mount| mount.writable).map(|mount| &mount.target).collect();
        assert_eq!(
            writable,
            ["/dev/shm/cuota/tenant/alice.v1", "/dev/shm/cuota/tenant/alice.v1.live", &arena].map(Path::new)
        );
        assert!(view.mounts(Path::new("/usr/lib/other.so")).is_err());
    }

    #[test]
    fn files_for_every_user_are_refused_where_other_users_can_reach_them() {
        let (_dir, home) = home();
        let view = View::of(&home, alice(&home));
        for folder in [home.path().to_owned(), home.tenants_path()] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        let error = view.make(None).unwrap_err().to_string();
        assert!(error.contains("--user") && error.contains("chmod 700"), "{error}");
        view.make(Some(crate::home::user())).unwrap();
    }
}
