//! A container of HAMi's. Its limits stand in the file of HAMi's monitor, and not in a policy; its books lie in the container, where its
//! processes find them by that file.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cuota_region::hami::DEVICES;
use cuota_region::hami::file::Monitored;
use cuota_region::hami::layout::UUID_BYTES;
use cuota_region::hami::own::Places;
use cuota_region::hami::variables::Variables;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::{Limits, MemoryLimit};

use crate::cli::Set;
use crate::home::Home;
use crate::inject::mounted::those_who_have;
use crate::share::show_cap;

/// 1 % in parts per million.
const PERCENT: u32 = 10_000;

/// The directory with the books of the container that has this file for its monitor, as it is seen from here: through `/proc`, by a
/// process that has the file's folder mounted, and so is the container's; in our own mounts, if we are in the container; or by any
/// other process: a pod's first one has its `/dev/shm` while the pod is there. Where there are none yet, the best place. `None`: the
/// file has no folder.
pub(crate) fn directory_of(file: &Path) -> Option<PathBuf> {
    let places = Places::of(file.as_os_str().as_bytes()).ok()?;
    let place = |number| Some(PathBuf::from(OsStr::from_bytes(places.at(number).ok()?.as_bytes())));
    let [memory, disk, beside] = [place(0)?, place(1)?, place(2)?];
    let own = those_who_have(file.parent()?, usize::MAX).unwrap_or_default().into_iter();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let root = |process: u32| PathBuf::from(format!("/proc/{process}/root"));
    let roots = own.map(root).chain([PathBuf::from("/")]).chain(all.map(root));
    let inside = |root: &Path, place: &Path| root.join(place.strip_prefix("/").unwrap_or(place));
    let seen = roots.flat_map(|root| [&memory, &disk].map(|place| inside(&root, place)));
    seen.chain([beside]).find(|place| has_books(place)).or_else(|| Some(memory.clone()))
}

/// Whether the files of a container lie in this place: with no link on the way, which a program of the container can make, and which would
/// lead into this machine's own files.
fn has_books(place: &Path) -> bool {
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
    // In another's mounts also `/dev/shm`, `/tmp` and what is above them, up to the link of the kernel's, `/proc/PROCESS/root`.
    let levels = if place.starts_with("/proc") { usize::MAX } else { 1 };
    let mut above = place.ancestors().take_while(|path| !path.ends_with("root")).take(levels);
    let tenants = place.join("tenant");
    let books = fs::symlink_metadata(tenants.join("default.v1"));
    is_folder(&tenants) && books.is_ok_and(|about| about.is_file()) && above.all(is_folder)
}

/// A container of HAMi's.
#[derive(Clone, Copy)]
pub(crate) struct Container(Monitored);

impl Container {
    /// The container that `home` is the directory of. `None`: of none, or its file cannot be used.
    pub(crate) fn of(home: &Home) -> Option<Self> {
        Monitored::look(home.monitored()?.as_os_str().as_bytes()).ok().map(Container)
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
