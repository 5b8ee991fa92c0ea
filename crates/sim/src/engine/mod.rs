//! The device's execution for one process, on virtual time: streams of units, what may start, and when each ends. It never
//! reads a clock: the caller says up to which time the process had the GPU ([`Engine::run_to`]) and over which time it had
//! not ([`Engine::skip_to`]).

mod events;
mod stream;
mod work;

pub use events::EventState;
pub use stream::Order;
pub use work::{Comparison, Effect, HostCall, Lane, Word, Work, World};

use crate::error::Fault;
use events::Events;
use std::collections::HashMap;
use stream::{Stream, Unit};

/// The multiprocessors of a device: an H100's.
pub const SMS: u32 = 132;
/// How many units a stream holds before a launch must wait.
pub const QUEUE: usize = 1024;
/// How often a word that the device waits for is looked at.
pub const POLL_NS: u64 = 50_000;

struct Running {
    stream: u64,
    /// `None`: ends when the word is not zero.
    end_ns: Option<u64>,
    lane: Lane,
}

/// The streams of one process on one device.
#[derive(Default)]
pub struct Engine {
    now_ns: u64,
    last_done_ns: u64,
    tickets: u64,
    finished: u64,
    streams: HashMap<u64, Stream>,
    /// The streams that hold units.
    active: Vec<u64>,
    running: Vec<Running>,
    taken_sms: u32,
    taken_lanes: [bool; 2],
    /// The events of the process.
    pub events: Events,
    fault: Option<Fault>,
}

impl Engine {
    /// A new stream.
    pub fn add_stream(&mut self, stream: u64, order: Order, context: u64, priority: i32) {
        self.streams.insert(stream, Stream::new(order, context, priority));
    }

