//! `cuota inject`: puts the library into containers, and what it needs to hold them to a quota that they cannot change.
//!
//! - [`view`]: what a container sees of the directory.
//! - [`cdi`], [`hook`], [`preload`]: the ways in.
//! - [`container`]: the hook at work, inside a container that is being made.
//! - [`mounted`]: whose mounts a folder is among.
//! - [`readable`]: whether every user can load the library.
//! - [`in_root`], [`mod@file`]: paths below another root, and files that are written whole.

mod cdi;
mod container;
mod file;
mod hook;
mod in_root;
pub(crate) mod mounted;
mod preload;
mod readable;
mod view;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cuota_region::header::Unusable;
use cuota_region::name::TenantName;
use cuota_region::{member, sys};

pub(crate) use container::container_hook;

use crate::claim::Claim;
use crate::cli::Inject;
use crate::doctor::files::label_advice;
use crate::home::Home;
use crate::{lease, locate, output, run, status};
use preload::Preload;
use view::View;

/// Does what was asked, and says what was changed. Returns the exit status.
pub(crate) fn inject(home: &Home, asked: &Inject) -> u8 {
    // What is made here is for other users, too; what is not says so by its own mode.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    let done = match (asked.print, asked.install) {
        (true, _) => print(home, asked),
        (_, true) => install(home, asked),
        _ => remove(home, asked),
    };
    match done {
        Ok(text) => output::show(&text),
        Err(error) => {
            eprintln!("cuota: {error:#}");
            status::PROBLEM
        }
    }
}

/// The folder that the way's file lies in.
fn folder(asked: &Inject) -> &Path {
    let usual = if asked.cdi { cdi::FOLDER } else { hook::FOLDER };
    asked.folder.as_deref().unwrap_or(Path::new(usual))
}

fn root(asked: &Inject) -> &Path {
    asked.root.as_deref().unwrap_or(Path::new("/"))
}

fn needed(tenant: Option<TenantName>) -> anyhow::Result<TenantName> {
    tenant.ok_or_else(|| anyhow::anyhow!("whose container is it?\n  name the tenant with --tenant"))
}

fn print(home: &Home, asked: &Inject) -> anyhow::Result<String> {
    let library = locate::library(asked.lib.as_deref())?;
    if asked.preload {
        return Ok(format!("{}\n", Preload::below(root(asked))?.library_path(&library).display()));
    }
    if asked.hook {
        return hook::config(home, &library, asked.tenant.as_ref());
    }
    let tenant = needed(asked.tenant)?;
    let mounts = View::of(home, tenant).mounts(&library)?;
    if asked.cdi {
        return cdi::spec(&tenant, mounts);
    }
    let mut text = String::new();
    for mount in mounts {
        let (source, target) = (mount.source.display(), mount.target.display());
        anyhow::ensure!(
            !mount.source.to_string_lossy().contains([':', ' ']),
            "{source} cannot be written as an option: it has a colon or a space\n  use --cdi"
        );
        writeln!(text, "--volume={source}:{target}{}", if mount.writable { "" } else { ":ro" })?;
    }
    Ok(text)
}

