//! The command on the software GPU (crates/sim), as continuous integration runs it: figures are simulated, promises are not.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder of the software GPU: the one that `CUOTA_SIM_LIB` names, or one that is built here.
fn software_gpu() -> PathBuf {
    if let Some(folder) = env::var_os("CUOTA_SIM_LIB") {
        return folder.into();
    }
    // A test lies in <target>/<profile>/deps.
    let test = env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--package", "cuota-sim-cuda", "--package", "cuota-sim-nvml", "--target-dir"])
        .arg(target)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("software-gpu");
    fs::create_dir_all(&folder).unwrap();
    for (library, name) in
        [("libcuota_sim_cuda.so", "libcuda.so.1"), ("libcuota_sim_nvml.so", "libnvidia-ml.so.1")]
    {
        let _ = fs::remove_file(folder.join(name)); // There is none the first time.
        symlink(target.join("debug").join(library), folder.join(name)).unwrap();
    }
    folder
}

/// SELF-001.
#[test]
fn the_benchmark_keeps_its_promises_against_itself_on_the_software_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = folder.path().join("gpu");
    fs::create_dir_all(&gpu).unwrap();
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_cuota-bench"))
            .env("CUOTA_SIM_LIB", software_gpu())
            .env("CUOTA_SIM_DIR", &gpu)
            .env_remove("LD_PRELOAD")
            .args(["self-test", "--quick", "--device", "sim", "--out"])
            .arg(folder.path().join("out"))
            .output()
            .unwrap()
    };
    // Its intervals are 95 % ones: a run now and then breaks a promise by chance. Three in a row do not.
    let output = (0..2).map(|_| run()).find(|output| output.status.success()).unwrap_or_else(run);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("(simulated)") && stdout.contains("does nothing: not enforced"), "{stdout}");
    let results = fs::read_to_string(folder.path().join("out/results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["environment"]["simulated"], true);
    // What is found depends on how busy the machine is, what is detectable as well: the exit status has judged both.
    assert_eq!(results["metrics"][0]["systems"]["20 % slower"]["status"], "measured");
}
