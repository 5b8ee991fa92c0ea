//! The operator's file: what each tenant may have, by GPU. Tenants map it read-only.
//!
//! An entry is kept in two copies. A writer fills the copy that is not in use, then swaps one word that holds both
//! the copy's number and a generation; a reader whose word has changed meanwhile reads again, a bounded number of
//! times. A writer that dies half-way leaves the old copy in use.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use cuota_governor::cap::Cap;
use cuota_governor::entitlement::{Entitlement, MOST_WEIGHT, Priority, WHOLE_PPM};
use cuota_governor::{physical, quota};

use crate::header::{Header, Kind, Unusable, layout_hash};
use crate::name::{GpuId, TenantName, load, store};
use crate::path::Directory;
use crate::sys::{self, Fd, Mapping};

/// How many entries the file has room for.
pub const ENTRIES: usize = 1024;

/// How often a reader tries an entry that keeps changing.
const READ_TRIES: usize = 16;

/// The bit of [`Key::select`] that says that the entry exists; bit 0 is the copy in use, the rest a generation.
const PRESENT: u64 = 2;
const GENERATION: u64 = 4;

/// Whose limits an entry holds, and which copy of them is in use.
#[repr(C, align(64))]
struct Key {
    /// The tenant's name: up to 31 ASCII characters, then NUL.
    tenant: [AtomicU64; 4],
    /// The GPU's UUID as two numbers, its first byte the highest of the first; both 0: any GPU.
    gpu: [AtomicU64; 2],
    /// Bit 0: the copy in use. Bit 1: there is an entry. The rest: a generation. Load it (acquire), read name, GPU and
    /// that copy (relaxed), fence (acquire), load it again (relaxed): only if it is the same was all of one moment.
    select: AtomicU64,
    reserved: AtomicU64,
}

/// One copy of an entry's limits.
#[repr(C, align(64))]
struct Copy {
    /// The memory quota, bytes; all ones: none. It counts while `memory_ppm` is 0.
    memory_bytes: AtomicU64,
    /// The memory quota in parts per million of the GPU's memory; 0: it is in `memory_bytes`.
    memory_ppm: AtomicU32,
    /// Never more than this share of the GPU's time, parts per million.
    compute_cap_ppm: AtomicU32,
    /// Never less, parts per million.
    guarantee_ppm: AtomicU32,
    /// One more than its weight, by which what nobody is guaranteed is divided; 0: the usual weight, 100.
    weight: AtomicU32,
    /// One more than its priority: 1 low, 2 normal, 3 high; 0: normal.
    priority: AtomicU32,
    /// Bit 0: made for one program, to be removed when nothing of it runs.
    flags: AtomicU32,
    reserved: [AtomicU64; 4],
}

/// Whose limits, and the limits in two copies.
#[repr(C, align(64))]
struct Entry {
    key: Key,
    copies: [Copy; 2],
}

/// `policy.v1`. Written by the operator alone, one writer at a time; tenants map it read-only.
#[repr(C, align(64))]
struct File {
    header: Header,
    entries: [Entry; ENTRIES],
}

/// What a policy file is.
pub const KIND: Kind = Kind {
    magic: u64::from_le_bytes(*b"cuotaPOL"),
    layout_hash: layout_hash(&[
        size_of::<File>(),
        ENTRIES,
        offset_of!(Entry, copies),
        offset_of!(Key, gpu),
        offset_of!(Key, select),
        offset_of!(Copy, memory_ppm),
        offset_of!(Copy, compute_cap_ppm),
        offset_of!(Copy, guarantee_ppm),
        offset_of!(Copy, weight),
        offset_of!(Copy, priority),
        offset_of!(Copy, flags),
    ]),
    bytes: size_of::<File>(),
};

/// See [`crate::abi`].
#[doc(hidden)]
pub const LAYOUTS: &[crate::abi::Layout] = &[
    crate::abi::layout!(Key as "cuota_policy_key": tenant, gpu, select, reserved),
    crate::abi::layout!(
        Copy as "cuota_policy_limits":
            memory_bytes, memory_ppm, compute_cap_ppm, guarantee_ppm, weight, priority, flags, reserved
    ),
    crate::abi::layout!(Entry as "cuota_policy_entry": key, copies),
    crate::abi::layout!(File as "cuota_policy_file": header, entries),
];

/// A memory quota as the operator asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryLimit {
    /// No quota.
    Unlimited,
    /// Bytes.
    Bytes(u64),
    /// A share of the device's memory in parts per million.
    Share(u32),
}

