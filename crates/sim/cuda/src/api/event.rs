//! Events.

use super::put;
use cuota_abi::cuda::{CUevent, CUstream};
use cuota_sim::driver::Driver;
use cuota_sim::error::{Answer, Fault};
use std::ffi::c_uint;

/// `CU_EVENT_RECORD_EXTERNAL`: a node of a graph rather than an edge, which the model has not.
const RECORD_EXTERNAL: c_uint = 1;

fn record(event: CUevent, stream: CUstream, per_thread: bool) -> Answer<()> {
    let driver = Driver::get()?;
    let stream = driver.hesitate(|driver| driver.stream(stream as u64, per_thread))?;
    driver.record_event(event as u64, stream)
}

unsafe fn elapsed(milliseconds: *mut f32, start: CUevent, end: CUevent) -> Answer<()> {
    // SAFETY: null or valid by the caller's word.
    unsafe { put(milliseconds, Driver::get()?.elapsed_ms(start as u64, end as u64)?) }
}

driver_api! {
    fn cuEventCreate(phEvent: *mut CUevent, Flags: c_uint) {
        if phEvent.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(phEvent, Driver::get()?.create_event(Flags)? as CUevent)
    }

    fn cuEventDestroy(hEvent: CUevent) {
        Driver::get()?.destroy_event(hEvent as u64)
    }

    fn cuEventDestroy_v2(hEvent: CUevent) {
        Driver::get()?.destroy_event(hEvent as u64)
    }

    fn cuEventQuery(hEvent: CUevent) {
        Driver::get()?.query_event(hEvent as u64)
    }

    fn cuEventSynchronize(hEvent: CUevent) {
        Driver::get()?.synchronize_event(hEvent as u64)
    }

    fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        elapsed(pMilliseconds, hStart, hEnd)
    }

    fn cuEventElapsedTime_v2(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        elapsed(pMilliseconds, hStart, hEnd)
    }
}

twin_api! {
    fn cuEventRecord | cuEventRecord_ptsz(per_thread; hEvent: CUevent, hStream: CUstream) {
        record(hEvent, hStream, per_thread)
    }

    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(
        per_thread;
        hEvent: CUevent,
        hStream: CUstream,
        flags: c_uint,
    ) {
        match flags {
            0 => record(hEvent, hStream, per_thread),
            RECORD_EXTERNAL => Err(Fault::NotSupported),
            _ => Err(Fault::InvalidValue),
        }
    }
}
