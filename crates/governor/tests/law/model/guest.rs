//! The limiter as the guest in a tenant's process would run it: all of the law, and none of CUDA.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use cuota_governor::admission::{Arrival, Bound, Cause, Pass, Scene, Verdict, weight};
use cuota_governor::batch::{Batch, Close, Measured, Place, TARGET_NS, Unit};
use cuota_governor::budget::{Budget, Correction, Look, Opening, Rule, book_period, book_window};
use cuota_governor::cap::Cap;
use cuota_governor::concurrency::Concurrency;
use cuota_governor::cost::{Costs, Estimate};
use cuota_governor::lease::{self, Spend};
use cuota_governor::neighbours::{Arrears, Neighbours};
use cuota_governor::occupancy::{Interval, Union};
use cuota_governor::pace::{Pace, is_gap};
use cuota_governor::rounds::{Flow, Found, Nap, Rounds, Watch};

use super::gpu::Gpu;

/// What all processes of a tenant share.
pub(crate) struct Tenant {
    pub(crate) cap: Cap,
    pub(crate) budget: Budget,
    /// What all its processes were charged, ns.
    pub(crate) used_ns: u64,
}

impl Tenant {
    pub(crate) fn correct(&mut self, look: Look, correction: Correction) {
        self.budget.window = Rule::Window.correct(self.budget.window, look, correction);
        self.budget.period = Rule::Period.correct(self.budget.period, look, correction);
    }

    fn book(&mut self, look: Look, gpu_ns: u64) -> Opening {
        let (window, opening) = book_window(self.budget.window, look, gpu_ns);
        let (period, opening) = book_period(self.budget.period, look, gpu_ns, opening);
        self.budget = Budget { window, period };
        opening
    }
}

struct Closed {
    batch: Batch,
    start: usize,
    end: usize,
    unknown: bool,
    /// Closed as quiet: since when it may have been idle, ns. 0: it was not.
    late_ns: u64,
    others_held: u64,
}

/// What the guest knows of a stream.
#[derive(Default)]
struct Books {
    lease: u64,
    batch: Batch,
    /// Begins the open batch.
    boundary: Option<usize>,
    unknown: bool,
    closed: VecDeque<Closed>,
    watch: Watch,
    pace: Pace,
    /// The batch before was closed on a stream that had run dry; so this unit comes alone, or the batch began so.
    was_dry: bool,
    apart: bool,
    /// What its open batch is to hold, ns; and its boundary was drawn by a launch that is in front of the gate now.
    target_ns: u64,
    is_kept: bool,
    /// Units that were let through and are not on the stream yet: nobody draws a boundary before them.
    passing: u32,
    /// The program has waited for the stream since its last launch.
    was_synced: bool,
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

/// Where a guest acts: its GPU and its tenant's books, now.
pub(crate) struct Ground<'a> {
    pub(crate) gpu: &'a mut Gpu,
    pub(crate) tenant: &'a mut Tenant,
    pub(crate) now_ns: u64,
}

impl Ground<'_> {
    fn look(&self) -> Look {
        Look { now_ns: self.now_ns, cap: self.tenant.cap, clock_went_back: false, takes_turns: false }
    }
}

/// A launch that waits.
pub(crate) struct Waiting {
    arrival: Arrival,
    booked_ns: u64,
    target_ns: u64,
    debt_at_arrival_ns: u64,
    cap_at_arrival: Cap,
}

/// What becomes of a launch.
pub(crate) enum Gate {
    Go,
    Wait { look_ns: u64, waiting: Waiting },
}

/// The guest in one process.
pub(crate) struct Guest {
    pub(crate) managed: bool,
    /// `None`: no other process is on the GPU. Else how many of them are not the tenant's.
    pub(crate) strangers: Option<u32>,
    arrears: Arrears,
    /// What the tenant's other processes had been charged when this one settled last, or began, ns.
    others_ns: u64,
    words: Vec<AtomicU64>,
    concurrency: Concurrency,
    union: Union,
    streams: Vec<Books>,
    progress_ns: u64,
    /// Looks at which a launch of the process was held back, on any stream.
    held: u64,
    /// Looks for which nothing is spared, since a launch has had to wait.
    strict: u32,
    /// How many those were the last time.
    strictness: u32,
    rounds: Rounds,
    /// Somebody launched since the helper's last round; and a stream may have run dry inside an open batch.
    launched: bool,
    sparse: bool,
    pub(crate) naps: u64,
    found_before: Found,
    pub(crate) passes: Vec<Pass>,
    pub(crate) charged_ns: u64,
    pub(crate) looks: u64,
    /// The driver's functions that were called since somebody asked.
    pub(crate) calls: u64,
    /// It has a helper.
    pub(crate) is_watched: bool,
}

