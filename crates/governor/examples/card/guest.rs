//! The limiter in front of a real driver: the law of `tests/law/model/guest.rs`, with events, threads and a clock. It is
//! what the guest in a tenant's process does, without the guest's constraints: a mutex where that has lock-free words.
//!
//! The period is a constant of the governor. Budget and admission are homogeneous in time: in a world where every
//! duration is twice as long nothing else changes. So another period is tried by giving both their times in a unit in
//! which that period is the governor's ([`Law::scaled`]); sensor and costs stay in nanoseconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cuota_governor::admission::{Arrival, Bound, Cause, Pass, Scene, Verdict, weight};
use cuota_governor::batch::{Batch, Close, Measured, Place, Unit};
use cuota_governor::budget::{Budget, Correction, Look, Opening, Rule, book_period, book_window};
use cuota_governor::cap::{Cap, PERIOD_NS};
use cuota_governor::concurrency::Concurrency;
use cuota_governor::cost::{Costs, Estimate};
use cuota_governor::lease::{self, Spend};
use cuota_governor::occupancy::{Interval, Union};
use cuota_governor::rounds::{Flow, Found, Nap, Rounds, Watch};

use crate::clock;
use crate::cuda::{Device, Event, Stream};

/// Where the device's time line begins, ns: everything before its first event has room below.
const BEGIN_NS: i64 = 1 << 50;
const UNKNOWN: i64 = i64::MIN;

/// What the guest does with launches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Nothing.
    Off,
    /// Draws batches and measures them, and holds nobody back.
    Sense,
    /// Holds to the cap.
    Limit,
}

/// The law of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    pub(crate) mode: Mode,
    pub(crate) cap: Cap,
    pub(crate) period_ns: u64,
    /// Bound of the work in flight, ns.
    pub(crate) in_flight_ns: u64,
    /// Work in a batch, ns.
    pub(crate) target_ns: u64,
}

impl Law {
    /// Nothing is done.
    pub(crate) const OFF: Self = Self {
        mode: Mode::Off,
        cap: Cap::FULL,
        period_ns: PERIOD_NS,
        in_flight_ns: 1_000_000,
        target_ns: 300_000,
    };

    /// A time in the unit in which the period is the governor's.
    fn scaled(&self, ns: u64) -> u64 {
        let scaled = u128::from(ns) * u128::from(PERIOD_NS) / u128::from(self.period_ns);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// And back, rounded up.
    fn real(&self, scaled: u64) -> u64 {
        let ns = (u128::from(scaled) * u128::from(self.period_ns)).div_ceil(u128::from(PERIOD_NS));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn look(&self) -> Look {
        Look {
            now_ns: self.scaled(clock::now_ns()),
            cap: self.cap,
            clock_went_back: false,
            takes_turns: false,
        }
    }

    fn scaled_correction(&self, correction: Correction) -> Correction {
        match correction {
            Correction::None => Correction::None,
            Correction::Owed(ns) => Correction::Owed(self.scaled(ns)),
            Correction::Refund(ns) => Correction::Refund(self.scaled(ns)),
        }
    }
}

/// What a cell counts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    /// What the tenant was charged for batches that ended, ns.
    pub(crate) charged_ns: u64,
    /// The sum of their brackets, as the events had them, ns.
    pub(crate) brackets_ns: u64,
    /// What they added to the union, ns.
    pub(crate) covered_ns: u64,
    /// Their estimates, ns, and how far those were from the brackets, ns.
    pub(crate) estimated_ns: u64,
    pub(crate) estimate_error_ns: u64,
    pub(crate) batches: u64,
    pub(crate) late_batches: u64,
    pub(crate) boundaries: u64,
    /// What recording them kept the CPU, ns.
    pub(crate) boundary_cpu_ns: u64,
    pub(crate) looks: u64,
    /// What reaping kept the CPU, ns, in whichever thread.
    pub(crate) reap_cpu_ns: u64,
    pub(crate) waits_budget: u64,
    pub(crate) waits_bound: u64,
    pub(crate) waited_ns: u64,
    pub(crate) longest_wait_ns: u64,
    pub(crate) stalled: u64,
    pub(crate) bound_timed_out: u64,
}

/// A boundary: an event, and when it was reached on the device's time line.
struct Mark {
    event: Event,
    at_ns: AtomicI64,
}

impl Mark {
    fn at_ns(&self) -> i64 {
        self.at_ns.load(Relaxed)
    }
}

struct Closed {
    batch: Batch,
    start: Arc<Mark>,
    end: Arc<Mark>,
    unknown: bool,
    /// Closed as quiet: since when it may have been idle, ns. 0: it was not.
    late_ns: u64,
    others_held: u64,
}

struct Books {
    stream: Stream,
    lease: u64,
    batch: Batch,
    boundary: Option<Arc<Mark>>,
    unknown: bool,
    closed: VecDeque<Closed>,
    watch: Watch,
    /// The open batch began behind a gap that counts, on a stream with nothing on it: its first unit is measured by itself.
    apart: bool,
    /// Looks at which a launch on this stream was held back.
    held: u64,
    /// Those at launches on the others, when the open batch began.
    others_held: u64,
}

impl Books {
    fn is_busy(&self) -> bool {
        !self.batch.is_empty() || !self.closed.is_empty()
    }