fn install(home: &Home, asked: &Inject) -> anyhow::Result<String> {
    let library = locate::library(asked.lib.as_deref())?;
    if asked.preload {
        // Into another root file system it is copied, with modes of our own.
        if root(asked) == Path::new("/") {
            readable::by_its_path(&library)?;
        }
        return Ok(list(&Preload::below(root(asked))?.install(&library)?));
    }
    readable::in_its_folder(&library)?;
    let mut text = String::new();
    if asked.hook {
        let path = hook::path(folder(asked));
        let changed = file::write(&path, hook::file(home, &library)?.as_bytes(), 0o644)?;
        text += &list(changed.then_some(path).as_slice());
        if asked.tenant.is_none() {
            return Ok(text);
        }
    }
    let tenant = needed(asked.tenant)?;
    // Before anything is made: a name or a path that the spec cannot hold.
    let view = View::of(home, tenant);
    let mounts = view.mounts(&library)?;
    let spec = asked.cdi.then(|| cdi::spec(&tenant, mounts)).transpose()?;
    // Until all is done: of two that set a tenant up, or away, each finds all or nothing.
    let operator = home.operate()?;
    home.refuse_if_others_change_it()?;
    view.refuse_if_open(asked.user)?;
    let policy = operator.writer.policy();
    view.begin(policy.rows().any(|row| row.tenant == tenant))?;
    run::set_named(&operator, &tenant, asked.memory, asked.compute, &Claim::default())?;
    home.make_tenant(&tenant)?;
    view.make(asked.user)?;
    if let Some(spec) = spec {
        let path = cdi::path(folder(asked), &tenant);
        let changed = file::write(&path, spec.as_bytes(), 0o644)?;
        text += &list(changed.then_some(path).as_slice());
    }
    drop(operator);
    if let Some(advice) = label_advice(home) {
        writeln!(
            text,
            "SELinux is on: let containers write the tenants' files, else they are granted nothing: {advice}"
        )?;
    }
    text += &match (asked.cdi, asked.hook) {
        (true, _) => format!("containers of {tenant}: --device {}\n", cdi::device(&tenant)),
        (_, true) => format!("containers of {tenant}: --annotation {}={tenant}\n", hook::ANNOTATION),
        _ => format!(
            "containers of {tenant}: the options that `cuota inject --volumes --tenant {tenant} --print` prints\n"
        ),
    };
    Ok(text)
}

fn remove(home: &Home, asked: &Inject) -> anyhow::Result<String> {
    if asked.preload {
        return Ok(removed(Preload::below(root(asked))?.remove()?));
    }
    let mut gone = Vec::new();
    let Some(tenant) = asked.tenant else {
        anyhow::ensure!(asked.hook, "whose container is it?\n  name the tenant with --tenant");
        let path = hook::path(folder(asked));
        gone.extend(file::remove(&path)?.then_some(path));
        return Ok(removed(gone));
    };
    let view = View::of(home, tenant);
    let operator = view.has_any().then(|| home.operate()).transpose()?;
    if operator.is_some() {
        home.refuse_if_others_change_it()?;
    }
    refuse_if_used(home, &tenant, &view)?;
    if asked.cdi {
        let path = cdi::path(folder(asked), &tenant);
        gone.extend(file::remove(&path)?.then_some(path));
    } else if cdi::path(Path::new(cdi::FOLDER), &tenant).exists() {
        anyhow::bail!(
            "tenant {tenant} is set up as a CDI device, too\n  remove that first: cuota inject --cdi --tenant {tenant} --remove"
        );
    }
    if let Some(operator) = operator {
        match view.is_begun() {
            true if view.is_kept() => lease::remove_files(home, &tenant),
            true => lease::remove(home, &operator, &tenant),
            // Not set up by this command, or not at all.
            false => {}
        }
        gone.extend(view.remove()?.then_some(view.path()));
    }
    Ok(removed(gone))
}

/// Programs would go on without books, and those that a container starts later without the library: what a running container
/// has mounted from the view goes with it.
fn refuse_if_used(home: &Home, tenant: &TenantName, view: &View) -> anyhow::Result<()> {
    let lives = match member::anyone_lives(home.files(), tenant) {
        // Only where there are no books is it sure that nobody keeps any.
        Err(Unusable::System(sys::Errno(libc::ENOENT))) => false,
        other => other.map_err(|why| {
            anyhow::anyhow!("cannot tell whether programs of tenant {tenant} run: {why}\n  do it as root")
        })?,
    };
    anyhow::ensure!(
        !lives,
        "programs of tenant {tenant} still run, and would go on without books\n  stop its containers first; `cuota ps` lists them"
    );
    if let Some(process) = mounted::who_has(&view.path())? {
        anyhow::bail!(
            "containers of tenant {tenant} still run: process {process} has {} mounted, and what it starts later would run \
             without the library\n  stop its containers first",
            view.path().display()
        );
    }
    Ok(())
}

fn list(changed: &[PathBuf]) -> String {
    changed.iter().fold(String::new(), |text, path| text + &format!("written: {}\n", path.display()))
}

fn removed(gone: Vec<PathBuf>) -> String {
    gone.iter().fold(String::new(), |text, path| text + &format!("removed: {}\n", path.display()))
}
