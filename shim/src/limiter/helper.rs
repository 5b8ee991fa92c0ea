//! The helper thread: it closes the batches of streams that have gone quiet, and settles what has ended, where the program does
//! not come by for a while.
//!
//! Without it, or while it does not go round, a look or a synchronisation does the same later, gaps are charged that it would excuse, and what a program that ends has on the GPU is known less well; so
//! no variable keeps it away under a policy that the tenant cannot change, and where there is no room for it it is tried again. It is there only where a cap binds, from the
//! first launch that is counted on; it sleeps without a deadline while nothing is in flight; all signals are blocked in it; and when the
//! process's exit handlers begin it settles once more, while ours waits for it: after that the driver's own may run, and it never
//! enters the driver again.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_governor::batch::{Close, QUIET_NS};
use cuota_governor::pace::is_gap;
use cuota_governor::rounds::{Flow, Found, LONGEST_NS, Nap, Rounds};
use cuota_region::sys;

use super::Limiter;
use super::caps::Ground;
use super::sensor::Tails;
use super::stream::{Books, STREAMS, Stream};
use super::timeline::Visit;
use super::turns::UNHELD_NS;
use crate::interpose::glibc;
use crate::process::{self, Standing, driver};

const STACK_BYTES: usize = 256 << 10;

/// PTHREAD_CREATE_DETACHED of <pthread.h>.
const DETACHED: c_int = 1;

/// How far the process's end has come: nobody has seen it; exit handlers have begun, and the helper still settles what has
/// ended; it does not enter the driver any more.
static EXITING: AtomicU32 = AtomicU32::new(LIVES);
const LIVES: u32 = 0;
const LAST_ROUNDS: u32 = 1;
const OVER: u32 = 2;

/// How long a process that ends waits at most until what has ended on the GPU is settled, ns.
const PATIENCE_NS: u64 = 100_000_000;

/// How often a process that ends notes how long its work in flight has been on the GPU, ns.
const LAST_NOTES_NS: u64 = 1_000_000;

/// The helper sleeps until somebody launches; or until a turn of the process begins, which it is to give up in time.
const UNTIL_LAUNCHED: u32 = 1;
const UNTIL_TURN: u32 = 2;

const COMES: u32 = 1;
const NONE_COMES: u32 = 2;
const NONE_YET: u32 = 3;

/// How long after there was no room for a thread it is tried again, ns.
const AGAIN_NS: u64 = 100_000_000;

/// The helper of a process. All-zero: none yet.
pub(crate) struct Helper {
    /// [`COMES`] once it was asked for, [`NONE_YET`] where there was no room for it, or [`NONE_COMES`].
    begun: AtomicU32,
    /// When it was tried last, ns.
    tried_ns: AtomicU64,
    /// While it may be woken, by what: [`UNTIL_LAUNCHED`] or [`UNTIL_TURN`].
    parked: AtomicU32,
    /// 1 while it may be in the driver.
    is_inside: AtomicU32,
    /// 1 once it runs.
    runs: AtomicU32,
    /// Somebody launched since its last round.
    launched: AtomicU32,
    /// A turn has begun since it last looked after them.
    turned: AtomicU32,
    /// Since then a stream may have run dry inside an open batch.
    sparse: AtomicU32,
    /// When it last went round, ns.
    looked_ns: AtomicU64,
}

/// Who has gone round since so long, ns, watches: the longest round and half of it. A program can make its threads late by their timer slack, or
/// keep them off the processors.
const RECENT_NS: u64 = LONGEST_NS / 2 * 3;

impl Helper {
    /// There is to be none.
    pub(crate) fn keep_away(&self) {
        self.begun.store(NONE_COMES, Ordering::Relaxed);
    }

    /// Whether somebody wants it awake.
    pub(super) fn is_called(&self) -> bool {
        self.launched.load(Ordering::SeqCst) != 0 || EXITING.load(Ordering::SeqCst) != LIVES
    }

    /// Whether it runs.
    pub(super) fn is_there(&self) -> bool {
        self.runs.load(Ordering::Relaxed) != 0
    }

