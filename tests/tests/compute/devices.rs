//! Several GPUs, and several contexts on one: a cap is a GPU's.

use std::time::Instant;

use cuota_region::name::GpuId;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::uuid_text;
use cuota_tests::machine::{Machine, skip};

use crate::changes::set;
use crate::{MS, Worker, assert_share, eventually, meter, meter_on};

const ONE_DEVICE: &str = "this machine may have one GPU only";

#[test]
fn each_gpu_is_held_to_its_own_cap() {
    const CAPS: [u64; 2] = [60, 20];
    let machine = Machine::new();
    let mut observer = machine.native().with("CUOTA_SIM_DEVICES", "2").start();
    if observer.devices() < 2 {
        return skip(ONE_DEVICE);
    }
    let uuids = [0, 1].map(|ordinal| observer.uuid(ordinal));
    observer.finish();
    let first = format!("{}%", CAPS[0]);
    let program = machine.tenant_with("t", &["--compute", &first]).with("CUOTA_SIM_DEVICES", "2");
    let mut console = program.start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let (uuid, cap) = (uuid_text("GPU", uuids[1]), format!("{}%", CAPS[1]));
    let output = set(&machine, &["t", "--compute", &cap, "--gpu", &uuid]);
    assert!(output.status.success(), "{output:?}");
    for (ordinal, (uuid, percent)) in (0..).zip(uuids.into_iter().zip(CAPS)) {
        console.use_device(ordinal);
        let mut worker = Worker::on(console, MS);
        worker.launch(percent);
        worker.synchronize();
        let (count, cap) = (15 * percent, percent as f64);
        let mut work_ns = percent * MS;
        assert_share(cap - 10.0, cap * 1.02 + 0.5, || {
            let begin = Instant::now();
            worker.launch(count);
            worker.synchronize();
            work_ns += count * MS;
            100.0 * count as f64 * MS as f64 / begin.elapsed().as_nanos() as f64
        });
        let used = || meter_on(&machine, "t", GpuId::from_uuid(uuid)).0;
        eventually("the GPU's books have its work", || used() >= work_ns * 9 / 10);
        assert!(used() <= work_ns * 3 / 2, "{} ns on GPU {ordinal}", used());
        console = worker.console;
    }
    console.finish();
}

#[test]
fn contexts_of_a_gpu_share_its_cap() {
    const ROUNDS: u64 = 12;
    const EACH: u64 = 10;
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "40%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let mut contexts = Vec::new();
    for _ in 0..2 {
        let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
        let mut worker = Worker::on(console, MS);
        worker.launch(20);
        worker.synchronize();
        contexts.push((context, worker.function, worker.stream));
        console = worker.console;
    }
    let mut worker = Worker { console, function: 0, stream: 0 };
    let work_ns = 2 * ROUNDS * EACH * MS;
    assert_share(30.0, 41.5, || {
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            for (context, function, stream) in &contexts {
                let _ = worker.console.call("cuCtxSetCurrent", &[Is(*context)]).ok();
                (worker.function, worker.stream) = (*function, *stream);
                worker.launch(EACH);
            }
        }
        for (context, ..) in &contexts {
            let _ = worker.console.call("cuCtxSetCurrent", &[Is(*context)]).ok();
            worker.console.synchronize();
        }
        100.0 * work_ns as f64 / begin.elapsed().as_nanos() as f64
    });
    eventually("the books have its work", || meter(&machine, "t").0 >= work_ns * 9 / 10);
    worker.console.finish();
}

#[test]
fn contexts_that_run_at_once_are_charged_the_time_once() {
    const ROUNDS: u64 = 100;
    let machine = Machine::new();
    let mut console = machine.tenant_with("t", &["--compute", "50%"]).start();
    let _ = console.call("cuInit", &[Is(0)]).ok();
    let mut contexts = Vec::new();
    for _ in 0..3 {
        let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
        let mut worker = Worker::on(console, 2 * MS);
        worker.launch(5);
        worker.synchronize();
        contexts.push((context, worker.function, worker.stream));
        console = worker.console;
    }
    let mut worker = Worker { console, function: 0, stream: 0 };
    let before_ns = meter(&machine, "t").0;
    let work_ns = 3 * ROUNDS * 2 * MS;
    for _ in 0..ROUNDS {
        for (context, function, stream) in &contexts {
            let _ = worker.console.call("cuCtxSetCurrent", &[Is(*context)]).ok();
            (worker.function, worker.stream) = (*function, *stream);
            worker.launch(1);
        }
        for (context, _, stream) in &contexts {
            let _ = worker.console.call("cuCtxSetCurrent", &[Is(*context)]).ok();
            worker.stream = *stream;
            worker.synchronize();
        }
    }
    let charged = || (meter(&machine, "t").0 - before_ns) as f64 / work_ns as f64;
    eventually("the books have its work", || charged() >= 0.95);
    // With a context alone it is 1.05: the synchronisation is seen some time after the end.
    assert!(charged() <= 1.3, "{} of the work", charged());
    worker.console.finish();
}
