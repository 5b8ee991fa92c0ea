//! Beside others on the GPU: what is paid for is what ran, whatever an argument decides.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cuota_tests::build;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::machine::{GIB, Machine, Program, has_real_gpu, skip};

use crate::{MS, Worker, meter, spin_as_told};

fn at_a_fifth(machine: &Machine) -> Program {
    machine.tenant_with("t", &["--compute", "20%"])
}

/// What a program gets of the GPU, per cent, whose kernel takes `dear_ns` or 1 µs, as its argument says, when it has learned the
/// latter; and what of it is charged, per cent.
fn share_and_charge(machine: &Machine, console: Console, dear_ns: u64) -> (f64, f64) {
    let mut worker = Worker::with(console, &spin_as_told());
    let once = |worker: &mut Worker, ns: u64| {
        worker.launch_as_told(ns, worker.stream);
        worker.synchronize();
    };
    for _ in 0..15 {
        once(&mut worker, 1_000);
        sleep(Duration::from_millis(2));
    }
    let (begin, (before_ns, _)) = (Instant::now(), meter(machine, "t"));
    let mut work_ns = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        once(&mut worker, dear_ns);
        (0..3).for_each(|_| once(&mut worker, 1_000));
        work_ns += dear_ns;
    }
    // The next launch waits until what came before is paid.
    once(&mut worker, 1_000);
    let share = 100.0 * work_ns as f64 / begin.elapsed().as_nanos() as f64;
    let charged = 100.0 * (meter(machine, "t").0 - before_ns) as f64 / work_ns as f64;
    worker.console.finish();
    (share, charged)
}

#[test]
fn beside_an_idle_process_of_its_own_a_tenant_pays_for_what_an_argument_decides() {
    for dear_ns in [50 * MS, 2 * MS] {
        let machine = Machine::new();
        let companion = at_a_fifth(&machine).start_with_context();
        let (share, charged) = share_and_charge(&machine, at_a_fifth(&machine).start_with_context(), dear_ns);
        companion.finish();
        // A quantum, one kernel, and two slices: 4 + 50 + 4.5 ms in 2 s.
        assert!(share <= 20.0 + 3.0, "{share} % at 20, {charged} % of it charged");
        assert!(charged >= 98.0, "{charged} % of the work was charged");
    }
}

#[test]
fn beside_an_idle_stranger_a_tenant_pays_for_its_part_of_the_rounds_at_least() {
    for dear_ns in [50 * MS, 2 * MS] {
        let machine = Machine::new();
        let stranger = machine.native().start_with_context();
        let (share, charged) = share_and_charge(&machine, at_a_fifth(&machine).start_with_context(), dear_ns);
        stranger.finish();
        assert!(share <= 20.0 * 16.0 / 7.0 + 4.0, "{share} % at 20, {charged} % of it charged");
        assert!(charged >= 42.0, "{charged} % of the work was charged");
    }
}

/// Managed memory is the device's loss, and NVML shows it for no process: as if somebody were there whom it does not list.
#[test]
fn managed_memory_of_its_own_is_no_stranger() {
    for dear_ns in [50 * MS, 2 * MS] {
        let machine = Machine::new();
        let mut console = at_a_fifth(&machine).start_with_context();
        let before = machine.device_used();
        let memory = console.call("cuMemAllocManaged", &[Out(8), Is(GIB), Is(1)]).ok().number(0);
        let _ = console.call("cuMemsetD8_v2", &[Is(memory), Is(1), Is(GIB)]).ok();
        let _ = console.call("cuCtxSynchronize", &[]).ok();
        assert!(machine.device_used() - before >= GIB, "the memory is on the device");
        let (share, charged) = share_and_charge(&machine, console, dear_ns);
        assert!(share <= 20.0 + 3.0, "{share} % at 20, {charged} % of it charged");
        assert!(charged >= 98.0, "{charged} % of the work was charged");
    }
}

/// As in a container that was given the driver's library and no other.
#[test]
fn where_nvml_is_not_there_a_tenant_that_is_alone_gets_its_cap_whatever_an_argument_decides() {
    if has_real_gpu() {
        return skip("this machine's NVML is where the loader finds it");
    }
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    for name in ["libcuda.so.1", "libcuda.so"] {
        symlink(build::software_gpu().join(name), folder.path().join(name)).expect("the folder is ours");
    }
    let (script, console) = (folder.path().join("without-nvml"), build::program("console"));
    let text = format!("#!/bin/sh\nLD_LIBRARY_PATH={} exec {}\n", folder.path().display(), console.display());
    fs::write(&script, text).expect("the folder is ours");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    for dear_ns in [50 * MS, 2 * MS] {
        let machine = Machine::new();
        let program = machine.run(&script, "t", &["--compute", "20%"]);
        let (share, charged) = share_and_charge(&machine, program.start_with_context(), dear_ns);
        assert!(share <= 20.0 + 3.0, "{share} % at 20, {charged} % of it charged");
        assert!(charged >= 98.0, "{charged} % of the work was charged");
    }
}
