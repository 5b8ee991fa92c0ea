//! Memory, of the device and of each process.

use super::put;
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{
    nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2, nvmlMemory_v2_t, nvmlProcessInfo_t, nvmlProcessInfo_v1_t,
    nvmlProcessInfo_v2_t, nvmlReturn_t,
};
use cuota_sim::shared::ProcessUse;
use std::ffi::c_uint;

/// The instance ids of a process on a device without MIG.
const NO_INSTANCE: c_uint = c_uint::MAX;

fn free_and_total(device: nvmlDevice_t) -> Answer<(u64, u64)> {
    let (_, device) = Machine::get()?.device(device)?;
    Ok(device.with(|d| {
        d.reap();
        (d.ledger.free_bytes(), d.ledger.memory_bytes())
    }))
}

/// Fills the caller's array; where it is too short, says how many there are.
unsafe fn list<T>(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut T,
    make: impl Fn(&ProcessUse) -> T,
) -> Answer<()> {
    let (_, device) = Machine::get()?.device(device)?;
    let processes = device.with(|d| d.processes());
    if count.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so valid by the caller's word.
    let room = unsafe { count.replace(processes.len() as c_uint) };
    if (room as usize) < processes.len() {
        return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
    }
    for (place, process) in processes.iter().enumerate() {
        // SAFETY: the caller's array has `room` entries and there are no more processes than that.
        unsafe { put(infos.wrapping_add(place), make(process))? };
    }
    Ok(())
}

fn with_instances(process: &ProcessUse) -> nvmlProcessInfo_v2_t {
    nvmlProcessInfo_v2_t {
        pid: process.pid,
        usedGpuMemory: process.bytes,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}

/// Nobody draws pictures on this device.
unsafe fn list_nothing(device: nvmlDevice_t, count: *mut c_uint) -> Answer<()> {
    Machine::get()?.device(device)?;
    // SAFETY: null or valid by the caller's word.
    unsafe { put(count, 0) }
}

nvml_api! {
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        let (free, total) = free_and_total(device)?;
        put(memory, nvmlMemory_t { total, free, used: total - free })
    }

    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let (free, total) = free_and_total(device)?;
        if memory.is_null() {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        let version = (*memory).version;
        if version != nvmlMemory_v2 {
            return Err(nvmlReturn_t::NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        put(memory, nvmlMemory_v2_t { version, total, reserved: 0, free, used: total - free })
    }

    fn nvmlDeviceGetComputeRunningProcesses(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_v1_t,
    ) {
        list(device, infoCount, infos, |p| nvmlProcessInfo_v1_t { pid: p.pid, usedGpuMemory: p.bytes })
    }

    fn nvmlDeviceGetComputeRunningProcesses_v2(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t,
    ) {
        list(device, infoCount, infos, with_instances)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_t,
    ) {
        list(device, infoCount, infos, with_instances)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v1_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v2(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v2_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_t,
    ) {
        list_nothing(device, infoCount)
    }
}
