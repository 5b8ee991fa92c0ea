//! What we ask the driver for ourselves: functions that are not hooked, found in the library that is loaded.

use core::ffi::{c_char, c_void};
use core::ptr::null_mut;

use cuota_abi::cuda::{
    CUcontext, CUdevice, CUdevice_attribute, CUevent, CUgraphMem_attribute, CUmemAllocationProp,
    CUmemGenericAllocationHandle, CUmemPool_attribute, CUmemoryPool, CUpointer_attribute, CUresult, CUstream,
    CUstream_flags, CUstreamCaptureMode, CUstreamCaptureStatus, CUuuid,
};
use cuota_abi::nvml::{nvmlDevice_t, nvmlMemory_v2, nvmlMemory_v2_t, nvmlProcessInfo_t, nvmlReturn_t};

use cuota_region::sys::{self, Mapping};

use crate::hooks_table::{
    cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRetain, nvmlDeviceGetComputeRunningProcesses_v3,
    nvmlDeviceGetMemoryInfo_v2, real,
};
use crate::interpose::call::Call;

/// The error number that stands for "the library or the function is not there".
pub(crate) const NO_LIBRARY: u32 = nvmlReturn_t::NVML_ERROR_LIBRARY_NOT_FOUND.0;

fn succeeded(status: CUresult) -> bool {
    status == CUresult::CUDA_SUCCESS
}

/// How many devices there are; `None` before `cuInit`.
pub(crate) fn device_count() -> Option<u32> {
    let mut count = 0;
    // SAFETY: fills one int.
    succeeded(unsafe { real::cuDeviceGetCount.get()(&raw mut count) }).then_some(u32::try_from(count).ok()?)
}

/// A device's UUID; that of the MIG instance where there is one.
pub(crate) fn device_uuid(device: CUdevice) -> Option<[u8; 16]> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: fills one UUID.
    let known = succeeded(unsafe { real::cuDeviceGetUuid_v2.get()(&raw mut uuid, device) });
    known.then(|| uuid.bytes.map(|byte| byte.to_le_bytes()[0]))
}

/// The device of the calling thread's current context.
#[inline]
pub(crate) fn current_device() -> Option<CUdevice> {
    let mut device = 0;
    // SAFETY: fills one device.
    succeeded(unsafe { real::cuCtxGetDevice.get()(&raw mut device) }).then_some(device)
}

/// The calling thread's current context.
#[inline]
pub(crate) fn current_context() -> Option<CUcontext> {
    let mut context = null_mut();
    // SAFETY: fills one handle.
    succeeded(unsafe { real::cuCtxGetCurrent.get()(&raw mut context) })
        .then_some(context)
        .filter(|context| !context.is_null())
}

/// Makes a context current to the calling thread, which is ours.
pub(crate) fn set_current(context: CUcontext) -> bool {
    // SAFETY: a handle that is none any more is an error.
    succeeded(unsafe { real::cuCtxSetCurrent.get()(context) })
}

/// Whether a device's primary context exists.
pub(crate) fn primary_is_active(device: CUdevice) -> bool {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: fills two ints.
    succeeded(unsafe { real::cuDevicePrimaryCtxGetState.get()(device, &raw mut flags, &raw mut active) })
        && active != 0
}

/// Runs `act` with room for `count` handles, all null. `false`: there is no memory for it.
#[inline(never)]
pub(crate) fn with_room(count: usize, act: &mut dyn FnMut(&mut [*mut c_void])) -> bool {
    let Some(bytes) = count.max(1).checked_mul(size_of::<*mut c_void>()) else { return false };
    let Ok(room) = sys::map(Mapping::Private, bytes) else { return false };
    // SAFETY: fresh zeroed memory, long enough and page-aligned, for as many null pointers.
    act(unsafe { core::slice::from_raw_parts_mut(room.cast::<*mut c_void>().as_ptr(), count) });
    // SAFETY: mapped above; the slice is not used again.
    unsafe { sys::unmap(room, bytes) };
    true
}

/// A device's primary context, which is there.
pub(crate) fn primary_context(device: CUdevice) -> Option<CUcontext> {
    let mut context = null_mut();
    let (retain, release) = (cuDevicePrimaryCtxRetain::REAL.get(), cuDevicePrimaryCtxRelease_v2::REAL.get());
    // SAFETY: one reference more and one less; it stays, since it was there before.
    unsafe { (retain(&raw mut context, device) == CUresult::CUDA_SUCCESS).then(|| release(device)) }?;
    Some(context)
}

