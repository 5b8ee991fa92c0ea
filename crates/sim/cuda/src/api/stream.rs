//! Streams, and what they can be asked to wait for or to call.

use super::{put, put_if_asked};
use cuota_abi::cuda::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUgreenCtx, CUhostFn, CUresult, CUstream, CUstreamCallback,
    cuuint32_t, cuuint64_t,
};
use cuota_sim::driver::{Driver, Node};
use cuota_sim::engine::Comparison;
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

/// What the program gave for its own function to be called with. It says itself that another thread may use it.
#[derive(Clone, Copy)]
struct Argument(*mut c_void);

// SAFETY: `cuLaunchHostFunc` and `cuStreamAddCallback` document that the function runs on another thread.
unsafe impl Send for Argument {}
// SAFETY: as above.
unsafe impl Sync for Argument {}

impl Argument {
    fn get(self) -> *mut c_void {
        self.0
    }
}

/// A host function as a node of a stream or graph.
pub(super) fn host_node(function: CUhostFn, data: *mut c_void) -> Answer<Node> {
    let function = function.ok_or(Fault::InvalidValue)?;
    let data = Argument(data);
    // SAFETY: the program promises that the function may be called with its data when the stream reaches it.
    Ok(Node::Host(Arc::new(move || unsafe { function(data.get()) })))
}

/// The comparison that `CUstreamWaitValue_flags` name.
fn comparison(flags: c_uint) -> Answer<Comparison> {
    match flags & !(1 << 30) {
        0 => Ok(Comparison::AtLeast),
        1 => Ok(Comparison::Equal),
        2 => Ok(Comparison::And),
        3 => Ok(Comparison::Nor),
        _ => Err(Fault::InvalidValue),
    }
}

unsafe fn create(phStream: *mut CUstream, flags: c_uint, priority: c_int) -> Answer<()> {
    if phStream.is_null() {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(phStream, Driver::get()?.create_stream(flags, priority)? as CUstream) }
}

fn write_value(
    stream: CUstream,
    per_thread: bool,
    address: u64,
    value: u64,
    flags: c_uint,
    is_wide: bool,
) -> Answer<()> {
    if flags > 1 {
        return Err(Fault::InvalidValue);
    }
    let driver = Driver::get()?;
    driver.write_value(driver.stream(stream as u64, per_thread)?, address, value, is_wide)
}

fn wait_value(
    stream: CUstream,
    per_thread: bool,
    address: u64,
    value: u64,
    flags: c_uint,
    is_wide: bool,
) -> Answer<()> {
    let driver = Driver::get()?;
    driver.wait_value(driver.stream(stream as u64, per_thread)?, address, value, comparison(flags)?, is_wide)
}

driver_api! {
    fn cuStreamCreate(phStream: *mut CUstream, Flags: c_uint) {
        create(phStream, Flags, 0)
    }

    fn cuStreamCreateWithPriority(phStream: *mut CUstream, flags: c_uint, priority: c_int) {
        create(phStream, flags, priority)
    }

    fn cuStreamDestroy(hStream: CUstream) {
        Driver::get()?.destroy_stream(hStream as u64)
    }

    fn cuStreamDestroy_v2(hStream: CUstream) {
        Driver::get()?.destroy_stream(hStream as u64)
    }

    fn cuCtxSynchronize() {
        Driver::get()?.synchronize_context(0)
    }

    fn cuCtxSynchronize_v2(ctx: CUcontext) {
        Driver::get()?.synchronize_context(ctx as u64)
    }
}

twin_api! {
    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(per_thread; hStream: CUstream) {
        let driver = Driver::get()?;
        driver.synchronize_stream(driver.stream(hStream as u64, per_thread)?)
    }

    fn cuStreamQuery | cuStreamQuery_ptsz(per_thread; hStream: CUstream) {
        let driver = Driver::get()?;
        driver.query_stream(driver.stream(hStream as u64, per_thread)?)
    }

    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(per_thread; hStream: CUstream, hEvent: CUevent, Flags: c_uint) {
        if Flags > 1 {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        driver.wait_event(driver.stream(hStream as u64, per_thread)?, hEvent as u64)
    }

    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(per_thread; hStream: CUstream, flags: *mut c_uint) {
        let driver = Driver::get()?;
        put(flags, driver.stream_flags(driver.stream(hStream as u64, per_thread)?)?)
    }

    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(per_thread; hStream: CUstream, priority: *mut c_int) {
        put(priority, Driver::get()?.stream(hStream as u64, per_thread)?.priority)
    }

    fn cuStreamGetId | cuStreamGetId_ptsz(per_thread; hStream: CUstream, streamId: *mut c_ulonglong) {
        put(streamId, Driver::get()?.stream(hStream as u64, per_thread)?.id)
    }

    fn cuStreamGetDevice | cuStreamGetDevice_ptsz(per_thread; hStream: CUstream, device: *mut CUdevice) {
        put(device, Driver::get()?.stream(hStream as u64, per_thread)?.device as CUdevice)
    }

    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(per_thread; hStream: CUstream, pctx: *mut CUcontext) {
        put(pctx, Driver::get()?.stream(hStream as u64, per_thread)?.context as CUcontext)
    }

    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz(
        per_thread;
        hStream: CUstream,
        pCtx: *mut CUcontext,
        pGreenCtx: *mut CUgreenCtx,
    ) {
        let driver = Driver::get()?;
        let context = driver.stream(hStream as u64, per_thread)?.context;
        put_if_asked(pGreenCtx, driver.green_of(context) as CUgreenCtx);
        put(pCtx, context as CUcontext)
    }

    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(per_thread; hStream: CUstream, r#fn: CUhostFn, userData: *mut c_void) {
        let driver = Driver::get()?;
        driver.enqueue(driver.stream(hStream as u64, per_thread)?, host_node(r#fn, userData)?)
    }

    fn cuStreamAddCallback | cuStreamAddCallback_ptsz(
        per_thread;
        hStream: CUstream,
        callback: CUstreamCallback,
        userData: *mut c_void,
        flags: c_uint,
    ) {
        let callback = callback.filter(|_| flags == 0).ok_or(Fault::InvalidValue)?;
        let driver = Driver::get()?;
        let (stream, named) = (driver.stream(hStream as u64, per_thread)?, hStream as u64);
        let data = Argument(userData);
        let call = move || callback(named as CUstream, CUresult::CUDA_SUCCESS, data.get());
        driver.call_host(stream, Box::new(call))
    }

    fn cuStreamWriteValue32 | cuStreamWriteValue32_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint32_t,
        flags: c_uint,
    ) {
        write_value(stream, per_thread, addr, u64::from(value), flags, false)
    }

    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint32_t,
        flags: c_uint,
    ) {
        write_value(stream, per_thread, addr, u64::from(value), flags, false)
    }

    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint64_t,
        flags: c_uint,
    ) {
        write_value(stream, per_thread, addr, value, flags, true)
    }

    fn cuStreamWaitValue32 | cuStreamWaitValue32_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint32_t,
        flags: c_uint,
    ) {
        wait_value(stream, per_thread, addr, u64::from(value), flags, false)
    }

    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint32_t,
        flags: c_uint,
    ) {
        wait_value(stream, per_thread, addr, u64::from(value), flags, false)
    }

    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(
        per_thread;
        stream: CUstream,
        addr: CUdeviceptr,
        value: cuuint64_t,
        flags: c_uint,
    ) {
        wait_value(stream, per_thread, addr, value, flags, true)
    }
}
