//! Profiles: how a system is started, how it is told its limit, and how it is recognised in a process.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::template::{self, Values};

/// The profiles that come with the binary, by name.
const BUILTIN: [(&str, &str); 5] = [
    ("native", include_str!("../../systems/native.toml")),
    ("cuota", include_str!("../../systems/cuota.toml")),
    ("hami", include_str!("../../systems/hami.toml")),
    ("fcsp", include_str!("../../systems/fcsp.toml")),
    ("mps", include_str!("../../systems/mps.toml")),
];

/// Whether `--system NAME=LIB` needs its LIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LibraryNeed {
    /// There is none.
    None,
    /// The system finds its own unless one is given.
    Optional,
    /// It must be given.
    Required,
}

/// A system's profile. In each text, `{...}` stands for a value of the run: see `template.rs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name that `--system` takes.
    pub name: String,
    /// One line for `list`.
    pub title: String,
    /// True when the system can hold a tenant to a memory limit: then it must prove that it does.
    pub limits_memory: bool,
    /// True when it can hold a tenant to a cap on GPU time (or, as MPS, on SMs): then it must prove that it does.
    pub limits_compute: bool,
    /// Whether a library must be given.
    pub library: LibraryNeed,
    /// Words before the tenant's own command.
    #[serde(default)]
    pub command: Vec<String>,
    /// Words after `command` when a library was given.
    #[serde(default)]
    pub command_with_library: Vec<String>,
    /// Words after these when the tenant has a cap on GPU time.
    #[serde(default)]
    pub command_with_compute: Vec<String>,
    /// Words after these when the tenant has a name, since others of that name share its limits.
    #[serde(default)]
    pub command_with_tenant: Vec<String>,
    /// Words after these, before the tenant's command.
    #[serde(default)]
    pub command_end: Vec<String>,
    /// Libraries for LD_PRELOAD.
    #[serde(default)]
    pub preload: Vec<String>,
    /// Variables of the tenant.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Further variables of a tenant that has a cap on GPU time.
    #[serde(default)]
    pub variables_with_compute: BTreeMap<String, String>,
    /// The command that changes the cap of a running tenant; empty where there is no way.
    #[serde(default)]
    pub set_compute: Vec<String>,
    /// What must run beside the tenants.
    pub daemon: Option<DaemonProfile>,
    /// The file that a process under this system has mapped; that of the given library where one is given.
    pub loaded: Option<String>,
}

/// A daemon that is started before the first tenant of a run and stopped after the last.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonProfile {
    /// The command that starts it, and returns.
    pub start: Vec<String>,
    /// The command that stops it.
    pub stop: Vec<String>,
    /// What that command reads.
    #[serde(default)]
    pub stop_input: String,
}

/// The names of the profiles that come with the binary.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

impl Profile {
    /// The profile `name` that comes with the binary.
    pub fn builtin(name: &str) -> Result<Self> {
        let Some((_, text)) = BUILTIN.iter().find(|(builtin, _)| *builtin == name) else {
            let known: Vec<&str> = builtin_names().collect();
            bail!("`{name}` is not a system that is known here: choose from {}", known.join(", "));
        };
        Self::read(text).with_context(|| format!("the profile of system `{name}`"))
    }

