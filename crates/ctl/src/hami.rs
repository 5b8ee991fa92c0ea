//! The directory of a container of HAMi's. Its limits stand in the file of HAMi's monitor, which it lies beside, and not in a policy.

use std::os::unix::ffi::OsStrExt;

use cuota_region::hami::file::Monitored;
use cuota_region::hami::layout::UUID_BYTES;
use cuota_region::hami::variables::Variables;
use cuota_region::hami::{DEVICES, DIRECTORY_SUFFIX};
use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::{Limits, MemoryLimit};

use crate::cli::Set;
use crate::home::Home;
use crate::share::show_cap;

/// 1 % in parts per million.
const PERCENT: u32 = 10_000;

/// A container of HAMi's.
#[derive(Clone, Copy)]
pub(crate) struct Container(Monitored);

impl Container {
    /// The container that `home` is the directory of. `None`: of none, or its file cannot be used.
    pub(crate) fn of(home: &Home) -> Option<Self> {
        let file = home.path().as_os_str().as_bytes().strip_suffix(DIRECTORY_SUFFIX)?;
        Monitored::look(file).ok().map(Container)
    }

    /// The number of a GPU in the container.
    fn number_of(self, gpu: GpuId) -> Option<usize> {
        let name = gpu.to_string();
        (0..DEVICES).find(|device| {
            let mut text = [0; UUID_BYTES];
            self.0.read_uuid(*device, &mut text);
            text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest[0] == 0)
        })
    }

    /// What the container may have on a GPU, by the file. (A share of the memory is not in it.)
    pub(crate) fn limits(self, gpu: GpuId) -> Option<Limits> {
        let (device, none) = (self.number_of(gpu)?, Variables::none());
        let memory = self.0.memory(device, &none);
        Some(Limits { compute: self.0.compute(device, &none), ..Limits::of_memory(memory) })
    }

    /// Changes the limits in the file, on one GPU or on all: all that is asked for, or nothing.
    pub(crate) fn set(self, asked: &Set) -> anyhow::Result<()> {
        if asked.tenant != TenantName::DEFAULT || !asked.claim.is_empty() {
            anyhow::bail!(
                "this is a container of HAMi's: its one tenant is {}, and its file holds a memory quota and a share of time\n  \
                 name these: --memory 8GiB, --compute 30%",
                TenantName::DEFAULT
            );
        }
        let devices = match asked.gpu {
            None => 0..DEVICES,
            Some(gpu) => {
                let device = self.number_of(gpu).ok_or_else(|| {
                    anyhow::anyhow!("the container has no {gpu}\n  `cuota ps` lists those that it has used")
                })?;
                device..device + 1
            }
        };
        let memory = match asked.memory {
            None => None,
            Some(MemoryLimit::Unlimited) => Some(None),
            Some(MemoryLimit::Bytes(bytes)) => Some(Some(bytes)),
            Some(MemoryLimit::Share(_)) => {
                anyhow::bail!("HAMi's file holds a quota in bytes\n  write a size, such as --memory 8GiB")
            }
        };
        let percent = asked.compute.map(|cap| (cap.ppm() / PERCENT, cap));
        if let Some((_, cap)) = percent.filter(|(percent, cap)| percent * PERCENT != cap.ppm()) {
            anyhow::bail!(
                "HAMi's file holds whole per cent, and {} is none\n  write such as --compute 30%",
                show_cap(cap)
            );
        }
        for device in devices {
            if let Some(bytes) = memory {
                self.0.set_memory(device, bytes);
            }
            if let Some((percent, _)) = percent {
                self.0.set_compute(device, percent);
            }
        }
        Ok(())
    }
}
