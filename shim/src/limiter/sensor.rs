//! Batches: closed by an event, settled when they have ended.

use core::sync::atomic::Ordering;
use cuota_abi::cuda::{CUresult, CUstream};
use cuota_governor::batch::{Close, Measured};
use cuota_governor::budget::Correction;
use cuota_governor::pace::is_gap;
use cuota_region::sys;

use super::Limiter;
use super::caps::{Gpu, Ground};
use super::stream::{Books, Closed, InFlight, STREAMS, Stream, WAITS_AT_LAST, WAITS_SYNCED, YIELDS};
use super::timeline::{End, Mark, Timeline, Visit};
use crate::process::device::DEVICES;
use crate::process::driver::{self, Capturing};
use crate::process::{self, Process};

/// Streams that a look settles batches of. A query takes about a microsecond, and a program can have hundreds of streams.
pub(super) const AT_A_LOOK: usize = 8;

/// What becomes of batches that are open on other threads' streams and have ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tails {
    /// They are left to their threads and the helper, who know better when they ended.
    Left,
    /// They are settled as if they had ended now: somebody waits for them.
    Settled,
    /// As [`Self::Left`]; and so is all else on a stream at which a launch has looked since the helper's last round: it has asked the driver.
    LeftToLaunches,
}

impl Limiter {
    /// A context's time line.
    pub(super) fn line(&self, context: u8) -> &Timeline {
        &self.timelines[usize::from(context)]
    }

