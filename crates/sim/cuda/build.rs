//! Makes three things from the ABI's function lists and this crate's own sources: an export that answers NOT_SUPPORTED for
//! each function that is not modelled, the table behind `cuGetProcAddress`, and a compile-time check of each signature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/api");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // Like NVIDIA's own library: calls between its functions never leave it, whatever is preloaded.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    let functions = read_functions(Path::new("../../abi/functions"));
    let types = fs::read_to_string("../../abi/src/cuda.rs").expect("crates/abi/src/cuda.rs is there");
    let modelled = read_modelled(Path::new("src/api"));
    let mut out = String::new();
    for name in functions.keys().filter(|name| !modelled.contains(*name)) {
        writeln!(out, "not_modelled!({name});").expect("a String takes all");
    }
    for (name, pfn) in functions.iter().filter(|(name, _)| modelled.contains(*name)) {
        if types.contains(&format!("pub type {pfn} ")) {
            writeln!(out, "const _: cuota_abi::cuda::{pfn} = crate::api::{name};")
                .expect("a String takes all");
        }
    }
    writeln!(out, "pub(crate) static EXPORTS: &[Export] = &[").expect("a String takes all");
    for (name, pfn) in &functions {
        let (base, version, per_thread) = split(pfn);
        let path = if modelled.contains(name) { format!("crate::api::{name}") } else { name.clone() };
        let row = format!(
            "Export {{ base: \"{base}\", version: {version}, per_thread: {per_thread}, address: {path} as *const () }},"
        );
        writeln!(out, "    {row}").expect("a String takes all");
    }
    writeln!(out, "];").expect("a String takes all");
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&folder).join("exports.rs"), out).expect("OUT_DIR is writable");
}

/// All functions of all CUDA releases that the ABI knows: exported symbol to the name of its pointer type.
fn read_functions(folder: &Path) -> BTreeMap<String, String> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut all = BTreeMap::new();
    let files =
        fs::read_dir(folder).expect("crates/abi/functions is there").flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|path| path.to_string_lossy().contains("/cuda-")).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(file).expect("a function list is text");
        for line in text.lines() {
            let (symbol, pfn) = line.split_once('\t').expect("a line is symbol, tab, type");
            all.insert(symbol.to_owned(), pfn.to_owned());
        }
    }
    all
}

/// The functions that the sources define: every `cu…` word between `fn ` and `(` at a line's beginning.
fn read_modelled(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("src/api is there").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a source file is text");
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("fn cu")) {
            let head = format!("cu{}", line.split('(').next().unwrap_or_default());
            names.extend(head.split('|').map(|name| name.trim().to_owned()));
        }
    }
    names
}

/// `PFN_cuMemcpyHtoD_v7000_ptds` is base `cuMemcpyHtoD`, version 7000, for per-thread default streams.
fn split(pfn: &str) -> (&str, u32, bool) {
    let name = pfn.strip_prefix("PFN_").expect("a pointer type begins with PFN_");
    let plain = name.strip_suffix("_ptsz").or_else(|| name.strip_suffix("_ptds"));
    let (base, version) = plain.unwrap_or(name).rsplit_once("_v").expect("a pointer type has a version");
    (base, version.parse().expect("a version is a number"), plain.is_some())
}
