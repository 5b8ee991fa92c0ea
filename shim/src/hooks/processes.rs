//! The processes on a GPU as a tenant sees them: its own, with the memory that they have booked.

use core::ffi::c_uint;
use core::mem::{MaybeUninit, offset_of};

use cuota_abi::cuda::CUresult;
use cuota_abi::nvml::{
    nvmlDevice_t, nvmlProcessDetail_v1_t, nvmlProcessDetailList_v1_t, nvmlProcessInfo_v1_t,
    nvmlProcessInfo_v2_t, nvmlReturn_t,
};
use cuota_region::member::Member;
use cuota_region::tenant::GpuIndex;

use super::info;
use crate::interpose::call::Call;

const OK: nvmlReturn_t = nvmlReturn_t::NVML_SUCCESS;
const TOO_SMALL: nvmlReturn_t = nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE;

/// As many processes as are looked through on one GPU; where there are more, the caller gets the driver's own answer.
const AT_MOST: u16 = 256;

/// What every form of an entry begins with; the forms differ in what follows, so a list is walked by the size of its entries. (One
/// copy of the code for all forms.)
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    pid: c_uint,
    used_bytes: u64,
}

const _: () = {
    macro_rules! begins_alike {
        ($($form:ident),*) => {$(
            assert!(offset_of!($form, pid) == offset_of!(Entry, pid));
            assert!(offset_of!($form, usedGpuMemory) == offset_of!(Entry, used_bytes));
            assert!(size_of::<$form>() <= LARGEST_ENTRY && size_of::<$form>().is_multiple_of(align_of::<Entry>()));
        )*};
    }
    begins_alike!(nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessDetail_v1_t);
};

const LARGEST_ENTRY: usize = 32;

/// Leaves the tenant's own processes at the front of a list of `count` entries of `size` bytes, each with what it has booked; how many
/// there are.
///
/// # Safety
/// `list` leads to as many entries, aligned as [`Entry`].
unsafe fn keep_own(
    list: *mut u8,
    count: usize,
    size: usize,
    member: &'static Member,
    gpu: GpuIndex,
) -> usize {
    let mut kept = 0;
    for index in 0..count {
        // SAFETY: the caller's contract: within the list, and aligned; an entry that is moved goes to its own place or before it.
        unsafe {
            let entry = list.add(index * size);
            let head = entry.cast::<Entry>();
            if let Some(booked) = member.booked_by(gpu, (*head).pid) {
                (*head).used_bytes = booked;
                core::ptr::copy(entry, list.add(kept * size), size);
                kept += 1;
            }
        }
    }
    kept
}

/// Answers a question for a list of processes, of entries of `size` bytes, with the tenant's own.
///
/// # Safety
/// The program's arguments: a device, how many entries there is room for, and the room.
unsafe fn list(call: &Call, size: usize) -> nvmlReturn_t {
    let (device, count, infos): (nvmlDevice_t, *mut c_uint, *mut u8) =
        (call.pointer(0), call.pointer(1), call.pointer(2));
    let Some((member, gpu)) = info::limited_tenant_on(device).filter(|_| !count.is_null()) else {
        return call.make_nvml();
    };
    let mut all = MaybeUninit::<[u64; AT_MOST as usize * LARGEST_ENTRY / 8]>::uninit();
    let mut found = c_uint::from(AT_MOST);
    let asked = [device.addr(), (&raw mut found).addr(), all.as_mut_ptr().addr()];
    if call.make_with(asked.map(|word| word as u64)) != CUresult::CUDA_SUCCESS {
        return call.make_nvml();
    }
    // SAFETY: NVML has written `found` entries, for which there is room.
    let own = unsafe {
        keep_own(all.as_mut_ptr().cast(), (found as usize).min(usize::from(AT_MOST)), size, member, gpu)
    };
    // SAFETY: the program's, not null.
    let room = unsafe { core::mem::replace(&mut *count, c_uint::try_from(own).unwrap_or(0)) } as usize;
    if own > room {
        return TOO_SMALL;
    }
    if own != 0 && infos.is_null() {
        return nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT;
    }
    if own != 0 {
        // Not `copy_nonoverlapping`, which would be an import of its own.
        // SAFETY: the program's room for `room` entries, of which no more are written.
        unsafe { core::ptr::copy(all.as_ptr().cast::<u8>(), infos, own * size) };
    }
    OK
}

/// The first form of the lists of processes: compute, graphics and MPS.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn list_v1(call: &Call) -> nvmlReturn_t {
    // SAFETY: the program's arguments.
    unsafe { list(call, size_of::<nvmlProcessInfo_v1_t>()) }
}

/// The second and third forms.
pub(crate) unsafe extern "C" fn list_v2(call: &Call) -> nvmlReturn_t {
    // SAFETY: the program's arguments.
    unsafe { list(call, size_of::<nvmlProcessInfo_v2_t>()) }
}

/// `nvmlDeviceGetRunningProcessDetailList`.
pub(crate) unsafe extern "C" fn detail(call: &Call) -> nvmlReturn_t {
    let status = call.make_nvml();
    let list: *mut nvmlProcessDetailList_v1_t = call.pointer(1);
    // SAFETY: the driver has written it.
    let answer = unsafe { list.as_mut() };
    if let Some(answer) = answer.filter(|answer| status == OK && !answer.procArray.is_null())
        && let Some((member, gpu)) = info::limited_tenant_on(call.pointer(0))
    {
        let (count, size) = (answer.numProcArrayEntries as usize, size_of::<nvmlProcessDetail_v1_t>());
        // SAFETY: the driver has written as many entries.
        let own = unsafe { keep_own(answer.procArray.cast(), count, size, member, gpu) };
        answer.numProcArrayEntries = c_uint::try_from(own).unwrap_or(0);
    }
    status
}
