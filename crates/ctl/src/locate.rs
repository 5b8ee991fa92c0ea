//! Where `libcuota.so` and the software GPU are.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The name of the library that is preloaded.
pub(crate) const LIBRARY: &str = "libcuota.so";

/// The dynamic linker's list of libraries for every program (ld.so(8)).
pub(crate) const PRELOAD_LIST: &str = "/etc/ld.so.preload";

/// Names the library; `--lib` comes first.
pub(crate) const LIBRARY_VARIABLE: &str = "CUOTA_LIB";

/// Names the folder of the software GPU.
pub(crate) const SIM_VARIABLE: &str = "CUOTA_SIM_LIB";

/// What the software GPU's folder holds.
pub(crate) const SIM_LIBRARIES: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];

/// Why a library cannot be used.
#[derive(Debug)]
pub(crate) enum Missing {
    /// It is at none of the places where it is looked for.
    Nowhere {
        /// What was looked for.
        what: &'static str,
        /// Where.
        places: Vec<PathBuf>,
        /// How to say where it is.
        advice: String,
    },
    /// It was named, and cannot be used.
    Named {
        /// The path that was given.
        path: PathBuf,
        /// Who gave it: an option or a variable.
        by: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Nowhere { what, places, advice } => {
                write!(f, "{what} was not found; looked for")?;
                places.iter().try_for_each(|place| write!(f, "\n    {}", place.display()))?;
                write!(f, "\n  {advice}")
            }
            Missing::Named { path, by, why } => {
                write!(f, "{by} names {}, {why}; name another or leave it out", path.display())
            }
        }
    }
}

impl std::error::Error for Missing {}

/// Finds `libcuota.so`: `named` (`--lib`), else the variable, else the one that every program loads anyway, since two copies in one
/// process would each count what it takes, else where it is installed.
///
/// # Errors
/// Where it was looked for, or what is wrong with the named one.
pub(crate) fn library(named: Option<&Path>) -> Result<PathBuf, Missing> {
    if let Some((path, by)) = given(named, "--lib", LIBRARY_VARIABLE) {
        return usable(&path).map_err(|why| Missing::Named { path, by, why });
    }
    let preloaded = std::fs::read_to_string(PRELOAD_LIST).ok().and_then(|list| preloaded(&list));
    let installed = folders("").into_iter().map(|folder| folder.join(LIBRARY));
    let places: Vec<PathBuf> = preloaded.map(PathBuf::from).into_iter().chain(installed).collect();
    let advice = format!(
        "build it with `cargo build --release -p cuota-shim`, or name it with --lib or {LIBRARY_VARIABLE}"
    );
    let found = places.iter().find_map(|place| usable(place).ok());
    found.ok_or(Missing::Nowhere { what: LIBRARY, places, advice })
}

/// Finds the folder with the software GPU's `libcuda.so.1` and `libnvidia-ml.so.1`.
///
/// # Errors
/// Where it was looked for, or what is wrong with the named one.
pub(crate) fn sim() -> Result<PathBuf, Missing> {
    if let Some((path, by)) = given(None, "", SIM_VARIABLE) {
        return usable_folder(&path).map_err(|why| Missing::Named { path, by, why });
    }
    let places = folders("sim");
    let advice =
        format!("see docs/software-gpu.md for how it is built, and name its folder with {SIM_VARIABLE}");
    let found = places.iter().find_map(|place| usable_folder(place).ok());
    found.ok_or(Missing::Nowhere { what: "the software GPU", places, advice })
}

/// The entry of the list that is our library. Entries are separated by white space or colons; `#` begins a comment
/// (ld.so(8)).
pub(crate) fn preloaded(list: &str) -> Option<String> {
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or(""));
    let mut entries = lines.flat_map(|line| line.split(|c: char| c == ':' || c.is_whitespace()));
    entries.find(|entry| entry.rsplit('/').next() == Some(LIBRARY)).map(str::to_owned)
}

fn given(
    named: Option<&Path>,
    option: &'static str,
    variable: &'static str,
) -> Option<(PathBuf, &'static str)> {
    let from_variable = || std::env::var_os(variable).filter(|value| !value.is_empty());
    match named {
        Some(path) => Some((path.to_owned(), option)),
        None => from_variable().map(|value| (value.into(), variable)),
    }
}

/// The folders that an installation or a build leaves the libraries in, each with `sub` below it.
fn folders(sub: &str) -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let own = beside.into_iter().flat_map(|bin| {
        let up = bin.parent().map(Path::to_owned).unwrap_or_default();
        [bin, up.join("lib/cuota"), up.join("lib")]
    });
    let system = ["/usr/local/lib/cuota", "/usr/lib/cuota", "/usr/local/lib", "/usr/lib"].map(PathBuf::from);
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in own.chain(system).map(|folder| if sub.is_empty() { folder } else { folder.join(sub) }) {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    all
}

/// The path in full, where the dynamic linker can load what is there. It must be known before: `ld.so` only warns
/// about a library that it cannot preload, and starts the program without.
fn usable(path: &Path) -> Result<PathBuf, String> {
    let full = path.canonicalize().map_err(|error| format!("which cannot be used ({error})"))?;
    let mut head = [0_u8; 20];
    let read = std::fs::File::open(&full).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(|error| format!("which cannot be read ({error})"))?;
    // e_ident: magic and 64-bit class; e_machine at byte 18 (elf(5)).
    if head.get(..5) != Some(b"\x7fELF\x02") || head.get(18..20) != Some(&MACHINE.to_le_bytes()[..]) {
        return Err("which is no 64-bit library of this machine's kind".to_owned());
    }
    Ok(full)
}

const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

fn usable_folder(path: &Path) -> Result<PathBuf, String> {
    for name in SIM_LIBRARIES {
        if let Err(why) = usable(&path.join(name)) {
            return Err(format!("but its {name} is one {why}"));
        }
    }
    path.canonicalize().map_err(|error| format!("which cannot be used ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_file_is_no_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LIBRARY);
        std::fs::write(&path, "not a library, but long enough to be read").unwrap();
        let error = library(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("--lib names") && error.contains("no 64-bit library"), "{error}");
    }

    #[test]
    fn what_is_nowhere_is_reported_with_the_places_where_it_was_looked_for() {
        let places = folders("sim");
        assert!(places.contains(&PathBuf::from("/usr/lib/cuota/sim")));
        let error =
            Missing::Nowhere { what: "it", places: places.clone(), advice: "name it".into() }.to_string();
        assert!(places.iter().all(|place| error.contains(place.to_str().unwrap())), "{error}");
        assert!(error.ends_with("name it"));
    }

    #[test]
    fn a_named_library_that_is_not_there_is_not_replaced_by_another() {
        let error = library(Some(Path::new("/nonexistent/libcuota.so"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/libcuota.so"), "{error}");
    }

    #[test]
    fn our_library_is_found_in_the_linkers_list() {
        assert_eq!(preloaded("/a.so /opt/libcuota.so\n"), Some("/opt/libcuota.so".into()));
        assert_eq!(preloaded("/a.so:/b/libcuota.so:/c.so"), Some("/b/libcuota.so".into()));
        assert_eq!(preloaded("# /opt/libcuota.so\n/opt/libcuota.so.bak"), None);
    }

    #[test]
    fn this_very_program_is_a_file_that_the_linker_can_load() {
        assert!(usable(&std::env::current_exe().unwrap()).is_ok());
    }
}