    fn batches(&self) -> u32 {
        u32::try_from(self.closed.len()).unwrap_or(u32::MAX) + u32::from(!self.batch.is_empty())
    }

    fn in_flight_ns(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|c| weight(c.batch.cost_ns(), !c.unknown)).sum();
        closed + weight(self.batch.cost_ns(), !self.unknown) * u64::from(!self.batch.is_empty())
    }
}

struct Inner {
    law: Law,
    words: Vec<AtomicU64>,
    concurrency: Concurrency,
    union: Union,
    budget: Budget,
    books: Vec<Books>,
    progress_ns: u64,
    /// Looks at which a launch was held back, on any stream.
    held: u64,
    rounds: Rounds,
    /// Something was launched since the helper's last round; and a stream may have run dry inside an open batch.
    launched: bool,
    sparse: bool,
    parked: bool,
    /// The last boundary that was reached: the next is timed from it, since an elapsed time is a 32-bit float of
    /// milliseconds, exact to 8 ns only over 100 ms.
    reference: Option<Arc<Mark>>,
    idle: Vec<Event>,
    tally: Tally,
    helper: Helper,
    variant: Variant,
}

/// The law as it was, or might be, in one point or another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// The bound adds up what each batch in flight takes alone, not what they are believed to occupy together.
    pub(crate) solo_bound: bool,
    /// A batch books what its target takes alone; and who has closed all open batches sleeps before it looks again.
    pub(crate) book_alone: bool,
    /// What ran while launches on other streams were held back teaches like any other.
    pub(crate) learn_waits: bool,
    /// No unit is booked at more than this until it ends, ns.
    pub(crate) book_at_most_ns: u64,
}

impl Variant {
    /// The law as it is.
    pub(crate) const NONE: Self =
        Self { solo_bound: false, book_alone: false, learn_waits: false, book_at_most_ns: u64::MAX };
}

/// How the helper goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Helper {
    /// Between two of its rounds, ns, always; else as [`Rounds`] says.
    pub(crate) round_ns: Option<u64>,
    /// It leaves a stream alone that has a closed batch on the GPU: the GPU is not idle, whatever the program does.
    pub(crate) patient: bool,
}

struct Waiting {
    arrival: Arrival,
    booked_ns: u64,
}

enum Gate {
    Go,
    Wait { look_ns: u64, cause: Cause },
}

/// The guest of this process.
pub(crate) struct Guest {
    inner: Mutex<Inner>,
    /// A batch has ended.
    progress: Condvar,
    /// The helper is parked, and somebody launches.
    call: Condvar,
    stop: AtomicBool,
    helper_cpu_ns: AtomicU64,
}

