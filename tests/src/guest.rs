//! Runs a guest, with or without `libcuota.so`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::build;

/// A run to come: a program, its arguments, what is preloaded, and where it finds the driver.
#[derive(Clone)]
pub struct Guest {
    program: PathBuf,
    arguments: Vec<OsString>,
    preload: Vec<PathBuf>,
    library_path: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
}

/// What a guest said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Guest {
    /// A program without anything preloaded.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            preload: Vec::new(),
            library_path: None,
            environment: Vec::new(),
        }
    }

    /// A compiled guest under `libcuota.so`, as a tenant without a quota.
    pub fn managed(name: &str) -> Self {
        Self::new(build::program(name)).preload(build::libcuota())
    }

    /// A program on a software GPU of its own, as a tenant with this quota (as `cuota run --memory` takes it). The GPU's and
    /// the tenant's files lie in `home`; `preload` is what LD_PRELOAD names, `libcuota.so` among them.
    pub fn tenant(home: &Path, quota: &str, preload: &[&Path], program: &Path) -> Self {
        let mut variable = OsString::from("LD_PRELOAD=");
        variable.push(joined(preload.iter().copied()));
        Self::new(build::command())
            .arguments(["run", "--sim", "--memory", quota, "--lib"])
            .argument(build::libcuota())
            // The command puts libcuota.so first; `env` sets the order that the test is about.
            .arguments(["--", "env"])
            .argument(variable)
            .argument(program)
            .variable("CUOTA_SIM_LIB", build::software_gpu())
            .variable("CUOTA_SIM_DIR", home.join("gpu"))
            .variable("CUOTA_DIR", home.join("region"))
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::argument)
    }

    /// Adds a library to the end of LD_PRELOAD.
    #[must_use]
    pub fn preload(mut self, library: impl Into<PathBuf>) -> Self {
        self.preload.push(library.into());
        self
    }

    /// Lets the guest find the driver in this folder.
    #[must_use]
    pub fn driver(mut self, folder: impl Into<PathBuf>) -> Self {
        self.library_path = Some(folder.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs the guest to its end.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn run(&self) -> Said {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
        // A locale of its own would change messages of the tools that are compared.
        // A region without limits: what the machine's own says is no matter of these tests.
        command
            .env("LC_ALL", "C")
            .env("CUOTA_DIR", build::open_region())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if !self.preload.is_empty() {
            command.env("LD_PRELOAD", joined(self.preload.iter().map(PathBuf::as_path)));
        }
        if let Some(folder) = &self.library_path {
            command.env("LD_LIBRARY_PATH", folder);
        }
        let output =
            command.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()));
        Said {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
        }
    }

    /// Runs the guest; it must print exactly `expected`, nothing on standard error, and end with 0.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn must_print(&self, expected: &str) {
        let said = self.run();
        assert_eq!(said.stdout, expected, "{} printed something else\n{said:?}", self.program.display());
        assert_eq!(said.stderr, "", "{} complained", self.program.display());
        assert!(said.status.success(), "{} ended with {}", self.program.display(), said.status);
    }
}

/// A list for LD_PRELOAD.
fn joined<'a>(libraries: impl IntoIterator<Item = &'a Path>) -> OsString {
    libraries.into_iter().map(Path::as_os_str).collect::<Vec<_>>().join(OsStr::new(":"))
}
