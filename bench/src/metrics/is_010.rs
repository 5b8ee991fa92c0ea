//! IS-010: whether one tenant's fault stays its own.

use std::env;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::loads::{Kind, Part, Plan, progress_of, together_with};
use super::{Comparison, Info, Metric, Presumes};
use crate::clock::now_ns;
use crate::gpu::{Arguments, Gpu, Module, Plain, Shape, Source, Stream};
use crate::stats::Direction;
use crate::system::{self, Launcher};
use crate::worker::{Measure, Request, Series, Tenant, Work};

/// Faults of one tenant beside another one that computes.
pub(super) struct FaultIsolation;

static INFO: Info = Info {
    id: "IS-010",
    name: "Fault isolation",
    unit: "pass",
    direction: Direction::Higher,
    headline: "isolated",
    in_process: &[],
    comparison: Comparison::Pass,
    method: "a tenant computes 100 µs kernels that are counted and checked, while others beside it, one after the other, access an illegal address, trap, abort, are killed in the middle of allocations, run out of memory, and truncate the files that they share: each must fail (control), and the first must get on with right results; its longest stall is reported",
    presumes: Presumes::Nothing,
};

/// What the tenants beside it do.
const FAULTS: [&str; 6] =
    ["illegal address", "trap", "abort", "killed in allocations", "out of memory", "truncated files"];
/// The bystander's time: it is told to end sooner.
const BYSTANDER_NS: u64 = 60_000_000_000;
/// How long a tenant allocates before it is killed.
const BEFORE_KILL: Duration = Duration::from_millis(1_200);
/// How long the bystander is watched after each fault.
const AFTER: Duration = Duration::from_millis(150);

impl Metric for FaultIsolation {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let request = tenant.request;
        let gpu = Gpu::open(request.device)?;
        match request.variant.as_str() {
            "illegal address" => faulty(&gpu, "illegal_address")?,
            "trap" => faulty(&gpu, "trap")?,
            "abort" => {
                let _held = Plain.take(64 << 20)?;
                process::abort();
            }
            "killed in allocations" => loop {
                Plain.give(Plain.take(64 << 10)?)?;
                Plain.give(Plain.take(4 << 20)?)?;
            },
            "out of memory" => run_out(request)?,
            "truncated files" => truncate_shared_files()?,
            other => bail!("`{other}` is not a fault of this metric"),
        }
        Ok(Work::default())
    }

    /// It is passed or failed, and nothing is estimated.
    fn fewest_samples(&self) -> usize {
        3
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let bystander =
            Part::load(&launcher.clone().tenant("bystander"), &Plan::of(Kind::Medium, BYSTANDER_NS))?;
        let faulting = launcher.clone().on_cpu(None).tenant("faulting");
        let mut spans = Vec::new();
        let mut did_fail = Vec::new();
        let ran = together_with(&[bystander], |page, _| {
            for fault in FAULTS {
                let from_ns = now_ns();
                let mut running = faulting.spawn(INFO.id, fault, None)?;
                if fault == "killed in allocations" {
                    thread::sleep(BEFORE_KILL);
                    running.end()?;
                }
                did_fail.push(running.wait().is_err());
                thread::sleep(AFTER);
                spans.push((from_ns, now_ns()));
            }
            page.stop();
            Ok(())
        });
        let mut series = Series::new();
        match &ran {
            Ok((_, works)) => {
                let progress = progress_of(works.first().context("the bystander left nothing")?)?;
                let progress = progress.first().context("the bystander did nothing")?;
                for (fault, (from_ns, to_ns)) in FAULTS.into_iter().zip(&spans) {
                    let got_on = progress.units_at(*to_ns) > progress.units_at(to_ns - 100_000_000);
                    series.insert(format!("{fault}: the other gets on"), passed(got_on));
                    let stall_ms = progress.longest_stall_ms(*from_ns, *to_ns);
                    series.insert(
                        format!("{fault}: the other's longest stall"),
                        Measure::single(stall_ms, "ms"),
                    );
                }
            }
            // The control of the harness itself: a bystander that could not even begin is a void sample.
            Err(_) if spans.is_empty() => {
                ran?;
            }
            Err(error) => {
                eprintln!("cuota-bench: IS-010: the tenant beside the faulting ones: {error:#}");
                series.insert("the other's results are right".to_owned(), passed(false));
            }
        }
        // The last two are no faults of the process: what they do is allowed, and it ends as it likes.
        for (fault, failed) in FAULTS.into_iter().zip(&did_fail).take(4) {
            series.insert(format!("control: {fault} fails"), passed(*failed));
        }
        let all = series.values().filter(|measure| measure.unit == INFO.unit).all(|m| m.value >= 1.0);
        series.insert(INFO.headline.to_owned(), passed(all));
        Ok(series)
    }
}

fn passed(is_right: bool) -> Measure {
    Measure::single(if is_right { 1.0 } else { 0.0 }, "pass")
}

/// Launches a kernel that cannot end well, and reports what the driver says.
fn faulty(gpu: &Gpu, kernel: &str) -> Result<()> {
    let (basic, stream) = (Module::load(gpu, Source::Basic)?, Stream::new(gpu)?);
    // An address that is in no process's range: the second parameter of one of the two, and unread by the other.
    let arguments = Arguments::costing(10_000).u64(0xdead_0000_0000);
    basic.kernel(kernel)?.launch(stream.handle(), Shape::line(1, 1), arguments)?;
    Ok(stream.synchronize()?)
}

/// Allocates until it is refused.
fn run_out(request: &Request) -> Result<()> {
    let ceiling_bytes = system::ceiling_bytes(request.limit_bytes);
    crate::gpu::fill(request.limit_bytes, ceiling_bytes, |bytes| Plain.take(bytes))?;
    Ok(())
}

/// Truncates every regular file that this process has mapped shared and may write: the files by which a system keeps its
/// books, which a hostile tenant could reach too. Not the benchmark's own page, nor the software GPU's device.
fn truncate_shared_files() -> Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let simulator = env::var_os("CUOTA_SIM_DIR").filter(|folder| !folder.is_empty());
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let is_shared = fields.nth(1).is_some_and(|rights| rights.starts_with("rw") && rights.ends_with('s'));
        let Some(path) = line.find('/').map(|at| Path::new(&line[at..])) else { continue };
        let text = path.to_string_lossy();
        let is_ours = text.starts_with("/dev/shm/shmem_")
            || text.contains("cuota-sim")
            || simulator.as_ref().is_some_and(|folder| path.starts_with(folder));
        let is_regular = fs::symlink_metadata(path).is_ok_and(|file| file.is_file());
        if is_shared && is_regular && !is_ours && !text.starts_with("/dev/nvidia") {
            // What may not be written cannot be truncated: that is as it should be.
            if let Ok(file) = OpenOptions::new().write(true).open(path) {
                file.set_len(0).with_context(|| format!("truncating {text}"))?;
            }
        }
    }
    // And goes on as if nothing had been.
    Ok(Plain.give(Plain.take(1 << 20)?)?)
}
