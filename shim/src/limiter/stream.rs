//! A stream of the program, and what is open and in flight on it.

use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::CUstream;
use cuota_governor::admission::weight;
use cuota_governor::batch::Batch;
use cuota_governor::cap::PERIOD_NS;
use cuota_governor::cost::{Estimate, Key};
use cuota_governor::pace::Pace;
use cuota_governor::rounds::Watch;
use cuota_region::sys;

use super::caps::Ground;
use super::lock::{Held, Lock};
use super::per_thread::{Launches, Tail};
use super::timeline::Mark;
use crate::arch;
use crate::process::{self, Process};

/// How many streams are told apart. With more that have work in flight, one gives up its place: see `Limiter::write_off`.
pub(super) const STREAMS: usize = 512;

/// Batches in flight on one stream; with more, the open one grows.
const IN_FLIGHT: usize = 16;

/// What has been in flight for longer may not have begun: it is asked, ns.
const OLD_NS: u64 = 20_000_000;

/// The driver's names for the legacy and the per-thread stream.
const LEGACY: u64 = 1;
pub(crate) const PER_THREAD: u64 = 2;

/// A closed batch.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Closed {
    pub(super) start: Mark,
    pub(super) end: Mark,
    /// A unit in it was never measured.
    pub(super) unknown: bool,
    /// Closed as quiet: since when it may have been idle, ns. 0: it was not.
    pub(super) late_ns: u64,
    /// As in [`Books`], when it began.
    pub(super) others_held: u64,
    pub(super) batch: Batch,
}

/// The books of a stream. All-zero is a stream on which nothing has happened.
#[repr(C)]
pub(super) struct Books {
    pub(super) lease: u64,
    /// How much work the open batch is to hold, ns.
    pub(super) target_ns: u64,
    /// Begins the open batch.
    pub(super) boundary: Option<Mark>,
    /// A unit in the open batch was never measured.
    pub(super) unknown: bool,
    /// The last unit in it is on its way to the driver, and its thread ends the batch behind it.
    pub(super) is_under_way: bool,
    /// Of a per-thread stream: when somebody last saw that it was not done, ns.
    pub(super) seen_busy_ns: u64,
    /// What was launched.
    pub(super) launches: Launches,
    /// The batch before was closed when the stream had run dry.
    pub(super) was_dry: bool,
    /// The program has waited for the stream since its last launch.
    pub(super) was_synced: bool,
    /// A launch has looked at what has ended here since the helper's last round.
    pub(super) was_looked_at: bool,
    /// The boundary was drawn by a launch that is in front of the gate now: however soon it is reached, it begins that launch's batch.
    pub(super) is_kept: bool,
    /// The open batch as its watchers know it.
    pub(super) watch: Watch,
    /// How its units come.
    pub(super) pace: Pace,
    /// Looks at which launches on *other* streams were held back, when the open batch began.
    pub(super) others_held: u64,
    /// Since when what is in flight may have been on the GPU, ns.
    pub(super) since_ns: u64,
    /// Some of it is in no batch, since no event could be recorded: our own clock measures it.
    pub(super) is_blind: bool,
    /// Behind all of that lies the stream's tail, by which anybody sees that it has ended.
    pub(super) has_tail: bool,
    /// What was booked for that, ns.
    pub(super) blind_ns: u64,
    /// What of it the program waits for is believed to take, ns.
    pub(super) step_ns: u64,
    first: usize,
    count: usize,
    /// What the closed ones count for in the bound, ns.
    closed_ns: u64,
    /// The unit that began the open batch, and its cost as it was known then, ns, if it was: most launches are of one kind.
    pub(super) latest: Option<(Key, u64)>,
    pub(super) batch: Batch,
    closed: [MaybeUninit<Closed>; IN_FLIGHT],
}

/// Work of a process on one GPU that has not ended, or has not been settled. All-zero is none.
#[derive(Clone, Copy)]
pub(super) struct InFlight {
    /// Since when, ns.
    pub(super) since_ns: u64,
    /// What is booked for it, ns.
    pub(super) booked_ns: u64,
}