impl MemoryLimit {
    /// The quota in bytes on a device with `total` bytes: never more than the device has.
    #[must_use]
    pub fn in_bytes(self, total: u64) -> u64 {
        match self {
            MemoryLimit::Unlimited => quota::UNLIMITED,
            MemoryLimit::Bytes(bytes) => bytes.min(total),
            MemoryLimit::Share(ppm) => physical::share_of(total, ppm),
        }
    }
}

/// What a tenant may have on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The memory quota.
    pub memory: MemoryLimit,
    /// The share of the GPU's time; [`Cap::FULL`]: not limited.
    pub compute: Cap,
    /// What it is entitled to where several want the GPU.
    pub entitlement: Entitlement,
    /// Removed by the next sweep once no process of the tenant lives: made by `cuota run` for one program.
    pub ephemeral: bool,
}

const EPHEMERAL: u32 = 1;

impl Limits {
    /// This memory quota, and nothing else.
    #[must_use]
    pub const fn of_memory(memory: MemoryLimit) -> Self {
        Limits { memory, compute: Cap::FULL, entitlement: Entitlement::USUAL, ephemeral: false }
    }
}

impl Copy {
    fn write(&self, limits: Limits) {
        let (bytes, ppm) = match limits.memory {
            MemoryLimit::Unlimited => (quota::UNLIMITED, 0),
            MemoryLimit::Bytes(bytes) => (bytes, 0),
            MemoryLimit::Share(ppm) => (quota::UNLIMITED, ppm.max(1)),
        };
        self.memory_bytes.store(bytes, Ordering::Relaxed);
        self.memory_ppm.store(ppm, Ordering::Relaxed);
        self.compute_cap_ppm.store(limits.compute.ppm(), Ordering::Relaxed);
        let Entitlement { guarantee_ppm, weight, priority } = limits.entitlement;
        self.guarantee_ppm.store(guarantee_ppm, Ordering::Relaxed);
        self.weight.store(weight + 1, Ordering::Relaxed);
        self.priority.store(priority as u32 + 1, Ordering::Relaxed);
        self.flags.store(if limits.ephemeral { EPHEMERAL } else { 0 }, Ordering::Relaxed);
    }

    fn read(&self) -> Limits {
        let memory =
            match (self.memory_ppm.load(Ordering::Relaxed), self.memory_bytes.load(Ordering::Relaxed)) {
                (0, quota::UNLIMITED) => MemoryLimit::Unlimited,
                (0, bytes) => MemoryLimit::Bytes(bytes),
                (ppm, _) => MemoryLimit::Share(ppm),
            };
        // No number that is none was ever written here by us.
        let compute = Cap::from_ppm(self.compute_cap_ppm.load(Ordering::Relaxed)).unwrap_or(Cap::FULL);
        let entitlement = Entitlement {
            guarantee_ppm: self.guarantee_ppm.load(Ordering::Relaxed).min(WHOLE_PPM),
            weight: match self.weight.load(Ordering::Relaxed) {
                0 => Entitlement::USUAL.weight,
                more => (more - 1).min(MOST_WEIGHT),
            },
            priority: Priority::from_number(self.priority.load(Ordering::Relaxed).wrapping_sub(1))
                .unwrap_or_default(),
        };
        Limits {
            memory,
            compute,
            entitlement,
            ephemeral: self.flags.load(Ordering::Relaxed) & EPHEMERAL != 0,
        }
    }
}

/// An entry as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Whose limits.
    pub tenant: TenantName,
    /// On which GPU.
    pub gpu: GpuId,
    /// The limits.
    pub limits: Limits,
}

/// What a look-up found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The limits.
    Limits(Limits),
    /// No entry, not even a default one.
    Nothing,
    /// The entry changed during every try: keep what was known.
    Unsettled,
}

/// A tenant's name and a GPU's UUID.
type Whose = ([u64; 4], [u64; 2]);

impl Entry {
    fn is_present(&self) -> bool {
        self.key.select.load(Ordering::Acquire) & PRESENT != 0
    }

    /// Whose limits the entry holds, as words.
    fn whose(&self) -> Whose {
        (load(&self.key.tenant), load(&self.key.gpu))
    }

    fn is_for(&self, whose: &Whose) -> bool {
        self.is_present() && self.is_of(whose)
    }

    /// Whether the entry, if there is one, holds these limits.
    #[inline(never)]
    fn is_of(&self, whose: &Whose) -> bool {
        self.whose() == *whose
    }

