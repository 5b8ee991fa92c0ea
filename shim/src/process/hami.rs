//! A container of HAMi's: limits from its variables and from the file that its monitor maps, and this process's slot in that file.
//!
//! The variables fill the file; from then on the file's limits count, for they can be changed while programs run. Without a file that
//! can be used the variables count. A device is known by its number in the container, which is NVML's: neither the host's, nor CUDA's,
//! which `CUDA_VISIBLE_DEVICES` changes.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::CUdevice;
use cuota_governor::cap::Cap;
use cuota_region::event::{Event, Problem};
use cuota_region::hami::file::{self, Monitored, NOTHING};
use cuota_region::hami::layout::UUID_BYTES;
use cuota_region::hami::own::{Joined, Places};
use cuota_region::hami::variables::{self, Variables, When};
use cuota_region::hami::{DEFAULT_FILE, LIBRARY};
use cuota_region::header::Unusable;
use cuota_region::ledger::Books;
use cuota_region::member::Member;
use cuota_region::name::GpuId;
use cuota_region::path::Directory;
use cuota_region::policy::{Found, Limits, PolicyWriter};
use cuota_region::sys::{self, Errno};

use super::device::{DEVICES, Device};
use super::settings::{Settings, own_path};
use super::{CLOSED, MANAGED, PROCESS, Process, UNKNOWN, driver, nvml};

/// How often the file's shares of time are compared with what they were.
const LOOK_NS: u64 = 10_000_000;

/// How often this process's slot is written, and how often work is noted.
const STAMP_NS: u64 = 1_000_000_000;

/// How often a launch that the monitor holds back looks whether it may go.
const PAUSE_NS: u64 = 20_000_000;

/// The bit of the variable that names the file.
const FILE: u32 = 1 << variables::FILE;

/// What has overruled a variable, as an event says it: the limit in the monitor's file. (0: a policy.)
const BY_THE_FILE: u32 = 1;

/// What was found in the container.
struct Container {
    variables: &'static Variables,
    file: Option<Monitored>,
    /// Where our own files are.
    directory: Directory,
    /// Wakes those who wait when the file has changed.
    changes: PolicyWriter,
}

/// HAMi's part of a process's state. All-zero: this is no container of HAMi's.
#[repr(C)]
pub(crate) struct Hami {
    /// 1 once `container` is written.
    on: AtomicU32,
    container: UnsafeCell<MaybeUninit<Container>>,
    /// By the device's number in the container: what tells it from the others; 0: not known.
    gpus: [AtomicU64; DEVICES],
    /// The file's shares of time when they were last looked at, and when that was.
    shares: AtomicU64,
    looked_ns: AtomicU64,
    /// When the slot was last written, and when work was last noted, ns.
    stamped_ns: AtomicU64,
    worked_ns: AtomicU64,
    /// By ordinal: the GPU time that this process had used when its slot was last written, ns.
    used_ns: [AtomicU64; DEVICES],
}

impl Hami {
    /// Whether limits come from HAMi's variables or file.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire) != 0
    }

    fn container(&self) -> Option<&Container> {
        // SAFETY: written, by the one thread that joined, before `on` said so; never again since.
        self.is_on().then(|| unsafe { (*self.container.get()).assume_init_ref() })
    }

    fn file(&self) -> Option<Monitored> {
        self.container()?.file
    }

    /// The directory with our own files.
    pub(super) fn directory(&self) -> Option<Directory> {
        self.container().map(|container| container.directory)
    }

    /// This process has lost its place, and taken another.
    pub(super) fn moved(&self, from: &Member, to: &Member) {
        if let Some(file) = self.file() {
            file.leave(from);
            file.enter(to);
            self.stamped_ns.store(0, Ordering::Relaxed);
        }
    }

    /// A device's number in the container, if it was ever asked for.
    #[inline(never)]
    fn number_of(&self, gpu: GpuId) -> Option<usize> {
        let wanted = word(gpu);
        self.gpus.iter().position(|gpu| gpu.load(Ordering::Relaxed) == wanted)
    }

    /// Finds the numbers of devices: as another process of the container has written them to the file, else by NVML, which takes 16 ms
    /// to begin, else, without NVML, by CUDA.
    #[cold]
    #[inline(never)]
    fn learn(&self, file: Option<Monitored>, gpu: GpuId) -> Option<usize> {
        let mut has_asked = false;
        for (number, index) in (0..DEVICES).zip(0..) {
            let mut text = [0; UUID_BYTES];
            if let Some(file) = file {
                file.read_uuid(number, &mut text);
            }
            if text[0] == 0 {
                if !has_asked && nvml::open().is_err() || nvml::name_at(index, &mut text).is_err() {
                    break;
                }
                has_asked = true;
                if let Some(file) = file {
                    file.set_uuid(number, &text);
                }
            }
            if let (Some(known), Some(place)) = (nvml::parse_uuid(&text), self.gpus.get(number)) {
                place.store(word(known), Ordering::Relaxed);
                // Else the file is to have all of them.
                if known == gpu && !has_asked {
                    break;
                }
            }
        }
        self.number_of(gpu).or_else(|| {
            let count = CUdevice::try_from(driver::device_count()?).ok()?;
            let is_it = |ordinal: &CUdevice| driver::device_uuid(*ordinal).map(GpuId::from_uuid) == Some(gpu);
            let number = usize::try_from((0..count).find(is_it)?).ok()?;
            self.gpus.get(number)?.store(word(gpu), Ordering::Relaxed);
            Some(number)
        })
    }
}

