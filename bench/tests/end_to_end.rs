//! The command against the least driver (tests/fake): what it says, what it writes, and what it refuses to score.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The fake driver's folder, compiled once.
fn fake() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake");
        fs::create_dir_all(&folder).unwrap();
        compile("cuda.c", &folder.join("libcuda.so.1"), &["-Wl,-soname,libcuda.so.1"]);
        compile("nvml.c", &folder.join("libnvidia-ml.so.1"), &["-Wl,-soname,libnvidia-ml.so.1"]);
        for (name, symbols) in [
            ("nothing", &[][..]),
            ("quota", &["-DSYMBOL=fake_quota"]),
            ("slow", &["-DSYMBOL=fake_quota", "-DSYMBOL2=fake_slow_alloc"]),
            ("hook", &["-DSYMBOL=fake_quota", "-DHOOK"]),
            ("hang", &["-DSYMBOL=fake_hang"]),
            ("crash", &["-DSYMBOL=fake_crash"]),
            ("error", &["-DSYMBOL=fake_alloc_error"]),
        ] {
            compile("preload.c", &folder.join(format!("lib{name}.so")), symbols);
        }
        folder
    })
}

fn compile(source: &str, output: &Path, more: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(source);
    let mut command = Command::new("cc");
    command
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra"])
        .args(more)
        .arg(source)
        .arg("-o")
        .arg(output);
    let output = command.output().expect("a C compiler, `cc`, is needed for these tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A run and its folder.
struct Ran {
    output: Output,
    folder: tempfile::TempDir,
}

impl Ran {
    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn results(&self) -> Value {
        let path = self.folder.path().join("out/results.json");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {}", self.stderr()));
        serde_json::from_str(&text).unwrap()
    }

    fn system(&self, metric: &str, system: &str) -> Value {
        let results = self.results();
        let metrics = results["metrics"].as_array().unwrap();
        let metric = metrics.iter().find(|found| found["id"] == metric).unwrap();
        metric["systems"][system].clone()
    }
}

fn bench(words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let processes = folder.path().join("processes");
    fs::create_dir_all(&processes).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuota-bench"));
    command.env("CUOTA_SIM_LIB", fake()).env("FAKE_GPU_DIR", processes).env_remove("LD_PRELOAD");
    command.args(["run", "--quick", "--device", "sim", "--memory", "8GiB", "--out"]).arg(out).args(words);
    Ran { output: command.output().unwrap(), folder }
}

fn hami(library: &str) -> String {
    format!("hami={}", fake().join(format!("lib{library}.so")).display())
}

#[test]
fn native_against_itself_is_measured_and_judged() {
    let ran =
        bench(&["--metrics", "OH-002,OH-003,OH-004,OH-005", "--system", "native", "--system", "native"]);
    assert!(ran.output.status.success(), "{}", ran.stderr());
    for metric in ["OH-002", "OH-003", "OH-004", "OH-005"] {
        let again = ran.system(metric, "native#2");
        assert_eq!(again["status"], "measured", "{metric}: {again}");
        assert_eq!(again["samples"].as_array().unwrap().len(), 6);
        assert!(again["verdict"].is_string() && again["added"]["ci95"].is_array());
        assert!(ran.system(metric, "native")["verdict"].is_null());
    }
    assert_eq!(ran.results()["environment"]["simulated"], true);
    assert!(ran.stdout().contains("native (simulated)"));
    assert!(fs::read_to_string(ran.folder.path().join("out/report.md")).unwrap().contains("**Simulated"));
}

#[test]
fn a_library_that_does_nothing_is_not_enforced_and_gets_no_score() {
    let ran = bench(&["--system", &hami("nothing")]);
    assert!(ran.output.status.success(), "{}", ran.stderr());
    for metric in ["OH-002", "OH-003", "OH-004", "OH-005", "IS-001", "IS-002"] {
        let system = ran.system(metric, "hami");
        assert_eq!(system["status"], "not_enforced", "{metric}: {system}");
        assert!(system["value"].is_null() && system["samples"].as_array().unwrap().is_empty());
    }
    assert!(ran.stdout().contains("not enforced"));
    assert!(ran.stderr().contains("hami: NOT ENFORCED"), "{}", ran.stderr());
}

#[test]
fn a_limit_that_holds_is_measured_against_the_limit() {
    let ran = bench(&["--metrics", "is-001,is-002", "--system", &hami("quota")]);
    assert!(ran.output.status.success(), "{}", ran.stderr());
    let accuracy = ran.system("IS-001", "hami");
    assert_eq!(accuracy["status"], "measured", "{accuracy}");
    let granted = accuracy["value"].as_f64().unwrap();
    assert!((99.0..=100.0).contains(&granted), "{granted}");
    for path in ["plain", "pool", "vmm"] {
        let seen = accuracy["series"][format!("{path}: NVML's maximum / limit")]["value"].as_f64().unwrap();
        assert!((90.0..=100.0).contains(&seen), "{path}: {seen}");
    }
    assert_eq!(ran.system("IS-002", "hami")["status"], "measured");
    assert_eq!(ran.system("IS-002", "native")["status"], "not_applicable");
    let record = &ran.results()["environment"]["systems"]["hami"];
    assert_eq!(record["library_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(record["variables"]["CUDA_DEVICE_MEMORY_LIMIT"], "8192m");
    assert_eq!(record["proof"]["status"], "enforced");
}

#[test]
fn twenty_added_microseconds_are_found() {
    let ran = bench(&["--metrics", "OH-002", "--system", &hami("slow")]);
    let slow = ran.system("OH-002", "hami");
    assert_eq!(slow["verdict"], "worse", "{slow} {}", ran.stderr());
    assert!(slow["added"]["value"].as_f64().unwrap() > 15.0, "{slow}");
}

/// Of the functions that are compared in process one is found through the preloaded library, the other is the driver's own.
#[test]
fn twenty_microseconds_in_a_hook_are_found_in_process() {
    let ran = bench(&["--metrics", "OH-002,OH-003", "--system", &hami("hook")]);
    let added = |metric: &str, system: &str, path: &str| {
        let found = ran.system(metric, system);
        let series = &found["series"][format!("{path}: added by the hook, in process")];
        assert_eq!(series["added_by"], "in_process", "{metric} {system} {path}: {found} {}", ran.stderr());
        series["added"]["value"].as_f64().unwrap()
    };
    for path in ["plain 64 KiB", "plain 2 MiB"] {
        let hooked = added("OH-002", "hami", path);
        assert!(hooked > 15.0, "{path}: {hooked}");
        // What is hooked in one path is not found in the others, nor natively.
        for (metric, system, path) in
            [("OH-003", "hami", path), ("OH-002", "native", path), ("OH-002", "hami", "pool 64 KiB")]
        {
            let control = added(metric, system, path);
            assert!(control < hooked / 2.0, "{metric} {system} {path}: {control}");
        }
    }
    let system = ran.system("OH-002", "hami");
    assert_eq!(system["verdict_in_process"], "worse");
    assert!(system["added_in_process"]["value"].as_f64().unwrap() > 15.0);
    assert_eq!(ran.results()["environment"]["cpu_of_turns"].as_array().unwrap().len(), 6);
    assert!(ran.stdout().contains("added (in process)"), "{}", ran.stdout());
    assert!(ran.stdout().contains("added (process against process)"), "{}", ran.stdout());
}

#[test]
fn the_start_is_measured_by_parts_and_true_spawn_beside_spawn() {
    let ran = bench(&["--metrics", "OH-004", "--system", &hami("quota")]);
    let system = ran.system("OH-004", "hami");
    assert_eq!(system["status"], "measured", "{system} {}", ran.stderr());
    let series = |name: &str| {
        let found = &system["series"][name];
        assert_eq!(found["added_by"], "in_process", "{name}: {system}");
        assert!(found["value"].is_number());
    };
    let names = [
        "part: exec to main",
        "part: open the driver, look functions up",
        "part: first cuInit",
        "part: first call, which joins",
        "part: first booking",
        "part: cuCtxCreate",
    ];
    for name in names {
        series(name);
    }
    assert!(system["added_in_process"]["value"].is_number());
    let of_true = &system["series"]["`true`: added, spawn beside spawn"];
    assert_eq!(of_true["calls"], 6 * 150);
    series("`true`: added to an empty library");
    assert!(ran.stdout().contains("| OH-004 `true`: added, spawn beside spawn |"), "{}", ran.stdout());
}

#[test]
fn a_hung_tenant_is_ended_at_its_deadline_and_reported() {
    let ran = bench(&["--metrics", "OH-002", "--system", &hami("hang"), "--deadline", "1"]);
    assert_eq!(ran.output.status.code(), Some(3), "{}", ran.stderr());
    let system = ran.system("OH-002", "hami");
    assert_eq!(system["status"], "failed");
    assert!(system["reason"].as_str().unwrap().contains("deadline of 1 s"), "{system}");
    assert_eq!(ran.system("OH-002", "native")["status"], "measured");
}

#[test]
fn a_crash_and_a_cuda_error_are_reported_as_what_they_are() {
    let ran = bench(&["--metrics", "OH-002", "--system", &hami("crash")]);
    let reason = ran.system("OH-002", "hami")["reason"].to_string();
    assert!(reason.contains("signal 6"), "{reason}");
    let ran = bench(&["--metrics", "OH-002", "--system", &hami("error")]);
    let reason = ran.system("OH-002", "hami")["reason"].to_string();
    assert!(reason.contains("cuMemAlloc_v2 returned CUDA_ERROR_UNKNOWN (999)"), "{reason}");
}

/// Each bad input says what was asked, what is so, and what to do.
#[test]
fn bad_input_is_answered_before_anything_is_measured() {
    for (words, parts) in [
        (&["--metrics", "OH-999"][..], &["OH-999 is not a metric", "OH-002", "list"][..]),
        (&["--system", "hammy"], &["hammy", "native, cuota, hami"]),
        (&["--system", "hami"], &["needs its library", "hami=PATH"]),
        (&["--system", "hami=/no/such/lib.so"], &["/no/such/lib.so", "no such file"]),
        (&["--memory", "8GB"], &["`8GB` is not an amount of memory", "8GiB"]),
        (&["--memory", "1GiB"], &["1 GiB was asked for", "2 GiB or more"]),
        (&["--memory", "15GiB"], &["15 GiB was asked for on a device of 16 GiB", "--memory"]),
        (&["--quick", "--full"], &["cannot be used"]),
    ] {
        let words: Vec<&str> = ["--system", "native"].iter().chain(words).copied().collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuota-bench"));
        command.env("CUOTA_SIM_LIB", fake()).env_remove("LD_PRELOAD");
        let out = tempfile::tempdir().unwrap();
        command.args(["run", "--device", "sim", "--out"]).arg(out.path().join("out")).args(&words);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}");
        for part in parts {
            assert!(stderr.contains(part), "{words:?} lacks `{part}`: {stderr}");
        }
        assert!(!out.path().join("out/results.json").exists());
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_found_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuota-bench"));
    command.env("CUOTA_SIM_LIB", fake()).env_remove("LD_PRELOAD");
    command.args(["run", "--system", "native", "--device", "sim", "--out"]).arg(file.path().join("below"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("cannot be written") && stderr.contains("--out"), "{stderr}");
}

#[test]
fn a_preloaded_benchmark_and_a_missing_simulator_are_refused() {
    let run = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuota-bench"));
        command.env_remove("CUOTA_SIM_LIB").env_remove("LD_PRELOAD").env(name, value);
        let output = command.args(["run", "--system", "native", "--device", "sim"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nothing = fake().join("libnothing.so").display().to_string();
    let stderr = run("LD_PRELOAD", &nothing);
    assert!(
        stderr.contains("native would not be native") && stderr.contains("env -u LD_PRELOAD"),
        "{stderr}"
    );
    let stderr = run("UNRELATED", "");
    assert!(stderr.contains("CUOTA_SIM_LIB is not set"), "{stderr}");
    let stderr = run("CUOTA_SIM_LIB", "/");
    assert!(stderr.contains("holds no libcuda.so.1"), "{stderr}");
}

#[test]
fn list_explains_metrics_and_systems() {
    let output = Command::new(env!("CARGO_BIN_EXE_cuota-bench")).arg("list").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["OH-002", "IS-001", "hami=LIB", "cuota[=LIB]", "µs"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
