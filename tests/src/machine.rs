//! A machine with a GPU, and what runs on it as which tenant.
//!
//! The GPU is a software GPU of the test's own, or, with `CUOTA_TEST_GPU=1`, the real one of this machine: the same tests
//! run on both. So they take sizes relative to the quota and assume no size of a context.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuota_region::event::Event;
use cuota_region::ledger::{ProcessUsage, Usage};
use cuota_region::name::{GpuId, TenantName};
use cuota_region::path::Directory;
use cuota_region::policy::{Limits, MemoryLimit, PolicyWriter};
use cuota_region::sys::Fd;
use cuota_region::tenant::{GpuIndex, Tenant};
use tempfile::TempDir;

use crate::alone::Alone;
use crate::build;
use crate::console::{Arg, Console, Observer};

/// 1 MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// 1 GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// The file in which the software GPU names calls of the library's own that could ruin a capture (`docs/software-gpu.md`).
const WATCH: &str = "watch";

/// Whether the tests are to run on this machine's own GPU.
pub fn has_real_gpu() -> bool {
    env::var_os("CUOTA_TEST_GPU").is_some_and(|value| value == "1")
}

/// Whether the tests' machine has so many GPUs: one with software GPUs has as many as a test asks for.
///
/// # Panics
/// If the driver cannot be asked.
pub fn has_gpus(count: u64) -> bool {
    !has_real_gpu() || {
        let mut console = Machine::new().native().start();
        let devices = console.devices();
        console.finish();
        devices >= count
    }
}

/// Says that the running test is skipped, and why, past the capture of the tests' output: a run's skips can be counted.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    // With one test thread the tests run in the main thread, which has no test's name.
    let _ = writeln!(std::io::stdout(), "skipped: {} ({why})", thread.name().unwrap_or("a test"));
}

/// A GPU and a directory with a policy and tenants.
pub struct Machine {
    home: TempDir,
    observer: Observer,
    death_ms: u32,
    /// A real GPU is one for all tests, and for all machines of a test.
    _alone: Option<Alone>,
}

/// A program to be started.
pub struct Program {
    command: Command,
    observer: Observer,
}

impl Machine {
    /// A machine on which nothing runs yet.
    ///
    /// # Panics
    /// If there is no room for its files.
    pub fn new() -> Self {
        Self::whose_dead_linger(0)
    }

    /// A machine on whose software GPU the memory of a dead process stays taken for so long after its death was noticed. A real
    /// GPU lets it go in its own time: an H100 after some 200 ms.
    ///
    /// # Panics
    /// If there is no room for its files.
    pub fn whose_dead_linger(death_ms: u32) -> Self {
        let alone = has_real_gpu().then(Alone::new);
        let home = tempfile::tempdir().expect("the system has a folder for temporary files");
        // Other users may start programs too.
        for (folder, mode) in [("", 0o755), ("gpu", 0o777), ("region", 0o755)] {
            let path = home.path().join(folder);
            fs::create_dir_all(&path).expect("the folder is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the folder is ours");
        }
        let gpu = home.path().join("gpu");
        let observer = Observer::new(move || {
            Console::start(&mut prepared(&build::program("console"), &gpu, true, death_ms))
        });
        Self { home, observer, death_ms, _alone: alone }
    }