    /// What `read` finds of the key and the copy in use, of one moment. `Ok(None)`: no entry here, or nothing that it looks for.
    fn settled<T>(&self, read: impl Fn(&Copy) -> Option<T>) -> Result<Option<T>, ()> {
        for _ in 0..READ_TRIES {
            let before = self.key.select.load(Ordering::Acquire);
            if before & PRESENT == 0 {
                return Ok(None);
            }
            let copy = if before & 1 == 0 { &self.copies[0] } else { &self.copies[1] };
            let Some(found) = read(copy) else { return Ok(None) };
            // The loads above are done before the word is read again: Boehm, "Can seqlocks get along with
            // programming language memory models?", MSPC 2012.
            fence(Ordering::Acquire);
            if self.key.select.load(Ordering::Relaxed) == before {
                return Ok(Some(found));
            }
        }
        Err(())
    }

    fn write(&self, limits: Limits) {
        let select = self.key.select.load(Ordering::Relaxed);
        let unused = if select & 1 == 0 { &self.copies[1] } else { &self.copies[0] };
        // A reader that sees one of the stores below must also see the word changed: order them after a fence.
        fence(Ordering::Release);
        unused.write(limits);
        self.key.select.store(((select ^ 1) | PRESENT).wrapping_add(GENERATION), Ordering::Release);
    }
}

/// A policy file, mapped.
#[derive(Clone, Copy)]
pub struct Policy(&'static File);

impl Policy {
    /// Where the epoch lies in the file, bytes.
    pub const EPOCH_AT: usize = core::mem::offset_of!(File, header) + core::mem::offset_of!(Header, epoch);

    fn map(fd: &Fd, mapping: Mapping<'_>) -> Result<Self, Unusable> {
        let bytes = sys::file_info(fd)?.bytes;
        if bytes < KIND.bytes as u64 {
            return Err(Unusable::short(bytes, KIND.bytes as u64));
        }
        let file: NonNull<File> = sys::map(mapping, KIND.bytes)?.cast();
        // SAFETY: the mapping is page-aligned, as long as `File`, never unmapped, and `File` is atomics throughout,
        // for which every bit pattern is a value.
        Ok(Policy(unsafe { file.as_ref() }))
    }

    /// Maps the policy of a directory for reading.
    ///
    /// # Errors
    /// Why it cannot be used.
    #[inline(never)]
    pub fn open(directory: &Directory) -> Result<Self, Unusable> {
        let fd = directory.open_policy()?;
        let policy = Policy::map(&fd, Mapping::SharedReadOnly(&fd))?;
        policy.0.header.check(KIND, KIND.bytes as u64)?;
        Ok(policy)
    }

    /// Sleeps until the deadline (CLOCK_MONOTONIC, ns), a signal, or a change of the file whose epoch was `epoch`.
    pub fn wait(&self, epoch: u32, deadline_ns: u64) {
        sys::wait_until(&self.0.header.epoch, epoch, deadline_ns);
    }

    /// A number that changes with every change of the file.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.0.header.epoch.load(Ordering::Acquire)
    }

    /// The limits of `tenant` on `gpu`: its entry for that GPU, else its entry for any, else the same of `default`.
    #[must_use]
    pub fn look_up(&self, tenant: &TenantName, gpu: GpuId) -> Found {
        for (tenant, gpu) in [
            (tenant, gpu),
            (tenant, GpuId::ANY),
            (&TenantName::DEFAULT, gpu),
            (&TenantName::DEFAULT, GpuId::ANY),
        ] {
            let whose = (tenant.words(), gpu.words());
            for entry in &self.0.entries {
                match entry.settled(|copy| entry.is_of(&whose).then(|| copy.read())) {
                    Ok(Some(limits)) => return Found::Limits(limits),
                    Ok(None) => {}
                    Err(()) => return Found::Unsettled,
                }
            }
        }
        Found::Nothing
    }

    /// All entries, each as of one moment; one that never settles is left out.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.0.entries.iter().filter_map(|entry| {
            let ((tenant, gpu), limits) =
                entry.settled(|copy| Some((entry.whose(), copy.read()))).ok().flatten()?;
            // A name that does not parse is rubbish in a file that only the operator writes: no entry.
            Some(Row { tenant: TenantName::from_words(tenant)?, gpu: GpuId::from_words(gpu), limits })
        })
    }
}

/// A policy file, mapped for writing. One writer at a time: the caller holds the operator's file lock.
pub struct PolicyWriter(Policy);

/// All 1,024 entries are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

