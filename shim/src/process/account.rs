//! Booking memory on one GPU, as the hooks do it: reserve, call the driver, commit what was really taken.
//!
//! What every hook calls is kept out of line: inlined into some fifty hooks it would double the library's size. The usual
//! `cuMemAlloc_v2` alone has its own straight line (`*_at_once`).

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use cuota_abi::cuda::CUresult;
use cuota_governor::physical;
use cuota_governor::quota::{UNLIMITED, free_to_show};
use cuota_region::death::{HOLD_NS, SWEEP_INTERVAL_NS};
use cuota_region::event::{Event, Why};
use cuota_region::ledger::{Books, Refusal, Reservation, UNIT_BYTES};
use cuota_region::member::Blind;
use cuota_region::share::ShareKey;
use cuota_region::sys;
use cuota_region::tenant::GpuIndex;

use super::device::Device;
use super::lingering::Exported;
use super::nvml::Room;
use super::pools::{Change, Pool};
use super::{Process, Standing, driver, managed, standing};
use crate::hooks::REFUSED;
use crate::hooks_table::{cuDeviceGraphMemTrim, cuMemPoolDestroy, cuMemPoolTrimTo};

/// How near to its quota a tenant is when its contexts' true size begins to matter. Until then the estimate may be wrong
/// by this much: lazily loaded code was seen to add 350 MiB to a PyTorch process.
const EXACT_WITHIN_BYTES: u64 = 1 << 30;

/// How much code and how many global variables may be loaded before NVML is asked, while the quota is far.
const UNASKED_BYTES: u64 = 256 << 20;

/// How often NVML is asked at most.
const ASK_INTERVAL_NS: u64 = 100_000_000;

/// How often a refusal is written to the event log at most; all are counted.
const LOG_INTERVAL_NS: u64 = 10_000_000;

/// A context's size where none was ever seen on this GPU: an H100's with driver 580, rounded up.
const CONTEXT_BYTES: u64 = 528 << 20;

/// This process's account on one GPU. One word, so that whoever has one keeps it in a register.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    /// It has its index in the tenant's books.
    pub(crate) device: &'static Device,
}

/// What a hook does about memory.
pub(crate) enum Booking {
    /// Book it here.
    On(Account),
    /// Call the driver as it is: no policy, or no device that the call could take memory from.
    No,
    /// Grant nothing.
    Refuse,
}

/// The booking for the calling thread's current device.
#[inline(never)]
pub(crate) fn on_current_device() -> Booking {
    match standing() {
        Standing::Managed(process) => match process.current_device() {
            Some(ordinal) => Account::open(process, ordinal).map_or(Booking::Refuse, Booking::On),
            // No current context: the driver says so to the program.
            None => Booking::No,
        },
        Standing::Unmanaged => Booking::No,
        Standing::Closed => Booking::Refuse,
    }
}

/// The same for a call that needs no current context: then the first device's.
#[inline(never)]
pub(crate) fn on_current_or_first_device() -> Booking {
    match on_current_device() {
        Booking::No => on_device(0),
        booking => booking,
    }
}

/// The booking for a device by its ordinal.
#[inline(never)]
pub(crate) fn on_device(ordinal: i32) -> Booking {
    match (standing(), u32::try_from(ordinal)) {
        (Standing::Managed(process), Ok(ordinal)) => match Account::open(process, ordinal) {
            Some(account) => Booking::On(account),
            None if driver::device_count().is_some_and(|count| ordinal < count) => Booking::Refuse,
            // The driver will refuse the ordinal.
            None => Booking::No,
        },
        (Standing::Closed, _) => Booking::Refuse,
        // Not managed, or an ordinal that the driver will refuse.
        _ => Booking::No,
    }
}

impl Account {
    #[inline(never)]
    pub(crate) fn open(process: &'static Process, ordinal: u32) -> Option<Self> {
        let device = process.devices.get(ordinal as usize)?;
        device.index(process.member(), ordinal)?;
        Some(Account { device })
    }