    /// Whether it goes round, so that wrong estimates are found.
    #[inline(never)]
    pub(super) fn watches(&self) -> bool {
        sys::coarse_ns().saturating_sub(self.looked_ns.load(Ordering::Relaxed)) < RECENT_NS
    }

    /// A stream may have run dry inside an open batch.
    pub(super) fn is_sparse(&self) {
        self.sparse.store(1, Ordering::Relaxed);
    }

    /// Without one the tenant gets less than its cap, and the end of its work is known later.
    #[cold]
    fn begin(&self, found: u32) {
        let now_ns = sys::coarse_ns();
        let is_time = now_ns.saturating_sub(self.tried_ns.load(Ordering::Relaxed)) > AGAIN_NS;
        if is_time && self.begun.compare_exchange(found, COMES, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            self.tried_ns.store(now_ns, Ordering::Relaxed);
            if start(found == 0).is_none() {
                self.begun.store(NONE_YET, Ordering::SeqCst);
            }
        }
    }
}

type Attributes = [u64; 8];

type Init = unsafe extern "C" fn(*mut Attributes) -> c_int;
type SetStack = unsafe extern "C" fn(*mut Attributes, usize) -> c_int;
type SetDetached = unsafe extern "C" fn(*mut Attributes, c_int) -> c_int;
type Body = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut usize, *const Attributes, Body, *mut c_void) -> c_int;
type AtExit = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, *mut c_void) -> c_int;

/// The functions of <pthread.h> and <stdlib.h> that are called, found as the loader's are: an import would bind the library to a
/// version of glibc, and a look-up by `dlsym` would come to our own hook.
struct Threads {
    init: Init,
    set_stack: SetStack,
    set_detached: SetDetached,
    create: Create,
    at_exit: AtExit,
}

impl Threads {
    fn find() -> Option<Self> {
        let find = glibc::function;
        // SAFETY: each has the type that the headers declare for its name.
        unsafe {
            Some(Threads {
                init: core::mem::transmute::<*mut c_void, Init>(find(b"pthread_attr_init")?),
                set_stack: core::mem::transmute::<*mut c_void, SetStack>(find(b"pthread_attr_setstacksize")?),
                set_detached: core::mem::transmute::<*mut c_void, SetDetached>(find(
                    b"pthread_attr_setdetachstate",
                )?),
                create: core::mem::transmute::<*mut c_void, Create>(find(b"pthread_create")?),
                at_exit: core::mem::transmute::<*mut c_void, AtExit>(find(b"__cxa_atexit")?),
            })
        }
    }
}

fn start(is_first: bool) -> Option<()> {
    let threads = Threads::find()?;
    let mut attributes: Attributes = [0; 8];
    let mut thread = 0;
    let mask = sys::block_signals();
    // SAFETY: the attributes have room for the library's; the function and the stack's size are good for a thread. The handler
    // is registered after the driver's, so it runs before them.
    let status = unsafe {
        (threads.init)(&raw mut attributes)
            | (threads.set_stack)(&raw mut attributes, STACK_BYTES)
            | (threads.set_detached)(&raw mut attributes, DETACHED)
            | if is_first { (threads.at_exit)(exiting, null_mut(), null_mut()) } else { 0 }
            | (threads.create)(&raw mut thread, &raw const attributes, run, null_mut())
    };
    sys::set_signals(mask);
    (status == 0).then_some(())
}

/// Waits until a word is not `value` any more, [`PATIENCE_NS`] at most.
fn wait_while(word: &AtomicU32, value: u32) {
    let until_ns = sys::monotonic_ns() + PATIENCE_NS;
    while word.load(Ordering::SeqCst) == value && sys::monotonic_ns() < until_ns {
        sys::sleep_ns(20_000);
    }
}

