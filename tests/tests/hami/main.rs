//! Containers of HAMi's and FCSP's, end to end: programs that find nothing but their variables and a folder, and what the monitor's file
//! says of them. On the software GPU, or with `CUOTA_TEST_GPU=1` on the machine's own: see `cuota_tests::machine`.

mod devices;
mod emptied;
mod limits;
mod live;
mod monitor;
mod settings;
mod slots;
mod strangers;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cuota_region::event::Event;
use cuota_region::hami::own::{PLACES, Places};
use cuota_region::ledger::Usage;
use cuota_region::name::TenantName;
use cuota_region::path::Directory;
use cuota_region::tenant::Tenant;
use cuota_tests::build;
use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::console::Console;
use cuota_tests::machine::{Machine, Program};
use cuota_tests::wait::eventually;
use tempfile::TempDir;

use crate::monitor::Monitor;

/// The quota of a container where nothing else is said.
const QUOTA_BYTES: u64 = 2 << 30;
const QUOTA: (&str, &str) = ("CUDA_DEVICE_MEMORY_LIMIT_0", "2048m");

/// What one of two programs can have beside the contexts of both. Then [`FITS_ALONE`] no longer fits, and would for a program with a
/// quota of its own: with contexts of 128 to 768 MiB, and an H100's takes 520.
const FITS_BESIDE_TWO: u64 = QUOTA_BYTES / 4;
const FITS_ALONE: u64 = QUOTA_BYTES / 8 * 5;

/// A container: a folder that HAMi's plugin mounts, and a machine.
struct Container {
    machine: Machine,
    folder: TempDir,
}

impl Container {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
        // As the plugin makes it: whoever the container's programs run as.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("the folder is ours");
        Self { machine: Machine::new(), folder }
    }

    /// The monitor's file.
    fn cache(&self) -> PathBuf {
        self.folder.path().join("5f0c6ab4.cache")
    }

    /// What the monitor sees.
    fn monitor(&self) -> Monitor {
        Monitor::of(&self.cache())
    }

    /// A program with these variables and a named file.
    fn program(&self, variables: &[(&str, &str)]) -> Program {
        self.program_of(self.machine.preloaded(), variables)
    }

    fn program_of(&self, program: Program, variables: &[(&str, &str)]) -> Program {
        let program = program.with("CUDA_DEVICE_MEMORY_SHARED_CACHE", self.cache());
        let program = variables.iter().fold(program, |program, (name, value)| program.with(name, value));
        // A policy of this machine's would count.
        program
            .with_empty_default_directory()
            .expect("this machine's own policy can be kept away from the program")
    }

    /// A program with these variables that has a context.
    #[track_caller]
    fn start(&self, variables: &[(&str, &str)]) -> Console {
        self.program(variables).start_with_context()
    }

    /// Where our own files may lie, best first.
    fn places(&self) -> [PathBuf; PLACES] {
        places_of(&self.cache())
    }

    fn tenant(&self) -> Tenant {
        self.tenant_at(0)
    }

    /// The tenant whose files are in that one of the places.
    fn tenant_at(&self, place: usize) -> Tenant {
        tenant_in(&self.places()[place])
    }

    /// What the container has booked on its first GPU.
    fn books(&self) -> Usage {
        let tenant = self.tenant();
        tenant.gpus().next().map_or(Usage::default(), |(index, _)| tenant.usage(index))
    }

    /// How long launches have waited, ns.
    fn throttled_ns(&self) -> u64 {
        let tenant = self.tenant();
        let meter = tenant.gpus().next().and_then(|(index, _)| tenant.meter(index));
        meter.expect("it has used a GPU").throttled_ns()
    }

    /// What the events say of variables.
    fn complaints(&self) -> Vec<Event> {
        let events = self.tenant().events().entries().map(|entry| entry.event);
        events.filter(|event| matches!(event, Event::Setting { .. })).collect()
    }
}

