//! OH-009: what the system's own threads take of the CPU.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::control::by_effort_ns;
use super::{Comparison, Info, Metric, Presumes, loads};
use crate::clock::now_ns;
use crate::gpu::Gpu;
use crate::stats::Direction;
use crate::system::Launcher;
use crate::worker::{Measure, Series, Tenant, Work};

/// CPU time of threads that the tenant did not start.
pub(super) struct Monitoring;

static INFO: Info = Info {
    id: "OH-009",
    name: "Monitoring cost",
    unit: "% of a core",
    direction: Direction::Lower,
    headline: "busy",
    in_process: &[],
    comparison: Comparison::AddedToNative,
    method: "CPU time (schedstat) of all threads of a tenant at the run's cap but the one that launches, over some seconds with a context and no work, and over as long with 100 µs kernels, launched three at a time and never waited for, that use 60 % of the cap, so that every system has the same to do; 30 s and more over all samples; the driver's own threads are in native's figure, so what is added is the system's; daemons are not part of a tenant and are not counted",
    presumes: Presumes::Compute,
};

impl Metric for Monitoring {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let gpu = Gpu::open(tenant.request.device)?;
        let span_ns = by_effort_ns(tenant.request.effort, [2_500, 3_000, 4_000]);
        let mut load = loads::open(loads::Kind::Medium, &gpu)?;
        load.submit()?;
        gpu.synchronize()?;
        let mut work = Work::default();
        let mut record = |name: &str, percent: f64| {
            work.series.insert(name.to_owned(), Measure::single(percent, "% of a core"));
        };
        let idle = Span::begin()?;
        thread::sleep(Duration::from_nanos(span_ns));
        record("idle", idle.percent()?);
        let busy = Span::begin()?;
        paced(load.as_mut(), tenant.request.compute_percent, now_ns() + span_ns)?;
        record("busy", busy.percent()?);
        gpu.synchronize()?;
        Ok(work)
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        // Under a cap: without one there is nothing to watch, and HAMi-core starts no thread that would. And not on one CPU
        // with the thread that launches: other threads would only get what it leaves.
        let capped = launcher.clone().on_cpu(None).with_compute(launcher.session.compute_percent);
        Ok(capped.run(INFO.id, "")?.series)
    }
}

/// Kernels in a group.
const GROUP: u32 = 3;
/// The part of the cap that is used. Less than all of it, so that every system gets the same work done, and the driver's threads
/// have as much to do under a cap as natively.
const USED: f64 = 0.6;

/// Launches groups of kernels until `until_ns`, so often that they take [`USED`] of a cap of `percent` of the device's time.
fn paced(load: &mut dyn loads::Load, percent: u32, until_ns: u64) -> Result<()> {
    let group_ns = f64::from(GROUP) * load.unit_ns() as f64;
    let period_ns = loads::whole_ns(group_ns / (USED * f64::from(percent) / 100.0));
    let mut next_ns = now_ns();
    while next_ns < until_ns {
        thread::sleep(Duration::from_nanos(next_ns.saturating_sub(now_ns())));
        (0..GROUP).try_for_each(|_| load.submit())?;
        next_ns += period_ns;
    }
    Ok(())
}

/// The beginning of a span of time.
struct Span {
    from_ns: u64,
    cpu_ns: u64,
}

impl Span {
    fn begin() -> Result<Self> {
        Ok(Self { from_ns: now_ns(), cpu_ns: other_threads_ns()? })
    }

    /// CPU time of the other threads since then, in per cent of a core.
    fn percent(&self) -> Result<f64> {
        let cpu_ns = other_threads_ns()?.saturating_sub(self.cpu_ns);
        Ok(100.0 * cpu_ns as f64 / (now_ns() - self.from_ns) as f64)
    }
}

/// CPU time of all threads of this process but the calling one, in nanoseconds. Threads that have ended are not in it.
fn other_threads_ns() -> Result<u64> {
    Ok(other_threads()?.values().sum())
}

/// The CPU time in nanoseconds of each thread of this process but the calling one, by its number.
fn other_threads() -> Result<BTreeMap<i64, u64>> {
    let own = thread_id();
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").context("the threads of this process")? {
        let entry = entry?;
        let id = entry.file_name().to_string_lossy().parse().context("the name of a thread in /proc")?;
        if id == own {
            continue;
        }
        // Time on a CPU in ns, time waiting for one, slices (kernel documentation, sched-stats). A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let on_cpu = text.split_whitespace().next().context("schedstat is empty")?;
        threads.insert(id, on_cpu.parse().context("schedstat")?);
    }
    Ok(threads)
}

/// The calling thread. Not by the function `gettid`: glibc has it from 2.30 on, and the command runs from 2.28 on (scripts/dist).
fn thread_id() -> i64 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    // By the threads, not by their sum: other tests' threads come and go meanwhile.
    #[test]
    fn the_calling_thread_does_not_count_and_another_one_does() {
        let (name, named) = mpsc::channel();
        let (tell, told) = mpsc::channel::<()>();
        let busy = thread::spawn(move || {
            name.send(thread_id()).unwrap();
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {}
        });
        let id = named.recv().unwrap();
        while other_threads().unwrap().get(&id).is_none_or(|&cpu_ns| cpu_ns < 10_000_000) {
            thread::yield_now();
        }
        assert!(!other_threads().unwrap().contains_key(&thread_id()));
        drop(tell);
        busy.join().unwrap();
    }
}
