//! Arrays and mipmapped arrays are booked as what the driver takes for them.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};
use cuota_tests::shape::{DEFERRED, LAYERED, SPARSE, Shape};

use crate::{Moment, QUOTA, QUOTA_BYTES, slack};

/// Each way to make an array, and to end it: the function, whether it takes levels, and the function that ends it.
const FLAT: &str = "cuArrayCreate_v2";
const SOLID: &str = "cuArray3DCreate_v2";
const FLAT_V1: &str = "cuArrayCreate";
const SOLID_V1: &str = "cuArray3DCreate";

/// 1 GiB, in the size that is largest in both dimensions of textures.
fn huge() -> Shape {
    Shape::of_bytes(16_384, 65_536, 0)
}

fn make(console: &mut Console, function: &str, shape: Shape) -> Result<u64, i64> {
    let descriptor = match function {
        FLAT => shape.flat(),
        FLAT_V1 => shape.flat_v1(),
        SOLID_V1 => shape.solid_v1(),
        _ => shape.solid(),
    };
    let answer = console.call(function, &[Out(8), At(&descriptor)]);
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

fn make_levels(console: &mut Console, shape: Shape, levels: u64) -> Result<u64, i64> {
    let answer = console.call("cuMipmappedArrayCreate", &[Out(8), At(&shape.solid()), Is(levels)]);
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

fn destroy(console: &mut Console, array: u64) {
    assert_eq!(console.call("cuArrayDestroy", &[Is(array)]).status, 0);
}

fn destroy_levels(console: &mut Console, array: u64) {
    assert_eq!(console.call("cuMipmappedArrayDestroy", &[Is(array)]).status, 0);
}

/// A tenant whose context has grown to its size.
fn start(machine: &Machine) -> Console {
    let mut console = machine.start("t", QUOTA);
    let _first = console.alloc(4 * MIB).expect("there is room");
    console
}

/// What was taken since `before`, by NVML; the books must say the same.
#[track_caller]
fn taken(before: Moment, machine: &Machine, console: &mut Console) -> u64 {
    let now = Moment::of(machine, "t", console);
    let (booked, taken) = (now.held - before.held, now.nvml - before.nvml);
    assert!(booked.abs_diff(taken) <= slack(), "{booked} booked, {taken} taken");
    taken
}

#[test]
fn array_is_booked_as_what_it_takes_and_given_back_when_it_is_destroyed() {
    let machine = Machine::new();
    let mut console = start(&machine);
    for (function, shape, least) in [
        (FLAT, Shape::of_float4(1024, 1024, 0), 16 * MIB),
        (FLAT, Shape::of_float4(1000, 1000, 0), 15 * MIB),
        (FLAT, Shape::of_bytes(100_000, 0, 0), MIB / 16),
        (SOLID, Shape::of_float4(128, 128, 64), 16 * MIB),
        (SOLID, Shape::of_float4(1024, 1024, 6).with(LAYERED), 96 * MIB),
    ] {
        let before = Moment::of(&machine, "t", &mut console);
        let array = make(&mut console, function, shape).expect("there is room");
        assert!(taken(before, &machine, &mut console) >= least, "{function} {shape:?}");
        destroy(&mut console, array);
        before.plus(0, &machine, &mut console);
    }
    console.finish();
}

#[test]
fn array_of_an_old_form_is_booked_too_or_answered_as_natively() {
    let machine = Machine::new();
    for has_old_forms in [true, false] {
        let programs = [machine.native(), machine.tenant("t", Some(QUOTA))];
        let [mut native, mut console] = programs.map(|program| {
            let program = if has_old_forms { program.with_old_forms() } else { program };
            program.start_with_context()
        });
        let _first = console.alloc(4 * MIB).expect("there is room");
        for (function, shape) in
            [(FLAT_V1, Shape::of_float4(1024, 1024, 0)), (SOLID_V1, Shape::of_float4(128, 128, 64))]
        {
            let natively = make(&mut native, function, shape);
            if let Ok(array) = natively {
                destroy(&mut native, array);
            }
            let before = Moment::of(&machine, "t", &mut console);
            match make(&mut console, function, shape) {
                Ok(array) => {
                    assert!(natively.is_ok() && taken(before, &machine, &mut console) >= 16 * MIB);
                    destroy(&mut console, array);
                }
                Err(status) => assert_eq!(natively, Err(status), "{function}"),
            }
            before.plus(0, &machine, &mut console);
        }
        console.finish();
        native.finish();
    }
}

#[test]
fn mipmapped_array_is_booked_with_all_its_levels() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let shape = Shape::of_float4(1024, 1024, 0);
    let array = make_levels(&mut console, shape, 11).expect("there is room");
    let all = taken(before, &machine, &mut console);
    assert!((22 * MIB..=40 * MIB).contains(&all), "{all} bytes for 16 MiB and ten smaller levels");
    // A level is a view.
    let level = console.call("cuMipmappedArrayGetLevel", &[Out(8), Is(array), Is(0)]).ok().number(0);
    assert_eq!(taken(before, &machine, &mut console), all);
    // The driver refuses to end a level by itself, or lets it go without effect; the memory stays.
    let _ = console.call("cuArrayDestroy", &[Is(level)]);
    assert_eq!(taken(before, &machine, &mut console), all);
    destroy_levels(&mut console, array);
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn small_arrays_are_booked_as_the_blocks_that_they_share() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    // 16 KiB each: 2 MiB together, or a few blocks with the driver's alignment.
    let arrays: Vec<u64> = (0..128)
        .map(|_| make(&mut console, FLAT, Shape::of_bytes(128, 128, 0)).expect("there is room"))
        .collect();
    let now = Moment::of(&machine, "t", &mut console);
    let (booked, shown) = (now.held - before.held, now.nvml - before.nvml);
    assert!((2 * MIB..=16 * MIB).contains(&shown), "{shown} bytes for 128 × 16 KiB");
    // Which block an array lies in nobody says: the books may differ by one block's fragments, never grow with the count.
    assert!(booked.abs_diff(shown) <= 8 * MIB, "{booked} booked, {shown} taken");
    arrays.into_iter().for_each(|array| destroy(&mut console, array));
    before.plus(0, &machine, &mut console);
    console.finish();
}

#[test]
fn array_that_gets_its_memory_later_takes_and_books_nothing() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    for flags in [SPARSE, DEFERRED] {
        let array = make(&mut console, SOLID, huge().with(flags)).expect("it takes nothing");
        let levels = make_levels(&mut console, Shape::of_float4(8192, 8192, 0).with(flags), 5);
        let levels = levels.expect("it takes nothing");
        before.plus(0, &machine, &mut console);
        destroy(&mut console, array);
        destroy_levels(&mut console, levels);
        before.plus(0, &machine, &mut console);
    }
    console.finish();
}

