//! `cuota run`: makes the tenant, then becomes the program.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cuota_governor::cap::Cap;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::path::{ASSIGNED, open_operators};
use cuota_region::policy::{Limits, MemoryLimit};
use cuota_region::{DEFAULT_DIR, DEFAULT_PATH, DIR_VARIABLE, TENANT_VARIABLE, sys};

use crate::claim::{self, Claim};
use crate::cli::Run;
use crate::home::{Home, Operator, Trouble};
use crate::{lease, locate, status};

/// The tenant that a program is to run as.
struct Place {
    tenant: TenantName,
    /// Kept open for the program to inherit, where the tenant is ephemeral.
    lease: Option<OwnedFd>,
}

/// Runs the program in this process. Returns only where that fails: the exit status, after a message.
pub(crate) fn run(home: &Home, asked: &Run) -> u8 {
    let Some((program, arguments)) = asked.command.split_first() else {
        return status::USAGE; // Clap requires a program.
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let place = match prepare(home, asked, &mut command) {
        Ok(place) => place,
        Err(error) => {
            eprintln!("cuota: {error:#}");
            return status::OWN_FAILURE;
        }
    };
    let error = command.exec();
    eprintln!("cuota: cannot run {}: {error}", program.display());
    forget(home, place);
    // As shells answer: POSIX, "Exit Status for Commands".
    if error.kind() == io::ErrorKind::NotFound { status::NOT_FOUND } else { status::CANNOT_EXECUTE }
}

fn prepare(home: &Home, asked: &Run, command: &mut Command) -> anyhow::Result<Place> {
    let library = locate::library(asked.lib.as_deref())?;
    command.env("LD_PRELOAD", preload(&library, std::env::var_os("LD_PRELOAD"))?);
    if asked.sim {
        let folder = locate::sim()?;
        command.env("LD_LIBRARY_PATH", before(folder.as_os_str(), std::env::var_os("LD_LIBRARY_PATH")));
    }
    if let Some(device) = &asked.device {
        command.env("CUDA_VISIBLE_DEVICES", &device.visible);
        // CUDA counts the fastest first unless told otherwise, nvidia-smi by PCI address (CUDA programming guide,
        // "CUDA Environment Variables").
        if device.by_index && std::env::var_os("CUDA_DEVICE_ORDER").is_none() {
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        }
    }
    let place = take_place(home, asked)?;
    command.env(DIR_VARIABLE, home.path()).env(TENANT_VARIABLE, place.tenant.as_str());
    Ok(place)
}

/// The tenant: made or changed where the directory is this user's, else the one that its owner has set up.
fn take_place(home: &Home, asked: &Run) -> anyhow::Result<Place> {
    let operator = match home.operate() {
        Ok(operator) => operator,
        Err(trouble)
            if is_anothers(home, &trouble)
                && asked.memory.is_none()
                && asked.compute.is_none()
                && asked.claim.is_empty()
                && asked.tenant.is_none() =>
        {
            return Ok(Place { tenant: assigned_tenant()?, lease: None });
        }
        Err(trouble) => return Err(trouble.into()),
    };
    lease::sweep(home, &operator);
    match asked.tenant {
        Some(tenant) => {
            set_named(&operator, &tenant, asked.memory, asked.compute, &asked.claim)?;
            home.make_tenant(&tenant)?;
            Ok(Place { tenant, lease: None })
        }
        None => {
            let memory = asked.memory.unwrap_or(MemoryLimit::Unlimited);
            let limits = asked.claim.apply(asked.compute, Limits::of_memory(memory))?;
            let (tenant, lease) = lease::new_tenant(home, &operator)?;
            set(&operator, &tenant, GpuId::ANY, Limits { ephemeral: true, ..limits })?;
            Ok(Place { tenant, lease: Some(lease.hand_on()?) })
        }
    }
}

fn is_anothers(home: &Home, trouble: &Trouble) -> bool {
    let refused = match trouble {
        Trouble::OthersOwn { .. } => true,
        Trouble::Failed { error, .. } => {
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        }
        Trouble::OthersChange(_) | Trouble::Unusable { .. } | Trouble::TooLong(_) | Trouble::OfHami(_) => {
            false
        }
    };
    refused && matches!(home.policy(), Ok(Some(_)))
}

/// The tenant that the operator has assigned to this container, else the one that the environment names: as the shim
/// itself would take it.
pub(crate) fn assigned_tenant() -> anyhow::Result<TenantName> {
    if let Some(file) = open_operators(DEFAULT_PATH, ASSIGNED) {
        let mut name = [0; 64];
        let bytes = sys::read(&file, &mut name).unwrap_or(0);
        return TenantName::parse(name.get(..bytes).unwrap_or(&[])).map_err(|bad| {
            anyhow::anyhow!("{DEFAULT_DIR}/assigned: {bad}\n  set the container up again with `cuota inject`")
        });
    }
    match std::env::var_os(TENANT_VARIABLE).filter(|name| !name.is_empty()) {
        Some(name) => TenantName::parse(name.as_bytes()).map_err(|bad| {
            anyhow::anyhow!("{TENANT_VARIABLE}={}: {bad}\n  unset it, or name a tenant", name.display())
        }),
        None => Ok(TenantName::DEFAULT),
    }
}

/// A named tenant keeps what it has; a limit that is asked for holds on each GPU.
pub(crate) fn set_named(
    operator: &Operator,
    tenant: &TenantName,
    memory: Option<MemoryLimit>,
    compute: Option<Cap>,
    claim: &Claim,
) -> anyhow::Result<()> {
    let policy = operator.writer.policy();
    let mut entries: Vec<(GpuId, Limits)> =
        policy.rows().filter(|row| row.tenant == *tenant).map(|row| (row.gpu, row.limits)).collect();
    if memory.is_none() && compute.is_none() && claim.is_empty() && !entries.is_empty() {
        return Ok(());
    }
    if !entries.iter().any(|(gpu, _)| *gpu == GpuId::ANY) {
        entries.push((GpuId::ANY, Limits::of_memory(MemoryLimit::Unlimited)));
    }
    let mut changes = Vec::new();
    for (gpu, before) in entries {
        let before = Limits { memory: memory.unwrap_or(before.memory), ephemeral: false, ..before };
        let limits = claim.apply(compute, before)?;
        claim::check(policy, tenant, gpu, limits)?;
        changes.push((gpu, limits));
    }
    // All of them or none.
    changes.into_iter().try_for_each(|(gpu, limits)| set(operator, tenant, gpu, limits))
}

fn set(operator: &Operator, tenant: &TenantName, gpu: GpuId, limits: Limits) -> anyhow::Result<()> {
    claim::check(operator.writer.policy(), tenant, gpu, limits)?;
    claim::say_where_it_holds(limits);
    operator.writer.set(tenant, gpu, limits).map_err(|_| {
        anyhow::anyhow!(
            "the policy has no room for tenant {tenant}: all {} entries are taken\n  name a directory of its own with \
             --dir",
            cuota_region::policy::ENTRIES
        )
    })
}

/// Undoes what [`take_place`] did for a program that could not be started.
fn forget(home: &Home, place: Place) {
    if place.lease.is_some()
        && let Ok(operator) = home.operate()
    {
        lease::remove(home, &operator, &place.tenant);
    }
}

/// A library's path that `LD_PRELOAD` cannot hold.
#[derive(Debug)]
struct NotPreloadable<'a>(&'a Path);