    /// The process whose account it is.
    #[inline(always)]
    pub(crate) fn process(self) -> &'static Process {
        managed()
    }

    /// This process's books, under the place that it has now.
    #[inline(never)]
    fn books(self) -> Books {
        self.books_hot()
    }

    /// [`Account::books`], inlined.
    #[inline(always)]
    fn books_hot(self) -> Books {
        Books::of(self.process().member(), self.index())
    }

    /// The device's index in the tenant's books.
    #[inline(always)]
    fn index(self) -> GpuIndex {
        // An account is opened only once it has one.
        self.device.known_index().unwrap_or(GpuIndex::FIRST)
    }

    /// The device's ordinal.
    pub(crate) fn ordinal(self) -> u32 {
        self.device.ordinal.load(Ordering::Relaxed)
    }

    /// The quota in force, bytes.
    #[inline(never)]
    pub(crate) fn quota(self) -> u64 {
        self.device.quota(self.process())
    }

    /// This process's account on the calling thread's current device, where that is known without asking the driver.
    #[inline(always)]
    pub(crate) fn known(process: &'static Process) -> Option<Self> {
        let device = &process.devices[0];
        let is_known = process.device_count.load(Ordering::Relaxed) == 1 && device.known_index().is_some();
        is_known.then_some(Account { device })
    }

    /// Reserves `bytes` where the quota is far. `None`: nothing is booked, and [`Account::reserve`] knows more.
    #[inline(always)]
    pub(crate) fn reserve_at_once(self, bytes: u64) -> Option<Reservation> {
        let quota = self.device.known_quota(self.process())?;
        self.books_hot().reserve_at_once(bytes, quota, EXACT_WITHIN_BYTES)
    }

    /// [`Account::commit`] of all that was so reserved, or of nothing of it.
    #[inline(always)]
    pub(crate) fn settle_at_once(self, reservation: Reservation, is_taken: bool) {
        if is_taken {
            self.device.held.fetch_add(reservation.bytes(), Ordering::Relaxed);
        }
        self.books_hot().settle_at_once(reservation, is_taken);
    }

    /// Reserves `bytes`. `None`: they do not fit the quota, also after pools were trimmed and dead processes' books closed.
    #[inline(never)]
    pub(crate) fn reserve(self, bytes: u64) -> Option<Reservation> {
        self.reserve_near(bytes).or_else(|why| self.make_room(bytes, why)).ok()
    }

    /// Reserves `bytes` if they fit as things are: nothing is trimmed, nothing is written to the log.
    pub(crate) fn reserve_as_it_is(self, bytes: u64) -> Option<Reservation> {
        self.reserve_near(bytes).ok()
    }

    /// Reserves `bytes`. What contexts and code take matters near the quota: it is booked first, if it is time to ask.
    #[inline(never)]
    fn reserve_near(self, bytes: u64) -> Result<Reservation, Refusal> {
        let quota = self.quota();
        let reservation = self.books().reserve(bytes, quota)?;
        let is_near = quota != UNLIMITED
            && self.books().tenant_usage().booked.saturating_add(EXACT_WITHIN_BYTES) > quota;
        if !is_near || !self.may_ask() {
            return Ok(reservation);
        }
        self.books().cancel(reservation);
        self.ask_overhead();
        self.books().reserve(bytes, quota)
    }

    /// Whether it is time to ask NVML again.
    fn may_ask(self) -> bool {
        let asked = self.device.asked_ns.load(Ordering::Relaxed);
        asked == 0 || sys::coarse_ns().saturating_sub(asked) >= ASK_INTERVAL_NS
    }

    #[cold]
    fn make_room(self, bytes: u64, refusal: Refusal) -> Result<Reservation, Refusal> {
        if refusal == Refusal::Evicted {
            // Bounded: a process can rejoin only so often.
            return if self.process().rejoin() { self.reserve(bytes).ok_or(refusal) } else { Err(refusal) };
        }
        // Cheapest first. What cannot fit an empty quota needs no trimming to be refused.
        let quota = self.quota();
        if bytes <= quota {
            let until = sys::monotonic_ns() + 2 * HOLD_NS;
            let mut is_last = false;
            let mut step = 0_u32;
            while !is_last {
                let made_room = match step {
                    0 => self.update_pools(),
                    1 => self.collect_lingering(),
                    2 => self.ask_again(),
                    3 => self.ask_later(),
                    4 => self.sweep(),
                    5 => self.close_books_of_gone(),
                    6 => self.trim_pools(),
                    _ => self.wait_for_the_dead(bytes, quota, until).unwrap_or_else(|| {
                        is_last = true;
                        // What another has struck off the books meanwhile is room for this one, too.
                        true
                    }),
                };
                step += 1;
                if made_room {
                    match self.books().reserve(bytes, quota) {
                        Err(Refusal::Evicted) => return self.make_room(bytes, Refusal::Evicted),
                        Err(Refusal::OverQuota { .. }) => {}
                        granted => return granted,
                    }
                }
            }
        }
        self.refuse(bytes);
        Err(refusal)
    }

    /// Counts a refusal of `asked` bytes for want of room, and logs it unless one was just logged.
    #[cold]
    pub(crate) fn refuse(self, asked: u64) {
        if self.count_refusal() {
            let booked = self.books().tenant_usage().booked;
            self.log(Event::Refused { asked, booked, quota: self.quota() });
        }
    }

    /// Counts a refusal for another reason, and logs it unless one was just logged. Returns what the program gets.
    #[cold]
    #[inline(never)]
    pub(crate) fn decline(self, why: Why) -> CUresult {
        if self.count_refusal() {
            self.log(Event::NotGranted { why });
        }
        REFUSED
    }

    /// Counts a refusal; whether it is to be logged.
    fn count_refusal(self) -> bool {
        self.books().note_refusal();
        let (now, logged) = (sys::coarse_ns(), self.device.refused_ns.load(Ordering::Relaxed));
        let is_due = now.saturating_sub(logged) >= LOG_INTERVAL_NS;
        if is_due {
            self.device.refused_ns.store(now, Ordering::Relaxed);
        }
        is_due
    }

    fn log(self, event: Event) {
        self.process().member().tenant().events().add(sys::process_id(), event);
    }

    /// Closes dead processes' books. `true`: there were some, or this process had to take a new place first, because the
    /// program has closed the descriptor by which the dead are told from the living.
    fn sweep(self) -> bool {
        let member = self.process().member();
        match member.sweep() {
            Ok(0) if member.is_being_swept() => {
                // Two that are refused at once: what the other finds makes room for both.
                let until = sys::monotonic_ns() + SWEEP_INTERVAL_NS;
                while member.is_being_swept() && sys::monotonic_ns() < until {
                    sys::yield_now();
                }
                // One that was interrupted at it is not waited for any longer.
                let _ = member.sweep();
                true
            }
            Ok(dead) => dead != 0,
            Err(Blind) => self.process().rejoin(),
        }
    }

    /// Bytes that are booked for processes found dead, until the driver has let their memory go.
    fn held_for_the_dead(self) -> u64 {
        self.process().member().held_for_the_dead(self.index())
    }

    /// Closes the books of dead processes that NVML no longer shows. `true`: there were some.
    fn close_books_of_gone(self) -> bool {
        let mut room = Room::new();
        if self.held_for_the_dead() == 0 {
            return false;
        }
        let Ok(shown) = self.device.nvml.processes(self.device.gpu(), &mut room) else { return false };
        // Who has a context and is not shown sees ids of another namespace, or nobody's.
        let is_shown = |pid| shown.iter().any(|info| info.pid == pid);
        let has_context = self.device.contexts.load(Ordering::Relaxed) != 0;
        let knows = !has_context || is_shown(sys::process_id());
        self.process().member().close_books_of_gone(self.index(), |pid| knows && !is_shown(pid)) != 0
    }

    /// Waits a millisecond, where `bytes` would fit without what dead processes had: a program that is started again at once must
    /// find the room that it had. `Some(true)`: some of it has come free. `None`: there is nothing to wait for.
    fn wait_for_the_dead(self, bytes: u64, quota: u64, until_ns: u64) -> Option<bool> {
        let held = self.held_for_the_dead();
        let living = self.books().tenant_usage().booked.saturating_sub(held);
        let is_worth_it = held != 0 && living.saturating_add(bytes) <= quota;
        (is_worth_it && sys::monotonic_ns() < until_ns).then(|| {
            sys::sleep_ns(SWEEP_INTERVAL_NS);
            self.sweep() | self.close_books_of_gone()
        })
    }

    /// Turns a reservation into the `taken` bytes that the driver took. `false`: that is more than was reserved, and
    /// over the quota; the caller undoes what it did.
    #[inline(never)]
    pub(crate) fn commit(self, reservation: Reservation, taken: u64) -> bool {
        let reserved = reservation.bytes();
        if taken != 0 {
            self.device.held.fetch_add(taken, Ordering::Relaxed);
        }
        self.books().commit(reservation, taken);
        self.show();
        taken <= reserved || self.fits_after_growth(taken - reserved)
    }

    #[cold]
    fn fits_after_growth(self, bytes: u64) -> bool {
        self.log(Event::GrewInsideCall { bytes });
        self.is_within(self.quota())
    }

    /// Gives all of a reservation back: the driver took nothing.
    #[inline(never)]
    pub(crate) fn cancel(self, reservation: Reservation) {
        self.books().cancel(reservation);
    }

    /// Gives back `bytes` that were committed.
    #[inline(never)]
    pub(crate) fn release(self, bytes: u64) {
        if bytes != 0 {
            self.device.held.fetch_sub(bytes, Ordering::Relaxed);
            self.books().release(bytes);
            if self.process().hami.is_on() {
                self.show();
            }
        }
    }

    /// Gives back `bytes` that were committed, at once or, where they were exported to a descriptor that is open, or came by one, when that is closed.
    /// `is_import`: another process has made them.
    #[inline(never)]
    pub(crate) fn release_unless_open(self, bytes: u64, exported: Option<Exported>, is_import: bool) {
        if let Some(exported) = exported.filter(|exported| exported.is_open()) {
            self.process().lingering.add(exported, bytes, self.ordinal(), is_import);
            return;
        }
        if is_import {
            self.device.unseen.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.release(bytes);
    }

    /// Gives back what lingered for descriptors that are closed now. `true`: there was some.
    fn collect_lingering(self) -> bool {
        let (own, imported) = self.process().lingering.collect(self.ordinal());
        self.device.unseen.fetch_sub(imported, Ordering::Relaxed);
        self.release(own + imported);
        own + imported != 0
    }

    /// Reserves `bytes` of an object that others of the tenant may hold too.
    /// `None`: as [`Account::reserve`].
    pub(crate) fn reserve_shared(self, key: ShareKey, bytes: u64) -> Option<Reservation> {
        let quota = self.quota();
        self.books().reserve_shared(key, bytes, quota).ok().or_else(|| {
            // As for any other; the room that is made there is kept by the second try, unless somebody is faster.
            let room = self.reserve(bytes)?;
            self.books().share(key, bytes);
            Some(room)
        })
    }

    /// Notes that others of the tenant may come to hold `bytes` that are charged.
    pub(crate) fn share(self, key: ShareKey, bytes: u64) {
        self.books().share(key, bytes);
    }

    /// Takes that note back.
    pub(crate) fn unshare(self, key: ShareKey) {
        self.books().unshare(key);
    }

    /// Moves `bytes` that were committed to the overhead: the driver will give them back, nobody says when.
    #[inline(never)]
    pub(crate) fn release_later(self, bytes: u64) {
        self.device.held.fetch_sub(bytes, Ordering::Relaxed);
        self.raise_overhead(bytes);
        self.device.later.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that `bytes` more of what is booked are overhead.
    #[inline(never)]
    fn raise_overhead(self, bytes: u64) {
        let overhead = self.device.overhead.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.books().note_overhead(overhead);
    }

    /// Asks NVML what has come free of that. `true`: some.
    fn ask_later(self) -> bool {
        let later = self.device.later.load(Ordering::Relaxed);
        later != 0 && {
            let before = self.device.overhead.load(Ordering::Relaxed);
            self.ask_twice();
            self.device.overhead.load(Ordering::Relaxed) < before
        }
    }

    /// Shows HAMi's monitor what is booked now.
    #[inline(never)]
    fn show(self) {
        if self.process().hami.is_on() {
            self.process().show_monitor(self.device, &self.books());
        }
    }

    /// The tenant's free and total bytes on a device that really has `free` of `total`.
    pub(crate) fn shown(self, free: u64, total: u64) -> (u64, u64) {
        let quota = self.quota();
        // What the dead had is free when it is, not when somebody has been refused.
        let _ = self.process().member().sweep();
        self.close_books_of_gone();
        (free_to_show(quota, self.books().tenant_usage().booked, free), quota.min(total))
    }

    // Pools.

    /// Books what the pools of this device, and its graphs, really hold now. `true`: it is less than was booked.
    #[inline(never)]
    pub(crate) fn update_pools(self) -> bool {
        let pools = &self.process().pools;
        let graphs = self.update_graphs();
        // All of them: what is held must be right as a whole.
        let shrank = pools.are_used()
            && pools.of_device(self.ordinal()).filter(|pool| self.update_pool(pool)).count() != 0;
        self.note_pools(0);
        graphs || shrank
    }

    /// Books what graphs that allocate really hold now. `true`: it is less than was booked.
    #[inline(never)]
    pub(crate) fn update_graphs(self) -> bool {
        self.device.uses_graph_memory() && self.graphs_change().is_some_and(|change| self.apply(change))
    }

    /// By how much the books are wrong about what graphs hold; see [`Held::update`](super::pools::Held::update).
    #[inline(never)]
    pub(crate) fn graphs_change(self) -> Option<Change> {
        let held = || driver::graph_bytes(self.ordinal().cast_signed()).map(|(reserved, _)| reserved);
        self.device.graphs.update(held)
    }

    /// Reserves what a pool, or else the reserve for graphs, may grow by to serve `bytes`: by its unit of growth, or nothing where it has the
    /// room. `None`: as [`Account::reserve`].
    #[inline(never)]
    pub(crate) fn reserve_growth(self, pool: Option<&Pool>, bytes: u64) -> Option<Reservation> {
        let worst = physical::pool_worst_case(bytes)?;
        self.reserve_as_it_is(worst).or_else(|| {
            let held = match pool {
                Some(pool) => pool.reserved_and_used(),
                None => driver::graph_bytes(self.ordinal().cast_signed()),
            };
            let has_room = held.is_some_and(|(reserved, used)| reserved.saturating_sub(used) >= bytes);
            self.reserve(if has_room { 0 } else { worst })
        })
    }

    /// Turns a reservation into what a pool, or the reserve for graphs, has grown by, or gives it back where that has shrunk. `false`: as
    /// [`Account::commit`].
    #[inline(never)]
    pub(crate) fn commit_change(self, reservation: Reservation, change: Change) -> bool {
        if let Change::Grew(taken) = change {
            return self.commit(reservation, taken);
        }
        self.cancel(reservation);
        self.apply(change);
        true
    }

    fn update_pool(self, pool: &Pool) -> bool {
        if pool.is_to_be_ended() {
            return self.end_pool(pool);
        }
        pool.update().is_some_and(|change| self.apply(change))
    }

    /// Ends a pool that the program has destroyed, now that nothing of it lives. `true`: it held something.
    #[cold]
    fn end_pool(self, pool: &Pool) -> bool {
        let handle = pool.handle();
        // The program has given this pool up, and one thread ends it.
        driver::give_up(cuMemPoolDestroy::REAL.get() as *const c_void, handle.addr() as u64);
        let held = self.process().pools.remove(handle).map_or(0, |(_, held)| held);
        self.release(held);
        held != 0
    }

    /// Notes what the pools of this device that others can open hold, and `more`, which one may grow by: before the driver is asked, so
    /// that a death in between leaves nothing uncharged; afterwards, with nothing more.
    #[inline(never)]
    pub(crate) fn note_pools(self, more: u64) {
        let pools = &self.process().pools;
        if !pools.are_exported() {
            return;
        }
        let held = || pools.of_device(self.ordinal()).map(Pool::exported_bytes).fold(0, u64::saturating_add);
        let mut sum = held();
        // Of threads that note at once none may leave an older sum; what is too high for a moment harms nobody.
        for _ in 0..8 {
            self.books().note_pools(sum.saturating_add(more));
            let now = held();
            if now == sum {
                break;
            }
            sum = now;
        }
    }

    /// Books a pool's change. `true`: it shrank.
    #[inline(never)]
    pub(crate) fn apply(self, change: Change) -> bool {
        match change {
            Change::Grew(bytes) => {
                self.device.held.fetch_add(bytes, Ordering::Relaxed);
                self.books().book(bytes);
                self.show();
                false
            }
            Change::Shrank(bytes) => {
                self.release(bytes);
                bytes != 0
            }
        }
    }

    /// Lets the pools of this device go of what they hold in reserve. `true`: something came free.
    pub(crate) fn trim_pools(self) -> bool {
        let pools = &self.process().pools;
        if self.device.uses_graph_memory() {
            // Nothing in use is trimmed, here and below.
            driver::give_up(cuDeviceGraphMemTrim::REAL.get() as *const c_void, u64::from(self.ordinal()));
        }
        let graphs = self.update_graphs();
        graphs | pools.are_used()
            && pools.of_device(self.ordinal()).fold(graphs, |freed, pool| {
                // Down to nothing.
                driver::give_up(cuMemPoolTrimTo::REAL.get() as *const c_void, pool.handle().addr() as u64);
                self.update_pool(pool) || freed
            })
    }

    // Contexts, modules, local memory.

    /// Reserves what a new context will take, as far as is known: for the process's first one, the most that any process's
    /// context and code were seen to take here, and where that does not fit, what a context takes at least.
    /// `None`: as [`Account::reserve`].
    pub(crate) fn reserve_context(self) -> Option<Reservation> {
        let learned = match self.device.contexts.load(Ordering::Relaxed) {
            0 => self.process().member().tenant().learned_overhead(self.index()),
            _ => 0,
        };
        if learned > CONTEXT_BYTES
            && let Some(reservation) = self.reserve_as_it_is(learned)
        {
            return Some(reservation);
        }
        self.reserve(if learned == 0 { CONTEXT_BYTES } else { learned.min(CONTEXT_BYTES) })
    }

    /// Turns a reservation into the estimate for a context that was made.
    pub(crate) fn commit_context(self, reservation: Reservation) {
        self.device.contexts.fetch_add(1, Ordering::Relaxed);
        self.commit_overhead(reservation);
    }

    /// Turns a reservation into an estimate of what contexts, modules and local memory took.
    pub(crate) fn commit_overhead(self, reservation: Reservation) {
        let bytes = reservation.bytes();
        // Before it is booked: who compares both with NVML's figure meanwhile must not book it again.
        self.raise_overhead(bytes);
        self.books().commit(reservation, bytes);
        self.show();
        // The estimate is to be checked at the next opportunity, not only 100 ms after the last.
        self.device.asked_ns.store(0, Ordering::Relaxed);
    }

    /// Gives back what a context that is gone had: `blocks` bytes of plain memory, and its part of the overhead.
    pub(crate) fn end_context(self, block_bytes: u64) {
        self.release(block_bytes);
        let before = self.device.contexts.fetch_sub(1, Ordering::Relaxed).max(1);
        let overhead = self.device.overhead.load(Ordering::Relaxed);
        if before == 1 {
            self.device.promised.store(0, Ordering::Relaxed);
            self.device.raised.store(0, Ordering::Relaxed);
        }
        // The last one takes all of it along.
        let ended = (overhead / u64::from(before)).next_multiple_of(UNIT_BYTES);
        self.release_overhead(ended);
        self.update_pools();
    }

    /// Gives back `bytes` of the overhead.
    pub(crate) fn release_overhead(self, bytes: u64) {
        let lower = |overhead: u64| Some(overhead.saturating_sub(bytes));
        let _ = self.device.overhead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).map(|old| {
            self.books().release(old.min(bytes));
            self.note_lower_overhead(old.min(bytes));
            self.show();
        });
    }

    /// Books `bytes` more as overhead, whatever the quota says.
    fn add_overhead(self, bytes: u64) {
        let bytes = bytes.next_multiple_of(UNIT_BYTES);
        self.raise_overhead(bytes);
        self.books().book(bytes);
        self.show();
    }

    fn note_lower_overhead(self, bytes: u64) {
        self.books().note_overhead(self.device.overhead.load(Ordering::Relaxed));
        // Freed in stream order, or anything else: what has come free need not be asked for again.
        let lower = |later: u64| Some(later.saturating_sub(bytes));
        let _ = self.device.later.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    /// Books `new` as overhead, where it is still `old`: another thread may have booked more meanwhile.
    fn set_overhead(self, old: u64, new: u64) {
        let swapped = self.device.overhead.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_err() {
            return;
        }
        if new >= old {
            self.books().book(new - old);
            self.books().note_overhead(new);
        } else {
            self.books().release(old - new);
            self.note_lower_overhead(old - new);
        }
        self.show();
    }

    /// Whether this process still fits after a call that no reservation covers and that took about `bytes`: NVML is asked, unless
    /// the quota is far and what was taken unasked is little. (Most programs load some code at their start, and the first question
    /// takes 16 ms.)
    pub(crate) fn still_fits(self, bytes: u64) -> bool {
        let quota = self.quota();
        let unasked = self.device.taken_unasked.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let known = self.books().tenant_usage().booked;
        let is_far = known.saturating_add(unasked).saturating_add(EXACT_WITHIN_BYTES) <= quota;
        if quota == UNLIMITED || (is_far && unasked <= UNASKED_BYTES) {
            return true;
        }
        let unasked = self.device.taken_unasked.swap(0, Ordering::Relaxed);
        if !self.ask_overhead() {
            // No figure: it is taken all the same, until NVML says less.
            self.add_overhead(unasked);
        }
        self.is_within(quota)
    }

    /// Whether the tenant is within a quota, without what the dead had, if need be. What others only wish for is no reason to undo what
    /// was done.
    #[inline(never)]
    fn is_within(self, quota: u64) -> bool {
        let until = sys::monotonic_ns() + 2 * HOLD_NS;
        let mut waits = true;
        while waits && !self.books().is_within(quota) {
            waits = self.sweep() | self.close_books_of_gone()
                || self.wait_for_the_dead(0, quota, until).is_some();
        }
        self.books().is_within(quota)
    }

    /// Books what is left after a call was undone that took about `bytes`, which did not fit. Returns what the program gets.
    #[cold]
    #[inline(never)]
    pub(crate) fn refuse_made(self, bytes: u64) -> CUresult {
        self.ask_twice();
        self.refuse(bytes);
        REFUSED
    }

    /// Asks NVML twice: a lower figure is believed when it comes twice.
    #[inline(never)]
    fn ask_twice(self) {
        self.ask_overhead();
        self.ask_overhead();
    }

    /// Asks NVML, if it is time to. `true`: this process takes less than was booked.
    fn ask_again(self) -> bool {
        self.may_ask() && {
            let before = self.device.overhead.load(Ordering::Relaxed);
            self.ask_overhead();
            self.device.overhead.load(Ordering::Relaxed) < before
        }
    }

    /// Books this process's contexts and code as NVML counts them. `false`: it gives no figure.
    #[cold]
    fn ask_overhead(self) -> bool {
        let device = self.device;
        let first = device.asked_ns.swap(sys::coarse_ns().max(1), Ordering::Relaxed) == 0;
        self.update_pools();
        let booked = device.overhead.load(Ordering::Relaxed);
        let found = match self.seen_overhead() {
            Ok(Some(found)) => found,
            Err(error) if first => {
                self.log(Event::NoProcessMemory { error });
                return false;
            }
            Ok(None) | Err(_) => return false,
        };
        // A free that the driver has done and we have not yet booked makes the figure too low. So it is lowered only if it
        // comes twice: the first time at once, later with the next question.
        let last = device.overhead_seen.swap(found.bytes, Ordering::Relaxed);
        let again = || self.seen_overhead().is_ok_and(|again| again == Some(found));
        let confirmed = found.is_quiet && (last == found.bytes || first && again());
        if found.bytes > booked || confirmed {
            self.set_overhead(booked, found.bytes);
        }
        // Of several contexts nobody knows what one takes; and what a program asked for beyond a context is no rule for the next.
        let is_plain = device.contexts.load(Ordering::Relaxed) == 1
            && [&device.promised, &device.later, &device.raised]
                .iter()
                .all(|more| more.load(Ordering::Relaxed) == 0);
        if confirmed && is_plain {
            self.process().member().tenant().learn_overhead(self.index(), found.bytes);
        }
        true
    }

    /// Books `bytes` more, or less, that are promised to device code: the driver takes them when a kernel first needs them.
    pub(crate) fn promise(self, reservation: Reservation) {
        let promised = self.device.promised.fetch_add(reservation.bytes(), Ordering::Relaxed);
        let base = self.device.overhead.load(Ordering::Relaxed).saturating_sub(promised);
        self.device.promise_base.store(base, Ordering::Relaxed);
        self.commit_overhead(reservation);
    }

    /// Takes back `bytes` of what was promised.
    pub(crate) fn unpromise(self, bytes: u64) {
        let lower = |promised: u64| Some(promised.saturating_sub(bytes));
        let old = self.device.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).unwrap_or(0);
        self.release_overhead(old.min(bytes));
    }

    /// What NVML shows for this process beyond what it holds: contexts, code and frames. `None`: no figure.
    pub(crate) fn unbooked(self) -> Option<u64> {
        let used = self.device.nvml.own_bytes(self.device.gpu()).ok()??;
        let held = self.device.held.load(Ordering::Relaxed);
        Some(used.saturating_sub(held.saturating_sub(self.device.unseen.load(Ordering::Relaxed))))
    }

    /// This process's bytes by NVML, less what it holds and what it is about to: contexts and code. `None`: no figure, or one
    /// that an allocation or a free of another thread makes meaningless.
    fn seen_overhead(self) -> Result<Option<Overhead>, u32> {
        let (held, pending) = (self.device.held.load(Ordering::Relaxed), self.books().own_pending());
        let Some(used) = self.device.nvml.own_bytes(self.device.gpu())? else { return Ok(None) };
        let pending = pending.max(self.books().own_pending());
        if self.device.held.load(Ordering::Relaxed) != held {
            return Ok(None);
        }
        // In whole units of the books, so that what is booked for it bit by bit adds up.
        let seen = held.saturating_sub(self.device.unseen.load(Ordering::Relaxed));
        let bytes = used.saturating_sub(seen.saturating_add(pending)).next_multiple_of(UNIT_BYTES);
        let floor = match self.device.promised.load(Ordering::Relaxed) {
            0 => 0,
            promised => promised + self.device.promise_base.load(Ordering::Relaxed),
        };
        let bytes = bytes.max(floor).saturating_add(crate::hooks::launch::awaited(self));
        Ok(Some(Overhead { bytes, is_quiet: pending == 0 }))
    }
}

/// What contexts and code take.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Overhead {
    bytes: u64,
    /// Whether nothing was under way: otherwise it is a lower bound.
    is_quiet: bool,
}
