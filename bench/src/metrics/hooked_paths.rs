//! What the hooks of allocation and free add, in process: for each path, blocks of allocations and their frees through the
//! functions as a program finds them, and through the driver's own. What one side takes, the same side gives back.

use anyhow::{Context, Result};

use super::in_process::{Plan, alternate};
use crate::clock::{Clock, now_ns};
use crate::gpu::{Both, CudaError, Functions, Gpu, Plain, Pool, Side, Vmm, check};
use crate::units::{BLOCK_BYTES, bytes_text};
use crate::worker::{Tenant, Work};

/// Allocations in a block: 20 of 64 KiB fit beside a live one in one block of the driver.
const SMALL_CALLS: usize = 20;
/// Those of 2 MiB take tens of microseconds each.
const LARGE_CALLS: usize = 4;
/// Small allocations, in bytes.
const SMALL_BYTES: usize = 64 << 10;
/// Quads; each has two blocks of either side, so 1,000 blocks a side.
const QUADS: usize = 500;
/// What a path may take, once it has a fifth of its quads.
const BUDGET_NS: u64 = 150_000_000;
/// The addresses that are mapped to in turn.
const RANGE_BYTES: u64 = 64 << 20;

/// Series of what the hooks add: `alloc/plain 64 KiB: added by the hook, in process`, and so on.
pub(super) fn work(tenant: &Tenant<'_>, gpu: &Gpu, work: &mut Work) -> Result<()> {
    let both = Both::<Functions>::find()?;
    let large_bytes = usize::try_from(BLOCK_BYTES)?;
    let mut paths = Paths { tenant, both: &both, work };
    // Small ones go into a block that stays in use: otherwise the driver's taking and giving back of a block is timed.
    let live = Plain.take(SMALL_BYTES)?;
    paths.plain(SMALL_BYTES, SMALL_CALLS)?;
    paths.plain(large_bytes, LARGE_CALLS)?;
    Plain.give(live)?;
    let mut pool = Pool::new(gpu)?;
    let live = pool.take(SMALL_BYTES)?;
    paths.pool(&pool)?;
    pool.give(live)?;
    pool.settle()?;
    paths.vmm(&Vmm::new(gpu, RANGE_BYTES)?, large_bytes)
}

/// The name of a path's series, without its kind.
pub(super) fn series_name(path: &str, bytes: u64) -> String {
    format!("{path} {}: added by the hook, in process", bytes_text(bytes))
}

struct Paths<'a> {
    tenant: &'a Tenant<'a>,
    both: &'a Both,
    work: &'a mut Work,
}

impl Paths<'_> {
    fn plain(&mut self, bytes: usize, calls: usize) -> Result<()> {
        let mut addresses = vec![0; calls];
        self.path("plain", bytes, calls, |functions, clock| {
            let from_ns = now_ns();
            for address in &mut addresses {
                // SAFETY: the address is writable; any size is a legal request.
                check("cuMemAlloc_v2", unsafe { (functions.cuMemAlloc_v2)(address, bytes) })?;
            }
            let between_ns = now_ns();
            for address in addresses.iter().rev() {
                // SAFETY: the same side has just given out the address.
                check("cuMemFree_v2", unsafe { (functions.cuMemFree_v2)(*address) })?;
            }
            Ok(spans_ns(clock, [from_ns, between_ns, now_ns()]))
        })
    }

    fn pool(&mut self, pool: &Pool) -> Result<()> {
        let mut addresses = [0; SMALL_CALLS];
        let stream = pool.stream();
        self.path("pool", SMALL_BYTES, SMALL_CALLS, |functions, clock| {
            let from_ns = now_ns();
            for address in &mut addresses {
                // SAFETY: the address is writable and the stream lives as long as the process.
                check("cuMemAllocAsync", unsafe {
                    (functions.cuMemAllocAsync)(address, SMALL_BYTES, stream)
                })?;
            }
            let between_ns = now_ns();
            for address in addresses.iter().rev() {
                // SAFETY: the same side has just given out the address.
                check("cuMemFreeAsync", unsafe { (functions.cuMemFreeAsync)(*address, stream) })?;
            }
            Ok(spans_ns(clock, [from_ns, between_ns, now_ns()]))
        })
    }

    fn vmm(&mut self, vmm: &Vmm, bytes: usize) -> Result<()> {
        let mut handles = [0; LARGE_CALLS];
        let address = |number: usize| vmm.end() + (number * bytes) as u64;
        self.path("vmm", bytes, LARGE_CALLS, |functions, clock| {
            let from_ns = now_ns();
            for (number, handle) in handles.iter_mut().enumerate() {
                // SAFETY: the handle is writable; the range is reserved, longer than all blocks together and unmapped.
                unsafe {
                    check("cuMemCreate", (functions.cuMemCreate)(handle, bytes, vmm.properties(), 0))?;
                    check("cuMemMap", (functions.cuMemMap)(address(number), bytes, 0, *handle, 0))?;
                }
            }
            let between_ns = now_ns();
            for (number, handle) in handles.iter().enumerate().rev() {
                // SAFETY: the same side has just mapped the handle there.
                unsafe {
                    check("cuMemUnmap", (functions.cuMemUnmap)(address(number), bytes))?;
                    check("cuMemRelease", (functions.cuMemRelease)(*handle))?;
                }
            }
            Ok(spans_ns(clock, [from_ns, between_ns, now_ns()]))
        })
    }

    /// Alternates `block`, which returns the nanoseconds of `calls` allocations and of their frees, and records both.
    fn path(
        &mut self,
        path: &str,
        bytes: usize,
        calls: usize,
        mut block: impl FnMut(&Functions, &Clock) -> Result<[f64; 2], CudaError>,
    ) -> Result<()> {
        let quads = self.tenant.request.effort.calls(QUADS);
        let plan = Plan { quads, fewest: quads / 5, warm_up: 4, budget_ns: BUDGET_NS, calls };
        let name = series_name(path, bytes as u64);
        let all = alternate(plan, |side: Side| {
            Ok(block(self.both.of(side), &self.tenant.clock)?.map(|span_ns| span_ns / calls as f64))
        });
        let all = all.with_context(|| name.clone())?;
        for (of, kind) in ["alloc", "free"].into_iter().enumerate() {
            let added = all.added(of, "µs", 1e3);
            self.work.series.extend(added.map(|added| (format!("{kind}/{name}"), added)));
        }
        Ok(())
    }
}

/// The two spans between three readings.
fn spans_ns(clock: &Clock, [from_ns, between_ns, to_ns]: [u64; 3]) -> [f64; 2] {
    [clock.elapsed_ns(from_ns, between_ns), clock.elapsed_ns(between_ns, to_ns)]
}