    /// The library that its tenants run under.
    pub fn library(&self) -> &'static Path {
        build::libcuota()
    }

    /// The directory of the region.
    pub fn region(&self) -> PathBuf {
        self.home.path().join("region")
    }

    /// The folder of the software GPU: who has it shares the GPU.
    pub fn gpu_folder(&self) -> PathBuf {
        self.home.path().join("gpu")
    }

    /// Who sees the device as it is.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// The policy's file.
    pub fn policy(&self) -> PathBuf {
        self.region().join("policy.v1")
    }

    fn prepared(&self, program: &Path, finds_driver: bool) -> Command {
        prepared(program, &self.gpu_folder(), finds_driver, self.death_ms)
    }

    fn program(&self, command: Command) -> Program {
        Program { command, observer: self.observer.clone() }
    }

    /// A console that nothing is preloaded into.
    pub fn native(&self) -> Program {
        self.native_of(&build::program("console"))
    }

    /// As [`Self::native`], for a program that is, or becomes, the console.
    pub fn native_of(&self, program: &Path) -> Program {
        self.program(self.prepared(program, true))
    }

    /// A console with `libcuota.so` preloaded that nobody has made a tenant.
    pub fn preloaded(&self) -> Program {
        self.native().with("LD_PRELOAD", self.library())
    }

    /// A console as `cuota run` starts it, in this tenant. The quota is as `--memory` takes it.
    pub fn tenant(&self, name: &str, quota: Option<&str>) -> Program {
        self.tenant_of(&build::program("console"), name, quota)
    }

    /// As [`Self::tenant`], for a program that is, or becomes, the console.
    pub fn tenant_of(&self, program: &Path, name: &str, quota: Option<&str>) -> Program {
        let memory: Vec<&str> = quota.into_iter().flat_map(|quota| ["--memory", quota]).collect();
        self.run(program, name, &memory)
    }

    /// A console as `cuota run` starts it in this tenant, with further options of that command.
    pub fn tenant_with(&self, name: &str, options: &[&str]) -> Program {
        self.run(&build::program("console"), name, options)
    }

    /// As [`Self::tenant_with`], for a program that is, or becomes, the console, or is another.
    pub fn run(&self, program: &Path, name: &str, options: &[&str]) -> Program {
        let mut command = self.prepared(build::command(), false);
        command.env("CUOTA_DIR", self.region()).args(["run", "--tenant", name]).args(options);
        if !has_real_gpu() {
            command.arg("--sim").env("CUOTA_SIM_LIB", build::software_gpu());
        }
        command.arg("--lib").arg(self.library()).arg("--").arg(program);
        self.program(command)
    }

    /// Starts a console as [`Self::tenant`], with a context that is current.
    #[track_caller]
    pub fn start(&self, name: &str, quota: &str) -> Console {
        self.tenant(name, Some(quota)).start_with_context()
    }

    /// The policy, for writing. The test is the operator.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn operate(&self) -> PolicyWriter {
        let options =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.policy());
        let file = options.expect("the folder is ours");
        let fd = Fd::from_owned(std::os::fd::IntoRawFd::into_raw_fd(file));
        PolicyWriter::on(&fd).expect("the policy can be written")
    }

    /// Changes a tenant's quota on every GPU, bytes.
    ///
    /// # Panics
    /// If the policy has no room.
    pub fn set_quota(&self, name: &str, bytes: u64) {
        self.set_quota_of(name, GpuId::ANY, bytes);
    }

    /// Changes a tenant's quota on the GPU with this UUID, bytes.
    ///
    /// # Panics
    /// If the policy has no room.
    pub fn set_quota_on(&self, name: &str, uuid: [u8; 16], bytes: u64) {
        self.set_quota_of(name, GpuId::from_uuid(uuid), bytes);
    }

    fn set_quota_of(&self, name: &str, gpu: GpuId, bytes: u64) {
        let limits = Limits::of_memory(MemoryLimit::Bytes(bytes));
        self.operate().set(&tenant_name(name), gpu, limits).expect("the policy has room");
    }

    fn tenant_file(&self, name: &str) -> Option<Tenant> {
        let directory = Directory::at(OsStr::as_bytes(self.region().as_os_str())).expect("a short path");
        Tenant::open(&directory.tenant(&tenant_name(name)).expect("a short path")).ok()
    }

    fn file(&self, name: &str) -> Option<(Tenant, GpuIndex)> {
        let tenant = self.tenant_file(name)?;
        let (index, _) = tenant.gpus().next()?;
        Some((tenant, index))
    }

    /// What a tenant has booked on the GPU with this UUID; `None` where it never used it.
    pub fn books_on(&self, name: &str, uuid: [u8; 16]) -> Option<Usage> {
        let tenant = self.tenant_file(name)?;
        tenant.gpu_index(GpuId::from_uuid(uuid)).map(|index| tenant.usage(index))
    }

    /// What a tenant has booked on the GPU; nothing where it never used one.
    pub fn books(&self, name: &str) -> Usage {
        self.file(name).map_or(Usage::default(), |(tenant, index)| tenant.usage(index))
    }

    /// What a tenant has booked for allocations: all but contexts and code, bytes.
    pub fn held(&self, name: &str) -> u64 {
        let books = self.books(name);
        books.booked - books.overhead
    }

    /// What the first GPU has taken by whomever, bytes, as a process outside of any tenant sees it.
    ///
    /// # Panics
    /// If there is no GPU.
    #[track_caller]
    pub fn device_used(&self) -> u64 {
        let mut observer = self.observer.console();
        let _ = observer.call("cuInit", &[Arg::Is(0)]).ok();
        observer.nvml_memory().used
    }

    /// What happened to a tenant.
    pub fn events(&self, name: &str) -> Vec<Event> {
        let tenant = self.tenant_file(name);
        tenant.map_or(Vec::new(), |tenant| tenant.events().entries().map(|entry| entry.event).collect())
    }

    /// What each process of a tenant has booked on the GPU.
    pub fn processes(&self, name: &str) -> Vec<ProcessUsage> {
        self.file(name).map_or(Vec::new(), |(tenant, index)| tenant.processes(index).collect())
    }
}

