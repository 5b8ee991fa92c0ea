//! Pools that a program makes itself: thresholds, the device's current pool, pools that are gone.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::pools::{alloc_from, create_pool};
use crate::{Moment, QUOTA, QUOTA_BYTES, eventually};

/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`
const RELEASE_THRESHOLD: u64 = 4;

fn start(machine: &Machine) -> Console {
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc_async(32 * MIB).expect("there is room");
    console
}

fn set_threshold(console: &mut Console, pool: u64, bytes: u64) {
    let arguments = [Is(pool), Is(RELEASE_THRESHOLD), At(&bytes.to_le_bytes())];
    assert_eq!(console.call("cuMemPoolSetAttribute", &arguments).status, 0);
}

#[test]
fn pool_is_booked_down_to_its_release_threshold() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let pool = create_pool(&mut console);
    set_threshold(&mut console, pool, 64 * MIB);
    let before = Moment::of(&machine, "t", &mut console);
    let pieces: Vec<u64> =
        (0..4).map(|_| alloc_from(&mut console, pool, 64 * MIB).expect("there is room")).collect();
    let held = console.reserved(pool);
    before.plus(held, &machine, &mut console);
    pieces.into_iter().for_each(|piece| assert_eq!(console.free_async(piece), 0));
    console.synchronize();
    // A later allocation brings the books up to what the pool let go of by itself.
    let _more = alloc_from(&mut console, pool, 32 * MIB).expect("there is room");
    let left = console.reserved(pool);
    assert!((32 * MIB..held).contains(&left), "{left} left of {held}");
    before.plus(left, &machine, &mut console);
    console.finish();
}

#[test]
fn pools_of_the_program_are_trimmed_before_an_allocation_is_refused() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let mut pools = Vec::new();
    for _ in 0..4 {
        let pool = create_pool(&mut console);
        console.keep_freed_memory(pool);
        let piece = alloc_from(&mut console, pool, 128 * MIB).expect("there is room");
        assert_eq!(console.free_async(piece), 0);
        pools.push(pool);
    }
    console.synchronize();
    let kept: u64 = pools.iter().map(|pool| console.reserved(*pool)).sum();
    assert!(kept >= 512 * MIB, "{kept} kept");
    let wanted = QUOTA_BYTES - machine.books("t").booked + 256 * MIB;
    let wanted = wanted - wanted % (2 * MIB);
    assert!(console.alloc(wanted).is_ok(), "the pools' reserve makes room");
    assert!(machine.books("t").booked <= QUOTA_BYTES && console.nvml_own() <= QUOTA_BYTES);
    console.finish();
}

#[test]
fn allocation_from_the_pool_that_a_device_was_given_is_booked_there() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let default = console.default_pool();
    let pool = create_pool(&mut console);
    assert_eq!(console.call("cuDeviceSetMemPool", &[Is(0), Is(pool)]).status, 0);
    let before = Moment::of(&machine, "t", &mut console);
    let piece = console.alloc_async(64 * MIB).expect("there is room");
    let held = console.reserved(pool);
    assert!(held >= 64 * MIB);
    before.plus(held, &machine, &mut console);
    assert_eq!(console.alloc_async(QUOTA_BYTES - 128 * MIB), Err(OUT_OF_MEMORY));
    // The pool is the current one and has something live: its end leaves the default one in its place.
    assert_eq!(console.call("cuMemPoolDestroy", &[Is(pool)]).status, 0);
    assert_eq!(console.call("cuDeviceGetMemPool", &[Out(8), Is(0)]).ok().number(0), default);
    assert_eq!(console.free_async(piece), 0);
    console.synchronize();
    eventually("the pool is gone, and its memory", || {
        let _ = console.alloc(QUOTA_BYTES);
        machine.held("t") == before.held
    });
    console.finish();
}

#[test]
fn destroyed_pool_is_gone_for_the_program() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let pool = create_pool(&mut console);
    let piece = alloc_from(&mut console, pool, 64 * MIB).expect("there is room");
    assert_eq!(console.call("cuMemPoolDestroy", &[Is(pool)]).status, 0);
    assert!(alloc_from(&mut console, pool, 64 * MIB).is_err(), "nothing comes from it any more");
    assert!(console.nvml_own() <= QUOTA_BYTES);
    assert_eq!(console.free(piece), 0, "what came from it is still the program's");
    console.finish();
}

#[test]
fn more_pools_than_are_known_by_name_take_nothing_beyond_the_quota() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let mut refused = 0;
    for _ in 0..300 {
        let properties = crate::pools::on_first_device();
        let answer = console.call("cuMemPoolCreate", &[Out(8), At(&properties)]);
        if answer.status != 0 {
            break;
        }
        let pool = answer.number(0);
        console.keep_freed_memory(pool);
        match alloc_from(&mut console, pool, 2 * MIB) {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status, OUT_OF_MEMORY);
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "300 × 32 MiB are more than the quota");
    assert!(machine.books("t").booked <= QUOTA_BYTES);
    assert!(console.nvml_own() <= QUOTA_BYTES, "{} by NVML", console.nvml_own());
    console.finish();
}
