//! How far a tenant got, and when: cut into windows afterwards, by whoever compares tenants.

use serde::{Deserialize, Serialize};

use super::whole_ns;
use crate::metrics::figures;

/// Units of work that were done, over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// When it began, CLOCK_MONOTONIC.
    pub from_ns: u64,
    /// Marks: microseconds since the beginning, and units done by then.
    marks: Vec<(f64, u64)>,
    /// When it submitted nothing more, CLOCK_MONOTONIC; what is done later was waiting in the queue.
    stopped_ns: Option<u64>,
    /// Microseconds of each unit from submission to done, where each was waited for.
    pub unit_us: Vec<f32>,
    /// The part of the time in which its work was on the device, gaps under 50 µs included; measured only natively and
    /// on request. 1 for work that is never waited for.
    pub occupancy: Option<f64>,
}

impl Progress {
    /// Nothing done yet at `from_ns`.
    pub(crate) fn from(from_ns: u64) -> Self {
        Self { from_ns, marks: vec![(0.0, 0)], stopped_ns: None, unit_us: Vec::new(), occupancy: None }
    }

    /// Notes that `units` were done at `now_ns`.
    pub(crate) fn mark(&mut self, now_ns: u64, units: u64) {
        let us = now_ns.saturating_sub(self.from_ns) as f64 / 1e3;
        self.marks.push((us, units));
    }

    /// Notes that nothing is submitted from `now_ns` on.
    pub(crate) fn stop(&mut self, now_ns: u64) {
        self.stopped_ns = Some(now_ns);
    }

