//! A tenant's turns: it launches while it has one, and hands it over by one of five ways, or by the rules and the file that the library has
//! (`by_arena`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock;
use crate::cuda::{Device, Event, Stream};
use crate::memory_word::OnDevice;
use crate::page::{Page, Turn};
use cuota_governor::habit::Habit;
use cuota_region::seat::Seat;

const US: u64 = 1_000;
/// Between two looks at the clock, estimated ns of work, as the limiter has it.
const BATCH_NS: u64 = 300 * US;
/// In flight inside a turn, ns, and two batches whatever they take.
pub(crate) const BOUND_NS: u64 = 600 * US;
/// Without a launch, and with nothing on the device, for so long: the turn is given up.
const QUIET_NS: u64 = 100 * US;
const LOOK: Duration = Duration::from_micros(20);

/// How a turn passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// There are none: the driver slices.
    Free,
    /// By the clock alone: each has its place in it, and nobody says anything.
    Deadline,
    /// Who holds it waits until its work has drained, or until so many ns of it are left, and wakes the next.
    Futex { lead_ns: u64 },
    /// The device writes who is next behind the holder's last work; who waits looks at the word.
    Write,
    /// The device writes, and the next one's stream waits for the word with its first batch behind it.
    Wait,
    /// As `cuota_region::seat` has it; the work in flight when a turn is handed over, ns.
    Arena { lead_ns: u64 },
}

/// What a cell asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    pub(crate) how: How,
    pub(crate) turn_ns: u64,
    /// Tenants that take turns.
    pub(crate) managed: u32,
    /// Nobody is held after this, ns.
    pub(crate) to_ns: u64,
    /// What a launch takes, ns.
    pub(crate) launch_ns: u64,
    /// Its priority is high: it never launches beside the turns of others.
    pub(crate) is_high: bool,
}

impl Law {
    pub(crate) const FREE: Self =
        Self { how: How::Free, turn_ns: 0, managed: 1, to_ns: 0, launch_ns: 10 * US, is_high: false };
}

/// A turn that has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) granted_ns: u64,
    pub(crate) closed_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) first: Event,
    pub(crate) last: Event,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Out,
    In,
    Draining,
}

pub(crate) struct State {
    pub(crate) law: Law,
    pub(crate) phase: Phase,
    turn: Turn,
    /// The stream waits for this turn, which may not have begun.
    awaited: Option<u32>,
    next_number: u32,
    pub(crate) granted_ns: u64,
    pub(crate) deadline_ns: u64,
    first: Event,
    /// The batch that is open: what it has taken, ns, and whether it may take more.
    spent_ns: u64,
    is_open: bool,
    pub(crate) in_flight: VecDeque<(Event, u64)>,
    pub(crate) progress_ns: u64,
    launches: u64,
    launches_seen: u64,
    quiet_since_ns: u64,
    marks: Vec<Event>,
    times: Vec<Event>,
    passed: Vec<Passed>,
    /// What was launched in this turn, or since it shares, ns.
    pub(crate) turn_spent_ns: u64,
    pub(crate) habit: Habit,
    /// It launches beside the turns of others.
    pub(crate) shares: bool,
}

impl State {
    pub(crate) fn end_batch(&mut self, stream: Stream) {
        self.is_open = false;
        if self.spent_ns == 0 {
            return;
        }
        let mark = self.marks.pop().unwrap_or_else(Event::mark);
        mark.record(stream);
        self.in_flight.push_back((mark, self.spent_ns));
        self.turn_spent_ns += self.spent_ns;
        self.spent_ns = 0;
    }

    /// Notes what has ended.
    pub(crate) fn reap(&mut self, now_ns: u64) {
        while let Some((mark, _)) = self.in_flight.pop_front_if(|(mark, _)| mark.is_reached()) {
            self.marks.push(mark);
            self.progress_ns = now_ns;
        }
    }

    pub(crate) fn in_flight_ns(&self) -> u64 {
        self.in_flight.iter().map(|(_, ns)| ns).sum()
    }

