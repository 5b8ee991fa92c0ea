//! What this process is and holds: its tenant, its devices, its memory.
//!
//! All of it lies in one private mapping that a child made by `fork` sees zeroed (MADV_WIPEONFORK), and all-zero means
//! "nothing known yet". So a child never acts as its parent: it joins as a process of its own, at its first call.
//!
//! Structures with tables in them are `repr(C)`, and small fields stand before the tables: Rust would put them behind, where every
//! access to one is three bytes longer.
//!
//! - [`settings`]: what the environment said when we were loaded.
//! - [`device`], [`account`]: a GPU, and booking memory on it.
//! - [`blocks`], [`contexts`], [`pools`], [`handles`], [`pins`], [`lingering`]: what is held, kind by kind.
//! - [`functions`]: which kernels were launched before.
//! - [`hami`]: limits that HAMi's variables and its monitor's file set.
//! - [`driver`], [`nvml`]: what we ask the driver for ourselves.

pub(crate) mod account;
pub(crate) mod blocks;
pub(crate) mod contexts;
pub(crate) mod device;
pub(crate) mod driver;
pub(crate) mod functions;
pub(crate) mod hami;
pub(crate) mod handles;
pub(crate) mod lingering;
pub(crate) mod nvml;
pub(crate) mod pins;
pub(crate) mod pools;
pub(crate) mod settings;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{from_ref, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use cuota_region::event::Event;
use cuota_region::hami::variables::HELPER;
use cuota_region::header::Unusable;
use cuota_region::ledger::Books;
use cuota_region::member::Member;
use cuota_region::policy::Policy;
use cuota_region::sys::{self, Errno, InChild, Mapping};

use self::blocks::Blocks;
use self::contexts::Contexts;
use self::device::{DEVICES, Device};
use self::functions::Functions;
use self::hami::Hami;
use self::handles::Handles;
use self::lingering::Lingering;
use self::pins::Pins;
use self::pools::Pools;
use self::settings::Settings;
use crate::limiter::Limiter;

/// How often a process that lost its place in the tenant's file can come back: more is a program that closes
/// descriptors in a loop, and gets nothing more.
const LIVES: usize = 64;

/// What is known of this process.
#[repr(C)]
pub(crate) struct Process {
    /// One of the constants below; while a thread joins, JOINING with its id.
    standing: AtomicU32,
    policy: UnsafeCell<MaybeUninit<Policy>>,
    /// How many of `members` there are.
    lives: AtomicUsize,
    /// The last of them, which is the one in force.
    member: AtomicPtr<Member>,
    pub(crate) device_count: AtomicU32,
    /// 1 once an executable graph allocates: a launch looks at this one word.
    pub(crate) allocating_graphs: AtomicU32,
    /// Whether NVML has been opened.
    nvml: AtomicU32,
    pub(crate) hami: Hami,
    members: [UnsafeCell<MaybeUninit<Member>>; LIVES],
    pub(crate) devices: [Device; DEVICES],
    pub(crate) blocks: Blocks,
    pub(crate) contexts: Contexts,
    pub(crate) pools: Pools,
    pub(crate) handles: Handles,
    pub(crate) lingering: Lingering,
    pub(crate) pins: Pins,
    pub(crate) functions: Functions,
    pub(crate) limiter: Limiter,
}

// SAFETY: the cells are written by the one thread that holds JOINING, before the release store that lets others read
// them; a member's cell is never written again.
unsafe impl Sync for Process {}

const UNKNOWN: u32 = 0;
pub(crate) const MANAGED: u32 = 1;
const UNMANAGED: u32 = 2;
const CLOSED: u32 = 3;
/// A bit that no thread id has (Linux: PID_MAX_LIMIT is 2^22). One word says both that somebody joins and who, so that a
/// signal handler never takes another thread's joining for its own.
const JOINING: u32 = 1 << 31;

/// What a hook is to do in this process.
#[derive(Clone, Copy)]
pub(crate) enum Standing {
    /// The process belongs to a tenant.
    Managed(&'static Process),
    /// There is no policy: every call goes to the driver as it is.
    Unmanaged,
    /// There should be a policy, and it cannot be used: no memory is granted.
    Closed,
}

pub(crate) static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// This process's standing; the first call in a process, or in a child made by `fork`, finds it.
#[inline]
pub(crate) fn standing() -> Standing {
    // SAFETY: the pointer is null or leads to a mapping that `Process::shared` made for good.
    let process = unsafe { PROCESS.load(Ordering::Acquire).as_ref() };
    match process.map(|process| (process, process.standing.load(Ordering::Acquire))) {
        Some((process, MANAGED)) => Standing::Managed(process),
        Some((_, UNMANAGED)) => Standing::Unmanaged,
        _ => find_standing(process),
    }
}

/// [`standing`], for each launch: what has to be found is found elsewhere, and saves its registers there.
#[inline(always)]
pub(crate) fn standing_hot() -> Standing {
    match managed_already() {
        Some(process) => Standing::Managed(process),
        None => standing(),
    }
}

/// This process, where it is known to be managed.
#[inline(always)]
pub(crate) fn managed_already() -> Option<&'static Process> {
    // SAFETY: as in `standing`.
    let process = unsafe { PROCESS.load(Ordering::Acquire).as_ref() }?;
    (process.standing.load(Ordering::Acquire) == MANAGED).then_some(process)
}

/// This process, which is managed.
///
/// Only for who has been told so by [`standing`]; a child made by `fork` in between has no members, and comes to nothing.
#[inline(always)]
pub(crate) fn managed() -> &'static Process {
    // SAFETY: `standing` has found the mapping, which is there for good.
    unsafe { &*PROCESS.load(Ordering::Relaxed) }
}

