//! What a call costs the tenant: the handlers of the hooks, by kind of memory, and of work.
//!
//! - [`launch`], [`graph`], [`copy`]: what puts work on the GPU goes when [`crate::limiter`] lets it.
//! - [`flow`]: what ends a batch. [`capture`]: what is charged later.
//!
//! The others are of memory. Each follows one pattern. *Before the call* it reserves what the call can take at most, and refuses with
//! `CUDA_ERROR_OUT_OF_MEMORY` what does not fit. *The call* goes to the driver with the program's own arguments. *After
//! the call* it books what was really taken, or gives the reservation back with the driver's error.

pub(crate) mod array;
pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod flow;
pub(crate) mod graph;
pub(crate) mod info;
pub(crate) mod launch;
pub(crate) mod module;
pub(crate) mod plain;
pub(crate) mod pool;
pub(crate) mod processes;
pub(crate) mod sharing;
pub(crate) mod stream;
pub(crate) mod vmm;

use core::sync::atomic::Ordering;

use cuota_abi::cuda::{CUmemLocation, CUmemLocationType, CUresult};

use crate::process::Process;
use crate::process::account::{self, Booking};
use crate::process::handles::{Kind, Last};

/// What a refused allocation returns: the same as a full device.
pub(crate) const REFUSED: CUresult = CUresult::CUDA_ERROR_OUT_OF_MEMORY;

/// Drops a reference to what is in a place of the handles' table.
#[inline(never)]
fn drop_reference(process: &Process, place: u32) {
    if let Some(last) = process.handles.release(place) {
        let_go(&last);
    }
}

/// Gives back what an entry of the handles' table stood for, once its last reference is gone.
fn let_go(last: &Last) {
    let Booking::On(account) = account::on_device(last.owner.device().cast_signed()) else { return };
    sharing::unpin(account.process(), last.handle, None);
    if let Some(key) = last.key {
        // Before the bytes: whoever sums must not miss them.
        account.unshare(key);
    }
    match last.owner.kind() {
        Kind::Array => array::shrink(account, last.bytes),
        Kind::Memory => account.release_unless_open(last.bytes, last.exported, false),
        Kind::Import => account.release_unless_open(last.bytes, last.exported, true),
        // Charged by its blocks.
        Kind::Managed => {
            account.device.unseen.fetch_sub(last.bytes, Ordering::Relaxed);
        }
        Kind::Green => account.release_overhead(last.bytes),
        Kind::Export | Kind::Graph | Kind::Library => {}
    }
}

/// The ordinal of the device that memory at `location` lies on; `None`: the host's memory, or no memory at all.
pub(crate) fn device_at(location: CUmemLocation) -> Option<i32> {
    // SAFETY: each kind of location uses one member of the union, and every bit pattern of either is a value.
    let (ordinal, localized) =
        unsafe { (location.__bindgen_anon_1.id, location.__bindgen_anon_1.localized.deviceId) };
    match location.type_ {
        CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE => Some(ordinal),
        CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN => Some(i32::from(localized)),
        _ => None,
    }
}
