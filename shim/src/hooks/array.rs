//! Arrays and mipmapped arrays: texture memory, which the driver takes in blocks apart from plain memory.
//!
//! How many bytes an array takes depends on its tiling. The driver says so, but only of an array whose memory is still to
//! be bound; so a twin without memory is made first, asked, and destroyed.

use core::ffi::c_uint;
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY_DESCRIPTOR_v1, CUDA_ARRAY_MEMORY_REQUIREMENTS,
    CUDA_ARRAY3D_DEFERRED_MAPPING, CUDA_ARRAY3D_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR_v1, CUDA_ARRAY3D_SPARSE,
    CUarray, CUdevice, CUresult,
};
use cuota_governor::physical::{self, BLOCK_BYTES};

use super::REFUSED;
use crate::hooks_table::{
    cuArray3DCreate_v2, cuArrayDestroy, cuMipmappedArrayCreate, cuMipmappedArrayDestroy, real,
};
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::driver;
use crate::process::handles::{Kind, Owner};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Flags of arrays that take no memory when they are made.
const UNBACKED: c_uint = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING;

/// The largest texel, bytes: four channels of 32 bits.
const LARGEST_TEXEL_BYTES: u64 = 16;

/// The bytes of an array of `levels` mipmap levels (0: not mipmapped), as the driver says of its twin.
#[inline(never)]
fn ask_driver(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, levels: c_uint, device: CUdevice) -> Option<u64> {
    let twin =
        CUDA_ARRAY3D_DESCRIPTOR { Flags: descriptor.Flags | CUDA_ARRAY3D_DEFERRED_MAPPING, ..*descriptor };
    let mut need = CUDA_ARRAY_MEMORY_REQUIREMENTS { size: 0, alignment: 0, reserved: [0; 4] };
    let status = if levels == 0 {
        let (create, ask, destroy) = (
            cuArray3DCreate_v2::REAL.get(),
            real::cuArrayGetMemoryRequirements.get(),
            cuArrayDestroy::REAL.get(),
        );
        let mut array = core::ptr::null_mut();
        // SAFETY: a descriptor, and an array that is ours alone and destroyed at once.
        unsafe {
            if create(&raw mut array, &raw const twin) != OK {
                return None;
            }
            let status = ask(&raw mut need, array, device);
            destroy(array);
            status
        }
    } else {
        let create = cuMipmappedArrayCreate::REAL.get();
        let (ask, destroy) =
            (real::cuMipmappedArrayGetMemoryRequirements.get(), cuMipmappedArrayDestroy::REAL.get());
        let mut array = core::ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            if create(&raw mut array, &raw const twin, levels) != OK {
                return None;
            }
            let status = ask(&raw mut need, array, device);
            destroy(array);
            status
        }
    };
    (status == OK && need.size != 0).then_some(need.size as u64)
}

/// What to book where the driver does not say: every texel the largest, rows padded to 512 bytes, columns to 8, twice that for
/// levels. An estimate, meant to be high; what it lacks, NVML's figure adds near the quota.
fn estimate(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, levels: c_uint) -> Option<u64> {
    let padded = |length: usize, unit: u64| (length.max(1) as u64).checked_next_multiple_of(unit);
    let row =
        (descriptor.Width.max(1) as u64).checked_mul(LARGEST_TEXEL_BYTES)?.checked_next_multiple_of(512)?;
    let bytes = row.checked_mul(padded(descriptor.Height, 8)?)?.checked_mul(descriptor.Depth.max(1) as u64)?;
    if levels == 0 { Some(bytes) } else { bytes.checked_mul(2) }
}

/// Makes an array (one copy of the code for all forms): `call` asks the driver, which writes its handle where argument 0 says.
#[inline(never)]
fn create(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, levels: c_uint, call: &Call) -> CUresult {
    let account = match account::on_current_device() {
        Booking::On(account) if descriptor.Flags & UNBACKED == 0 => account,
        Booking::On(account) => {
            // It will keep what is mapped into it.
            let status = call.make();
            if status == OK {
                note(account, call, 0);
            }
            return status;
        }
        Booking::Refuse => return REFUSED,
        Booking::No => return call.make(),
    };
    let device = account.ordinal().cast_signed();
    let asked = driver::outside_captures(|| ask_driver(descriptor, levels, device));
    let Some(bytes) = asked.or_else(|| estimate(descriptor, levels)) else { return REFUSED };
    let Some(worst) = physical::worst_case(bytes) else { return REFUSED };
    let Some(reservation) = account.reserve(worst) else { return REFUSED };
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return status;
    }
    let taken = grow(account, bytes);
    account.commit(reservation, taken);
    note(account, call, bytes);
    status
}