    fn time(&mut self, stream: Stream) -> Event {
        let event = self.times.pop().unwrap_or_else(Event::timing);
        event.record(stream);
        event
    }

    pub(crate) fn begin(&mut self, stream: Stream, now_ns: u64, deadline_ns: u64) {
        (self.phase, self.granted_ns, self.deadline_ns) = (Phase::In, now_ns, deadline_ns);
        (self.quiet_since_ns, self.progress_ns, self.turn_spent_ns) = (now_ns, now_ns, 0);
        self.first = self.time(stream);
    }
}

/// See the module.
pub(crate) struct Gate {
    page: &'static Page,
    slot: usize,
    pub(crate) stream: Stream,
    on_device: OnDevice,
    state: Mutex<State>,
    pub(crate) seat: Option<Seat>,
}

impl Gate {
    pub(crate) fn new(page: &'static Page, slot: usize, stream: Stream, seat: Option<Seat>) -> Self {
        let times: Vec<Event> = (0..1_000).map(|_| Event::timing()).collect();
        let state = State {
            law: Law::FREE,
            phase: Phase::Out,
            turn: page.turn(),
            awaited: None,
            next_number: 0,
            granted_ns: 0,
            deadline_ns: 0,
            first: times[0],
            spent_ns: 0,
            is_open: false,
            in_flight: VecDeque::new(),
            progress_ns: 0,
            launches: 0,
            launches_seen: 0,
            quiet_since_ns: 0,
            marks: (0..64).map(|_| Event::mark()).collect(),
            times,
            passed: Vec::new(),
            turn_spent_ns: 0,
            habit: Habit::default(),
            shares: false,
        };
        Self { page, slot, stream, on_device: OnDevice::new(page), state: Mutex::new(state), seat }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lives")
    }

    /// Begins a cell: nothing of the last one is on the device.
    pub(crate) fn begin(&self, law: Law) {
        let mut state = self.state();
        (state.law, state.phase, state.awaited) = (law, Phase::Out, None);
        state.next_number = u32::try_from(self.slot).unwrap_or(0);
        state.turn = Turn { number: 0, holder: None };
        state.launches = 0;
        (state.habit, state.shares) = (Habit::default(), false);
    }

    /// Lets all streams go that wait for a turn: the cell is over. Returns when this tenant's has drained.
    pub(crate) fn release(&self) {
        let mark = Event::mark();
        mark.record(self.stream);
        while !mark.is_reached() {
            // Again and again, since a turn that ends now writes its own number.
            self.page.ended.store(u32::MAX / 4, std::sync::atomic::Ordering::Release);
            std::thread::sleep(10 * LOOK);
        }
    }

    /// Ends it: launches of the cell, and its turns that have passed. To be called when the stream has drained.
    pub(crate) fn end(&self) -> (u64, Vec<Passed>) {
        let mut state = self.state();
        state.end_batch(self.stream);
        self.stream.synchronize();
        state.reap(clock::now_ns());
        state.law = Law::FREE;
        self.page.want(self.slot, false);
        self.leave_arena();
        (state.launches, std::mem::take(&mut state.passed))
    }

    /// Keeps the events of turns that have been read for others.
    pub(crate) fn give_back(&self, passed: &[Passed]) {
        self.state().times.extend(passed.iter().flat_map(|turn| [turn.first, turn.last]));
    }

    /// The program is about to wait for the device.
    pub(crate) fn before_wait(&self) {
        let mut state = self.state();
        if state.phase == Phase::In {
            state.end_batch(self.stream);
        }
    }

    /// Returns when a launch may go.
    pub(crate) fn before_launch(&self) {
        loop {
            let mut state = self.state();
            let law = state.law;
            if law.how == How::Free {
                state.launches += 1;
                return;
            }
            if state.phase == Phase::In && state.is_open {
                if state.spent_ns == 0 || state.spent_ns + law.launch_ns <= BATCH_NS {
                    state.spent_ns += law.launch_ns;
                    state.launches += 1;
                    return;
                }
                state.end_batch(self.stream);
            }
            let now_ns = clock::now_ns();
            if now_ns >= law.to_ns {
                state.law.how = How::Free;
                continue;
            }
            match state.phase {
                Phase::In => self.open(state, now_ns),
                Phase::Draining => {
                    let nap = self.look_after(state, now_ns);
                    std::thread::sleep(nap);
                }
                Phase::Out => {
                    drop(state);
                    self.take(law);
                }
            }
        }
    }