    /// Visits the time line of a stream's context, unless that is ending.
    #[inline(never)]
    pub(super) fn visit(&self, stream: &Stream) -> Option<Visit<'_>> {
        self.line(stream.context()).visit()
    }

    /// Records an event on a stream whose books the caller holds. `None`: it cannot be, or must not.
    pub(super) fn record(&self, stream: &Stream) -> Option<Mark> {
        let process = process::managed();
        if !stream.is_reachable() || !self.may_record(stream) {
            return None;
        }
        let line = self.line(stream.context()).visit_later()?;
        let context = process.contexts.handle_of(stream.context());
        driver::outside_captures(|| line.record(context, stream.handle()))
    }

    /// Nothing is recorded on a legacy stream where that would ruin a capture, nor on a stream that takes part in one.
    pub(super) fn may_record(&self, stream: &Stream) -> bool {
        if stream.is_legacy() {
            !self.captures.bar_legacy(stream.context())
        } else {
            self.capturing(stream) == Capturing::No
        }
    }

    /// Whether what is put on the stream goes into a graph.
    pub(super) fn capturing(&self, stream: &Stream) -> Capturing {
        // The legacy stream cannot capture, and must not be asked.
        if self.captures.is_empty() || stream.is_legacy() {
            Capturing::No
        } else {
            driver::outside_captures(|| driver::capturing(stream.handle()))
        }
    }

    /// Whether nothing is on a stream that the calling thread can name.
    #[inline(never)]
    pub(super) fn has_run_dry(&self, stream: &Stream) -> bool {
        self.may_record(stream) && driver::has_ended(stream.handle())
    }

    /// One reference less to an event of a stream's context.
    #[inline(never)]
    pub(super) fn let_go(&self, stream: &Stream, mark: Option<Mark>) {
        if let Some(mark) = mark {
            self.line(stream.context()).let_go(mark);
        }
    }

    /// Closes the open batch of a stream whose books the caller holds. Whether it will be measured.
    pub(super) fn close(&self, on: Ground, stream: &Stream, books: &mut Books, why: Close) -> bool {
        books.was_synced |= why == Close::Sync;
        if books.batch.is_empty() && books.boundary.is_none() {
            return false;
        }
        // A boundary of another thread's would lie before the unit, which would be in no batch.
        if books.is_under_way && matches!(why, Close::Quiet | Close::Held | Close::Sync) {
            return false;
        }
        let is_reachable = stream.is_reachable();
        // When the cap is taken off nobody comes back to it: the estimate stands.
        if books.is_full() || !(is_reachable || why == Close::End) {
            return false;
        }
        let unknown = books.unknown;
        let (start, mut batch) = books.take_open(on);
        if batch.is_empty() {
            // The boundary ended the batch before; another is recorded when work comes.
            self.let_go(stream, start);
            return false;
        }
        let mut late_ns = 0;
        if books.pace.is_timed() {
            let idle_ns = books.pace.idle_ns(sys::monotonic_ns());
            batch.idle(idle_ns);
            if is_gap(idle_ns) && self.has_run_dry(stream) {
                // It teaches nothing; and where nobody watches it is charged, since nobody knows how much of it was work.
                late_ns = if self.helper.watches() { books.pace.excused_ns(idle_ns).max(1) } else { 1 };
                books.was_dry = true;
            }
        }
        let end = start.and_then(|_| self.record(stream));
        let Some((start, end)) = start.zip(end) else {
            // Not to be measured by events. What it has cost so far is its estimate; the rest is seen by `time`.
            self.let_go(stream, start);
            books.blind_ns = books.blind_ns.saturating_add(batch.booked_ns());
            if why == Close::Sync {
                books.step_ns = books.step_ns.saturating_add(batch.cost_ns());
            }
            if is_reachable {
                // What the program waits for needs no tail.
                self.blind(stream, books, why != Close::Sync);
            } else {
                on.note_used(core::mem::take(&mut books.blind_ns));
            }
            return false;
        };
        let others_held = books.others_held;
        books.push(Closed { batch, start, end, unknown, late_ns, others_held });
        // One event ends a batch and begins the next, if that comes at once.
        if matches!(why, Close::Full | Close::Unknown | Close::Held) {
            self.line(stream.context()).hold(end);
            books.boundary = Some(end);
        }
        true
    }

    /// Notes that work is on a stream which no event measures, and leaves the stream's tail behind it, where that is wanted and may be.
    #[cold]
    #[inline(never)]
    fn blind(&self, stream: &Stream, books: &mut Books, wants_tail: bool) {
        books.is_blind = true;
        books.has_tail =
            wants_tail && self.may_record(stream) && self.leave_tail(stream, books.launches.count());
    }

    /// Closes the open batch of the stream that the calling thread means.
    #[inline(never)]
    pub(crate) fn close_stream(&self, handle: CUstream, why: Close) {
        let process = process::managed();
        let Some(stream) = self.streams.known(process, handle).filter(|stream| stream.batches() != 0) else {
            return;
        };
        self.close_one(stream, why);
    }

    /// Closes the open batch of a stream.
    #[inline(never)]
    pub(super) fn close_one(&self, stream: &Stream, why: Close) {
        if let (Some(on), Some(mut books)) = (stream.on(), stream.books()) {
            // The unit behind which it ends has been launched, also where as many batches are in flight as there may be and this one stays open.
            books.is_under_way &= why != Close::Unknown;
            self.close(on, stream, &mut books, why);
        }
    }

    /// Before a stream is destroyed.
    pub(crate) fn end_stream(&self, handle: CUstream) {
        // Two threads that saw it first at once can have given it two places.
        while let Some((key, stream)) = self.streams.with_handle(handle) {
            // Who is at its books may be about to name it to the driver.
            let mut books = stream.books_after(WAITS_AT_LAST);
            if let (Some(on), Some(books)) = (stream.on(), &mut books) {
                self.close(on, stream, books, Close::End);
                if books.is_blind && !books.has_tail {
                    self.blind(stream, books, true);
                }
            }
            stream.end(key);
        }
        self.reap_all();
        self.streams.sweep();
    }

    /// Makes a call that may end a context, and says whether it has, while nobody else touches its events.
    pub(crate) fn while_ending(&self, context: Option<u8>, call: &dyn Fn() -> (CUresult, bool)) -> CUresult {
        let Some(context) = context else { return call().0 };
        self.line(context).while_ending(call, || self.end_context(context))
    }

    /// After a context has gone: its streams have, too, and no event says any more how long their work took. It was on the GPU until
    /// now at most.
    fn end_context(&self, context: u8) {
        let busy = self.streams.busy().filter(|stream| stream.context() == context);
        for stream in busy {
            if let Some((on, mut books)) = stream.ground(WAITS_AT_LAST) {
                self.write_off(on, stream, &mut books);
            }
        }
        self.streams.end_context(context);
        self.evicted.end_context(context);
        self.captures.remove(context, u32::MAX);
    }

    /// Looks at which a launch on another stream was held back.
    pub(super) fn others_held(&self, stream: &Stream) -> u64 {
        self.held.load(Ordering::Relaxed).wrapping_sub(stream.held.load(Ordering::Relaxed))
    }

    /// Closes the open batches of all streams, but for those that another thread is at. Whether there were any.
    #[inline(never)]
    pub(crate) fn close_all(&self, why: Close) -> bool {
        let mut were_open = false;
        for stream in self.streams.busy() {
            if let Some((on, mut books)) = stream.ground(0) {
                let was_open = !books.batch.is_empty();
                self.close(on, stream, &mut books, why);
                were_open |= was_open && books.batch.is_empty();
            }
        }
        were_open
    }

    /// Settles the batches that have ended, all of them. Not for the path of a launch.
    pub(crate) fn reap_all(&self) {
        self.reap(STREAMS, Tails::Left);
    }

    /// Settles the batches that have ended on so many streams: whoever comes next goes on with those after them.
    #[inline(never)]
    pub(super) fn reap(&self, streams: usize, tails: Tails) {
        driver::outside_captures(|| self.note_left(streams, tails, 0));
    }

    /// As [`Self::reap`], after the program has waited for this stream, or for what may be on any of them: it may end at once.
    pub(crate) fn reap_synced(&self, synced: Option<CUstream>, tails: Tails) {
        let process = process::managed();
        driver::outside_captures(|| {
            let stream = synced.and_then(|handle| self.streams.known(process, handle));
            if let Some(stream) = stream.filter(|stream| stream.batches() != 0)
                && let Some((on, mut books)) = stream.ground(WAITS_SYNCED)
            {
                while self.settle(on, stream, &mut books) {}
                // It has been waited for, and nothing has come since.
                if books.is_blind && !books.has_tail && books.batch.is_empty() {
                    self.clock(on, &mut books, true);
                }
            }
            // Those that another thread is at are left to it: threads that launch and synchronise on a stream each must not wait for one
            // another.
            let (settles, waits) = if synced.is_some() { (1, 0) } else { (STREAMS, YIELDS) };
            self.note_left(settles, tails, waits);
        });
    }

    /// Notes what is in flight, which this process's tenant pays for if it dies. What has ended on so many streams is settled first, but
    /// for those that another thread is at; while it is, what is noted stays.
    #[inline(never)]
    pub(super) fn note_left(&self, settles: usize, tails: Tails, waits: u32) {
        let mut is_sure = true;
        let mut left = [InFlight::NONE; DEVICES];
        let busy = || self.streams.busy();
        let count = busy().count();
        // All of them where they are few.
        let first = match count {
            _ if count <= settles => 0,
            _ => self.turn.fetch_add(u32::try_from(settles).unwrap_or(0), Ordering::Relaxed) as usize % count,
        };
        for (index, stream) in busy().enumerate() {
            let books = stream.books_after(waits);
            is_sure &= books.is_some();
            if let (Some(on), Some(mut books)) = (stream.on(), books) {
                let is_due = index.wrapping_sub(first) < settles;
                if is_due {
                    self.attend(on, stream, &mut books, tails);
                }
                if let Some(left) = left.get_mut(stream.device() as usize) {
                    left.add(&books);
                }
            }
        }
        if self.evicted.is_any() {
            is_sure &=
                self.time_evicted(settles == STREAMS || settles != 0 && !self.helper.is_there(), &mut left);
        }
        for (ordinal, left) in (0..).zip(&left).filter(|_| is_sure) {
            self.note_in_flight(ordinal, *left);
        }
    }

    /// Settles what has ended on a stream.
    #[inline(never)]
    pub(super) fn attend(&self, on: Ground, stream: &Stream, books: &mut Books, tails: Tails) {
        if tails == Tails::LeftToLaunches && books.was_looked_at {
            return;
        }
        while self.settle(on, stream, books) {}
        if books.is_old() && self.waits(stream, books).is_some() {
            books.since_ns = sys::monotonic_ns();
        }
        if tails == Tails::Settled && stream.is_per_thread() {
            self.settle_by_tail(on, stream, books, 0);
        }
        if books.is_blind {
            self.time(on, stream, books);
        }
    }

    fn note_in_flight(&self, ordinal: u32, left: InFlight) {
        let noted = self.gpus.get(ordinal as usize).map(|gpu| &gpu.in_flight);
        let any = u32::from(left.since_ns != 0);
        // A load first: this comes after each synchronisation, once for each device there may be.
        if noted.is_some_and(|noted| {
            noted.load(Ordering::Relaxed) | any != 0 && noted.swap(any, Ordering::Relaxed) | any != 0
        }) && let Some(on) = Ground::of(ordinal)
        {
            on.note_in_flight(left);
        }
    }

    /// Charges work that no event measures for the time that has gone by, in place of its estimate, until its tail is reached, or the stream
    /// has nothing to do. One that must not be asked now, for a capture's sake, or not by this thread, may have.
    #[cold]
    fn time(&self, on: Ground, stream: &Stream, books: &mut Books) {
        let is_lost = !books.has_tail && stream.is_lost();
        let may_ask = || stream.is_reachable() && self.may_record(stream);
        let has_ended = match books.has_tail {
            true => self.tail_is_reached(stream),
            false => is_lost || may_ask() && driver::has_ended(stream.handle()),
        };
        if is_lost {
            // Nobody comes back to it here: its estimate stands, too.
            on.note_used(core::mem::take(&mut books.blind_ns));
        }
        self.clock(on, books, has_ended);
    }

    /// A batch on a GPU has ended, or begins where nothing was there.
    #[inline(never)]
    pub(super) fn note_progress(&self, gpu: &Gpu, now_ns: u64) {
        self.progress_ns.store(now_ns, Ordering::Relaxed);
        gpu.ended_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Charges what no event measures by the clock, until now.
    #[inline(never)]
    fn clock(&self, on: Ground, books: &mut Books, has_ended: bool) {
        books.is_blind = !has_ended;
        if has_ended {
            books.step_ns = 0;
            self.note_progress(on.gpu, sys::monotonic_ns());
        }
        on.charge_since(books.since_ns, core::mem::take(&mut books.blind_ns));
    }

    /// The stream with this handle, as the calling thread means it. `None`: its device cannot be told.
    pub(super) fn stream(
        &'static self,
        process: &'static Process,
        handle: CUstream,
    ) -> Option<&'static Stream> {
        self.streams.known(process, handle).or_else(|| self.new_stream(process, handle))
    }

    /// One that was not seen before. What was left behind another, in whose place it comes, is asked for and destroyed.
    #[cold]
    #[inline(never)]
    fn new_stream(&'static self, process: &'static Process, handle: CUstream) -> Option<&'static Stream> {
        driver::outside_captures(|| {
            let found = self.streams.find(process, handle);
            found.or_else(|| self.stream_in_anothers_place(process, handle))
        })
    }

    #[cold]
    fn stream_in_anothers_place(
        &'static self,
        process: &'static Process,
        handle: CUstream,
    ) -> Option<&'static Stream> {
        // The first that nobody is at and that can be followed; where none can be, the first that nobody is at.
        for turn in 0..2 * STREAMS {
            let Some(stream) = self.streams.next_to_go() else { continue };
            if let Some((on, mut books)) = stream.ground(0)
                && (turn >= STREAMS || self.follow_evicted(stream, &mut books))
            {
                self.write_off(on, stream, &mut books);
                break;
            }
        }
        self.streams.sweep();
        self.streams.find(process, handle)
    }

    /// Charges what is open and in flight on a stream as if it had been on the GPU all the time, and forgets it.
    fn write_off(&self, on: Ground, stream: &Stream, books: &mut Books) {
        on.close(&mut books.batch);
        let mut booked_ns = books.batch.booked_ns().saturating_add(books.blind_ns);
        while let Some(&mut closed) = books.front() {
            booked_ns = booked_ns.saturating_add(closed.batch.booked_ns());
            self.let_go(stream, Some(closed.start));
            self.let_go(stream, Some(closed.end));
            books.pop();
        }
        self.let_go(stream, books.boundary);
        let cost_ns = on.time_since(books.since_ns).max(booked_ns);
        on.note_used(cost_ns);
        on.correct(Correction::from(booked_ns, cost_ns));
        books.clear();
    }

    /// The event in front of what is in flight on a stream, where that has not begun, since the stream waits for a value, an event or the
    /// host. What no event measures may have.
    #[cold]
    #[inline(never)]
    pub(super) fn waits(&self, stream: &Stream, books: &mut Books) -> Option<Mark> {
        let boundary = books.boundary;
        let first = books.front().map(|closed| closed.start).or(boundary);
        let start = first.filter(|_| !books.is_blind)?;
        self.visit(stream).is_some_and(|line| !line.is_reached(start)).then_some(start)
    }

    /// Whether any work of the process is on the GPU, rather than behind something that it waits for. What no event shows is not taken for
    /// that: the clock helps it, too.
    #[cold]
    pub(super) fn any_has_begun(&self) -> bool {
        let has_begun = |stream: &Stream| {
            let Some(mut books) = stream.try_books() else { return false };
            let boundary = books.boundary;
            let Some(start) = books.front().map(|closed| closed.start).or(boundary) else { return false };
            self.visit(stream).is_some_and(|line| line.is_reached(start))
        };
        driver::outside_captures(|| self.streams.busy().any(has_begun))
    }

    /// Settles the oldest batch of a stream, if it has ended.
    #[inline(never)]
    fn settle(&self, on: Ground, stream: &Stream, books: &mut Books) -> bool {
        let Some(&mut closed) = books.front() else {
            if books.batch.is_empty() && !books.is_kept {
                // The stream has run dry: the next batch begins with a boundary of its own.
                self.let_go(stream, books.boundary.take());
            }
            return false;
        };
        let Some(line) = self.visit(stream) else { return false };
        let end = line.look(closed.start, closed.end, |bracket_ns| {
            closed.batch.occupied_ns(bracket_ns, closed.late_ns)
        });
        if end == End::NotYet {
            return false;
        }
        line.let_go(closed.start);
        line.let_go(closed.end);
        drop(line);
        books.pop();
        let now_ns = sys::monotonic_ns();
        let since_ns = core::mem::replace(&mut books.since_ns, now_ns);
        self.note_progress(on.gpu, now_ns);
        let End::Measured { bracket_ns, covered_ns } = end else {
            // A fault, or its context is going: it was on the GPU until now at most.
            on.charge_since(since_ns, closed.batch.booked_ns());
            return true;
        };
        let covered_ns = on.gpu.cover(covered_ns, now_ns);
        let strangers = on.strangers(on.gpu.turns.had_since(since_ns));
        let exclusive = strangers.is_none();
        let measured = Measured { bracket_ns, covered_ns, exclusive, late_ns: closed.late_ns };
        let settled = closed.batch.settle(measured, on.gpu.concurrency());
        let has_gaps = closed.batch.may_have_gaps(measured);
        if has_gaps {
            books.pace.may_have_gaps();
        }
        if self.others_held(stream) != closed.others_held {
            closed.batch.teach_held(measured, &on.gpu.costs());
        } else if !has_gaps {
            closed.batch.teach(measured, &on.gpu.costs());
        }
        on.gpu.set_concurrency(settled.concurrency);
        on.charge(&settled, strangers);
        true
    }
}
