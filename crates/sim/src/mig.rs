//! MIG: device 0 as several instances, each a device with memory and turns of its own. In the machine an instance has a number
//! beyond those of the devices.

use crate::engine::SMS;

/// The number of the first instance.
const FIRST: u32 = 100;
/// The most instances of a device, as on an H100.
pub const MOST: u32 = 7;
/// What an instance's GPU instance id is counted from: that of the first smallest one on an H100, which is assumed.
const FIRST_GPU_INSTANCE: u32 = 7;

/// The number of instance `index`.
#[must_use]
pub const fn number(index: u32) -> u32 {
    FIRST + index
}

/// Which instance a number names; `None` where it is a device's.
#[must_use]
pub const fn index(ordinal: u32) -> Option<u32> {
    ordinal.checked_sub(FIRST)
}

/// The device of a number: its own, or that of the instance.
#[must_use]
pub const fn parent(ordinal: u32) -> u32 {
    if ordinal < FIRST { ordinal } else { 0 }
}

/// The GPU instance id of instance `index`. Its compute instance id is 0.
#[must_use]
pub const fn gpu_instance(index: u32) -> u32 {
    FIRST_GPU_INSTANCE + index
}

/// The multiprocessors of an instance, of `instances`.
#[must_use]
pub const fn sms(instances: u32) -> u32 {
    SMS / instances
}
