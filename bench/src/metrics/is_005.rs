//! IS-005: whether a tenant can see what is another's.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cudarc::driver::sys;

use super::loads::{Part, together};
use super::{Comparison, Info, Metric, Presumes};
use crate::gpu::{Arguments, Gpu, Module, PathKind, Plain, Pool, Shape, Source, Stream, Taken, Vmm, check};
use crate::stats::Direction;
use crate::system::Launcher;
use crate::units::{GIB, MIB};
use crate::worker::{Measure, Page, Request, Series, Tenant, Work};

/// Whether fresh memory, a foreign pointer or a foreign handle shows another tenant's bytes.
pub(super) struct MemoryIsolation;

static INFO: Info = Info {
    id: "IS-005",
    name: "Memory isolation",
    unit: "pass",
    direction: Direction::Higher,
    headline: "isolated",
    in_process: &[],
    comparison: Comparison::Pass,
    method: "a tenant marks memory of three kinds and frees it or ends, another takes memory and counts marks: none may be found, while the tenant that wrote them must find them (control); reading at the other's address and opening a handle that was never exported must fail",
    presumes: Presumes::Nothing,
};

/// What is marked and scanned of each kind of memory.
const BYTES: u64 = 512 * MIB;
/// The same on the software GPU, whose memory the host must read.
const SIMULATED_BYTES: u64 = 8 * MIB;
/// One allocation.
const CHUNK: usize = 2 << 20;
/// Two words of 32 bits that no fresh memory holds by chance.
const MARK: u32 = 0x7e57_c0de;
/// Places of the shared page: the owner's address, and that the reader is done.
const ADDRESS: usize = 0;
const DONE: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);

impl Metric for MemoryIsolation {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        let request = tenant.request;
        let gpu = Gpu::open(request.device)?;
        let mut work = Work::default();
        match request.variant.as_str() {
            "mark" => mark(request, &gpu, &mut work)?,
            "look" => look(request, &gpu, &mut work)?,
            "own" => own_until_read(request, &gpu)?,
            "read" => read_foreign(request, &mut work)?,
            other => bail!("`{other}` is not a part of this metric"),
        }
        Ok(work)
    }

    /// It is passed or failed, and nothing is estimated.
    fn fewest_samples(&self) -> usize {
        3
    }

    fn warms_up(&self) -> bool {
        false // Its tenants do, each for itself.
    }

    fn sample(&self, launcher: &Launcher<'_>) -> Result<Series> {
        let (owner, stranger) = (launcher.clone().tenant("owner"), launcher.clone().tenant("stranger"));
        let mut series = owner.run(INFO.id, "mark").context("the tenant that marks its memory")?.series;
        series.extend(stranger.run(INFO.id, "look").context("the tenant that looks")?.series);
        let parts = [
            Part::job(&owner, INFO.id, "own".to_owned())?,
            Part::job(&stranger, INFO.id, "read".to_owned())?,
        ];
        let (_, works) = together(&parts)?;
        series.extend(works.into_iter().flat_map(|work| work.series));
        let all = series.values().all(|measure| measure.value >= 1.0);
        series.insert(INFO.headline.to_owned(), passed(all));
        Ok(series)
    }
}

fn passed(is_right: bool) -> Measure {
    Measure::single(if is_right { 1.0 } else { 0.0 }, "pass")
}

/// Marks memory of every kind, finds the marks again, and ends with it.
fn mark(request: &Request, gpu: &Gpu, work: &mut Work) -> Result<()> {
    let scanner = Scanner::new(request, gpu)?;
    let mut found = true;
    each_kind(gpu, bytes(request), |taken| {
        scanner.mark(taken)?;
        found &= scanner.marks(taken)? > 0;
        Ok(())
    })?;
    work.series.insert("control: the owner finds its marks".to_owned(), passed(found));
    Ok(())
}

/// Takes as much memory of every kind and looks for marks.
fn look(request: &Request, gpu: &Gpu, work: &mut Work) -> Result<()> {
    let scanner = Scanner::new(request, gpu)?;
    let mut marks = 0;
    each_kind(gpu, bytes(request), |taken| {
        marks += scanner.marks(taken)?;
        Ok(())
    })?;
    work.series.insert("fresh memory shows no foreign bytes".to_owned(), passed(marks == 0));
    Ok(())
}

fn bytes(request: &Request) -> u64 {
    if request.simulated { SIMULATED_BYTES } else { BYTES.min(request.limit_bytes / 4) }
}