impl Guest {
    pub(crate) fn new(managed: bool, strangers: Option<u32>) -> Self {
        Self {
            managed,
            strangers,
            arrears: Arrears::default(),
            others_ns: 0,
            words: (0..1024).map(|_| AtomicU64::new(0)).collect(),
            concurrency: Concurrency::NONE,
            union: Union::new(),
            streams: Vec::new(),
            progress_ns: 0,
            held: 0,
            strict: 0,
            strictness: 0,
            rounds: Rounds::new(),
            launched: false,
            sparse: false,
            naps: 0,
            found_before: Found::Idle,
            passes: Vec::new(),
            charged_ns: 0,
            looks: 0,
            calls: 0,
            is_watched: false,
        }
    }

    fn books(&mut self, stream: usize) -> &mut Books {
        let length = self.streams.len().max(stream + 1);
        self.streams.resize_with(length, Books::default);
        &mut self.streams[stream]
    }

    fn estimate(&self, unit: &Unit) -> Estimate {
        Costs::new(&self.words).estimate(unit.key)
    }

    /// A launch: the common one returns from the first branch, and under a cap from the second.
    pub(crate) fn launch(&mut self, on: &mut Ground<'_>, stream: usize, unit: &Unit) -> Gate {
        if !self.managed || !on.tenant.cap.binds() {
            return Gate::Go;
        }
        let estimate = self.estimate(unit);
        let cost_ns = self.concurrency.scale(estimate.cost_ns());
        let books = self.books(stream);
        let place = books.batch.place(unit, estimate, books.target_ns);
        let is_behind_a_gap = is_gap(books.pace.idle_ns(on.now_ns)) && !unit.continues_chain;
        if let (false, false, Place::Same, Spend::Within { word }) = (
            is_behind_a_gap,
            books.batch.is_empty(),
            place,
            lease::spend(books.lease, cost_ns + books.pace.idle_ns(on.now_ns)),
        ) {
            books.lease = word;
            books.batch.add(unit, estimate);
            if books.pace.is_timed() {
                books.batch.idle(books.pace.launch(on.now_ns, estimate.cost_ns()));
            }
            return Gate::Go;
        }
        self.look(on, stream, unit)
    }

    /// One launch in a batch looks at the clock, at what has ended, and at the budget.
    fn look(&mut self, on: &mut Ground<'_>, stream: usize, unit: &Unit) -> Gate {
        self.looks += 1;
        self.reap(on);
        let is_roomy = self.strict == 0;
        let books = self.books(stream);
        let (is_open, is_timed) = (!books.batch.is_empty(), books.pace.is_timed());
        // Where it is known whether the stream has run dry, what ended the batch before may begin this one.
        if !unit.continues_chain && (is_open || !is_timed) {
            let dry =
                is_open && books.watch.may_be_dry(books.batch.units(), books.batch.cost_ns(), on.now_ns);
            let dry = dry && !is_timed && on.gpu.queued(stream) == 0;
            books.was_dry = dry;
            self.sparse |= dry;
            self.calls += u64::from(is_open);
            self.close(on, stream, Close::Full);
            self.books(stream).is_kept = is_open && is_roomy;
            if let Some(closed) = self.books(stream).closed.back_mut().filter(|_| dry) {
                // It is charged as it is; its gaps are not what its units cost.
                closed.late_ns = 1;
                self.books(stream).pace.may_have_gaps();
            }
        }
        let look = on.look();
        let unit_ns = self.concurrency.scale(self.estimate(unit).cost_ns());
        // What a batch of the target's size occupies beside the process's other streams.
        let occupies_ns = self.concurrency.scale(TARGET_NS);
        let (most_ns, times) = match on.tenant.budget.peek(look) {
            Opening::Now { left_ns } if self.strict == 0 => {
                (left_ns, lease::times(occupies_ns, left_ns, self.scene(stream, unit).room_ns()))
            }
            Opening::Now { left_ns } => (left_ns, 1),
            Opening::At { .. } => (on.tenant.cap.quantum_ns(), 1),
        };
        let target_ns = TARGET_NS * times;
        self.strict = self.strict.saturating_sub(1);
        let booked_ns = match self.estimate(unit) {
            Estimate::Learned(_) => lease::size(occupies_ns * times, most_ns, unit_ns),
            Estimate::OfFunction(_) | Estimate::Prior => unit_ns,
        };
        let debt_at_arrival_ns = on.tenant.budget.debt_ns(look);
        let arrival = Arrival::new(look, booked_ns, on.tenant.book(look, booked_ns));
        self.wait(
            on,
            stream,
            unit,
            Waiting { arrival, booked_ns, target_ns, debt_at_arrival_ns, cap_at_arrival: on.tenant.cap },
        )
    }

