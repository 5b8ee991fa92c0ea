//! How much work was done, and when, by a clock of its own: events without timing (which take no GPU time) between the
//! units, and a thread that looks at them.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;
use crate::cuda::{Device, Event, Stream};

/// Work in the queue of a program that nobody holds back, ns, and the marks for it: fewer kernels of 5 µs than the driver
/// takes before a launch blocks (about 1,000).
const QUEUE_NS: u64 = 4_000_000;
const DEPTH: std::ops::RangeInclusive<u64> = 3..=32;
const LOOK: Duration = Duration::from_micros(200);
/// Nothing done for this long, ns: the program is stuck.
const STUCK_NS: u64 = 20_000_000_000;

/// The marks of a process.
#[derive(Default)]
pub(crate) struct Marks {
    under_way: Mutex<VecDeque<(Event, u64)>>,
    idle: Mutex<Vec<Event>>,
    /// When so many units had been done, ns.
    log: Mutex<Vec<(u64, u64)>>,
    stop: AtomicBool,
    alive_ns: AtomicU64,
}

impl Marks {
    /// Marks that `units` more were submitted; waits while the queue is as deep as it should be.
    pub(crate) fn mark(&self, stream: Stream, units: u64, mark_ns: u64) {
        let event = self.idle.lock().expect("lives").pop().unwrap_or_else(Event::mark);
        event.record(stream);
        self.under_way.lock().expect("lives").push_back((event, units));
        let depth = (QUEUE_NS / mark_ns.max(1)).clamp(*DEPTH.start(), *DEPTH.end());
        loop {
            let under_way = self.under_way.lock().expect("lives");
            let Some((oldest, _)) = under_way.front().copied().filter(|_| under_way.len() as u64 >= depth)
            else {
                break;
            };
            drop(under_way);
            oldest.synchronize();
            self.look();
        }
        self.is_alive();
    }

    /// The program does something.
    pub(crate) fn is_alive(&self) {
        self.alive_ns.store(clock::now_ns(), Relaxed);
    }

    /// Notes the marks that were reached.
    pub(crate) fn look(&self) {
        let mut under_way = self.under_way.lock().expect("lives");
        while let Some((event, units)) = under_way.pop_front_if(|(event, _)| event.is_reached()) {
            let mut log = self.log.lock().expect("lives");
            let before = log.last().map_or(0, |(_, units)| *units);
            log.push((clock::now_ns(), before + units));
            self.idle.lock().expect("lives").push(event);
        }
    }

    /// The thread that looks. Ends the process when the program is stuck: the kernels that it waits for will never end.
    pub(crate) fn watch(&self, device: &Device) {
        device.enter();
        clock::wake_exactly();
        self.is_alive();
        while !self.stop.load(Relaxed) {
            self.look();
            if clock::now_ns().saturating_sub(self.alive_ns.load(Relaxed)) > STUCK_NS {
                println!("{{\"stuck\": true}}");
                // SAFETY: ends the process at once, without the driver's destructors, which would wait.
                unsafe { libc::_exit(3) };
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends the watch.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Log {
        Log(self.log.lock().expect("lives").clone())
    }
}

/// Units done by a time.
pub(crate) struct Log(Vec<(u64, u64)>);

impl Log {
    /// Units done at `ns`, between two marks in proportion.
    #[expect(clippy::cast_precision_loss, reason = "times of one run")]
    pub(crate) fn at(&self, ns: u64) -> f64 {
        let after = self.0.partition_point(|(at, _)| *at <= ns);
        match (after.checked_sub(1).and_then(|n| self.0.get(n)), self.0.get(after)) {
            (Some((t0, n0)), Some((t1, n1))) => {
                *n0 as f64 + (n1 - n0) as f64 * (ns - t0) as f64 / (t1 - t0).max(1) as f64
            }
            (Some((_, n)), None) => *n as f64,
            _ => 0.0,
        }
    }

    /// Units in each of the windows of `window_ns` from `from_ns` to `to_ns`.
    pub(crate) fn windows(&self, from_ns: u64, to_ns: u64, window_ns: u64) -> Vec<f64> {
        let count = (to_ns - from_ns) / window_ns;
        (0..count)
            .map(|n| self.at(from_ns + (n + 1) * window_ns) - self.at(from_ns + n * window_ns))
            .collect()
    }
}

/// Coefficient of variation.
#[expect(clippy::cast_precision_loss, reason = "some tens")]
pub(crate) fn variation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    variance.sqrt() / mean
}
