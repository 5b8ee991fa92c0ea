//! OH-005: what it costs that a call is intercepted, on calls that do no GPU work.

use std::ffi::{CStr, c_void};
use std::ptr;

use anyhow::{Context, Result};
use cudarc::driver::sys;

use super::in_process::{Plan, alternate};
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Both, CudaError, Functions, Gpu, check};
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
    in_process: &["cuDeviceTotalMem: added by the hook, in process"],
    comparison: Comparison::AddedToNative,
    method: "time a call in batches of up to 10^6 calls that take 20 ms or more where they can; cuMemGetInfo apart, since it does ask the device; cuCtxGetDevice as a control that nobody needs to intercept; added by the hook: the function as found and the driver's own in alternating blocks, median over quads of blocks",
    presumes: Presumes::Nothing,
};

/// The most calls in a batch.
const BATCH_CALLS: u64 = 1_000_000;
/// The time that a batch should take.
const BATCH_NS: u64 = 20_000_000;
/// Batches; the median is the sample.
const BATCHES: usize = 5;
/// Quads of blocks of the comparison in process, two blocks of either side each.
const QUADS: usize = 500;
/// What it may take for a function, once it has a fifth of them.
const QUADS_NS: u64 = 60_000_000;
/// Calls in a block.
const BLOCK_CALLS: usize = 200;

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
        add_in_process(tenant, gpu.device.handle, &mut work)?;
        Ok(work)
    }
}

/// The same functions, as found and the driver's own, in alternating blocks.
fn add_in_process(tenant: &Tenant<'_>, device: sys::CUdevice, work: &mut Work) -> Result<()> {
    let both = Both::<Functions>::find()?;
    let mut record = |name: &str, call: &mut dyn FnMut(&Functions) -> u32| -> Result<()> {
        let quads = tenant.request.effort.calls(QUADS);
        let plan = Plan { quads, fewest: quads / 5, warm_up: 4, budget_ns: QUADS_NS, calls: BLOCK_CALLS };
        let all = alternate(plan, |side| {
            let functions = both.of(side);
            let from_ns = now_ns();
            for _ in 0..BLOCK_CALLS {
                check("the compared function", call(functions))?;
            }
            Ok([(now_ns() - from_ns) as f64 / BLOCK_CALLS as f64])
        });
        let added = all.with_context(|| name.to_owned())?.added(0, "ns", 1.0);
        work.series.extend(added.map(|added| (format!("{name}: added by the hook, in process"), added)));
        Ok(())
    };
    let (mut bytes, mut total, mut number, mut address) = (0, 0, 0, ptr::null_mut());
    // SAFETY: in each call all outputs are writable, the driver is initialised and a context is current; for the look-up
    // see `look_up`.
    unsafe {
        record(INFO.headline, &mut |functions| (functions.cuDeviceTotalMem_v2)(&raw mut bytes, device))?;
        for symbol in [c"cuMemAlloc", c"cuCtxGetDevice"] {
            let name = format!("cuGetProcAddress of {}", symbol.to_string_lossy());
            record(&name, &mut |functions| {
                let address = &raw mut address;
                (functions.cuGetProcAddress_v2)(symbol.as_ptr(), address, 12_000, 0, ptr::null_mut())
            })?;
        }
        record("cuCtxGetDevice (control)", &mut |functions| (functions.cuCtxGetDevice)(&raw mut number))?;
        record("cuMemGetInfo (apart)", &mut |functions| {
            (functions.cuMemGetInfo_v2)(&raw mut bytes, &raw mut total)
        })
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
        calls: usize::try_from(calls).unwrap_or(usize::MAX) * BATCHES,
        ..Measure::single(stats::median(&means_ns).unwrap_or(f64::NAN), "ns")
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
    use super::*;

    #[test]
    fn a_batch_has_at_most_a_million_calls_however_short_they_are() {
        assert!(calls_for_batch(&mut || Ok(())).unwrap() <= BATCH_CALLS);
    }

    #[test]
    fn the_first_call_that_fails_ends_the_batch() {
        let mut calls = 0;
        let error = CudaError { call: "cuDeviceTotalMem_v2", code: 101 };
        let result = batches(|| {
            calls += 1;
            if calls == 3 { Err(error) } else { Ok(()) }
        });
        assert_eq!(result, Err(error));
        assert_eq!(calls, 3);
    }
}
