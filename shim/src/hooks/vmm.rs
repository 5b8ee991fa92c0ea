//! Virtual memory management: physical memory by handle, charged until its last handle and last mapping are gone.

use cuota_abi::cuda::{CUdeviceptr, CUmemAllocationProp, CUmemGenericAllocationHandle, CUresult};
use cuota_governor::physical;
use cuota_region::event::Why;

use super::{REFUSED, device_at, drop_reference, let_go, sharing};
use crate::hooks_table::cuMemRelease;
use crate::interpose::call::Call;
use crate::process::account::{self, Booking};
use crate::process::handles::{Kind, Owner};
use crate::process::{self, Process, Standing};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The device that physical memory of these properties lies on; `None`: the host's memory, or properties that the driver
/// will refuse.
///
/// # Safety
/// `properties` is null or the program's.
unsafe fn device_of(properties: *const CUmemAllocationProp) -> Option<i32> {
    // SAFETY: the caller's contract.
    unsafe { properties.as_ref() }.and_then(|properties| device_at(properties.location))
}

/// `cuMemCreate`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn create(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut CUmemGenericAllocationHandle = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let bytes: usize = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let properties: *const CUmemAllocationProp = unsafe { call.argument(2) };
    // SAFETY: the program's argument.
    let Some(device) = (unsafe { device_of(properties) }) else { return call.make() };
    let account = match account::on_device(device) {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let Some(taken) = physical::worst_case(bytes as u64) else { return REFUSED };
    let Some(reservation) = account.reserve(taken) else { return REFUSED };
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return status;
    }
    account.commit(reservation, taken);
    // SAFETY: the driver has written the handle.
    let made = unsafe { *handle };
    let owner = Owner::new(account.ordinal(), 0, Kind::Memory);
    if account.process().handles.add(made, taken, owner) {
        return OK;
    }
    // A handle that cannot be followed would stay charged for ever: not granted.
    sharing::undo(made, cuMemRelease::REAL.get());
    account.release(taken);
    account.decline(Why::TableFull)
}

/// Functions that drop one reference on what stands behind argument 0. With a note: its handle is gone, whatever else keeps it.
///
/// # Safety
/// The program's arguments.
pub(crate) unsafe extern "C" fn release(call: &Call) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let Some(place) = process.handles.find(call.word(0)) else { return call.make() };
    let last = process.handles.release(place);
    let status = call.make();
    match (status, last) {
        (OK, Some(last)) => let_go(&last),
        // What is mapped of it keeps it; another object may get its handle.
        (OK, None) if call.note() != 0 => process.handles.make_nameless(place, call.word(0)),
        (OK, None) => {}
        // The driver kept it: so do we.
        (_, Some(last)) => process.handles.put_back(&last),
        (_, None) => process.handles.retain(place),
    }
    status
}

/// `cuMemMap`: the mapping keeps the memory.
pub(crate) unsafe extern "C" fn map(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let address: CUdeviceptr = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let handle: CUmemGenericAllocationHandle = unsafe { call.argument(3) };
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let Some(place) = process.handles.find(handle) else { return call.make() };
    // First the reference: another thread may release the handle meanwhile.
    process.handles.retain(place);
    let status = call.make();
    if status != OK || process.blocks.add_mapping(address, place).is_err() {
        drop_reference(process, place);
    }
    status
}

/// `cuMemUnmap`: may end several mappings at once.
pub(crate) unsafe extern "C" fn unmap(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let address: CUdeviceptr = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let bytes: usize = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        unmapped(process, address, bytes as u64);
    }
    status
}

fn unmapped(process: &'static Process, address: u64, bytes: u64) {
    process.blocks.take_mappings(address, bytes, |place| drop_reference(process, place));
}

/// `cuMemRetainAllocationHandle`: one more handle on the memory that is mapped at `address`.
pub(crate) unsafe extern "C" fn retain(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut CUmemGenericAllocationHandle = unsafe { call.argument(0) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
        // SAFETY: the driver has written the handle.
        && let Some(place) = process.handles.find(unsafe { *handle })
    {
        process.handles.retain(place);
    }
    status
}
