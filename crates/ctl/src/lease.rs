//! Tenants that `cuota run` makes for one program, and how it is known that nothing of it is left.
//!
//! The program inherits an open descriptor of the tenant's lease file, locked with `flock(2)`. Such a lock belongs to
//! the open file, not to a process: it lasts through `exec` and `fork` until the last process that has the descriptor
//! ends or closes it, and the kernel sees to it, in any PID namespace. So a shell script that starts a CUDA program
//! now and then keeps its quota in between, when no process of it is a member of the tenant.
//!
//! A tenant is swept only when its lease is free *and* no process of it is a member, by its lock or, where it has closed that, by its
//! entry in the tenant's file: the process with that id and start, in the sweeper's PID namespace. What is left open: a daemon that
//! closes every descriptor it inherited, outlives all others and touches CUDA for the first time afterwards finds its
//! entry gone; and one in another PID namespace that has closed them keeps the limits that it had, and no books with others. Give such a
//! program a name with `--tenant`: a named tenant is never swept.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use cuota_region::header::Unusable;
use cuota_region::member;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::sys::Errno;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::home::{Home, Operator};

/// How many names are tried beyond `run-PID`: as many as PID namespaces can share the directory.
const NAMES: u32 = 1000;

/// The inherited descriptor goes above those that shells and programs count on, as far as the limit allows.
const HIGH_DESCRIPTORS: [i32; 3] = [1_040, 910, 210];

/// A lease that is held.
pub(crate) struct Lease(File);

impl Lease {
    /// Takes the lease of `name`; `None` where something that still runs holds it.
    fn take(home: &Home, name: &TenantName) -> io::Result<Option<Lease>> {
        let path = home.lease_path(name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lease(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Hands the lease to the programs that this process becomes and starts: they inherit the returned descriptor.
    ///
    /// # Errors
    /// What `fcntl(2)` returns.
    pub(crate) fn hand_on(self) -> io::Result<OwnedFd> {
        let above = |floor: &i32| fcntl_dupfd_cloexec(self.0.as_fd(), *floor).ok();
        let high = HIGH_DESCRIPTORS.iter().find_map(above);
        let fd = high.unwrap_or_else(|| OwnedFd::from(self.0));
        fcntl_setfd(&fd, FdFlags::empty())?;
        Ok(fd)
    }
}

/// Finds a name that nobody has, `run-PID` first, and takes its lease.
///
/// # Errors
/// What went wrong with the lease's file.
pub(crate) fn new_tenant(home: &Home, operator: &Operator) -> io::Result<(TenantName, Lease)> {
    let pid = std::process::id();
    let names = std::iter::once(format!("run-{pid}")).chain((2..NAMES).map(|n| format!("run-{pid}-{n}")));
    for name in names.filter_map(|text| TenantName::parse(text.as_bytes()).ok()) {
        let taken = operator.writer.policy().rows().any(|row| row.tenant == name);
        if taken {
            continue;
        }
        if let Some(lease) = Lease::take(home, &name)? {
            return Ok((name, lease));
        }
    }
    Err(io::Error::other("every name for a tenant is taken"))
}

/// Removes ephemeral tenants of which nothing runs any more, and returns how many they were. One that cannot be judged is
/// spared.
pub(crate) fn sweep(home: &Home, operator: &Operator) -> usize {
    let rows: Vec<_> = operator.writer.policy().rows().collect();
    let ephemeral = rows.iter().filter(|row| row.limits.ephemeral && row.gpu == GpuId::ANY);
    ephemeral.filter(|row| is_over(home, &row.tenant)).map(|row| remove(home, operator, &row.tenant)).count()
}

fn is_over(home: &Home, name: &TenantName) -> bool {
    let members = match member::anyone_lives(home.files(), name) {
        Err(Unusable::System(Errno(libc::ENOENT))) => Ok(false),
        other => other,
    };
    members == Ok(false) && matches!(Lease::take(home, name), Ok(Some(_)))
}

/// Removes a tenant's files, then its entry: what is left half done is found by the next sweep.
pub(crate) fn remove(home: &Home, operator: &Operator, name: &TenantName) {
    remove_files(home, name);
    let rows: Vec<_> = operator.writer.policy().rows().filter(|row| row.tenant == *name).collect();
    for row in rows {
        operator.writer.remove(name, row.gpu);
    }
}

/// Removes the files of a tenant of which nothing runs, and what one that was killed has left of making them.
pub(crate) fn remove_files(home: &Home, name: &TenantName) {
    let files = [home.files().live(name), home.files().tenant(name)];
    for path in files.iter().flatten() {
        let _ = cuota_region::sys::unlink_at(cuota_region::sys::HERE, path.as_c_str());
    }
    let _ = std::fs::remove_file(home.lease_path(name));
    // `Directory::tenant_draft`: the name between dots, and a number.
    let start = format!(".{name}.");
    let is_draft = |file: &str| {
        file.strip_prefix(&start)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    for entry in std::fs::read_dir(home.tenants_path()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_draft) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_region::policy::{Limits, MemoryLimit};

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        (dir, home)
    }

    fn add(operator: &Operator, name: &TenantName, ephemeral: bool) {
        operator
            .writer
            .set(name, GpuId::ANY, Limits { ephemeral, ..Limits::of_memory(MemoryLimit::Bytes(1)) })
            .unwrap();
    }

    fn names(operator: &Operator) -> Vec<String> {
        operator.writer.policy().rows().map(|row| row.tenant.to_string()).collect()
    }

    #[test]
    fn a_tenant_whose_lease_is_held_is_spared_and_swept_when_it_is_let_go() {
        let (_dir, home) = home();
        let operator = home.operate().unwrap();
        let (name, lease) = new_tenant(&home, &operator).unwrap();
        add(&operator, &name, true);
        let inherited = lease.hand_on().unwrap();
        assert_eq!(sweep(&home, &operator), 0);
        drop(inherited);
        assert_eq!(sweep(&home, &operator), 1);
        assert!(names(&operator).is_empty());
        assert_eq!(std::fs::read_dir(home.tenants_path()).unwrap().count(), 0);
    }

    #[test]
    fn drafts_of_a_tenant_go_with_it_and_no_others() {
        let (_dir, home) = home();
        let operator = home.operate().unwrap();
        let name = TenantName::parse(b"a.b").unwrap();
        home.make_tenant(&name).unwrap();
        let files = [".a.b.00000000000000000017", ".a.00000000000000000017", ".a.b.c.00000000000000000017"];
        files.iter().for_each(|file| std::fs::write(home.tenants_path().join(file), "half").unwrap());
        remove(&home, &operator, &name);
        assert_eq!(files.map(|file| home.tenants_path().join(file).exists()), [false, true, true]);
        assert_eq!(std::fs::read_dir(home.tenants_path()).unwrap().count(), 2);
    }

    #[test]
    fn a_named_tenant_is_never_swept() {
        let (_dir, home) = home();
        let operator = home.operate().unwrap();
        add(&operator, &TenantName::parse(b"training").unwrap(), false);
        assert_eq!(sweep(&home, &operator), 0);
        assert_eq!(names(&operator), ["training"]);
    }

    #[test]
    fn the_same_pid_in_another_namespace_gets_another_name() {
        let (_dir, home) = home();
        let operator = home.operate().unwrap();
        let (first, _held) = new_tenant(&home, &operator).unwrap();
        let (second, _held_too) = new_tenant(&home, &operator).unwrap();
        assert_eq!(second.to_string(), format!("{first}-2"));
    }
}