impl InFlight {
    pub(super) const NONE: Self = Self { since_ns: 0, booked_ns: 0 };

    /// Adds what is on the GPU since then, ns.
    pub(super) fn add_since(&mut self, since_ns: u64) {
        let is_first = self.since_ns == 0 || since_ns < self.since_ns;
        self.since_ns = if is_first { since_ns } else { self.since_ns };
    }

    /// Adds what is on a stream.
    pub(super) fn add(&mut self, books: &Books) {
        if books.is_busy() || !books.batch.is_empty() {
            self.add_since(books.since_ns);
            self.booked_ns = self.booked_ns.saturating_add(books.booked_ns());
        }
    }
}

impl Books {
    pub(super) fn is_full(&self) -> bool {
        self.count == IN_FLIGHT
    }

    /// Whether anything is in flight besides the open batch.
    pub(super) fn is_busy(&self) -> bool {
        self.count != 0 || self.is_blind
    }

    /// Whether what is in flight may have been on the GPU for so long that it is worth a question whether it has.
    pub(super) fn is_old(&self) -> bool {
        (self.is_busy() || !self.batch.is_empty())
            && sys::monotonic_ns().saturating_sub(self.since_ns) > OLD_NS
    }

    /// Whether the open batch of a per-thread stream with chains, which nobody else can end, has been there for a period more than its
    /// units are known to take: it is ended once in so long, also inside a chain.
    #[cold]
    pub(super) fn is_overdue(&self, stream: &Stream) -> bool {
        stream.is_per_thread()
            && self.watch.apart(self.batch.cost_ns().saturating_add(PERIOD_NS), sys::coarse_ns())
    }

    /// Notes when a unit was launched into the open batch, where that is timed. Whether it may be the last before a gap.
    pub(super) fn is_last_of_burst(&mut self, now_ns: u64, estimate: Estimate) -> bool {
        if self.pace.is_timed() {
            self.batch.idle(self.pace.launch(now_ns, estimate.cost_ns()));
        }
        self.pace.ends_here() && !self.launches.has_chains()
    }

    /// Takes the open batch and its first boundary out: from now on it is charged its estimate.
    #[inline(never)]
    pub(super) fn take_open(&mut self, on: Ground) -> (Option<Mark>, Batch) {
        let mut batch = core::mem::take(&mut self.batch);
        self.lease = cuota_governor::lease::EMPTY;
        (self.unknown, self.is_under_way) = (false, false);
        on.close(&mut batch);
        (self.boundary.take(), batch)
    }

    /// Adds a closed batch. The caller has seen that there is room.
    pub(super) fn push(&mut self, closed: Closed) {
        if let Some(place) = self.closed.get_mut((self.first + self.count) % IN_FLIGHT) {
            place.write(closed);
            self.count += 1;
            self.closed_ns = self.closed_ns.saturating_add(weight(closed.batch.cost_ns(), !closed.unknown));
        }
    }

    /// The oldest closed batch.
    pub(super) fn front(&mut self) -> Option<&mut Closed> {
        let place = self.closed.get_mut(self.first % IN_FLIGHT).filter(|_| self.count != 0)?;
        // SAFETY: the first `count` from `first` on were written.
        Some(unsafe { place.assume_init_mut() })
    }

    /// Forgets the oldest closed batch, which has ended.
    pub(super) fn pop(&mut self) {
        let Some(closed) = self.front() else { return };
        let ended_ns = weight(closed.batch.cost_ns(), !closed.unknown);
        (self.first, self.count) = ((self.first + 1) % IN_FLIGHT, self.count - 1);
        self.closed_ns = self.closed_ns.saturating_sub(ended_ns);
    }

    fn booked_ns(&self) -> u64 {
        let open_ns = self.batch.booked_ns().saturating_add(self.blind_ns);
        (0..self.count).fold(open_ns, |sum, index| {
            let place = self.closed.get((self.first + index) % IN_FLIGHT);
            // SAFETY: as in `front`.
            let booked_ns = place.map_or(0, |place| unsafe { place.assume_init_ref() }.batch.booked_ns());
            sum.saturating_add(booked_ns)
        })
    }

