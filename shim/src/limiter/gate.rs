//! The gate: a unit of work goes to the driver now, or waits.

use core::sync::atomic::Ordering;

use cuota_abi::cuda::{CUresult, CUstream};
use cuota_governor::admission::{Arrival, Cause, Pass, Scene, Verdict};
use cuota_governor::batch::{Close, Place, Unit};
use cuota_governor::budget::{Correction, Opening};
use cuota_governor::cost::Estimate;
use cuota_governor::lease::{self, Spend};
use cuota_governor::pace::is_gap;
use cuota_governor::rounds::Watch;

use cuota_region::sys;

use super::Limiter;
use super::caps::{Gpu, Ground};
use super::sensor::{AT_A_LOOK, Tails};
use super::stream::{Books, Stream};
use crate::interpose::call::Call;
use crate::process::Process;
use crate::process::driver::{self, Capturing};

/// What is to be done once the unit has been given to the driver.
enum After {
    /// Its batch ends: it was never measured.
    End(&'static Stream),
    /// It is in no books. Said when it is on the stream: before, who looks would find that it has ended.
    Passed(&'static Stream),
    /// It is on a per-thread stream: what others look at is to be left behind this launch.
    Tail(&'static Stream, u32),
}

type Entered = Option<After>;

fn tail_behind(stream: &'static Stream, books: &mut Books, unit: &Unit) -> Entered {
    let launch = books.launches.add(unit).filter(|_| stream.is_per_thread());
    launch.map(|launch| After::Tail(stream, launch))
}

impl Limiter {
    /// Makes the call by `make`, which gives `unit` to the driver, when it is time. (A function and its arguments: a closure's table of
    /// functions is 130 bytes of the library.)
    #[inline(never)]
    pub(crate) fn around(
        &'static self,
        process: &'static Process,
        stream: CUstream,
        unit: &Unit,
        call: &Call,
        make: fn(&Call, &Unit, CUstream) -> CUresult,
    ) -> CUresult {
        if self.is_free(process) {
            make(call, unit, stream)
        } else {
            self.counted(process, stream, unit, call, make)
        }
    }

    /// The same, where launches are counted. Apart: what it saves on the stack is not the others'.
    #[inline(never)]
    fn counted(
        &'static self,
        process: &'static Process,
        stream: CUstream,
        unit: &Unit,
        call: &Call,
        make: fn(&Call, &Unit, CUstream) -> CUresult,
    ) -> CUresult {
        let entered = self.enter(process, stream, unit);
        let status = make(call, unit, stream);
        match entered {
            Some(After::End(stream)) => self.close_one(stream, Close::Unknown),
            Some(After::Passed(stream)) => stream.is_passed(),
            Some(After::Tail(stream, launch)) => {
                self.leave_tail(stream, launch);
            }
            None => {}
        }
        status
    }

    /// Lets `unit` through to `stream`, when it is time.
    fn enter(&'static self, process: &'static Process, stream: CUstream, unit: &Unit) -> Entered {
        self.follow_policy(process);
        let stream = self.stream(process, stream)?;
        let gpu = self.capped(process, stream.device())?;
        // What goes into a graph is charged when the graph is launched.
        if self.capturing(stream) == Capturing::Yes {
            return None;
        }
        let Some(mut books) = stream.books_hot() else {
            // Somebody is at it for long, perhaps this very thread, below a signal: it is debt.
            let on = stream.on()?;
            let _ = on.book(gpu.scale(gpu.costs().estimate(unit.key).cost_ns()));
            return Some(After::Passed(stream));
        };
        let estimate = match books.latest {
            Some((key, cost_ns)) if key == unit.key => Estimate::Learned(cost_ns),
            _ => gpu.costs().estimate(unit.key),
        };
        if books.was_synced && self.steps(gpu, &mut books, estimate) {
            books.batch.add(unit, estimate);
            return tail_behind(stream, &mut books, unit);
        }
        let cost_ns = gpu.scale_hot(estimate.cost_ns());
        let mut place = books.batch.place(unit, estimate, books.target_ns);
        if books.launches.has_chains() && books.is_overdue(stream) {
            place = Place::New(Close::Full);
        }
        let (is_open, is_timed) = (!books.batch.is_empty(), books.pace.is_timed());
        if let (true, false, Place::Same, Spend::Within { word }) =
            (is_open, is_timed, place, lease::spend(books.lease, cost_ns))
        {
            books.lease = word;
            books.batch.add(unit, estimate);
            return tail_behind(stream, &mut books, unit);
        }
        let on = stream.on()?;
        if is_open && is_timed && place == Place::Same {
            let entered = Self::follow(on, stream, &mut books, unit, estimate);
            if let Some(entered) = entered {
                return entered;
            }
        }
        // Where it is known whether the stream has run dry, what ended the batch before may begin this one.
        if (!unit.continues_chain || place != Place::Same) && (is_open || !is_timed) {
            let (units, cost_ns) = (books.batch.units(), books.batch.cost_ns());
            if is_open && !is_timed && books.watch.may_be_dry(units, cost_ns, sys::monotonic_ns()) {
                self.helper.is_sparse();
                books.was_dry = self.has_run_dry(stream);
            }
            let is_closed = self.close(on, stream, &mut books, Close::Full);
            if is_closed && !is_timed && books.was_dry {
                // It is charged as it is; its gaps are not what its units cost.
                books.was_late(1);
            }
            books.is_kept = is_closed && on.gpu.is_roomy();
        }
        // The other streams are the helper's, and theirs who wait: threads that launch on a stream each would be at one another's all the time.
        driver::outside_captures(|| self.attend(on, stream, &mut books, Tails::Left));
        books.was_looked_at = true;
        drop(books);
        self.look(on, stream, unit)
    }

    /// Begins the batch of a step that the clock measures ([`super::caps::Gpu::is_clocked`]), in a turn that nobody takes away. `false`: there is
    /// something to look at.
    #[inline(never)]
    fn steps(&self, gpu: &Gpu, books: &mut Books, estimate: Estimate) -> bool {
        let is_dry = books.batch.is_empty() && !books.is_busy() && books.boundary.is_none();
        let is_known = estimate.is_learned() && !books.pace.is_timed();
        if !(is_dry && is_known && gpu.is_clocked() && gpu.is_roomy() && gpu.turns.goes_on()) {
            return false;
        }
        let now_ns = sys::monotonic_ns();
        self.note_progress(gpu, now_ns);
        books.since_ns = now_ns;
        books.watch = Watch::new(now_ns, 0);
        books.was_synced = false;
        books.lease = gpu.target_ns().saturating_sub(estimate.cost_ns());
        self.call_helper();
        true
    }

    /// Enters a unit into the open batch of a stream whose units come with gaps between them. `None`: it begins another.
    #[cold]
    fn follow(
        on: Ground,
        stream: &'static Stream,
        books: &mut Books,
        unit: &Unit,
        estimate: Estimate,
    ) -> Option<Entered> {
        let now_ns = sys::monotonic_ns();
        let idle_ns = books.pace.idle_ns(now_ns);
        if is_gap(idle_ns) && !unit.continues_chain {
            return None;
        }
        let cost_ns = on.gpu.scale(estimate.cost_ns());
        let Spend::Within { word } = lease::spend(books.lease, cost_ns.saturating_add(idle_ns)) else {
            return None;
        };
        books.lease = word;
        books.batch.add(unit, estimate);
        let tail = tail_behind(stream, books, unit);
        if !books.is_last_of_burst(now_ns, estimate) {
            return Some(tail);
        }
        books.is_under_way = true;
        Some(Some(After::End(stream)))
    }

    /// One launch in a batch looks at the clock, at what has ended, and at the budget.
    fn look(&'static self, on: Ground, stream: &'static Stream, unit: &Unit) -> Entered {
        let estimate = on.gpu.costs().estimate(unit.key);
        let unit_ns = on.gpu.scale(estimate.cost_ns());
        let (budget, look) = on.budget();
        let mut scene = self.scene(on, stream, estimate.is_learned());
        // What a batch of the target's size occupies beside the process's other streams.
        let target_ns = on.gpu.target_ns();
        let occupies_ns = on.gpu.scale(target_ns);
        let (most_ns, room_ns) = match budget.peek(look) {
            Opening::Now { left_ns } if on.gpu.note_look() => (left_ns, scene.room_ns()),
            Opening::Now { left_ns } => (left_ns, 0),
            Opening::At { .. } => (look.cap.quantum_ns(), 0),
        };
        let times = lease::times(occupies_ns, most_ns, room_ns);
        let booked_ns = match estimate {
            Estimate::Learned(_) => lease::size(occupies_ns * times, most_ns, unit_ns),
            Estimate::OfFunction(_) | Estimate::Prior => unit_ns,
        };
        let mut arrival = Arrival::new(look, booked_ns, on.book(booked_ns));
        let (mut is_settled, mut held_since_ns, mut turn_since_ns) = (false, None, 0);
        let (pass, (_entering, fits_ns)) = loop {
            let epoch = on.process().policy().epoch();
            let (budget, look) = on.budget();
            let verdict = arrival.judge(look, budget, &scene);
            if let Some(since_ns) = held_since_ns.take() {
                on.note_throttled(look.now_ns.saturating_sub(since_ns));
            }
            let mut tails = Tails::Left;
            match verdict {
                Verdict::Go(Pass::Stalled) if !self.any_has_begun() => {
                    // What waits for a value or an event leaves the GPU to others: the clock helps it as soon as anybody.
                    self.progress_ns.store(look.now_ns, Ordering::Relaxed);
                }
                Verdict::Go(pass) => {
                    if let Some(entry) = self.has_turn(on, stream, &scene, unit_ns, &mut turn_since_ns) {
                        break (pass, entry);
                    }
                    tails = Tails::Settled;
                }
                Verdict::Wait { cause, .. } if !is_settled => {
                    // What other streams have ended makes room; and large batches that this very thread left open on them would never end.
                    is_settled = true;
                    if on.gpu.be_strict(cause) {
                        self.close_all(Close::Held);
                    }
                }
                Verdict::Wait { look_ns, cause, .. } => {
                    if arrival.is_held(look, cause) {
                        self.held.fetch_add(1, Ordering::Relaxed);
                        stream.held.fetch_add(1, Ordering::Relaxed);
                    }
                    match cause {
                        Cause::Budget => {
                            held_since_ns = Some(look.now_ns);
                            // What the open batches had booked and not spent comes back: look again before sleeping.
                            if self.close_all(Close::Held) {
                                continue;
                            }
                            on.process().policy().wait(epoch, look_ns.min(self.give_up(on, &scene)));
                        }
                        Cause::Bound => {
                            on.gpu.turns.wait_for_room(on, epoch, look_ns);
                            tails = Tails::Settled;
                        }
                    }
                }
            }
            self.follow_policy(on.process());
            self.reap(AT_A_LOOK, tails);
            scene = self.scene(on, stream, estimate.is_learned());
        };
        if !on.gpu.is_managed() {
            // Taken off while it waited: nobody would close what it opened.
            on.correct(Correction::Refund(booked_ns));
            return None;
        }
        self.pass(
            on,
            stream,
            (unit, estimate),
            [unit_ns, booked_ns, booked_ns.min(fits_ns), target_ns * times, arrival.arrived_ns()],
            pass,
        )
    }

    /// What a launch on that stream finds, of a unit that was measured or of another.
    fn scene(&self, on: Ground, of: &Stream, is_learned: bool) -> Scene {
        let mut scene = Scene {
            batches: 0,
            in_flight_ns: 0,
            bound: on.gpu.bound(is_learned),
            own_stream_busy: of.batches() != 0,
            process_busy: false,
            progress_ns: self.progress_ns.load(Ordering::Relaxed),
        };
        for stream in self.streams.busy() {
            scene.process_busy = true;
            if stream.device() == of.device() {
                scene.batches += stream.batches();
                scene.in_flight_ns += stream.in_flight_ns();
            }
        }
        scene.in_flight_ns = on.gpu.scale(scene.in_flight_ns);
        scene
    }

    /// Enters the unit into its stream's batch.
    fn pass(
        &'static self,
        on: Ground,
        stream: &'static Stream,
        (unit, estimate): (&Unit, Estimate),
        [unit_ns, booked_ns, lease_ns, target_ns, arrived_ns]: [u64; 5],
        pass: Pass,
    ) -> Entered {
        let Some(mut books) = stream.books() else {
            // What was booked stays so.
            return Some(After::Passed(stream));
        };
        let mut is_apart = false;
        let now_ns = sys::monotonic_ns();
        let goes_on = core::mem::take(&mut books.is_kept);
        if goes_on && is_gap(now_ns.saturating_sub(arrived_ns)) && !books.is_busy() {
            // It lies before what the launch has waited.
            self.let_go(stream, books.boundary.take());
        }
        if books.batch.is_empty() {
            books.target_ns = target_ns;
            // What was closed on a dry stream has ended.
            let was_seen_dry = core::mem::take(&mut books.was_dry);
            let was_synced = core::mem::take(&mut books.was_synced);
            // A program that waits for the stream ends its batches by that; where the cap may bind that is not relied on.
            let is_synced = was_synced && on.gpu.is_roomy();
            // What it has waited here is no gap of the program's.
            if is_gap(books.pace.idle_ns(arrived_ns)) {
                if !is_synced {
                    books.pace.gap(self.helper.watches());
                }
                if !was_seen_dry {
                    // It lies before the gap.
                    self.let_go(stream, books.boundary.take());
                }
            }
            let was_dry = was_seen_dry || !books.is_busy();
            let front_ns = if was_dry { 0 } else { books.in_flight_ns() };
            let is_timed = books.pace.begin(now_ns, front_ns, target_ns);
            let is_alone = self.scene(on, stream, false).batches == 0;
            if !was_synced && is_timed || !is_alone {
                books.batch.begins_behind_a_pause();
            }
            is_apart = (was_seen_dry || was_dry && !goes_on && !is_synced)
                && !is_timed
                && books.watch.apart(estimate.cost_ns(), now_ns);
            books.watch = Watch::new(now_ns, front_ns);
            if !books.is_busy() {
                books.since_ns = now_ns;
            }
            if is_alone {
                on.gpu.begin(now_ns);
                self.note_progress(on.gpu, now_ns);
                // What others had while this process had nothing on the GPU was not taken from it.
                let _ = on.companions_ns();
            }
            books.others_held = self.others_held(stream);
            // In the tenant's own turn the clock says how long a step took that the program waits for: a pair of events takes 5 % of one of 0.13 ms.
            let is_clocked = is_synced && estimate.is_learned() && on.gpu.is_clocked();
            if books.boundary.is_none() && !is_clocked {
                books.boundary = self.record(stream);
            }
        }
        self.call_helper();
        books.batch.book(booked_ns);
        books.batch.add(unit, estimate);
        books.unknown |= !estimate.is_learned();
        books.lease = books.lease.saturating_add(lease_ns).saturating_sub(unit_ns);
        if pass == Pass::Stalled {
            // One unit, and no more.
            books.lease = lease::EMPTY;
            on.close(&mut books.batch);
        }
        books.latest = estimate.is_learned().then_some((unit.key, estimate.cost_ns()));
        let tail = tail_behind(stream, &mut books, unit);
        is_apart &= !books.launches.has_chains();
        let ends_here = books.is_last_of_burst(now_ns, estimate) || books.batch.ends_here(unit) || is_apart;
        books.is_under_way = ends_here;
        drop(books);
        if !self.helper.is_there() {
            // Nobody notes it later, where this is the last look, or comes to the other streams.
            self.reap(AT_A_LOOK, Tails::Left);
        }
        if ends_here { Some(After::End(stream)) } else { tail }
    }
}
