//! Programs, their guests and a GPU, on virtual time.

pub(crate) mod gpu;
pub(crate) mod guest;

use cuota_governor::batch::{Close, Unit};
use cuota_governor::budget::Budget;
use cuota_governor::cap::Cap;
use cuota_governor::cost::Key;
use cuota_governor::rounds::Nap;

use gpu::{Gpu, Kernel};
use guest::{Gate, Ground, Guest, Tenant, Waiting};

/// How late a sleeper wakes, ns.
pub(crate) const OVERSLEEP_NS: u64 = 60_000;
/// How long a launch, another call of the driver, and the return from a synchronisation, keep the CPU, ns (measured on an H100).
pub(crate) const LAUNCH_NS: u64 = 3_900;
const CALL_NS: u64 = 1_000;
const SYNC_NS: u64 = 5_000;
/// One launch in so many keeps it so long, ns: a thread that loses its processor, a lock of the driver's.
const HICCUPS: u64 = 700;
const HICCUP_NS: u64 = 90_000;
/// The driver's submission queue; with it full, a launch blocks.
const QUEUE: usize = 1_000;

/// What a program does next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Launches a kernel of this function on the stream.
    Launch { stream: usize, function: u64, kernel: Kernel },
    /// Waits until the stream has drained.
    Sync { stream: usize },
    /// Computes on the CPU, ns.
    Host(u64),
    /// Ends.
    End,
}

/// The script of a thread: the n-th operation.
pub(crate) type Script = Box<dyn FnMut(u64) -> Op>;

enum State {
    Running,
    AtGate {
        op: (usize, Unit, Kernel),
        waiting: Waiting,
    },
    /// The guest has let it through, and is still busy with the driver.
    Passing {
        op: (usize, Unit, Kernel),
    },
    QueueFull {
        op: (usize, Unit, Kernel),
    },
    Syncing {
        stream: usize,
    },
    Ended,
}

struct Thread {
    process: usize,
    script: Script,
    step: u64,
    state: State,
    wake_ns: u64,
    launches: u64,
}

/// A machine.
pub(crate) struct World {
    pub(crate) now_ns: u64,
    pub(crate) gpu: Gpu,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) guests: Vec<(usize, Guest)>,
    threads: Vec<Thread>,
    /// Whether the guests have helper threads.
    pub(crate) helper: bool,
    /// When each helper wakes, ns.
    next_help_ns: Vec<Option<u64>>,
}

impl World {
    pub(crate) fn new(helper: bool) -> Self {
        Self {
            now_ns: 0,
            gpu: Gpu::default(),
            tenants: Vec::new(),
            guests: Vec::new(),
            threads: Vec::new(),
            helper,
            next_help_ns: Vec::new(),
        }
    }

    pub(crate) fn tenant(&mut self, cap_ppm: u32) -> usize {
        let cap = Cap::from_ppm(cap_ppm).expect("a cap");
        self.tenants.push(Tenant { cap, budget: Budget::default(), used_ns: 0 });
        self.tenants.len() - 1
    }

    pub(crate) fn process(&mut self, tenant: usize, managed: bool, strangers: Option<u32>) -> usize {
        self.guests.push((tenant, Guest::new(managed, strangers)));
        self.guests[self.next_help_ns.len()].1.is_watched = self.helper;
        self.next_help_ns.push(None);
        self.guests.len() - 1
    }

    pub(crate) fn thread(&mut self, process: usize, script: Script) -> usize {
        let state = State::Running;
        self.threads.push(Thread { process, script, step: 0, state, wake_ns: self.now_ns, launches: 0 });
        self.threads.len() - 1
    }

    pub(crate) fn launches(&self, thread: usize) -> u64 {
        self.threads[thread].launches
    }

    pub(crate) fn has_ended(&self, thread: usize) -> bool {
        matches!(self.threads[thread].state, State::Ended)
    }

    /// Runs until the thread has ended, or until `end_ns`. Returns whether it has ended.
    pub(crate) fn run_to_the_end_of(&mut self, thread: usize, end_ns: u64) -> bool {
        while self.now_ns < end_ns && !self.has_ended(thread) {
            self.run_until((self.now_ns + 10_000_000).min(end_ns));
        }
        self.has_ended(thread)
    }

    /// Runs until `end_ns`, or until nothing can happen any more.
    pub(crate) fn run_until(&mut self, end_ns: u64) {
        while self.now_ns < end_ns {
            let wakes = self.threads.iter().filter(|t| t.sleeps()).map(|t| t.wake_ns);
            let next = wakes.chain(self.gpu.next_ns()).min().unwrap_or(end_ns);
            let next = self.next_help_ns.iter().flatten().copied().min().map_or(next, |help| next.min(help));
            self.now_ns = next.clamp(self.now_ns, end_ns);
            self.gpu.advance(self.now_ns);
            for process in 0..self.guests.len() {
                self.help(process);
            }
            for thread in 0..self.threads.len() {
                self.turn(thread);
            }
        }
    }