    /// Opens a batch, or ends the turn, or waits for room.
    fn open(&self, mut state: MutexGuard<'_, State>, now_ns: u64) {
        state.reap(now_ns);
        let in_flight_ns = state.in_flight_ns();
        if let Some(number) = state.awaited {
            if self.page.ended.load(std::sync::atomic::Ordering::Acquire) >= number {
                state.awaited = None;
                (state.granted_ns, state.deadline_ns) = (now_ns, now_ns + state.law.turn_ns);
            } else if in_flight_ns >= BOUND_NS {
                drop(state);
                std::thread::sleep(LOOK);
                return;
            }
        }
        if matches!(state.law.how, How::Arena { .. }) && !self.still_has_it(&mut state, now_ns) {
            return;
        }
        let is_first = state.granted_ns == state.progress_ns && state.in_flight.is_empty();
        let is_last = now_ns + in_flight_ns + state.law.launch_ns > state.deadline_ns && !is_first;
        if is_last && !state.shares {
            self.close_or_renew(&mut state, now_ns);
        } else if in_flight_ns + state.law.launch_ns > BOUND_NS && state.in_flight.len() >= 2 {
            let oldest = state.in_flight[0].0;
            drop(state);
            oldest.synchronize();
        } else {
            state.is_open = true;
        }
    }

    fn close_or_renew(&self, state: &mut State, now_ns: u64) {
        let speaks = matches!(state.law.how, How::Futex { .. } | How::Write);
        if speaks && self.page.next_after(self.slot).is_none() {
            state.deadline_ns = now_ns + state.law.turn_ns;
            return;
        }
        if self.goes_on_in_arena(state, now_ns) {
            return;
        }
        self.close(state, now_ns);
    }

    /// Ends the turn: nothing more is launched.
    pub(crate) fn close(&self, state: &mut State, now_ns: u64) {
        state.end_batch(self.stream);
        let last = state.time(self.stream);
        let (granted_ns, deadline_ns, first) = (state.granted_ns, state.deadline_ns, state.first);
        state.passed.push(Passed { granted_ns, closed_ns: now_ns, deadline_ns, first, last });
        state.phase = Phase::Out;
        match state.law.how {
            How::Free | How::Deadline => {}
            How::Futex { .. } | How::Arena { .. } => state.phase = Phase::Draining,
            How::Write => {
                let next = self.page.next_after(self.slot);
                let turn = Turn { number: state.turn.number + 1, holder: next };
                self.on_device.write(self.stream, self.page.turn_word(), turn.word());
            }
            How::Wait => self.on_device.write(self.stream, &self.page.ended, state.turn.number + 1),
        }
    }

    /// Hands a turn over that has drained, or nearly. When to look again.
    fn look_after(&self, mut state: MutexGuard<'_, State>, now_ns: u64) -> Duration {
        state.reap(now_ns);
        let drains_ns = state.progress_ns + state.in_flight_ns();
        let lead_ns = match state.law.how {
            How::Futex { lead_ns } => lead_ns,
            How::Arena { lead_ns } => return self.hand_over_in_arena(state, now_ns, drains_ns, lead_ns),
            _ => return LOOK,
        };
        let is_near = lead_ns != 0 && now_ns + lead_ns >= drains_ns;
        if state.in_flight.is_empty() || is_near {
            let next = Turn { number: state.turn.number + 1, holder: self.page.next_after(self.slot) };
            self.page.change(state.turn, next);
            state.phase = Phase::Out;
        }
        LOOK
    }