    /// A waiter looks again.
    pub(crate) fn wait(
        &mut self,
        on: &mut Ground<'_>,
        stream: usize,
        unit: &Unit,
        mut waiting: Waiting,
    ) -> Gate {
        self.reap(on);
        loop {
            let look = on.look();
            let scene = self.scene(stream, unit);
            match waiting.arrival.judge(look, on.tenant.budget, &scene) {
                Verdict::Go(pass) => {
                    self.check_promise(look, &waiting);
                    self.passes.push(pass);
                    self.enter(on, stream, unit, &waiting, pass);
                    return Gate::Go;
                }
                Verdict::Wait { look_ns, cause, .. } => {
                    let was_roomy = self.strict == 0;
                    self.strictness = lease::strict_for(self.strictness, was_roomy, cause);
                    self.strict = self.strictness;
                    if was_roomy {
                        self.close_all(on);
                        self.reap(on);
                        continue;
                    }
                    if waiting.arrival.is_held(look, cause) {
                        self.held += 1;
                        self.books(stream).held += 1;
                    }
                    if cause == Cause::Budget {
                        // What the open batches had booked and not spent comes back: look again before sleeping.
                        if self.close_all(on) {
                            continue;
                        }
                    }
                    return Gate::Wait { look_ns, waiting };
                }
            }
        }
    }

    fn scene(&mut self, stream: usize, unit: &Unit) -> Scene {
        let alone_ns = self.streams.iter().map(Books::in_flight_ns).sum();
        Scene {
            in_flight_ns: self.concurrency.scale(alone_ns),
            batches: self.streams.iter().map(Books::batches).sum(),
            bound: match self.strangers {
                None if self.strict == 0 && self.estimate(unit).is_learned() => Bound::ROOMY,
                None => Bound::ALONE,
                Some(_) => Bound::USUAL,
            },
            own_stream_busy: self.books(stream).is_busy(),
            process_busy: self.streams.iter().any(Books::is_busy),
            progress_ns: self.progress_ns,
        }
    }

    /// Closes all open batches, as a launch has to wait for the budget. Whether there were any.
    fn close_all(&mut self, on: &mut Ground<'_>) -> bool {
        let count = |guest: &Self| guest.streams.iter().filter(|books| !books.batch.is_empty()).count();
        let open = count(self);
        (0..self.streams.len()).for_each(|stream| self.close(on, stream, Close::Held));
        count(self) < open
    }

    /// Every launch goes within (debt at arrival ÷ cap) + 2 periods; what the model's sleeper oversleeps comes on top.
    fn check_promise(&self, look: Look, waiting: &Waiting) {
        let cap = look.cap.min(waiting.cap_at_arrival);
        let promise_ns = cap.time_to_earn(waiting.debt_at_arrival_ns + 1)
            + 2 * cuota_governor::cap::PERIOD_NS
            + super::OVERSLEEP_NS
            + 64;
        let waited_ns = look.now_ns - waiting.arrival.arrived_ns();
        assert!(waited_ns <= promise_ns, "waited {waited_ns} ns, promised {promise_ns}");
    }

