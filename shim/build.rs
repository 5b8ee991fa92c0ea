//! Link flags of `libcuota.so`.

fn main() {
    for flag in [
        // A NEEDED entry or a map listing that names the library names it so, wherever the file lies.
        "-Wl,-soname,libcuota.so",
        // Our own references to our own exports must reach us, not an interposer that comes first.
        "-Wl,-Bsymbolic",
        // No lazy binding: a hook may run before or during the binding of anything else.
        "-Wl,-z,relro,-z,now",
        // Whoever was handed a hook keeps it: if somebody opened us with dlopen, dlclose must not take it away.
        "-Wl,-z,nodelete",
        "-Wl,-z,noexecstack",
        "-Wl,--gc-sections",
        // It would be another than that of the same library with its symbols, so it leads nobody to them.
        "-Wl,--build-id=none",
        // Nothing of crti and crtbegin is used: no .init, no transactional memory, no profiling, nothing to be done at dlclose.
        "-nostartfiles",
        // No NEEDED entry for a library that nothing is taken from.
        "-Wl,--as-needed",
        concat!("-Wl,-T,", env!("CARGO_MANIFEST_DIR"), "/discard.ld"),
    ] {
        println!("cargo:rustc-cdylib-link-arg={flag}");
    }
    println!("cargo:rerun-if-changed=discard.ld");
    // Rust's own linker, which is the one for this target, gives constants a segment of their own: a mapping more in every process.
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--no-rosegment");
    }
    println!("cargo:rerun-if-env-changed=CUOTA_KEEP_SYMBOLS");
    let keeps_symbols = std::env::var_os("CUOTA_KEEP_SYMBOLS").is_some();
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") && !keeps_symbols {
        // The profile's `strip` leaves the symbol table of local names, a fifth of the file.
        println!("cargo:rustc-cdylib-link-arg=-Wl,--strip-all");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