/// Makes the monitor's file in the container's first process, whether that uses CUDA or not: one that comes later and has lost its
/// environment, in a login by ssh for one, finds its limits there. Only under HAMi's name, by which that one finds the file.
#[cold]
pub(crate) fn announce() {
    let settings = Settings::get();
    let Some(variables) = settings.variables() else { return };
    if !own_path().ends_with(LIBRARY) {
        return;
    }
    let counts = |(directory, is_named): (Directory, bool)| !is_named && !directory.is_protected();
    // As in `join_hami`.
    for path in [variables.path().unwrap_or(DEFAULT_FILE), DEFAULT_FILE] {
        if file::is_there(path) || !settings.directory().is_some_and(counts) {
            return;
        }
        // What this one cannot read is the container's specification.
        if Monitored::open(path, variables, NOTHING).err() != Some(Unusable::System(Errno(libc::ENOENT))) {
            return;
        }
    }
}

/// What tells a GPU from the others of a container.
fn word(gpu: GpuId) -> u64 {
    let [first, second] = gpu.words();
    (first.rotate_left(1) ^ second).max(1)
}

/// Says in the events which variables are not followed.
fn say(member: &Member, numbers: u32, problem: Problem, error: u32) {
    for variable in (0..u32::BITS).filter(|number| numbers >> number & 1 != 0) {
        member.tenant().events().add(sys::process_id(), Event::Setting { variable, problem, error });
    }
}

/// Says that a policy counts, and not the variables with these numbers.
pub(super) fn say_overruled(member: &Member, found: u32) {
    say(member, found, Problem::Overruled, 0);
}

/// An error as one number.
fn number_of(error: Unusable) -> u32 {
    match error {
        Unusable::System(Errno(number)) => number.cast_unsigned(),
        Unusable::OtherVersion(version) => version,
        _ => 0,
    }
}

impl Process {
    /// Joins the container's tenant. The caller holds JOINING.
    pub(super) fn join_hami(&'static self, variables: &'static Variables) -> u32 {
        // Only a folder that is missing leads to another file: the books of that one are a quota of their own.
        let named = match variables.path() {
            Some(path) => self.join_by(path, variables, 0),
            // One with more rights than its caller's, that found nothing where this one says: elsewhere it would have a quota of its own.
            None if variables.found() & FILE != 0 => CLOSED,
            None => UNKNOWN,
        };
        let standing = match named {
            UNKNOWN => self.join_by(DEFAULT_FILE, variables, variables.found() & FILE),
            found => found,
        };
        if standing == UNKNOWN { CLOSED } else { standing }
    }

    /// The same, with the monitor's file at `path`; `bad`: the variable that named another one. UNKNOWN: its folder is missing.
    #[inline(never)]
    fn join_by(&'static self, path: &'static [u8], variables: &'static Variables, bad: u32) -> u32 {
        let Ok(places) = Places::of(path) else { return UNKNOWN };
        let Some(joined) = places.join(&Settings::get().tenant()) else { return CLOSED };
        let Joined { member, directory, place } = joined;
        let Ok(changes) = PolicyWriter::of_own() else { return CLOSED };
        let (unreadable, ignored) = variables.complaints(Settings::get().takes_turns(false));
        say(&member, unreadable, Problem::Unreadable, 0);
        say(&member, ignored, Problem::NotSupported, 0);
        say(&member, bad, Problem::BadFile, 0);
        if Settings::get().wants_no_helper() {
            say_overruled(&member, 1 << variables::HELPER);
        }
        say(&member, if place == 0 { 0 } else { FILE }, Problem::NotInMemory, place);
        let file = Monitored::open(path, variables, 0)
            .inspect_err(|error| say(&member, FILE, Problem::BadFile, number_of(*error)))
            .ok();
        // It has lost its environment, and what the file says with it.
        if file.is_none() && !variables.have_limits() {
            return CLOSED;
        }
        if let Some(file) = file {
            say(&member, file.fill(variables, 0), Problem::Overruled, BY_THE_FILE);
            file.enter(&member);
            self.hami.shares.store(file.shares(), Ordering::Relaxed);
        }
        let policy = changes.policy();
        // SAFETY: the caller holds JOINING, and `on` is still 0: nobody else looks.
        unsafe { (*self.hami.container.get()).write(Container { variables, file, directory, changes }) };
        self.hami.on.store(1, Ordering::Release);
        self.begin(policy, member)
    }

