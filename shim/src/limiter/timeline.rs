//! A context's time on the GPU: its boundary events, and the union of the batches between them.
//!
//! No lock is held over a call of the driver's. Events are counted by references without one; what the driver said is added to the
//! union under a lock of its own. Who calls the driver with a context's events is counted as a [`Visit`], so that nobody
//! does while the context ends.

use core::num::NonZeroU16;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::cuda::{CUcontext, CUevent, CUresult, CUstream};
use cuota_governor::occupancy::{Interval, Union};
use cuota_region::sys;

use super::lock::Lock;
use crate::process::driver;

/// Events of a context. With more batches in flight those that come later are charged their estimates.
const EVENTS: usize = 512;

/// The place of the first base on the time line, ns: what began earlier lies before it.
const ORIGIN_NS: u64 = 1 << 60;

/// The place of an event that is not reached, as far as is known; and of one of which that cannot be told.
const NOT_YET: u64 = 0;
const NOWHERE: u64 = u64::MAX;

/// How far from its base an event is measured at most, ns. `cuEventElapsedTime` gives milliseconds in 32 bits: beyond a second it
/// counts in steps of a tenth of a microsecond and more.
const BASE_AGE_NS: i64 = 1_000_000_000;

/// How often who records an event gives the processor to who makes a call that may end the context: most such calls end nothing.
const PATIENCE: u32 = 4096;

/// How long who ends a context sleeps between two looks at those who are at its events, ns: most are there for a microsecond.
const NAP_NS: u64 = 20_000;

/// How often, a tenth of a second in all: one that records waits while the stream's queue is full. Counted, and not by the clock: where
/// the whole process was stopped they have not had the time.
const NAPS: u32 = 5_000;

/// `CU_EVENT_DEFAULT`.
const WITH_TIMING: u32 = 0;

/// An event of the context's pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark(NonZeroU16);

struct Event {
    /// 0 until it is made.
    handle: AtomicU64,
    /// The ends of batches that it is, the base, and those who look at it.
    references: AtomicU32,
    /// Where it lies on the time line, ns; [`NOT_YET`] until that is known.
    place_ns: AtomicU64,
}

/// The time line. All-zero is one on which nothing has happened.
#[repr(C)]
pub(super) struct Timeline {
    visits: AtomicU32,
    /// Calls under way that may end the context.
    endings: AtomicU32,
    axis: Lock<Axis>,
    events: [Event; EVENTS],
}

#[repr(C)]
struct Axis {
    base: Option<Mark>,
    base_ns: u64,
    union: Union,
}

/// The time line of a context that does not end meanwhile.
pub(super) struct Visit<'a>(&'a Timeline);

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
    /// The remainder is the number itself, and says so to the compiler.
    fn event(&self, mark: Mark) -> &Event {
        &self.events[(usize::from(mark.0.get()) - 1) % EVENTS]
    }

    /// The event; `None`: the context has been another since.
    fn handle(&self, mark: Mark) -> Option<CUevent> {
        let handle = self.event(mark).handle.load(Ordering::Acquire);
        (handle != 0).then_some(core::ptr::with_exposed_provenance_mut(usize::try_from(handle).ok()?))
    }

    /// One reference more.
    pub(super) fn hold(&self, mark: Mark) {
        self.event(mark).references.fetch_add(1, Ordering::AcqRel);
    }

    /// One reference less.
    pub(super) fn let_go(&self, mark: Mark) {
        // None is left where the context has gone since.
        let less = |count: u32| count.checked_sub(1);
        let _ = self.event(mark).references.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Visits, unless the context is ending.
    pub(super) fn visit(&self) -> Option<Visit<'_>> {
        // Against `while_ending`, each writes its own word before it reads the other's: one of the two sees the other.
        self.visits.fetch_add(1, Ordering::SeqCst);
        let visit = Visit(self);
        (self.endings.load(Ordering::SeqCst) == 0).then_some(visit)
    }

    /// As [`Self::visit`], after a call that ends the context, perhaps, for a while.
    pub(super) fn visit_later(&self) -> Option<Visit<'_>> {
        self.visit().or_else(|| {
            (0..PATIENCE).find_map(|_| {
                sys::yield_now();
                self.visit()
            })
        })
    }

    /// Runs `call`, which may end the context, while nobody visits. Then `clean` where it says that it has: the context's events are gone.
    pub(super) fn while_ending<T>(&self, call: impl FnOnce() -> (T, bool), clean: impl FnOnce()) -> T {
        self.endings.fetch_add(1, Ordering::SeqCst);
        for _ in 0..NAPS {
            if self.visits.load(Ordering::SeqCst) == 0 {
                break;
            }
            sys::sleep_ns(NAP_NS);
        }
        let (result, has_ended) = call();
        if has_ended {
            clean();
            self.clear();
        }
        self.endings.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Forgets everything: the context is gone, and its events with it.
    fn clear(&self) {
        for event in &self.events {
            event.handle.store(0, Ordering::Release);
            event.references.store(0, Ordering::Release);
        }
        if let Some(mut axis) = self.axis.take() {
            // SAFETY: integers and no base: all-zero is a time line on which nothing has happened.
            *axis = unsafe { core::mem::zeroed() };
        }
    }
}

