//! The thread that carries the process's work on: it sleeps until something is due, looks, and sleeps again.

use super::Gpu;
use crate::clock::now_ns;
use crate::engine::{QUEUE, Work};
use std::sync::atomic::Ordering;

/// A new unit on an idle stream wakes the worker only where it sleeps for longer than this.
const SOON_NS: u64 = 100_000;

impl Gpu {
    /// Starts the device's threads in this process, once.
    pub(crate) fn start(&'static self) {
        static STARTED: parking_lot::Mutex<Vec<u32>> = parking_lot::Mutex::new(Vec::new());
        let mut started = STARTED.lock();
        if started.contains(&self.ordinal) {
            return;
        }
        started.push(self.ordinal);
        self.start_host_calls();
        if let Ok(slot) = self.join() {
            spawn("cuota-sim-gpu", move || self.carry_on(slot));
        }
    }

    /// Appends a unit to `stream`, waiting while its queue is full. Gives the unit's ticket.
    pub fn submit(&self, stream: u64, work: Work) -> u64 {
        self.submit_all(stream, vec![work])
    }

    /// Appends units in one piece: a graph's may be more than the queue holds.
    pub fn submit_all(&self, stream: u64, works: Vec<Work>) -> u64 {
        let mut engine = self.engine.lock();
        while engine.depth(stream) >= QUEUE {
            self.wait_for_progress(&mut engine);
        }
        let now = now_ns();
        if engine.next_end_ns().is_some_and(|end| end <= now) {
            self.pump(&mut engine);
        }
        // Asked only now: what was there may just have ended, and the turn with it.
        let was_empty = engine.depth(stream) == 0;
        let mut ticket = engine.last_ticket(stream);
        for work in works {
            ticket = engine.submit(stream, work, now);
        }
        let slept_until = self.sleeps_until_ns.load(Ordering::Acquire);
        if was_empty && slept_until > now + SOON_NS {
            // Looks at once, so that the turn is asked for now and not when the worker gets to it.
            if self.pump(&mut engine) < slept_until {
                drop(engine);
                self.wake_worker();
            }
        }
        ticket
    }

    pub(super) fn wake_worker(&self) {
        if let Ok(slot) = self.join() {
            self.shared.wake(slot);
        }
    }

    fn carry_on(&self, slot: usize) {
        loop {
            let seen = self.shared.wake_word(slot);
            let sleep = {
                let mut engine = self.engine.lock();
                let sleep = self.pump(&mut engine);
                // Stored under the lock: whoever comes next knows whether the worker must be woken.
                self.sleeps_until_ns.store(sleep, Ordering::Release);
                sleep
            };
            if sleep > now_ns() {
                self.shared.sleep(slot, seen, sleep);
            }
        }
    }
}

/// A thread of the model: it takes no signals, which belong to the program, and its sleeps are exact to a microsecond.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for writes; `all` is filled before it is read. A new thread inherits the mask.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let timer = move || {
        // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and changes this thread only.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64, 0, 0, 0) };
        body();
    };
    if let Err(why) = std::thread::Builder::new().name(name.to_owned()).spawn(timer) {
        crate::log::line(&format!(
            "cannot start the thread {name}: {why}; work of this process will not run"
        ));
    }
    // SAFETY: `before` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
}
