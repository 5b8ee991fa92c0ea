//! A tenant's file: what each of its processes has booked on each GPU, and what happened.
//!
//! It is writable by the tenant's processes and by nobody else's, so rubbish in it can only hurt the tenant itself.
//! Books stand GPU by GPU, one 64-byte line a process, so that a sum reads one line a process and a process writes
//! only its own.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::{NonNull, from_ref};
use core::sync::atomic;

use cuota_governor::budget::{Correction, Look, Rule, written_under};

use crate::event::Events;
use crate::header::{Header, Kind, Unusable, layout_hash};
use crate::name::{GpuId, TenantName, load, store};
use crate::path::{self, Directory, Path};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{self, Errno, Fd, Mapping};

/// How many processes a tenant can have at a time.
#[cfg(not(loom))]
pub const PROCESSES: usize = 1024;
#[cfg(loom)]
pub use crate::model::PROCESSES;

/// How many GPUs a tenant can use.
#[cfg(not(loom))]
pub const GPUS: usize = 16;
#[cfg(loom)]
pub use crate::model::GPUS;

/// Facts about the tenant as a whole, hints all: nothing depends on them for being right.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Summary {
    /// The tenant's name: up to 31 ASCII characters, then NUL.
    pub(crate) name: [atomic::AtomicU64; 4],
    /// One more than the highest place ever taken: a sum looks no further.
    pub(crate) high_water: AtomicU32,
    /// 1 once any process has shared memory with another: until then nobody looks through `shares`.
    pub(crate) sharing: AtomicU32,
    /// When the last sweep for dead processes began, CLOCK_MONOTONIC ns; odd until it has ended.
    pub(crate) swept_ns: AtomicU64,
    /// How often a share ended: whoever counts shares twice tells by it whether they stayed the same.
    pub(crate) unshared: AtomicU64,
    /// Which live file is in force: another, and its locks say nothing. Its inode number, with the device's above.
    pub(crate) live: AtomicU64,
}

/// A GPU that the tenant uses; its place in the table is its index in the books.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Gpu {
    /// Its UUID as two numbers, its first byte the highest of the first; the first is 0 while the entry is free.
    uuid: [atomic::AtomicU64; 2],
    /// The most that a process's context, modules and local memory were seen to take, bytes.
    pub(crate) overhead_bytes: atomic::AtomicU64,
    /// The device's memory as CUDA counts it, bytes; 0 until a process has looked.
    pub(crate) total_bytes: atomic::AtomicU64,
    /// The budget of GPU time, shared by the tenant's processes: two horizons of cuota-governor's `budget`, 0 at first.
    pub(crate) window: atomic::AtomicU64,
    /// The second of them.
    pub(crate) period: atomic::AtomicU64,
    /// GPU time used under a cap, ns.
    pub(crate) used_ns: atomic::AtomicU64,
    /// Time that launches have waited for the budget, ns, summed over threads.
    pub(crate) throttled_ns: atomic::AtomicU64,
}

/// A place for a process.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Place {
    /// A generation, with bit 0 set while a process lives here. Never the same twice.
    pub(crate) life: AtomicU64,
    /// Its id in its own PID namespace. For people: whether it lives is told by the lock of its byte in the live file.
    pub(crate) pid: AtomicU32,
    /// Its effective user id.
    pub(crate) uid: AtomicU32,
    /// When it joined, CLOCK_MONOTONIC ns.
    pub(crate) joined_ns: AtomicU64,
    /// Its PID namespace, by inode number; 0: unknown.
    pub(crate) pid_namespace: AtomicU64,
    /// Set when it was found dead: 24 bits of the life that ended, then 40 of the time, CLOCK_MONOTONIC ms. Of another life it
    /// means nothing.
    pub(crate) died: AtomicU64,
    /// One more than the highest entry of its `shares` ever used.
    pub(crate) shares: AtomicU32,
    /// Pools of other processes that it has opened, in the low 31 bits; above them whether others can open pools of its own.
    pub(crate) pools: AtomicU32,
    /// When its process was started, in the kernel's ticks since boot (`/proc/PID/stat`): with `pid`, which process it is. 0: unknown.
    pub(crate) started: AtomicU64,
    reserved_too: AtomicU64,
}

