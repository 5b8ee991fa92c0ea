//! OH-008: what a rate limiter costs while it never says no.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::control::by_effort_ns;
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::{Clock, now_ns};
use crate::gpu::{Arguments, CudaError, Gpu, Kernel, Module, Shape, Source, Stream};
use crate::stats::{self, Direction};
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// Launches with the limiter on, against launches with it off.
pub(super) struct RateLimiter;

static INFO: Info = Info {
    id: "OH-008",
    name: "Rate limiter latency",
    unit: "ns",
    direction: Direction::Lower,
    headline: "1 thread: added per launch",
    in_process: &["1 thread: added per launch", "8 threads: added per launch"],
    comparison: Comparison::Limit,
    method: "the same library capped at 90 % and not capped, each in two processes, A B B A: an empty kernel in batches of 20 by 1 and 8 threads, which use so little of the device that the budget is never empty; the time that launches wait for budget is apart: a saturating tenant at the run's cap",
    presumes: Presumes::Compute,
};

/// The cap under which the budget must never be empty.
const CAP: u32 = 90;
/// Launches between two readings of the clock.
const BATCH: usize = 20;
/// What a thread rests after a batch, for each thread: so all together use a few per cent of the device.
const REST: Duration = Duration::from_millis(1);
/// What the software GPU takes for the kernel.
const SIM_NS: u64 = 2_000;
/// A launch that took longer has waited; without a limiter it takes some microseconds.
const WAITED_NS: f64 = 50_000.0;

impl Metric for RateLimiter {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let mut work = Work::default();
        if tenant.request.variant == "waiting" {
            let percent = waiting_percent(tenant, &gpu)?;
            work.series.insert("waiting".to_owned(), Measure::single(percent, "%"));
            return Ok(work);
        }
        let kernel = Module::load(&gpu, Source::Basic)?.kernel("empty")?;
        for threads in [1_usize, 8] {
            let run_ns = by_effort_ns(tenant.request.effort, [300, 700, 1_500]);
            let means_ns = by_threads(tenant.request.device, kernel, threads, run_ns)?;
            let value = stats::median(&means_ns).context("no batch was launched")?;
            let measure = Measure { calls: means_ns.len() * BATCH, ..Measure::single(value, "ns") };
            work.series.insert(threads_name(threads), measure);
        }
        Ok(work)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let off = launcher.clone().on_cpu(None).with_compute(100);
        let on = launcher.clone().on_cpu(None).with_compute(CAP);
        let run = |launcher: &Launcher<'_>| -> Result<Series> { Ok(launcher.run(INFO.id, "")?.series) };
        let runs = [run(&off)?, run(&on)?, run(&on)?, run(&off)?];
        let mut series = Series::new();
        for threads in [1, 8] {
            let name = threads_name(threads);
            let value = |n: usize| runs[n].get(&name).map_or(f64::NAN, |measure| measure.value);
            let added = (value(1) + value(2) - value(0) - value(3)) / 2.0;
            series.insert(format!("{name}: added per launch"), Measure::difference(added, "ns"));
            series.insert(format!("{name}: per launch, not capped"), Measure::single(value(0), "ns"));
        }
        let capped = launcher.clone().on_cpu(None).with_compute(launcher.session.compute_percent);
        let waiting = capped.run(INFO.id, "waiting")?.series.remove("waiting");
        series.extend(waiting.map(|measure| ("waiting for budget, saturating".to_owned(), measure)));
        Ok(series)
    }
}

fn threads_name(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Batches of launches by `threads` at one time: the mean nanoseconds of a launch in each of them.
fn by_threads(device: i32, kernel: Kernel, threads: usize, run_ns: u64) -> Result<Vec<f64>> {
    let clock = Clock::calibrate();
    let until_ns = now_ns() + run_ns;
    let rest = REST * u32::try_from(threads)?;
    let one = || -> Result<Vec<f64>> {
        let gpu = Gpu::open(device)?; // The primary context, current in this thread too.
        let stream = Stream::new(&gpu)?;
        let mut means_ns = Vec::new();
        while now_ns() < until_ns {
            let (took_ns, launched) = clock.time(|| -> Result<(), CudaError> {
                for _ in 0..BATCH {
                    kernel.launch(stream.handle(), Shape::line(1, 1), Arguments::costing(SIM_NS))?;
                }
                Ok(())
            });
            launched?;
            stream.synchronize()?;
            means_ns.push(took_ns / BATCH as f64);
            thread::sleep(rest);
        }
        Ok(means_ns)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let mut all = Vec::new();
        for thread in running {
            all.extend(thread.join().map_err(|_| anyhow!("a launching thread panicked"))??);
        }
        Ok(all)
    })
}

/// The part of the time that a saturating thread spends in launches that wait, in per cent.
fn waiting_percent(tenant: &Tenant<'_>, gpu: &Gpu) -> Result<f64> {
    let mut load = super::loads::open(super::loads::Kind::Medium, gpu)?;
    let run_ns = by_effort_ns(tenant.request.effort, [700, 1_500, 3_000]);
    let from_ns = now_ns();
    let mut waited_ns = 0.0;
    while now_ns() < from_ns + run_ns {
        // So few that no launch waits for room in the queue, as it would natively too.
        for _ in 0..BATCH {
            let (took_ns, submitted) = tenant.clock.time(|| load.submit());
            submitted?;
            if took_ns > WAITED_NS {
                waited_ns += took_ns;
            }
        }
        gpu.synchronize()?;
    }
    Ok(100.0 * waited_ns / (now_ns() - from_ns) as f64)
}