    /// Waits for a turn, or for the end of the cell.
    fn take(&self, law: Law) {
        match law.how {
            How::Free => {}
            How::Deadline => self.take_by_clock(law),
            How::Arena { .. } => self.take_in_arena(law),
            How::Futex { .. } | How::Write => {
                self.page.want(self.slot, true);
                self.take_by_word(law);
                self.page.want(self.slot, false);
            }
            How::Wait => {
                let mut state = self.state();
                let number = state.next_number;
                state.next_number += law.managed;
                state.turn = Turn { number, holder: Some(self.slot) };
                self.on_device.wait(self.stream, &self.page.ended, number);
                state.awaited = Some(number);
                state.begin(self.stream, clock::now_ns(), u64::MAX);
            }
        }
    }

    fn take_by_clock(&self, law: Law) {
        let managed = u64::from(law.managed);
        let slot = self.slot as u64;
        loop {
            let now_ns = clock::now_ns();
            let number = now_ns / law.turn_ns;
            let deadline_ns = (number + 1) * law.turn_ns;
            if now_ns >= law.to_ns {
                return;
            }
            // Not into the rest of a turn that was closed just now.
            if number % managed == slot && deadline_ns - now_ns > law.turn_ns / 4 + law.launch_ns {
                self.state().begin(self.stream, now_ns, deadline_ns);
                return;
            }
            let ahead = (managed + slot - (number + 1) % managed) % managed;
            let starts_ns = (number + 1 + ahead) * law.turn_ns;
            std::thread::sleep(Duration::from_nanos(starts_ns.min(law.to_ns).saturating_sub(now_ns)));
        }
    }

    fn take_by_word(&self, law: Law) {
        // The device may not have written yet that this one is over.
        let over = self.state().turn;
        while clock::now_ns() < law.to_ns {
            let seen = self.page.turn();
            let mine = Turn { number: seen.number + 1, holder: Some(self.slot) };
            let taken = match seen.holder {
                Some(holder) if holder == self.slot => (seen != over).then_some(seen),
                None => self.page.change(seen, mine).then_some(mine),
                Some(_) => None,
            };
            if taken.is_none() {
                match law.how {
                    How::Write => std::thread::sleep(LOOK),
                    _ => self.page.sleep_while(seen),
                }
            }
            if let Some(turn) = taken {
                let mut state = self.state();
                let now_ns = clock::now_ns();
                state.turn = turn;
                state.begin(self.stream, now_ns, now_ns + law.turn_ns);
                return;
            }
        }
    }

    /// The helper thread's life: it hands over what the program's own thread is not there to hand over.
    pub(crate) fn help(&self, device: &Device, is_over: impl Fn() -> bool) {
        device.enter();
        clock::wake_exactly();
        while !is_over() {
            std::thread::sleep(Duration::from_micros(50));
            let mut state = self.state();
            if state.phase == Phase::Out
                || state.shares
                || !matches!(state.law.how, How::Futex { .. } | How::Write | How::Arena { .. })
            {
                drop(state);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let now_ns = clock::now_ns();
            match state.phase {
                Phase::Out => {}
                Phase::Draining => _ = self.look_after(state, now_ns),
                Phase::In => {
                    if state.launches != state.launches_seen {
                        (state.launches_seen, state.quiet_since_ns) = (state.launches, now_ns);
                    }
                    let is_quiet = now_ns - state.quiet_since_ns >= QUIET_NS;
                    if is_quiet {
                        state.end_batch(self.stream);
                    }
                    state.reap(now_ns);
                    let is_idle = is_quiet
                        && state.in_flight.is_empty()
                        && now_ns - state.progress_ns.max(state.quiet_since_ns) >= QUIET_NS;
                    let is_due = is_idle || now_ns >= state.deadline_ns;
                    if matches!(state.law.how, How::Arena { .. }) {
                        match is_idle {
                            true => self.give_up_in_arena(&mut state, now_ns),
                            false if is_due => self.close_or_renew(&mut state, now_ns),
                            false => {}
                        }
                    } else if is_due && self.page.next_after(self.slot).is_some() {
                        self.close_or_renew(&mut state, now_ns);
                    }
                }
            }
        }
    }
}