    /// Says of all closed batches that their last boundary was not late: it was not reached at the helper's next round, so the GPU
    /// was busy when it was drawn.
    pub(super) fn none_was_late(&mut self) {
        for index in 0..self.count {
            if let Some(place) = self.closed.get_mut((self.first + index) % IN_FLIGHT) {
                // SAFETY: as in `front`.
                unsafe { place.assume_init_mut() }.late_ns = 0;
            }
        }
    }

    /// Says since when the newest closed batch may have been idle, ns.
    pub(super) fn was_late(&mut self, late_ns: u64) {
        self.pace.may_have_gaps();
        let newest = self.count.checked_sub(1).map(|index| (self.first + index) % IN_FLIGHT);
        if let Some(place) = newest.and_then(|index| self.closed.get_mut(index)) {
            // SAFETY: as in `front`.
            unsafe { place.assume_init_mut() }.late_ns = late_ns;
        }
    }

    /// Forgets what was open and in flight.
    #[inline(never)]
    pub(super) fn clear(&mut self) {
        // SAFETY: integers, no mark, and closed batches that are not looked at: all-zero are the books of a stream on which nothing
        // has happened.
        *self = unsafe { core::mem::zeroed() };
    }

    /// Estimated work on the stream that has not ended, ns.
    pub(super) fn in_flight_ns(&self) -> u64 {
        let open_ns = if self.batch.is_empty() { 0 } else { weight(self.batch.cost_ns(), !self.unknown) };
        self.closed_ns.saturating_add(open_ns).saturating_add(self.step_ns)
    }
}

fn as_stream(handle: u64) -> CUstream {
    core::ptr::with_exposed_provenance_mut(usize::try_from(handle).unwrap_or(0))
}

/// A stream; on lines of its own, since each launch writes here.
#[repr(C, align(64))]
pub(crate) struct Stream {
    /// The driver's handle.
    handle: AtomicU64,
    /// The thread whose stream it is, where it is a per-thread one.
    thread: AtomicU64,
    /// The context's number, and above it the device's ordinal.
    home: AtomicU32,
    batches: AtomicU32,
    in_flight_ns: AtomicU64,
    /// When something was put on it that is not in the books, ns; 0: nothing was.
    passed_ns: AtomicU64,
    /// Looks at which a launch on this stream was held back.
    pub(super) held: AtomicU64,
    pub(super) tail: Tail,
    books: Lock<Books>,
}

// SAFETY: a handle is a number to us.
unsafe impl Send for Books {}

/// A stream's books, held. What others see of them without holding them is written when they are let go.
pub(super) struct HeldBooks<'a>(&'a Stream);

impl Stream {
    pub(super) fn context(&self) -> u8 {
        self.home.load(Ordering::Relaxed).to_le_bytes()[0]
    }

    pub(super) fn device(&self) -> u32 {
        self.home.load(Ordering::Relaxed) >> 8
    }

    pub(super) fn handle(&self) -> CUstream {
        as_stream(self.handle.load(Ordering::Relaxed))
    }

    pub(super) fn is_legacy(&self) -> bool {
        self.handle.load(Ordering::Relaxed) == LEGACY
    }

    pub(super) fn is_per_thread(&self) -> bool {
        self.handle.load(Ordering::Relaxed) == PER_THREAD
    }

    /// Whether nobody can ask for this stream any more: it was destroyed, or is another thread's, which may have ended.
    pub(super) fn is_lost(&self) -> bool {
        !self.is_legacy() && !self.is_reachable()
    }

    /// Whether the calling thread can name this stream to the driver: the legacy and the per-thread stream depend on who calls.
    pub(super) fn is_reachable(&self) -> bool {
        let process = process::managed();
        match self.handle.load(Ordering::Relaxed) {
            LEGACY => process.contexts.current() == self.context(),
            PER_THREAD => {
                self.thread.load(Ordering::Relaxed) == arch::thread_pointer()
                    && process.contexts.current() == self.context()
            }
            GONE => false,
            _ => true,
        }
    }

