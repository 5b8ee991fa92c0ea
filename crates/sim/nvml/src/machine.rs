//! The modelled machine as NVML sees it: the devices' shared files, open once a process.

use cuota_abi::nvml::{nvmlDevice_t, nvmlReturn_t};
use cuota_sim::config::Config;
use cuota_sim::mig;
use cuota_sim::shared::SharedDevice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) type Answer<T> = Result<T, nvmlReturn_t>;

/// The devices of the folder that the environment names.
pub(crate) struct Machine {
    pub(crate) config: Config,
    devices: Vec<SharedDevice>,
    /// The MIG instances of device 0.
    instances: Vec<SharedDevice>,
}

static MACHINE: OnceLock<Answer<Machine>> = OnceLock::new();
static USERS: AtomicU32 = AtomicU32::new(0);

/// Device handles are the device's number above this base: no address, and never null.
const HANDLE_BASE: u64 = 0x6001_0000_0000;

impl Machine {
    /// One more user: `nvmlInit`.
    pub(crate) fn init() -> Answer<()> {
        let machine = MACHINE.get_or_init(|| {
            cuota_sim::log::take_panics();
            let config = Config::from_environment();
            let open = |ordinal| {
                SharedDevice::open(&config, ordinal).map_err(|_| nvmlReturn_t::NVML_ERROR_OPERATING_SYSTEM)
            };
            let devices = (0..config.devices).map(open).collect::<Answer<Vec<_>>>()?;
            let instances = (0..config.mig).map(|index| open(mig::number(index)));
            let instances = instances.collect::<Answer<Vec<_>>>()?;
            Ok(Self { config, devices, instances })
        });
        machine.as_ref().map_err(|code| *code)?;
        USERS.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// One user less: `nvmlShutdown`. The files stay open, since closing one would drop the process's record locks on it.
    pub(crate) fn shutdown() -> Answer<()> {
        let left = USERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| users.checked_sub(1));
        left.map(|_| ()).map_err(|_| nvmlReturn_t::NVML_ERROR_UNINITIALIZED)
    }

    /// The machine, between the first `nvmlInit` and the last `nvmlShutdown`.
    pub(crate) fn get() -> Answer<&'static Self> {
        if USERS.load(Ordering::Acquire) == 0 {
            return Err(nvmlReturn_t::NVML_ERROR_UNINITIALIZED);
        }
        let machine = MACHINE.get().ok_or(nvmlReturn_t::NVML_ERROR_UNINITIALIZED)?;
        machine.as_ref().map_err(|code| *code)
    }

    /// The handle of a device, or of an instance.
    pub(crate) fn handle(&self, ordinal: u32) -> Answer<nvmlDevice_t> {
        let known = match mig::index(ordinal) {
            Some(index) => index < self.config.mig,
            None => ordinal < self.config.devices,
        };
        let handle = (HANDLE_BASE + u64::from(ordinal) * 16) as nvmlDevice_t;
        if known { Ok(handle) } else { Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT) }
    }

    /// The device or instance that a handle names, with its number.
    pub(crate) fn device(&self, handle: nvmlDevice_t) -> Answer<(u32, &SharedDevice)> {
        let offset = (handle as u64).checked_sub(HANDLE_BASE).filter(|o| o.is_multiple_of(16));
        let ordinal = offset
            .and_then(|o| u32::try_from(o / 16).ok())
            .ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)?;
        let found = match mig::index(ordinal) {
            Some(index) => self.instances.get(index as usize),
            None => self.devices.get(ordinal as usize),
        };
        Ok((ordinal, found.ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)?))
    }

    /// What holds the memory of a device or an instance: itself, or for a device that is cut into instances each of them. With
    /// an instance comes its index.
    pub(crate) fn parts(&self, handle: nvmlDevice_t) -> Answer<Vec<(Option<u32>, &SharedDevice)>> {
        let (ordinal, device) = self.device(handle)?;
        if self.is_cut(ordinal) {
            return Ok((0..).map(Some).zip(&self.instances).collect());
        }
        Ok(vec![(mig::index(ordinal), device)])
    }

    /// Whether a device is cut into instances.
    pub(crate) fn is_cut(&self, ordinal: u32) -> bool {
        ordinal == 0 && self.config.mig > 0
    }
}