    /// Forgets a stream. Its units, if it has any, are dropped: wait for it first.
    pub fn remove_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.active.retain(|&s| s != stream);
        let (gone, kept) = std::mem::take(&mut self.running).into_iter().partition(|r| r.stream == stream);
        self.running = kept;
        let gone: Vec<Running> = gone;
        gone.iter().for_each(|r| self.free(r.lane));
    }

    /// Forgets all streams of a context.
    pub fn remove_streams_of(&mut self, context: u64) {
        let all: Vec<u64> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(&id, _)| id).collect();
        all.into_iter().for_each(|stream| self.remove_stream(stream));
    }

    /// Appends a unit and gives its ticket; tickets rise.
    pub fn submit(&mut self, stream: u64, work: Work, now_ns: u64) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(found) = self.streams.get_mut(&stream) {
            if found.units.is_empty() {
                self.active.push(stream);
            }
            found.units.push_back(Unit { ticket, submitted_ns: now_ns, work });
            found.last_ticket = ticket;
        }
        ticket
    }

    /// How many units of `stream` are not done.
    #[must_use]
    pub fn depth(&self, stream: u64) -> usize {
        self.streams.get(&stream).map_or(0, |s| s.units.len())
    }

    /// Whether the stream exists.
    #[must_use]
    pub fn has_stream(&self, stream: u64) -> bool {
        self.streams.contains_key(&stream)
    }

    /// The ticket of the newest unit of `stream`.
    #[must_use]
    pub fn last_ticket(&self, stream: u64) -> u64 {
        self.streams.get(&stream).map_or(0, |s| s.last_ticket)
    }

    /// The ticket of the newest unit of all.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.tickets
    }

    /// Whether the unit with `ticket`, and all before it in `stream`, are done.
    #[must_use]
    pub fn is_done(&self, stream: u64, ticket: u64) -> bool {
        self.streams.get(&stream).and_then(Stream::oldest).is_none_or(|oldest| oldest > ticket)
    }

    /// Whether every unit up to `ticket` is done in the streams of `context`, or in all where it is `None`.
    #[must_use]
    pub fn all_done(&self, ticket: u64, context: Option<u64>) -> bool {
        let is_asked = |s: &&Stream| context.is_none_or(|c| c == s.context);
        self.busy().filter(is_asked).all(|s| s.oldest().is_none_or(|oldest| oldest > ticket))
    }

    /// Whether every unit up to `ticket` is done in the streams that the legacy default stream of `context` waits for, and
    /// in itself.
    #[must_use]
    pub fn blocking_done(&self, ticket: u64, context: u64) -> bool {
        let is_asked = |s: &&Stream| s.context == context && s.order != Order::Free;
        self.busy().filter(is_asked).all(|s| s.oldest().is_none_or(|oldest| oldest > ticket))
    }

    /// The error that ended all work, if one did.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Forgets the error: its contexts are gone.
    pub fn clear_fault(&mut self) {
        self.fault = None;
    }

    /// Up to which time the engine has been run or skipped.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// How many units are done.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// When the last unit ended.
    #[must_use]
    pub fn last_done_ns(&self) -> u64 {
        self.last_done_ns
    }

    /// Whether a unit runs, or one could start if the process had the GPU.
    pub fn wants_gpu(&mut self, world: &mut impl World) -> bool {
        !self.running.is_empty() || (0..self.active.len()).any(|i| self.can_go_on(self.active[i], world))
    }

    /// Whether a word in memory decides about some unit, so that it must be looked at every [`POLL_NS`].
    #[must_use]
    pub fn is_polling(&self) -> bool {
        let waits = |s: &Stream| matches!(s.units.front(), Some(Unit { work: Work::WaitValue { .. }, .. }));
        self.running.iter().any(|r| r.end_ns.is_none()) || self.busy().any(waits)
    }

    /// When the next running unit ends.
    #[must_use]
    pub fn next_end_ns(&self) -> Option<u64> {
        self.running.iter().filter_map(|r| r.end_ns).min()
    }

    /// The process did not have the GPU until `time_ns`: whatever runs ends so much later.
    pub fn skip_to(&mut self, time_ns: u64) {
        let off_ns = time_ns.saturating_sub(self.now_ns);
        for end_ns in self.running.iter_mut().filter_map(|r| r.end_ns.as_mut()) {
            *end_ns += off_ns;
        }
        self.now_ns += off_ns;
    }

    /// The process had the GPU until `time_ns`: units start and end in that time.
    pub fn run_to(&mut self, time_ns: u64, world: &mut impl World) {
        loop {
            self.end_spins(world);
            self.start_all(world);
            let Some(next_ns) = self.next_change_ns().filter(|&next| next <= time_ns) else { break };
            self.now_ns = self.now_ns.max(next_ns);
            self.end_due(world);
        }
        self.now_ns = self.now_ns.max(time_ns);
    }

    /// The host function of `stream` has returned.
    pub fn host_done(&mut self, stream: u64) {
        self.finish(stream);
    }

    /// The next end of a running unit, or the time at which a unit at a stream's head was submitted.
    fn next_change_ns(&self) -> Option<u64> {
        let heads = self.busy().filter(|s| !s.is_started);
        let submitted =
            heads.filter_map(|s| Some(s.units.front()?.submitted_ns)).filter(|&at| at > self.now_ns);
        self.next_end_ns().into_iter().chain(submitted).min()
    }

    fn end_due(&mut self, world: &mut impl World) {
        while let Some(place) =
            self.running.iter().position(|r| r.end_ns.is_some_and(|end| end <= self.now_ns))
        {
            let done = self.running.swap_remove(place);
            self.end(&done, world);
        }
    }

    fn end_spins(&mut self, world: &mut impl World) {
        let mut place = 0;
        while place < self.running.len() {
            if self.running[place].end_ns.is_none() && self.is_spin_over(self.running[place].stream, world) {
                let done = self.running.swap_remove(place);
                self.end(&done, world);
            } else {
                place += 1;
            }
        }
    }

    fn is_spin_over(&self, stream: u64, world: &mut impl World) -> bool {
        let head = self.streams.get(&stream).and_then(|s| s.units.front());
        matches!(head, Some(Unit { work: Work::Spin { word, .. }, .. }) if world.load(*word) != 0)
    }

    fn end(&mut self, done: &Running, world: &mut impl World) {
        self.free(done.lane);
        match self.finish(done.stream) {
            Some(Work::Timed { faults: true, .. }) => self.poison(),
            Some(Work::Timed { effect, .. }) => world.perform(effect),
            Some(Work::Record { event, generation, .. }) => self.events.reach(event, generation, self.now_ns),
            _ => {}
        }
    }

    fn busy(&self) -> impl Iterator<Item = &Stream> {
        self.active.iter().filter_map(|id| self.streams.get(id))
    }

    /// After an illegal address nothing runs any more.
    fn poison(&mut self) {
        self.fault = Some(Fault::IllegalAddress);
        self.running.clear();
        self.taken_sms = 0;
        self.taken_lanes = [false; 2];
        for stream in self.streams.values_mut() {
            stream.units.clear();
            stream.is_started = false;
        }
        self.active.clear();
    }

    fn finish(&mut self, stream: u64) -> Option<Work> {
        let found = self.streams.get_mut(&stream)?;
        let unit = found.units.pop_front()?;
        found.is_started = false;
        if found.units.is_empty() {
            self.active.retain(|&s| s != stream);
        }
        self.last_done_ns = self.now_ns;
        self.finished += 1;
        Some(unit.work)
    }

    /// Starts what may start, higher priority first, then in the order of submission. A kernel that does not fit holds back
    /// the kernels after it, as the hardware's work distributor does.
    fn start_all(&mut self, world: &mut impl World) {
        loop {
            let mut heads: Vec<(i32, u64, u64)> = Vec::with_capacity(self.active.len());
            for id in &self.active {
                if let Some(stream) = self.streams.get(id).filter(|s| !s.is_started) {
                    heads.push((stream.priority, stream.oldest().unwrap_or(0), *id));
                }
            }
            heads.sort_unstable();
            let mut are_sms_awaited = false;
            let mut progressed = false;
            for (_, _, stream) in heads {
                if self.can_go_on(stream, world) {
                    progressed |= self.start(stream, &mut are_sms_awaited, world);
                }
            }
            if !progressed {
                break;
            }
        }
    }

    /// Whether nothing but the device itself holds the unit at the stream's head back.
    fn can_go_on(&self, stream: u64, world: &mut impl World) -> bool {
        let Some(found) = self.streams.get(&stream).filter(|s| !s.is_started) else { return false };
        let Some(unit) = found.units.front() else { return false };
        if unit.submitted_ns > self.now_ns || !self.is_its_turn(found, unit.ticket) {
            // A unit that is submitted after the engine's time still wants the GPU when that time comes.
            return unit.submitted_ns > self.now_ns
                && self.is_its_turn(found, unit.ticket)
                && self.running.is_empty();
        }
        match &unit.work {
            Work::WaitEvent { event, generation } => self.events.is_reached(*event, *generation),
            Work::WaitValue { word, wanted, comparison } => {
                comparison.holds(world.load(*word), *wanted, word.is_wide)
            }
            _ => true,
        }
    }

    /// The order between the legacy default stream and the blocking streams of its context.
    fn is_its_turn(&self, stream: &Stream, ticket: u64) -> bool {
        let others = self.busy().filter(|s| s.context == stream.context);
        let is_behind = |other: &Stream| other.oldest().is_none_or(|oldest| oldest >= ticket);
        match stream.order {
            Order::Free => true,
            Order::Legacy => others.filter(|s| s.order == Order::Blocking).all(is_behind),
            Order::Blocking => others.filter(|s| s.order == Order::Legacy).all(is_behind),
        }
    }

    /// Starts the unit at the stream's head, or passes it where it takes no time. False where it must wait for a lane.
    fn start(&mut self, stream: u64, are_sms_awaited: &mut bool, world: &mut impl World) -> bool {
        let Some(unit) = self.streams.get_mut(&stream).and_then(|s| s.units.front_mut()) else {
            return false;
        };
        if unit.submitted_ns > self.now_ns {
            return false;
        }
        let (lane, end_ns) = match &mut unit.work {
            Work::Timed { cost_ns, lane, .. } => (*lane, Some(self.now_ns + *cost_ns)),
            Work::Spin { lane, .. } => (*lane, None),
            Work::Record { event, generation, cost_ns: 0 } => {
                self.events.reach(*event, *generation, self.now_ns);
                self.finish(stream);
                return true;
            }
            Work::Record { cost_ns, .. } => (Lane::Free, Some(self.now_ns + *cost_ns)),
            Work::WaitEvent { .. } | Work::WaitValue { .. } => {
                self.finish(stream);
                return true;
            }
            Work::Host(call) => {
                let call = std::mem::replace(call, Box::new(|| ()));
                self.mark_started(stream);
                world.call(stream, call);
                return true;
            }
        };
        if (matches!(lane, Lane::Sms(_)) && *are_sms_awaited) || !self.take(lane) {
            *are_sms_awaited |= matches!(lane, Lane::Sms(_));
            return false;
        }
        self.mark_started(stream);
        self.running.push(Running { stream, end_ns, lane });
        true
    }

    fn mark_started(&mut self, stream: u64) {
        if let Some(found) = self.streams.get_mut(&stream) {
            found.is_started = true;
        }
    }

    fn take(&mut self, lane: Lane) -> bool {
        match lane {
            Lane::Free => true,
            Lane::Sms(count) => {
                let fits = self.taken_sms + count.min(SMS) <= SMS;
                self.taken_sms += if fits { count.min(SMS) } else { 0 };
                fits
            }
            Lane::HostToDevice => !std::mem::replace(&mut self.taken_lanes[0], true),
            Lane::DeviceToHost => !std::mem::replace(&mut self.taken_lanes[1], true),
        }
    }

    fn free(&mut self, lane: Lane) {
        match lane {
            Lane::Free => {}
            Lane::Sms(count) => self.taken_sms -= count.min(SMS),
            Lane::HostToDevice => self.taken_lanes[0] = false,
            Lane::DeviceToHost => self.taken_lanes[1] = false,
        }
    }
}

#[cfg(test)]
mod tests;
