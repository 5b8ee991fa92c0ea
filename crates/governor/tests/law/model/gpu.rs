//! A GPU on virtual time: streams of kernels that take a true time, boundary events, kernels that spin for a flag, and
//! the driver's slices between processes.

use std::collections::{HashSet, VecDeque};

/// The driver's slice and its switch, ns (measured on an H100).
const SLICE_NS: f64 = 2_090_000.0;
const SWITCH_NS: f64 = 150_000.0;
/// GPU time of a timing event, ns (measured on an H100).
pub(crate) const EVENT_NS: u64 = 2_000;
/// And of one on a stream that has nothing else, whose latency nothing hides.
const LONE_EVENT_NS: u64 = 5_000;
const SHORT_GAP_NS: f64 = 50_000.0;
/// Multiprocessors that a spinning kernel takes, as a part of the GPU.
const SPINNER: f64 = 0.01;

/// A kernel, or a graph.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel {
    /// What it takes alone on the GPU, ns.
    pub(crate) cost_ns: u64,
    /// It spins until this flag is set, then takes its time.
    pub(crate) waits: Option<u32>,
    /// It sets this flag at its end.
    pub(crate) sets: Option<u32>,
    /// It fills one part in so many of the GPU; 0: all of it.
    pub(crate) part: u32,
}

enum Item {
    Kernel { left_ns: f64, kernel: Kernel },
    Event { left_ns: f64, id: usize },
}

struct Stream {
    process: usize,
    queue: VecDeque<Item>,
}

/// What a process has really had.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    /// Work done, ns of a GPU alone.
    pub(crate) work_ns: f64,
    /// Occupied time: the union of its kernels' intervals, gaps under 50 µs included.
    pub(crate) occupied_ns: f64,
    last_end_ns: Option<f64>,
}

#[derive(Default)]
pub(crate) struct Gpu {
    now_ns: f64,
    streams: Vec<Stream>,
    flags: HashSet<u32>,
    events: Vec<Option<u64>>,
    truths: Vec<Truth>,
    running: usize,
    slice_ends_ns: f64,
    switching_until_ns: f64,
}

impl Gpu {
    pub(crate) fn stream(&mut self, process: usize) -> usize {
        self.truths.resize_with(self.truths.len().max(process + 1), Truth::default);
        self.streams.push(Stream { process, queue: VecDeque::new() });
        self.streams.len() - 1
    }

    pub(crate) fn launch(&mut self, stream: usize, kernel: Kernel) {
        self.streams[stream].queue.push_back(Item::Kernel { left_ns: kernel.cost_ns as f64, kernel });
    }

    pub(crate) fn record(&mut self, stream: usize) -> usize {
        self.events.push(None);
        let id = self.events.len() - 1;
        let queue = &mut self.streams[stream].queue;
        let left_ns = if queue.is_empty() { LONE_EVENT_NS } else { EVENT_NS } as f64;
        queue.push_back(Item::Event { left_ns, id });
        id
    }

    /// When the event was reached, ns, if it was.
    pub(crate) fn event_ns(&self, id: usize) -> Option<u64> {
        self.events[id]
    }

    pub(crate) fn queued(&self, stream: usize) -> usize {
        self.streams[stream].queue.len()
    }

    pub(crate) fn truth(&self, process: usize) -> &Truth {
        &self.truths[process]
    }

    fn has_work(&self, process: usize) -> bool {
        self.streams.iter().any(|s| s.process == process && !s.queue.is_empty())
    }

    /// How fast the head of a stream moves now: 0 while it spins or its process is not on the GPU.
    fn rate(&self, stream: &Stream) -> f64 {
        if stream.process != self.running || self.now_ns < self.switching_until_ns {
            return 0.0;
        }
        match stream.queue.front() {
            None => 0.0,
            Some(Item::Event { .. }) => 1.0,
            Some(Item::Kernel { kernel, .. }) if self.spins(kernel) => 0.0,
            Some(Item::Kernel { .. }) => 1.0 / self.crowd().max(1.0),
        }
    }

    fn spins(&self, kernel: &Kernel) -> bool {
        kernel.waits.is_some_and(|flag| !self.flags.contains(&flag))
    }

