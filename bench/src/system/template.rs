//! Placeholders in profiles.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::units::MIB;

/// What the placeholders of a profile stand for in one run.
pub struct Values<'a> {
    /// `{library}`: the library's path.
    pub library: Option<&'a Path>,
    /// `{memory_bytes}` and `{memory_mib}`: the limit.
    pub memory_bytes: u64,
    /// `{compute}`: the cap on GPU time in per cent; 100 is none.
    pub compute_percent: u32,
    /// `{device}`: the device's number.
    pub device: i32,
    /// `{tenant}`: the name of a tenant that shares its limits with others of that name.
    pub tenant: Option<&'a str>,
    /// `{scratch}`: a directory that lives as long as the run.
    pub scratch: &'a Path,
    /// `{shared_scratch}`: the same in the memory of the machine, for files that processes map.
    pub shared_scratch: &'a Path,
}

impl Values<'_> {
    /// Whether there is a cap on GPU time.
    pub fn is_capped(&self) -> bool {
        self.compute_percent < 100
    }

    /// `{scope}`: a word that differs between tenants and between limits.
    fn scope(&self) -> String {
        let tenant = self.tenant.unwrap_or("unnamed");
        format!("{tenant}-{}-{}", self.memory_bytes / MIB, self.compute_percent)
    }

    /// `text` with every placeholder replaced.
    pub fn expand(&self, text: &str) -> Result<String> {
        let mut expanded = String::new();
        for part in parts(text)? {
            match part {
                Part::Text(text) => expanded.push_str(text),
                Part::Placeholder(name) => expanded.push_str(&self.value(name)?),
            }
        }
        Ok(expanded)
    }

    fn value(&self, name: &str) -> Result<String> {
        let library = || self.library.context("the profile needs a library: give it as --system NAME=PATH");
        if let Some(tool) = name.strip_prefix("tool:") {
            return find_tool(tool).map(|path| path.display().to_string());
        }
        Ok(match name {
            "library" => library()?.display().to_string(),
            "memory_bytes" => self.memory_bytes.to_string(),
            "memory_mib" => (self.memory_bytes / MIB).to_string(),
            "compute" => self.compute_percent.to_string(),
            "device" => self.device.to_string(),
            "tenant" => {
                self.tenant.context("the profile asks for the name of a tenant that has none")?.to_owned()
            }
            "scope" => self.scope(),
            "scratch" => self.scratch.display().to_string(),
            "shared_scratch" => self.shared_scratch.display().to_string(),
            _ => bail!("`{{{name}}}` is not a placeholder of profiles"),
        })
    }
}

/// Fails on a placeholder that has no meaning.
pub(super) fn check(text: &str) -> Result<()> {
    const KNOWN: [&str; 9] = [
        "library",
        "memory_bytes",
        "memory_mib",
        "compute",
        "device",
        "tenant",
        "scope",
        "scratch",
        "shared_scratch",
    ];
    for part in parts(text)? {
        match part {
            Part::Placeholder(name) if !KNOWN.contains(&name) && !name.starts_with("tool:") => {
                bail!("`{{{name}}}` is not a placeholder of profiles: known are {KNOWN:?} and {{tool:NAME}}")
            }
            _ => {}
        }
    }
    Ok(())
}

enum Part<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn parts(text: &str) -> Result<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').with_context(|| format!("`{text}` has a `{{` without a `}}`"))?;
        parts.push(Part::Text(&rest[..open]));
        parts.push(Part::Placeholder(&rest[open + 1..open + close]));
        rest = &rest[open + close + 1..];
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// A command of ours: beside this program, else on PATH.
fn find_tool(name: &str) -> Result<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join(name));
    beside.into_iter().chain(on_path).find(|candidate| candidate.is_file()).with_context(|| {
        format!(
            "the command `{name}` was looked for beside cuota-bench and on PATH and was not found: build it, or \
             add its folder to PATH"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_text_is_kept() {
        let values = Values {
            library: Some(Path::new("/opt/lib/libx.so")),
            memory_bytes: 3 * MIB,
            compute_percent: 40,
            device: 1,
            tenant: Some("t"),
            scratch: Path::new("/s"),
            shared_scratch: Path::new("/m"),
        };
        let text =
            "a{memory_mib}m {memory_bytes} {library} {scratch}/c {compute} {device} {scope} {shared_scratch}";
        assert_eq!(values.expand(text).unwrap(), "a3m 3145728 /opt/lib/libx.so /s/c 40 1 t-3-40 /m");
        assert!(values.expand("{open").is_err());
    }

    #[test]
    fn a_missing_command_is_reported_with_where_it_was_looked_for() {
        let error = find_tool("no-such-command-of-ours").unwrap_err().to_string();
        assert!(error.contains("no-such-command-of-ours") && error.contains("PATH"), "{error}");
    }
}