/// In no test does the library make a call for itself that could ruin a capture of the program's.
impl Drop for Machine {
    fn drop(&mut self) {
        let said = fs::read_to_string(self.gpu_folder().join(WATCH)).unwrap_or_default();
        if !std::thread::panicking() {
            assert_eq!(said, "", "calls of the library's own that a thread must be relaxed for");
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Program {
    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With the 32-bit forms of CUDA 2 as they once worked, on the software GPU: those of an H100's driver find no context, whoever
    /// calls them.
    #[must_use]
    pub fn with_old_forms(self) -> Self {
        self.with("CUOTA_SIM_OLD_FORMS", "1")
    }

    /// Lets it find no default directory, whatever this machine has there: a `/dev/shm` of its own where that can be
    /// mounted. `None` where it cannot, and the directory exists.
    pub fn without_default_directory(self) -> Option<Self> {
        self.after("mount -t tmpfs tmpfs /dev/shm").or_where_there_is_none()
    }

    /// Lets it find nothing in the default directory, whatever this machine has there. `None` where nothing can be mounted.
    pub fn with_empty_default_directory(self) -> Option<Self> {
        if !Path::new(cuota_region::DEFAULT_DIR).exists() {
            return Some(self);
        }
        let mount = format!("mount -t tmpfs tmpfs {}", cuota_region::DEFAULT_DIR);
        self.after(&mount).or_where_there_is_none()
    }

    /// Lets it find this file read-only, as in a container whose operator has mounted it so. `None` where nothing can be mounted.
    ///
    /// # Panics
    /// If the path is none that a shell takes as it is.
    pub fn with_read_only(self, file: &Path) -> Option<Self> {
        let file = file.to_str().filter(|path| !path.contains(['\'', ' '])).expect("a plain path");
        self.after(&format!("mount --bind {file} {file} && mount -o remount,bind,ro {file}")).mounted()
    }

    /// The program in mounts of its own, after this command, where that can be done.
    fn after(self, mount: &str) -> Mounted {
        let script = format!("{mount} && exec \"$@\"");
        let own_mounts = ["--mount", "--", "sh", "-c", &script, "sh"];
        let tried = Command::new("unshare").args(own_mounts).arg("true").output();
        if !tried.is_ok_and(|output| output.status.success()) {
            return Mounted::Not(self);
        }
        let mut command = Command::new("unshare");
        command.args(own_mounts).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Mounted::So(Self { command, observer: self.observer })
    }

    /// The command, to be changed further.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it.
    pub fn start(mut self) -> Console {
        Console::observed(&mut self.command, self.observer)
    }

    /// Starts it and makes the first device's primary context current.
    #[track_caller]
    pub fn start_with_context(self) -> Console {
        let mut console = self.start();
        console.use_primary_context();
        console
    }
}

/// A program that was to have mounts of its own.
enum Mounted {
    So(Program),
    Not(Program),
}

impl Mounted {
    fn mounted(self) -> Option<Program> {
        if let Mounted::So(program) = self { Some(program) } else { None }
    }

    /// As it is, too, where there is no default directory.
    fn or_where_there_is_none(self) -> Option<Program> {
        match self {
            Mounted::So(program) => Some(program),
            Mounted::Not(program) => (!Path::new(cuota_region::DEFAULT_DIR).exists()).then_some(program),
        }
    }
}

/// A program on the machine whose software GPU is in this folder; not yet of any tenant.
fn prepared(program: &Path, gpu: &Path, finds_driver: bool, death_ms: u32) -> Command {
    let mut command = Command::new(program);
    for variable in ["LD_PRELOAD", "CUOTA_DIR", "CUOTA_TENANT", "CUOTA_LIB"] {
        command.env_remove(variable);
    }
    // A driver of this machine's own may be the software GPU, with a card's sizes: then it is set up already.
    if !has_real_gpu() {
        command.env("CUOTA_SIM_DIR", gpu).env("CUOTA_SIM_DEATH_MS", death_ms.to_string());
        command.env("CUOTA_SIM_WATCH", gpu.join(WATCH));
        if finds_driver {
            command.env("LD_LIBRARY_PATH", build::software_gpu());
        }
    }
    command
}

fn tenant_name(name: &str) -> TenantName {
    TenantName::parse(name.as_bytes()).expect("a tenant's name")
}