impl fmt::Display for NotPreloadable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cannot be preloaded: its path has a space, a colon or a dollar sign, which mean something in \
             LD_PRELOAD (ld.so(8))\n  copy the library to a path without them, and name that with --lib",
            self.0.display()
        )
    }
}

/// The value of `LD_PRELOAD`: the library first, then what was there.
fn preload(library: &Path, existing: Option<OsString>) -> anyhow::Result<OsString> {
    let name = library.as_os_str();
    if name.as_bytes().iter().any(|b| matches!(b, b' ' | b':' | b'$')) {
        anyhow::bail!("{}", NotPreloadable(library));
    }
    let others = existing.unwrap_or_default();
    let others =
        others.as_bytes().split(|b| matches!(b, b' ' | b':')).filter(|other| *other != name.as_bytes());
    let others: Vec<&[u8]> = others.filter(|other| !other.is_empty()).collect();
    let rest = others.join(&b':');
    Ok(before(name, (!rest.is_empty()).then(|| OsStr::from_bytes(&rest).to_owned())))
}

/// `first`, then what was there, as lists of paths are written.
fn before(first: &OsStr, existing: Option<OsString>) -> OsString {
    let mut list = first.to_owned();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        list.push(":");
        list.push(existing);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_library_comes_first_and_once() {
        let library = Path::new("/lib/libcuota.so");
        let with = |existing: &str| preload(library, Some(existing.into())).unwrap();
        assert_eq!(preload(library, None).unwrap(), "/lib/libcuota.so");
        assert_eq!(with("/a.so /b.so"), "/lib/libcuota.so:/a.so:/b.so");
        assert_eq!(with("/a.so:/lib/libcuota.so"), "/lib/libcuota.so:/a.so");
        assert_eq!(with(""), "/lib/libcuota.so");
    }

    #[test]
    fn a_path_that_the_variable_cannot_hold_is_refused() {
        assert!(preload(Path::new("/my libs/libcuota.so"), None).is_err());
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        (dir, home)
    }

    fn limits(home: &Home, tenant: &TenantName) -> Vec<(GpuId, MemoryLimit)> {
        let policy = home.policy().unwrap().unwrap();
        let rows = policy.rows().filter(|row| row.tenant == *tenant);
        rows.map(|row| (row.gpu, row.limits.memory)).collect()
    }

    #[test]
    fn a_named_tenant_keeps_its_quota_until_another_is_asked_for() {
        let (_dir, home) = home();
        let (name, gpu) = (TenantName::parse(b"alice").unwrap(), GpuId::from_words([1, 2]));
        let (operator, none) = (home.operate().unwrap(), Claim::default());
        set_named(&operator, &name, Some(MemoryLimit::Bytes(5)), None, &none).unwrap();
        set_named(&operator, &name, None, None, &none).unwrap();
        assert_eq!(limits(&home, &name), [(GpuId::ANY, MemoryLimit::Bytes(5))]);
        operator.writer.set(&name, gpu, Limits::of_memory(MemoryLimit::Bytes(9))).unwrap();
        let half = Cap::from_ppm(500_000).unwrap();
        set_named(&operator, &name, None, Some(half), &none).unwrap();
        set_named(&operator, &name, Some(MemoryLimit::Bytes(7)), None, &none).unwrap();
        let caps: Vec<Cap> = home.policy().unwrap().unwrap().rows().map(|row| row.limits.compute).collect();
        assert_eq!(caps, [half, half]);
        assert_eq!(limits(&home, &name), [(GpuId::ANY, MemoryLimit::Bytes(7)), (gpu, MemoryLimit::Bytes(7))]);
    }
}