/// What one process has booked on one GPU.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Line {
    /// The `life` of the place that the line belongs to; it counts while bit 0 is set.
    pub(crate) life: AtomicU64,
    /// In units of 64 KiB: of what is booked, what may still be taken back, in the lowest 29 bits, and all that is booked in the
    /// next 29; above them the lowest six bits of `life` shifted right by one. One word, so that one instruction changes all. Written
    /// by the process itself, and after its death by who takes out of it what is gone. What has been moved to a next place is closed:
    /// nothing is booked here, and the six bits are another life's.
    pub(crate) booked: AtomicU64,
    /// Of what is booked, bytes for contexts, modules and local memory.
    pub(crate) overhead: AtomicU64,
    /// Allocations refused.
    pub(crate) refused: AtomicU64,
    /// Of what is booked, bytes of memory pools, if others can open them: these may outlive the process.
    pub(crate) pools: AtomicU64,
    /// GPU time that its work in flight had taken when it last looked, ns: what its tenant is charged if it dies. With the highest bit, of
    /// a process that may not look again: since when that work may have been there.
    pub(crate) in_flight_ns: atomic::AtomicU64,
    /// Of it, what the budget does not have yet, ns; with that bit what the budget has.
    pub(crate) owed_ns: atomic::AtomicU64,
    reserved: AtomicU64,
}

/// Memory that a process holds and that others may hold too: each of them books it, and all but one of them in vain.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Share {
    /// A hash of the handle that goes from process to process; 0: free.
    pub(crate) key: AtomicU64,
    /// The GPU's index in the high 32 bits, and the size in units of 64 KiB in the low.
    pub(crate) what: AtomicU64,
}

/// How many shared objects a process can have and be charged for once among all that hold them.
#[cfg(not(loom))]
pub const SHARES: usize = 128;
#[cfg(loom)]
pub use crate::model::SHARES;

/// `tenant/NAME.v1`. Written by the tenant's processes, each its own lines: for everybody else it is hostile input.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct File {
    header: Header,
    pub(crate) summary: Summary,
    pub(crate) gpus: [Gpu; GPUS],
    pub(crate) places: [Place; PROCESSES],
    /// By GPU, then by the process's place. A tenant's usage is the sum over the lines that count.
    pub(crate) books: [[Line; PROCESSES]; GPUS],
    pub(crate) events: Events,
    /// By the process's place. Last, and the largest.
    pub(crate) shares: [[Share; SHARES]; PROCESSES],
}

/// See [`crate::abi`].
#[doc(hidden)]
pub const LAYOUTS: &[crate::abi::Layout] = &[
    crate::abi::layout!(
        Summary as "cuota_tenant_summary": name, high_water, sharing, swept_ns, unshared, live
    ),
    crate::abi::layout!(Gpu as "cuota_tenant_gpu":
        uuid, overhead_bytes, total_bytes, window, period, used_ns, throttled_ns),
    crate::abi::layout!(Place as "cuota_tenant_place":
        life, pid, uid, joined_ns, pid_namespace, died, shares, pools, started, reserved_too),
    crate::abi::layout!(Share as "cuota_tenant_share": key, what),
    crate::abi::layout!(
        Line as "cuota_tenant_line": life, booked, overhead, refused, pools, in_flight_ns, owed_ns, reserved
    ),
    crate::abi::layout!(File as "cuota_tenant_file": header, summary, gpus, places, books, events, shares),
];

/// What a tenant file is.
pub const KIND: Kind = Kind {
    magic: u64::from_le_bytes(*b"cuotaTEN"),
    layout_hash: layout_hash(&[
        size_of::<File>(),
        PROCESSES,
        GPUS,
        offset_of!(File, summary),
        offset_of!(File, gpus),
        offset_of!(File, places),
        offset_of!(File, books),
        offset_of!(File, events),
        offset_of!(Summary, high_water),
        offset_of!(Summary, swept_ns),
        offset_of!(Gpu, overhead_bytes),
        offset_of!(Gpu, total_bytes),
        offset_of!(Place, pid),
        offset_of!(Place, uid),
        offset_of!(Place, joined_ns),
        offset_of!(Place, pid_namespace),
        offset_of!(Place, died),
        offset_of!(Place, shares),
        offset_of!(Place, started),
        offset_of!(File, shares),
        SHARES,
        offset_of!(Summary, sharing),
        offset_of!(Summary, unshared),
        offset_of!(Summary, live),
        offset_of!(Line, booked),
        offset_of!(Line, overhead),
        offset_of!(Line, refused),
        offset_of!(Events, ring),
        crate::word::LAYOUT,
    ]),
    bytes: size_of::<File>(),
};

