//! The whole law on a modelled GPU: what nine workloads get under caps.

mod model;

use model::gpu::Kernel;
use model::{Op, Script, World};

const MS: u64 = 1_000_000;
const CAPS_PPM: [u32; 5] = [100_000, 250_000, 500_000, 750_000, 900_000];

fn launch(stream: usize, function: u64, cost_ns: u64) -> Op {
    Op::Launch { stream, function, kernel: Kernel { cost_ns, ..Kernel::default() } }
}

fn back_to_back(cost_ns: u64) -> Script {
    Box::new(move |_| launch(0, 1, cost_ns))
}

/// One launch and a synchronisation, with `host_ns` of the CPU between.
fn synchronised(cost_ns: u64, host_ns: u64) -> Script {
    Box::new(move |step| match step % 3 {
        0 => launch(0, 1, cost_ns),
        1 => Op::Sync { stream: 0 },
        _ => Op::Host(host_ns),
    })
}

/// 240 small kernels of 24 functions behind a slow CPU, a synchronisation, 3 ms of the CPU.
fn training() -> Script {
    Box::new(|step| match step % 482 {
        480 => Op::Sync { stream: 0 },
        481 => Op::Host(3 * MS),
        n if n % 2 == 0 => launch(0, 100 + n / 2 % 24, 3_000 + n / 2 % 24 * 700),
        _ => Op::Host(30_000),
    })
}

fn matmul() -> Script {
    Box::new(|step| launch(0, step % 3, [196_000, 3_000, 8_000][(step % 3) as usize]))
}

type Workload = (&'static str, fn() -> Script);

const WORKLOADS: [Workload; 9] = [
    ("5 us kernels", || back_to_back(5_000)),
    ("100 us kernels", || back_to_back(100_000)),
    ("1 ms kernels", || back_to_back(MS)),
    ("20 ms kernels", || back_to_back(20 * MS)),
    ("graph of 20 x 5 us", || back_to_back(104_000)),
    ("100 us, synchronise each", || synchronised(100_000, 1)),
    ("matmul", matmul),
    ("training step", training),
    ("decode graph", || synchronised(403_000, 60_000)),
];

struct Outcome {
    /// Work done a second of the clock.
    speed: f64,
    occupied: f64,
    charged: f64,
}

/// Runs a workload alone on the GPU for `span_ns`, after `warm_up_ns`.
fn run(script: Script, cap_ppm: u32, helper: bool, warm_up_ns: u64, span_ns: u64) -> Outcome {
    let mut world = World::new(helper);
    let tenant = world.tenant(cap_ppm);
    let process = world.process(tenant, true, true);
    world.gpu.stream(process);
    world.thread(process, script);
    world.run_until(warm_up_ns);
    let before = world.gpu.truth(process).clone();
    let charged_before = world.guests[process].1.charged_ns;
    world.run_until(warm_up_ns + span_ns);
    let after = world.gpu.truth(process);
    let span = span_ns as f64;
    Outcome {
        speed: (after.work_ns - before.work_ns) / span,
        occupied: (after.occupied_ns - before.occupied_ns) / span,
        charged: (world.guests[process].1.charged_ns - charged_before) as f64 / span,
    }
}

#[test]
fn nine_workloads_get_their_cap_within_half_a_point() {
    let (mut distances, mut table) = (Vec::new(), String::new());
    for (name, script) in WORKLOADS {
        let native = run(script(), 1_000_000, true, 500 * MS, 1_000 * MS);
        for cap_ppm in CAPS_PPM {
            let cap = f64::from(cap_ppm) / 10_000.0;
            let span = if name.starts_with("20 ms") { 20_000 * MS } else { 2_000 * MS };
            let got = run(script(), cap_ppm, true, 2_000 * MS, span);
            let share = 100.0 * got.speed / native.speed * native.occupied;
            table += &format!(
                "{name:26} o {:5.1} cap {cap:4.0}: {share:6.2}, occupied {:6.2}, charged {:6.2}\n",
                100.0 * native.occupied,
                100.0 * got.occupied,
                100.0 * got.charged
            );
            if cap >= 100.0 * native.occupied - 1.0 {
                assert!(got.speed >= 0.99 * native.speed, "{table}");
            } else {
                distances.push((share - cap).abs());
            }
        }
    }
    println!("{table}");
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    let worst = distances.iter().copied().fold(0.0, f64::max);
    println!("mean {mean:.3}, worst {worst:.3} points");
    assert!(mean <= 0.5 && worst <= 2.0, "mean {mean:.3}, worst {worst:.3}\n{table}");
}