    /// Units done in all.
    pub(crate) fn units(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.1)
    }

    /// The time of the last mark.
    pub(crate) fn end_ns(&self) -> u64 {
        self.at_ns(self.marks.last().map_or(0.0, |mark| mark.0))
    }

    /// The end of the time in which it was steady: the last mark, or when it submitted nothing more, if that was before.
    pub(crate) fn steady_end_ns(&self) -> u64 {
        self.end_ns().min(self.stopped_ns.unwrap_or(u64::MAX))
    }

    fn at_ns(&self, us: f64) -> u64 {
        self.from_ns + whole_ns(us * 1e3)
    }

    /// Times of the marks and units done, in the order of time.
    pub(crate) fn marks_ns(&self) -> impl Iterator<Item = (u64, f64)> {
        self.marks.iter().map(|(us, units)| (self.at_ns(*us), *units as f64))
    }

    /// Units done at `at_ns`, between two marks in proportion.
    pub(crate) fn units_at(&self, at_ns: u64) -> f64 {
        let us = at_ns.saturating_sub(self.from_ns) as f64 / 1e3;
        let next = self.marks.partition_point(|mark| mark.0 <= us);
        let Some(&(to_us, to)) = self.marks.get(next) else { return self.units() as f64 };
        let Some(&(from_us, from)) = next.checked_sub(1).and_then(|last| self.marks.get(last)) else {
            return 0.0;
        };
        from as f64 + (to - from) as f64 * (us - from_us) / (to_us - from_us)
    }

    /// Units a second between two times.
    pub(crate) fn rate(&self, from_ns: u64, to_ns: u64) -> f64 {
        let seconds = to_ns.saturating_sub(from_ns) as f64 / 1e9;
        (self.units_at(to_ns) - self.units_at(from_ns)) / seconds
    }

    /// Units a second from a warm-up of `warm_ns` on, for as long as it submitted more. Both ends lie between two marks in
    /// proportion: a rate from mark to mark leaves out a pause that the last one is not followed by, and so finds that who
    /// works a part of the time only is faster than it is. `None` when there are no two marks after the warm-up.
    pub(crate) fn steady_rate(&self, warm_ns: u64) -> Option<f64> {
        let (from_ns, to_ns) = (self.from_ns + warm_ns, self.steady_end_ns());
        let warm_us = warm_ns as f64 / 1e3;
        let marks = self.marks.iter().filter(|mark| mark.0 >= warm_us && mark.1 > 0).count();
        let rate = (marks >= 2 && to_ns > from_ns).then(|| self.rate(from_ns, to_ns))?;
        (rate > 0.0).then_some(rate)
    }

    /// Units a second over all of the time: for work of so few units that no two marks follow a warm-up.
    pub(crate) fn units_rate(&self) -> f64 {
        let seconds = self.marks.last().map_or(0.0, |mark| mark.0) / 1e6;
        if seconds > 0.0 { self.units() as f64 / seconds } else { 0.0 }
    }

    /// Units a second in each whole window of `width_ns` between two times.
    pub(crate) fn windows(&self, from_ns: u64, to_ns: u64, width_ns: u64) -> Vec<f64> {
        let count = to_ns.saturating_sub(from_ns) / width_ns;
        (0..count).map(|n| self.rate(from_ns + n * width_ns, from_ns + (n + 1) * width_ns)).collect()
    }

    /// The coefficient of variation of the windows of `width_ns` after `warm_ns`. `None` for fewer than three.
    pub(crate) fn variation(&self, warm_ns: u64, width_ns: u64) -> Option<f64> {
        figures::variation(&self.windows(self.from_ns + warm_ns, self.steady_end_ns(), width_ns))
    }

    /// The longest time without a mark between two times, in milliseconds.
    pub(crate) fn longest_stall_ms(&self, from_ns: u64, to_ns: u64) -> f64 {
        let times = self.marks_ns().map(|mark| mark.0).filter(|at| (from_ns..=to_ns).contains(at));
        let all: Vec<u64> = std::iter::once(from_ns).chain(times).chain([to_ns]).collect();
        all.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn steady() -> Progress {
        let mut progress = Progress::from(5 * MS);
        for n in 1..=100 {
            progress.mark(5 * MS + n * MS, n * 10);
        }
        progress
    }

    #[test]
    fn between_marks_units_are_in_proportion() {
        let progress = steady();
        assert!((progress.units_at(5 * MS + MS / 2) - 5.0).abs() < 1e-6);
        assert!((progress.units_at(0) - 0.0).abs() < 1e-9);
        assert!((progress.units_at(900 * MS) - 1_000.0).abs() < 1e-9);
        assert!((progress.rate(15 * MS, 25 * MS) - 10_000.0).abs() < 1e-3);
    }

    #[test]
    fn a_steady_rate_is_that_after_the_warm_up() {
        assert!((steady().steady_rate(10 * MS).unwrap() - 10_000.0).abs() < 1e-3);
        assert_eq!(Progress::from(0).steady_rate(0), None);
    }

    /// A tenant that works the first quarter of each 20 ms: over all places in that where a measurement may begin
    /// and stop, the mean rate is a quarter of its speed.
    #[test]
    fn a_rate_has_its_part_of_the_pauses() {
        let rate = |[warm_ms, stop_ms]: [u64; 2]| {
            let mut progress = Progress::from(0);
            let worked = |ms: &u64| ms % 20 < 5;
            for (n, ms) in (0..stop_ms).filter(worked).enumerate() {
                progress.mark((ms + 1) * MS, 10 * (n as u64 + 1));
            }
            progress.stop(stop_ms * MS);
            // What the queue holds when it stops is done without a pause.
            let (end_ns, units) = (progress.end_ns().max(stop_ms * MS), progress.units());
            (1..=8).for_each(|n| progress.mark(end_ns + n * MS, units + 10 * n));
            progress.steady_rate(warm_ms * MS).unwrap()
        };
        let places = (400..420).flat_map(|warm_ms| (1_200..1_220).map(move |stop_ms| [warm_ms, stop_ms]));
        let mean = places.map(rate).sum::<f64>() / 400.0;
        assert!((mean / 2_500.0 - 1.0).abs() < 0.005, "{mean}");
    }

    #[test]
    fn steady_work_does_not_vary_and_a_pause_is_seen() {
        let mut progress = steady();
        assert!(progress.variation(0, 10 * MS).unwrap() < 1e-6);
        progress.mark(205 * MS, 1_001);
        assert!((progress.longest_stall_ms(5 * MS, 205 * MS) - 100.0).abs() < 1e-6);
        assert!(progress.variation(0, 10 * MS).unwrap() > 0.5);
    }
}
