//! Copies and fills. Within the device they are work like a kernel; from or to the host they are the bus's work, and end
//! the batch before them.
//!
//! A note holds, from its lowest four bits on: the stream's argument, that of the size, and that of the rows; 15 is none.

use cuota_abi::cuda::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUdeviceptr, CUmemorytype, CUpointer_attribute, CUresult, CUstream,
};
use cuota_governor::batch::{Close, Unit};
use cuota_governor::cost::Key;

use super::flow::capped;
use crate::interpose::call::Call;
use crate::process::{Process, driver};

/// The argument in the note's place `place`; `None`: there is none.
fn noted(call: &Call, place: u32) -> Option<usize> {
    Some(call.note() >> (4 * place) & 15).filter(|index| *index != 15)
}

fn stream(call: &Call) -> CUstream {
    noted(call, 0).map_or_else(|| call.as_meant(core::ptr::null_mut()), |index| call.stream(index))
}

/// Copies between the host and the device.
///
/// # Safety
/// The program's call; so for each hook below.
pub(crate) unsafe extern "C" fn host(call: &Call) -> CUresult {
    if let Some(process) = capped() {
        process.limiter.close_stream(stream(call), Close::Wait);
    }
    call.make()
}

/// Copies within and between devices, fills, and what is neither told apart nor common.
pub(crate) unsafe extern "C" fn device(call: &Call) -> CUresult {
    let Some(process) = capped() else { return call.make() };
    let bytes = noted(call, 1).map_or(0, |index| call.word(index));
    let rows = noted(call, 2).map_or(1, |index| call.word(index));
    charged(process, call, bytes.saturating_mul(rows))
}

/// Makes the call, which moves so many bytes within the device, when it is time.
fn charged(process: &'static Process, call: &Call, bytes: u64) -> CUresult {
    // Sizes that are told apart: by the highest three bits.
    let coarse = 61_u32.saturating_sub(bytes.leading_zeros());
    let key = Key { function: call.function(), shape: bytes >> coarse << coarse };
    let unit = Unit { key, continues_chain: false };
    process.limiter.around(process, stream(call), &unit, call, |call, _, _| call.make())
}

/// Makes the call, which copies so many bytes, from or to the host if `touches_host`.
fn copied(process: &'static Process, call: &Call, bytes: u64, touches_host: bool) -> CUresult {
    if touches_host {
        process.limiter.close_stream(stream(call), Close::Wait);
        return call.make();
    }
    charged(process, call, bytes)
}

/// `cuMemcpy` and its kin: to, from, bytes.
pub(crate) unsafe extern "C" fn linear(call: &Call) -> CUresult {
    let Some(process) = capped() else { return call.make() };
    copied(process, call, call.word(2), is_hosts(call.word(0)) || is_hosts(call.word(1)))
}

/// `cuMemcpy2D` and its kin.
pub(crate) unsafe extern "C" fn flat(call: &Call) -> CUresult {
    // SAFETY: the program's argument.
    let (Some(process), Some(copy)) = (capped(), unsafe { call.at::<CUDA_MEMCPY2D>(0) }) else {
        return call.make();
    };
    let touches_host =
        touches_host(copy.srcMemoryType, copy.srcDevice) || touches_host(copy.dstMemoryType, copy.dstDevice);
    copied(process, call, (copy.WidthInBytes as u64).saturating_mul(copy.Height as u64), touches_host)
}

/// `cuMemcpy3D` and its kin.
pub(crate) unsafe extern "C" fn solid(call: &Call) -> CUresult {
    // SAFETY: the program's argument.
    let (Some(process), Some(copy)) = (capped(), unsafe { call.at::<CUDA_MEMCPY3D>(0) }) else {
        return call.make();
    };
    let touches_host =
        touches_host(copy.srcMemoryType, copy.srcDevice) || touches_host(copy.dstMemoryType, copy.dstDevice);
    let plane = (copy.WidthInBytes as u64).saturating_mul(copy.Height as u64);
    copied(process, call, plane.saturating_mul(copy.Depth as u64), touches_host)
}

fn touches_host(kind: CUmemorytype, address: CUdeviceptr) -> bool {
    kind == CUmemorytype::CU_MEMORYTYPE_HOST
        || kind == CUmemorytype::CU_MEMORYTYPE_UNIFIED && is_hosts(address)
}

/// Whether an address is the host's, as the driver knows it or does not know it.
fn is_hosts(address: u64) -> bool {
    let kind = driver::address_attribute(address, CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
    kind.is_none_or(|kind| kind == CUmemorytype::CU_MEMORYTYPE_HOST.0)
}
