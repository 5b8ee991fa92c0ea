//! Memory that crosses the borders of a process: IPC, exported and imported physical memory, memory of other APIs, multicast objects.
//!
//! What a process holds it is charged for, whoever made it. Within a tenant an object counts once, where the same 64 bytes went from
//! one process to the other (`cuota_region::share`); a descriptor has no name that two processes could compare, so what comes by one
//! is charged to whoever imports it, too.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{
    CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1, CUarrayMapInfo_v1, CUdevice, CUdeviceptr, CUexternalMemory,
    CUexternalMemoryHandleType, CUipcMemHandle_v1, CUmemAllocationHandleType, CUmemGenericAllocationHandle,
    CUmemHandleType, CUmemOperationType, CUmemPoolPtrExportData_v1, CUmemRangeHandleType, CUmemoryPool,
    CUmipmappedArray, CUresourcetype, CUresult,
};
use cuota_governor::physical::{self, BLOCK_BYTES};
use cuota_governor::quota::UNLIMITED;
use cuota_region::event::Why;
use cuota_region::share::ShareKey;

use super::{REFUSED, drop_reference};
use crate::hooks_table::{
    cuIpcCloseMemHandle, cuMemFree_v2, cuMemImportFromShareableHandle, cuMemMap, cuMemPoolDestroy,
    cuMemRelease, cuMemUnmap, real,
};
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::handles::{Kind, Owner};
use crate::process::lingering::Exported;
use crate::process::pins::Pinned;
use crate::process::{self, Process, Standing, driver, pools};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// The bytes of a handle that goes from process to process.
const HANDLE_BYTES: usize = 64;

/// # Safety
/// `handle` leads to 64 bytes.
unsafe fn key_of(handle: *const c_void) -> ShareKey {
    // SAFETY: the caller's contract.
    ShareKey::of(unsafe { core::slice::from_raw_parts(handle.cast::<u8>(), HANDLE_BYTES) })
}

/// Where the allocation around `address` begins, and how many bytes of 2 MiB blocks it lies in.
fn allocation_at(address: u64) -> Option<(u64, u64)> {
    let (mut base, mut bytes) = (0, 0);
    let call = real::cuMemGetAddressRange_v2.get();
    // SAFETY: fills an address and a size.
    let status = driver::outside_captures(|| unsafe { call(&raw mut base, &raw mut bytes, address) });
    if status != OK || bytes == 0 {
        return None;
    }
    let last = base.checked_add(bytes as u64 - 1)?;
    Some((base, (last / BLOCK_BYTES - base / BLOCK_BYTES + 1) * BLOCK_BYTES))
}

/// The booking for the device that the memory at `address` lies on, which need not be the current one.
fn on_device_at(address: u64) -> Booking {
    driver::device_at(address).map_or_else(account::on_current_device, account::on_device)
}

/// The place where it is noted that others may hold the allocation at `base`; `bytes` of it are charged by its blocks.
fn noted(account: Account, base: u64, bytes: u64) -> Option<u32> {
    let handles = &account.process().handles;
    if handles.find(base).is_none() {
        let context = account.process().contexts.current();
        let is_of_it = account.process().contexts.device_of(context) == Some(account.ordinal().cast_signed());
        // Of another device's context nobody knows which: then what is noted goes with the allocation.
        let context = if is_of_it { context } else { 0 };
        handles.add(base, bytes, Owner::new(account.ordinal(), context, Kind::Export));
    }
    handles.find(base)
}

/// Notes that the allocation around `address` can be opened by whoever has `key`.
fn exported(address: u64, key: ShareKey) {
    if let Booking::On(account) = on_device_at(address)
        && let Some((base, bytes)) = allocation_at(address)
        && let Some(place) = noted(account, base, bytes)
        && account.process().handles.share(place, key)
    {
        account.share(key, bytes);
    }
}

/// A function of the driver's that gives up what a process was given access to, by its address or handle.
type Close = unsafe extern "C" fn(u64) -> CUresult;

/// Gives up what the driver has just given access to under `id`, and nobody else has seen.
pub(super) fn undo(id: u64, close: Close) {
    driver::give_up(close as *const c_void, id);
}