impl PolicyWriter {
    /// Maps an open, writable file, and lays it out where it is empty.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn on(fd: &Fd) -> Result<Self, Unusable> {
        let fresh = sys::file_info(fd)?.bytes == 0;
        if fresh {
            sys::take_space(fd, KIND.bytes)?;
        }
        let policy = Policy::map(fd, Mapping::Shared(fd))?;
        if fresh {
            policy.0.header.write(KIND);
        }
        policy.0.header.check(KIND, KIND.bytes as u64)?;
        Ok(PolicyWriter(policy))
    }

    /// The file as readers see it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.0
    }

    /// A policy without entries, in memory of this process's own: for limits that stand elsewhere and whose changes it tells.
    ///
    /// # Errors
    /// There is no memory.
    pub fn of_own() -> Result<Self, Unusable> {
        let file: NonNull<File> = sys::map(Mapping::Private, KIND.bytes)?.cast();
        // SAFETY: as in `Policy::map`.
        Ok(PolicyWriter(Policy(unsafe { file.as_ref() })))
    }

    /// Tells those who read the policy, or wait on it, that something has changed.
    pub fn changed(&self) {
        let epoch = &self.0.0.header.epoch;
        epoch.fetch_add(1, Ordering::Release);
        sys::wake_all(epoch);
    }

    /// Sets the limits of `tenant` on `gpu`, in force with the tenant's next call.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing is changed.
    pub fn set(&self, tenant: &TenantName, gpu: GpuId, limits: Limits) -> Result<(), NoRoom> {
        let entries = &self.0.0.entries;
        let whose = (tenant.words(), gpu.words());
        let own = entries.iter().find(|entry| entry.is_for(&whose));
        let entry = own.or_else(|| entries.iter().find(|entry| !entry.is_present())).ok_or(NoRoom)?;
        if own.is_none() {
            store(&entry.key.tenant, whose.0);
            store(&entry.key.gpu, whose.1);
        }
        entry.write(limits);
        self.changed();
        Ok(())
    }

    /// Removes the entry of `tenant` on `gpu`; `false` where there was none.
    pub fn remove(&self, tenant: &TenantName, gpu: GpuId) -> bool {
        let whose = (tenant.words(), gpu.words());
        let Some(entry) = self.0.0.entries.iter().find(|entry| entry.is_for(&whose)) else {
            return false;
        };
        let select = entry.key.select.load(Ordering::Relaxed);
        entry.key.select.store((select & !PRESENT).wrapping_add(GENERATION), Ordering::Release);
        self.changed();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    struct Bench {
        _dir: tempfile::TempDir,
        directory: Directory,
        writer: PolicyWriter,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::at(dir.path().as_os_str().as_bytes()).unwrap();
        let fd = directory.policy().unwrap().open(libc::O_RDWR | libc::O_CREAT, 0o644).unwrap();
        Bench { _dir: dir, directory, writer: PolicyWriter::on(&fd).unwrap() }
    }

    fn name(text: &str) -> TenantName {
        TenantName::parse(text.as_bytes()).unwrap()
    }

    fn bytes(bytes: u64) -> Limits {
        Limits::of_memory(MemoryLimit::Bytes(bytes))
    }

    const GPU: GpuId = GpuId::from_words([7, 9]);

    #[test]
    fn nobody_waits_for_a_fifo_in_the_policy_s_place() {
        let bench = bench();
        let path = bench.directory.policy().unwrap();
        let name = path.as_c_str();
        std::fs::remove_file(std::ffi::OsStr::from_bytes(name.to_bytes())).unwrap();
        // SAFETY: the path is NUL-terminated.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o644) }, 0);
        assert!(Policy::open(&bench.directory).is_err());
    }

    #[test]
    fn the_layout_is_the_one_that_version_1_has() {
        assert_eq!(size_of::<Entry>(), 192);
        assert_eq!((offset_of!(Key, gpu), offset_of!(Key, select)), (32, 48));
        assert_eq!(offset_of!(Entry, copies), 64);
        assert_eq!((offset_of!(Copy, memory_ppm), offset_of!(Copy, compute_cap_ppm)), (8, 12));
        assert_eq!((offset_of!(Copy, priority), offset_of!(Copy, flags)), (24, 28));
        assert_eq!(KIND.bytes, 64 + 1024 * 192);
        assert_eq!(KIND.layout_hash, GOLDEN_LAYOUT_HASH, "the layout changed: raise header::MAJOR");
    }
    const GOLDEN_LAYOUT_HASH: u64 = 6_877_375_422_817_691_646;

    #[test]
    fn the_entry_for_the_gpu_wins_then_the_tenants_then_the_default() {
        let bench = bench();
        let reader = Policy::open(&bench.directory).unwrap();
        let a = name("a");
        assert_eq!(reader.look_up(&a, GPU), Found::Nothing);
        for (tenant, gpu, size) in [
            (TenantName::DEFAULT, GpuId::ANY, 1),
            (TenantName::DEFAULT, GPU, 2),
            (a, GpuId::ANY, 3),
            (a, GPU, 4),
        ] {
            bench.writer.set(&tenant, gpu, bytes(size)).unwrap();
            assert_eq!(reader.look_up(&a, GPU), Found::Limits(bytes(size)));
        }
        assert!(bench.writer.remove(&a, GPU));
        assert_eq!(reader.look_up(&a, GPU), Found::Limits(bytes(3)));
        assert!(!bench.writer.remove(&a, GPU));
    }

    #[test]
    fn an_entry_of_a_version_that_knew_no_entitlement_has_the_usual_one() {
        let bench = bench();
        bench.writer.set(&name("a"), GPU, bytes(5)).unwrap();
        for copy in bench.writer.policy().0.entries[0].copies.iter() {
            for word in [&copy.guarantee_ppm, &copy.weight, &copy.priority] {
                word.store(0, Ordering::Relaxed);
            }
        }
        assert_eq!(bench.writer.policy().look_up(&name("a"), GPU), Found::Limits(bytes(5)));
    }

    #[test]
    fn every_change_changes_the_epoch() {
        let bench = bench();
        let before = bench.writer.policy().epoch();
        bench.writer.set(&name("a"), GpuId::ANY, bytes(1)).unwrap();
        assert_ne!(bench.writer.policy().epoch(), before);
    }

    #[test]
    fn a_full_file_refuses_and_keeps_what_it_has() {
        let bench = bench();
        for i in 0..ENTRIES {
            bench.writer.set(&name(&format!("t{i}")), GpuId::ANY, bytes(i as u64)).unwrap();
        }
        assert_eq!(bench.writer.set(&name("more"), GpuId::ANY, bytes(1)), Err(NoRoom));
        assert_eq!(bench.writer.policy().rows().count(), ENTRIES);
        assert_eq!(bench.writer.policy().look_up(&name("t77"), GPU), Found::Limits(bytes(77)));
    }

    #[test]
    fn a_file_that_is_cut_short_or_not_ours_is_refused_by_name() {
        let bench = bench();
        let path = bench.directory.policy().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path.as_c_str().to_str().unwrap()).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(Policy::open(&bench.directory).err(), Some(Unusable::short(100, KIND.bytes as u64)));
        file.set_len(0).unwrap();
        file.set_len(KIND.bytes as u64).unwrap();
        assert_eq!(Policy::open(&bench.directory).err(), Some(Unusable::NotOurs));
    }

    #[test]
    fn a_reader_beside_a_writer_never_sees_half_an_entry() {
        let bench = bench();
        let reader = Policy::open(&bench.directory).unwrap();
        let a = name("a");
        let even = |n: u64| Limits { ephemeral: n % 2 == 1, ..bytes(n) };
        bench.writer.set(&a, GPU, even(0)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|n| bench.writer.set(&a, GPU, even(n)).unwrap()));
            for _ in 0..20_000 {
                if let Found::Limits(Limits { memory: MemoryLimit::Bytes(n), ephemeral, .. }) =
                    reader.look_up(&a, GPU)
                {
                    assert_eq!(ephemeral, n % 2 == 1);
                }
            }
        });
    }

    proptest! {
        #[test]
        fn what_is_set_is_read(
            size in 0..quota::UNLIMITED, ppm in 1_u32..=1_000_000, cap in 1_u32..=1_000_000, ephemeral: bool,
            guarantee_ppm in 0..=WHOLE_PPM, weight in 0..=MOST_WEIGHT, priority in 0..3_u32,
        ) {
            let priority = Priority::from_number(priority).unwrap();
            let entitlement = Entitlement { guarantee_ppm, weight, priority };
            let compute = Cap::from_ppm(cap).unwrap();
            let bench = bench();
            for memory in [MemoryLimit::Bytes(size), MemoryLimit::Share(ppm), MemoryLimit::Unlimited] {
                let limits = Limits { memory, compute, entitlement, ephemeral };
                bench.writer.set(&name("x"), GPU, limits).unwrap();
                prop_assert_eq!(Policy::open(&bench.directory).unwrap().look_up(&name("x"), GPU), Found::Limits(limits));
            }
        }
    }
}