    /// Batches that were launched, open or closed, and have not ended.
    pub(super) fn batches(&self) -> u32 {
        self.batches.load(Ordering::Relaxed) + u32::from(self.passed_ns.load(Ordering::Relaxed) != 0)
    }

    /// Something is put on it while somebody is at the books for long, so that it cannot be entered: our own clock measures it. Where
    /// nobody has come to that since an earlier one, who holds them may never let go: what has gone by is charged here.
    #[cold]
    pub(super) fn is_passed(&self) {
        let now_ns = sys::monotonic_ns();
        let passed = self.passed_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
        if let Err(since_ns) = passed.map_err(|since_ns| since_ns.saturating_add(PASSED_NS))
            && since_ns < now_ns
            && let Some(on) = self.on()
        {
            on.charge_since(since_ns - PASSED_NS, 0);
        }
    }

    /// Their estimated cost, ns.
    pub(super) fn in_flight_ns(&self) -> u64 {
        self.in_flight_ns.load(Ordering::Relaxed)
    }

    /// Takes a stream that is being destroyed off the list; what is in flight on it is still waited for.
    pub(super) fn end(&self, key: &AtomicU64) {
        self.handle.store(GONE, Ordering::Relaxed);
        key.store(GONE, Ordering::Release);
    }

    /// Forgets what was open and in flight.
    fn clear(&self) {
        if let Some(mut books) = self.books() {
            books.clear();
        }
    }

    /// Makes this place a stream's. `false`: its device cannot be told.
    fn move_in(&self, process: &Process, [handle, thread]: [u64; 2]) -> bool {
        let context = process.contexts.of_stream(as_stream(handle));
        let device = process.contexts.device_of(context).and_then(|device| u32::try_from(device).ok());
        // A green context's: its device is, with hardly an exception, the one that is launched on.
        let Some(device) = device.or_else(|| process.current_device()) else { return false };
        self.clear();
        match process.limiter.visit(self) {
            Some(_visit) => self.tail.clear(),
            // It goes with its context.
            None => self.tail.forget(),
        }
        self.handle.store(handle, Ordering::Relaxed);
        self.thread.store(thread, Ordering::Relaxed);
        self.home.store(device << 8 | u32::from(context), Ordering::Relaxed);
        true
    }

    /// The books; see [`Lock::take`].
    pub(super) fn books(&self) -> Option<HeldBooks<'_>> {
        self.books.take().map(|books| HeldBooks::of(self, books))
    }

    /// [`Self::books`], for each launch.
    #[inline(always)]
    pub(super) fn books_hot(&self) -> Option<HeldBooks<'_>> {
        match self.books.try_take() {
            Some(books) => Some(HeldBooks::of(self, books)),
            None => self.books(),
        }
    }

    /// The books, for which it may wait so often: who holds them mostly needs some microseconds, and can have been taken off its processor
    /// for some time.
    pub(super) fn books_after(&self, waits: u32) -> Option<HeldBooks<'_>> {
        (0..=waits).find_map(|turn| {
            match turn {
                0 => {}
                1..=YIELDS => sys::yield_now(),
                _ => sys::sleep_ns(SLEEP_NS),
            }
            self.try_books()
        })
    }

    /// Where it is. `None`: the tenant's books have no place for its GPU.
    #[inline(never)]
    pub(super) fn on(&self) -> Option<Ground> {
        Ground::of(self.device())
    }

    /// Where it is, and its books as [`Self::books_after`] gives them.
    #[inline(never)]
    pub(super) fn ground(&self, waits: u32) -> Option<(Ground, HeldBooks<'_>)> {
        Some((self.on()?, self.books_after(waits)?))
    }

    /// The books, unless somebody holds them; with what has passed meanwhile.
    pub(super) fn try_books(&self) -> Option<HeldBooks<'_>> {
        let mut books = self.books.try_take().map(|books| HeldBooks::of(self, books))?;
        let passed_ns = self.passed_ns.load(Ordering::Relaxed);
        if passed_ns != 0 {
            self.passed_ns.store(0, Ordering::Relaxed);
            if !books.is_busy() {
                books.since_ns = passed_ns;
            }
            // It may lie behind the tail.
            (books.is_blind, books.has_tail) = (true, false);
        }
        Some(books)
    }
}