impl Guest {
    /// A guest that does nothing yet, for these streams.
    pub(crate) fn new(streams: &[Stream], helper: Helper, variant: Variant) -> Self {
        let books = |stream: &Stream| Books {
            stream: *stream,
            lease: lease::EMPTY,
            batch: Batch::new(),
            boundary: None,
            unknown: false,
            closed: VecDeque::new(),
            watch: Watch::default(),
            apart: false,
            held: 0,
            others_held: 0,
        };
        let inner = Inner {
            law: Law::OFF,
            words: (0..1024).map(|_| AtomicU64::new(0)).collect(),
            concurrency: Concurrency::NONE,
            union: Union::new(),
            budget: Budget::default(),
            books: streams.iter().map(books).collect(),
            progress_ns: 0,
            held: 0,
            rounds: Rounds::new(),
            launched: false,
            sparse: false,
            parked: false,
            reference: None,
            idle: (0..512).map(|_| Event::timing()).collect(),
            tally: Tally::default(),
            helper,
            variant,
        };
        Self {
            inner: Mutex::new(inner),
            progress: Condvar::new(),
            call: Condvar::new(),
            stop: AtomicBool::new(false),
            helper_cpu_ns: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics and lives")
    }

    /// Begins a cell: everything before has drained ([`Guest::drain`]). Costs stay learned.
    pub(crate) fn begin(&self, law: Law) {
        let mut inner = self.lock();
        inner.law = law;
        inner.budget = Budget::default();
        inner.tally = Tally::default();
    }

    /// What has been counted since the last time.
    pub(crate) fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.lock().tally)
    }

    /// CPU time of the helper so far, ns.
    pub(crate) fn helper_cpu_ns(&self) -> u64 {
        self.helper_cpu_ns.load(Relaxed)
    }

    /// Launches when the law allows it.
    pub(crate) fn launch(&self, stream: usize, unit: &Unit, submit: impl FnOnce()) {
        let mut inner = self.lock();
        if inner.law.mode == Mode::Off {
            drop(inner);
            return submit();
        }
        if !inner.joins(stream, unit) {
            let mut waiting = inner.arrive(stream, unit);
            let arrived_ns = clock::now_ns();
            while let Gate::Wait { look_ns, cause } = inner.judge(stream, unit, &mut waiting) {
                match cause {
                    Cause::Budget => inner.tally.waits_budget += 1,
                    Cause::Bound => inner.tally.waits_bound += 1,
                }
                if cause == Cause::Budget && inner.close_all() && !inner.variant.book_alone {
                    // What the open batches had booked and not spent has come back: look again before sleeping.
                    continue;
                }
                let nap = Duration::from_nanos(look_ns.saturating_sub(clock::now_ns()).max(1));
                inner = self.progress.wait_timeout(inner, nap).expect("no thread panics and lives").0;
            }
            let waited_ns = clock::now_ns() - arrived_ns;
            inner.tally.waited_ns += waited_ns;
            inner.tally.longest_wait_ns = inner.tally.longest_wait_ns.max(waited_ns);
            if std::mem::take(&mut inner.parked) {
                self.call.notify_one();
            }
        }
        submit();
        let books = &inner.books[stream];
        let is_apart = books.apart && books.batch.units() == 1 && !unit.continues_chain;
        if is_apart || books.batch.ends_here(unit) {
            inner.close(stream, Close::Unknown);
        }
    }

    /// Closes the stream's open batch, as the program waits or copies.
    pub(crate) fn close(&self, stream: usize, why: Close) {
        let mut inner = self.lock();
        if inner.law.mode != Mode::Off {
            inner.close(stream, why);
        }
    }

    /// Settles everything; all streams were synchronised.
    pub(crate) fn drain(&self) {
        let mut inner = self.lock();
        for stream in 0..inner.books.len() {
            inner.close(stream, Close::End);
        }
        while inner.books.iter().any(Books::is_busy) {
            inner.reap();
        }
    }

    /// The helper thread: closes what is quiet, and reaps.
    pub(crate) fn help(&self, device: &Device) {
        device.enter();
        clock::wake_exactly();
        while !self.stop.load(Relaxed) {
            let mut inner = self.lock();
            let (nap, ended) = inner.help();
            self.helper_cpu_ns.store(clock::thread_cpu_ns(), Relaxed);
            if ended {
                self.progress.notify_all();
            }
            let fixed_ns = inner.helper.round_ns;
            let nap_ns = match nap {
                Nap::For(ns) => fixed_ns.unwrap_or(ns),
                Nap::Parked => {
                    inner.parked = true;
                    // The time-out only to see whether the process ends.
                    let waited = self.call.wait_timeout(inner, Duration::from_millis(100));
                    waited.expect("no thread panics and lives").0.parked = false;
                    continue;
                }
            };
            drop(inner);
            std::thread::sleep(Duration::from_nanos(nap_ns));
        }
    }

    /// Ends the helper.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

