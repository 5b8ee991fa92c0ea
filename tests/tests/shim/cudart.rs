//! NVIDIA's CUDA runtime binds itself to the driver through `cuGetProcAddress`, over 400 functions at its first call.
//!
//! Only the binding is tested: after it the runtime asks the driver for private tables, which the software GPU does not
//! have, and gives up.

use std::collections::BTreeSet;
use std::{env, fs};

use cuota_tests::build;
use cuota_tests::guest::Guest;

struct LookUp {
    name: String,
    object: String,
    symbol: String,
}

/// Every look-up that the runtime makes; `None` where the runtime was not fetched.
fn lookups() -> Option<Vec<LookUp>> {
    let runtime = env::var_os("CUOTA_CUDART")
        .map_or_else(|| build::target().join("cudart/libcudart.so.13"), Into::into);
    if !runtime.exists() {
        println!("skipped: no {}; tests/fetch-cudart fetches it from PyPI", runtime.display());
        return None;
    }
    let watch = build::library("watch_proc.c", "libwatch_proc.so", &[]);
    let home = tempfile::tempdir().expect("the system has a folder for temporary files");
    let log = home.path().join("look-ups");
    let said = Guest::new(build::program("cudart"))
        .argument(runtime)
        .preload(watch)
        .preload(build::libcuota())
        .driver(build::software_gpu())
        .variable("WATCH", &log)
        .variable("CUOTA_SIM_DIR", home.path().join("gpu"))
        .run();
    assert!(said.status.success(), "{said:?}");
    let text = fs::read_to_string(&log).unwrap_or_else(|error| panic!("no look-ups: {error}, {said:?}"));
    let lookups = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, object, symbol] = fields[..] else { panic!("not a look-up: {line}") };
        LookUp { name: name.to_owned(), object: object.to_owned(), symbol: symbol.to_owned() }
    });
    Some(lookups.collect())
}

#[test]
fn cuda_runtime_is_bound_to_the_hooks() {
    let Some(lookups) = lookups() else { return };
    let hooks = crate::golden::hooks();
    assert!(lookups.len() > 400, "only {} look-ups", lookups.len());
    for LookUp { name, object, symbol } in &lookups {
        assert!(
            object == "libcuota.so" || !hooks.contains(symbol),
            "{name} led to the real {symbol} in {object}"
        );
    }
    let bound: BTreeSet<&str> = lookups
        .iter()
        .filter(|found| found.object == "libcuota.so")
        .map(|found| found.symbol.as_str())
        .collect();
    for symbol in
        ["cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocAsync", "cuMemGetInfo_v2", "cuDevicePrimaryCtxRetain"]
    {
        assert!(bound.contains(symbol), "{symbol} is not among the hooks that were handed out: {bound:?}");
    }
    println!("{} look-ups, {} different hooks handed out", lookups.len(), bound.len());
}