/// A GPU's index in a tenant's books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GpuIndex(pub(crate) usize);

impl GpuIndex {
    /// The index of the first GPU that a tenant uses.
    pub const FIRST: GpuIndex = GpuIndex(0);

    /// The index with this number, 0 to 15.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        (number < GPUS).then_some(GpuIndex(number))
    }

    /// The index's number.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }
}

/// A tenant's GPU time on one GPU: words that all of its processes write.
#[derive(Clone, Copy)]
pub struct Meter(&'static Gpu);

impl Meter {
    /// As a pointer, to be kept in one word.
    #[must_use]
    pub fn as_ptr(self) -> *mut c_void {
        from_ref(self.0).cast_mut().cast()
    }

    /// Out of that pointer.
    ///
    /// # Safety
    /// It is [`Meter::as_ptr`]'s.
    #[must_use]
    pub unsafe fn from_ptr(meter: *mut c_void) -> Self {
        // SAFETY: the caller's contract; the tenant's file stays mapped.
        Meter(unsafe { &*meter.cast() })
    }

    /// The word of the budget's first rule (`cuota_governor::budget::Rule::Window`).
    #[must_use]
    pub fn window(self) -> &'static atomic::AtomicU64 {
        &self.0.window
    }

    /// The word of the budget's second rule (`cuota_governor::budget::Rule::Period`).
    #[must_use]
    pub fn period(self) -> &'static atomic::AtomicU64 {
        &self.0.period
    }

    /// GPU time used while a cap was in force, ns.
    #[must_use]
    pub fn used_ns(self) -> u64 {
        self.0.used_ns.load(Ordering::Relaxed)
    }

    /// Time that launches have waited for the budget, ns, summed over threads.
    #[must_use]
    pub fn throttled_ns(self) -> u64 {
        self.0.throttled_ns.load(Ordering::Relaxed)
    }

    /// Adds to the GPU time used.
    pub fn note_used(self, ns: u64) {
        self.0.used_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Corrects what was booked, in both words; `look` is at the clock, under a word that is to be changed.
    #[inline(never)]
    pub fn correct(self, correction: Correction, look: &dyn Fn(u64) -> Option<Look>) {
        for (rule, word) in [(Rule::Window, self.window()), (Rule::Period, self.period())] {
            let mut seen = word.load(Ordering::Acquire);
            while let Some(look) = look(seen) {
                let next = rule.correct(seen, look, correction);
                match word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            }
        }
    }

    /// Charges what had work on the GPU and is gone, a process or a context: GPU time used, ns, and what of it was not booked. The
    /// budget's own words say under which cap; before the first booking they are 0, and nothing is owed.
    #[inline(never)]
    pub fn charge_the_gone(self, used_ns: u64, owed_ns: u64) {
        self.note_used(used_ns);
        self.correct(Correction::Owed(owed_ns), &|word| {
            Some(Look {
                now_ns: sys::monotonic_ns(),
                cap: written_under(word)?,
                clock_went_back: false,
                takes_turns: false,
            })
        });
    }

    /// Adds to the time waited.
    pub fn note_throttled(self, ns: u64) {
        self.0.throttled_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// A tenant file, mapped for the rest of the process's life.
#[derive(Clone, Copy)]
pub struct Tenant(pub(crate) &'static File);

impl Tenant {
    fn map(fd: &Fd) -> Result<Self, Unusable> {
        let bytes = sys::file_info(fd)?.bytes;
        if bytes < KIND.bytes as u64 {
            return Err(Unusable::short(bytes, KIND.bytes as u64));
        }
        // A child must not write its parent's books: it has no mapping at all, and finds so by its wiped state. Whoever holds a `Tenant`
        // keeps it in memory that a child sees zeroed.
        let file: NonNull<File> = sys::map_here_alone(fd, KIND.bytes)?.cast();
        // SAFETY: the mapping is page-aligned, as long as `File`, never unmapped while the reference is used (a
        // child, which lacks it, does not use it), and `File` is atomics throughout.
        Ok(Tenant(unsafe { file.as_ref() }))
    }

    /// Maps the file at `path`, which must exist.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        Tenant::open_at(sys::HERE, path)
    }

    #[inline(never)]
    fn open_at(folder: i32, path: &Path) -> Result<Self, Unusable> {
        let fd = path.open_at(folder, libc::O_RDWR | libc::O_NOFOLLOW, 0)?;
        let tenant = Tenant::map(&fd)?;
        tenant.0.header.check(KIND, KIND.bytes as u64)?;
        Ok(tenant)
    }

    /// Maps the tenant's file below `directory`, and makes it first where it does not exist.
    ///
    /// # Errors
    /// Why it cannot be used.
    #[inline(never)]
    pub fn open_or_create(directory: &Directory, name: &TenantName) -> Result<Self, Unusable> {
        let (folder, path) = (directory.tenants()?, path::tenant(name));
        let folder = folder.number();
        match Tenant::open_at(folder, &path) {
            Err(Unusable::System(Errno(libc::ENOENT))) => {}
            other => return other,
        }
        // The file gets its name only when it is complete; of two makers one wins, and both use the winner's.
        // Processes of other PID namespaces may have our PID: the time tells the drafts apart, and a name that is taken all the
        // same is left to its maker.
        let tag = sys::monotonic_ns().rotate_left(24) ^ u64::from(sys::process_id());
        let draft = path::tenant_draft(name, tag);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let fd = draft.open_at(folder, flags, 0o600)?;
        let made = sys::set_mode(&fd, directory.mode());
        let made = made.map_err(Unusable::from).and_then(|()| Tenant::lay_out(&fd, name));
        let linked = made.and_then(|()| Ok(sys::link_at(folder, draft.as_c_str(), path.as_c_str())?));
        let _ = sys::unlink_at(folder, draft.as_c_str());
        match linked {
            Ok(()) | Err(Unusable::System(Errno(libc::EEXIST))) => Tenant::open_at(folder, &path),
            Err(error) => Err(error),
        }
    }

    fn lay_out(fd: &Fd, name: &TenantName) -> Result<(), Unusable> {
        sys::take_space(fd, KIND.bytes)?;
        let memory = sys::map(Mapping::Shared(fd), KIND.bytes)?;
        {
            let file: NonNull<File> = memory.cast();
            // SAFETY: as in `map`; the reference ends with this block.
            let file = unsafe { file.as_ref() };
            store(&file.summary.name, name.words());
            file.header.write(KIND);
        }
        // SAFETY: mapped above, and no reference is left.
        unsafe { sys::unmap(memory, KIND.bytes) };
        Ok(())
    }

    /// The tenant's name as it stands in the file.
    #[must_use]
    pub fn name(&self) -> Option<TenantName> {
        TenantName::from_words(load(&self.0.summary.name))
    }

    /// The index of `gpu`, which gets one at first sight; `None` where 16 other GPUs have them all.
    ///
    /// The two words of a UUID are claimed one after the other, so a claimer that dies between them is finished by
    /// the next. GPUs with the same first word would share an index; UUIDs are random, so they do not exist.
    #[must_use]
    pub fn gpu_index(&self, gpu: GpuId) -> Option<GpuIndex> {
        let [first, second] = gpu.words();
        let claim = |word: &atomic::AtomicU64, value: u64| {
            word.compare_exchange(0, value, Ordering::Relaxed, Ordering::Relaxed).err().unwrap_or(value)
                == value
        };
        let mine = |entry: &Gpu| claim(&entry.uuid[0], first.max(1)) && claim(&entry.uuid[1], second);
        self.0.gpus.iter().position(mine).map(GpuIndex)
    }

    /// The GPUs that have an index.
    pub fn gpus(&self) -> impl Iterator<Item = (GpuIndex, GpuId)> + '_ {
        let gpus = self.0.gpus.iter().enumerate().map(|(i, gpu)| (GpuIndex(i), load(&gpu.uuid)));
        gpus.filter(|(_, words)| words[0] != 0).map(|(i, words)| (i, GpuId::from_words(words)))
    }

    /// The device's memory as CUDA counts it, bytes; 0 where no process has looked yet.
    #[must_use]
    pub fn total(&self, gpu: GpuIndex) -> u64 {
        self.0.gpus.get(gpu.0).map_or(0, |gpu| gpu.total_bytes.load(Ordering::Relaxed))
    }

    /// Notes the device's memory as CUDA counts it, bytes.
    pub fn note_total(&self, gpu: GpuIndex, bytes: u64) {
        if let Some(gpu) = self.0.gpus.get(gpu.0) {
            gpu.total_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// The most that a process's context and code were seen to take on `gpu`, bytes; 0 where none was.
    #[must_use]
    pub fn learned_overhead(&self, gpu: GpuIndex) -> u64 {
        self.0.gpus.get(gpu.0).map_or(0, |gpu| gpu.overhead_bytes.load(Ordering::Relaxed))
    }

    /// Notes that a process's context and code took `bytes` on `gpu`.
    pub fn learn_overhead(&self, gpu: GpuIndex, bytes: u64) {
        if let Some(gpu) = self.0.gpus.get(gpu.0) {
            gpu.overhead_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// The tenant's GPU time on `gpu`.
    #[must_use]
    pub fn meter(&self, gpu: GpuIndex) -> Option<Meter> {
        self.0.gpus.get(gpu.0).map(Meter)
    }

    /// The event log.
    #[must_use]
    pub fn events(&self) -> &'static Events {
        &self.0.events
    }

    /// How many places a sum must look at: bounded by the layout, whatever the file says.
    #[inline(always)]
    pub(crate) fn places_in_use(&self) -> usize {
        (self.0.summary.high_water.load(Ordering::SeqCst) as usize).min(PROCESSES)
    }

    /// A process's place, by its number. The remainder, here and below, is the number itself, and says so to the compiler.
    pub(crate) fn place(self, number: usize) -> &'static Place {
        &self.0.places[number % PROCESSES]
    }

    /// A process's line in the books of a GPU.
    #[inline(never)]
    pub(crate) fn line(self, gpu: usize, place: usize) -> &'static Line {
        &self.0.books[gpu % GPUS][place % PROCESSES]
    }

    /// The places that a sum must look at, by number.
    pub(crate) fn places(self) -> Places {
        Places { tenant: self, next: 0 }
    }
}

/// See [`Tenant::places`].
pub(crate) struct Places {
    tenant: Tenant,
    next: usize,
}

impl Iterator for Places {
    type Item = (usize, &'static Place);

    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next;
        if number >= self.tenant.places_in_use() {
            return None;
        }
        self.next += 1;
        Some((number, self.tenant.place(number)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn the_layout_is_the_one_that_version_1_has() {
        assert_eq!(size_of::<Header>(), 64);
        assert_eq!((offset_of!(File, summary), offset_of!(File, gpus)), (64, 128));
        assert_eq!((offset_of!(File, places), offset_of!(File, books)), (1152, 66_688));
        assert_eq!(offset_of!(File, events), 66_688 + 1024 * 1024);
        assert_eq!((offset_of!(Line, booked), offset_of!(Line, overhead)), (8, 16));
        assert_eq!(KIND.layout_hash, GOLDEN_LAYOUT_HASH, "the layout changed: raise header::MAJOR");
    }
    const GOLDEN_LAYOUT_HASH: u64 = 12_832_710_743_800_860_040;

    #[test]
    fn a_gpu_keeps_its_index_and_the_17th_gets_none() {
        let tenant = Bench::new().tenant();
        let gpu = |n: u64| GpuId::from_words([n + 1, n]);
        for (i, n) in (0..GPUS).zip(0..) {
            assert_eq!(tenant.gpu_index(gpu(n)), Some(GpuIndex(i)));
        }
        assert_eq!(tenant.gpu_index(gpu(3)), Some(GpuIndex(3)));
        assert_eq!(tenant.gpu_index(gpu(99)), None);
        assert_eq!(tenant.gpus().count(), GPUS);
    }

    #[test]
    fn a_claim_that_a_death_left_half_done_is_finished_by_the_next() {
        let tenant = Bench::new().tenant();
        tenant.0.gpus[0].uuid[0].store(5, Ordering::Relaxed);
        assert_eq!(tenant.gpu_index(GpuId::from_words([5, 6])), Some(GpuIndex(0)));
        assert_eq!(tenant.gpus().next(), Some((GpuIndex(0), GpuId::from_words([5, 6]))));
    }

    #[test]
    fn two_makers_end_up_with_one_file() {
        let bench = Bench::new();
        let (a, b) = (bench.tenant(), bench.tenant());
        a.learn_overhead(a.gpu_index(GpuId::from_words([1, 1])).unwrap(), 77);
        assert_eq!(b.learned_overhead(GpuIndex(0)), 77);
        assert_eq!(b.name(), Some(bench.name));
    }

    #[test]
    fn a_truncated_file_is_refused_with_its_length() {
        let bench = Bench::new();
        let _ = bench.tenant();
        let path = bench.directory.tenant(&bench.name).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path.as_c_str().to_str().unwrap()).unwrap();
        file.set_len(4096).unwrap();
        let found = Tenant::open(&path).err();
        assert_eq!(found, Some(Unusable::short(4096, KIND.bytes as u64)));
    }
}
