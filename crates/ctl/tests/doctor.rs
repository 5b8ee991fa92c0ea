//! `cuota doctor` and `cuota ps` as a script sees them, on drivers that are made for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Bench(tempfile::TempDir);

impl Bench {
    /// A library that is preloaded and does nothing, in the shim's place.
    fn new() -> Self {
        let bench = Bench(tempfile::tempdir().unwrap());
        let empty = bench.0.path().join("empty.c");
        std::fs::write(&empty, "").unwrap();
        bench.compile(&empty, "libcuota.so");
        bench
    }

    fn compile(&self, source: &Path, name: &str) -> PathBuf {
        let library = self.0.path().join(name);
        let status =
            Command::new("cc").args(["-shared", "-fPIC", "-Wall", "-o"]).arg(&library).arg(source).status();
        assert!(status.expect("a C compiler named cc").success());
        library
    }

    fn cuota(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuota"));
        for variable in ["LD_PRELOAD", "CUOTA_TENANT", "CUDA_VISIBLE_DEVICES", "CUOTA_SIM_LIB"] {
            command.env_remove(variable);
        }
        command
            .env("CUOTA_DIR", self.0.path().join("home"))
            .env("CUOTA_LIB", self.0.path().join("libcuota.so"));
        // The machine's own driver, if there is one, is not meant.
        command.env("LD_LIBRARY_PATH", self.0.path()).args(arguments).output().unwrap()
    }

    fn doctor(&self) -> (Option<i32>, serde_json::Value) {
        let output = self.cuota(&["doctor", "--json"]);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn mark<'a>(report: &'a serde_json::Value, id: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap()["mark"].as_str().unwrap()
}

#[test]
fn a_library_that_enforces_nothing_is_found_out() {
    let bench = Bench::new();
    bench.compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lax_driver.c"), "libcuda.so.1");
    let (status, report) = bench.doctor();
    assert_eq!(status, Some(1));
    assert_eq!(report["schema"], "cuota.doctor/1");
    assert_eq!(report["verdict"], "not_enforcing");
    for id in ["look_ups", "size_shown", "refused", "every_way"] {
        assert_eq!(mark(&report, id), "problem", "{id}");
    }
}

#[test]
fn a_driver_that_dies_is_told_with_what_was_known_before() {
    let bench = Bench::new();
    let source = bench.0.path().join("dies.c");
    let text = "#include <stdlib.h>\nint cuDriverGetVersion(int *v) { return *v = 13000, 0; }\nint cuInit(unsigned f) { abort(); }\n";
    std::fs::write(&source, text).unwrap();
    bench.compile(&source, "libcuda.so.1");
    let (_, report) = bench.doctor();
    assert_eq!(mark(&report, "libcuda"), "ok");
    assert_eq!(mark(&report, "probe"), "problem");
}

#[test]
fn no_device_is_told_kindly_and_by_its_own_status() {
    let bench = Bench::new();
    let source = bench.0.path().join("none.c");
    let text =
        "int cuDriverGetVersion(int *v) { return *v = 13000, 0; }\nint cuInit(unsigned f) { return 100; }\n";
    std::fs::write(&source, text).unwrap();
    bench.compile(&source, "libcuda.so.1");
    let output = bench.cuota(&["doctor"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cuota run --sim") && !text.contains("PROBLEM"), "{text}");
}

#[test]
fn doctor_leaves_no_tenant_behind() {
    let bench = Bench::new();
    bench.doctor();
    let listing = bench.cuota(&["ps", "--json"]);
    let listing: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    assert_eq!(listing["schema"], "cuota.ps/1");
    assert_eq!(listing["tenants"], serde_json::json!([]));
}

#[test]
fn a_tenant_with_a_name_is_listed_with_its_quota() {
    let bench = Bench::new();
    assert!(bench.cuota(&["run", "--tenant", "alice", "--memory", "8GiB", "--", "true"]).status.success());
    let text = String::from_utf8(bench.cuota(&["ps"]).stdout).unwrap();
    let line: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..4], ["alice", "-", "8", "GiB"]);
}
