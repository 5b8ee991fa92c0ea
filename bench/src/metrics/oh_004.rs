//! OH-004: what starting a process costs. One process under the system, which does not touch CUDA itself, starts fresh
//! programs as any tenant does: so the system's own launching command, which is run once a tenant, is not in the figure.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::ptr;

use anyhow::{Context, Result, bail};
use cudarc::driver::sys;

use super::{Comparison, Info, Metric};
use crate::clock::now_ns;
use crate::gpu::{Device, Gpu, Touch, check};
use crate::stats::Direction;
use crate::worker::{Measure, Reply, Request, Tenant, Work};

/// Time from exec to the first finished kernel, and its parts.
pub(super) struct ProcessStart;

static INFO: Info = Info {
    id: "OH-004",
    name: "Process start and context creation",
    unit: "µs",
    direction: Direction::Lower,
    headline: "exec to first kernel done",
    comparison: Comparison::AddedToNative,
    method: "fresh processes started by a tenant: exec to main, cuInit, primary context, exec to first kernel done, cuCtxCreate; and exec to exit of `true`, which never touches CUDA",
};

/// CUDA programs that one sample starts; their median is the sample.
const CUDA_STARTS: usize = 4;
/// Starts of `true` in one sample.
const TRUE_STARTS: usize = 400;

/// A started program that uses the primary context up to its first kernel.
const PRIMARY: &str = "primary";
/// A started program that creates a context of its own.
const CREATE: &str = "create";

impl Metric for ProcessStart {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        match tenant.request.variant.as_str() {
            PRIMARY => first_kernel(tenant.request),
            CREATE => own_context(tenant),
            _ => start_programs(tenant.request),
        }
    }
}

/// The tenant that starts the others.
fn start_programs(request: &Request) -> Result<Work> {
    let mut work = Work::default();
    let mut true_ns = Vec::new();
    let calls = request.effort.calls(TRUE_STARTS);
    for _ in 0..calls {
        true_ns.push(start_true()?);
    }
    work.series
        .extend(Measure::of_calls_us(&true_ns).map(|measure| ("exec to exit of `true`".to_owned(), measure)));
    let starts = request.effort.calls(CUDA_STARTS).max(2);
    for variant in [PRIMARY, CREATE] {
        let replies = (0..starts).map(|_| start_worker(request, variant)).collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = replies[0].series.keys().cloned().collect();
        for name in names {
            let values_ns: Vec<f64> =
                replies.iter().filter_map(|reply| reply.series.get(&name)).map(|m| m.value * 1e3).collect();
            work.series.extend(Measure::of_calls_us(&values_ns).map(|measure| (name.clone(), measure)));
        }
    }
    Ok(work)
}

/// Nanoseconds from starting `true` to having waited for it.
fn start_true() -> Result<f64> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let from_ns = now_ns();
    let status = command.status().context("`/bin/true` could not be started")?;
    let took_ns = now_ns() - from_ns;
    if !status.success() {
        bail!("`/bin/true` ended with {status}");
    }
    Ok(took_ns as f64)
}

/// Starts this binary again, for `variant`, and adds the time from exec to the start of its `main`.
fn start_worker(request: &Request, variant: &str) -> Result<Work> {
    let reply = request.reply.with_extension("started");
    let inner = Request { variant: variant.to_owned(), reply: reply.clone(), ..request.clone() };
    let mut command = Command::new(env::current_exe()?);
    command.arg("worker").arg(serde_json::to_string(&inner)?);
    let from_ns = now_ns();
    let output = command.output().context("the started program")?;
    let text = fs::read(&reply).with_context(|| {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        format!("the started program ended with {} and no reply; its last words: {words}", output.status)
    })?;
    fs::remove_file(&reply)?;
    let reply: Reply = serde_json::from_slice(&text)?;
    let mut work = reply.outcome.map_err(anyhow::Error::msg)?;
    let since_us = |at_ns: u64| at_ns.saturating_sub(from_ns) as f64 / 1e3;
    if variant == PRIMARY {
        work.series.insert("exec to main".to_owned(), Measure::single(since_us(reply.started_ns), "µs"));
        let done = work.windows.first().context("the started program did not say when it was done")?;
        work.series.insert(INFO.headline.to_owned(), Measure::single(since_us(done.to_ns), "µs"));
    }
    Ok(work)
}

/// The started program: the driver, the primary context, a module, one kernel.
fn first_kernel(request: &Request) -> Result<Work> {
    let mut work = Work::default();
    let from_ns = now_ns();
    let device = Device::open(request.device)?;
    let initialised_ns = now_ns();
    let gpu = Gpu::retain_primary(device)?;
    let retained_ns = now_ns();
    let mut kernel = Touch::load(&gpu)?;
    kernel.launch()?;
    gpu.synchronize()?;
    let done_ns = now_ns();
    // The software GPU waits instead of computing: there is nothing to check.
    if !request.simulated {
        kernel.verify()?;
    }
    for (name, span_ns) in [
        ("open the driver and cuInit", initialised_ns - from_ns),
        ("primary context", retained_ns - initialised_ns),
        ("first module and kernel", done_ns - retained_ns),
    ] {
        work.series.insert(name.to_owned(), Measure::single(span_ns as f64 / 1e3, "µs"));
    }
    work.windows.push(crate::worker::Window { name: "cuda".to_owned(), from_ns, to_ns: done_ns });
    Ok(work)
}

/// The started program: a context of its own.
fn own_context(tenant: &Tenant<'_>) -> Result<Work> {
    let device = Device::open(tenant.request.device)?;
    let mut context = ptr::null_mut();
    let (took_ns, created) = tenant.clock.time(|| {
        // SAFETY: `context` is writable and the driver is initialised.
        check("cuCtxCreate_v2", unsafe { sys::cuCtxCreate_v2(&raw mut context, 0, device.handle) })
    });
    created?;
    let mut work = Work::default();
    work.series.insert("cuCtxCreate".to_owned(), Measure::single(took_ns / 1e3, "µs"));
    Ok(work)
}
