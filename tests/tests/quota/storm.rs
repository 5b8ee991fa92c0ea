//! Processes that begin all at once, and processes that are killed anywhere: the books are the device's figure afterwards.

use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, has_real_gpu, skip};

use crate::{eventually, slack};

/// How many processes begin at once.
const CROWD: usize = 200;

/// How many allocate while they are killed, and how often one is.
const CHURNING: usize = 8;
const KILLS: u32 = 200;

/// Room for eight contexts, and too little for all that the processes try to take.
const SHARED: &str = "8GiB";
const SHARED_BYTES: u64 = 8 * 1024 * MIB;

/// What contexts may grow by inside calls, all together, bytes: 20 MiB each at a first launch.
const GROWTH: u64 = 256 * MIB;

/// Numbers that look random and are the same in each run (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn two_hundred_processes_that_begin_at_once_share_one_quota() {
    if has_real_gpu() {
        return skip("200 contexts are more than a GPU's memory");
    }
    let machine = Machine::new();
    // A device for all of them: each one's first context is reserved at an H100's size, until NVML tells its own.
    let quota = "128GiB";
    let program = || {
        let program = machine.tenant("t", Some(quota)).with("CUOTA_SIM_CONTEXT_MIB", "8");
        program.with("CUOTA_SIM_MEMORY", "160GiB")
    };
    let mut crowd: Vec<Console> = (0..CROWD).map(|_| program().start()).collect();
    let start = cuota_region::sys::monotonic_ns() + 200_000_000;
    for console in &mut crowd {
        console.tell(&format!("at {start}"));
        console.tell("call cuInit 0");
        console.tell("call cuDevicePrimaryCtxRetain z:8 0");
    }
    let mut inside = Vec::new();
    for mut console in crowd {
        let _ = console.hear();
        let _ = console.hear().ok();
        let context = console.hear();
        // The software GPU takes 64 processes; the others joined the tenant all the same, and stay.
        assert!([0, OUT_OF_MEMORY].contains(&context.status), "{context:?}");
        if context.status == 0 {
            console.tell(&format!("call cuCtxSetCurrent {:#x}", context.number(0)));
        } else {
            console.tell("call cuMemAlloc_v2 z:8 2097152");
        }
        inside.push((context.status == 0, console));
    }
    for (is_inside, console) in &mut inside {
        assert_eq!(console.hear().status == 0, *is_inside);
    }
    assert_eq!(machine.processes("t").len(), CROWD, "each has a place, and one only");
    let mut got_in = 0;
    for (_, console) in inside.iter_mut().filter(|(is_inside, _)| *is_inside) {
        assert_eq!(console.repeat(4, "cuMemAlloc_v2", &[Out(8), Is(2 * MIB)]), (0, 4));
        got_in += 1;
    }
    assert!(got_in >= 60, "{got_in} got a context");
    assert_eq!(machine.held("t"), got_in * 8 * MIB);
    inside.into_iter().for_each(|(_, console)| console.finish());
    let mut next = program().start_with_context();
    eventually("the dead are swept, and all room is free again", || {
        // By whoever needs their room: as much as there would be without them.
        let _ = next.call("cuMemAlloc_v2", &[Out(8), Is(128 * 1024 * MIB)]);
        machine.processes("t").len() == 1
    });
    next.finish();
}

#[test]
fn books_are_the_truth_after_two_hundred_kills_at_random_points() {
    let kills = if has_real_gpu() { KILLS / 4 } else { KILLS };
    books_are_the_truth_after(kills, 0);
}

#[test]
fn room_of_the_killed_is_granted_when_the_driver_has_let_it_go() {
    if has_real_gpu() {
        return skip("a GPU lets memory of the dead go in its own time, in the other storm too");
    }
    books_are_the_truth_after(KILLS / 4, 200);
}

/// Kills `kills` times; a dead process's memory stays taken for `death_ms` on the software GPU.
fn books_are_the_truth_after(kills: u32, death_ms: u32) {
    let machine = Machine::whose_dead_linger(death_ms);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let begin = |seed: u64| {
        let mut console = machine.tenant("t", Some(SHARED)).start();
        let _ = console.call("cuInit", &[Is(0)]).ok();
        let mut context = 0;
        eventually("there is room for a context", || {
            let answer = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]);
            context = answer.number(0);
            answer.status == 0
        });
        let _ = console.call("cuCtxSetCurrent", &[Is(context)]).ok();
        console.tell(&format!("churn {seed}"));
        console
    };
    let base = machine.device_used();
    let mut churning: Vec<Console> = (0..CHURNING as u64).map(&begin).collect();
    for kill in 0..kills {
        std::thread::sleep(std::time::Duration::from_micros(random.below(20_000)));
        let victim = usize::try_from(random.below(CHURNING as u64)).expect("a small number");
        churning.swap_remove(victim).kill();
        // The books of processes that reserve just now say more for a moment; the device must not.
        let used = machine.device_used() - base;
        assert!(used <= SHARED_BYTES + GROWTH, "{} MiB after {kill} kills", used / MIB);
        churning.push(begin(random.below(u64::MAX)));
    }
    // They stop where they are, with what they hold.
    for console in &mut churning {
        console.tell("pid");
        assert_eq!(console.hear().status, 0, "every call was granted, or refused for want of memory");
        let _ = console.hear();
    }
    let mut device = 0;
    eventually("the books are what the device says", || {
        for console in &mut churning {
            // A refusal has the contexts and the pools booked at their true size, and the dead swept.
            assert_eq!(console.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
        }
        device = churning.iter_mut().map(Console::nvml_own).sum::<u64>();
        let booked = machine.books("t").booked;
        let is_true = booked.abs_diff(device) <= CHURNING as u64 * slack() && booked <= SHARED_BYTES;
        is_true && machine.processes("t").len() == CHURNING
    });
    println!("{kills} kills; {} MiB booked, {} MiB by NVML", machine.books("t").booked / MIB, device / MIB);
    churning.into_iter().for_each(Console::finish);
    // Nothing is left of any of them.
    let mut heir = machine.start("t", SHARED);
    eventually("all room is granted to the one that is left", || {
        let _ = heir.alloc(SHARED_BYTES);
        machine.processes("t").len() == 1 && machine.held("t") == 0
    });
    assert_eq!(machine.books("t").booked, heir.nvml_own());
    heir.finish();
}
