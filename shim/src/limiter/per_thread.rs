//! Per-thread streams, which no other thread can name to the driver: neither the helper nor who waits for the whole context can end an
//! open batch there, and the thread itself may sleep, or be gone.
//!
//! So the thread leaves an event without timing behind each unit (0.16 µs of its time and none of the GPU's, measured on an H100). Others
//! see by it whether the stream has run dry, and then settle the open batch by the host's clock: it was on the GPU from when its work was
//! the stream's first until somebody last saw it there, at least, and until now at most; between the two its estimate decides.
//!
//! Other streams have such a tail behind work that no timing event measures, for whoever looks later: the stream may be destroyed by then,
//! or take part in a capture, where it must not be asked.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::{CUevent, CUresult};
use cuota_governor::batch::{Measured, Unit};
use cuota_region::sys;

use super::Limiter;
use super::caps::Ground;
use super::stream::{Books, Stream};
use crate::process::{self, driver};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// What its thread leaves behind the units on a per-thread stream. All-zero is nothing.
pub(super) struct Tail {
    /// The event; 0: not made yet.
    event: AtomicU64,
    /// Behind which launch it was recorded last, as [`Launches`] counts them.
    behind: AtomicU32,
}

/// Launches on a stream. All-zero is none.
pub(super) struct Launches {
    count: u32,
    has_chains: bool,
}

pub(super) fn as_event(event: u64) -> CUevent {
    core::ptr::with_exposed_provenance_mut(usize::try_from(event).unwrap_or(0))
}

impl Launches {
    /// Counts a unit that is about to be launched. Which launch the tail is to be left behind, if behind this one.
    pub(super) fn add(&mut self, unit: &Unit) -> Option<u32> {
        self.count = self.count.wrapping_add(1);
        self.has_chains |= unit.continues_chain;
        (!self.has_chains).then_some(self.count)
    }

    /// How many there were, at most [`u32::MAX`].
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether there was a chain of dependent launches, so that more will come: an event behind the first of one would split it.
    pub(super) fn has_chains(&self) -> bool {
        self.has_chains
    }
}

impl Tail {
    /// Forgets the event, which is gone with its context.
    pub(super) fn forget(&self) {
        self.event.store(0, Ordering::Relaxed);
    }

    /// Takes the event out: it is the caller's now.
    pub(super) fn take(&self) -> u64 {
        self.event.swap(0, Ordering::Relaxed)
    }

    /// Whether it was recorded behind this launch last.
    pub(super) fn is_behind(&self, launch: u32) -> bool {
        self.behind.load(Ordering::Acquire) == launch
    }

    /// Destroys the event: the place is another stream's now.
    pub(super) fn clear(&self) {
        let event = self.take();
        if event != 0 {
            driver::destroy_event(as_event(event));
        }
    }
}

impl Limiter {
    /// Leaves the event behind a launch on a stream that the calling thread can name. `false`: the driver refuses.
    #[inline(never)]
    pub(super) fn leave_tail(&self, stream: &Stream, launch: u32) -> bool {
        let process = process::managed();
        let Some(_visit) = self.line(stream.context()).visit_later() else { return false };
        let mut event = as_event(stream.tail.event.load(Ordering::Relaxed));
        if event.is_null() {
            let context = process.contexts.handle_of(stream.context());
            event = driver::outside_captures(|| driver::new_event(context, DISABLE_TIMING)).unwrap_or(event);
            stream.tail.event.store(event.expose_provenance() as u64, Ordering::Relaxed);
        }
        let is_left = !event.is_null() && driver::record_event(event, stream.handle());
        if is_left {
            stream.tail.behind.store(launch, Ordering::Release);
        }
        is_left
    }

    /// Whether the tail of a stream has been reached, or cannot be any more.
    pub(super) fn tail_is_reached(&self, stream: &Stream) -> bool {
        let event = stream.tail.event.load(Ordering::Relaxed);
        let visit = self.visit(stream);
        visit.is_some_and(|_| driver::query_event(as_event(event)) != CUresult::CUDA_ERROR_NOT_READY)
    }

    /// Settles the open batch of a per-thread stream, if all that was launched there has ended. `late_ns`: how long it may have been idle
    /// then, ns, as far as only the helper has looked.
    #[cold]
    #[inline(never)]
    pub(super) fn settle_by_tail(
        &self,
        on: Ground,
        stream: &Stream,
        books: &mut Books,
        late_ns: u64,
    ) -> bool {
        let event = stream.tail.event.load(Ordering::Relaxed);
        let is_behind_all = stream.tail.is_behind(books.launches.count);
        if !is_behind_all || event == 0 || books.batch.is_empty() || books.is_busy() {
            return false;
        }
        let Some(line) = self.visit(stream) else { return false };
        let now_ns = sys::monotonic_ns();
        if driver::query_event(as_event(event)) != CUresult::CUDA_SUCCESS {
            books.seen_busy_ns = now_ns;
            return false;
        }
        let seen_busy_ns = books.seen_busy_ns.max(books.since_ns);
        let bracket_ns = now_ns.saturating_sub(books.since_ns);
        // Never 0: nothing is learned from the host's clock.
        let late_ns = late_ns.min(now_ns.saturating_sub(seen_busy_ns)).max(1);
        let (start, batch) = books.take_open(on);
        let occupied_ns = batch.occupied_ns(bracket_ns, late_ns);
        let covered_ns = start.and_then(|start| line.cover(start, occupied_ns)).unwrap_or(occupied_ns);
        let covered_ns = on.gpu.cover(covered_ns, now_ns);
        start.into_iter().for_each(|start| line.let_go(start));
        books.since_ns = now_ns;
        self.note_progress(on.gpu, now_ns);
        let strangers = on.strangers(false);
        let measured = Measured { bracket_ns, covered_ns, exclusive: strangers.is_none(), late_ns };
        on.charge(&batch.settle(measured, on.gpu.concurrency()), strangers);
        true
    }
}
