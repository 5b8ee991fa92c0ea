//! Opening the driver, a device and its primary context.

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};

use anyhow::{Result, bail};
use cudarc::driver::sys;
use serde::{Deserialize, Serialize};

use super::error::check;
use super::memory::find_functions;
use super::peaks::Peaks;

/// A device of an initialised driver, without a context.
#[derive(Clone, Copy)]
pub struct Device {
    /// The driver's handle.
    pub handle: sys::CUdevice,
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The product's name.
    pub name: String,
    /// `GPU-` and the UUID, as NVML writes it.
    pub uuid: String,
    /// Total memory, in bytes.
    pub memory_bytes: u64,
    /// The CUDA version of the driver, as in 13000.
    pub cuda_version: i32,
    /// Devices that the driver shows.
    #[serde(default)]
    pub devices: i32,
    /// What it could do at the very best; files of earlier versions do not have it.
    #[serde(default)]
    pub peaks: Option<Peaks>,
}

/// Opens libcuda.so.1, with an error in words where it is absent (cudarc would abort the process).
pub(super) fn open_driver() -> Result<NonNull<c_void>> {
    // SAFETY: the name is a NUL-terminated literal; libcuda's constructors are those that every CUDA program runs.
    let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
    if let Some(handle) = NonNull::new(handle) {
        return Ok(handle); // Never closed: cudarc's functions live in it.
    }
    // SAFETY: dlerror returns NULL or a string that is valid until this thread's next dl* call.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    bail!("no CUDA driver: libcuda.so.1 could not be opened ({reason})")
}

impl Device {
    /// Opens the driver, initialises it and takes device number `ordinal`.
    pub fn open(ordinal: i32) -> Result<Self> {
        open_driver()?;
        // SAFETY: 0 is the only flag value that cuInit defines.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        Self::of_initialised_driver(ordinal)
    }

    /// Device number `ordinal` once `cuInit` has succeeded.
    pub fn of_initialised_driver(ordinal: i32) -> Result<Self> {
        let count = Self::count()?;
        if ordinal >= count {
            bail!("device {ordinal} was asked for and the driver shows {count}, numbered from 0");
        }
        let mut handle = 0;
        // SAFETY: `handle` is writable.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut handle, ordinal) })?;
        Ok(Self { handle })
    }

    /// Name, UUID, memory and driver version.
    pub fn info(self) -> Result<DeviceInfo> {
        let mut name = [0; 128];
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        let mut memory = 0_usize;
        let mut cuda_version = 0;
        // SAFETY: every pointer is writable, the name's length is given, and the driver is initialised.
        unsafe {
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), 128, self.handle))?;
            check("cuDeviceGetUuid_v2", sys::cuDeviceGetUuid_v2(&raw mut uuid, self.handle))?;
            check("cuDeviceTotalMem_v2", sys::cuDeviceTotalMem_v2(&raw mut memory, self.handle))?;
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&raw mut cuda_version))?;
        }
        let name: Vec<u8> = name.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
        Ok(DeviceInfo {
            name: String::from_utf8_lossy(&name).into_owned(),
            uuid: uuid_text(&uuid.bytes.map(i8::cast_unsigned)),
            memory_bytes: u64::try_from(memory)?,
            cuda_version,
            devices: Self::count()?,
            peaks: Some(Peaks::of(self)?),
        })
    }

    /// Devices that the driver shows.
    pub fn count() -> Result<i32> {
        let mut count = 0;
        // SAFETY: `count` is writable.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        Ok(count)
    }

    /// An attribute's value.
    pub fn attribute(self, attribute: sys::CUdevice_attribute) -> Result<u64> {
        let mut value = 0;
        // SAFETY: `value` is writable and the device is the driver's.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, attribute, self.handle)
        })?;
        Ok(u64::try_from(value)?)
    }
}

/// A UUID as NVML writes it: `GPU-` and groups of 4, 2, 2, 2 and 6 bytes in hexadecimal.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A device with its primary context current in this thread. Released with the process, as most programs do it.
pub struct Gpu {
    /// The device.
    pub device: Device,
    context: sys::CUcontext,
}

impl Gpu {
    /// Opens device `ordinal` and makes its primary context current.
    pub fn open(ordinal: i32) -> Result<Self> {
        let gpu = Self::retain_primary(Device::open(ordinal)?)?;
        find_functions()?;
        Ok(gpu)
    }

    /// Retains the primary context of `device` and makes it current in this thread.
    pub fn retain_primary(device: Device) -> Result<Self> {
        let mut context = ptr::null_mut();
        // SAFETY: `context` is writable and `device` came from the driver.
        unsafe {
            check(
                "cuDevicePrimaryCtxRetain",
                sys::cuDevicePrimaryCtxRetain(&raw mut context, device.handle),
            )?;
        }
        let gpu = Self { device, context };
        gpu.make_current()?;
        Ok(gpu)
    }

    /// Makes its context the current one of this thread: for threads that drive several devices.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: the primary context lives as long as the process.
        Ok(check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })?)
    }

    /// Waits for all work of the current context.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a context is current since `self` exists.
        Ok(check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let bytes = [0xde, 0xad, 0xbe, 0xef, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        assert_eq!(uuid_text(&bytes), "GPU-deadbeef-0001-0203-0405-060708090a0b");
    }
}
