//! GPU time under a cap, end to end: programs under `cuota run --compute`, how much they get done, and what the books say.
//!
//! On the software GPU, or with `CUOTA_TEST_GPU=1` on the machine's own: see `cuota_tests::machine`. Two noisy processors carry the
//! software GPU, so what a program gets at least is asked for with a wide margin; that it never gets more is not.

mod blind;
mod captures;
mod changes;
mod contexts;
mod devices;
mod ends;
mod neighbours;
mod paths;
mod per_thread;
mod processes;
mod progress;
mod settings;
mod shares;
mod sparse;
mod streams;

use std::os::unix::ffi::OsStrExt;

use cuota_region::name::{GpuId, TenantName};
use cuota_region::path::Directory;
use cuota_region::tenant::Tenant;
use cuota_tests::console::Arg::{At, Is, Out, Parameter, Text};
use cuota_tests::console::Console;
use cuota_tests::machine::Machine;
use cuota_tests::wait::eventually;

/// 1 ms in nanoseconds.
const MS: u64 = 1_000_000;

/// How a kernel ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    InAFault,
}

/// PTX of a kernel `spin` that takes so many nanoseconds and all of the GPU; ends with a NUL.
fn spin(ns: u64, end: End) -> Vec<u8> {
    let (said, ends) = if end == End::Well { ("", "") } else { (" fault=1", " trap;\n") };
    let text = format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns={ns} sms=132{said}\n\
         .visible .entry spin()\n{{\n .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n\
         add.u64 %rd2, %rd1, {ns};\nLOOP:\n mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n\
         {ends} ret;\n}}\n\0"
    );
    text.into_bytes()
}

/// PTX of a kernel `spin` that takes as many nanoseconds as its argument says, and all of the GPU; ends with a NUL.
fn spin_as_told() -> Vec<u8> {
    let text = ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: spin_arg=0 sms=132\n\
         .visible .entry spin(.param .u64 ns)\n{\n .reg .b64 %rd<5>;\n .reg .pred %p<2>;\n\
         ld.param.u64 %rd4, [ns];\n mov.u64 %rd1, %globaltimer;\n add.u64 %rd2, %rd1, %rd4;\nLOOP:\n\
         mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n ret;\n}\n\0";
    text.as_bytes().to_vec()
}

/// A program that launches a kernel of a known length.
struct Worker {
    console: Console,
    function: u64,
    stream: u64,
}

impl Worker {
    /// A tenant's program under this cap, with a kernel of so many nanoseconds and a stream.
    #[track_caller]
    fn start(machine: &Machine, tenant: &str, compute: &str, ns: u64) -> Self {
        Self::on(machine.tenant_with(tenant, &["--compute", compute]).start_with_context(), ns)
    }

    #[track_caller]
    fn on(console: Console, ns: u64) -> Self {
        Self::with(console, &spin(ns, End::Well))
    }

    /// With a kernel `spin` of this code, which may take an argument: [`Self::launch_as_told`].
    #[track_caller]
    fn with(mut console: Console, code: &[u8]) -> Self {
        let module = console.call("cuModuleLoadData", &[Out(8), At(code)]).ok().number(0);
        let function =
            console.call("cuModuleGetFunction", &[Out(8), Is(module), Text("spin")]).ok().number(0);
        let stream = console.call("cuStreamCreate", &[Out(8), Is(1)]).ok().number(0);
        Self { console, function, stream }
    }

    /// Launches on this stream `count` times, without waiting for the answer.
    fn begin(&mut self, count: u64, stream: u64) {
        let (one, none) = (Is(1), Is(0));
        let function = Is(self.function);
        let arguments = [function, one, one, one, one, one, one, none, Is(stream), none, none];
        self.console.start_repeating(count, "cuLaunchKernel", &arguments);
    }

    /// Launches once on this stream, for so long.
    #[track_caller]
    fn launch_as_told(&mut self, ns: u64, stream: u64) {
        let (one, none, parameter) = (Is(1), Is(0), ns.to_le_bytes());
        let function = Is(self.function);
        let arguments =
            [function, one, one, one, one, one, one, none, Is(stream), Parameter(&parameter), none];
        let _ = self.console.call("cuLaunchKernel", &arguments).ok();
    }

    /// Launches on its stream `count` times.
    #[track_caller]
    fn launch(&mut self, count: u64) {
        self.begin(count, self.stream);
        let answer = self.console.hear();
        assert_eq!((answer.status, answer.number(0)), (0, count));
    }

    #[track_caller]
    fn synchronize(&mut self) {
        let _ = self.console.call("cuStreamSynchronize", &[Is(self.stream)]).ok();
    }
}

/// So often a share is taken until one is large enough: less can be this machine's, whose processors others use, too.
const ATTEMPTS: usize = 10;

/// Of the shares that `take` takes none is above the most, per cent, and one is at least the least.
#[track_caller]
fn assert_share(least: f64, most: f64, mut take: impl FnMut() -> f64) {
    let mut taken = Vec::new();
    while taken.last().is_none_or(|last| *last < least) {
        assert!(taken.len() < ATTEMPTS, "{taken:?}, but never {least} %");
        let share = take();
        assert!(share <= most, "{share} % instead of {most} at most, after {taken:?}");
        taken.push(share);
    }
}

/// GPU time that a tenant has used, and that its launches have waited, ns.
fn meter(machine: &Machine, tenant: &str) -> (u64, u64) {
    let file = file(machine, tenant);
    let (_, gpu) = file.gpus().next().expect("it has used a GPU");
    meter_on(machine, tenant, gpu)
}

/// The same on this GPU.
fn meter_on(machine: &Machine, tenant: &str, gpu: GpuId) -> (u64, u64) {
    let file = file(machine, tenant);
    let meter = file.gpu_index(gpu).and_then(|index| file.meter(index)).expect("the GPU has an index");
    (meter.used_ns(), meter.throttled_ns())
}

fn file(machine: &Machine, tenant: &str) -> Tenant {
    let directory = Directory::at(machine.region().as_os_str().as_bytes()).expect("a short path");
    let name = TenantName::parse(tenant.as_bytes()).expect("a tenant's name");
    Tenant::open(&directory.tenant(&name).expect("a short path")).expect("the tenant has a file")
}
