//! A tenant as a device of the Container Device Interface: Docker, Podman, containerd and CRI-O add it to a container by its name
//! (<https://github.com/cncf-tags/container-device-interface>, SPEC.md).
//!
//! One file a tenant, so that what is installed for one is removed with it.

use std::path::{Path, PathBuf};

use cuota_region::name::TenantName;
use serde::Serialize;

use super::view::Mount;

/// Where the runtimes look for specs that last.
pub(super) const FOLDER: &str = "/etc/cdi";

/// Vendor and class of our devices.
const KIND: &str = "cuota/tenant";

/// A CDI spec.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: [Device; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Serialize)]
struct Edits {
    mounts: Vec<SpecMount>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecMount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: &'static [&'static str],
}

/// The mount options of a bind mount; what is not executable on this machine stays so.
fn options(writable: bool) -> &'static [&'static str] {
    if writable { &["bind", "rw", "nosuid", "nodev", "noexec"] } else { &["bind", "ro", "nosuid", "nodev"] }
}

/// The full name of a tenant's device.
pub(super) fn device(tenant: &TenantName) -> String {
    format!("{KIND}={tenant}")
}

/// The file of a tenant's spec in `folder`.
pub(super) fn path(folder: &Path, tenant: &TenantName) -> PathBuf {
    folder.join(format!("cuota-tenant-{tenant}.json"))
}

/// The spec of a tenant's device.
pub(super) fn spec(tenant: &TenantName, mounts: Vec<Mount>) -> anyhow::Result<String> {
    let name = tenant.as_str();
    let is_fit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    anyhow::ensure!(
        is_fit(name.as_bytes().first()) && is_fit(name.as_bytes().last()),
        "a device's name begins and ends with a letter or a digit, and the tenant is called {name}\n  choose another name for it"
    );
    // The lowest that knows all that is in it: names that begin with a digit came with 0.5.0 (SPEC.md, "Released versions").
    let cdi_version = if name.starts_with(|c: char| c.is_ascii_digit()) { "0.5.0" } else { "0.3.0" };
    let mounts = mounts
        .into_iter()
        .map(|Mount { source, target, writable }| SpecMount {
            host_path: source,
            container_path: target,
            options: options(writable),
        })
        .collect();
    let devices = [Device { name: name.to_owned(), container_edits: Edits { mounts } }];
    Ok(serde_json::to_string_pretty(&Spec { cdi_version, kind: KIND, devices })? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::view::View;
    use super::super::view::tests::{alice, home};
    use super::*;
    use serde_json::Value;

    /// The rules of SPEC.md for what a spec of ours can hold: no field that the version does not know, no value that a
    /// runtime refuses.
    fn check(text: &str) {
        let spec: Value = serde_json::from_str(text).unwrap();
        assert_eq!(keys(&spec), ["cdiVersion", "devices", "kind"]);
        let (vendor, class) = spec["kind"].as_str().unwrap().split_once('/').unwrap();
        for part in [vendor, class] {
            assert!(part.starts_with(|c: char| c.is_ascii_alphabetic()), "{part}");
            assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)), "{part}");
        }
        let digits_allowed = match spec["cdiVersion"].as_str().unwrap() {
            "0.3.0" => false,
            "0.5.0" => true,
            other => panic!("{other}"),
        };
        let devices = spec["devices"].as_array().unwrap();
        assert!(!devices.is_empty());
        for device in devices {
            assert_eq!(keys(device), ["containerEdits", "name"]);
            let name = device["name"].as_str().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b)), "{name}");
            assert!(
                name.starts_with(|c: char| c.is_ascii_alphabetic() || (digits_allowed && c.is_ascii_digit()))
            );
            assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            assert_eq!(keys(&device["containerEdits"]), ["mounts"]);
            for mount in device["containerEdits"]["mounts"].as_array().unwrap() {
                assert_eq!(keys(mount), ["containerPath", "hostPath", "options"]);
                for path in ["containerPath", "hostPath"] {
                    assert!(mount[path].as_str().unwrap().starts_with('/'), "{mount}");
                }
                assert!(mount["options"].as_array().unwrap().iter().all(Value::is_string));
            }
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    fn spec_of(name: &str) -> anyhow::Result<String> {
        let (_dir, home) = home();
        let name = TenantName::parse(name.as_bytes()).unwrap();
        spec(&name, View::of(&home, name).mounts(Path::new("/usr/lib/cuota/libcuota.so")).unwrap())
    }

    #[test]
    fn spec_follows_the_rules_of_the_lowest_version_that_knows_it() {
        for name in ["alice", "team-a.train_2", "7b"] {
            check(&spec_of(name).unwrap());
        }
    }

    #[test]
    fn tenant_whose_name_no_device_can_have_is_refused() {
        for name in ["_a", "a-", "-"] {
            let error = spec_of(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("choose another"), "{error}");
        }
    }

    #[test]
    fn only_what_the_tenant_writes_is_writable() {
        let (_dir, home) = home();
        let name = alice(&home);
        let text = spec(&name, View::of(&home, name).mounts(Path::new("/l/libcuota.so")).unwrap()).unwrap();
        let spec: Value = serde_json::from_str(&text).unwrap();
        for mount in spec["devices"][0]["containerEdits"]["mounts"].as_array().unwrap() {
            let is_tenants =
                mount["containerPath"].as_str().unwrap().starts_with("/dev/shm/cuota/tenant/alice.v1");
            let says = |what: &str| mount["options"].as_array().unwrap().contains(&what.into());
            assert_eq!((says("rw"), says("ro")), (is_tenants, !is_tenants), "{mount}");
        }
    }
}
