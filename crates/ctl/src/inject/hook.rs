//! An OCI `createContainer` hook, for runtimes that know no CDI and where nobody can put a mount on the command line
//! (opencontainers/runtime-spec, config.md, "POSIX-platform Hooks"). The hook is this command itself: [`super::container`].

use std::path::{Path, PathBuf};

use cuota_region::name::TenantName;
use serde::Serialize;

use crate::home::Home;

/// Where Podman and CRI-O look for hooks, unless their configuration names other folders (oci-hooks(5)).
pub(super) const FOLDER: &str = "/usr/share/containers/oci/hooks.d";

/// The container's annotation that names its tenant.
pub(super) const ANNOTATION: &str = "cuota.tenant";

/// The hook's file in `folder`.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("cuota.json")
}

#[derive(Serialize)]
struct Hook {
    path: PathBuf,
    args: Vec<String>,
}

fn hook(home: &Home, library: &Path, tenant: Option<&TenantName>) -> anyhow::Result<Hook> {
    let path = std::env::current_exe()?;
    let mut args: Vec<String> = ["cuota", "--dir"].map(String::from).to_vec();
    args.push(home.path().display().to_string());
    args.extend(["container-hook", "--lib"].map(String::from));
    args.push(library.display().to_string());
    args.extend(tenant.iter().flat_map(|tenant| ["--tenant".to_owned(), tenant.to_string()]));
    Ok(Hook { path, args })
}

/// The part of a container's `config.json` that runs the hook; for containers of `tenant`, or of the one that the annotation names.
pub(super) fn config(home: &Home, library: &Path, tenant: Option<&TenantName>) -> anyhow::Result<String> {
    let hooks = serde_json::json!({ "hooks": { "createContainer": [hook(home, library, tenant)?] } });
    Ok(serde_json::to_string_pretty(&hooks)? + "\n")
}

/// The hook's file for Podman and CRI-O: it runs for containers with the annotation.
pub(super) fn file(home: &Home, library: &Path) -> anyhow::Result<String> {
    let file = serde_json::json!({
        "version": "1.0.0",
        "hook": hook(home, library, None)?,
        "when": { "annotations": { format!("^{}$", ANNOTATION.replace('.', r"\.")): ".*" } },
        "stages": ["createContainer"],
    });
    Ok(serde_json::to_string_pretty(&file)? + "\n")
}