    fn enter(&mut self, on: &mut Ground<'_>, stream: usize, unit: &Unit, waiting: &Waiting, pass: Pass) {
        let (estimate, concurrency) = (self.estimate(unit), self.concurrency);
        let cost_ns = concurrency.scale(estimate.cost_ns());
        self.launched = true;
        let is_alone = !self.streams.iter().any(Books::is_busy);
        if is_alone {
            // What others had while this process had nothing there was not taken from it.
            self.others_ns = on.tenant.used_ns - self.charged_ns;
        }
        let (held, is_watched, is_roomy) = (self.held, self.is_watched, self.strict == 0);
        let books = self.books(stream);
        let arrived_ns = waiting.arrival.arrived_ns();
        let goes_on = std::mem::take(&mut books.is_kept);
        if goes_on && is_gap(on.now_ns - arrived_ns) && books.closed.is_empty() {
            // It lies before what the launch has waited.
            books.boundary = None;
        }
        if books.batch.is_empty() {
            books.target_ns = waiting.target_ns;
            // What was closed on a dry stream has ended.
            let was_seen_dry = std::mem::take(&mut books.was_dry);
            let was_dry = was_seen_dry || books.closed.is_empty();
            let front_ns = if was_dry { 0 } else { books.in_flight_ns() };
            // What it has waited here is no gap of the program's.
            let was_synced = std::mem::take(&mut books.was_synced);
            // A program that waits for the stream ends its batches by that; where the cap may bind that is not relied on.
            let is_synced = was_synced && is_roomy;
            if is_gap(books.pace.idle_ns(arrived_ns)) && !is_synced {
                books.pace.gap(is_watched);
            }
            let is_timed = books.pace.begin(on.now_ns, front_ns, books.target_ns);
            if !was_synced && is_timed || !is_alone {
                books.batch.begins_behind_a_pause();
            }
            books.apart = (was_seen_dry || was_dry && !goes_on && !is_synced)
                && !is_timed
                && books.watch.apart(estimate.cost_ns(), on.now_ns);
            books.watch = Watch::new(on.now_ns, front_ns);
            books.others_held = held - books.held;
        }
        books.batch.book(waiting.booked_ns);
        let needs_boundary = books.boundary.is_none();
        books.boundary.get_or_insert_with(|| on.gpu.record(stream));
        books.batch.add(unit, estimate);
        if books.pace.is_timed() {
            books.batch.idle(books.pace.launch(on.now_ns, estimate.cost_ns()));
        }
        books.unknown |= !estimate.is_learned();
        books.lease = books.lease.saturating_add(waiting.booked_ns).saturating_sub(cost_ns);
        if pass == Pass::Stalled {
            // One unit, and no more.
            books.lease = lease::EMPTY;
            on.tenant.correct(on.look(), books.batch.close(concurrency));
        }
        self.calls += u64::from(needs_boundary);
    }

    /// A kernel is on its way to the driver.
    pub(crate) fn passes(&mut self, stream: usize) {
        self.books(stream).passing += 1;
    }

    /// After the kernel was launched.
    pub(crate) fn launched(&mut self, on: &mut Ground<'_>, stream: usize, unit: &Unit) {
        let books = self.books(stream);
        books.passing = books.passing.saturating_sub(1);
        let ends = books.batch.ends_here(unit)
            || books.apart && books.batch.units() == 1
            || books.pace.ends_here() && !unit.continues_chain;
        if self.managed && on.tenant.cap.binds() && ends {
            self.close(on, stream, Close::Unknown);
        }
    }

    /// Closes the stream's open batch: a launch that looks, a wait or a synchronisation of the program, the helper.
    pub(crate) fn close(&mut self, on: &mut Ground<'_>, stream: usize, why: Close) {
        let look = on.look();
        let (concurrency, is_watched) = (self.concurrency, self.is_watched);
        let books = self.books(stream);
        books.was_synced |= why == Close::Sync;
        if books.passing != 0 {
            return;
        }
        let Some(start) = books.boundary.take() else { return };
        let mut batch = std::mem::take(&mut books.batch);
        books.lease = lease::EMPTY;
        on.tenant.correct(look, batch.close(concurrency));
        let unknown = std::mem::take(&mut books.unknown);
        if batch.is_empty() {
            // The boundary ended the batch before; a new one is recorded when work comes.
            return;
        }
        let idle_ns = books.pace.idle_ns(on.now_ns);
        let is_late = is_gap(idle_ns) && on.gpu.queued(stream) == 0;
        let excused_ns = if is_watched { books.pace.excused_ns(idle_ns) } else { 0 };
        let late_ns = if is_late { excused_ns.max(1) } else { 0 };
        books.was_dry |= is_late;
        if books.pace.is_timed() {
            batch.idle(idle_ns);
        }
        let end = on.gpu.record(stream);
        self.calls += 1;
        let books = self.books(stream);
        let others_held = books.others_held;
        books.closed.push_back(Closed { batch, start, end, unknown, late_ns, others_held });
        // One event ends a batch and begins the next, if that comes at once.
        books.boundary = matches!(why, Close::Full | Close::Unknown | Close::Held).then_some(end);
    }

