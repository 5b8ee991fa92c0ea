//! The processes of a tenant share its quota, however they begin and end.

use std::collections::BTreeSet;

use cuota_region::event::Event;
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine, has_real_gpu, skip};

use crate::{QUOTA, QUOTA_BYTES, eventually};

/// A quota with room for two contexts and more.
const SHARED: &str = "4GiB";
const SHARED_BYTES: u64 = 2 * QUOTA_BYTES;

#[test]
fn processes_of_a_tenant_share_its_quota() {
    let machine = Machine::new();
    let (mut one, mut other) = (machine.start("t", SHARED), machine.start("t", SHARED));
    let first = one.alloc(1024 * MIB).expect("there is room");
    let rest = other.fill(32 * MIB);
    assert_eq!(machine.held("t"), 1024 * MIB + rest.len() as u64 * 32 * MIB);
    assert!(machine.books("t").booked <= SHARED_BYTES);
    assert_eq!(one.alloc(64 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!((one.memory().1, other.memory().1), (SHARED_BYTES, SHARED_BYTES));
    assert!(one.nvml_own() + other.nvml_own() <= SHARED_BYTES);
    // What one frees, the other gets.
    assert_eq!(other.alloc(1024 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(one.free(first), 0);
    assert!(other.alloc(1024 * MIB).is_ok());
    assert_eq!(machine.processes("t").len(), 2);
    one.finish();
    other.finish();
}

#[test]
fn threads_that_come_near_the_quota_at_once_are_answered_all() {
    let machine = Machine::new();
    for _ in 0..20 {
        let mut console = machine.start("t", SHARED);
        // Each asks NVML, which nobody has loaded yet. Calls into one half loaded end some 4 % of such programs, so a single run may miss it.
        let done = console.in_threads(8, 1, "cuMemAlloc_v2", &[Out(8), Is(SHARED_BYTES - 200 * MIB)]);
        assert_eq!(done, (OUT_OF_MEMORY, 0));
        console.finish();
    }
}

#[test]
fn room_of_a_killed_process_is_granted_to_the_others() {
    let machine = Machine::new();
    let (mut victim, mut heir) = (machine.start("t", SHARED), machine.start("t", SHARED));
    let held = victim.fill(64 * MIB).len() as u64 * 64 * MIB;
    assert_eq!(heir.alloc(held), Err(OUT_OF_MEMORY));
    victim.kill();
    eventually("the killed process's memory is granted", || heir.alloc(held).is_ok());
    let books = machine.processes("t");
    assert_eq!(books.iter().map(|process| process.pid).collect::<Vec<_>>(), [heir.pid()]);
    assert!(heir.nvml_own() <= SHARED_BYTES);
    heir.finish();
}

#[test]
fn room_of_a_process_that_ended_is_granted_to_the_next() {
    let machine = Machine::new();
    for _ in 0..3 {
        let mut console = machine.start("t", QUOTA);
        assert!(console.fill(64 * MIB).len() as u64 * 64 * MIB > QUOTA_BYTES / 2);
        console.finish();
    }
}

#[test]
fn processes_that_race_for_the_quota_are_never_over_it_and_leave_no_room() {
    const PROCESSES: usize = 16;
    const PIECE: u64 = 2 * MIB;
    let machine = Machine::new();
    // A context each, and something to race for.
    let quota = 12 * QUOTA_BYTES / 2;
    let mut consoles: Vec<Console> = (0..PROCESSES).map(|_| machine.start("t", "12GiB")).collect();
    for console in &mut consoles {
        // A refusal has the contexts booked at their true size.
        assert_eq!(console.alloc(quota), Err(OUT_OF_MEMORY));
    }
    let start = monotonic_ns() + 100_000_000;
    for console in &mut consoles {
        console.tell(&format!("at {start}"));
        console.start_repeating(100_000, "cuMemAlloc_v2", &[Out(8), Is(PIECE)]);
    }
    let mut granted = 0;
    for console in &mut consoles {
        let _ = console.hear();
        let answer = console.hear();
        assert_eq!(answer.status, OUT_OF_MEMORY);
        granted += answer.number(0);
    }
    let books = machine.books("t");
    assert_eq!(machine.held("t"), granted * PIECE);
    assert!(books.booked <= quota, "{} booked", books.booked);
    assert!(books.booked + PIECE > quota, "refused while {} bytes were left", quota - books.booked);
    let by_the_device: u64 = consoles.iter_mut().map(Console::nvml_own).sum();
    assert!(by_the_device <= quota, "{by_the_device} bytes by NVML");
    assert!(consoles.iter_mut().all(|console| console.alloc(PIECE).is_err()));
    consoles.into_iter().for_each(Console::finish);
}

#[test]
fn two_tenants_do_not_disturb_each_other() {
    let machine = Machine::new();
    let (mut one, mut other) = (machine.start("one", QUOTA), machine.start("other", "3GiB"));
    let pieces = one.fill(32 * MIB);
    assert_eq!(machine.held("other"), 0);
    assert_eq!((one.memory().1, other.memory().1), (QUOTA_BYTES, QUOTA_BYTES + 1024 * MIB));
    assert!(other.fill(32 * MIB).len() > pieces.len());
    one.kill();
    assert!(machine.books("other").booked <= QUOTA_BYTES + 1024 * MIB);
    other.finish();
}

#[test]
fn child_of_fork_fails_as_natively_and_never_touches_its_parents_books() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let piece = console.alloc(64 * MIB).expect("there is room");
    let before = machine.books("t");
    let mut seen = Vec::new();
    for guest in [&mut native, &mut console] {
        guest.fork();
        let mut statuses = vec![guest.alloc(MIB).err(), Some(guest.free(piece))];
        statuses.push(guest.alloc_async(MIB).err());
        statuses.push(guest.create(2 * MIB).err());
        statuses.push(Some(guest.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status));
        statuses.push(Some(guest.call("cuDevicePrimaryCtxRelease_v2", &[Is(0)]).status));
        seen.push(statuses);
        assert_eq!(machine.held("t"), before.booked - before.overhead);
        guest.end_child();
    }
    assert_eq!(seen[0], seen[1], "natively, and as a tenant");
    let after = machine.books("t");
    assert_eq!((after.booked, after.overhead), (before.booked, before.overhead));
    // The parent's place is still its own, and its memory too.
    assert_eq!(console.free(piece), 0);
    assert_eq!(machine.held("t"), before.booked - before.overhead - 64 * MIB);
    console.finish();
    native.finish();
}

#[test]
fn child_of_fork_before_the_first_call_is_a_process_of_its_own() {
    let machine = Machine::new();
    let mut console = machine.tenant("t", Some(SHARED)).start();
    console.fork();
    console.use_primary_context();
    let _piece = console.alloc(64 * MIB).expect("there is room");
    assert_eq!(machine.held("t"), 64 * MIB);
    console.end_child();
    console.use_primary_context();
    // The child's room is the parent's now.
    let free = SHARED_BYTES - machine.processes("t").iter().map(|p| p.usage.booked).min().unwrap_or(0);
    eventually("the child's room is granted", || console.alloc(free - 32 * MIB).is_ok());
    console.finish();
}

#[test]
fn child_of_fork_and_exec_joins_as_a_process_of_its_own() {
    let machine = Machine::new();
    let mut console = machine.start("t", SHARED);
    let _piece = console.alloc(64 * MIB).expect("there is room");
    console.fork();
    console.exec();
    console.use_primary_context();
    let _theirs = console.alloc(96 * MIB).expect("there is room");
    let held: BTreeSet<u64> =
        machine.processes("t").iter().map(|p| p.usage.booked - p.usage.overhead).collect();
    assert_eq!(held, BTreeSet::from([64 * MIB, 96 * MIB]));
    console.end_child();
    let _more = console.alloc(32 * MIB).expect("there is room");
    assert_eq!(console.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
    eventually("the child's books are closed", || {
        let _ = console.alloc(SHARED_BYTES);
        machine.held("t") == 96 * MIB
    });
    console.finish();
}

#[test]
fn program_that_executes_itself_leaves_no_booking_behind() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    for _ in 0..3 {
        let pieces = console.fill(64 * MIB).len();
        assert!(pieces as u64 * 64 * MIB > QUOTA_BYTES / 2, "only {pieces} pieces");
        console.exec();
        eventually("there is room for a context", || {
            let _ = console.call("cuInit", &[Is(0)]).ok();
            console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status == 0
        });
        console.use_primary_context();
        assert_eq!(machine.held("t"), 0);
        assert_eq!(machine.processes("t").len(), 1);
    }
    console.finish();
}

#[test]
fn process_that_closed_every_descriptor_rejoins_with_its_total() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    let machine = Machine::new();
    let (mut one, mut other) = (machine.start("t", SHARED), machine.start("t", SHARED));
    let piece = one.alloc(256 * MIB).expect("there is room");
    let booked = machine.books("t").booked;
    let _ = one.ask("closefrom 3");
    // Somebody looks for the dead, and takes it for one.
    assert_eq!(other.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
    let _more = one.alloc(32 * MIB).expect("there is room");
    assert_eq!(machine.held("t"), 288 * MIB, "it is back, with all that it holds");
    assert!(machine.books("t").booked.abs_diff(booked + 32 * MIB) <= 128 * MIB);
    assert_eq!(machine.processes("t").len(), 2);
    let _rest = other.fill(32 * MIB);
    assert_eq!(one.alloc(64 * MIB), Err(OUT_OF_MEMORY));
    let by_the_device = one.nvml_own() + other.nvml_own();
    assert!(by_the_device <= SHARED_BYTES, "{} MiB, {:?}", by_the_device / MIB, machine.processes("t"));
    assert_eq!(one.free(piece), 0);
    assert!(other.alloc(128 * MIB).is_ok());
    one.finish();
    other.finish();
}

#[test]
fn allocation_in_flight_stays_booked_while_its_process_joins_again() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    // What the usual short way takes, and what goes the long one.
    for bytes in [2 * MIB, 512 * MIB] {
        let machine = Machine::new();
        let (mut one, mut other) = (machine.start("t", "6GiB"), machine.start("t", "6GiB"));
        let piece = one.alloc(1024 * MIB).expect("there is room");
        assert_eq!(one.ask(&format!("fly {bytes}")).status, 0);
        let _ = one.ask("closefrom 3");
        // It looks for the dead, and finds that it sees none.
        assert_eq!(one.alloc(6 * 1024 * MIB), Err(OUT_OF_MEMORY));
        let rejoined = Event::Rejoined { booked: machine.processes("t")[1].usage.booked };
        assert!(machine.events("t").contains(&rejoined), "{:?}", machine.events("t"));
        assert!(machine.held("t") >= 1024 * MIB + bytes, "{} MiB", machine.held("t") / MIB);
        let rest = other.fill(64 * MIB).len() as u64 * 64 * MIB;
        let landed = one.ask("land").ok().number(0);
        assert_eq!(machine.held("t"), 1024 * MIB + bytes + rest);
        assert!(one.nvml_own() + other.nvml_own() <= 6 * 1024 * MIB);
        for address in [piece, landed] {
            assert_eq!(one.free(address), 0);
        }
        assert_eq!(machine.held("t"), rest);
        one.finish();
        other.finish();
    }
}

#[test]
fn process_that_joins_again_too_often_is_granted_nothing_more_and_booked_once() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    const LIVES: usize = 64;
    let machine = Machine::new();
    let mut console = machine.start("t", SHARED);
    let _piece = console.alloc(64 * MIB).expect("there is room");
    eventually("it has lost its last place", || {
        let _ = console.ask("closefrom 3");
        // It looks for the dead, unless it has just done so, and finds that it sees none.
        assert_eq!(console.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
        console.alloc(2 * MIB).map(|piece| console.free(piece)).is_err()
    });
    let again = machine.events("t").iter().filter(|event| matches!(event, Event::Rejoined { .. })).count();
    assert_eq!((again, machine.held("t")), (LIVES - 1, 64 * MIB));
    console.finish();
}

#[test]
fn process_that_closed_every_descriptor_takes_nobody_for_dead() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    let machine = Machine::new();
    let (mut one, mut other) = (machine.start("t", SHARED), machine.start("t", SHARED));
    let _piece = other.alloc(256 * MIB).expect("there is room");
    let _ = one.ask("closefrom 3");
    // The number of any descriptor may now be another file's.
    for number in 40..64 {
        let _ = one.ask(&format!("openas {number}"));
    }
    assert_eq!(one.alloc(SHARED_BYTES), Err(OUT_OF_MEMORY));
    assert_eq!(machine.held("t"), 256 * MIB, "what the other holds is still booked");
    one.finish();
    other.finish();
}

#[test]
fn process_that_closed_every_descriptor_is_granted_the_room_of_the_dead() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    let machine = Machine::new();
    let (mut victim, mut heir) = (machine.start("t", SHARED), machine.start("t", SHARED));
    let own = heir.alloc(64 * MIB).expect("there is room");
    let held = victim.fill(64 * MIB).len() as u64 * 64 * MIB;
    let _ = heir.ask("closefrom 3");
    victim.kill();
    eventually("the killed process's memory is granted", || heir.alloc(held).is_ok());
    assert_eq!(machine.held("t"), held + 64 * MIB);
    assert_eq!(heir.free(own), 0);
    assert_eq!(machine.held("t"), held);
    heir.finish();
}

fn monotonic_ns() -> u64 {
    cuota_region::sys::monotonic_ns()
}
