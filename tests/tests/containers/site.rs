//! A machine with a software GPU, an installed library, and tenants that are set up for containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cuota_tests::build;
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;
use tempfile::TempDir;

use crate::runtime::{Container, Runtime};

/// Where Podman looks for CDI specs that do not last.
const CDI_FOLDER: &str = "/run/cdi";

/// The machine.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    files: TempDir,
    /// CDI devices have no folder of the test's own.
    devices: std::cell::RefCell<Vec<String>>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::on(Machine::new())
    }

    fn on(machine: Machine) -> Self {
        let site = Site { machine, files: folder(), devices: Vec::new().into() };
        for folder in ["lib", "guest", "sim"] {
            fs::create_dir(site.path(folder)).expect("the folder is ours");
        }
        let copy = |from: &Path, to: &str| {
            fs::copy(from, site.path(to))
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()))
        };
        copy(site.machine.library(), "lib/libcuota.so");
        copy(&build::program("console"), "guest/console");
        copy(build::command(), "guest/cuota");
        for library in ["libcuda.so.1", "libnvidia-ml.so.1"] {
            copy(&build::software_gpu().join(library), &format!("sim/{library}"));
        }
        // The GPU's files are made by whoever comes first, and are for all users.
        let _ = site.machine.device_used();
        for file in fs::read_dir(site.machine.gpu_folder()).expect("the folder is ours") {
            let path = file.expect("the folder is ours").path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("the file is ours");
        }
        site
    }

    /// A file or folder of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The library that is installed on this machine.
    pub(crate) fn library(&self) -> PathBuf {
        self.path("lib/libcuota.so")
    }

    /// Runs the command `cuota` on this machine.
    pub(crate) fn cuota(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(build::command());
        command.env("CUOTA_DIR", self.machine.region()).env("CUOTA_LIB", self.library()).args(arguments);
        command.output().expect("the command was built")
    }

    /// As [`Self::cuota`]; it must succeed. What it printed.
    #[track_caller]
    pub(crate) fn cuota_ok(&self, arguments: &[&str]) -> String {
        let output = self.cuota(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// Sets a tenant up for containers of this runtime. `limits` are options of `cuota inject`.
    #[track_caller]
    pub(crate) fn tenant(&self, runtime: Runtime, name: &str, limits: &[&str]) -> String {
        // Devices of tests that run side by side lie in one folder.
        let name = format!(
            "{name}-{}",
            self.files.path().file_name().expect("it has a name").to_string_lossy().replace('.', "")
        );
        let hooks = self.path("hooks").display().to_string();
        let way = match runtime {
            Runtime::Podman => {
                self.devices.borrow_mut().push(name.clone());
                ["inject", "--cdi", "--folder", CDI_FOLDER]
            }
            Runtime::Runc => ["inject", "--hook", "--folder", hooks.as_str()],
        };
        self.cuota_ok(&[&way[..], &["--tenant", &name, "--install"], limits].concat());
        name
    }

    /// A console in a container of this tenant, as user `uid`, with a context that is current.
    #[track_caller]
    pub(crate) fn console(&self, runtime: Runtime, tenant: &str, uid: u32) -> (Container<'_>, Console) {
        let container = Container::new(self, runtime, tenant);
        let mut console = container.start(uid, &["/guest/console"]);
        console.use_primary_context();
        (container, console)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for tenant in self.devices.borrow().iter() {
            let _ = self.cuota(&["inject", "--cdi", "--folder", CDI_FOLDER, "--tenant", tenant, "--remove"]);
            // Where a failed test has left programs behind, the device goes all the same.
            let _ = fs::remove_file(Path::new(CDI_FOLDER).join(format!("cuota-tenant-{tenant}.json")));
        }
    }
}

/// A folder of the test's own that every user can look into.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("c")
        .rand_bytes(8)
        .tempdir()
        .expect("there is a folder for temporary files");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    folder
}
