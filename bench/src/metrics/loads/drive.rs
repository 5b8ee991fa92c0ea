//! Running a workload: a deep queue that is never empty, or a wait after each unit.

use std::collections::VecDeque;

use anyhow::{Context, Result};

use super::{Load, Progress, whole_ns};
use crate::clock::now_ns;
use crate::gpu::{Event, Gpu, StreamHandle};
use crate::worker::Page;

/// Work between two marks.
const MARK_NS: u64 = 1_000_000;
/// Work in the queue.
const QUEUE_NS: u64 = 8_000_000;
/// Marks in the queue: no fewer, so that the device never runs dry, and no more.
const DEPTH: std::ops::RangeInclusive<u64> = 3..=32;
/// Gaps that count as occupied, since no neighbour could use them (docs/bench-method.md).
const GAP_NS: f64 = 50_000.0;

/// Runs `load` until `until_ns` or until the page says so, and waits for the rest.
///
/// # Errors
/// Any CUDA error.
pub(crate) fn drive(
    gpu: &Gpu,
    load: &mut dyn Load,
    until_ns: u64,
    occupancy: bool,
    page: Option<&Page>,
    place: usize,
) -> Result<Progress> {
    let from_ns = now_ns();
    let is_over = || now_ns() >= until_ns || page.is_some_and(Page::is_stopped);
    let mut progress = Progress::from(from_ns);
    if load.waits() {
        waiting(gpu, load, &mut progress, is_over, occupancy)?;
        progress.stop(until_ns.min(now_ns()));
    } else {
        saturating(gpu, load, &mut progress, is_over)?;
        progress.occupancy = occupancy.then_some(1.0);
    }
    if let Some(page) = page {
        page.say(place, progress.units());
    }
    Ok(progress)
}

/// Submits groups of about a millisecond, each followed by an event, and waits for the oldest when the queue is full. A mark has
/// the event's own time: a thread that is held up in a launch sees late what was done, and so the last marks, which it does not
/// see late, would count what was done before as done then.
fn saturating(
    gpu: &Gpu,
    load: &mut dyn Load,
    progress: &mut Progress,
    is_over: impl Fn() -> bool,
) -> Result<()> {
    let group = (MARK_NS / load.unit_ns().max(1)).max(1);
    let depth = (QUEUE_NS / (group * load.unit_ns()).max(1)).clamp(*DEPTH.start(), *DEPTH.end());
    let mut idle = (0..depth).map(|_| Event::sleeping(gpu)).collect::<Result<Vec<_>, _>>()?;
    let (base, base_ns) = base_event(gpu, load.stream())?;
    let mut queue: VecDeque<Event> = VecDeque::new();
    let mut done = 0;
    let mut over = false;
    loop {
        if !over && is_over() {
            over = true;
            progress.stop(now_ns());
        }
        if let (false, Some(event)) = (over, idle.pop()) {
            for _ in 0..group {
                load.submit()?;
            }
            event.record(load.stream())?;
            queue.push_back(event);
            continue;
        }
        let Some(oldest) = queue.pop_front() else { return Ok(()) };
        oldest.synchronize()?;
        done += group;
        progress.mark(base_ns + whole_ns(oldest.since_ns(&base)?), done);
        idle.push(oldest);
    }
}

/// An event that was reached, and when by the host's clock: of several the one that took the least, since the thread may be held up between.
fn base_event(gpu: &Gpu, stream: StreamHandle) -> Result<(Event, u64)> {
    const TRIES: usize = 5;
    let mut best: Option<(u64, Event, u64)> = None;
    for _ in 0..TRIES {
        let event = Event::timing(gpu)?;
        let from_ns = now_ns();
        event.record(stream)?;
        event.synchronize()?;
        let at_ns = now_ns();
        if best.as_ref().is_none_or(|(took_ns, ..)| at_ns - from_ns < *took_ns) {
            best = Some((at_ns - from_ns, event, at_ns));
        }
    }
    let (_, event, at_ns) = best.context("no event was recorded")?;
    Ok((event, at_ns))
}

/// Waits for each unit, and measures how much of the time the device was occupied, where that is asked for.
fn waiting(
    gpu: &Gpu,
    load: &mut dyn Load,
    progress: &mut Progress,
    is_over: impl Fn() -> bool,
    occupancy: bool,
) -> Result<()> {
    let mut pairs = [[Event::timing(gpu)?, Event::timing(gpu)?], [Event::timing(gpu)?, Event::timing(gpu)?]];
    let end = Event::plain(gpu)?;
    let mut spans = Spans::default();
    let mut done = 0;
    while !is_over() {
        load.prepare()?;
        let began_ns = now_ns();
        if occupancy {
            pairs[0][0].record(load.stream())?;
        }
        load.submit()?;
        if occupancy {
            pairs[0][1].record(load.stream())?;
        }
        end.record(load.stream())?;
        end.synchronize()?;
        let ended_ns = now_ns();
        done += 1;
        progress.mark(ended_ns, done);
        #[expect(clippy::cast_possible_truncation, reason = "a time in µs for a distribution")]
        progress.unit_us.push(((ended_ns - began_ns) as f64 / 1e3) as f32);
        if occupancy {
            let gap_ns = if done > 1 { pairs[0][0].since_ns(&pairs[1][1])? } else { 0.0 };
            spans.add(gap_ns, pairs[0][1].since_ns(&pairs[0][0])?);
            pairs.swap(0, 1);
        }
    }
    progress.occupancy = if occupancy { spans.occupancy() } else { None };
    Ok(())
}

/// Busy and idle time of the device.
#[derive(Default)]
struct Spans {
    busy_ns: f64,
    all_ns: f64,
}

impl Spans {
    fn add(&mut self, gap_ns: f64, busy_ns: f64) {
        self.busy_ns += busy_ns + if gap_ns < GAP_NS { gap_ns } else { 0.0 };
        self.all_ns += busy_ns + gap_ns;
    }

    fn occupancy(&self) -> Option<f64> {
        (self.all_ns > 0.0).then(|| self.busy_ns / self.all_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_gaps_are_occupied_and_long_ones_are_not() {
        let mut spans = Spans::default();
        spans.add(0.0, 100_000.0);
        spans.add(10_000.0, 100_000.0);
        assert!((spans.occupancy().unwrap() - 1.0).abs() < 1e-9);
        spans.add(190_000.0, 100_000.0);
        assert!((spans.occupancy().unwrap() - 310.0 / 500.0).abs() < 1e-9);
        assert_eq!(Spans::default().occupancy(), None);
    }
}