    /// The tenant's limits on a GPU.
    pub(crate) fn limits(&self, gpu: GpuId) -> Found {
        let Some(Container { variables, file, .. }) = self.hami.container() else {
            return self.policy().look_up(&Settings::get().tenant(), gpu);
        };
        let number = self.hami.number_of(gpu).or_else(|| self.hami.learn(*file, gpu));
        // Of one that is not found: what is said of all.
        let number = number.unwrap_or(DEVICES);
        let (memory, compute) = match file {
            Some(file) => (file.memory(number, variables), file.compute(number, variables)),
            None if variables.when() == When::Never => (variables.memory(number), Cap::FULL),
            None => (variables.memory(number), variables.compute(number)),
        };
        let mut limits = Limits { compute, ..Limits::of_memory(memory) };
        if Settings::get().takes_turns(false) {
            (limits.compute, limits.entitlement) = variables.entitle(compute);
        }
        Found::Limits(limits)
    }

    /// A launch is about to go: HAMi's monitor is told, and may let it wait.
    #[inline(always)]
    pub(crate) fn obey_monitor(&'static self) {
        if self.hami.is_on() {
            self.wait_for_monitor();
        }
    }

    #[inline(never)]
    fn wait_for_monitor(&'static self) {
        while self.hami.file().is_some_and(Monitored::is_paused) {
            self.tell_monitor(false);
            let epoch = self.policy().epoch();
            self.policy().wait(epoch, sys::monotonic_ns() + PAUSE_NS);
        }
        self.tell_monitor(true);
    }

    /// Tells HAMi's monitor what there is to tell; `works`: something runs on a device. About once a second; else a look at the clock.
    pub(crate) fn tell_monitor(&'static self, works: bool) {
        let hami = &self.hami;
        let Some(Container { file: Some(file), changes, .. }) = hami.container() else { return };
        let now_ns = sys::coarse_ns();
        if is_due(&hami.looked_ns, now_ns, LOOK_NS).is_some() {
            let shares = file.shares();
            if hami.shares.swap(shares, Ordering::Relaxed) != shares {
                changes.changed();
            }
        }
        if works && is_due(&hami.worked_ns, now_ns, STAMP_NS).is_some() {
            file.note_work();
        }
        if let Some(passed_ns) = is_due(&hami.stamped_ns, now_ns, STAMP_NS) {
            self.stamp(*file, passed_ns);
        }
    }

    /// Writes this process's slot, and takes dead processes out of theirs.
    #[cold]
    fn stamp(&'static self, file: Monitored, passed_ns: u64) {
        let member = self.member();
        file.stay(member);
        for (ordinal, (device, before)) in self.devices.iter().zip(&self.hami.used_ns).enumerate() {
            let books = device.known_index().map(|index| Books::of(member, index));
            let Some(number) = books.and_then(|books| self.show(file, device, &books)) else { continue };
            let used_ns = self.limiter.used_ns(ordinal);
            let now_ns = used_ns.saturating_sub(before.swap(used_ns, Ordering::Relaxed));
            file.show_busy(member, number, (now_ns / (passed_ns / 100).max(1)).min(100));
        }
        file.sweep(member);
    }

    /// Shows HAMi's monitor what this process has booked on a device.
    pub(super) fn show_monitor(&'static self, device: &Device, books: &Books) {
        if let Some(file) = self.hami.file() {
            self.show(file, device, books);
        }
        self.tell_monitor(false);
    }

    /// Writes to the slot what is booked on a device. Returns the device's number in the container, where that is known.
    #[inline(never)]
    fn show(&self, file: Monitored, device: &Device, books: &Books) -> Option<usize> {
        let number = self.hami.number_of(device.gpu())?;
        let (booked, overhead) = books.own_booked();
        file.show(books.member(), number, booked, overhead);
        Some(number)
    }
}

/// Whether `interval_ns` have passed since `last_ns`, for the one thread that finds it so: how long it is since then, ns.
fn is_due(last_ns: &AtomicU64, now_ns: u64, interval_ns: u64) -> Option<u64> {
    let last = last_ns.load(Ordering::Relaxed);
    let passed_ns = now_ns.saturating_sub(last);
    let is_mine = passed_ns >= interval_ns
        && last_ns.compare_exchange(last, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    is_mine.then_some(passed_ns)
}

/// The program ends in order: its slot is not left to whoever comes next.
#[cfg_attr(not(test), used, unsafe(link_section = ".fini_array"))]
static AT_EXIT: extern "C" fn() = leave;

extern "C" fn leave() {
    // SAFETY: the pointer is null or leads to a mapping that `Process::shared` made for good.
    let Some(process) = (unsafe { PROCESS.load(Ordering::Acquire).as_ref() }) else { return };
    if process.standing.load(Ordering::Acquire) == MANAGED
        && let Some(file) = process.hami.file()
    {
        // What is freed from here on is not told any more.
        process.hami.stamped_ns.store(u64::MAX, Ordering::Relaxed);
        file.leave(process.member());
    }
}