/// The process's exit handlers have begun: waits until the helper has settled what has ended, and is out of the driver, two tenths of a
/// second at most. It is done there: an exit handler may run where the driver must not be called, say in a host function.
extern "C" fn exiting(_: *mut c_void) {
    let Standing::Managed(process) = process::standing() else { return };
    let helper = &process.limiter.helper;
    // A child has none before it launches.
    let comes = helper.begun.load(Ordering::SeqCst) == COMES;
    EXITING.store(if comes { LAST_ROUNDS } else { OVER }, Ordering::SeqCst);
    sys::wake_all(&EXITING);
    process.limiter.wake_helper();
    wait_while(&EXITING, LAST_ROUNDS);
    EXITING.store(OVER, Ordering::SeqCst);
    wait_while(&helper.is_inside, 1);
    process.limiter.leave_turns();
    // Where it did not come to its turn.
    process.limiter.note_left(0, Tails::Left, 0);
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    match process::standing() {
        Standing::Managed(process) => process.limiter.help(),
        Standing::Unmanaged | Standing::Closed => null_mut(),
    }
}

impl Limiter {
    /// Something was put on a stream, or others may come: there is to be a helper, and it is to be awake.
    #[inline(never)]
    pub(super) fn call_helper(&self) {
        // Against `park`, each stores its own word before it reads the other's: one of the two sees the other.
        self.helper.launched.swap(1, Ordering::SeqCst);
        let begun = self.helper.begun.load(Ordering::Relaxed);
        if matches!(begun, 0 | NONE_YET) {
            self.helper.begin(begun);
        }
        if self.helper.parked.load(Ordering::SeqCst) == UNTIL_LAUNCHED {
            self.wake_helper();
        }
    }

    /// A turn of the process begins.
    pub(super) fn turn_begins(&self) {
        // As in `call_helper`.
        self.helper.turned.swap(1, Ordering::SeqCst);
        if self.helper.parked.load(Ordering::SeqCst) == UNTIL_TURN {
            self.wake_helper();
        }
    }

    /// Whether there is a helper, which is called, to watch for others.
    #[cold]
    pub(super) fn has_helper(&self) -> bool {
        self.call_helper();
        !self.is_unwatched()
    }

    /// Whether there is to be no helper, so that launches look themselves.
    pub(super) fn is_unwatched(&self) -> bool {
        self.helper.begun.load(Ordering::Acquire) >= NONE_COMES
    }

    fn wake_helper(&self) {
        if self.helper.parked.swap(0, Ordering::SeqCst) != 0 {
            sys::wake_all(&self.helper.parked);
            self.ring();
        }
    }

    /// Sleeps until then, ns, or until what it waits for; for a launch also until somebody comes to a GPU on which the tenant is alone.
    fn park(&self, until: u32, until_ns: u64) {
        let helper = &self.helper;
        helper.parked.swap(until, Ordering::SeqCst);
        // Who called before saw nobody to wake.
        let is_awake = match until {
            UNTIL_TURN => {
                helper.turned.load(Ordering::SeqCst) != 0 || EXITING.load(Ordering::SeqCst) != LIVES
            }
            _ => self.sleep_alone() || helper.is_called(),
        };
        if !is_awake {
            sys::wait_until(&helper.parked, until, until_ns);
        }
        helper.parked.store(0, Ordering::SeqCst);
    }

    fn help(&'static self) -> ! {
        let (helper, mut rounds, mut before) = (&self.helper, Rounds::new(), Found::Idle);
        helper.runs.store(1, Ordering::SeqCst);
        sys::sleep_exactly();
        loop {
            helper.is_inside.store(1, Ordering::SeqCst);
            let end = EXITING.load(Ordering::SeqCst);
            let found =
                if end == OVER { Found::Idle } else { driver::outside_captures(|| self.round(before)) };
            before = found;
            helper.turned.swap(0, Ordering::SeqCst);
            let turn_ns = if end == LIVES { self.tend() } else { u64::MAX };
            helper.is_inside.store(0, Ordering::SeqCst);
            let nap = match end {
                LIVES => rounds.next(found),
                // What has run dry by now is seen to be quiet, closed and settled, a round each.
                LAST_ROUNDS if found != Found::Idle => Nap::For(QUIET_NS),
                _ => self.note_until_the_end(),
            };
            let nap_ns = if let Nap::For(ns) = nap { ns } else { u64::MAX };
            let until_ns = sys::monotonic_ns().saturating_add(nap_ns.min(turn_ns));
            match nap {
                Nap::Parked if turn_ns >= UNHELD_NS => self.park(UNTIL_LAUNCHED, until_ns),
                Nap::For(_) if turn_ns == UNHELD_NS => self.park(UNTIL_TURN, until_ns),
                // Until then, or until exit handlers come further.
                _ => sys::wait_until(&EXITING, end, until_ns),
            }
        }
    }