/// The device that physical memory lies on; −1: the host's. `None`: the driver does not say.
pub(crate) fn memory_device(handle: CUmemGenericAllocationHandle) -> Option<CUdevice> {
    // SAFETY: integers and unions of them, for which all-zero is a value.
    let mut properties: CUmemAllocationProp = unsafe { core::mem::zeroed() };
    let call = real::cuMemGetAllocationPropertiesFromHandle.get();
    // SAFETY: fills one struct.
    let status = outside_captures(|| unsafe { call(&raw mut properties, handle) });
    succeeded(status).then(|| crate::hooks::device_at(properties.location).unwrap_or(-1))
}

/// The device that the memory at `address` lies on. `None`: the driver does not say, or it is none that this process sees.
pub(crate) fn device_at(address: u64) -> Option<CUdevice> {
    let device = address_attribute(address, CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)?;
    CUdevice::try_from(device).ok()
}

/// An attribute of an address that has 32 bits. `None`: the driver does not know the address.
#[inline(never)]
pub(crate) fn address_attribute(address: u64, attribute: CUpointer_attribute) -> Option<u32> {
    let mut value = 0_u32;
    let call = real::cuPointerGetAttribute.get();
    // SAFETY: it fills 32 bits; an address that is none of the driver's is an error.
    let status = outside_captures(|| unsafe { call((&raw mut value).cast(), attribute, address) });
    succeeded(status).then_some(value)
}

/// An attribute of a pool that is a number of bytes.
#[inline]
pub(crate) fn pool_bytes(pool: CUmemoryPool, attribute: CUmemPool_attribute) -> Option<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the attribute is a `cuuint64_t`; it fills one.
    succeeded(unsafe { real::cuMemPoolGetAttribute.get()(pool, attribute, (&raw mut bytes).cast()) })
        .then_some(bytes)
}

/// Bytes that graphs hold on a device and bytes of it in use, as the driver says; asking ruins no capture.
pub(crate) fn graph_bytes(device: CUdevice) -> Option<(u64, u64)> {
    let ask = |attribute| {
        let mut bytes = 0_u64;
        let call = real::cuDeviceGetGraphMemAttribute.get();
        // SAFETY: the attribute is a `cuuint64_t`; it fills one.
        succeeded(unsafe { call(device, attribute, (&raw mut bytes).cast()) }).then_some(bytes)
    };
    let reserved = ask(CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT);
    reserved.zip(ask(CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT))
}

/// An attribute of a device that is a number.
pub(crate) fn device_attribute(device: CUdevice, attribute: CUdevice_attribute) -> Option<u64> {
    let mut value = 0;
    // SAFETY: fills one int.
    let status = unsafe { real::cuDeviceGetAttribute.get()(&raw mut value, attribute, device) };
    succeeded(status).then_some(u64::try_from(value).ok()?)
}

/// Whether programs reach a device through NVIDIA's MPS server, as one to the GPU. A driver that does not know the attribute (before CUDA 12.4)
/// says no.
pub(crate) fn is_under_mps(ordinal: u32) -> bool {
    device_attribute(ordinal.cast_signed(), CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED)
        .is_some_and(|value| value != 0)
}

/// Lets a pool keep nothing that is freed.
pub(crate) fn let_pool_keep_nothing(pool: CUmemoryPool) {
    let (attribute, mut bytes) = (CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 0_u64);
    // SAFETY: the attribute is a `cuuint64_t`; it reads one.
    let _ = unsafe { real::cuMemPoolSetAttribute.get()(pool, attribute, (&raw mut bytes).cast()) };
}

/// Makes a pool the one that `cuMemAllocAsync` takes from on `device`.
pub(crate) fn set_pool(device: CUdevice, pool: CUmemoryPool) {
    // SAFETY: a live pool.
    let _ = unsafe { real::cuDeviceSetMemPool.get()(device, pool) };
}

/// Runs `act` with the thread's capture mode relaxed: a call that we make for ourselves while *any* thread captures
/// in global mode would fail with 900 and ruin the tenant's capture.
pub(crate) fn outside_captures<T>(act: impl FnOnce() -> T) -> T {
    let found = relax_mode();
    let result = act();
    exchange_mode(found);
    result
}

/// Calls a function of the driver's that ends or trims what this handle stands for, or what it can be given up to.
#[inline(never)]
pub(crate) fn give_up(function: *const c_void, handle: u64) {
    let call = Call::new(function, [handle, 0, 0]);
    outside_captures(|| call.make());
}

