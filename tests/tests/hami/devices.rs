//! A limit is that of a device of the container, in NVML's order, however a program counts its devices.

use cuota_tests::console::Console;
use cuota_tests::driver::uuid_text;
use cuota_tests::machine::{GIB, MIB, has_real_gpu, skip};

use crate::Container;

const ONE_DEVICE: &str = "this machine may have one GPU only";
const LIMITS: [(&str, &str); 4] = [
    ("CUOTA_SIM_DEVICES", "3"),
    ("CUDA_DEVICE_MEMORY_LIMIT_0", "2g"),
    ("CUDA_DEVICE_MEMORY_LIMIT_1", "3g"),
    ("CUDA_DEVICE_MEMORY_LIMIT_2", "4g"),
];

fn start(container: &Container, visible: Option<&str>) -> Console {
    let program = container.program(&LIMITS);
    match visible {
        Some(visible) => program.with("CUDA_VISIBLE_DEVICES", visible).start(),
        None => program.start(),
    }
}

/// The size of each device that the program sees.
fn sizes(console: &mut Console) -> Vec<u64> {
    (0..console.devices())
        .map(|ordinal| {
            console.use_device(ordinal);
            console.memory().1 / GIB
        })
        .collect()
}

#[test]
fn limits_follow_the_container_s_number_in_whatever_order_a_program_sees_its_devices() {
    if has_real_gpu() {
        return skip(ONE_DEVICE);
    }
    let container = Container::new();
    let mut all = start(&container, None);
    let uuids: Vec<String> = (0..all.devices()).map(|ordinal| uuid_text("GPU", all.uuid(ordinal))).collect();
    assert_eq!(sizes(&mut all), [2, 3, 4]);
    all.finish();
    let by_uuid = format!("{},{}", uuids[2], uuids[0]);
    for (visible, expected) in [
        ("2,1,0", vec![4, 3, 2]),
        ("1", vec![3]),
        ("2,0", vec![4, 2]),
        (by_uuid.as_str(), vec![4, 2]),
        (&uuids[1], vec![3]),
    ] {
        // In a container whose file is there, and in one where this process is the first.
        for container in [&container, &Container::new()] {
            let mut console = start(container, Some(visible));
            assert_eq!(sizes(&mut console), expected, "{visible}");
            assert_eq!(container.monitor().look().uuids, uuids, "{visible}");
            console.finish();
        }
    }
}

#[test]
fn monitor_sees_memory_at_the_container_s_number() {
    if has_real_gpu() {
        return skip(ONE_DEVICE);
    }
    let container = Container::new();
    let mut console = start(&container, Some("2,1"));
    console.use_device(0);
    let _ = console.alloc(512 * MIB).expect("it fits");
    let view = container.monitor().look();
    assert_eq!([0, 1].map(|device| view.total(device)), [0, 0]);
    assert!(view.total(2) >= 512 * MIB, "{view:?}");
    assert_eq!(view.devices, 3);
    console.finish();
}