/// Charges this process for memory that it has just been given access to under `id`; `close` gives it up again.
#[inline(never)]
fn imported(
    account: Account,
    id: u64,
    bytes: u64,
    key: Option<ShareKey>,
    context: u8,
    close: Close,
) -> CUresult {
    let handles = &account.process().handles;
    if let Some(place) = handles.find(id) {
        // The same again: the driver counts, and so do we.
        handles.retain(place);
        return OK;
    }
    let reserved = match key {
        Some(key) => account.reserve_shared(key, bytes),
        None => account.reserve(bytes),
    };
    let Some(reservation) = reserved else {
        undo(id, close);
        return REFUSED;
    };
    if !handles.add(id, bytes, Owner::new(account.ordinal(), context, Kind::Import)) {
        // What cannot be followed would stay charged for ever: not granted.
        key.into_iter().for_each(|key| account.unshare(key));
        account.cancel(reservation);
        undo(id, close);
        return account.decline(Why::TableFull);
    }
    account.device.unseen.fetch_add(bytes, Ordering::Relaxed);
    account.commit(reservation, bytes);
    if let Some((key, place)) = key.zip(handles.find(id)) {
        let _ = handles.share(place, key);
    }
    OK
}

/// `cuIpcGetMemHandle`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn ipc_get(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut CUipcMemHandle_v1 = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let address: CUdeviceptr = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK {
        // SAFETY: the driver has written the handle.
        exported(address, unsafe { key_of(handle.cast()) });
    }
    status
}

/// Makes `call`, which gives this process access to an allocation of another and writes where argument 0 says where it is, and charges it;
/// `close` gives it up again.
#[inline(never)]
fn opening(key: ShareKey, call: &Call, close: Close) -> CUresult {
    let booking = account::on_current_device();
    if matches!(booking, Booking::Refuse) {
        return REFUSED;
    }
    let status = call.make();
    if !matches!(booking, Booking::On(_)) || status != OK {
        return status;
    }
    // SAFETY: the driver has written the address.
    let opened = unsafe { *call.pointer::<CUdeviceptr>(0) };
    match (on_device_at(opened), allocation_at(opened)) {
        (Booking::On(account), Some((_, bytes))) => {
            imported(account, opened, bytes, Some(key), account.process().contexts.current(), close)
        }
        _ => {
            undo(opened, close);
            REFUSED
        }
    }
}

/// `cuIpcOpenMemHandle` and `cuIpcOpenMemHandle_v2`.
pub(crate) unsafe extern "C" fn ipc_open(call: &Call) -> CUresult {
    // SAFETY: a handle has 64 bytes.
    let key = unsafe { key_of(call.by_value()) };
    opening(key, call, cuIpcCloseMemHandle::REAL.get())
}