    /// A round of the helper thread: it closes what is quiet, and settles what has ended.
    pub(crate) fn help(&mut self, on: &mut Ground<'_>) -> Nap {
        self.naps += 1;
        let launched = std::mem::take(&mut self.launched);
        // While units keep coming, the looks before them settle.
        if !launched || self.found_before != Found::Flowing {
            self.reap(on);
            // What was closed in the last round and is not reached was no late boundary: the GPU was busy.
            self.streams.iter_mut().flat_map(|books| &mut books.closed).for_each(|closed| closed.late_ns = 0);
        }
        let busy = self.streams.iter().any(Books::is_busy);
        let mut found = if busy || launched { Found::Draining } else { Found::Idle };
        if std::mem::take(&mut self.sparse) {
            found = Found::Sparse;
        }
        for stream in 0..self.streams.len() {
            let books = &mut self.streams[stream];
            if books.batch.is_empty() {
                continue;
            }
            if is_gap(books.pace.idle_ns(on.now_ns)) && on.gpu.queued(stream) != 0 {
                books.pace.doubt();
            }
            match books.watch.look(books.batch.units(), books.batch.cost_ns(), on.now_ns) {
                Flow::Flowing => found = found.max(Found::Flowing),
                Flow::MayBeDry => found = Found::Sparse,
                Flow::Quiet { late_ns } => {
                    found = Found::Sparse;
                    self.close(on, stream, Close::Quiet);
                    let books = &mut self.streams[stream];
                    if let Some(closed) = books.closed.back_mut() {
                        closed.late_ns = late_ns;
                        books.pace.may_have_gaps();
                    }
                }
            }
        }
        self.found_before = found;
        self.rounds.next(found)
    }

    /// Settles the batches that have ended.
    pub(crate) fn reap(&mut self, on: &mut Ground<'_>) {
        let look = on.look();
        let costs = Costs::new(&self.words);
        let held = self.held;
        for books in &mut self.streams {
            while let Some(end_ns) = books.closed.front().and_then(|c| on.gpu.event_ns(c.end)) {
                let Some(closed) = books.closed.pop_front() else { break };
                let start_ns = on.gpu.event_ns(closed.start).unwrap_or(end_ns);
                let bracket_ns = end_ns - start_ns;
                let occupied_ns = closed.batch.occupied_ns(bracket_ns, closed.late_ns);
                let measured = Measured {
                    bracket_ns,
                    covered_ns: self.union.add(Interval { start_ns, end_ns: start_ns + occupied_ns }),
                    exclusive: self.strangers.is_none(),
                    late_ns: closed.late_ns,
                };
                let settled = closed.batch.settle(measured, self.concurrency);
                let has_gaps = closed.batch.may_have_gaps(measured);
                if has_gaps {
                    books.pace.may_have_gaps();
                }
                if held - books.held != closed.others_held {
                    closed.batch.teach_held(measured, &costs);
                } else if !has_gaps {
                    closed.batch.teach(measured, &costs);
                }
                self.concurrency = settled.concurrency;
                on.tenant.correct(look, settled.correction);
                let mut charge_ns = settled.charge_ns;
                if let Some(strangers) = self.strangers {
                    let others_ns = on.tenant.used_ns - self.charged_ns;
                    let companions_ns = others_ns - std::mem::replace(&mut self.others_ns, others_ns);
                    let beside = Neighbours { strangers, companions_ns };
                    let (arrears, owed_ns) = self.arrears.settle(settled.covered_ns, charge_ns, beside);
                    self.arrears = arrears;
                    charge_ns += owed_ns;
                    on.tenant.correct(look, Correction::Owed(owed_ns));
                }
                self.charged_ns += charge_ns;
                on.tenant.used_ns += charge_ns;
                self.progress_ns = on.now_ns;
                // Two times are asked of two events.
                self.calls += 2;
            }
            self.calls += u64::from(!books.closed.is_empty());
            if books.closed.is_empty() && books.batch.is_empty() && !books.is_kept {
                // The stream has run dry: the next batch begins with a boundary of its own.
                books.boundary = None;
            }
        }
    }
}
