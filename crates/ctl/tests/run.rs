//! `cuota run` as a script sees it. The library that is preloaded here does nothing; what the real one does is tested
//! in `tests/` at the top.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Bench {
    dir: tempfile::TempDir,
    library: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = shared_library(dir.path(), "libcuota.so");
        Bench { dir, library }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn cuota(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuota"));
        for variable in
            ["LD_PRELOAD", "LD_LIBRARY_PATH", "CUOTA_TENANT", "CUDA_VISIBLE_DEVICES", "CUOTA_SIM_LIB"]
        {
            command.env_remove(variable);
        }
        command.env("CUOTA_DIR", self.home()).env("CUOTA_LIB", &self.library).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.cuota(&["run"]).args(arguments).output().unwrap()
    }

    fn leases(&self) -> usize {
        let files = std::fs::read_dir(self.home().join("tenant")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension() == Some(OsStr::new("lease"))).count()
    }
}

/// A shared library with nothing in it.
fn shared_library(dir: &Path, name: &str) -> PathBuf {
    let (source, library) = (dir.join("empty.c"), dir.join(name));
    std::fs::write(&source, "").unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler named cc").success());
    library
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_program_gets_the_library_the_directory_and_its_tenant() {
    let bench = Bench::new();
    let output = bench.run(&["--memory", "1GiB", "--device", "1", "--", "env"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let variables = text(&output.stdout);
    let value = |name: &str| {
        variables.lines().find_map(|line| line.strip_prefix(&format!("{name}=")).map(str::to_owned))
    };
    assert_eq!(value("LD_PRELOAD").unwrap(), bench.library.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(value("CUOTA_DIR").unwrap(), bench.home().to_str().unwrap());
    assert_eq!(value("CUDA_VISIBLE_DEVICES").unwrap(), "1");
    assert_eq!(value("CUDA_DEVICE_ORDER").unwrap(), "PCI_BUS_ID");
    assert!(value("CUOTA_TENANT").unwrap().starts_with("run-"));
    assert_eq!(output.stderr, b"");
}

#[test]
fn the_programs_status_is_passed_on_and_failures_to_start_are_those_of_a_shell() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(bench.run(&["--", "no-such-program-anywhere"]).status.code(), Some(127));
    assert_eq!(bench.run(&["--", bench.dir.path().to_str().unwrap()]).status.code(), Some(126));
    assert_eq!(bench.run(&["--memory", "abc", "--", "true"]).status.code(), Some(2));
    assert_eq!(bench.run(&["--lib", "/nonexistent.so", "--", "true"]).status.code(), Some(125));
}

#[test]
fn the_program_keeps_cuotas_process_id() {
    let bench = Bench::new();
    let output = bench.run(&["--", "sh", "-c", "echo run-$$ $CUOTA_TENANT"]);
    let words: Vec<&str> = text(&output.stdout).split_whitespace().collect();
    assert_eq!(words[0], words[1]);
}

#[test]
fn a_tenant_lasts_as_long_as_anything_that_the_program_started() {
    let bench = Bench::new();
    // The shell ends at once; what it left in the background has the lease until its standard input ends.
    let mut left = bench.cuota(&["run", "--", "sh", "-c", "cat <&3 >/dev/null & exit 0"]);
    let (ours, theirs) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", "exec 3<&0; exec \"$@\"", "sh"]).arg(left.get_program()).args(left.get_args());
    wrapped.envs(left.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(theirs);
    assert!(wrapped.status().unwrap().success());
    left.env_clear();
    assert_eq!(bench.leases(), 1);
    bench.run(&["--", "true"]);
    assert_eq!(bench.leases(), 2, "the one that still runs was swept");
    drop(ours);
    while bench.leases() != 1 {
        bench.run(&["--", "true"]); // Sweeps what is over, and leaves its own.
    }
}

#[test]
fn a_program_that_cannot_be_started_leaves_no_tenant() {
    let bench = Bench::new();
    bench.run(&["--", "no-such-program-anywhere"]);
    assert_eq!(bench.leases(), 0);
}

#[test]
fn the_software_gpu_comes_first_in_the_library_path() {
    let bench = Bench::new();
    let output =
        bench.cuota(&["run", "--sim", "--", "true"]).env("CUOTA_SIM_LIB", bench.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("libcuda.so.1"), "{}", text(&output.stderr));

    shared_library(bench.dir.path(), "libcuda.so.1");
    shared_library(bench.dir.path(), "libnvidia-ml.so.1");
    let output = bench
        .cuota(&["run", "--sim", "--", "sh", "-c", "echo $LD_LIBRARY_PATH"])
        .env("CUOTA_SIM_LIB", bench.dir.path())
        .env("LD_LIBRARY_PATH", "/elsewhere")
        .output()
        .unwrap();
    let folder = bench.dir.path().canonicalize().unwrap();
    assert_eq!(text(&output.stdout).trim_end(), format!("{}:/elsewhere", folder.display()));
}