impl Inner {
    fn estimate(&self, unit: &Unit) -> Estimate {
        let most_ns = self.variant.book_at_most_ns;
        match Costs::new(&self.words).estimate(unit.key) {
            Estimate::Learned(ns) => Estimate::Learned(ns.min(most_ns)),
            Estimate::OfFunction(ns) => Estimate::OfFunction(ns.min(most_ns)),
            Estimate::Prior => Estimate::Prior,
        }
    }

    fn in_flight_ns(&self) -> u64 {
        let alone_ns = self.books.iter().map(Books::in_flight_ns).sum();
        if self.variant.solo_bound { alone_ns } else { self.concurrency.scale(alone_ns) }
    }

    /// The common launch: it goes into the open batch.
    fn joins(&mut self, stream: usize, unit: &Unit) -> bool {
        let estimate = self.estimate(unit);
        let cost_ns = self.concurrency.scale(estimate.cost_ns());
        let books = &mut self.books[stream];
        let place = books.batch.place(unit, estimate, self.law.target_ns);
        if let (false, Place::Same, Spend::Within { word }) =
            (books.batch.is_empty(), place, lease::spend(books.lease, cost_ns))
        {
            books.lease = word;
            books.batch.add(unit, estimate);
            return true;
        }
        false
    }

    /// One launch in a batch looks at the clock, at what has ended, and at the budget.
    fn arrive(&mut self, stream: usize, unit: &Unit) -> Waiting {
        self.tally.looks += 1;
        self.reap();
        if !unit.continues_chain {
            let (books, now_ns) = (&self.books[stream], clock::now_ns());
            self.sparse |= !books.batch.is_empty()
                && books.watch.may_be_dry(books.batch.units(), books.batch.cost_ns(), now_ns);
            self.close(stream, Close::Full);
        }
        let look = self.law.look();
        let estimate = self.estimate(unit);
        let unit_ns = self.concurrency.scale(estimate.cost_ns());
        if self.law.mode == Mode::Sense {
            let booked_ns = self.law.target_ns.max(unit_ns);
            return Waiting { arrival: Arrival::new(look, 0, Opening::Now { left_ns: 0 }), booked_ns };
        }
        let most_ns = match self.budget.peek(look) {
            Opening::Now { left_ns } => left_ns,
            Opening::At { .. } => self.law.cap.quantum_ns(),
        };
        let target_ns = self.law.target_ns;
        let target_ns = if self.variant.book_alone { target_ns } else { self.concurrency.scale(target_ns) };
        let booked_ns = match estimate {
            Estimate::Learned(_) => lease::size(target_ns, self.law.real(most_ns), unit_ns),
            Estimate::OfFunction(_) | Estimate::Prior => unit_ns,
        };
        let booked_scaled = self.law.scaled(booked_ns);
        let opening = self.book(look, booked_scaled);
        Waiting { arrival: Arrival::new(look, booked_scaled, opening), booked_ns }
    }

    fn book(&mut self, look: Look, scaled_ns: u64) -> Opening {
        let (window, opening) = book_window(self.budget.window, look, scaled_ns);
        let (period, opening) = book_period(self.budget.period, look, scaled_ns, opening);
        self.budget = Budget { window, period };
        opening
    }

    fn correct(&mut self, correction: Correction) {
        let (look, correction) = (self.law.look(), self.law.scaled_correction(correction));
        self.budget.window = Rule::Window.correct(self.budget.window, look, correction);
        self.budget.period = Rule::Period.correct(self.budget.period, look, correction);
    }

