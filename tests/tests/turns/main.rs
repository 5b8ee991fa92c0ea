//! Tenants that share a GPU take turns, end to end: programs under `cuota run`, and how much of the GPU each gets while all of them want it.
//!
//! On the software GPU, which two noisy processors carry: shares are asked for within ten points.

mod faults;
mod neighbours;
mod shares;

use std::os::unix::ffi::OsStrExt;

use cuota_region::name::TenantName;
use cuota_region::path::Directory;
use cuota_region::tenant::Tenant;
use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;

/// 1 ms in nanoseconds.
const MS: u64 = 1_000_000;

/// More launches than any test waits for.
const ENDLESS: u64 = 1_000_000;

/// PTX of a kernel `spin` that takes so many nanoseconds and all of the GPU; ends with a NUL.
fn spin(ns: u64) -> Vec<u8> {
    format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns={ns} sms=132\n\
         .visible .entry spin()\n{{\n .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n\
         add.u64 %rd2, %rd1, {ns};\nLOOP:\n mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n\
         ret;\n}}\n\0"
    )
    .into_bytes()
}

/// A tenant's program that launches a kernel of a known length.
struct Worker {
    tenant: String,
    console: Console,
    function: u64,
    stream: u64,
}

impl Worker {
    /// Under these options of `cuota run`, with a kernel of so many nanoseconds and a stream.
    #[track_caller]
    fn start(machine: &Machine, tenant: &str, options: &[&str], ns: u64) -> Self {
        Self::on(machine.tenant_with(tenant, options).start_with_context(), tenant, ns)
    }

    #[track_caller]
    fn on(mut console: Console, tenant: &str, ns: u64) -> Self {
        let module = console.call("cuModuleLoadData", &[Out(8), At(&spin(ns))]).ok().number(0);
        let function =
            console.call("cuModuleGetFunction", &[Out(8), Is(module), Text("spin")]).ok().number(0);
        let stream = console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        Self { tenant: tenant.to_owned(), console, function, stream }
    }

    /// Launches `count` times, without waiting for the answer.
    fn begin(&mut self, count: u64) {
        let (one, none) = (Is(1), Is(0));
        let function = Is(self.function);
        let arguments = [function, one, one, one, one, one, one, none, Is(self.stream), none, none];
        self.console.start_repeating(count, "cuLaunchKernel", &arguments);
    }

    /// Launches `count` times, and waits until all have ended.
    #[track_caller]
    fn work(&mut self, count: u64) {
        self.begin(count);
        let answer = self.console.hear();
        assert_eq!((answer.status, answer.number(0)), (0, count));
        let _ = self.console.call("cuStreamSynchronize", &[Is(self.stream)]).ok();
    }

    /// GPU time that its tenant has used, ns.
    fn used_ns(&self, machine: &Machine) -> u64 {
        let name = TenantName::parse(self.tenant.as_bytes()).expect("a tenant's name");
        used_ns(&tenant_in(&machine.region(), &name))
    }
}

/// The file of a tenant whose directory this is.
#[track_caller]
fn tenant_in(directory: &std::path::Path, name: &TenantName) -> Tenant {
    let directory = Directory::at(directory.as_os_str().as_bytes()).expect("a short path");
    Tenant::open(&directory.tenant(name).expect("a short path")).expect("it has a file")
}

/// GPU time that a tenant has used, ns.
#[track_caller]
fn used_ns(tenant: &Tenant) -> u64 {
    let (gpu, _) = tenant.gpus().next().expect("it has used a GPU");
    tenant.meter(gpu).map_or(0, cuota_region::tenant::Meter::used_ns)
}

/// The arena's file of the one GPU, once there is one.
fn arena_file(machine: &Machine) -> Option<std::path::PathBuf> {
    let mut files = std::fs::read_dir(machine.region().join("arena")).ok()?;
    files.next().map(|entry| entry.expect("the folder is ours").path())
}

/// Turns that have passed.
#[track_caller]
fn passed(file: &std::path::Path) -> u64 {
    let path = cuota_region::path::Path::of(&[file.as_os_str().as_bytes()]).expect("a short path");
    let arena = cuota_region::arena::Arena::at(&path, 0o600).expect("a whole arena");
    arena.tally()[0]
}