    /// Parses a profile and checks that every placeholder in it is known.
    pub fn read(text: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text)?;
        for text in profile.texts() {
            template::check(text)?;
        }
        let is_recognised =
            profile.loaded.is_some() || profile.library == LibraryNeed::Required || profile.daemon.is_some();
        if profile.limits_memory && !is_recognised {
            bail!(
                "a profile with `limits_memory` and its own library needs `loaded`, the file that shows it in a process, or a `daemon`"
            );
        }
        Ok(profile)
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let daemon = self.daemon.iter().flat_map(|daemon| [&daemon.start, &daemon.stop]);
        let command = [&self.command, &self.command_with_library, &self.command_with_compute];
        let rest = [&self.command_with_tenant, &self.command_end, &self.preload, &self.set_compute];
        let words = command.into_iter().chain(rest).chain(daemon).flatten();
        let variables = self.variables.values().chain(self.variables_with_compute.values());
        words.chain(variables).chain(&self.loaded).map(String::as_str)
    }

    /// The words before the tenant's own command.
    pub fn prefix(&self, values: &Values<'_>) -> Result<Vec<String>> {
        let when = |condition: bool, words| if condition { words } else { &[][..] };
        let words = self
            .command
            .iter()
            .chain(when(values.library.is_some(), &self.command_with_library))
            .chain(when(values.is_capped(), &self.command_with_compute))
            .chain(when(values.tenant.is_some(), &self.command_with_tenant))
            .chain(&self.command_end);
        words.map(|word| values.expand(word)).collect()
    }

    /// The tenant's variables, LD_PRELOAD included.
    pub fn environment(&self, values: &Values<'_>) -> Result<BTreeMap<String, String>> {
        let with_compute = values.is_capped().then_some(&self.variables_with_compute);
        let mut variables = self
            .variables
            .iter()
            .chain(with_compute.into_iter().flatten())
            .map(|(name, text)| Ok((name.clone(), values.expand(text)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        if !self.preload.is_empty() {
            let libraries =
                self.preload.iter().map(|text| values.expand(text)).collect::<Result<Vec<_>>>()?;
            variables.insert("LD_PRELOAD".to_owned(), libraries.join(":"));
        }
        Ok(variables)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::units::GIB;

    fn values(library: Option<&Path>) -> Values<'_> {
        Values {
            library,
            memory_bytes: 8 * GIB,
            compute_percent: 100,
            device: 0,
            tenant: None,
            scratch: Path::new("/scratch"),
            shared_scratch: Path::new("/dev/shm/scratch"),
        }
    }

    #[test]
    fn every_profile_that_comes_with_the_binary_parses_under_its_own_name() {
        for name in builtin_names() {
            assert_eq!(Profile::builtin(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_system_is_answered_with_the_known_ones() {
        let error = Profile::builtin("hammy").unwrap_err().to_string();
        assert!(error.contains("hammy") && error.contains("native, cuota, hami, fcsp, mps"), "{error}");
    }

    #[test]
    fn a_preloaded_system_gets_its_library_and_limit_through_variables() {
        let profile = Profile::builtin("hami").unwrap();
        let library = Path::new("/opt/libvgpu.so");
        let environment = profile.environment(&values(Some(library))).unwrap();
        assert_eq!(environment["LD_PRELOAD"], "/opt/libvgpu.so");
        assert_eq!(environment["CUDA_DEVICE_MEMORY_LIMIT"], "8192m");
        assert!(profile.prefix(&values(Some(library))).unwrap().is_empty());
    }

    #[test]
    fn a_cap_and_a_tenants_name_are_passed_only_where_there_are_any() {
        let hami = Profile::builtin("hami").unwrap();
        let library = Path::new("/opt/libvgpu.so");
        let free = hami.environment(&values(Some(library))).unwrap();
        assert!(!free.contains_key("CUDA_DEVICE_SM_LIMIT"));
        let capped = Values { compute_percent: 25, ..values(Some(library)) };
        let capped = hami.environment(&capped).unwrap();
        assert_eq!(capped["CUDA_DEVICE_SM_LIMIT"], "25");
        // Its file keeps the limits of whoever created it.
        assert_ne!(free["CUDA_DEVICE_MEMORY_SHARED_CACHE"], capped["CUDA_DEVICE_MEMORY_SHARED_CACHE"]);
        let text = "name='x'\ntitle='x'\nlimits_memory=false\nlimits_compute=false\nlibrary='none'\n\
                    command=['run']\ncommand_with_tenant=['--tenant','{tenant}']\n";
        let profile = Profile::read(text).unwrap();
        let named = Values { tenant: Some("b"), ..values(None) };
        assert_eq!(profile.prefix(&values(None)).unwrap(), ["run"]);
        assert_eq!(profile.prefix(&named).unwrap(), ["run", "--tenant", "b"]);
    }

    #[test]
    fn a_field_or_placeholder_that_nobody_reads_is_an_error() {
        let base = "name='x'\ntitle='x'\nlimits_memory=false\nlimits_compute=false\nlibrary='none'\n";
        assert!(Profile::read(base).is_ok());
        assert!(Profile::read(&format!("{base}comand=[]")).is_err());
        let error = Profile::read(&format!("{base}preload=['{{libary}}']")).unwrap_err().to_string();
        assert!(error.contains("{libary}"), "{error}");
    }

    #[test]
    fn a_limiting_system_must_say_how_it_is_recognised() {
        let text = "name='x'\ntitle='x'\nlimits_memory=true\nlimits_compute=false\nlibrary='none'\n";
        assert!(Profile::read(text).unwrap_err().to_string().contains("`loaded`"));
    }

    #[test]
    fn words_for_a_library_appear_only_when_one_is_given() {
        let text = "name='x'\ntitle='x'\nlimits_memory=false\nlimits_compute=false\nlibrary='optional'\ncommand=['run']\n\
                    command_with_library=['--library','{library}']\ncommand_end=['--']\n";
        let profile = Profile::read(text).unwrap();
        assert_eq!(profile.prefix(&values(None)).unwrap(), ["run", "--"]);
        let with = profile.prefix(&values(Some(Path::new("/l.so")))).unwrap();
        assert_eq!(with, ["run", "--library", "/l.so", "--"]);
    }
}