impl<'a> HeldBooks<'a> {
    /// One word: whose books they are says which, and that they are held.
    fn of(stream: &'a Stream, books: Held<'a, Books>) -> Self {
        core::mem::forget(books);
        Self(stream)
    }
}

impl Deref for HeldBooks<'_> {
    type Target = Books;

    fn deref(&self) -> &Books {
        // SAFETY: held.
        unsafe { &*self.0.books.value() }
    }
}

impl DerefMut for HeldBooks<'_> {
    fn deref_mut(&mut self) -> &mut Books {
        // SAFETY: held, and by one `HeldBooks`, which is borrowed mutably.
        unsafe { &mut *self.0.books.value() }
    }
}

impl Drop for HeldBooks<'_> {
    fn drop(&mut self) {
        let open = u32::from(!self.batch.is_empty()) + u32::from(self.is_blind);
        let batches = u32::try_from(self.count).unwrap_or(u32::MAX) + open;
        self.0.batches.store(batches, Ordering::Relaxed);
        self.0.in_flight_ns.store(self.in_flight_ns(), Ordering::Relaxed);
        self.0.books.let_go();
    }
}

/// After which time without its books a stream that is put work on is charged by the clock, ns: longer than a thread that holds them is kept
/// off its processor.
const PASSED_NS: u64 = 200_000_000;

/// How long it sleeps for a stream's books, ns, when it has given the processor away so often for them.
const SLEEP_NS: u64 = 200_000;
pub(super) const YIELDS: u32 = 16;

/// How often it waits after a synchronisation for the stream that was waited for, 10 ms in all, and before its context's end is forgotten,
/// 200 ms.
pub(super) const WAITS_SYNCED: u32 = YIELDS + 50;
pub(super) const WAITS_AT_LAST: u32 = YIELDS + 1000;

/// A place that is being filled.
const CLAIMED: u64 = 3;

/// A stream that was destroyed, of which batches are still in flight.
const GONE: u64 = 4;

/// The streams of a process. All-zero is none.
pub(super) struct Streams {
    places: [Stream; STREAMS],
    /// Which stream is in each place; 0: none. Apart from the places, so that a search reads few lines.
    keys: [AtomicU64; STREAMS],
    /// One more than the highest place ever taken.
    high_water: AtomicU32,
    /// How often a stream had to give up its place.
    evicted: AtomicU32,
}

/// What tells a stream from all others of the process. Handles are addresses; the streams without one are told apart by their
/// context, and by their thread.
fn key(handle: u64, context: u8, thread: u64) -> u64 {
    match handle {
        LEGACY => u64::from(context) << 8 | 0xff << 16 | LEGACY,
        PER_THREAD => thread << 8 ^ u64::from(context) << 3 | PER_THREAD,
        handle => handle,
    }
}

/// Which stream the calling thread means by a handle: its key; its handle and thread.
fn meant(process: &Process, handle: CUstream) -> (u64, [u64; 2]) {
    let handle = (handle.addr() as u64).max(LEGACY);
    let thread = if handle == PER_THREAD { arch::thread_pointer() } else { 0 };
    let context = if handle <= PER_THREAD { process.contexts.current() } else { 0 };
    (key(handle, context, thread), [handle, thread])
}

/// What tells the stream that the calling thread means from all others of the process.
pub(crate) fn key_of(process: &Process, handle: CUstream) -> u64 {
    meant(process, handle).0
}

/// See [`Streams::busy`].
pub(super) struct Busy<'a> {
    streams: &'a Streams,
    next: usize,
}

impl<'a> Iterator for Busy<'a> {
    type Item = &'a Stream;

    #[inline(never)]
    fn next(&mut self) -> Option<&'a Stream> {
        while let Some((key, place)) = self.streams.in_use(self.next) {
            self.next += 1;
            if !matches!(key.load(Ordering::Acquire), 0 | CLAIMED) && place.batches() != 0 {
                return Some(place);
            }
        }
        None
    }
}