    /// A round of a process's helper, if it wakes now.
    fn help(&mut self, process: usize) {
        if self.next_help_ns[process].is_none_or(|at| at > self.now_ns) {
            return;
        }
        let now_ns = self.now_ns;
        let (guest, mut on) = self.guest(process);
        let nap = guest.help(&mut on);
        // They keep the helper, and nobody else.
        guest.calls = 0;
        self.next_help_ns[process] = match nap {
            Nap::Parked => None,
            Nap::For(ns) => Some(now_ns + ns + OVERSLEEP_NS),
        };
    }

    fn guest(&mut self, process: usize) -> (&mut Guest, Ground<'_>) {
        let (tenant, guest) = &mut self.guests[process];
        let on = Ground { gpu: &mut self.gpu, tenant: &mut self.tenants[*tenant], now_ns: self.now_ns };
        (guest, on)
    }

    fn turn(&mut self, thread: usize) {
        let now_ns = self.now_ns;
        let Thread { state, wake_ns, .. } = &mut self.threads[thread];
        match state {
            State::Syncing { stream } if self.gpu.queued(*stream) == 0 => {
                *state = State::Running;
                *wake_ns = now_ns + SYNC_NS;
            }
            State::QueueFull { op } if self.gpu.queued(op.0) < QUEUE => {
                let op = *op;
                self.submit(thread, op);
            }
            State::Running if *wake_ns <= now_ns => self.step(thread),
            State::AtGate { .. } if *wake_ns <= now_ns => self.look_again(thread),
            State::Passing { op } if *wake_ns <= now_ns => {
                let op = *op;
                self.queue(thread, op);
            }
            _ => {}
        }
    }

    fn step(&mut self, thread: usize) {
        let Thread { process, script, step, .. } = &mut self.threads[thread];
        let (process, op) = (*process, script(*step));
        *step += 1;
        match op {
            Op::Launch { stream, function, kernel } => {
                let unit = Unit { key: Key { function, shape: 1 }, continues_chain: false };
                let (guest, mut on) = self.guest(process);
                let gate = guest.launch(&mut on, stream, &unit);
                self.pass(thread, (stream, unit, kernel), gate);
            }
            Op::Sync { stream } => {
                let (guest, mut on) = self.guest(process);
                guest.close(&mut on, stream, Close::Sync);
                self.threads[thread].state = State::Syncing { stream };
                self.turn(thread);
            }
            Op::Host(ns) => self.threads[thread].wake_ns = self.now_ns + ns,
            Op::End => self.threads[thread].state = State::Ended,
        }
    }

    fn look_again(&mut self, thread: usize) {
        let process = self.threads[thread].process;
        let state = std::mem::replace(&mut self.threads[thread].state, State::Running);
        let State::AtGate { op, waiting } = state else { return };
        let (guest, mut on) = self.guest(process);
        let gate = guest.wait(&mut on, op.0, &op.1, waiting);
        self.pass(thread, op, gate);
    }

    fn pass(&mut self, thread: usize, op: (usize, Unit, Kernel), gate: Gate) {
        let guest = &mut self.guests[self.threads[thread].process].1;
        let calls = std::mem::take(&mut guest.calls);
        if matches!(gate, Gate::Go) {
            guest.passes(op.0);
        }
        match gate {
            Gate::Go if calls != 0 => {
                self.threads[thread].state = State::Passing { op };
                self.threads[thread].wake_ns = self.now_ns + calls * CALL_NS;
            }
            Gate::Go => self.queue(thread, op),
            Gate::Wait { look_ns, waiting } => {
                assert!(look_ns > self.now_ns, "a waiter that does not sleep");
                self.threads[thread].wake_ns = look_ns + OVERSLEEP_NS;
                self.threads[thread].state = State::AtGate { op, waiting };
            }
        }
    }

    fn queue(&mut self, thread: usize, op: (usize, Unit, Kernel)) {
        if self.gpu.queued(op.0) < QUEUE {
            self.submit(thread, op);
        } else {
            self.threads[thread].state = State::QueueFull { op };
        }
    }

    fn submit(&mut self, thread: usize, (stream, unit, kernel): (usize, Unit, Kernel)) {
        self.gpu.launch(stream, kernel);
        let Thread { process, wake_ns, launches, state, .. } = &mut self.threads[thread];
        let process = *process;
        if self.helper {
            self.next_help_ns[process].get_or_insert(self.now_ns + OVERSLEEP_NS);
        }
        *launches += 1;
        let hiccup_ns = if launches.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xffff < 65_536 / HICCUPS {
            HICCUP_NS
        } else {
            0
        };
        (*state, *wake_ns) = (State::Running, self.now_ns + LAUNCH_NS + hiccup_ns);
        let (guest, mut on) = self.guest(process);
        guest.launched(&mut on, stream, &unit);
        self.threads[thread].wake_ns += std::mem::take(&mut self.guests[process].1.calls) * CALL_NS;
    }
}

impl Thread {
    fn sleeps(&self) -> bool {
        matches!(self.state, State::Running | State::AtGate { .. } | State::Passing { .. })
    }
}
