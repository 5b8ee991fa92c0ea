//! OH-005: what it costs that a call is intercepted, on calls that do no GPU work.

use std::ffi::{CStr, c_void};
use std::ptr;

use anyhow::{Context, Result};
use cudarc::driver::sys;

use super::{Comparison, Info, Metric};
use crate::clock::now_ns;
use crate::gpu::{CudaError, Gpu, check};
use crate::stats::{self, Direction};
use crate::worker::{Measure, Tenant, Work};

/// Time of a call that is hooked and does nothing on the GPU.
pub(super) struct Interception;

static INFO: Info = Info {
    id: "OH-005",
    name: "API interception",
    unit: "ns",
    direction: Direction::Lower,
    headline: "cuDeviceTotalMem",
    comparison: Comparison::AddedToNative,
    method: "time a call in batches of up to 10^6 calls that take 40 ms or more where they can; cuMemGetInfo apart, since it does ask the device; cuCtxGetDevice as a control that nobody needs to intercept",
};

/// The most calls in a batch.
const BATCH_CALLS: u64 = 1_000_000;
/// The time that a batch should take.
const BATCH_NS: u64 = 40_000_000;
/// Batches; the median is the sample.
const BATCHES: usize = 5;

impl Metric for Interception {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let mut work = Work::default();
        let mut record = |name: &str, measure: Result<Measure, CudaError>| -> Result<()> {
            work.series.insert(name.to_owned(), measure.with_context(|| name.to_owned())?);
            Ok(())
        };
        let mut bytes = 0_usize;
        record(
            INFO.headline,
            batches(|| {
                // SAFETY: `bytes` is writable and the driver is initialised.
                check("cuDeviceTotalMem_v2", unsafe {
                    sys::cuDeviceTotalMem_v2(&raw mut bytes, gpu.device.handle)
                })
            }),
        )?;
        record("cuGetProcAddress of cuMemAlloc", batches(|| look_up(c"cuMemAlloc")))?;
        record("cuGetProcAddress of cuCtxGetDevice", batches(|| look_up(c"cuCtxGetDevice")))?;
        let mut device = 0;
        record(
            "cuCtxGetDevice (control)",
            batches(|| {
                // SAFETY: `device` is writable.
                check("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&raw mut device) })
            }),
        )?;
        let (mut free, mut total) = (0_usize, 0_usize);
        record(
            "cuMemGetInfo (apart)",
            batches(|| {
                // SAFETY: both are writable and a context is current.
                check("cuMemGetInfo_v2", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })
            }),
        )?;
        Ok(work)
    }
}

fn look_up(symbol: &CStr) -> Result<(), CudaError> {
    let mut address: *mut c_void = ptr::null_mut();
    // SAFETY: the symbol is NUL-terminated, the address is writable, and the status may be NULL (CUDA driver API,
    // cuGetProcAddress). 12000 is the version that the `_v2` form came with, 0 the legacy stream mode.
    check("cuGetProcAddress_v2", unsafe {
        sys::cuGetProcAddress_v2(symbol.as_ptr(), &raw mut address, 12_000, 0, ptr::null_mut())
    })
}

/// The median over batches of the mean nanoseconds a call. The first call that fails ends it.
fn batches(mut call: impl FnMut() -> Result<(), CudaError>) -> Result<Measure, CudaError> {
    let calls = calls_for_batch(&mut call)?;
    let mut means_ns = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        means_ns.push(batch_ns(calls, &mut call)? as f64 / calls as f64);
    }
    Ok(Measure {
        value: stats::median(&means_ns).unwrap_or(f64::NAN),
        unit: "ns".to_owned(),
        p99: None,
        calls: usize::try_from(calls).unwrap_or(usize::MAX) * BATCHES,
    })
}

/// How many calls fill a batch, by doubling until one lasts a sixteenth of it; which warms up as well.
fn calls_for_batch(call: &mut impl FnMut() -> Result<(), CudaError>) -> Result<u64, CudaError> {
    let mut calls = 64;
    loop {
        let took_ns = batch_ns(calls, call)?.max(1);
        if took_ns >= BATCH_NS / 16 || calls >= BATCH_CALLS {
            return Ok((calls * BATCH_NS / took_ns).clamp(64, BATCH_CALLS));
        }
        calls *= 2;
    }
}

fn batch_ns(calls: u64, call: &mut impl FnMut() -> Result<(), CudaError>) -> Result<u64, CudaError> {
    let from_ns = now_ns();
    for _ in 0..calls {
        call()?;
    }
    Ok(now_ns() - from_ns)
}

#[cfg(test)]
mod tests {
    use cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn a_batch_has_at_most_a_million_calls_however_short_they_are() {
        assert!(calls_for_batch(&mut || Ok(())).unwrap() <= BATCH_CALLS);
    }

    #[test]
    fn the_first_call_that_fails_ends_the_batch() {
        let mut calls = 0;
        let error = CudaError { call: "cuDeviceTotalMem_v2", result: CUresult::CUDA_ERROR_INVALID_DEVICE };
        let result = batches(|| {
            calls += 1;
            if calls == 3 { Err(error) } else { Ok(()) }
        });
        assert_eq!(result, Err(error));
        assert_eq!(calls, 3);
    }
}