    /// How many GPUs the kernels that run would fill.
    fn crowd(&self) -> f64 {
        let heads = self.streams.iter().filter(|s| s.process == self.running).map(|s| s.queue.front());
        heads.fold(0.0, |crowd, head| match head {
            Some(Item::Kernel { kernel, .. }) if self.spins(kernel) => crowd + SPINNER,
            Some(Item::Kernel { kernel, .. }) => crowd + 1.0 / f64::from(kernel.part.max(1)),
            _ => crowd,
        })
    }

    /// When something happens next, ns, if nobody does anything.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let mut next = f64::INFINITY;
        for stream in &self.streams {
            let rate = self.rate(stream);
            if let (true, Some(Item::Kernel { left_ns, .. } | Item::Event { left_ns, .. })) =
                (rate > 0.0, stream.queue.front())
            {
                next = next.min(self.now_ns + left_ns / rate);
            }
        }
        if self.streams.iter().any(|s| s.process != self.running && !s.queue.is_empty()) {
            next = next.min(self.slice_ends_ns.max(self.now_ns));
            if self.switching_until_ns > self.now_ns {
                next = self.switching_until_ns;
            }
        } else if self.switching_until_ns > self.now_ns {
            next = next.min(self.switching_until_ns);
        }
        next.is_finite().then(|| whole_ns(next.ceil()))
    }

    /// Lets time pass. `to_ns` is not beyond [`Gpu::next_ns`].
    pub(crate) fn advance(&mut self, to_ns: u64) {
        let to_ns = to_ns as f64;
        let passed_ns = to_ns - self.now_ns;
        self.account(passed_ns);
        let rates: Vec<f64> = self.streams.iter().map(|s| self.rate(s)).collect();
        self.now_ns = to_ns;
        for (stream, rate) in self.streams.iter_mut().zip(rates) {
            let Some(head) = stream.queue.front_mut() else { continue };
            let (Item::Kernel { left_ns, .. } | Item::Event { left_ns, .. }) = head;
            *left_ns -= passed_ns * rate;
            if *left_ns > 0.5 || rate == 0.0 && *left_ns > 0.0 {
                continue;
            }
            match stream.queue.pop_front() {
                Some(Item::Event { id, .. }) => self.events[id] = Some(whole_ns(to_ns)),
                Some(Item::Kernel { kernel, .. }) => self.flags.extend(kernel.sets),
                None => {}
            }
        }
        self.slice();
    }

    /// Books the truth of the time that passed.
    fn account(&mut self, passed_ns: f64) {
        let mut done = vec![(0.0, false); self.truths.len()];
        for stream in &self.streams {
            if stream.process == self.running && matches!(stream.queue.front(), Some(Item::Kernel { .. })) {
                done[stream.process].0 += passed_ns * self.rate(stream);
                done[stream.process].1 = true;
            }
        }
        for (truth, (work_ns, busy)) in self.truths.iter_mut().zip(done) {
            truth.work_ns += work_ns;
            if !busy || passed_ns == 0.0 {
                continue;
            }
            let gap_ns = truth.last_end_ns.map_or(f64::INFINITY, |end| self.now_ns - end);
            truth.occupied_ns += passed_ns + if gap_ns < SHORT_GAP_NS { gap_ns } else { 0.0 };
            truth.last_end_ns = Some(self.now_ns + passed_ns);
        }
    }

    /// The driver's time slices.
    fn slice(&mut self) {
        let processes = self.truths.len();
        let over = self.now_ns >= self.slice_ends_ns || !self.has_work(self.running);
        if !over || self.now_ns < self.switching_until_ns {
            return;
        }
        let others = (1..=processes).map(|n| (self.running + n) % processes);
        let Some(next) = others.into_iter().find(|&p| self.has_work(p)) else { return };
        if next != self.running {
            self.running = next;
            self.switching_until_ns = self.now_ns + SWITCH_NS;
        }
        self.slice_ends_ns = self.now_ns.max(self.switching_until_ns) + SLICE_NS;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of the model are hours at most"
)]
fn whole_ns(ns: f64) -> u64 {
    ns as u64
}
