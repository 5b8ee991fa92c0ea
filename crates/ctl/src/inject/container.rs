//! The hook itself: puts the library, the list that preloads it and the tenant's view into a container that a runtime is making.
//!
//! It runs in the container's mount namespace before the root is changed, so it sees this machine's files and the container's
//! mounts. Where it fails the runtime makes no container.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cuota_region::name::TenantName;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use serde::Deserialize;

use super::hook::ANNOTATION;
use super::in_root::{Root, path_of};
use super::readable;
use super::view::{Mount, View};
use crate::cli::ContainerHook;
use crate::home::Home;
use crate::{locate, status};

/// What the runtime writes to the hook's standard input (runtime-spec, runtime.md, "State").
#[derive(Deserialize)]
struct State {
    bundle: PathBuf,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What is needed of the bundle's `config.json`.
#[derive(Deserialize)]
struct Config {
    root: ConfigRoot,
}

#[derive(Deserialize)]
struct ConfigRoot {
    path: PathBuf,
}

/// Runs the hook. Returns the exit status: any but 0 ends the making of the container.
pub(crate) fn container_hook(home: &Home, asked: &ContainerHook) -> u8 {
    match enter(home, asked) {
        Ok(()) => status::OK,
        Err(error) => {
            eprintln!("cuota: {error:#}");
            status::PROBLEM
        }
    }
}

fn enter(home: &Home, asked: &ContainerHook) -> anyhow::Result<()> {
    // The folders that are made in the container are for its users.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the container's state from standard input")?;
    let state: State = serde_json::from_str(&text)
        .context("standard input holds no state of a container\n  a container runtime starts this command, as a createContainer hook")?;
    let tenant = tenant(asked.tenant, &state)?;
    let view = View::of(home, tenant);
    anyhow::ensure!(
        view.path().is_dir(),
        "tenant {tenant} is not set up for containers: there is no {}\n  cuota inject --hook --tenant {tenant} --memory SIZE --install",
        view.path().display()
    );
    let library = locate::library(asked.lib.as_deref())?;
    readable::in_its_folder(&library)?;
    let root = root_path(&state.bundle)?;
    let root =
        Root::at(&root).with_context(|| format!("cannot open the container's root {}", root.display()))?;
    // The image is the tenant's choice: a link of its own it could remove, and the list with it.
    let root = root.without_links();
    view.mounts(&library)?.iter().try_for_each(|mount| bind(&root, mount))
}

fn tenant(asked: Option<TenantName>, state: &State) -> anyhow::Result<TenantName> {
    if let Some(tenant) = asked {
        return Ok(tenant);
    }
    let Some(name) = state.annotations.get(ANNOTATION) else {
        anyhow::bail!(
            "the container names no tenant\n  give it the annotation {ANNOTATION}=NAME, or the hook --tenant NAME"
        );
    };
    TenantName::parse(name.as_bytes())
        .map_err(|bad| anyhow::anyhow!("annotation {ANNOTATION}={name}: {bad}\n  name a tenant"))
}

/// The container's root: in its configuration, relative to the bundle.
fn root_path(bundle: &Path) -> anyhow::Result<PathBuf> {
    let path = bundle.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config: Config = serde_json::from_str(&text)
        .with_context(|| format!("{} is no configuration of a container", path.display()))?;
    Ok(bundle.join(config.root.path))
}

fn bind(root: &Root, mount: &Mount) -> anyhow::Result<()> {
    let bind = || -> std::io::Result<()> {
        let is_folder = std::fs::metadata(&mount.source)?.is_dir();
        let place = if is_folder { root.make_folder(&mount.target)? } else { root.make_file(&mount.target)? };
        mount_bind(&mount.source, path_of(&place))?;
        // Opened again: the first descriptor leads to what is below the mount now.
        let mounted = root.open(&mount.target, OFlags::PATH, 0)?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        flags |= if mount.writable { MountFlags::NOEXEC } else { MountFlags::RDONLY };
        mount_remount(path_of(&mounted), flags, c"")?;
        Ok(())
    };
    bind().with_context(|| {
        format!("cannot mount {} at {} of the container", mount.source.display(), mount.target.display())
    })
}
