//! The helper thread: it closes the batches of streams that have gone quiet, and settles what has ended, where the program does
//! not come by for a while.
//!
//! Nothing rests on it: without it a look or a synchronisation does the same later. It is there only where a cap binds, from the
//! first launch that is counted on; it sleeps without a deadline while nothing is in flight; all signals are blocked in it; and once the
//! process's exit handlers have begun it never enters the driver, whose own have begun too.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};

use cuota_governor::batch::Close;
use cuota_region::sys;

use super::Limiter;
use super::caps::Ground;
use crate::interpose::glibc;
use crate::process::settings::Settings;
use crate::process::{self, Process, Standing, driver};

/// Between two rounds, ns. A round takes some 5 µs, so this is half a per cent of a processor while work is in flight.
pub(super) const ROUND_NS: u64 = 1_000_000;

/// How long after a launch's look the helper leaves what has ended to the next one, ns: the coarse clock ticks each 1 to 10 ms.
const LOOKED_NS: u64 = 10_000_000;

/// Rounds without anything in flight before it sleeps without a deadline.
const IDLE_ROUNDS: u32 = 20;

const STACK_BYTES: usize = 256 << 10;

/// PTHREAD_CREATE_DETACHED of <pthread.h>.
const DETACHED: c_int = 1;

/// Whether exit handlers have begun.
static EXITING: AtomicU32 = AtomicU32::new(0);

/// The helper of a process. All-zero: none yet.
pub(super) struct Helper {
    /// 1 once it was asked for, whether there is one or not.
    begun: AtomicU32,
    /// 1 while it sleeps without a deadline.
    parked: AtomicU32,
    /// 1 while it may be in the driver.
    is_inside: AtomicU32,
}

impl Helper {
    /// Something was put on a stream: there is to be a helper, and it is to be awake.
    #[inline]
    pub(super) fn call(&self) {
        if self.begun.load(Ordering::Relaxed) == 0 {
            self.begin();
        }
        if self.parked.load(Ordering::Relaxed) != 0 && self.parked.swap(0, Ordering::AcqRel) != 0 {
            sys::wake_all(&self.parked);
        }
    }

    #[cold]
    fn begin(&self) {
        if self.begun.swap(1, Ordering::AcqRel) == 0 && Settings::get().has_helper() {
            // Without one nothing is lost but promptness.
            let _ = start();
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

fn start() -> Option<()> {
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
            | (threads.at_exit)(exiting, null_mut(), null_mut())
            | (threads.create)(&raw mut thread, &raw const attributes, run, null_mut())
    };
    sys::set_signals(mask);
    (status == 0).then_some(())
}

/// The process's exit handlers have begun: waits until the helper is out of the driver, a tenth of a second at most.
extern "C" fn exiting(_: *mut c_void) {
    EXITING.store(1, Ordering::SeqCst);
    let until = sys::monotonic_ns().saturating_add(100_000_000);
    if let Standing::Managed(process) = process::standing() {
        while process.limiter.helper.is_inside.load(Ordering::SeqCst) != 0 && sys::monotonic_ns() < until {
            sys::yield_now();
        }
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    if let Standing::Managed(process) = process::standing() {
        process.limiter.help(process);
    }
    null_mut()
}

impl Limiter {
    fn help(&'static self, process: &'static Process) {
        let (helper, mut idle, mut context) = (&self.helper, 0, 0);
        loop {
            helper.is_inside.store(1, Ordering::SeqCst);
            if EXITING.load(Ordering::SeqCst) != 0 {
                helper.is_inside.store(0, Ordering::SeqCst);
                return;
            }
            self.round(process, &mut context);
            helper.is_inside.store(0, Ordering::SeqCst);
            idle = if self.streams.seen().any(|stream| stream.batches() != 0) { 0 } else { idle + 1 };
            if idle >= IDLE_ROUNDS {
                helper.parked.store(1, Ordering::SeqCst);
                // Who came before the store saw nobody to wake.
                if self.streams.seen().all(|stream| stream.batches() == 0) {
                    sys::wait_until(&helper.parked, 1, u64::MAX);
                }
                helper.parked.store(0, Ordering::SeqCst);
                idle = 0;
            }
            sys::sleep_ns(ROUND_NS);
        }
    }

    /// Settles what has ended, and closes what has been quiet since the last round.
    fn round(&'static self, process: &'static Process, current: &mut u8) {
        // Where launches look, they settle.
        if sys::coarse_ns().saturating_sub(self.looked_ns.load(Ordering::Relaxed)) > LOOKED_NS {
            self.reap(process);
        }
        for stream in self.streams.seen().filter(|stream| stream.batches() != 0) {
            let (Some(on), Some(mut books)) = (Ground::of(process, stream.device()), stream.try_books())
            else {
                continue;
            };
            // What was drawn in the last round and is not reached was no late boundary: the GPU was busy.
            books.none_was_late();
            let units = books.batch.units();
            let is_quiet = units == core::mem::replace(&mut books.seen_units, units);
            if units == 0 || !is_quiet {
                continue;
            }
            // The legacy stream, and a new event, are the current context's.
            if stream.context() != *current {
                *current = stream.context();
                if !process.contexts.handle_of(*current).is_some_and(driver::set_current) {
                    *current = 0;
                    continue;
                }
            }
            self.close(&on, stream, &mut books, Close::Quiet);
        }
    }
}
