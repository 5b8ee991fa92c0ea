//! The tenant's side: a fresh process of this binary, started under the system that is measured.

mod protocol;
mod shared;

pub use protocol::{Effort, Failure, Measure, NotMeasured, Reply, Request, Series, Window, Work};
pub use shared::Page;

use std::path::Path;
use std::{fs, process};

use anyhow::{Context, Result};

use crate::affinity;
use crate::clock::{Clock, now_ns};
use crate::metrics;
use crate::selftest;
use crate::system;

/// The internal job of proving that a system enforces its limit.
pub const PROOF: &str = "proof";
/// The internal job of proving that a system holds a tenant to its cap on GPU time.
pub const COMPUTE_PROOF: &str = "compute-proof";
/// The internal job of a tenant of the benchmark's test of itself.
pub const SELF_TEST: &str = "self-test";
/// The internal job of a tenant that runs workloads.
pub const LOAD: &str = "load";
/// The internal job of describing the device.
pub const DEVICE: &str = "device";

/// Does what `request` says and leaves the reply in the file that it names. What goes wrong goes into the reply: an
/// error here is one of not being able to answer at all.
pub fn main(request: &str) -> Result<()> {
    let started_ns = now_ns();
    let request: Request = serde_json::from_str(request).context("the request of the worker")?;
    let cpu = request.cpu.filter(|cpu| affinity::keep_to(*cpu).is_ok());
    let outcome = answer(&request).map_err(Failure::from);
    if outcome.is_err() {
        give_up_sample(&request);
    }
    let reply = Reply { pid: process::id(), cpu, started_ns, outcome };
    // Renamed into place, so that a worker that dies while writing leaves no half reply.
    let partial = request.reply.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&reply)?)
        .and_then(|()| fs::rename(&partial, &request.reply))
        .with_context(|| format!("the worker's reply cannot be written to {}", request.reply.display()))
}

/// The other tenants of the sample wait for this one: they need not.
fn give_up_sample(request: &Request) {
    if let Some(Ok(page)) = request.shared.as_deref().map(Page::open) {
        page.stop();
    }
}

fn answer(request: &Request) -> Result<Work> {
    match request.job.as_str() {
        PROOF => system::proof_work(request),
        COMPUTE_PROOF => metrics::compute_proof(request),
        LOAD => metrics::load(request),
        SELF_TEST => selftest::work(request),
        DEVICE => metrics::describe_device(request),
        id => {
            let metric = metrics::find(id).with_context(|| format!("no metric `{id}` in this binary"))?;
            metric.work(&Tenant { request, clock: Clock::calibrate() })
        }
    }
}

/// What a metric's tenant side works with.
pub struct Tenant<'a> {
    /// What the parent asked for.
    pub request: &'a Request,
    /// The clock, calibrated in this process.
    pub clock: Clock,
}

/// The path of the file named `file_name` that this process has mapped, if it has.
pub fn mapped_file(file_name: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    // The path is the sixth field and goes to the end of the line (proc_pid_maps(5)); it begins with the first slash.
    let paths = maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..]));
    let mut found = paths.filter(|path| Path::new(path).file_name().is_some_and(|name| name == file_name));
    found.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_library_is_recognised_by_its_whole_file_name() {
        assert!(mapped_file("libc.so.6").is_some_and(|path| Path::new(&path).is_file()));
        assert_eq!(mapped_file("c.so.6"), None);
        assert_eq!(mapped_file("libvgpu.so"), None);
    }
}
