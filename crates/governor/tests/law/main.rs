//! The whole law on a modelled GPU and on virtual time. `model/guest.rs` shows how a guest calls the governor.

mod beside;
mod bursts;
mod model;
mod programs;
mod progress;
mod shares;
mod tenants;

use model::gpu::Kernel;
use model::{Op, World};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn kernel(cost_ns: u64) -> Kernel {
    Kernel { cost_ns, ..Kernel::default() }
}

fn launch(stream: usize, function: u64, cost_ns: u64) -> Op {
    Op::Launch { stream, function, kernel: kernel(cost_ns) }
}

/// A world with one process under a cap, and its streams.
fn world(cap_ppm: u32, streams: usize, helper: bool) -> World {
    let mut world = World::new(helper);
    let tenant = world.tenant(cap_ppm);
    let process = world.process(tenant, true, None);
    for _ in 0..streams {
        world.gpu.stream(process);
    }
    world
}
