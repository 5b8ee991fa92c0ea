//! Utilisation, and the sensors that a model has only as constants.

use super::put;
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{
    nvmlClockType_t, nvmlDevice_t, nvmlReturn_t, nvmlTemperatureSensors_t, nvmlUtilization_t,
};
use cuota_sim::mig;
use cuota_sim::shared::SharedDevice;
use std::ffi::c_uint;

const TEMPERATURE_C: c_uint = 40;
const POWER_MW: c_uint = 100_000;
const POWER_LIMIT_MW: c_uint = 700_000;

unsafe fn constant(device: nvmlDevice_t, to: *mut c_uint, value: c_uint) -> Answer<()> {
    Machine::get()?.device(device)?;
    // SAFETY: null or valid by the caller's word.
    unsafe { put(to, value) }
}

/// The device of a handle. Of instances, and of a device that is cut into them, no utilisation is known, as NVIDIA's manual says.
pub(super) fn whole(handle: nvmlDevice_t) -> Answer<&'static SharedDevice> {
    let machine = Machine::get()?;
    let (ordinal, device) = machine.device(handle)?;
    if machine.is_cut(ordinal) || mig::index(ordinal).is_some() {
        return Err(nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED);
    }
    Ok(device)
}

nvml_api! {
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) {
        let device = whole(device)?;
        put(utilization, nvmlUtilization_t { gpu: device.utilization_percent(), memory: 0 })
    }

    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensorType: nvmlTemperatureSensors_t, temp: *mut c_uint) {
        if sensorType.0 != 0 {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        constant(device, temp, TEMPERATURE_C)
    }

    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) {
        constant(device, power, POWER_MW)
    }

    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint) {
        constant(device, limit, POWER_LIMIT_MW)
    }

    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, r#type: nvmlClockType_t, clock: *mut c_uint) {
        match r#type.0 {
            0 | 1 | 3 => constant(device, clock, 1980),
            2 => constant(device, clock, 2619),
            _ => Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT),
        }
    }
}
