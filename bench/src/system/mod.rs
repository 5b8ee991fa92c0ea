//! What is measured: a way to share the GPU, described by a profile.

mod daemon;
mod launcher;
mod profile;
mod proof;
mod session;
mod template;

pub use launcher::{Launcher, Running, Start, Tracked};
pub use profile::{LibraryNeed, Profile, builtin_names};
pub use proof::{Proof, ProofReport, ceiling_bytes, judge, judge_compute, work as proof_work};
pub use session::{Moment, Session};

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A profile with the library that the user gave for it.
#[derive(Clone, Debug)]
pub struct System {
    /// The name in results: the profile's, with a number when the same one is measured twice (A/A).
    pub label: String,
    /// How it is started and proved.
    pub profile: Profile,
    /// Its library, as an absolute path.
    pub library: Option<PathBuf>,
}

impl System {
    /// Reads `NAME` or `NAME=LIB`.
    ///
    /// # Errors
    /// In words, when the name is unknown, or the library is missing, not a file, or not wanted.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, library) = match text.split_once('=') {
            Some((name, library)) => (name, Some(Path::new(library))),
            None => (text, None),
        };
        let profile = Profile::builtin(name)?;
        let library = match (profile.library, library) {
            (LibraryNeed::None, Some(_)) => {
                bail!("system `{name}` takes no library: write `--system {name}`")
            }
            (LibraryNeed::Required, None) => {
                bail!("system `{name}` needs its library: write `--system {name}=PATH`")
            }
            (_, None) => None,
            (_, Some(path)) => Some(existing_file(name, path)?),
        };
        Ok(Self { label: name.to_owned(), profile, library })
    }

    /// The file name of the library, for finding it among what a process has mapped.
    pub fn library_file(&self) -> Option<&str> {
        self.library.as_deref()?.file_name()?.to_str()
    }
}

/// The systems of one run: native first, since everything is paired with it; a repeated name gets a number.
pub fn resolve(texts: &[String]) -> Result<Vec<System>> {
    let mut systems = texts.iter().map(|text| System::parse(text)).collect::<Result<Vec<_>>>()?;
    match systems.iter().position(|system| system.label == "native") {
        Some(index) => {
            let native = systems.remove(index);
            systems.insert(0, native);
        }
        None => systems.insert(0, System::parse("native")?),
    }
    for index in 0..systems.len() {
        let earlier =
            systems[..index].iter().filter(|s| s.profile.name == systems[index].profile.name).count();
        if earlier > 0 {
            systems[index].label = format!("{}#{}", systems[index].profile.name, earlier + 1);
        }
    }
    Ok(systems)
}

fn existing_file(name: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        bail!(
            "the library of system `{name}` was given as {}, and there is no such file: give the path of the \
             built library",
            path.display()
        );
    }
    path.canonicalize().with_context(|| format!("the path {} cannot be resolved", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn native_is_always_measured_and_comes_first() {
        let labels = |list: &[&str]| -> Vec<String> {
            resolve(&texts(list)).unwrap().into_iter().map(|system| system.label).collect()
        };
        assert_eq!(labels(&[]), ["native"]);
        assert_eq!(labels(&["cuota"]), ["native", "cuota"]);
        assert_eq!(labels(&["cuota", "native"]), ["native", "cuota"]);
    }

    #[test]
    fn the_same_system_twice_is_an_a_a_run() {
        let systems = resolve(&texts(&["native", "native"])).unwrap();
        assert_eq!(systems[1].label, "native#2");
    }

    #[test]
    fn a_missing_library_is_named_with_what_to_write() {
        let error = System::parse("hami=/no/such/libvgpu.so").unwrap_err().to_string();
        assert!(error.contains("/no/such/libvgpu.so") && error.contains("no such file"), "{error}");
        let error = System::parse("hami").unwrap_err().to_string();
        assert!(error.contains("--system hami=PATH"), "{error}");
        let error = System::parse("native=/bin/true").unwrap_err().to_string();
        assert!(error.contains("takes no library"), "{error}");
    }
}
