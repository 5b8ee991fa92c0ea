//! What this process takes from a GPU as the driver counts it, through NVML.
//!
//! Contexts, lazily loaded modules and local memory pass no hook; NVML's figure for the own process holds them all.
//! It is found by `getpid()`: the driver translates process ids into the PID namespace. The first question costs about 16 ms
//! (NVML's initialisation; measured, driver 580), a later one 20–40 µs, so it is asked only when an allocation comes
//! near the quota.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, Ordering};

use cuota_abi::nvml::{nvmlDevice_st, nvmlDevice_t, nvmlProcessInfo_t};
use cuota_region::name::GpuId;
use cuota_region::sys;

use super::driver;
use crate::elf::link_map;
use crate::interpose::glibc::Glibc;

/// `GPU-` or `MIG-` and 36 characters, with its NUL; MIG names of drivers before 470 are longer, and do not parse.
const UUID_CHARS: usize = 96;

/// As many processes as are looked through on one GPU.
const PROCESSES: usize = 256;

/// NVML's answer to a question, or its error number.
pub(crate) type Answer<T> = Result<T, u32>;

/// The name that NVML has for a device, NUL-terminated: `kind` is `GPU` or `MIG`. (`core::fmt` would be 3 KiB of code.)
pub(crate) fn name_of(gpu: GpuId, kind: &[u8]) -> [u8; UUID_CHARS] {
    let (mut name, mut length) = ([0; UUID_CHARS], 0);
    let mut put = |byte: u8| {
        if let Some(place) = name.get_mut(length) {
            *place = byte;
        }
        length += 1;
    };
    kind.iter().for_each(|byte| put(*byte));
    for (index, digit) in gpu.digits().into_iter().enumerate() {
        if matches!(index, 0 | 8 | 12 | 16 | 20) {
            put(b'-');
        }
        put(digit);
    }
    name
}

/// What a process's `nvml` says.
const CLOSED: u32 = 0;
const OPENING: u32 = 1;
const OPEN: u32 = 2;

/// Room for the processes on a GPU.
pub(crate) struct Room([MaybeUninit<nvmlProcessInfo_t>; PROCESSES]);

impl Room {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Room([const { MaybeUninit::uninit() }; PROCESSES])
    }
}

/// NVML as one device's state knows it: the handle, kept.
pub(crate) struct Nvml {
    device: AtomicPtr<nvmlDevice_st>,
}

impl Nvml {
    /// Bytes that this process takes from `gpu`. `Ok(None)`: NVML does not list the process, so it has no context there.
    pub(crate) fn own_bytes(&self, gpu: GpuId) -> Answer<Option<u64>> {
        let (me, mut room) = (sys::process_id(), Room::new());
        let shown = self.processes(gpu, &mut room)?;
        let mine = shown.iter().find(|info| info.pid == me).map(|info| info.usedGpuMemory);
        // All ones is NVML's "not available" (WDDM, some vGPUs).
        Ok(mine.filter(|bytes| *bytes != u64::MAX))
    }

    /// The processes that NVML shows on `gpu`: those of this process's PID namespace.
    #[inline(never)]
    pub(crate) fn processes<'a>(&self, gpu: GpuId, room: &'a mut Room) -> Answer<&'a [nvmlProcessInfo_t]> {
        let count = driver::nvml_processes(self.device(gpu)?, &mut room.0)?.min(PROCESSES);
        // SAFETY: NVML has written the first `count` of them.
        Ok(unsafe { core::slice::from_raw_parts(room.0.as_ptr().cast(), count) })
    }

    /// Bytes that are taken on the GPU, by processes of all PID namespaces, once [`Nvml::processes`] has succeeded; else 0.
    pub(crate) fn used_bytes(&self) -> u64 {
        driver::nvml_used(self.device.load(Ordering::Acquire))
    }

    fn device(&self, gpu: GpuId) -> Answer<nvmlDevice_t> {
        let known = self.device.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(known);
        }
        open_once()?;
        let named = |kind| driver::nvml_device(&name_of(gpu, kind));
        // To CUDA a MIG instance is a device; NVML wants to know which of the two it is.
        let device = named(b"GPU").or_else(|_| named(b"MIG"))?;
        self.device.store(device, Ordering::Release);
        Ok(device)
    }
}

/// Begins to use NVML, unless this process has begun. Where another thread is at it there is no figure yet: a library that is being loaded is
/// in the loader's list before its addresses are filled in, and whoever called it would jump to 0. Nor is it waited for, who may want a
/// lock that this thread holds.
fn open_once() -> Answer<()> {
    let state = &super::managed().nvml;
    match state.compare_exchange(CLOSED, OPENING, Ordering::Acquire, Ordering::Acquire) {
        Ok(_) => {
            let opened = open();
            state.store(if opened.is_ok() { OPEN } else { CLOSED }, Ordering::Release);
            opened
        }
        Err(OPENING) => Err(driver::NO_LIBRARY),
        Err(_) => Ok(()),
    }
}

/// Begins to use NVML.
pub(crate) fn open() -> Answer<()> {
    // While somebody loads a library, which may be this one, nobody calls it.
    if !link_map::list_is_consistent() {
        return Err(driver::NO_LIBRARY);
    }
    open_library();
    driver::nvml_init()
}

/// Writes the name of the device with this number in NVML's order, which no variable changes, to `text`, NUL-terminated.
pub(crate) fn name_at(number: u32, text: &mut [u8; UUID_CHARS]) -> Answer<()> {
    driver::nvml_uuid(driver::nvml_device_at(number)?, text)
}

/// Loads NVML where the program has not: it comes with the driver.
fn open_library() {
    let Some(glibc) = Glibc::get().filter(|_| link_map::list_is_consistent()) else { return };
    // SAFETY: errno is this thread's; the loader changes it, and a hook leaves it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: glibc's own `dlopen`, with a C string. NVML's constructors are NVIDIA's.
    unsafe { glibc.dlopen()(c"libnvidia-ml.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// The GPU, or the MIG instance, behind an NVML handle. `None` where NVML fails.
pub(crate) fn gpu_of(device: nvmlDevice_t) -> Option<GpuId> {
    let mut text = [0_u8; UUID_CHARS];
    driver::nvml_uuid(device, &mut text).ok()?;
    parse_uuid(&text)
}

/// Reads `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, or the same with `MIG`.
pub(crate) fn parse_uuid(text: &[u8]) -> Option<GpuId> {
    let hex = text
        .strip_prefix(b"GPU-")
        .or_else(|| text.strip_prefix(b"MIG-"))?
        .iter()
        .take_while(|c| **c != 0)
        .filter(|c| **c != b'-');
    let (mut words, mut digits) = ([0, 0], 0);
    for c in hex {
        let [high, low] = words;
        words = [high << 4 | low >> 60, low << 4 | u64::from(char::from(*c).to_digit(16)?)];
        digits += 1;
    }
    (digits == 32).then_some(GpuId::from_words(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpus_name_is_read_as_it_is_written() {
        let gpu = GpuId::from_words([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        for kind in ["GPU", "MIG"] {
            let name = name_of(gpu, kind.as_bytes());
            assert_eq!(name[..40], *format!("{gpu}").replace("GPU", kind).as_bytes());
            assert_eq!(parse_uuid(&name), Some(gpu));
        }
        assert_eq!(parse_uuid(b"MIG-0123\0"), None);
        assert_eq!(parse_uuid(b"GPU-0123\0"), None);
    }
}
