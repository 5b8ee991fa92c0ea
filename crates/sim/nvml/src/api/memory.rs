//! Memory of a device.

use super::put;
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2, nvmlMemory_v2_t, nvmlReturn_t};

fn free_and_total(device: nvmlDevice_t) -> Answer<(u64, u64)> {
    let figures = Machine::get()?.parts(device)?.into_iter().map(|(_, part)| {
        part.with(|d| {
            d.reap();
            (d.ledger.free_bytes(), d.ledger.memory_bytes())
        })
    });
    Ok(figures.fold((0, 0), |(free, total), (f, t)| (free + f, total + t)))
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
}
