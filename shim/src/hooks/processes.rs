//! The processes on a GPU as a tenant sees them: its own, with the memory that they have booked.

use core::ffi::c_uint;
use core::mem::MaybeUninit;

use cuota_abi::nvml::{
    PFN_nvmlDeviceGetComputeRunningProcesses, PFN_nvmlDeviceGetComputeRunningProcesses_v2,
    PFN_nvmlDeviceGetRunningProcessDetailList, nvmlDevice_t, nvmlProcessDetail_v1_t,
    nvmlProcessDetailList_v1_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlReturn_t,
};
use cuota_region::member::Member;
use cuota_region::tenant::GpuIndex;

use super::info;

const OK: nvmlReturn_t = nvmlReturn_t::NVML_SUCCESS;
const TOO_SMALL: nvmlReturn_t = nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE;

/// As many processes as are looked through on one GPU; where there are more, the caller gets the driver's own answer.
const AT_MOST: u16 = 256;

/// An entry of one of NVML's lists.
trait Entry: Copy {
    fn pid(&self) -> c_uint;
    fn set_bytes(&mut self, bytes: u64);
}

macro_rules! entries {
    ($($ty:ty),*) => {$(
        impl Entry for $ty {
            fn pid(&self) -> c_uint {
                self.pid
            }
            fn set_bytes(&mut self, bytes: u64) {
                self.usedGpuMemory = bytes;
            }
        }
    )*};
}
entries!(nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessDetail_v1_t);

/// Leaves the tenant's own processes at the front of `list`, each with what it has booked; how many there are.
fn keep_own<E: Entry>(list: &mut [E], member: &'static Member, gpu: GpuIndex) -> usize {
    let mut kept = 0;
    for index in 0..list.len() {
        let mut entry = list[index];
        let own = member.neighbours(gpu).find(|process| process.pid == entry.pid());
        if let Some(own) = own {
            entry.set_bytes(own.usage.booked);
            list[kept] = entry;
            kept += 1;
        }
    }
    kept
}

/// Answers a question for a list of processes, of `count` entries at most, with the tenant's own.
///
/// # Safety
/// `ask` and the pointers are the program's.
unsafe fn list<E: Entry>(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut E,
    ask: impl Fn(*mut c_uint, *mut E) -> nvmlReturn_t,
) -> nvmlReturn_t {
    let Some((member, gpu)) = info::limited_tenant_on(device).filter(|_| !count.is_null()) else {
        return ask(count, infos);
    };
    let mut all = [const { MaybeUninit::<E>::uninit() }; AT_MOST as usize];
    let mut found = c_uint::from(AT_MOST);
    if ask(&raw mut found, all.as_mut_ptr().cast()) != OK {
        return ask(count, infos);
    }
    // SAFETY: NVML has written `found` entries.
    let all = unsafe {
        core::slice::from_raw_parts_mut(
            all.as_mut_ptr().cast::<E>(),
            (found as usize).min(usize::from(AT_MOST)),
        )
    };
    let own = keep_own(all, member, gpu);
    // SAFETY: the program's, not null.
    let room = unsafe { core::mem::replace(&mut *count, c_uint::try_from(own).unwrap_or(0)) } as usize;
    if own > room {
        return TOO_SMALL;
    }
    if own != 0 {
        if infos.is_null() {
            return nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT;
        }
        // SAFETY: the program's room for `room` entries, of which no more are written.
        unsafe { core::ptr::copy_nonoverlapping(all.as_ptr(), infos, own) };
    }
    OK
}

/// The first form of the lists of processes: compute, graphics and MPS.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe fn list_v1(
    real: PFN_nvmlDeviceGetComputeRunningProcesses,
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v1_t,
) -> nvmlReturn_t {
    // SAFETY: the program's arguments.
    unsafe { list(device, count, infos, |count, infos| real(device, count, infos)) }
}

/// The second and third forms.
pub(crate) unsafe fn list_v2(
    real: PFN_nvmlDeviceGetComputeRunningProcesses_v2,
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v2_t,
) -> nvmlReturn_t {
    // SAFETY: the program's arguments.
    unsafe { list(device, count, infos, |count, infos| real(device, count, infos)) }
}

/// `nvmlDeviceGetRunningProcessDetailList`.
pub(crate) unsafe fn detail(
    real: PFN_nvmlDeviceGetRunningProcessDetailList,
    device: nvmlDevice_t,
    list: *mut nvmlProcessDetailList_v1_t,
) -> nvmlReturn_t {
    // SAFETY: the program's arguments.
    let status = unsafe { real(device, list) };
    // SAFETY: the driver has written it.
    let answer = unsafe { list.as_mut() };
    if let Some(answer) = answer.filter(|answer| status == OK && !answer.procArray.is_null())
        && let Some((member, gpu)) = info::limited_tenant_on(device)
    {
        // SAFETY: the driver has written as many entries.
        let all =
            unsafe { core::slice::from_raw_parts_mut(answer.procArray, answer.numProcArrayEntries as usize) };
        answer.numProcArrayEntries = c_uint::try_from(keep_own(all, member, gpu)).unwrap_or(0);
    }
    status
}
