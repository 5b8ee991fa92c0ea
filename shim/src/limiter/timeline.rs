//! A context's time on the GPU: its boundary events, and the union of the batches between them.

use core::num::NonZeroU16;

use cuota_abi::cuda::{CUevent, CUresult};
use cuota_governor::occupancy::{Interval, Union};

use crate::process::driver;

/// Events of a context. With more batches in flight those that come later are charged their estimates.
const EVENTS: usize = 512;

/// The place of the first base on the time line, ns: what began earlier lies before it.
const ORIGIN_NS: u64 = 1 << 60;

/// How far from its base an event is measured at most, ns. `cuEventElapsedTime` gives milliseconds in 32 bits: beyond a second it
/// counts in steps of a tenth of a microsecond and more.
const BASE_AGE_NS: u64 = 1_000_000_000;

/// An event of the context's pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark(NonZeroU16);

#[derive(Clone, Copy)]
struct Event {
    /// Null until it is made.
    handle: CUevent,
    /// The ends of batches that it is, and the base.
    references: u32,
}

/// The time line. All-zero is one on which nothing has happened.
pub(super) struct Timeline {
    union: Union,
    base: Option<Mark>,
    base_ns: u64,
    events: [Event; EVENTS],
}

// SAFETY: a driver's handle may be used by every thread.
unsafe impl Send for Timeline {}

/// What the events around a batch say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It has not ended.
    NotYet,
    /// Its time cannot be told: a fault, or events that are gone.
    Unknown,
    /// It has ended.
    Measured {
        /// Between its boundaries, ns.
        bracket_ns: u64,
        /// What it adds to the union, ns.
        covered_ns: u64,
    },
}

impl Timeline {
    fn event(&mut self, mark: Mark) -> Option<&mut Event> {
        self.events.get_mut(usize::from(mark.0.get()) - 1)
    }

    /// An event that nothing refers to, with one reference. The current context must be the time line's, where one has to be made.
    pub(super) fn take(&mut self) -> Option<(Mark, CUevent)> {
        let (index, event) = self.events.iter_mut().enumerate().find(|(_, event)| event.references == 0)?;
        if event.handle.is_null() {
            event.handle = driver::new_event()?;
        }
        event.references = 1;
        Some((Mark(NonZeroU16::new(u16::try_from(index + 1).ok()?)?), event.handle))
    }

    /// One reference more.
    pub(super) fn hold(&mut self, mark: Mark) {
        if let Some(event) = self.event(mark) {
            event.references += 1;
        }
    }

    /// One reference less.
    pub(super) fn let_go(&mut self, mark: Mark) {
        if let Some(event) = self.event(mark) {
            event.references = event.references.saturating_sub(1);
        }
    }

    /// Looks whether the batch between two events has ended; if so, what it occupied of the time between them is added to the union,
    /// as `occupied` says of that time, ns.
    pub(super) fn look(&mut self, start: Mark, end: Mark, occupied: impl FnOnce(u64) -> u64) -> End {
        // Null: the context has been another since.
        let handle = |timeline: &mut Self, mark| {
            timeline.event(mark).map(|event| event.handle).filter(|handle| !handle.is_null())
        };
        let (Some(from), Some(to)) = (handle(self, start), handle(self, end)) else { return End::Unknown };
        match driver::query_event(to) {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NOT_READY => return End::NotYet,
            _ => return End::Unknown,
        }
        let Some(bracket_ns) = driver::elapsed_ns(from, to) else { return End::Unknown };
        if self.base.is_none() {
            (self.base, self.base_ns) = (Some(start), ORIGIN_NS);
            self.hold(start);
        }
        let base = self.base.and_then(|base| handle(self, base));
        let Some(since_base_ns) = base.and_then(|base| driver::elapsed_ns(base, to)) else {
            return End::Unknown;
        };
        let end_ns = self.base_ns.saturating_add_signed(since_base_ns);
        if since_base_ns.unsigned_abs() > BASE_AGE_NS {
            self.hold(end);
            if let Some(old) = self.base.replace(end) {
                self.let_go(old);
            }
            self.base_ns = end_ns;
        }
        let bracket_ns = bracket_ns.max(0).unsigned_abs();
        let start_ns = end_ns.saturating_sub(bracket_ns);
        let interval = Interval { start_ns, end_ns: start_ns.saturating_add(occupied(bracket_ns)) };
        End::Measured { bracket_ns, covered_ns: self.union.add(interval) }
    }

    /// Forgets everything: the context is gone, and its events with it.
    pub(super) fn clear(&mut self) {
        // SAFETY: integers, null handles and no base: all-zero is a time line on which nothing has happened.
        *self = unsafe { core::mem::zeroed() };
    }
}
