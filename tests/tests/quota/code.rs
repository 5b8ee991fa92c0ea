//! Modules with large global variables, and stacks: refused where they do not fit, and without a trace.

use cuota_tests::code;
use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::{Answer, Console};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, Machine};

use crate::{QUOTA, QUOTA_BYTES, slack};

/// `CU_LIMIT_STACK_SIZE`
const STACK: u64 = 0;

fn load(console: &mut Console, function: &str, image: &[u8]) -> Answer {
    let none = Is(0);
    match function {
        "cuModuleLoadDataEx" => console.call(function, &[Out(8), At(image), none, none, none]),
        "cuLibraryLoadData" => {
            console.call(function, &[Out(8), At(image), none, none, none, none, none, none])
        }
        _ => console.call(function, &[Out(8), At(image)]),
    }
}

#[test]
fn module_whose_variable_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let small = load(&mut console, "cuModuleLoadData", &code::idle()).ok().number(0);
    let pieces = console.fill(32 * MIB);
    let large = code::with_variable(512 * MIB);
    for function in ["cuModuleLoadData", "cuModuleLoadDataEx"] {
        let nvml = console.nvml_own();
        assert_eq!(load(&mut console, function, &large).status, OUT_OF_MEMORY, "{function}");
        assert!(console.nvml_own() <= nvml + slack(), "{function} left something behind");
        assert!(console.nvml_own() <= QUOTA_BYTES);
    }
    // What was loaded before works, and so does what fits.
    let name = cuota_tests::console::Arg::Text("idle");
    assert_eq!(console.call("cuModuleGetFunction", &[Out(8), Is(small), name]).status, 0);
    pieces.iter().take(18).for_each(|piece| assert_eq!(console.free(*piece), 0));
    let module = load(&mut console, "cuModuleLoadData", &large).ok().number(0);
    assert!(console.nvml_own() <= QUOTA_BYTES);
    assert_eq!(console.call("cuModuleUnload", &[Is(module)]).status, 0);
    console.finish();
}

#[test]
fn library_whose_variable_does_not_fit_never_gets_its_memory() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _pieces = console.fill(32 * MIB);
    let answer = load(&mut console, "cuLibraryLoadData", &code::with_variable(512 * MIB));
    if answer.status == 0 {
        // It takes memory where it is used first, in whichever way.
        let name = cuota_tests::console::Arg::Text("variable");
        let library = answer.number(0);
        let global = console.call("cuLibraryGetGlobal", &[Out(8), Out(8), Is(library), name]);
        let module = console.call("cuLibraryGetModule", &[Out(8), Is(library)]);
        assert!(console.nvml_own() <= QUOTA_BYTES + slack(), "{global:?} {module:?}");
    } else {
        assert_eq!(answer.status, OUT_OF_MEMORY);
    }
    assert!(console.nvml_own() <= QUOTA_BYTES + slack());
    console.finish();
}

#[test]
fn images_that_are_none_get_the_drivers_answer() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    let nothing: &[u8] = &[0; 64];
    for function in ["cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleLoadFatBinary", "cuLibraryLoadData"] {
        for image in [nothing, b"no module at all\0"] {
            let (theirs, ours) =
                (load(&mut native, function, image).status, load(&mut console, function, image).status);
            assert_eq!(ours, theirs, "{function}");
        }
    }
    let absent = cuota_tests::console::Arg::Text("/no/such/module");
    for function in ["cuModuleLoad", "cuLibraryLoadFromFile"] {
        let arguments = [Out(8), absent, Is(0), Is(0), Is(0), Is(0), Is(0), Is(0)];
        let (theirs, ours) =
            (native.call(function, &arguments).status, console.call(function, &arguments).status);
        assert_eq!(ours, theirs, "{function}");
    }
    console.finish();
    native.finish();
}

#[test]
fn stack_that_does_not_fit_is_refused_and_changes_nothing() {
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let _piece = console.alloc(4 * MIB).expect("there is room");
    let stack = |console: &mut Console| console.call("cuCtxGetLimit", &[Out(8), Is(STACK)]).ok().number(0);
    let (before, nvml) = (stack(&mut console), console.nvml_own());
    let booked = machine.books("t").booked;
    // 16 KiB for each of 2,048 threads of a hundred multiprocessors or more.
    for bytes in [16 << 10, 1 << 20, 1 << 40, u64::MAX] {
        assert_eq!(
            console.call("cuCtxSetLimit", &[Is(STACK), Is(bytes)]).status,
            OUT_OF_MEMORY,
            "a stack of {bytes:#x} bytes"
        );
        assert_eq!(stack(&mut console), before);
        assert!(console.nvml_own() <= nvml + slack());
        assert_eq!(machine.books("t").booked, booked);
    }
    // A little more fits, and is booked.
    assert_eq!(console.call("cuCtxSetLimit", &[Is(STACK), Is(before + 1024)]).status, 0);
    console.synchronize();
    let grown = console.nvml_own() - nvml;
    assert!(machine.books("t").booked >= booked + grown, "{grown} bytes more by NVML");
    console.finish();
}

#[test]
fn other_limits_get_the_drivers_answer() {
    let machine = Machine::new();
    let (mut native, mut console) = (machine.native().start_with_context(), machine.start("t", QUOTA));
    for limit in [1, 2, 3, 4, 5, 99] {
        let theirs = native.call("cuCtxGetLimit", &[Out(8), Is(limit)]);
        let ours = console.call("cuCtxGetLimit", &[Out(8), Is(limit)]);
        assert_eq!(ours, theirs, "limit {limit}");
        let value = Is(theirs.number(0));
        let (theirs, ours) = (
            native.call("cuCtxSetLimit", &[Is(limit), value]),
            console.call("cuCtxSetLimit", &[Is(limit), value]),
        );
        assert_eq!(ours.status, theirs.status, "limit {limit}");
    }
    console.finish();
    native.finish();
}