impl Deref for Visit<'_> {
    type Target = Timeline;

    fn deref(&self) -> &Timeline {
        self.0
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.visits.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Visit<'_> {
    /// Records an event that nothing refers to, made in `context` where it has to be made; with one reference.
    pub(super) fn record(&self, context: Option<CUcontext>, stream: CUstream) -> Option<Mark> {
        // A look first: those of all threads' batches in flight stand in front.
        let free = |event: &Event| {
            event.references.load(Ordering::Relaxed) == 0
                && event.references.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = self.events.iter().position(free)?;
        let mark = Mark(NonZeroU16::new(u16::try_from(index + 1).ok()?)?);
        let event = self.handle(mark).or_else(|| self.make(mark, context));
        self.event(mark).place_ns.store(NOT_YET, Ordering::Relaxed);
        match event {
            Some(event) if driver::record_event(event, stream) => return Some(mark),
            // It may be of another context than the stream: it must not come to hand again.
            Some(event) => {
                self.event(mark).handle.store(0, Ordering::Release);
                driver::destroy_event(event);
            }
            None => {}
        }
        self.let_go(mark);
        None
    }

    fn make(&self, mark: Mark, context: Option<CUcontext>) -> Option<CUevent> {
        let event = driver::new_event(context, WITH_TIMING)?;
        self.event(mark).handle.store(event.expose_provenance() as u64, Ordering::Release);
        Some(event)
    }

    /// Whether an event has been reached; where that cannot be told, it has.
    pub(super) fn is_reached(&self, mark: Mark) -> bool {
        let asked = self.handle(mark).map(driver::query_event);
        asked != Some(CUresult::CUDA_ERROR_NOT_READY)
    }

    /// Looks whether the batch between two events has ended; if so, what it occupied of the time between them is added to the union,
    /// as `occupied` says of that time, ns.
    pub(super) fn look(&self, start: Mark, end: Mark, occupied: impl Fn(u64) -> u64) -> End {
        let (start_ns, end_ns) = (self.place(start), self.place(end));
        if start_ns.min(end_ns) == NOT_YET {
            return End::NotYet;
        }
        if start_ns.max(end_ns) == NOWHERE {
            return End::Unknown;
        }
        let bracket_ns = end_ns.saturating_sub(start_ns);
        let covered_ns = self.cover(start, occupied(bracket_ns));
        covered_ns.map_or(End::Unknown, |covered_ns| End::Measured { bracket_ns, covered_ns })
    }

    /// Adds to the union what occupied the GPU for so long from an event on, which is reached, ns. What it adds to it, ns.
    #[inline(never)]
    pub(super) fn cover(&self, start: Mark, occupied_ns: u64) -> Option<u64> {
        let start_ns = self.place(start);
        if matches!(start_ns, NOT_YET | NOWHERE) {
            return None;
        }
        let mut axis = self.axis.take()?;
        Some(axis.union.add(Interval { start_ns, end_ns: start_ns.saturating_add(occupied_ns) }))
    }

    /// Where an event lies on the time line, ns; [`NOT_YET`] while it is not reached, [`NOWHERE`] where that cannot be told. The driver is
    /// asked once, since each question is some microseconds, and of a batch's first event mostly not at all: it was the last one's.
    #[inline(never)]
    fn place(&self, mark: Mark) -> u64 {
        let place = &self.event(mark).place_ns;
        let known_ns = place.load(Ordering::Relaxed);
        if known_ns != NOT_YET {
            return known_ns;
        }
        let Some(event) = self.handle(mark) else { return NOWHERE };
        let Some(mut axis) = self.axis.take() else { return NOWHERE };
        let base = match axis.base {
            Some(base) => base,
            // Under the lock: once in a context's life.
            None if driver::query_event(event) == CUresult::CUDA_ERROR_NOT_READY => return NOT_YET,
            None => {
                self.hold(mark);
                axis.base_ns = ORIGIN_NS;
                *axis.base.insert(mark)
            }
        };
        let base_ns = axis.base_ns;
        self.hold(base);
        drop(axis);
        let since_base_ns = match self.handle(base) {
            Some(base) => driver::elapsed_ns(base, event),
            None => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        };
        self.let_go(base);
        match since_base_ns {
            Ok(since_base_ns) => {
                let at_ns = base_ns.saturating_add_signed(since_base_ns);
                place.store(at_ns, Ordering::Relaxed);
                if since_base_ns > BASE_AGE_NS {
                    self.move_base(mark, at_ns);
                }
                at_ns
            }
            Err(CUresult::CUDA_ERROR_NOT_READY) => NOT_YET,
            Err(_) => NOWHERE,
        }
    }

    /// Makes an event the base that lies long after it. At once: what is placed next, the end of the batch that begins there, is measured from it.
    fn move_base(&self, mark: Mark, at_ns: u64) {
        let Some(mut axis) = self.axis.take() else { return };
        self.hold(mark);
        axis.base_ns = at_ns;
        if let Some(before) = axis.base.replace(mark) {
            self.let_go(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn timeline() -> Box<Timeline> {
        // SAFETY: all-zero is a time line on which nothing has happened.
        unsafe { Box::new(core::mem::zeroed()) }
    }

    #[test]
    fn an_event_is_held_whoever_is_at_the_union() {
        let line = timeline();
        let mark = Mark(NonZeroU16::MIN);
        let references = || line.events[0].references.load(Ordering::Relaxed);
        let _held = line.axis.take();
        (0..2).for_each(|_| line.hold(mark));
        line.let_go(mark);
        assert_eq!(references(), 1);
        (0..2).for_each(|_| line.let_go(mark));
        assert_eq!(references(), 0);
    }

    /// As the driver answers: events whose handles are the times when they were reached, ns.
    #[expect(clippy::cast_possible_truncation, reason = "the interface is a float")]
    unsafe extern "C" fn elapsed_ms(ms: *mut f32, from: CUevent, to: CUevent) -> CUresult {
        let [from_ns, to_ns] = [from, to].map(|event| event.addr() as f64);
        // SAFETY: the caller's.
        unsafe { *ms = ((to_ns - from_ns) / 1e6) as f32 };
        CUresult::CUDA_SUCCESS
    }

    #[test]
    fn the_first_batch_after_an_hour_without_one_is_measured_like_any_other() {
        driver::stand_in_for_elapsed(elapsed_ms);
        let line = timeline();
        let visit = line.visit().expect("it does not end");
        let hour_ns = 3_600_000_000_000;
        let reached_ns =
            [1_000_000, 1_300_000, hour_ns + 1_010_000, hour_ns + 1_310_000, hour_ns + 1_320_000];
        for (event, ns) in line.events.iter().zip(reached_ns) {
            event.handle.store(ns, Ordering::Relaxed);
        }
        let mark = |index| Mark(NonZeroU16::new(index).expect("from 1 on"));
        for (start, end, length_ns) in [(1, 2, 300_000_u64), (3, 4, 300_000), (4, 5, 10_000)] {
            let End::Measured { bracket_ns, .. } =
                visit.look(mark(start), mark(end), |bracket_ns| bracket_ns)
            else {
                panic!("{start} to {end}");
            };
            assert!(bracket_ns.abs_diff(length_ns) < 100, "{bracket_ns} ns for {length_ns}");
        }
    }

    #[test]
    fn an_event_that_is_gone_is_nowhere_and_no_base() {
        let line = timeline();
        let visit = line.visit().expect("it does not end");
        assert_eq!(visit.place(Mark(NonZeroU16::MIN)), NOWHERE);
        assert_eq!(line.axis.take().expect("free").base, None);
    }

    #[test]
    fn nobody_is_at_the_events_of_a_context_that_ends() {
        let line = timeline();
        let (gone, over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        if let Some(_visit) = line.visit() {
                            assert!(!gone.load(Ordering::SeqCst), "the context is gone");
                        }
                    }
                });
            }
            for _ in 0..200 {
                let end = || {
                    gone.store(true, Ordering::SeqCst);
                    thread::yield_now();
                    ((), true)
                };
                line.while_ending(end, || gone.store(false, Ordering::SeqCst));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(line.visits.load(Ordering::Relaxed), 0);
    }
}
