//! Memory by handle is booked until its last handle and its last mapping are gone, in whatever order they go.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::{OUT_OF_MEMORY, on_device};
use cuota_tests::machine::{MIB, Machine, has_real_gpu};

use crate::{Moment, QUOTA, QUOTA_BYTES};

const SIZE: u64 = 64 * MIB;

/// A tenant with addresses reserved for two mappings, and how things stand.
struct Bench {
    machine: Machine,
    console: Console,
    at: u64,
    before: Moment,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new();
        let mut console = machine.start("t", QUOTA);
        let at = console.reserve(2 * SIZE);
        // What the driver makes for its first mapping stays out of the account.
        let first = console.create(2 * MIB).expect("there is room");
        assert_eq!((console.map(at, 2 * MIB, first), console.release(first)), (0, 0));
        assert_eq!(console.unmap(at, 2 * MIB), 0);
        let before = Moment::of(&machine, "t", &mut console);
        Self { machine, console, at, before }
    }

    fn create(&mut self) -> u64 {
        self.console.create(SIZE).expect("there is room")
    }

    /// Whether the memory is booked now, and taken.
    #[track_caller]
    fn holds(&mut self, handles: u64) {
        self.before.plus(handles * SIZE, &self.machine, &mut self.console);
    }
}

#[test]
fn handle_without_a_mapping_is_booked_until_it_is_released() {
    let mut bench = Bench::new();
    let handle = bench.create();
    bench.holds(1);
    assert_eq!(bench.console.release(handle), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn memory_whose_handle_is_released_first_is_booked_until_it_is_unmapped() {
    let mut bench = Bench::new();
    let handle = bench.create();
    assert_eq!(bench.console.map(bench.at, SIZE, handle), 0);
    assert_eq!(bench.console.release(handle), 0);
    bench.holds(1);
    assert_eq!(bench.console.unmap(bench.at, SIZE), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn memory_that_is_unmapped_first_is_booked_until_its_handle_is_released() {
    let mut bench = Bench::new();
    let handle = bench.create();
    assert_eq!(bench.console.map(bench.at, SIZE, handle), 0);
    assert_eq!(bench.console.unmap(bench.at, SIZE), 0);
    bench.holds(1);
    assert_eq!(bench.console.map(bench.at, SIZE, handle), 0);
    assert_eq!(bench.console.unmap(bench.at, SIZE), 0);
    bench.holds(1);
    assert_eq!(bench.console.release(handle), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn retained_handle_keeps_the_memory_booked() {
    let mut bench = Bench::new();
    let handle = bench.create();
    assert_eq!(bench.console.map(bench.at, SIZE, handle), 0);
    let inside = bench.at + SIZE / 2;
    let retained = bench.console.call("cuMemRetainAllocationHandle", &[Out(8), Is(inside)]).ok().number(0);
    assert_eq!(bench.console.release(handle), 0);
    assert_eq!(bench.console.unmap(bench.at, SIZE), 0);
    bench.holds(1);
    assert_eq!(bench.console.release(retained), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn two_mappings_of_one_handle_are_booked_once_and_until_both_are_gone() {
    let mut bench = Bench::new();
    let handle = bench.create();
    let (first, second) = (bench.at, bench.at + SIZE);
    assert_eq!((bench.console.map(first, SIZE, handle), bench.console.map(second, SIZE, handle)), (0, 0));
    bench.holds(1);
    assert_eq!(bench.console.release(handle), 0);
    assert_eq!(bench.console.unmap(first, SIZE), 0);
    bench.holds(1);
    assert_eq!(bench.console.unmap(second, SIZE), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn one_unmap_over_two_mappings_gives_both_back() {
    let mut bench = Bench::new();
    let (one, other) = (bench.create(), bench.create());
    let (first, second) = (bench.at, bench.at + SIZE);
    assert_eq!((bench.console.map(first, SIZE, one), bench.console.map(second, SIZE, other)), (0, 0));
    assert_eq!((bench.console.release(one), bench.console.release(other)), (0, 0));
    bench.holds(2);
    assert_eq!(bench.console.unmap(bench.at, 2 * SIZE), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn calls_that_the_driver_refuses_change_no_books() {
    let mut bench = Bench::new();
    let handle = bench.create();
    assert_eq!(bench.console.map(bench.at, SIZE, handle), 0);
    assert_ne!(bench.console.map(bench.at, SIZE, handle), 0, "mapped there already");
    // Nothing is mapped there: NVIDIA's driver unmaps it all the same.
    let _ = bench.console.unmap(bench.at + SIZE, SIZE);
    if !has_real_gpu() {
        // NVIDIA's driver takes a handle for an address of its own, without a look.
        assert_ne!(bench.console.release(handle ^ 0x5a5a_0000), 0, "no handle");
    }
    bench.holds(1);
    assert_eq!(bench.console.release(handle), 0);
    bench.holds(1);
    assert_eq!(bench.console.unmap(bench.at, SIZE), 0);
    bench.holds(0);
    bench.console.finish();
}

#[test]
fn handles_are_refused_at_the_quota() {
    let mut bench = Bench::new();
    let mut handles = Vec::new();
    let refused = loop {
        match bench.console.create(SIZE) {
            Ok(handle) => handles.push(handle),
            Err(status) => break status,
        }
        assert!(handles.len() < 1_000);
    };
    assert_eq!(refused, OUT_OF_MEMORY);
    assert_eq!(machine_held(&bench), handles.len() as u64 * SIZE);
    let booked = bench.machine.books("t").booked;
    assert!(booked <= QUOTA_BYTES && booked + SIZE > QUOTA_BYTES, "{booked} booked");
    assert!(bench.console.nvml_own() <= QUOTA_BYTES);
    handles.into_iter().for_each(|handle| assert_eq!(bench.console.release(handle), 0));
    bench.holds(0);
    bench.console.finish();
}

fn machine_held(bench: &Bench) -> u64 {
    bench.machine.held("t") - bench.before.held
}

#[test]
fn bad_properties_and_sizes_get_the_drivers_answer_and_book_nothing() {
    let mut bench = Bench::new();
    let mut native = bench.machine.native().start_with_context();
    let good = on_device(0);
    let (mut kind, mut place) = (good, good);
    (kind[0], place[8]) = (99, 99);
    let other_device = on_device(99);
    let calls = [
        vec![Out(8), Is(SIZE), At(&kind), Is(0)],
        vec![Out(8), Is(SIZE), At(&place), Is(0)],
        vec![Out(8), Is(SIZE), At(&other_device), Is(0)],
        vec![Out(8), Is(SIZE), At(&good), Is(1)],
        vec![Out(8), Is(SIZE), Is(0), Is(0)],
        vec![Is(0), Is(SIZE), At(&good), Is(0)],
        vec![Out(8), Is(SIZE + 1), At(&good), Is(0)],
        vec![Out(8), Is(0), At(&good), Is(0)],
        vec![Out(8), Is(u64::MAX), At(&good), Is(0)],
        vec![Out(8), Is(1 << 62), At(&good), Is(0)],
    ];
    for arguments in calls {
        let theirs = native.call("cuMemCreate", &arguments).status;
        let ours = bench.console.call("cuMemCreate", &arguments).status;
        assert!(ours == theirs || ours == OUT_OF_MEMORY, "{arguments:?}: {theirs} natively, {ours} here");
        let is_small = !matches!(arguments[1], Is(bytes) if bytes > QUOTA_BYTES);
        assert!(ours == theirs || !is_small, "{arguments:?}: {theirs} natively, {ours} here");
        bench.holds(0);
    }
    bench.console.finish();
    native.finish();
}
