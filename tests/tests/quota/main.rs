//! The memory quota, end to end: programs under `cuota run`, what they are granted, and what the books say meanwhile.
//!
//! On the software GPU, or with `CUOTA_TEST_GPU=1` on the machine's own: see `cuota_tests::machine`.

mod arrays;
mod code;
mod contexts;
mod damage;
mod dead;
mod devices;
mod forms;
mod frames;
mod frees;
mod gpus;
mod graphs;
mod limits;
mod listed;
mod live;
mod own_pools;
mod plain;
mod pools;
mod processes;
mod refusals;
mod regions;
mod settings;
mod shared;
mod storm;
mod strangers;
mod view;
mod vmm;

use cuota_tests::machine::{GIB, MIB, Machine, has_real_gpu};

/// The quota of most tests: room for a few contexts, and less than any GPU has.
const QUOTA: &str = "2GiB";
const QUOTA_BYTES: u64 = 2 * GIB;

/// How often something that becomes true by itself is looked at, a millisecond apart.
const LOOKS: usize = 5_000;

/// By how much NVML's figure may move besides what is allocated, bytes: page tables, on a real GPU.
fn slack() -> u64 {
    if has_real_gpu() { 8 * MIB } else { 0 }
}

/// Looks until `is_so`, a bounded number of times.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("never: {what}");
}

/// What was booked and what NVML said of the process at one moment, to compare a later one with.
#[derive(Clone, Copy)]
struct Moment {
    held: u64,
    nvml: u64,
}

impl Moment {
    #[track_caller]
    fn of(machine: &Machine, tenant: &str, console: &mut cuota_tests::console::Console) -> Self {
        Moment { held: machine.held(tenant), nvml: console.nvml_own() }
    }

    /// Since this moment `bytes` were added to what the tenant holds, by its books and by the device.
    #[track_caller]
    fn plus(self, bytes: u64, machine: &Machine, console: &mut cuota_tests::console::Console) {
        self.plus_for("t", bytes, machine, console);
    }

    #[track_caller]
    fn plus_for(
        self,
        tenant: &str,
        bytes: u64,
        machine: &Machine,
        console: &mut cuota_tests::console::Console,
    ) {
        let now = Moment::of(machine, tenant, console);
        assert_eq!(now.held, self.held + bytes, "by the books");
        let grown = self.nvml + bytes;
        assert!(now.nvml.abs_diff(grown) <= slack(), "by NVML: {} instead of {grown}", now.nvml);
    }
}