/// An event of `context`, or of the calling thread's current context, which is as it was afterwards.
pub(crate) fn new_event(context: Option<CUcontext>, flags: u32) -> Option<CUevent> {
    let current = current_context();
    let other = context.filter(|context| current != Some(*context));
    if other.is_some_and(|other| !set_current(other)) {
        return None;
    }
    let mut event = null_mut();
    // SAFETY: fills one handle.
    let made = succeeded(unsafe { real::cuEventCreate.get()(&raw mut event, flags) });
    if other.is_some() {
        // Without one before, it is off the thread's stack again.
        set_current(current.unwrap_or(null_mut()));
    }
    made.then_some(event)
}

/// Destroys an event of ours.
pub(crate) fn destroy_event(event: CUevent) {
    // SAFETY: an event that nobody uses any more; one that is none is an error.
    let _ = unsafe { real::cuEventDestroy_v2.get()(event) };
}

/// Records an event on a stream. `false`: the driver refuses, or is not there.
pub(crate) fn record_event(event: CUevent, stream: CUstream) -> bool {
    // SAFETY: an event of ours; a stream that is none is an error.
    succeeded(unsafe { real::cuEventRecord.get()(event, stream) })
}

/// What the driver says of what is in flight. In a host function it may say nothing: there nothing is ready.
#[inline(never)]
fn as_asked(status: CUresult) -> CUresult {
    if status == CUresult::CUDA_ERROR_NOT_PERMITTED { CUresult::CUDA_ERROR_NOT_READY } else { status }
}

/// Whether an event has been reached, as the driver says.
pub(crate) fn query_event(event: CUevent) -> CUresult {
    // SAFETY: an event of ours.
    as_asked(unsafe { real::cuEventQuery.get()(event) })
}

/// Whether all that was put on a stream has ended. One of which the driver does not say has, unless the calling thread has no context to
/// ask in, or is in a host function.
pub(crate) fn has_ended(stream: CUstream) -> bool {
    // SAFETY: a stream that is none is an error.
    let asked = outside_captures(|| unsafe { real::cuStreamQuery.get()(stream) });
    !matches!(as_asked(asked), CUresult::CUDA_ERROR_NOT_READY | CUresult::CUDA_ERROR_INVALID_CONTEXT)
}

/// From one event to another, ns of the GPU's clock; CUDA_ERROR_NOT_READY while not both are reached, or nothing is said.
pub(crate) fn elapsed_ns(from: CUevent, to: CUevent) -> Result<i64, CUresult> {
    let mut ms = 0_f32;
    // SAFETY: fills one number; events of ours.
    let status = unsafe { real::cuEventElapsedTime.get()(&raw mut ms, from, to) };
    #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest whole number")]
    if succeeded(status) { Ok((f64::from(ms) * 1e6) as i64) } else { Err(as_asked(status)) }
}

/// Answers for the driver, in tests.
#[cfg(test)]
pub(crate) fn stand_in_for_elapsed(elapsed: unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult) {
    real::cuEventElapsedTime.stand_in(elapsed as *mut core::ffi::c_void);
}

/// What is known of a stream and captures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Capturing {
    /// It does not capture.
    No,
    /// It does: what is put on it goes into a graph.
    Yes,
    /// The driver does not say.
    Unknown,
}

/// Whether a stream captures. Not for the legacy stream, which nobody may touch while a capture lives.
pub(crate) fn capturing(stream: CUstream) -> Capturing {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: fills one status.
    let asked = unsafe { real::cuStreamIsCapturing.get()(stream, &raw mut status) };
    match succeeded(asked) {
        true if status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Capturing::No,
        true => Capturing::Yes,
        false => Capturing::Unknown,
    }
}

/// The driver's number of the capture that a stream takes part in, which is no other's; 0: it takes part in none, or in one that is
/// ruined.
pub(crate) fn capture_of(stream: CUstream) -> u64 {
    let (mut status, mut number) = (CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, 0);
    // SAFETY: fills a status and a number.
    let asked = unsafe { real::cuStreamGetCaptureInfo.get()(stream, &raw mut status, &raw mut number) };
    let captures = status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if succeeded(asked) && captures { number } else { 0 }
}

/// Whether a stream waits for the legacy one, and that for it. One of which the driver does not say may.
pub(crate) fn is_blocking(stream: CUstream) -> bool {
    let mut flags = 0;
    // SAFETY: fills one number.
    let status = unsafe { real::cuStreamGetFlags.get()(stream, &raw mut flags) };
    !succeeded(status) || flags & CUstream_flags::CU_STREAM_NON_BLOCKING.0 == 0
}