/// Notes an array that was made. Where the table is full it stays charged for good: 262,144 others are live.
fn note(account: Account, call: &Call, bytes: u64) {
    // SAFETY: the driver has written it.
    let handle = unsafe { *call.pointer::<CUarray>(0) }.addr() as u64;
    let context = account.process().contexts.current();
    let owner = Owner::new(account.ordinal(), context, Kind::Array);
    account.process().handles.add(handle, bytes, owner);
}

/// Books an array of `bytes`: how many bytes of blocks it adds. A large one has blocks of its own, small ones share.
fn grow(account: Account, bytes: u64) -> u64 {
    if bytes >= BLOCK_BYTES {
        return physical::worst_case(bytes).unwrap_or(bytes);
    }
    let before = account.device.small_arrays.fetch_add(bytes, Ordering::Relaxed);
    (before + bytes).next_multiple_of(BLOCK_BYTES) - before.next_multiple_of(BLOCK_BYTES)
}

/// Gives back what an array of `bytes` that is gone had.
pub(super) fn shrink(account: Account, bytes: u64) {
    let freed = if bytes >= BLOCK_BYTES {
        physical::worst_case(bytes).unwrap_or(bytes)
    } else {
        let before = account.device.small_arrays.fetch_sub(bytes, Ordering::Relaxed);
        before.next_multiple_of(BLOCK_BYTES) - before.saturating_sub(bytes).next_multiple_of(BLOCK_BYTES)
    };
    account.release(freed);
}

/// `cuArray3DCreate_v2`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn create_3d(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_ARRAY3D_DESCRIPTOR = unsafe { call.argument(1) };
    // SAFETY: the program's argument.
    let Some(asked) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    create(asked, 0, call)
}

/// `cuArray3DCreate`, the 32-bit form.
pub(crate) unsafe extern "C" fn create_3d_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_ARRAY3D_DESCRIPTOR_v1 = unsafe { call.argument(1) };
    // SAFETY: the program's argument.
    let Some(asked) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    let asked = CUDA_ARRAY3D_DESCRIPTOR {
        Width: asked.Width as usize,
        Height: asked.Height as usize,
        Depth: asked.Depth as usize,
        Format: asked.Format,
        NumChannels: asked.NumChannels,
        Flags: asked.Flags,
    };
    create(&asked, 0, call)
}

/// `cuArrayCreate_v2`.
pub(crate) unsafe extern "C" fn create_2d(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_ARRAY_DESCRIPTOR = unsafe { call.argument(1) };
    // SAFETY: the program's argument.
    let Some(asked) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    let asked = CUDA_ARRAY3D_DESCRIPTOR {
        Width: asked.Width,
        Height: asked.Height,
        Depth: 0,
        Format: asked.Format,
        NumChannels: asked.NumChannels,
        Flags: 0,
    };
    create(&asked, 0, call)
}

/// `cuArrayCreate`, the 32-bit form.
pub(crate) unsafe extern "C" fn create_2d_v1(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_ARRAY_DESCRIPTOR_v1 = unsafe { call.argument(1) };
    // SAFETY: the program's argument.
    let Some(asked) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    let asked = CUDA_ARRAY3D_DESCRIPTOR {
        Width: asked.Width as usize,
        Height: asked.Height as usize,
        Depth: 0,
        Format: asked.Format,
        NumChannels: asked.NumChannels,
        Flags: 0,
    };
    create(&asked, 0, call)
}

/// `cuMipmappedArrayCreate`.
pub(crate) unsafe extern "C" fn create_mipmapped(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_ARRAY3D_DESCRIPTOR = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let levels: c_uint = unsafe { call.argument(2) };
    // SAFETY: the program's argument.
    let Some(asked) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    create(asked, levels, call)
}
