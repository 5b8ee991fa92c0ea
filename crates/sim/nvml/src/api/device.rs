//! Devices: how many, which, and what they are.

use super::{put, put_text};
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{nvmlComputeMode_t, nvmlDevice_t, nvmlEnableState_t, nvmlPciInfo_t, nvmlReturn_t};
use cuota_sim::config::Config;
use cuota_sim::mig;
use std::ffi::{CStr, c_char, c_int, c_uint};

fn find(matches: impl Fn(u32) -> bool) -> Answer<nvmlDevice_t> {
    let machine = Machine::get()?;
    let found = (0..machine.config.devices)
        .chain((0..machine.config.mig).map(mig::number))
        .find(|&ordinal| matches(ordinal));
    machine.handle(found.ok_or(nvmlReturn_t::NVML_ERROR_NOT_FOUND)?)
}

unsafe fn text<'a>(from: *const c_char) -> Answer<std::borrow::Cow<'a, str>> {
    if from.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so a C string by the caller's word.
    Ok(unsafe { CStr::from_ptr(from) }.to_string_lossy())
}

unsafe fn by_bus(bus: *const c_char, device: *mut nvmlDevice_t) -> Answer<()> {
    // SAFETY: null or valid by the caller's word.
    unsafe {
        let asked = text(bus)?.to_ascii_uppercase();
        // NVML writes the domain with eight digits, CUDA with four.
        put(device, find(|ordinal| asked.ends_with(&Config::pci_bus_id(ordinal)))?)
    }
}

unsafe fn pci_info(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Answer<()> {
    fn chars<const N: usize>(text: &str) -> [c_char; N] {
        let mut out = [0; N];
        for (to, from) in out.iter_mut().take(N - 1).zip(text.bytes()) {
            *to = from as c_char;
        }
        out
    }
    let (ordinal, _) = Machine::get()?.device(device)?;
    let short = Config::pci_bus_id(ordinal);
    let info = nvmlPciInfo_t {
        busIdLegacy: chars(&short),
        domain: 0,
        bus: mig::parent(ordinal) + 1,
        device: 0,
        pciDeviceId: 0,
        pciSubSystemId: 0,
        busId: chars(&format!("0000{short}")),
    };
    // SAFETY: null or valid by the caller's word.
    unsafe { put(pci, info) }
}

unsafe fn count(deviceCount: *mut c_uint) -> Answer<()> {
    // SAFETY: null or valid by the caller's word.
    unsafe { put(deviceCount, Machine::get()?.config.devices) }
}

unsafe fn by_index(index: c_uint, device: *mut nvmlDevice_t) -> Answer<()> {
    // SAFETY: null or valid by the caller's word.
    unsafe { put(device, Machine::get()?.handle(index)?) }
}

nvml_api! {
    fn nvmlDeviceGetCount(deviceCount: *mut c_uint) {
        count(deviceCount)
    }

    fn nvmlDeviceGetCount_v2(deviceCount: *mut c_uint) {
        count(deviceCount)
    }

    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) {
        by_index(index, device)
    }

    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) {
        by_index(index, device)
    }

    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) {
        let asked = text(uuid)?;
        put(device, find(|ordinal| Config::uuid_text(ordinal).eq_ignore_ascii_case(&asked))?)
    }

    fn nvmlDeviceGetHandleByPciBusId(pciBusId: *const c_char, device: *mut nvmlDevice_t) {
        by_bus(pciBusId, device)
    }

    fn nvmlDeviceGetHandleByPciBusId_v2(pciBusId: *const c_char, device: *mut nvmlDevice_t) {
        by_bus(pciBusId, device)
    }

    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) {
        let machine = Machine::get()?;
        put_text(name, length, &machine.config.name_of(machine.device(device)?.0))
    }

    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) {
        let (ordinal, _) = Machine::get()?.device(device)?;
        put_text(uuid, length, &Config::uuid_text(ordinal))
    }

    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) {
        let (ordinal, _) = Machine::get()?.device(device)?;
        put(index, mig::index(ordinal).unwrap_or(ordinal))
    }

    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minorNumber: *mut c_uint) {
        put(minorNumber, mig::parent(Machine::get()?.device(device)?.0))
    }

    fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci_info(device, pci)
    }

    fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci_info(device, pci)
    }

    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        pci_info(device, pci)
    }

    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) {
        Machine::get()?.device(device)?;
        put(mode, nvmlComputeMode_t(0))
    }

    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) {
        Machine::get()?.device(device)?;
        put(mode, nvmlEnableState_t(1))
    }

    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) {
        Machine::get()?.device(device)?;
        put(major, 9)?;
        put(minor, 0)
    }
}