#[test]
fn arrays_are_refused_at_the_quota_and_granted_when_there_is_room() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let shape = Shape::of_bytes(16_384, 32_768, 0);
    let first = make(&mut console, FLAT, shape).expect("512 MiB fit");
    let second = make(&mut console, SOLID, shape).expect("512 MiB fit");
    for function in [FLAT, SOLID, FLAT_V1, SOLID_V1] {
        assert_eq!(make(&mut console, function, huge()), Err(OUT_OF_MEMORY), "{function}");
    }
    assert_eq!(make_levels(&mut console, Shape::of_float4(8192, 8192, 0), 3), Err(OUT_OF_MEMORY));
    assert!(console.nvml_own() <= QUOTA_BYTES && machine.books("t").booked <= QUOTA_BYTES);
    destroy(&mut console, first);
    destroy(&mut console, second);
    let array = make(&mut console, FLAT, huge()).expect("there is room now");
    destroy(&mut console, array);
    console.finish();
}

#[test]
fn bad_shapes_get_the_drivers_answer_and_book_nothing() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), start(&machine));
    let before = Moment::of(&machine, "t", &mut console);
    let most = u64::MAX;
    for shape in [
        Shape::of_bytes(0, 0, 0),
        Shape::of_bytes(most, 0, 0),
        Shape::of_bytes(most, most, 0),
        Shape::of_float4(most / 16 + 1, 16, 0),
        Shape::of_float4(1 << 31, 1 << 31, 0),
        Shape::of_float4(most, most, most),
        Shape::of_float4(16_384, 16_384, 16_384),
        Shape::of_float4(64, 0, 64),
        Shape::of_float4(64, 64, most).with(LAYERED),
        Shape::of_float4(64, 64, 0).with(!(SPARSE | DEFERRED)),
    ] {
        for function in [FLAT, SOLID] {
            let (theirs, ours) = (make(&mut native, function, shape), make(&mut console, function, shape));
            let is_same = ours.err() == theirs.err();
            assert!(is_same || ours == Err(OUT_OF_MEMORY), "{function} {shape:?}: {theirs:?}, {ours:?}");
            theirs.into_iter().for_each(|array| destroy(&mut native, array));
            ours.into_iter().for_each(|array| destroy(&mut console, array));
            before.plus(0, &machine, &mut console);
        }
        for levels in [0, 1, 40, u64::from(u32::MAX)] {
            let (theirs, ours) =
                (make_levels(&mut native, shape, levels), make_levels(&mut console, shape, levels));
            let is_same = ours.err() == theirs.err();
            assert!(
                is_same || ours == Err(OUT_OF_MEMORY),
                "{levels} levels, {shape:?}: {theirs:?}, {ours:?}"
            );
            theirs.into_iter().for_each(|array| destroy_levels(&mut native, array));
            ours.into_iter().for_each(|array| destroy_levels(&mut console, array));
            before.plus(0, &machine, &mut console);
        }
    }
    for function in [FLAT, SOLID] {
        for arguments in [[Is(0), Is(0)], [Out(8), Is(0)]] {
            assert_eq!(native.call(function, &arguments).status, console.call(function, &arguments).status);
        }
    }
    before.plus(0, &machine, &mut console);
    console.finish();
    native.finish();
}

