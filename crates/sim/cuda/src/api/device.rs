//! Initialisation, versions and devices. The attributes are those of an H100 where the model has them.

use super::{get, put, put_text};
use cuota_abi::cuda::{CUdevice, CUdevice_attribute, CUuuid};
use cuota_sim::config::Config;
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use cuota_sim::gpu::Gpu;
use cuota_sim::mig;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// Attribute number and value, in the order of `CUdevice_attribute`. What is not listed is 0: "no such ability".
const ATTRIBUTES: &[(u32, i32)] = &[
    (1, 1024),
    (2, 1024),
    (3, 1024),
    (4, 64),
    (5, i32::MAX),
    (6, 65_535),
    (7, 65_535),
    (8, 49_152),
    (9, 65_536),
    (10, 32),
    (11, i32::MAX),
    (12, 65_536),
    (13, 1_980_000),
    (14, 512),
    (15, 1),
    (19, 1),
    (30, 512),
    (31, 1),
    (36, 2_619_000),
    (37, 5_120),
    (38, 52_428_800),
    (39, 2_048),
    (40, 3),
    (41, 1),
    (51, 32),
    (75, 9),
    (76, 0),
    (78, 1),
    (79, 1),
    (80, 1),
    (81, 233_472),
    (82, 65_536),
    (83, 1),
    (87, 2),
    (89, 1),
    (90, 1),
    (91, 1),
    (92, 1),
    (95, 1),
    (97, 232_448),
    (99, 1),
    (102, 1),
    (106, 32),
    (111, 1_024),
    (115, 1),
    (123, 1),
    (124, 1),
    (125, 1),
    (126, 1),
    (128, 1),
    (129, 1),
    (132, 1),
];

const MULTIPROCESSORS: u32 = 16;
const PCI_BUS_ID: u32 = 33;
const MPS_ENABLED: u32 = 133;

fn attribute(ordinal: u32, number: u32) -> Answer<i32> {
    if number == 0 || number >= CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX.0 {
        return Err(Fault::InvalidValue);
    }
    if number == PCI_BUS_ID {
        return i32::try_from(mig::parent(ordinal) + 1).map_err(|_| Fault::InvalidValue);
    }
    if number == MPS_ENABLED {
        return Ok(i32::from(Driver::get()?.config().is_under_mps));
    }
    if number == MULTIPROCESSORS {
        return i32::try_from(Driver::get()?.config().sms_of(ordinal)).map_err(|_| Fault::InvalidValue);
    }
    Ok(ATTRIBUTES.iter().find(|row| row.0 == number).map_or(0, |row| row.1))
}

driver_api! {
    fn cuInit(Flags: c_uint) {
        if Flags != 0 {
            return Err(Fault::InvalidValue);
        }
        Driver::init().map(|_| ())
    }

    fn cuDriverGetVersion(driverVersion: *mut c_int) {
        put(driverVersion, Config::from_environment().driver_version)
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        put(count, Driver::get()?.gpus().len() as c_int)
    }

    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) {
        Driver::get()?.gpu(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice) {
        let driver = Driver::get()?;
        put_text(name, len, &driver.config().name_of(driver.gpu(dev)?.machine_ordinal()))
    }

    fn cuDeviceGetUuid(uuid: *mut CUuuid, dev: CUdevice) {
        let ordinal = mig::parent(Driver::get()?.gpu(dev)?.machine_ordinal());
        put(uuid, CUuuid { bytes: Config::uuid(ordinal).map(|b| b as c_char) })
    }

    fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) {
        let ordinal = Driver::get()?.gpu(dev)?.machine_ordinal();
        put(uuid, CUuuid { bytes: Config::uuid(ordinal).map(|b| b as c_char) })
    }

    fn cuDeviceGetLuid(luid: *mut c_char, deviceNodeMask: *mut c_uint, dev: CUdevice) {
        Driver::get()?.gpu(dev)?;
        if luid.is_null() || deviceNodeMask.is_null() {
            return Err(Fault::InvalidValue);
        }
        // A LUID exists on Windows only.
        Err(Fault::NotSupported)
    }

    fn cuDeviceTotalMem(bytes: *mut c_uint, dev: CUdevice) {
        let (_, total) = Driver::get()?.gpu(dev)?.memory();
        put(bytes, c_uint::try_from(total).unwrap_or(c_uint::MAX))
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) {
        let (_, total) = Driver::get()?.gpu(dev)?.memory();
        put(bytes, total as usize)
    }

    fn cuDeviceGetAttribute(pi: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice) {
        let ordinal = Driver::get()?.gpu(dev)?.machine_ordinal();
        put(pi, attribute(ordinal, attrib.0)?)
    }

    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, dev: CUdevice) {
        Driver::get()?.gpu(dev)?;
        put(major, 9)?;
        put(minor, 0)
    }

    fn cuDeviceGetPCIBusId(pciBusId: *mut c_char, len: c_int, dev: CUdevice) {
        let ordinal = Driver::get()?.gpu(dev)?.machine_ordinal();
        put_text(pciBusId, len, &Config::pci_bus_id(ordinal))
    }

    fn cuDeviceGetByPCIBusId(dev: *mut CUdevice, pciBusId: *const c_char) {
        get(pciBusId)?;
        let asked = CStr::from_ptr(pciBusId).to_string_lossy();
        let mut all = Driver::get()?.gpus().iter();
        let is_asked = |gpu: &&Gpu| Config::pci_bus_id(gpu.machine_ordinal()).eq_ignore_ascii_case(&asked);
        put(dev, all.find(is_asked).ok_or(Fault::InvalidDevice)?.ordinal() as c_int)
    }

    fn cuDeviceCanAccessPeer(canAccessPeer: *mut c_int, dev: CUdevice, peerDev: CUdevice) {
        let driver = Driver::get()?;
        driver.gpu(dev)?;
        driver.gpu(peerDev)?;
        put(canAccessPeer, 0)
    }
}
