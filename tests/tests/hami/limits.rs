//! Each variable, in each form, ends in the limit that it means.

use cuota_region::event::{Event, Problem};
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::MIB;

use crate::monitor::Monitor;
use crate::{Container, QUOTA, QUOTA_BYTES, finish_all, for_all, kernel, launch, start_all};

/// Programs with these variables, each in a container of its own and all at once, see a GPU of this size.
#[track_caller]
fn have_a_gpu_of(each: &[(&str, &str)], bytes: u64) {
    let containers: Vec<Container> = each.iter().map(|_| Container::new()).collect();
    let programs = containers.iter().zip(each).map(|(container, variable)| container.program(&[*variable]));
    let monitors: Vec<Monitor> = containers.iter().map(Container::monitor).collect();
    let consoles = start_all(programs);
    for_all(consoles.into_iter().zip(monitors).zip(each), |((mut console, monitor), variable)| {
        assert_eq!(console.total(), bytes, "{variable:?}");
        if bytes == QUOTA_BYTES {
            assert_eq!(console.alloc(bytes), Err(OUT_OF_MEMORY), "{variable:?}");
            assert_eq!(console.nvml_memory().total, bytes, "{variable:?}");
            assert_eq!(monitor.look().limit[0], bytes, "{variable:?}");
        }
        console.finish();
    });
}

/// The size of the device for a program that nobody limits.
fn all_of_it() -> u64 {
    let container = Container::new();
    let mut native = container.machine.native().start();
    let _ = native.call("cuInit", &[Is(0)]).ok();
    let all = native.total();
    native.finish();
    all
}

#[test]
fn memory_is_limited_by_each_variable_in_each_form() {
    for variable in [
        "CUDA_DEVICE_MEMORY_LIMIT_0",
        "CUDA_DEVICE_MEMORY_LIMIT",
        "BUD_MEMORY_LIMIT",
        "BUD_MEMORY_LIMIT_DEV0",
    ] {
        let forms = ["2048m", "2g", "2G", "2GB", "2GiB", "2097152k", "2147483648", "02048m"];
        have_a_gpu_of(&forms.map(|form| (variable, form)), QUOTA_BYTES);
    }
}

#[test]
fn memory_is_not_limited_by_0_nor_by_another_devices_limit() {
    let variables = [
        ("CUDA_DEVICE_MEMORY_LIMIT_0", "0m"),
        ("CUDA_DEVICE_MEMORY_LIMIT_5", "2g"),
        ("CUDA_DEVICE_SM_LIMIT", "50"),
    ];
    have_a_gpu_of(&variables, all_of_it());
}

#[test]
fn program_that_asks_nvml_alone_sees_the_quota_and_what_is_taken() {
    let container = Container::new();
    let mut worker = container.start(&[QUOTA]);
    let _ = worker.alloc(512 * MIB).expect("it fits");
    // As nvidia-smi does; in a container whose file is there, and in one where it comes first.
    for (container, used) in [(&container, container.books().booked), (&Container::new(), 0)] {
        let mut console = container.program(&[QUOTA]).start();
        let _ = console.call("nvmlInit_v2", &[]).ok();
        let device = console.call("nvmlDeviceGetHandleByIndex_v2", &[Is(0), Out(8)]).ok().number(0);
        let memory = console.nvml_memory_of(device);
        assert_eq!((memory.total, memory.used), (QUOTA_BYTES, used));
        console.finish();
    }
    worker.finish();
}

#[test]
fn share_of_the_memory_is_a_share_of_the_device_in_whole_blocks() {
    let half = all_of_it() / 2;
    have_a_gpu_of(&[("BUD_MEMORY_LIMIT", "50%")], half - half % (2 * MIB));
}

#[test]
fn of_a_limit_that_cannot_be_read_nothing_is_granted_and_an_event_says_why() {
    for value in ["rubbish", "8gigabytes", "-1"] {
        let container = Container::new();
        let mut console = container.program(&[("CUDA_DEVICE_MEMORY_LIMIT_0", value)]).start();
        let _ = console.call("cuInit", &[Is(0)]).ok();
        let status = console.call("cuDevicePrimaryCtxRetain", &[Out(8), Is(0)]).status;
        assert_eq!(status, OUT_OF_MEMORY, "{value}");
        let unreadable = Event::Setting { variable: 0, problem: Problem::Unreadable, error: 0 };
        assert_eq!(container.complaints(), [unreadable]);
        console.finish();
    }
}

/// Launches of a program with each of these sets of variables wait, or none does.
#[track_caller]
fn are_throttled<const N: usize>(each: &[[(&str, &str); N]], expected: bool) {
    let containers: Vec<Container> = each.iter().map(|_| Container::new()).collect();
    let programs = containers.iter().zip(each).map(|(container, variables)| container.program(variables));
    let mut consoles = start_all(programs);
    for ((console, container), variables) in consoles.iter_mut().zip(&containers).zip(each) {
        let kernel = kernel(console, 1_000_000);
        // What was done by the first is booked when the second come.
        for _ in 0..2 {
            launch(console, kernel, 15);
            let _ = console.call("cuStreamSynchronize", &[Is(kernel[1])]).ok();
        }
        assert_eq!(container.throttled_ns() != 0, expected, "{variables:?}");
    }
    finish_all(consoles);
}

#[test]
fn time_is_limited_by_each_variable_in_each_form() {
    let forms = [
        [("CUDA_DEVICE_SM_LIMIT", "10")],
        [("CUDA_DEVICE_SM_LIMIT_0", "10")],
        [("BUD_SM_LIMIT", "10")],
        [("BUD_SM_LIMIT_DEV0", "10")],
        [("CUDA_DEVICE_SM_LIMIT", "10%")],
    ];
    are_throttled(&forms, true);
}

#[test]
fn time_is_not_limited_by_0_or_100_or_by_what_cannot_be_read() {
    are_throttled(&["0", "100", "150", "half"].map(|value| [("CUDA_DEVICE_SM_LIMIT", value)]), false);
    are_throttled(&[[("CUDA_DEVICE_SM_LIMIT_1", "10"), QUOTA]], false);
}

#[test]
fn policy_says_whether_time_is_limited() {
    let (hamis, fcsps) = (("CUDA_DEVICE_SM_LIMIT", "10"), ("BUD_SM_LIMIT", "10"));
    let never =
        [[hamis, ("GPU_CORE_UTILIZATION_POLICY", "disable")], [fcsps, ("BUD_ISOLATION_MODE", "none")]];
    let always =
        [[hamis, ("GPU_CORE_UTILIZATION_POLICY", "force")], [fcsps, ("BUD_ISOLATION_MODE", "strict")]];
    are_throttled(&never, false);
    are_throttled(&always, true);
}