    /// Notes how long what is in flight has been on the GPU, without asking the driver, which may be ending.
    fn note_until_the_end(&self) -> ! {
        EXITING.store(OVER, Ordering::SeqCst);
        loop {
            self.note_left(0, Tails::Left, 0);
            sys::sleep_ns(LAST_NOTES_NS);
        }
    }

    /// Settles what has ended, and closes what is quiet.
    fn round(&'static self, before: Found) -> Found {
        let process = process::managed();
        self.helper.looked_ns.store(sys::coarse_ns(), Ordering::Relaxed);
        let launched = self.helper.launched.swap(0, Ordering::SeqCst) != 0;
        // While units keep coming, the looks before them settle, each on its own stream.
        let settles = !launched || before != Found::Flowing;
        self.note_left(if settles { STREAMS } else { 1 }, Tails::LeftToLaunches, 0);
        let mut found = if launched { Found::Draining } else { Found::Idle };
        if self.helper.sparse.swap(0, Ordering::Relaxed) != 0 {
            found = Found::Sparse;
        }
        if self.evicted.is_any() {
            found = found.max(Found::Draining);
        }
        for stream in self.streams.busy() {
            found = found.max(Found::Draining);
            if let Some((on, mut books)) = stream.ground(0) {
                books.was_looked_at = false;
                // What was drawn in the last round and is not reached was no late boundary: the GPU was busy.
                if settles {
                    books.none_was_late();
                }
                if !books.batch.is_empty() {
                    found = found.max(self.watch(on, stream, &mut books));
                }
            }
        }
        process.tell_monitor(found != Found::Idle);
        found
    }

    /// Looks at an open batch, and closes it where nothing comes any more.
    fn watch(&self, on: Ground, stream: &Stream, books: &mut Books) -> Found {
        let (units, cost_ns, now_ns) = (books.batch.units(), books.batch.cost_ns(), sys::monotonic_ns());
        if is_gap(books.pace.idle_ns(now_ns)) && self.is_at_work(on, stream, books) {
            books.pace.doubt();
        }
        match books.watch.look(units, cost_ns, now_ns) {
            Flow::Flowing => Found::Flowing,
            Flow::MayBeDry => Found::Sparse,
            Flow::Quiet { late_ns } if stream.is_per_thread() => {
                self.settle_by_tail(on, stream, books, late_ns);
                // While it is not done its rounds are those of what is in flight.
                if books.batch.is_empty() { Found::Sparse } else { Found::Draining }
            }
            Flow::Quiet { late_ns } => {
                let visit = self.enter_context(on, stream);
                if visit.is_some() && self.close(on, stream, books, Close::Quiet) {
                    books.was_late(late_ns);
                }
                // One that cannot be closed here is not looked at all the time.
                if books.batch.is_empty() { Found::Sparse } else { Found::Flowing }
            }
        }
    }

    /// Makes a stream's context the current one: the legacy stream, and a new event, are that one's. Who ends it waits for who visits it.
    fn enter_context(&self, on: Ground, stream: &Stream) -> Option<Visit<'_>> {
        let visit = self.visit(stream)?;
        // Said each time: the one with this number, and even with this handle, may be another than the last time.
        on.process()
            .contexts
            .handle_of(stream.context())
            .filter(|&context| driver::set_current(context))
            .map(|_| visit)
    }

    /// Whether work is on a stream that has run dry by its estimates; not what waits behind a copy or an event.
    #[cold]
    fn is_at_work(&self, on: Ground, stream: &Stream, books: &mut Books) -> bool {
        if stream.is_per_thread() {
            return !self.tail_is_reached(stream);
        }
        let visit = self.enter_context(on, stream);
        visit.is_some() && !self.has_run_dry(stream) && self.waits(stream, books).is_none()
    }
}