/// The context that a stream belongs to.
pub(crate) fn context_of(stream: CUstream) -> Option<CUcontext> {
    let mut context = null_mut();
    // SAFETY: fills one handle.
    let status = unsafe { real::cuStreamGetCtx.get()(stream, &raw mut context) };
    succeeded(status).then_some(context)
}

/// What stands for a mode that is not known, and is not to be put back.
const NO_MODE: CUstreamCaptureMode = CUstreamCaptureMode(u32::MAX);

/// Relaxes the calling thread's capture mode; the one that it was in.
#[inline(never)]
fn relax_mode() -> CUstreamCaptureMode {
    exchange_mode(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
}

/// Puts the calling thread into a capture mode; the one that it was in.
#[inline(never)]
fn exchange_mode(mut mode: CUstreamCaptureMode) -> CUstreamCaptureMode {
    let exchange = real::cuThreadExchangeStreamCaptureMode.get();
    // SAFETY: swaps one mode for another.
    if mode == NO_MODE || !succeeded(unsafe { exchange(&raw mut mode) }) { NO_MODE } else { mode }
}

fn answered(status: Option<nvmlReturn_t>) -> Result<(), u32> {
    match status {
        Some(nvmlReturn_t::NVML_SUCCESS) => Ok(()),
        Some(error) => Err(error.0),
        None => Err(NO_LIBRARY),
    }
}

/// Initialises NVML; it counts, so the program's own `nvmlShutdown` does not end it for us.
///
/// # Errors
/// NVML's error number, here and below.
pub(crate) fn nvml_init() -> Result<(), u32> {
    // SAFETY: takes nothing.
    answered(real::nvmlInit_v2.find().map(|call| unsafe { call() }))
}

/// NVML's handle of the device with this NUL-terminated UUID.
pub(crate) fn nvml_device(uuid: &[u8; 96]) -> Result<nvmlDevice_t, u32> {
    let mut device = null_mut();
    let call = real::nvmlDeviceGetHandleByUUID.find();
    // SAFETY: a C string, and one handle to fill.
    answered(call.map(|call| unsafe { call(uuid.as_ptr().cast(), &raw mut device) }))?;
    Ok(device)
}

/// NVML's handle of the device with this number.
pub(crate) fn nvml_device_at(number: u32) -> Result<nvmlDevice_t, u32> {
    let mut device = null_mut();
    let call = real::nvmlDeviceGetHandleByIndex_v2.find();
    // SAFETY: one handle to fill.
    answered(call.map(|call| unsafe { call(number, &raw mut device) }))?;
    Ok(device)
}

/// Writes the UUID of an NVML device, NUL-terminated, into `text`.
pub(crate) fn nvml_uuid(device: nvmlDevice_t, text: &mut [u8; 96]) -> Result<(), u32> {
    let call = real::nvmlDeviceGetUUID.find();
    // SAFETY: NVML writes at most 96 bytes, NUL included.
    answered(call.map(|call| unsafe { call(device, text.as_mut_ptr().cast::<c_char>(), 96) }))
}

/// Fills `room` with the processes that have a context on `device`; how many there are.
pub(crate) fn nvml_processes(
    device: nvmlDevice_t,
    room: &mut [core::mem::MaybeUninit<nvmlProcessInfo_t>],
) -> Result<usize, u32> {
    let mut count = u32::try_from(room.len()).unwrap_or(u32::MAX);
    let call = nvmlDeviceGetComputeRunningProcesses_v3::REAL.find();
    // SAFETY: NVML writes at most `count` entries, and their number to `count`.
    answered(call.map(|call| unsafe { call(device, &raw mut count, room.as_mut_ptr().cast()) }))?;
    Ok((count as usize).min(room.len()))
}

/// Bytes that are taken on `device`, by whomever, without what the driver keeps for itself. 0 where NVML does not say.
pub(crate) fn nvml_used(device: nvmlDevice_t) -> u64 {
    let mut memory = nvmlMemory_v2_t { version: nvmlMemory_v2, total: 0, reserved: 0, free: 0, used: 0 };
    if let Some(call) = nvmlDeviceGetMemoryInfo_v2::REAL.find() {
        // SAFETY: fills one structure, of the version that it says.
        let _ = unsafe { call(device, &raw mut memory) };
    }
    memory.used
}