    fn judge(&mut self, stream: usize, unit: &Unit, waiting: &mut Waiting) -> Gate {
        self.reap();
        if self.law.mode == Mode::Sense {
            self.enter(stream, unit, waiting, Pass::Room);
            return Gate::Go;
        }
        let (law, look) = (self.law, self.law.look());
        let scene = Scene {
            in_flight_ns: law.scaled(self.in_flight_ns()),
            batches: self.books.iter().map(Books::batches).sum(),
            bound: Bound { in_flight_ns: law.scaled(law.in_flight_ns), batches: 2 },
            own_stream_busy: self.books[stream].is_busy(),
            process_busy: self.books.iter().any(Books::is_busy),
            progress_ns: law.scaled(self.progress_ns),
        };
        match waiting.arrival.judge(look, self.budget, &scene) {
            Verdict::Go(pass) => {
                self.enter(stream, unit, waiting, pass);
                Gate::Go
            }
            Verdict::Wait { look_ns, cause, .. } => {
                if waiting.arrival.is_held(look, cause) {
                    self.held += 1;
                    self.books[stream].held += 1;
                }
                Gate::Wait { look_ns: law.real(look_ns), cause }
            }
        }
    }

    /// Closes all open batches, as a launch has to wait for the budget. Whether there were any.
    fn close_all(&mut self) -> bool {
        let open = self.books.iter().any(|books| !books.batch.is_empty());
        (0..self.books.len()).for_each(|stream| self.close(stream, Close::Held));
        open
    }

    fn enter(&mut self, stream: usize, unit: &Unit, waiting: &Waiting, pass: Pass) {
        let (estimate, concurrency) = (self.estimate(unit), self.concurrency);
        let cost_ns = concurrency.scale(estimate.cost_ns());
        if self.books[stream].boundary.is_none() {
            let mark = self.record(stream);
            self.books[stream].boundary = Some(mark);
        }
        self.launched = true;
        let (held, now_ns) = (self.held, clock::now_ns());
        let books = &mut self.books[stream];
        if books.batch.is_empty() {
            books.apart = books.closed.is_empty() && books.watch.apart(estimate.cost_ns(), now_ns);
            books.watch = Watch::new(now_ns, books.in_flight_ns());
            books.others_held = held - books.held;
        }
        books.batch.book(waiting.booked_ns);
        books.batch.add(unit, estimate);
        books.unknown |= !estimate.is_learned();
        books.lease = books.lease.saturating_add(waiting.booked_ns).saturating_sub(cost_ns);
        match pass {
            Pass::Stalled => {
                // One unit, and no more.
                books.lease = lease::EMPTY;
                let correction = books.batch.close(concurrency);
                self.correct(correction);
                self.tally.stalled += 1;
            }
            Pass::BoundTimedOut => self.tally.bound_timed_out += 1,
            Pass::Room | Pass::ClockWentBack => {}
        }
    }

    fn record(&mut self, stream: usize) -> Arc<Mark> {
        let event = self.idle.pop().unwrap_or_else(Event::timing);
        let began_ns = clock::now_ns();
        event.record(self.books[stream].stream);
        self.tally.boundaries += 1;
        self.tally.boundary_cpu_ns += clock::now_ns() - began_ns;
        Arc::new(Mark { event, at_ns: AtomicI64::new(UNKNOWN) })
    }

    fn close(&mut self, stream: usize, why: Close) {
        let concurrency = self.concurrency;
        let books = &mut self.books[stream];
        let Some(start) = books.boundary.take() else { return };
        let mut batch = std::mem::take(&mut books.batch);
        books.lease = lease::EMPTY;
        let unknown = std::mem::take(&mut books.unknown);
        let correction = batch.close(concurrency);
        self.correct(correction);
        if batch.is_empty() {
            return self.recycle(start);
        }
        let end = self.record(stream);
        let books = &mut self.books[stream];
        let others_held = books.others_held;
        books.closed.push_back(Closed { batch, start, end: end.clone(), unknown, late_ns: 0, others_held });
        // One event ends a batch and begins the next, if that comes at once.
        books.boundary = matches!(why, Close::Full | Close::Unknown | Close::Held).then_some(end);
    }

    /// A round of the helper: how long it sleeps, and whether a batch has ended.
    fn help(&mut self) -> (Nap, bool) {
        let ended = self.reap();
        // What was drawn in the last round and is not reached was no late boundary: the GPU was busy.
        self.books.iter_mut().flat_map(|books| &mut books.closed).for_each(|closed| closed.late_ns = 0);
        let launched = std::mem::take(&mut self.launched);
        let busy = launched || self.books.iter().any(Books::is_busy);
        let mut found = if busy { Found::Draining } else { Found::Idle };
        if std::mem::take(&mut self.sparse) {
            found = Found::Sparse;
        }
        for stream in 0..self.books.len() {
            found = found.max(self.watch(stream));
        }
        (self.rounds.next(found), ended)
    }

