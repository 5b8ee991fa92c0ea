//! Memory of the dead stays booked until the driver has let it go, and nobody waits for it in vain.

use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{GIB, MIB, Machine, has_real_gpu, skip};

use crate::{eventually, slack};

const SHARED: &str = "4GiB";
const SHARED_BYTES: u64 = 4 * GIB;

/// What the process that is killed holds, bytes.
const HELD: u64 = 2 * GIB;

/// How long the software GPU takes to let go of a dead process's memory, and longer than anybody waits for it.
const DEATH_MS: u32 = 300;
const FOR_EVER_MS: u32 = 600_000;

/// A process that holds half of a quota, and another one of the tenant.
fn start(machine: &Machine) -> (Console, Console) {
    let (mut victim, mut heir) = (machine.start("t", SHARED), machine.start("t", SHARED));
    for console in [&mut victim, &mut heir] {
        // A refusal has the context booked at its true size.
        assert_eq!(console.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
    }
    assert!(victim.alloc(HELD).is_ok(), "there is room");
    settle_sweeps();
    (victim, heir)
}

/// A way to allocate: the address or handle, or the driver's status.
type Way = fn(&mut Console) -> Result<u64, i64>;

/// Waits until the refusals above are longer ago than a tenant waits between two looks for the dead, a millisecond.
fn settle_sweeps() {
    std::thread::sleep(std::time::Duration::from_millis(2));
}

#[test]
fn memory_of_the_dead_stays_booked_until_the_driver_lets_go() {
    let machine = Machine::whose_dead_linger(DEATH_MS);
    let (victim, mut heir) = start(&machine);
    let base = machine.device_used();
    let booked = machine.books("t").booked;
    victim.kill();
    // What fits beside the dead is granted while they are still booked.
    assert!(heir.alloc(64 * MIB).is_ok());
    let (books, device) = (machine.books("t").booked, machine.device_used());
    if device + HELD > base {
        // A moment that a GPU may be too quick for.
        assert!(books >= HELD, "{} MiB booked, {} of {} MiB taken", books / MIB, device / MIB, base / MIB);
    }
    eventually("the dead are struck off the books", || {
        let _ = heir.alloc(SHARED_BYTES);
        // Never less booked than the device has.
        let (device, books) = (heir.nvml_own(), machine.books("t").booked);
        assert!(books + slack() >= device, "{books} booked, {device} taken");
        books < booked - HELD
    });
    assert_eq!(machine.held("t"), 64 * MIB);
    heir.finish();
}

#[test]
fn allocation_that_needs_the_room_of_the_dead_waits_for_it() {
    let machine = Machine::whose_dead_linger(DEATH_MS);
    let (victim, mut heir) = start(&machine);
    victim.kill();
    assert!(heir.alloc(HELD + 256 * MIB).is_ok(), "in one call, without a refusal");
    assert_eq!(machine.held("t"), HELD + 256 * MIB);
    assert!(heir.nvml_own() <= SHARED_BYTES);
    assert!(machine.books("t").booked <= SHARED_BYTES);
    heir.finish();
}

#[test]
fn every_way_to_allocate_waits_for_the_room_of_the_dead() {
    let ways: [Way; 3] = [
        |heir| heir.alloc(HELD + 256 * MIB),
        |heir| heir.alloc_async(HELD + 256 * MIB),
        |heir| heir.create(HELD + 256 * MIB),
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let machine = Machine::whose_dead_linger(DEATH_MS);
        let (victim, mut heir) = start(&machine);
        victim.kill();
        let granted = way(&mut heir);
        assert!(granted.is_ok(), "way {index}: {granted:?}, {:?}", machine.processes("t"));
        assert!(machine.books("t").booked <= SHARED_BYTES);
        heir.finish();
    }
}

#[test]
fn context_waits_for_the_room_of_the_dead() {
    let machine = Machine::whose_dead_linger(DEATH_MS);
    let (mut victim, heir) = start(&machine);
    let _rest = victim.fill(32 * MIB);
    settle_sweeps();
    victim.kill();
    heir.finish();
    let mut next = machine.tenant("t", Some(SHARED)).start();
    next.use_primary_context();
    assert!(next.alloc(HELD).is_ok());
    next.finish();
}

#[test]
fn module_waits_for_the_room_of_the_dead() {
    let machine = Machine::whose_dead_linger(DEATH_MS);
    let (victim, mut heir) = start(&machine);
    victim.kill();
    let image = code::with_variable(HELD + 256 * MIB);
    let module = heir.call("cuModuleLoadData", &[Out(8), At(&image)]).ok().number(0);
    assert!(machine.books("t").booked <= SHARED_BYTES);
    assert_eq!(heir.call("cuModuleUnload", &[Is(module)]).status, 0);
    heir.finish();
}

#[test]
fn what_the_dead_had_is_shown_as_free_though_nobody_was_refused() {
    let machine = Machine::whose_dead_linger(DEATH_MS);
    let (victim, mut heir) = start(&machine);
    let (free, _) = heir.memory();
    victim.kill();
    eventually("it is free", || heir.memory().0 >= free + HELD);
    heir.finish();
}

#[test]
fn heirs_that_ask_at_once_all_get_the_room_of_the_dead() {
    const HEIRS: u64 = 3;
    let machine = Machine::new();
    let quota = "8GiB";
    let mut heirs: Vec<Console> = (0..HEIRS).map(|_| machine.start("t", quota)).collect();
    for round in 0..30 {
        let mut victim = machine.start("t", quota);
        let wish = (8 * GIB - HEIRS * GIB) / HEIRS;
        // Of what the heirs ask for nothing fits beside it.
        let _rest = victim.fill(64 * MIB);
        settle_sweeps();
        victim.kill();
        let start = cuota_region::sys::monotonic_ns() + 3_000_000;
        for heir in &mut heirs {
            heir.tell(&format!("at {start}"));
            heir.tell(&format!("call cuMemAlloc_v2 z:8 {wish}"));
        }
        for heir in &mut heirs {
            let _ = heir.hear().ok();
            let got = heir.hear();
            // One whose wait ends because another has struck the dead off the books gets its part all the same.
            assert_eq!(got.status, 0, "round {round}: {:?}", machine.processes("t"));
            assert_eq!(heir.free(got.number(0)), 0);
        }
    }
    heirs.into_iter().for_each(Console::finish);
}

#[test]
fn allocation_that_does_not_fit_without_the_dead_either_does_not_wait_for_them() {
    if has_real_gpu() {
        return skip("a GPU lets memory of the dead go in its own time, perhaps before the refusal");
    }
    let machine = Machine::whose_dead_linger(FOR_EVER_MS);
    let (victim, mut heir) = start(&machine);
    let before = machine.device_used();
    victim.kill();
    let first = heir.alloc(SHARED_BYTES);
    let booked = machine.books("t").booked;
    assert_eq!(first, Err(OUT_OF_MEMORY));
    assert_eq!(machine.device_used(), before, "the dead still have it");
    // One who waits for the dead strikes them off the books after two seconds, whatever NVML says.
    assert!(booked >= HELD, "it waited: {} MiB booked", booked / MIB);
    heir.finish();
}
