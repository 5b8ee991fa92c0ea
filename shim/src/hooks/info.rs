//! The size of the GPU that the tenant sees: that of its quota.

use core::ffi::c_uint;

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
    let status = call.make_nvml();
    let memory: *mut nvmlMemory_t = call.pointer(1);
    if status == nvmlReturn_t::NVML_SUCCESS
        // SAFETY: the driver has written it.
        && let Some(memory) = unsafe { memory.as_mut() }
        && let Some((quota, booked)) = tenant_on(call.pointer(0), memory.total)
    {
        memory.total = quota;
        memory.used = booked.min(quota);
        memory.free = quota - memory.used;
    }
    status
}

/// `nvmlDeviceGetMemoryInfo_v2`: what the driver keeps for itself is not the tenant's.
pub(crate) unsafe extern "C" fn nvml_memory_v2(call: &Call) -> nvmlReturn_t {
    let status = call.make_nvml();
    let memory: *mut nvmlMemory_v2_t = call.pointer(1);
    if status == nvmlReturn_t::NVML_SUCCESS
        // SAFETY: the driver has written it.
        && let Some(memory) = unsafe { memory.as_mut() }
        && let Some((quota, booked)) = tenant_on(call.pointer(0), memory.total)
    {
        memory.total = quota;
        memory.reserved = 0;
        memory.used = booked.min(quota);
        memory.free = quota - memory.used;
    }
    status
}
