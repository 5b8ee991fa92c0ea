//! Makes an export that answers NOT_SUPPORTED for each NVML function that is not modelled, and a compile-time check of
//! the signature of each that is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const FUNCTIONS: &str = "../../abi/functions";

fn main() {
    println!("cargo:rerun-if-changed=src/api");
    println!("cargo:rerun-if-changed={FUNCTIONS}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    let modelled = read_modelled(Path::new("src/api"));
    let mut out = String::new();
    for name in read_functions() {
        if modelled.contains(&name) {
            writeln!(out, "const _: cuota_abi::nvml::PFN_{name} = crate::api::{name};")
                .expect("a String takes all");
        } else {
            writeln!(out, "not_modelled!({name});").expect("a String takes all");
        }
    }
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&folder).join("exports.rs"), out).expect("OUT_DIR is writable");
}

fn read_functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(FUNCTIONS).expect("crates/abi/functions is there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("nvml-") {
            let text = fs::read_to_string(entry.path()).expect("a function list is text");
            names.extend(text.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_owned())));
        }
    }
    names
}

/// The functions that the sources define: every `nvml…` word between `fn ` and `(`.
fn read_modelled(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("src/api is there").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a source file is text");
        for line in text.lines().filter_map(|line| Some(line.split_once("fn nvml")?.1)) {
            names.insert(format!("nvml{}", line.split('(').next().unwrap_or_default().trim()));
        }
    }
    names
}