#[cold]
fn find_standing(process: Option<&'static Process>) -> Standing {
    let Some(process) = process.or_else(Process::shared) else { return Standing::Closed };
    let me = sys::thread_id();
    loop {
        match process.standing.load(Ordering::Acquire) {
            MANAGED => return Standing::Managed(process),
            UNMANAGED => return Standing::Unmanaged,
            CLOSED => return Standing::Closed,
            // A signal handler that allocates while its own thread joins cannot wait for itself.
            joining if joining == JOINING | me => return Standing::Closed,
            joining if joining & JOINING != 0 => sys::yield_now(),
            _ => {
                process.join(UNKNOWN, me);
            }
        }
    }
}

/// Whether this process may be held to anything. Cheaper than [`standing`]: joins nothing.
pub(crate) fn is_managed() -> bool {
    Settings::get().directory().is_none_or(|(directory, named)| {
        named || Settings::get().variables().is_some() || directory.open_policy().is_ok()
    })
}

/// Where a launch that nothing holds finds what it reads, from a process's first byte on: its gate reads it itself.
pub(crate) mod at {
    use core::mem::offset_of;

    use super::{Contexts, Functions, Limiter, Process};

    pub(crate) const STANDING: usize = offset_of!(Process, standing);
    pub(crate) const POLICY: usize = offset_of!(Process, policy);
    pub(crate) const LIVE: usize = offset_of!(Process, contexts) + Contexts::LIVE_AT;
    pub(crate) const SOLE: usize = offset_of!(Process, contexts) + Contexts::SOLE_AT;
    pub(crate) const KNOWN: usize = offset_of!(Process, functions) + Functions::KNOWN_AT;
    pub(crate) const FREE: usize = offset_of!(Process, limiter) + Limiter::FREE_AT;
}