impl Streams {
    /// A place, if one so high was ever taken.
    fn in_use(&self, at: usize) -> Option<(&AtomicU64, &Stream)> {
        let is_in_use = at < self.high_water.load(Ordering::Acquire) as usize;
        self.keys.get(at).filter(|_| is_in_use).zip(self.places.get(at))
    }

    /// The streams on which anything is open or in flight.
    pub(super) fn busy(&self) -> Busy<'_> {
        Busy { streams: self, next: 0 }
    }

    fn with_key(&self, key: u64) -> Option<(&AtomicU64, &Stream)> {
        let in_use = self.high_water.load(Ordering::Acquire) as usize;
        let at = self.keys.iter().take(in_use).position(|of| of.load(Ordering::Acquire) == key)?;
        Some((self.keys.get(at)?, self.places.get(at)?))
    }

    /// A stream with this handle, if one that is the same for all threads was seen, and its place.
    pub(super) fn with_handle(&self, handle: CUstream) -> Option<(&AtomicU64, &Stream)> {
        let handle = handle.addr() as u64;
        self.with_key(handle).filter(|_| handle > GONE)
    }

    /// The stream with this handle, as the calling thread means it, if it was seen before.
    pub(super) fn known(&self, process: &Process, handle: CUstream) -> Option<&Stream> {
        let (key, _) = meant(process, handle);
        self.with_key(key).map(|(_, stream)| stream)
    }

    /// The stream with this handle, as the calling thread means it. `None`: there is no place for it, or its device cannot be told.
    pub(super) fn find(&self, process: &Process, handle: CUstream) -> Option<&Stream> {
        let (key, place) = meant(process, handle);
        match self.with_key(key) {
            Some((_, stream)) => Some(stream),
            None => self.settle(process, key, place),
        }
    }

    #[cold]
    fn settle(&self, process: &Process, key: u64, [handle, thread]: [u64; 2]) -> Option<&Stream> {
        let claim = |of: &AtomicU64, from| {
            of.compare_exchange(from, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let free = |at: &usize| claim(&self.keys[*at], 0);
        // Else in the place of one that is idle.
        let idle = |at: &usize| {
            let of = self.keys[*at].load(Ordering::Acquire);
            of > GONE && self.places[*at].batches() == 0 && claim(&self.keys[*at], of)
        };
        let at = (0..STREAMS).find(free).or_else(|| (0..STREAMS).find(idle))?;
        let (of, place) = (&self.keys[at], &self.places[at]);
        let known = place.move_in(process, [handle, thread]);
        of.store(if known { key } else { 0 }, Ordering::Release);
        self.high_water.fetch_max(u32::try_from(at + 1).unwrap_or(0), Ordering::AcqRel);
        known.then_some(place)
    }

    /// The stream that is next to give up its place.
    pub(super) fn next_to_go(&self) -> Option<&Stream> {
        let at = self.evicted.fetch_add(1, Ordering::Relaxed) as usize % STREAMS;
        let is_settled = self.keys.get(at)?.load(Ordering::Acquire) > CLAIMED;
        self.places.get(at).filter(|_| is_settled)
    }

    /// Gives back the places of destroyed streams of which nothing is in flight any more.
    pub(super) fn sweep(&self) {
        let mut at = 0;
        while let Some((of, place)) = self.in_use(at) {
            at += 1;
            if of.load(Ordering::Acquire) == GONE && place.batches() == 0 {
                of.store(0, Ordering::Release);
            }
        }
    }

    /// Forgets the streams of a context that is gone.
    pub(super) fn end_context(&self, context: u8) {
        let mut at = 0;
        while let Some((of, place)) = self.in_use(at) {
            at += 1;
            if place.context() != context {
                continue;
            }
            place.tail.forget();
            if of.load(Ordering::Acquire) > CLAIMED {
                of.store(CLAIMED, Ordering::Release);
                place.clear();
                of.store(0, Ordering::Release);
            }
        }
    }
}
