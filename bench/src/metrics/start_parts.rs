//! The parts of the start of a CUDA program to which a system can add: small differences that the start as a whole, with
//! 10 ms of noise a process, cannot show.

use std::ptr;

use anyhow::{Context, Result};

use super::in_process::{Plan, alternate};
use crate::clock::now_ns;
use crate::gpu::{Both, CudaError, Functions, Side, as_a_program_finds_them, check};
use crate::worker::{Measure, Tenant, Work};

/// From exec to the start of `main`.
pub(super) const TO_MAIN: &str = "exec to main";
/// `dlopen` of the driver and `dlsym` of a few functions.
const OPENING: &str = "open the driver, look functions up";
/// What the system adds, for each part; their sum is what it adds to the start.
pub(super) const PART_NAMES: [&str; 6] = [
    "part: exec to main",
    "part: open the driver, look functions up",
    "part: first cuInit",
    "part: first call, which joins",
    "part: first booking",
    "part: cuCtxCreate",
];

/// The part's name of what is added to `name`.
pub(super) fn part(name: &str) -> String {
    format!("part: {name}")
}

/// The started program: opens the driver as a program does.
pub(super) fn open() -> Result<Work> {
    let from_ns = now_ns();
    as_a_program_finds_them::<Functions>()?;
    let took_ns = now_ns() - from_ns;
    let mut work = Work::default();
    work.series.insert(OPENING.to_owned(), Measure::single(took_ns as f64 / 1e3, "µs"));
    Ok(work)
}

/// The started program: what the first calls of a process cost more than the second ones, where the driver itself has
/// done its part already: its own functions are called before.
pub(super) fn first_calls(tenant: &Tenant<'_>) -> Result<Work> {
    let both = Both::<Functions>::find()?;
    let mut work = Work::default();
    let mut record = |name: &str, first_us: f64| {
        work.series.insert(name.to_owned(), Measure { calls: 2, ..Measure::difference(first_us, "µs") });
    };
    let init = |functions: &Functions| {
        // SAFETY: 0 is the only flag value that cuInit defines; a second call does nothing.
        check("cuInit", unsafe { (functions.cuInit)(0) })
    };
    init(both.of(Side::Own))?;
    record(PART_NAMES[2], first_less_second_us(tenant, &both, init)?);
    let device = device(tenant, &both)?;
    let mut bytes = 0;
    let total = |functions: &Functions| {
        let bytes = &raw mut bytes;
        // SAFETY: `bytes` is writable, the driver is initialised and the device is its own.
        check("cuDeviceTotalMem_v2", unsafe { (functions.cuDeviceTotalMem_v2)(bytes, device) })
    };
    record(PART_NAMES[3], first_less_second_us(tenant, &both, total)?);
    record(PART_NAMES[4], first_less_second_us(tenant, &both, |functions| no_context(functions, device))?);
    Ok(work)
}

/// Asks for a context with flags that no context has: a system that books memory for contexts does so before it asks the
/// driver, which refuses at once. So what the first booking of a process costs is seen without the 100 ms of a context.
fn no_context(functions: &Functions, device: i32) -> Result<(), CudaError> {
    let mut context = ptr::null_mut();
    // SAFETY: `context` is writable and the driver is initialised.
    match check("cuCtxCreate_v2", unsafe { (functions.cuCtxCreate_v2)(&raw mut context, u32::MAX, device) }) {
        // SAFETY: the same side has just made it, whatever the flags.
        Ok(()) => check("cuCtxDestroy_v2", unsafe { (functions.cuCtxDestroy_v2)(context) }),
        Err(error) if error.is_out_of_memory() => Err(error),
        // How a driver calls such flags is its own affair.
        Err(_) => Ok(()),
    }
}

/// The first hooked call less the second, in µs, after the driver's own has been called twice.
fn first_less_second_us(
    tenant: &Tenant<'_>,
    both: &Both,
    mut call: impl FnMut(&Functions) -> Result<(), CudaError>,
) -> Result<f64> {
    for _ in 0..2 {
        call(both.of(Side::Own))?;
    }
    let mut times_ns = [0.0; 2];
    for time_ns in &mut times_ns {
        let (took_ns, result) = tenant.clock.time(|| call(both.of(Side::Hooked)));
        result?;
        *time_ns = took_ns;
    }
    Ok((times_ns[0] - times_ns[1]) / 1e3)
}

/// The started program: `cuCtxCreate` through the hook and the driver's own, by turns. The primary context lives
/// meanwhile, so that neither side pays for waking the device.
pub(super) fn context(tenant: &Tenant<'_>) -> Result<Work> {
    /// About half a second on an H100, and no less than two of either side.
    const PLAN: Plan = Plan { quads: 6, fewest: 1, warm_up: 0, budget_ns: 300_000_000, calls: 1 };
    let both = Both::<Functions>::find()?;
    let own = both.of(Side::Own);
    // SAFETY: as in `first_calls`.
    check("cuInit", unsafe { (own.cuInit)(0) })?;
    let device = device(tenant, &both)?;
    let mut primary = ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: the outputs are writable, the driver is initialised and the device is its own.
    unsafe {
        check("cuDevicePrimaryCtxRetain", (own.cuDevicePrimaryCtxRetain)(&raw mut primary, device))?;
        // Joins, so that the first context does not.
        let hooked = both.of(Side::Hooked);
        check("cuDeviceTotalMem_v2", (hooked.cuDeviceTotalMem_v2)(&raw mut bytes, device))?;
    }
    let all = alternate(PLAN, |side| {
        let functions = both.of(side);
        let mut context = ptr::null_mut();
        let (took_ns, created) = tenant.clock.time(|| {
            // SAFETY: `context` is writable and the driver is initialised.
            check("cuCtxCreate_v2", unsafe { (functions.cuCtxCreate_v2)(&raw mut context, 0, device) })
        });
        created?;
        // SAFETY: the same side has just made it, and nothing is in it.
        check("cuCtxDestroy_v2", unsafe { (functions.cuCtxDestroy_v2)(context) })?;
        Ok([took_ns])
    });
    let all = all.context("contexts by turns")?;
    let mut work = Work::default();
    work.series.extend(all.hooked(0, "µs", 1e3).map(|measure| ("cuCtxCreate".to_owned(), measure)));
    work.series.extend(all.added(0, "µs", 1e3).map(|measure| (PART_NAMES[5].to_owned(), measure)));
    Ok(work)
}

fn device(tenant: &Tenant<'_>, both: &Both) -> Result<i32> {
    let mut device = 0;
    // SAFETY: `device` is writable and the driver is initialised.
    check("cuDeviceGet", unsafe {
        (both.of(Side::Own).cuDeviceGet)(&raw mut device, tenant.request.device)
    })?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_spawn_beside_spawn_has_the_names_of_parts() {
        assert_eq!([part(TO_MAIN), part(OPENING)], PART_NAMES[..2]);
    }
}