/// `cuMemExportToShareableHandle`.
pub(crate) unsafe extern "C" fn export(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let shareable: *mut c_void = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let handle: CUmemGenericAllocationHandle = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let kind: CUmemAllocationHandleType = unsafe { call.argument(2) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
        && let Some(place) = process.handles.find(handle)
    {
        match kind {
            CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR => {
                // SAFETY: the driver has written a descriptor.
                let fd = unsafe { *shareable.cast::<c_int>() };
                Exported::to(fd).into_iter().for_each(|exported| process.handles.export(place, exported));
            }
            CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC => {
                // SAFETY: the driver has written a `CUmemFabricHandle`.
                let key = unsafe { key_of(shareable) };
                let device = process.handles.owner(place).device().cast_signed();
                if let Booking::On(account) = account::on_device(device)
                    && process.handles.share(place, key)
                {
                    account.share(key, process.handles.bytes(place));
                }
            }
            _ => {}
        }
    }
    status
}

/// The bytes of imported physical memory. The driver does not say, but it maps no more than there is; an H100's (driver 580) maps
/// all of it or nothing.
fn size_of(handle: CUmemGenericAllocationHandle, device_bytes: u64) -> Option<u64> {
    let (reserve, free) = (real::cuMemAddressReserve.get(), real::cuMemAddressFree.get());
    let (map, unmap) = (cuMemMap::REAL.get(), cuMemUnmap::REAL.get());
    let room = usize::try_from(device_bytes.checked_next_multiple_of(BLOCK_BYTES)?).ok()?;
    let mut address = 0;
    // SAFETY: addresses only; given back below.
    if unsafe { reserve(&raw mut address, room, 0, 0, 0) } != OK {
        return None;
    }
    let fits = |blocks: &u64| {
        let bytes = usize::try_from(blocks * BLOCK_BYTES).unwrap_or(usize::MAX);
        // SAFETY: our own range of addresses, which nobody reads or writes.
        unsafe { map(address, bytes, 0, handle, 0) == OK && unmap(address, bytes) == OK }
    };
    let all = room as u64 / BLOCK_BYTES;
    let mut blocks = (1..=all).find(fits);
    // A driver that maps parts: the most that it maps.
    if let Some(fitting) = &mut blocks
        && fits(&(*fitting + 1))
    {
        let (mut most, mut too_many) = (*fitting + 1, all + 1);
        while too_many - most > 1 {
            let half = most.midpoint(too_many);
            if fits(&half) {
                most = half;
            } else {
                too_many = half;
            }
        }
        *fitting = most;
    }
    // SAFETY: reserved above, and nothing is mapped there.
    unsafe { free(address, room) };
    blocks.map(|blocks| blocks * BLOCK_BYTES)
}

/// `cuMemImportFromShareableHandle`.
pub(crate) unsafe extern "C" fn import(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut CUmemGenericAllocationHandle = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let shareable: *mut c_void = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let kind: CUmemAllocationHandleType = unsafe { call.argument(2) };
    let booking = account::on_current_or_first_device();
    if matches!(booking, Booking::Refuse) {
        return REFUSED;
    }
    let status = call.make();
    let Booking::On(account) = booking else { return status };
    if status != OK {
        return status;
    }
    // SAFETY: the driver has written the handle.
    let made = unsafe { *handle };
    let release = cuMemRelease::REAL.get();
    // It lies where it was made: on another device than the current one, or in the host's memory, which is not counted.
    let lies_on = driver::memory_device(made);
    let account = match lies_on.map(account::on_device) {
        Some(Booking::On(account)) => account,
        Some(Booking::Refuse) => {
            undo(made, release);
            return REFUSED;
        }
        Some(Booking::No) => return OK,
        None => account,
    };
    let handles = &account.process().handles;
    let bytes = match handles.find(made) {
        Some(_) => 0,
        None => match driver::outside_captures(|| size_of(made, account.device.total_bytes())) {
            Some(bytes) => bytes,
            // A multicast object is on no device, and takes no memory by itself.
            None if lies_on.is_none() => 0,
            None => {
                undo(made, release);
                return account.decline(Why::UnknownSize);
            }
        },
    };
    let is_fabric = kind == CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC;
    // SAFETY: the program's `CUmemFabricHandle`, which the driver has just read.
    let key = is_fabric.then(|| unsafe { key_of(shareable) });
    let status = imported(account, made, bytes, key, 0, release);
    if status == OK
        && kind == CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        && let Some(place) = handles.find(made)
        // The descriptor keeps the memory, too, until it is closed.
        && let Some(came_by) = i32::try_from(shareable.addr()).ok().and_then(Exported::to)
    {
        handles.export(place, came_by);
    }
    status
}

/// `cuMemGetHandleForAddressRange`: a descriptor that may keep the memory.
pub(crate) unsafe extern "C" fn export_range(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut c_void = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let address: CUdeviceptr = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let kind: CUmemRangeHandleType = unsafe { call.argument(3) };
    let status = call.make();
    if status == OK
        && kind == CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
        && let Booking::On(account) = on_device_at(address)
        // SAFETY: the driver has written a descriptor.
        && let Some(exported) = Exported::to(unsafe { *handle.cast::<c_int>() })
    {
        let process = account.process();
        if let Some(place) = process.blocks.mapping_at(address) {
            process.handles.export(place, exported);
        } else if let Some((base, _)) = allocation_at(address)
            && let Some(place) = noted(account, base, 0)
        {
            process.handles.export(place, exported);
        }
    }
    status
}

/// The bytes of the object behind a descriptor that CUDA exported, whatever a program says that it has: it is held as a whole; and the
/// account of the device that it lies on. 0 bytes: another API's, or none. `None`: it cannot be told.
fn size_behind(descriptor: c_int, current: Account) -> Option<(u64, Account)> {
    let (import, release) = (cuMemImportFromShareableHandle::REAL.find()?, cuMemRelease::REAL.get());
    let mut handle = 0;
    let Ok(number) = usize::try_from(descriptor) else { return Some((0, current)) };
    let shareable = core::ptr::without_provenance_mut(number);
    let kind = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    driver::outside_captures(|| {
        // SAFETY: a descriptor of the program, which stays its own; another API's is an error.
        if unsafe { import(&raw mut handle, shareable, kind) } != OK {
            return Some((0, current));
        }
        let account = match driver::memory_device(handle).map(account::on_device) {
            Some(Booking::On(account)) => account,
            _ => current,
        };
        let bytes = size_of(handle, account.device.total_bytes());
        // SAFETY: imported above.
        unsafe { release(handle) };
        bytes.zip(Some(account))
    })
}

/// `cuImportExternalMemory`: memory of another API, or of another process through it.
pub(crate) unsafe extern "C" fn import_external(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let memory: *mut CUexternalMemory = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let descriptor: *const CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1 = unsafe { call.argument(1) };
    let account = match account::on_current_device() {
        Booking::On(account) => account,
        Booking::Refuse => return REFUSED,
        Booking::No => return call.make(),
    };
    // SAFETY: the program's argument.
    let Some(described) = (unsafe { descriptor.as_ref() }) else { return call.make() };
    let is_descriptor =
        described.type_ == CUexternalMemoryHandleType::CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
    // SAFETY: the type says which member of the union is in use.
    let fd = is_descriptor.then_some(unsafe { described.handle.fd });
    let (found, account) = match fd.map(|fd| size_behind(fd, account)) {
        Some(None) => return account.decline(Why::UnknownSize),
        Some(Some(found)) => found,
        None => (0, account),
    };
    let bytes = if found == 0 { described.size } else { found };
    if bytes == 0 {
        return call.make();
    }
    let Some(bytes) = physical::worst_case(bytes) else { return REFUSED };
    let Some(reservation) = account.reserve(bytes) else { return REFUSED };
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return status;
    }
    account.device.unseen.fetch_add(bytes, Ordering::Relaxed);
    account.commit(reservation, bytes);
    // It outlives contexts, as far as anybody has seen.
    let owner = Owner::new(account.ordinal(), 0, Kind::Import);
    // SAFETY: the driver has written the handle.
    account.process().handles.add(unsafe { *memory }.addr() as u64, bytes, owner);
    OK
}

