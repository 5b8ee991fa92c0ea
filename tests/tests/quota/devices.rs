//! Two GPUs: what is taken from one is booked there, from whichever the program's current context is on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use cuota_region::name::TenantName;
use cuota_region::path::Directory;
use cuota_region::tenant::Tenant;
use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::{OUT_OF_MEMORY, on_device};
use cuota_tests::machine::{MIB, Machine, has_gpus, has_real_gpu, skip};

use crate::{QUOTA, QUOTA_BYTES};

const TOO_FEW: &str = "this machine has too few GPUs";

/// A tenant with a context on each of two devices, and the contexts.
fn start(machine: &Machine) -> (Console, [u64; 2]) {
    let mut console = machine.tenant("t", Some(QUOTA)).with("CUOTA_SIM_DEVICES", "2").start();
    assert_eq!(console.call("cuInit", &[Is(0)]).status, 0);
    let contexts =
        [0, 1].map(|device| console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(device)]).ok().number(0));
    (console, contexts)
}

fn make_current(console: &mut Console, context: u64) {
    assert_eq!(console.call("cuCtxSetCurrent", &[Is(context)]).status, 0);
}

/// What is booked for allocations on each GPU, in the order in which they were first used.
fn held(machine: &Machine) -> Vec<u64> {
    let directory = Directory::at(OsStr::as_bytes(machine.region().as_os_str())).expect("a short path");
    let name = TenantName::parse(b"t").expect("a tenant's name");
    let tenant = Tenant::open(&directory.tenant(&name).expect("a short path")).expect("the tenant has books");
    let usage = |(index, _)| tenant.usage(index);
    tenant.gpus().map(usage).map(|usage| usage.booked - usage.overhead).collect()
}

#[test]
fn each_gpu_has_a_quota_of_its_own() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let machine = Machine::new();
    let (mut console, contexts) = start(&machine);
    for context in contexts {
        make_current(&mut console, context);
        let pieces = console.fill(32 * MIB).len() as u64;
        assert!((QUOTA_BYTES / 2..=QUOTA_BYTES).contains(&(pieces * 32 * MIB)), "{pieces} pieces");
        assert_eq!(console.memory().1, QUOTA_BYTES);
    }
    assert!(held(&machine).iter().all(|held| *held > QUOTA_BYTES / 2), "{:?}", held(&machine));
    console.finish();
}

#[test]
fn memory_is_given_back_where_it_was_taken_whichever_context_is_current() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let machine = Machine::new();
    let (mut console, [first, second]) = start(&machine);
    make_current(&mut console, first);
    let _kept = console.alloc(32 * MIB).expect("there is room");
    make_current(&mut console, second);
    let _kept = console.alloc(48 * MIB).expect("there is room");
    // Whether a real driver frees in the order of another device's stream, nobody has seen.
    let ways = if has_real_gpu() { &["cuMemFree_v2"][..] } else { &["cuMemFree_v2", "cuMemFreeAsync"] };
    for free in ways.iter().copied() {
        make_current(&mut console, first);
        let piece = console.alloc(64 * MIB).expect("there is room");
        make_current(&mut console, second);
        assert_eq!(held(&machine), [96 * MIB, 48 * MIB]);
        assert_eq!(console.call(free, &[Is(piece), Is(0)]).status, 0, "{free}");
        console.synchronize();
        make_current(&mut console, first);
        console.synchronize();
        assert_eq!(console.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
        assert_eq!(held(&machine), [32 * MIB, 48 * MIB], "{free}");
    }
    console.finish();
}

#[test]
fn handles_and_pools_are_booked_on_the_device_that_they_name() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let machine = Machine::new();
    let (mut console, [first, _]) = start(&machine);
    make_current(&mut console, first);
    let _first = console.alloc(2 * MIB).expect("there is room");
    let handle =
        console.call("cuMemCreate", &[Out(8), Is(64 * MIB), At(&on_device(1)), Is(0)]).ok().number(0);
    assert_eq!(held(&machine), [2 * MIB, 64 * MIB]);
    assert_eq!(
        console.call("cuMemCreate", &[Out(8), Is(QUOTA_BYTES), At(&on_device(1)), Is(0)]).status,
        OUT_OF_MEMORY
    );
    assert_eq!(console.release(handle), 0);
    let mut properties = crate::pools::on_first_device();
    properties[12] = 1;
    let pool = console.call("cuMemPoolCreate", &[Out(8), At(&properties)]).ok().number(0);
    let piece = crate::pools::alloc_from(&mut console, pool, 64 * MIB);
    match piece {
        Ok(piece) => {
            assert_eq!(held(&machine), [2 * MIB, console.reserved(pool)]);
            assert_eq!(console.free_async(piece), 0);
        }
        Err(_) => {
            assert_eq!(held(&machine), [2 * MIB, 0], "the driver takes no other device's pool on this stream")
        }
    }
    console.finish();
}