/// Programs that have a context each. They start at once: on a card that is most of what a test takes.
#[track_caller]
fn start_all(programs: impl IntoIterator<Item = Program>) -> Vec<Console> {
    let mut consoles: Vec<Console> = programs.into_iter().map(Program::start).collect();
    for_all(&mut consoles, Console::use_primary_context);
    consoles
}

/// Lets them end at once, and each must end well.
#[track_caller]
fn finish_all(consoles: Vec<Console>) {
    for_all(consoles, Console::finish);
}

/// Does it with each at once.
#[track_caller]
fn for_all<C: Send>(consoles: impl IntoIterator<Item = C>, each: impl Fn(C) + Sync) {
    let failed = std::thread::scope(|scope| {
        let begun: Vec<_> = consoles.into_iter().map(|console| scope.spawn(|| each(console))).collect();
        begun.into_iter().map(|one| one.join()).filter(Result::is_err).count()
    });
    assert_eq!(failed, 0, "what they said stands above");
}

/// Where the files of the container with this monitor's file may lie, best first.
fn places_of(file: &Path) -> [PathBuf; PLACES] {
    let places = Places::of(file.as_os_str().as_bytes()).expect("the folder is there");
    [0, 1, 2].map(|number| OsStr::from_bytes(places.at(number).expect("a short path").as_bytes()).into())
}

/// The tenant of a container whose files lie here.
#[track_caller]
fn tenant_in(place: &Path) -> Tenant {
    let directory = Directory::at(place.as_os_str().as_bytes()).expect("a short path");
    Tenant::open(&directory.tenant(&TenantName::DEFAULT).expect("a short path"))
        .expect("the tenant has a file")
}

impl Drop for Container {
    /// What lies in the machine's own folders; a container's would go with it.
    fn drop(&mut self) {
        for place in self.places() {
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Why a test with programs of several users is skipped.
const NOT_AS_OTHERS: &str = "a program cannot be run as another user here";

/// Whether other users can run what the tests start, and use the GPU; they may not read where it was built.
fn others_can_run() -> bool {
    let needed = [build::program("console"), build::libcuota().to_owned(), build::command().to_owned()];
    let script =
        "test -x \"$0\" && test -r \"$1\" && test -x \"$2\" && { test ! -e \"$3\" || test -w \"$3\"; }";
    let mut look = Command::new("sh");
    look.args(["-c", script]).args(needed).arg("/dev/nvidiactl").uid(1000).gid(1000);
    // Only root can start a program as another user.
    look.status().is_ok_and(|status| status.success())
}

/// A kernel of the program that takes so many nanoseconds and all of the GPU, and a stream: both handles.
#[track_caller]
fn kernel(console: &mut Console, ns: u64) -> [u64; 2] {
    let code = format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns={ns} sms=132\n\
         .visible .entry spin()\n{{\n .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n\
         add.u64 %rd2, %rd1, {ns};\nLOOP:\n mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n\
         ret;\n}}\n\0"
    );
    let module = console.call("cuModuleLoadData", &[Out(8), At(code.as_bytes())]).ok().number(0);
    let function = console.call("cuModuleGetFunction", &[Out(8), Is(module), Text("spin")]).ok().number(0);
    [function, console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0)]
}

/// Launches it `count` times, without waiting for the answer.
fn begin(console: &mut Console, [function, stream]: [u64; 2], count: u64) {
    let (one, none) = (Is(1), Is(0));
    let arguments = [Is(function), one, one, one, one, one, one, none, Is(stream), none, none];
    console.start_repeating(count, "cuLaunchKernel", &arguments);
}

/// Launches it `count` times, and waits for the last to be given to the driver.
#[track_caller]
fn launch(console: &mut Console, kernel: [u64; 2], count: u64) {
    begin(console, kernel, count);
    let answer = console.hear();
    assert_eq!((answer.status, answer.number(0)), (0, count));
}
