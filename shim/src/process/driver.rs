//! What we ask the driver for ourselves: functions that are not hooked, found in the library that is loaded.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use cuota_abi::cuda::{
    CUcontext, CUdevice, CUmemPool_attribute, CUmemoryPool, CUresult, CUstreamCaptureMode, CUuuid,
};
use cuota_abi::nvml::{nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};

use crate::interpose::driver::Library;
use crate::interpose::glibc::Glibc;

/// The address of a function of the driver, or null. `place` remembers it.
#[cold]
fn find(library: Library, name: &CStr, place: &AtomicPtr<c_void>) -> *mut c_void {
    let handle = if library.attach() { library.handle() } else { None };
    let Some((glibc, handle)) = Glibc::get().zip(handle) else { return null_mut() };
    // SAFETY: glibc's own `dlsym`, with a handle that stays open and a C string.
    let address = unsafe { (glibc.dlsym)(handle, name.as_ptr()) };
    place.store(address, Ordering::Release);
    address
}

/// Declares functions of the driver: each becomes a Rust function that returns `None` where the driver lacks it.
macro_rules! driver_functions {
    ($($library:ident $symbol:ident as $name:ident($($arg:ident: $ty:ty),*) -> $status:ty;)*) => {$(
        #[doc = concat!("The driver's `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the driver's function.
        #[inline]
        pub(crate) unsafe fn $name($($arg: $ty),*) -> Option<$status> {
            static PLACE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
            let mut address = PLACE.load(Ordering::Acquire);
            if address.is_null() {
                // SAFETY: the NUL that is written here ends the literal.
                let name = unsafe {
                    CStr::from_bytes_with_nul_unchecked(concat!(stringify!($symbol), "\0").as_bytes())
                };
                address = find(Library::$library, name, &PLACE);
                if address.is_null() {
                    return None;
                }
            }
            // SAFETY: the symbol's address; the type is that of NVIDIA's header.
            let function: unsafe extern "C" fn($($ty),*) -> $status = unsafe { core::mem::transmute(address) };
            // SAFETY: the caller's contract.
            Some(unsafe { function($($arg),*) })
        }
    )*};
}

driver_functions! {
    Cuda cuDeviceGetCount as device_get_count(count: *mut c_int) -> CUresult;
    Cuda cuDeviceGetUuid_v2 as device_get_uuid(uuid: *mut CUuuid, device: CUdevice) -> CUresult;
    Cuda cuCtxGetDevice as ctx_get_device(device: *mut CUdevice) -> CUresult;
    Cuda cuCtxGetCurrent as ctx_get_current(context: *mut CUcontext) -> CUresult;
    Cuda cuDevicePrimaryCtxGetState as primary_get_state(device: CUdevice, flags: *mut c_uint, active: *mut c_int) -> CUresult;
    Cuda cuMemPoolGetAttribute as pool_get_attribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void) -> CUresult;
    Cuda cuThreadExchangeStreamCaptureMode as exchange_capture_mode(mode: *mut CUstreamCaptureMode) -> CUresult;
    Nvml nvmlInit_v2 as nvml_init() -> nvmlReturn_t;
    Nvml nvmlDeviceGetHandleByUUID as nvml_device_by_uuid(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t;
    Nvml nvmlDeviceGetUUID as nvml_device_uuid(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t;
    Nvml nvmlDeviceGetComputeRunningProcesses_v3 as nvml_compute_processes(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t) -> nvmlReturn_t;
}

fn succeeded(status: Option<CUresult>) -> bool {
    status == Some(CUresult::CUDA_SUCCESS)
}

/// How many devices there are; `None` before `cuInit`.
pub(crate) fn device_count() -> Option<u32> {
    let mut count = 0;
    // SAFETY: fills one int.
    succeeded(unsafe { device_get_count(&raw mut count) }).then_some(u32::try_from(count).ok()?)
}

/// A device's UUID; that of the MIG instance where there is one.
pub(crate) fn device_uuid(device: CUdevice) -> Option<[u8; 16]> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: fills one UUID.
    let known = succeeded(unsafe { device_get_uuid(&raw mut uuid, device) });
    known.then(|| uuid.bytes.map(|byte| byte.to_le_bytes()[0]))
}

/// The device of the calling thread's current context.
#[inline]
pub(crate) fn current_device() -> Option<CUdevice> {
    let mut device = 0;
    // SAFETY: fills one device.
    succeeded(unsafe { ctx_get_device(&raw mut device) }).then_some(device)
}

/// The calling thread's current context.
#[inline]
pub(crate) fn current_context() -> Option<CUcontext> {
    let mut context = null_mut();
    // SAFETY: fills one handle.
    succeeded(unsafe { ctx_get_current(&raw mut context) }).then_some(context).filter(|context| !context.is_null())
}

/// Whether a device's primary context exists.
pub(crate) fn primary_is_active(device: CUdevice) -> bool {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: fills two ints.
    succeeded(unsafe { primary_get_state(device, &raw mut flags, &raw mut active) }) && active != 0
}

/// An attribute of a pool that is a number of bytes.
#[inline]
pub(crate) fn pool_bytes(pool: CUmemoryPool, attribute: CUmemPool_attribute) -> Option<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the attribute is a `cuuint64_t`; it fills one.
    succeeded(unsafe { pool_get_attribute(pool, attribute, (&raw mut bytes).cast()) }).then_some(bytes)
}

/// Runs `act` with the thread's capture mode relaxed: a call that we make for ourselves while *any* thread captures
/// in global mode would fail with 900 and ruin the tenant's capture.
pub(crate) fn outside_captures<T>(act: impl FnOnce() -> T) -> T {
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: swaps one mode for another.
    let swapped = succeeded(unsafe { exchange_capture_mode(&raw mut mode) });
    let result = act();
    if swapped {
        // SAFETY: as above; the mode that was found goes back.
        let _ = unsafe { exchange_capture_mode(&raw mut mode) };
    }
    result
}
