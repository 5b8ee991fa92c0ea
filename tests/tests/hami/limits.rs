//! Each variable, in each form, ends in the limit that it means.

use cuota_region::event::{Event, Problem};
use cuota_tests::console::Arg::{Is, Out};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::MIB;

use crate::{Container, QUOTA, QUOTA_BYTES, begin, kernel};

/// A program with these variables in a container of its own sees a GPU of this size.
#[track_caller]
fn has_a_gpu_of(variables: &[(&str, &str)], bytes: u64) {
    let container = Container::new();
    let mut console = container.start(variables);
    assert_eq!(console.total(), bytes, "{variables:?}");
    if bytes == QUOTA_BYTES {
        assert_eq!(console.alloc(bytes), Err(OUT_OF_MEMORY), "{variables:?}");
        assert_eq!(console.nvml_memory().total, bytes, "{variables:?}");
        assert_eq!(container.monitor().look().limit[0], bytes);
    }
    console.finish();
}

#[test]
fn memory_is_limited_by_each_variable_in_each_form() {
    for variable in [
        "CUDA_DEVICE_MEMORY_LIMIT_0",
        "CUDA_DEVICE_MEMORY_LIMIT",
        "BUD_MEMORY_LIMIT",
        "BUD_MEMORY_LIMIT_DEV0",
    ] {
        for value in ["2048m", "2g", "2G", "2GB", "2GiB", "2097152k", "2147483648", "02048m"] {
            has_a_gpu_of(&[(variable, value)], QUOTA_BYTES);
        }
    }
}

#[test]
fn memory_is_not_limited_by_0_nor_by_another_devices_limit() {
    let container = Container::new();
    let mut native = container.machine.native().start_with_context();
    let all = native.total();
    native.finish();
    for variable in [
        ("CUDA_DEVICE_MEMORY_LIMIT_0", "0m"),
        ("CUDA_DEVICE_MEMORY_LIMIT_5", "2g"),
        ("CUDA_DEVICE_SM_LIMIT", "50"),
    ] {
        has_a_gpu_of(&[variable], all);
    }
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
fn share_of_the_memory_is_a_share_of_the_device() {
    let container = Container::new();
    let mut native = container.machine.native().start_with_context();
    let all = native.total();
    native.finish();
    has_a_gpu_of(&[("BUD_MEMORY_LIMIT", "50%")], all / 2);
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

/// A launch of a program with these variables waits, or none does.
#[track_caller]
fn is_throttled(variables: &[(&str, &str)], expected: bool) {
    let container = Container::new();
    let mut console = container.start(variables);
    let kernel = kernel(&mut console, 1_000_000);
    begin(&mut console, kernel, 60);
    assert_eq!(console.hear().status, 0);
    let _ = console.call("cuStreamSynchronize", &[Is(kernel[1])]).ok();
    assert_eq!(container.throttled_ns() != 0, expected, "{variables:?}");
    console.finish();
}

#[test]
fn time_is_limited_by_each_variable_in_each_form() {
    for variable in ["CUDA_DEVICE_SM_LIMIT", "CUDA_DEVICE_SM_LIMIT_0", "BUD_SM_LIMIT", "BUD_SM_LIMIT_DEV0"] {
        is_throttled(&[(variable, "10")], true);
    }
    is_throttled(&[("CUDA_DEVICE_SM_LIMIT", "10%")], true);
}

#[test]
fn time_is_not_limited_by_0_or_100_or_by_what_cannot_be_read() {
    for value in ["0", "100", "150", "half"] {
        is_throttled(&[("CUDA_DEVICE_SM_LIMIT", value)], false);
    }
    is_throttled(&[("CUDA_DEVICE_SM_LIMIT_1", "10"), QUOTA], false);
}

#[test]
fn policy_says_whether_time_is_limited() {
    let limit = ("CUDA_DEVICE_SM_LIMIT", "10");
    is_throttled(&[limit, ("GPU_CORE_UTILIZATION_POLICY", "disable")], false);
    is_throttled(&[limit, ("GPU_CORE_UTILIZATION_POLICY", "force")], true);
    is_throttled(&[("BUD_SM_LIMIT", "10"), ("BUD_ISOLATION_MODE", "none")], false);
    is_throttled(&[("BUD_SM_LIMIT", "10"), ("BUD_ISOLATION_MODE", "strict")], true);
}