#[test]
fn arrays_of_a_context_are_given_back_with_it() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let before = machine.held("t");
    let context = console.call("cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).ok().number(0);
    let _array = make(&mut console, FLAT, Shape::of_float4(2048, 2048, 0)).expect("there is room");
    let _small = make(&mut console, FLAT, Shape::of_bytes(64, 64, 0)).expect("there is room");
    let _levels = make_levels(&mut console, Shape::of_float4(1024, 1024, 0), 4).expect("there is room");
    assert!(machine.held("t") >= before + 64 * MIB);
    assert_eq!(console.call("cuCtxDestroy_v2", &[Is(context)]).status, 0);
    assert_eq!(machine.held("t"), before);
    console.finish();
}

#[test]
fn array_that_is_destroyed_twice_is_given_back_once() {
    let machine = Machine::new();
    let mut console = start(&machine);
    let before = Moment::of(&machine, "t", &mut console);
    let kept = make(&mut console, FLAT, Shape::of_float4(1024, 1024, 0)).expect("there is room");
    let array = make(&mut console, FLAT, Shape::of_float4(2048, 1024, 0)).expect("there is room");
    destroy(&mut console, array);
    let held = taken(before, &machine, &mut console);
    if !cuota_tests::machine::has_real_gpu() {
        // NVIDIA's driver follows the handle of an array that is gone, without a look.
        assert_ne!(console.call("cuArrayDestroy", &[Is(array)]).status, 0);
        assert_ne!(console.call("cuArrayDestroy", &[Is(0x1234_5678)]).status, 0);
    }
    assert_eq!(taken(before, &machine, &mut console), held);
    destroy(&mut console, kept);
    before.plus(0, &machine, &mut console);
    console.finish();
}
