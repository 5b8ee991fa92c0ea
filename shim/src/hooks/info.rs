//! The size of the GPU that the tenant sees: that of its quota.

use core::ffi::c_uint;
use core::mem::offset_of;

use cuota_abi::cuda::{CUdevice, CUresult};
use cuota_abi::nvml::{nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlReturn_t};
use cuota_governor::quota::UNLIMITED;
use cuota_region::member::Member;
use cuota_region::policy::{Found, MemoryLimit};
use cuota_region::tenant::GpuIndex;

use crate::interpose::call::Call;
use crate::process::account::{self, Booking};
use crate::process::{self, Standing, nvml};

const OK: CUresult = CUresult::CUDA_SUCCESS;

fn narrow(bytes: u64) -> c_uint {
    c_uint::try_from(bytes).unwrap_or(c_uint::MAX)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The free and total bytes to show for a device that really has these.
fn shown(free: u64, total: u64) -> (u64, u64) {
    match account::on_current_device() {
        Booking::On(account) => account.shown(free, total),
        Booking::No => (free, total),
        Booking::Refuse => (0, total),
    }
}

/// `cuMemGetInfo_v2`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn mem_get_info(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let free: *mut usize = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let total: *mut usize = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK && !free.is_null() && !total.is_null() {
        // SAFETY: not null, and written by the driver.
        let (free, total) = unsafe { (&mut *free, &mut *total) };
        let (left, quota) = shown(*free as u64, *total as u64);
        (*free, *total) = (size(left), size(quota));
    }
    status
}

/// `cuMemGetInfo`, the 32-bit form.
pub(crate) unsafe extern "C" fn mem_get_info_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let free: *mut c_uint = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let total: *mut c_uint = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK && !free.is_null() && !total.is_null() {
        // SAFETY: not null, and written by the driver.
        let (free, total) = unsafe { (&mut *free, &mut *total) };
        let (left, quota) = shown(u64::from(*free), u64::from(*total));
        (*free, *total) = (narrow(left), narrow(quota));
    }
    status
}

fn quota_of(device: CUdevice) -> u64 {
    match account::on_device(device) {
        Booking::On(account) => account.quota(),
        Booking::No | Booking::Refuse => UNLIMITED,
    }
}

/// `cuDeviceTotalMem_v2`.
pub(crate) unsafe extern "C" fn total_mem(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let bytes: *mut usize = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK && !bytes.is_null() {
        // SAFETY: not null, and written by the driver.
        let bytes = unsafe { &mut *bytes };
        *bytes = size(quota_of(device).min(*bytes as u64));
    }
    status
}

/// `cuDeviceTotalMem`, the 32-bit form.
pub(crate) unsafe extern "C" fn total_mem_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let bytes: *mut c_uint = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK && !bytes.is_null() {
        // SAFETY: not null, and written by the driver.
        let bytes = unsafe { &mut *bytes };
        *bytes = narrow(quota_of(device).min(u64::from(*bytes)));
    }
    status
}

/// This process's place and the GPU's index, where the tenant's memory is limited on an NVML device; and the limit.
fn limit_on(device: nvmlDevice_t) -> Option<(&'static Member, GpuIndex, MemoryLimit)> {
    let Standing::Managed(process) = process::standing() else { return None };
    let gpu = nvml::gpu_of(device)?;
    let Found::Limits(limits) = process.limits(gpu) else { return None };
    let member = process.member();
    (limits.memory != MemoryLimit::Unlimited).then_some((
        member,
        member.tenant().gpu_index(gpu)?,
        limits.memory,
    ))
}

/// This process's place and the GPU's index, where the tenant's memory is limited on an NVML device.
pub(super) fn limited_tenant_on(device: nvmlDevice_t) -> Option<(&'static Member, GpuIndex)> {
    limit_on(device).map(|(member, index, _)| (member, index))
}

/// The quota and the tenant's booked bytes on an NVML device that has `total` bytes; `None`: show the device as it is.
fn tenant_on(device: nvmlDevice_t, total: u64) -> Option<(u64, u64)> {
    let (member, index, limit) = limit_on(device)?;
    // A share is a share of the memory as CUDA counts it, which is a little less than NVML's figure.
    let known = member.tenant().total(index);
    let quota = limit.in_bytes(if known == 0 { total } else { known });
    Some((quota, member.tenant().usage(index).booked))
}

/// `nvmlDeviceGetMemoryInfo`.
pub(crate) unsafe extern "C" fn nvml_memory(call: &Call) -> nvmlReturn_t {
    const {
        assert!(offset_of!(nvmlMemory_t, total) == 0);
        assert!(offset_of!(nvmlMemory_t, free) == 8 && offset_of!(nvmlMemory_t, used) == 16);
    }
    // SAFETY: those are the places.
    unsafe { show_in_words(call, 0, 1) }
}

/// `nvmlDeviceGetMemoryInfo_v2`.
pub(crate) unsafe extern "C" fn nvml_memory_v2(call: &Call) -> nvmlReturn_t {
    const {
        assert!(offset_of!(nvmlMemory_v2_t, total) == 8 && offset_of!(nvmlMemory_v2_t, reserved) == 16);
        assert!(offset_of!(nvmlMemory_v2_t, free) == 24 && offset_of!(nvmlMemory_v2_t, used) == 32);
    }
    // SAFETY: those are the places.
    unsafe { show_in_words(call, 1, 3) }
}

/// Shows the tenant's memory for a device's. One body for both forms: their words are the same in the same order, but for `reserved`, in
/// front of `free`.
///
/// # Safety
/// The call fills a structure of 64-bit words, with those of these names at these places, and `used` behind `free`.
unsafe fn show_in_words(call: &Call, total: usize, free: usize) -> nvmlReturn_t {
    let status = call.make_nvml();
    let words: *mut u64 = call.pointer(1);
    if status != nvmlReturn_t::NVML_SUCCESS || words.is_null() {
        return status;
    }
    // SAFETY: not null, so written by the driver; all places are within it by the caller's contract.
    unsafe {
        if let Some((quota, booked)) = tenant_on(call.pointer(0), *words.add(total)) {
            // What the driver keeps for itself is not the tenant's. The first form has the total there.
            *words.add(free - 1) = 0;
            *words.add(total) = quota;
            let used = booked.min(quota);
            *words.add(free) = quota - used;
            *words.add(free + 1) = used;
        }
    }
    status
}