    /// The helper's look at a stream.
    fn watch(&mut self, stream: usize) -> Found {
        let books = &mut self.books[stream];
        if books.batch.is_empty() || self.helper.patient && !books.closed.is_empty() {
            return Found::Idle;
        }
        match books.watch.look(books.batch.units(), books.batch.cost_ns(), clock::now_ns()) {
            Flow::Flowing => Found::Flowing,
            Flow::MayBeDry => Found::Sparse,
            Flow::Quiet { late_ns } => {
                self.close(stream, Close::Quiet);
                if let Some(closed) = self.books[stream].closed.back_mut() {
                    closed.late_ns = late_ns;
                }
                Found::Sparse
            }
        }
    }

    /// Settles the batches that have ended; whether there were any.
    fn reap(&mut self) -> bool {
        let began_ns = clock::now_ns();
        let mut ended = false;
        for stream in 0..self.books.len() {
            while let Some(closed) = self.books[stream].closed.pop_front_if(|c| c.end.event.is_reached()) {
                ended = true;
                self.settle(stream, &closed);
                self.recycle(closed.start);
            }
            let books = &mut self.books[stream];
            if !books.is_busy() {
                // The stream has run dry: the next batch begins with a boundary of its own.
                if let Some(mark) = books.boundary.take() {
                    self.recycle(mark);
                }
            }
        }
        let now_ns = clock::now_ns();
        if ended {
            self.progress_ns = now_ns;
        }
        self.tally.reap_cpu_ns += now_ns - began_ns;
        ended
    }

    fn settle(&mut self, stream: usize, closed: &Closed) {
        self.time(&closed.start);
        self.time(&closed.end);
        let position = |mark: &Mark| mark.at_ns().max(0).cast_unsigned();
        let (start_ns, end_ns) = (position(&closed.start), position(&closed.end));
        let bracket_ns = end_ns.saturating_sub(start_ns);
        let occupied_ns = closed.batch.occupied_ns(bracket_ns, closed.late_ns);
        let measured = Measured {
            bracket_ns,
            covered_ns: self.union.add(Interval { start_ns, end_ns: start_ns + occupied_ns }),
            exclusive: true,
            late_ns: closed.late_ns,
        };
        let settled = closed.batch.settle(measured, self.concurrency);
        let (costs, books) = (Costs::new(&self.words), &self.books[stream]);
        if self.variant.learn_waits || self.held - books.held == closed.others_held {
            closed.batch.teach(measured, &costs);
        } else {
            closed.batch.teach_held(measured, &costs);
        }
        self.concurrency = settled.concurrency;
        self.correct(settled.correction);
        let tally = &mut self.tally;
        tally.charged_ns += settled.charge_ns;
        tally.brackets_ns += measured.bracket_ns;
        tally.covered_ns += measured.covered_ns;
        tally.estimated_ns += closed.batch.cost_ns();
        tally.estimate_error_ns += closed.batch.cost_ns().abs_diff(measured.bracket_ns);
        tally.batches += 1;
        tally.late_batches += u64::from(closed.late_ns != 0);
        let reference = self.reference.replace(closed.end.clone());
        if let Some(mark) = reference {
            self.recycle(mark);
        }
    }

    /// Finds when a boundary that was reached lies on the device's time line.
    fn time(&mut self, mark: &Arc<Mark>) {
        if mark.at_ns() == UNKNOWN {
            let from = self.reference.as_deref();
            let at_ns = from.map_or(BEGIN_NS, |from| from.at_ns() + mark.event.since_ns(from.event));
            mark.at_ns.store(at_ns, Relaxed);
            self.reference.get_or_insert_with(|| mark.clone());
        }
    }

    /// Keeps the event for another boundary, if this was its last use.
    fn recycle(&mut self, mark: Arc<Mark>) {
        if let Some(mark) = Arc::into_inner(mark) {
            self.idle.push(mark.event);
        }
    }
}
