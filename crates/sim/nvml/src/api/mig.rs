//! MIG: the instances of device 0.

use super::put;
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE, nvmlDevice_t, nvmlReturn_t};
use cuota_sim::mig;
use std::ffi::c_uint;

/// The number of a whole device.
fn whole(device: nvmlDevice_t) -> Answer<u32> {
    let (ordinal, _) = Machine::get()?.device(device)?;
    if mig::index(ordinal).is_some() { Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT) } else { Ok(ordinal) }
}

/// The index of an instance.
fn instance(device: nvmlDevice_t) -> Answer<u32> {
    let (ordinal, _) = Machine::get()?.device(device)?;
    mig::index(ordinal).ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)
}

nvml_api! {
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, currentMode: *mut c_uint, pendingMode: *mut c_uint) {
        let is_cut = Machine::get()?.is_cut(whole(device)?);
        let mode = if is_cut { NVML_DEVICE_MIG_ENABLE } else { NVML_DEVICE_MIG_DISABLE };
        put(currentMode, mode)?;
        put(pendingMode, mode)
    }

    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) {
        whole(device)?;
        put(count, mig::MOST)
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, migDevice: *mut nvmlDevice_t) {
        let machine = Machine::get()?;
        let is_cut = machine.is_cut(whole(device)?);
        if index >= mig::MOST {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        if !is_cut || index >= machine.config.mig {
            return Err(nvmlReturn_t::NVML_ERROR_NOT_FOUND);
        }
        put(migDevice, machine.handle(mig::number(index))?)
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(migDevice: nvmlDevice_t, device: *mut nvmlDevice_t) {
        let index = instance(migDevice)?;
        put(device, Machine::get()?.handle(mig::parent(mig::number(index)))?)
    }

    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, isMigDevice: *mut c_uint) {
        let (ordinal, _) = Machine::get()?.device(device)?;
        put(isMigDevice, c_uint::from(mig::index(ordinal).is_some()))
    }

    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) {
        put(id, mig::gpu_instance(instance(device)?))
    }

    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) {
        instance(device)?;
        put(id, 0)
    }
}