/// Makes `call`, which gives something that keeps external memory; `note` notes it, and says under which number.
#[inline(never)]
fn keeping(memory: u64, call: &Call, note: &dyn Fn(&'static Process, u32) -> u64) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let Some(place) = process.handles.find(memory) else { return call.make() };
    // First the reference: another thread may destroy the memory meanwhile.
    process.handles.retain(place);
    let status = call.make();
    if status == OK {
        let holder = note(process, place);
        pin_retained(process, holder, 0, 0, place);
    } else {
        drop_reference(process, place);
    }
    status
}

/// `cuExternalMemoryGetMappedBuffer`: the buffer keeps the memory until it is freed.
pub(crate) unsafe extern "C" fn map_external(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let pointer: *mut CUdeviceptr = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let memory: CUexternalMemory = unsafe { call.argument(1) };
    keeping(memory.addr() as u64, call, &|process, place| {
        // SAFETY: the driver has written the address.
        let address = unsafe { *pointer };
        // A free looks for what is noted about its address.
        let owner = process.handles.owner(place).with_kind(Kind::Export);
        match process.handles.find(address) {
            Some(again) => process.handles.retain(again),
            None => {
                process.handles.add(address, 0, owner);
            }
        }
        address
    })
}

/// `cuExternalMemoryGetMappedMipmappedArray`: the array keeps the memory until it is destroyed.
pub(crate) unsafe extern "C" fn map_external_array(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let array: *mut CUmipmappedArray = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let memory: CUexternalMemory = unsafe { call.argument(1) };
    keeping(memory.addr() as u64, call, &|process, place| {
        // SAFETY: the driver has written the array.
        let made = unsafe { *array }.addr() as u64;
        let owner = process.handles.owner(place).with_kind(Kind::Array);
        process.handles.add(made, 0, owner);
        made
    })
}

/// `cuMemPoolExportToShareableHandle`: from here on the pool may live on after this process.
pub(crate) unsafe extern "C" fn export_pool(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let pool: CUmemoryPool = unsafe { call.argument(1) };
    if let Standing::Managed(process) = process::standing() {
        process.pools.export(pool);
        process.member().note_pool_exported();
        let device = process.pools.device_of(pool).unwrap_or(pools::HOST);
        if let Booking::On(account) = account::on_device(device.cast_signed()) {
            account.note_pools(0);
        }
    }
    call.make()
}

/// `cuMemPoolImportFromShareableHandle`: another process's pool.
///
/// On an H100 the open pool alone keeps all that its owner took, after the owner's end too, and the driver does not say how much
/// that is. A pool of this tenant stays charged to its owner, dead or alive. What another tenant's takes cannot be charged, so it is
/// not granted.
pub(crate) unsafe extern "C" fn import_pool(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let pool: *mut CUmemoryPool = unsafe { call.argument(0) };
    let account = match account::on_current_or_first_device() {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let process = account.process();
    let note = |opened| {
        process.pools.open(opened);
        // Asked each time: it may have taken another place while the driver was at it.
        process.member().note_pool_open(opened);
    };
    // First this, so that whoever dies from here on keeps its pool booked.
    note(true);
    let is_known = account.quota() == UNLIMITED || process.member().others_export_pools();
    let status = if is_known { call.make() } else { account.decline(Why::ForeignPool) };
    if status != OK {
        note(false);
        return status;
    }
    // SAFETY: the driver has written the pool.
    let imported = unsafe { *pool };
    if process.pools.entry(imported, pools::IMPORTED).is_some() {
        return OK;
    }
    // One that is not followed would count as open for ever.
    driver::give_up(cuMemPoolDestroy::REAL.get() as *const c_void, imported.addr() as u64);
    note(false);
    account.decline(Why::TableFull)
}

/// `cuMemPoolExportPointer`.
pub(crate) unsafe extern "C" fn export_pointer(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let data: *mut CUmemPoolPtrExportData_v1 = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let address: CUdeviceptr = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK {
        // SAFETY: the driver has written the data.
        exported(address, unsafe { key_of(data.cast()) });
    }
    status
}

/// `cuMemPoolImportPointer`.
pub(crate) unsafe extern "C" fn import_pointer(call: &Call) -> CUresult {
    let data: *mut CUmemPoolPtrExportData_v1 = call.pointer(2);
    if data.is_null() || call.word(0) == 0 {
        return call.make();
    }
    // SAFETY: the program's data, not null.
    opening(unsafe { key_of(data.cast()) }, call, cuMemFree_v2::REAL.get())
}

/// Notes that `holder` keeps the memory in `place`, as long as it is bound there.
fn pin(process: &'static Process, holder: u64, device: CUdevice, offset: u64, place: Option<u32>) {
    if let Some(place) = place {
        // First the reference: the pin can be taken out as soon as it is there.
        process.handles.retain(place);
        pin_retained(process, holder, device, offset, place);
    }
}

/// The same with a reference that is there.
fn pin_retained(process: &'static Process, holder: u64, device: CUdevice, offset: u64, place: u32) {
    match process.pins.add(holder, device.cast_unsigned(), offset, place) {
        Pinned::Before => drop_reference(process, place),
        // What cannot be followed stays charged as long as the process lives.
        Pinned::Now | Pinned::Nowhere => {}
    }
}

/// Lets go of what `holder` kept: all of it, or what is bound on a device in a range.
pub(super) fn unpin(process: &'static Process, holder: u64, range: Option<(u32, u64, u64)>) {
    process.pins.take(holder, range, |place| {
        drop_reference(process, place);
    });
}

/// `cuMulticastCreate`: takes no memory by itself, and keeps what is bound to it.
pub(crate) unsafe extern "C" fn create_multicast(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let handle: *mut CUmemGenericAllocationHandle = unsafe { call.argument(0) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        let owner = Owner::new(0, 0, Kind::Memory);
        // SAFETY: the driver has written the handle.
        process.handles.add(unsafe { *handle }, 0, owner);
    }
    status
}

/// The bit of a note that says that the memory is named by an address where it is mapped, not by a handle.
pub(crate) const BY_ADDRESS: u64 = 1;
/// The bit of a note that says that argument 1 is the device that the memory is bound for.
pub(crate) const FOR_DEVICE: u64 = 2;
/// The bit of a note that says that what it is bound to is no handle's, and never unbound.
pub(crate) const FOR_GOOD: u64 = 4;

/// `cuMulticastBindMem`, `cuMulticastBindAddr` and `cuLogicalEndpointBindMem`: memory is bound to a multicast object or an endpoint, at an
/// offset, for a device or for the one that the memory lies on: as an unbinding will name it. What is bound to an endpoint is kept as
/// long as the process lives, or the memory's other holders let go.
pub(crate) unsafe extern "C" fn bind(call: &Call) -> CUresult {
    let is = |bit| call.note() as u64 & bit != 0;
    let Standing::Managed(process) = process::standing() else { return call.make() };
    let first = if is(FOR_DEVICE) { 2 } else { 1 };
    let (offset, memory) = (call.word(first), call.word(first + 1));
    // Before the driver can forget the handle, and another thread let go of it.
    let place = if is(BY_ADDRESS) { process.blocks.mapping_at(memory) } else { process.handles.find(memory) };
    let Some(place) = place else { return call.make() };
    process.handles.retain(place);
    let status = call.make();
    if status == OK {
        let holder = if is(FOR_GOOD) { u64::MAX } else { call.word(0) };
        let lies_on = process.handles.owner(place).device().cast_signed();
        let device = if is(FOR_DEVICE) { call.int(1).cast_signed() } else { lies_on };
        pin_retained(process, holder, device, offset, place);
    } else {
        drop_reference(process, place);
    }
    status
}

/// `cuMulticastUnbind`.
pub(crate) unsafe extern "C" fn unbind(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let multicast: CUmemGenericAllocationHandle = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(1) };
    // SAFETY: the argument's type.
    let offset: usize = unsafe { call.argument(2) };
    // SAFETY: the argument's type.
    let bytes: usize = unsafe { call.argument(3) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        unpin(process, multicast, Some((device.cast_unsigned(), offset as u64, bytes as u64)));
    }
    status
}

/// `cuMemMapArrayAsync`: an array keeps what is mapped into it; charged until the array is gone, since what is unmapped has no handle.
pub(crate) unsafe extern "C" fn map_arrays(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let list: *mut CUarrayMapInfo_v1 = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let count: c_uint = unsafe { call.argument(1) };
    let status = call.make();
    if status == OK
        && !list.is_null()
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the program's array of `count` entries, which the driver has just read.
        for info in unsafe { core::slice::from_raw_parts(list, count as usize) } {
            let maps = info.memOperationType == CUmemOperationType::CU_MEM_OPERATION_TYPE_MAP
                && info.memHandleType == CUmemHandleType::CU_MEM_HANDLE_TYPE_GENERIC;
            // SAFETY: the types say which members of the unions are in use; both members of the first are handles.
            let (holder, memory) = unsafe {
                let array = info.resource.array.addr() as u64;
                let mipmap = info.resource.mipmap.addr() as u64;
                let is_array = info.resourceType == CUresourcetype::CU_RESOURCE_TYPE_ARRAY;
                (if is_array { array } else { mipmap }, info.memHandle.memHandle)
            };
            if maps {
                pin(process, holder, 0, info.offset, process.handles.find(memory));
            }
        }
    }
    status
}
