//! Copies and fills of memory.

use cuota_abi::cuda::{CUcontext, CUdevice, CUdeviceptr, CUmemLocation, CUmemLocationType, CUstream};
use cuota_sim::driver::{Direction, Driver, Promise};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uchar, c_uint, c_ushort, c_void};

/// A copy of a number of bytes, and the default stream of whose thread it means by 0.
struct Copy {
    direction: Direction,
    bytes: usize,
    per_thread: bool,
}

impl Copy {
    fn in_stream(self, to: u64, from: u64, stream: CUstream, promise: Promise) -> Answer<()> {
        let driver = Driver::get()?;
        let stream = driver.stream(stream as u64, self.per_thread)?;
        driver.copy(self.direction, to, from, self.bytes as u64, stream, promise)
    }

    /// Returns when the copy is done.
    fn now(self, to: u64, from: u64) -> Answer<()> {
        self.in_stream(to, from, DEFAULT, Promise::Synchronous)
    }

    fn later(self, to: u64, from: u64, stream: CUstream) -> Answer<()> {
        self.in_stream(to, from, stream, Promise::Asynchronous)
    }
}

fn fill(to: u64, pattern: &[u8], count: usize, stream: CUstream, per_thread: bool) -> Answer<()> {
    let driver = Driver::get()?;
    let bytes = (pattern.len() as u64).saturating_mul(count as u64);
    driver.fill(to, pattern, bytes, driver.stream(stream as u64, per_thread)?)
}

/// Fills rows of `width` patterns, `pitch` bytes apart.
fn fill_rows(
    to: u64,
    pitch: usize,
    pattern: &[u8],
    size: (usize, usize),
    stream: CUstream,
    per_thread: bool,
) -> Answer<()> {
    (0..size.1 as u64).try_for_each(|row| {
        fill(to.saturating_add(row.saturating_mul(pitch as u64)), pattern, size.0, stream, per_thread)
    })
}

/// Moves managed memory. The model does it at once, before the work that the stream holds.
fn prefetch(
    address: u64,
    bytes: usize,
    device: Option<c_int>,
    stream: CUstream,
    per_thread: bool,
) -> Answer<()> {
    let driver = Driver::get()?;
    driver.check_not_capturing(driver.stream(stream as u64, per_thread)?)?;
    let device = device.map(|number| Ok(driver.gpu(number)?.ordinal())).transpose()?;
    driver.prefetch(address, bytes as u64, device)
}

const DEFAULT: CUstream = std::ptr::null_mut();

twin_api! {
    fn cuMemcpy | cuMemcpy_ptds(per_thread; dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize) {
        Copy { direction: Direction::Any, bytes: ByteCount, per_thread }.now(dst, src)
    }

    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(
        per_thread;
        dstDevice: CUdeviceptr,
        srcHost: *const c_void,
        ByteCount: usize,
    ) {
        Copy { direction: Direction::ToDevice, bytes: ByteCount, per_thread }.now(dstDevice, srcHost as u64)
    }

    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(
        per_thread;
        dstHost: *mut c_void,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
    ) {
        Copy { direction: Direction::FromDevice, bytes: ByteCount, per_thread }.now(dstHost as u64, srcDevice)
    }

    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(
        per_thread;
        dstDevice: CUdeviceptr,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
    ) {
        // Between two places of the device the call does not wait, as in CUDA.
        Copy { direction: Direction::OnDevice, bytes: ByteCount, per_thread }.later(dstDevice, srcDevice, DEFAULT)
    }

    fn cuMemcpyPeer | cuMemcpyPeer_ptds(
        per_thread;
        dstDevice: CUdeviceptr,
        _dstContext: CUcontext,
        srcDevice: CUdeviceptr,
        _srcContext: CUcontext,
        ByteCount: usize,
    ) {
        Copy { direction: Direction::OnDevice, bytes: ByteCount, per_thread }.later(dstDevice, srcDevice, DEFAULT)
    }

    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(
        per_thread;
        dst: CUdeviceptr,
        src: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        Copy { direction: Direction::Any, bytes: ByteCount, per_thread }.later(dst, src, hStream)
    }

    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        srcHost: *const c_void,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        Copy { direction: Direction::ToDevice, bytes: ByteCount, per_thread }.later(dstDevice, srcHost as u64, hStream)
    }

    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(
        per_thread;
        dstHost: *mut c_void,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        Copy { direction: Direction::FromDevice, bytes: ByteCount, per_thread }.later(dstHost as u64, srcDevice, hStream)
    }

    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        srcDevice: CUdeviceptr,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        Copy { direction: Direction::OnDevice, bytes: ByteCount, per_thread }.later(dstDevice, srcDevice, hStream)
    }

    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        _dstContext: CUcontext,
        srcDevice: CUdeviceptr,
        _srcContext: CUcontext,
        ByteCount: usize,
        hStream: CUstream,
    ) {
        Copy { direction: Direction::OnDevice, bytes: ByteCount, per_thread }.later(dstDevice, srcDevice, hStream)
    }

    fn cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz(
        per_thread;
        devPtr: CUdeviceptr,
        count: usize,
        dstDevice: CUdevice,
        hStream: CUstream,
    ) {
        // `CU_DEVICE_CPU` is -1.
        prefetch(devPtr, count, Some(dstDevice).filter(|&d| d != -1), hStream, per_thread)
    }

    fn cuMemPrefetchAsync_v2 | cuMemPrefetchAsync_v2_ptsz(
        per_thread;
        devPtr: CUdeviceptr,
        count: usize,
        location: CUmemLocation,
        flags: c_uint,
        hStream: CUstream,
    ) {
        if flags != 0 {
            return Err(Fault::InvalidValue);
        }
        let on_device = location.type_ == CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        let device = on_device.then(|| super::pool::location_id(&location));
        prefetch(devPtr, count, device, hStream, per_thread)
    }

    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(per_thread; dstDevice: CUdeviceptr, uc: c_uchar, N: usize) {
        fill(dstDevice, &[uc], N, DEFAULT, per_thread)
    }

    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(per_thread; dstDevice: CUdeviceptr, us: c_ushort, N: usize) {
        fill(dstDevice, &us.to_ne_bytes(), N, DEFAULT, per_thread)
    }

    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(per_thread; dstDevice: CUdeviceptr, ui: c_uint, N: usize) {
        fill(dstDevice, &ui.to_ne_bytes(), N, DEFAULT, per_thread)
    }

    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        uc: c_uchar,
        N: usize,
        hStream: CUstream,
    ) {
        fill(dstDevice, &[uc], N, hStream, per_thread)
    }

    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        us: c_ushort,
        N: usize,
        hStream: CUstream,
    ) {
        fill(dstDevice, &us.to_ne_bytes(), N, hStream, per_thread)
    }

    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        ui: c_uint,
        N: usize,
        hStream: CUstream,
    ) {
        fill(dstDevice, &ui.to_ne_bytes(), N, hStream, per_thread)
    }

    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(
        per_thread;
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        uc: c_uchar,
        Width: usize,
        Height: usize,
    ) {
        fill_rows(dstDevice, dstPitch, &[uc], (Width, Height), DEFAULT, per_thread)
    }

    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(
        per_thread;
        dstDevice: CUdeviceptr,
        dstPitch: usize,
        uc: c_uchar,
        Width: usize,
        Height: usize,
        hStream: CUstream,
    ) {
        fill_rows(dstDevice, dstPitch, &[uc], (Width, Height), hStream, per_thread)
    }
}