/// Takes `bytes` of each kind of memory, hands every piece to `visit`, and gives it back before the next kind.
fn each_kind(gpu: &Gpu, bytes: u64, mut visit: impl FnMut(&Taken) -> Result<()>) -> Result<()> {
    let pieces = bytes / CHUNK as u64;
    for path in PathKind::ALL {
        let mut pool = Pool::new(gpu)?;
        let mut vmm = Vmm::new(gpu, GIB)?;
        let mut all = Vec::new();
        for _ in 0..pieces {
            let taken = match path {
                PathKind::Plain => Plain.take(CHUNK)?,
                PathKind::Pool => pool.take(CHUNK)?,
                PathKind::Vmm => {
                    let taken = vmm.take(CHUNK)?;
                    vmm.allow_access(&taken)?;
                    taken
                }
            };
            pool.wait()?; // The memory is there for other streams too.
            visit(&taken).with_context(|| path.text())?;
            all.push(taken);
        }
        for taken in all.into_iter().rev() {
            match path {
                PathKind::Plain => Plain.give(taken)?,
                PathKind::Pool => pool.give(taken)?,
                PathKind::Vmm => vmm.give(taken)?,
            }
        }
        pool.settle()?;
    }
    Ok(())
}

/// Counts marks: on the device; on the software GPU, whose kernels compute nothing, on the host.
struct Scanner {
    simulated: bool,
    stream: Stream,
    scan: crate::gpu::Kernel,
    found: crate::gpu::Buffer,
}

impl Scanner {
    fn new(request: &Request, gpu: &Gpu) -> Result<Self> {
        let basic = Module::load(gpu, Source::Basic)?;
        Ok(Self {
            simulated: request.simulated,
            stream: Stream::new(gpu)?,
            scan: basic.kernel("mark_scan")?,
            found: crate::gpu::Buffer::zeroed(gpu, 4)?,
        })
    }

    fn mark(&self, taken: &Taken) -> Result<()> {
        // SAFETY: the range is the allocation's own; the stream is alive.
        check("cuMemsetD32Async", unsafe {
            sys::cuMemsetD32Async(taken.address(), MARK, CHUNK / 4, self.stream.handle().raw())
        })?;
        Ok(self.stream.synchronize()?)
    }

    /// Words of 64 bits that are two marks.
    fn marks(&self, taken: &Taken) -> Result<u64> {
        let wanted = u64::from(MARK) << 32 | u64::from(MARK);
        if self.simulated {
            let mut words = vec![0_u64; CHUNK / 8];
            // SAFETY: the range is the allocation's own and as long as `words`.
            check("cuMemcpyDtoH_v2", unsafe {
                sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), taken.address(), CHUNK)
            })?;
            return Ok(words.iter().filter(|word| **word == wanted).count() as u64);
        }
        self.found.set_words(0)?;
        let arguments = Arguments::costing(20_000)
            .u64(taken.address())
            .u64(CHUNK as u64 / 8)
            .u64(wanted)
            .u64(self.found.address());
        self.scan.launch(self.stream.handle(), Shape::line(132, 256), arguments)?;
        self.stream.synchronize()?;
        let mut counts = [0_u64; 2];
        self.found.download(0, &mut counts)?;
        Ok(counts[0])
    }
}

/// Holds marked memory, tells where it is, and ends when it was read.
fn own_until_read(request: &Request, gpu: &Gpu) -> Result<()> {
    let page = Page::open(request.shared.as_deref().context("this job needs a shared page")?)?;
    let buffer = crate::gpu::Buffer::new(gpu, CHUNK)?;
    buffer.set_words(MARK)?;
    page.wait_for_go(PATIENCE)?;
    page.say(ADDRESS, buffer.address());
    page.wait_for_word(DONE, PATIENCE)?;
    Ok(())
}

/// Reads at the other's address, and opens a handle that nobody exported.
fn read_foreign(request: &Request, work: &mut Work) -> Result<()> {
    let page = Page::open(request.shared.as_deref().context("this job needs a shared page")?)?;
    page.wait_for_go(PATIENCE)?;
    let address = page.wait_for_word(ADDRESS, PATIENCE)?;
    let mut words = [0_u32; 4];
    // SAFETY: the host range is `words`; whatever the device address is, the driver answers with an error or copies.
    let read = unsafe { sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), address, size_of_val(&words)) };
    let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
    for (byte, at) in handle.reserved.iter_mut().zip(1..) {
        *byte = at;
    }
    let mut opened = 0;
    // SAFETY: `opened` is writable; the handle is 64 bytes of the right type.
    let open = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut opened, handle, 1) };
    page.say(DONE, 1);
    let is_refused = read != sys::CUresult::CUDA_SUCCESS || !words.contains(&MARK);
    work.series.insert("a foreign address shows nothing".to_owned(), passed(is_refused));
    let is_refused = open != sys::CUresult::CUDA_SUCCESS;
    work.series.insert("a handle that nobody exported is refused".to_owned(), passed(is_refused));
    Ok(())
}