impl Process {
    /// The process's state, which the first call maps. `None`: no memory to map.
    fn shared() -> Option<&'static Process> {
        let bytes = size_of::<Process>();
        let fresh = sys::map(Mapping::Private, bytes).ok()?;
        // SAFETY: our own fresh mapping. A kernel before 4.14 refuses: then a child would act as its parent, so
        // nothing is managed there, and `doctor` says so.
        if unsafe { sys::set_fate_in_child(fresh, bytes, InChild::Zeroed) }.is_err() {
            return None;
        }
        let mine = fresh.cast::<Process>().as_ptr();
        let winner = match PROCESS.compare_exchange(null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mine,
            Err(other) => {
                // SAFETY: mapped above, lost the race, seen by nobody.
                unsafe { sys::unmap(fresh, bytes) };
                other
            }
        };
        // SAFETY: mapped for good, page-aligned, long enough, and all-zero is a `Process`: atomics, cells of
        // `MaybeUninit`, numbers, and tables of these.
        unsafe { winner.as_ref() }
    }

    /// Joins the tenant, if this thread is the first to try from standing `from`.
    fn join(&'static self, from: u32, me: u32) {
        if self.standing.compare_exchange(from, JOINING | me, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        self.standing.store(self.find_tenant(), Ordering::Release);
    }

    fn find_tenant(&'static self) -> u32 {
        let settings = Settings::get();
        let Some((directory, named)) = settings.directory() else { return CLOSED };
        let variables = settings.variables();
        if let Some(variables) = variables.filter(|_| !named && !directory.is_protected()) {
            return self.join_hami(variables);
        }
        let policy = match Policy::open(&directory) {
            Ok(policy) => policy,
            Err(Unusable::System(Errno(libc::ENOENT))) if !named => return UNMANAGED,
            Err(_) => return CLOSED,
        };
        let Ok(member) = Member::join(&directory, &settings.tenant()) else { return CLOSED };
        let mut overruled = settings.found();
        if settings.wants_no_helper() {
            // Who can change the policy has no need of other ways out.
            match directory.is_protected() {
                true => overruled |= 1 << HELPER,
                false => self.limiter.helper.keep_away(),
            }
        }
        hami::say_overruled(&member, overruled);
        self.begin(policy, member)
    }

    /// Begins life as a member under a policy. The caller holds JOINING.
    fn begin(&self, policy: Policy, member: Member) -> u32 {
        // What the dead had on a GPU is charged before this process puts anything there. Not by one who joins again: it might find its own
        // old place dead, before it has brought what it holds.
        let _ = member.sweep();
        // SAFETY: the caller holds JOINING, so nobody reads or writes the cell.
        unsafe { (*self.policy.get()).write(policy) };
        let Some(member) = self.keep(member) else { return CLOSED };
        self.admit(member);
        MANAGED
    }

    /// Keeps a member for the rest of the process's life. The caller holds JOINING.
    #[inline(never)]
    fn keep(&self, member: Member) -> Option<&Member> {
        let lives = self.lives.load(Ordering::Relaxed);
        // SAFETY: no reader looks at a cell beyond `lives`, and the caller is the only writer.
        let member = unsafe { (*self.members.get(lives)?.get()).write(member) };
        self.lives.store(lives + 1, Ordering::Relaxed);
        Some(member)
    }

    /// Makes `member` the one in force.
    fn admit(&self, member: &Member) {
        self.member.store(from_ref(member).cast_mut(), Ordering::Release);
    }

    /// The policy in force.
    #[inline]
    pub(crate) fn policy(&self) -> Policy {
        // SAFETY: a `&Process` is handed out only once MANAGED (`standing`), and the policy was written before that.
        unsafe { (*self.policy.get()).assume_init() }
    }

    /// This process's place in the tenant's file.
    #[inline]
    pub(crate) fn member(&'static self) -> &'static Member {
        // SAFETY: MANAGED, so at least one member was written, and none is written again.
        unsafe { &*self.member.load(Ordering::Acquire) }
    }

    /// Takes a new place after the old one was lost, and brings what this process holds. `false`: no place.
    #[cold]
    pub(crate) fn rejoin(&'static self) -> bool {
        let me = sys::thread_id();
        match self.standing.compare_exchange(MANAGED, JOINING | me, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {}
            Err(joining) if joining & JOINING != 0 && joining != JOINING | me => {
                // Another thread is at it.
                while self.standing.load(Ordering::Acquire) & JOINING != 0 {
                    sys::yield_now();
                }
                return self.standing.load(Ordering::Acquire) == MANAGED;
            }
            // Our own, below in the stack; or nothing to come back to.
            Err(_) => return false,
        }
        let done = self.member().has_its_place() || self.take_new_place();
        self.standing.store(if done { MANAGED } else { CLOSED }, Ordering::Release);
        done
    }

    fn take_new_place(&'static self) -> bool {
        if self.lives.load(Ordering::Relaxed) == LIVES {
            return false;
        }
        let settings = Settings::get();
        let named = || settings.directory().map(|(directory, _)| directory);
        let Some(directory) = self.hami.directory().or_else(named) else { return false };
        let lost = self.member();
        let Ok(member) = lost.join_again(&directory, &settings.tenant()) else { return false };
        let Some(member) = self.keep(member) else { return false };
        let booked = self.bring(lost, member);
        self.admit(member);
        self.hami.moved(lost, member);
        let (exports, open) = self.pools.shared();
        member.bring_pools(exports, open);
        for ordinal in (0..).take(self.devices.len()) {
            if let Some(account) = account::Account::open(self, ordinal) {
                account.note_pools(0);
            }
        }
        member.settle_in(lost);
        member.tenant().events().add(sys::process_id(), Event::Rejoined { booked });
        true
    }

    /// Brings what is booked in the place that was lost to `member`; how much that is, bytes.
    #[inline(always)]
    fn bring(&'static self, lost: &'static Member, member: &'static Member) -> u64 {
        let moved = member.take_over(lost);
        let mut booked = moved.unwrap_or(0);
        for (ordinal, device) in (0_u32..).zip(&self.devices) {
            let Some(books) = device.index_anew(member).map(|index| Books::of(member, index)) else {
                continue;
            };
            let (bytes, overhead) = device.booked();
            books.note_overhead(overhead);
            if moved.is_none() {
                books.book(bytes);
                booked += bytes;
                self.handles.each_share(ordinal, |key, bytes| {
                    books.share(key, bytes);
                });
            }
        }
        booked
    }
}
