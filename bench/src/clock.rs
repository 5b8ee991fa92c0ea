//! The clock of all measurements: CLOCK_MONOTONIC, one time for every process of the machine.
//!
//! Reading it costs tens of nanoseconds, as much as a cheap driver call, so the cost of one read is measured in each
//! worker and subtracted from each single call that is timed.

/// Nanoseconds of CLOCK_MONOTONIC. Comparable between processes of one machine and time namespace.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call writes; CLOCK_MONOTONIC exists on every Linux.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(status, 0, "CLOCK_MONOTONIC cannot be read");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A clock that knows what reading it costs.
pub struct Clock {
    cost_ns: u64,
}

impl Clock {
    /// Measures the cost of one read: the median of 2,000 pairs of reads.
    pub fn calibrate() -> Self {
        let mut costs: Vec<u64> = (0..2_000)
            .map(|_| {
                let before = now_ns();
                now_ns() - before
            })
            .collect();
        costs.sort_unstable();
        Self { cost_ns: costs[costs.len() / 2] }
    }

    /// What one read adds to a timed call, in nanoseconds.
    pub fn cost_ns(&self) -> u64 {
        self.cost_ns
    }

    /// The time between two reads less the cost of one, in nanoseconds; negative only within the clock's own noise.
    pub fn elapsed_ns(&self, before_ns: u64, after_ns: u64) -> f64 {
        (after_ns - before_ns) as f64 - self.cost_ns as f64
    }

    /// Times one call, in nanoseconds, and returns its result too.
    #[inline(always)]
    pub fn time<T>(&self, call: impl FnOnce() -> T) -> (f64, T) {
        let before = now_ns();
        let result = call();
        let after = now_ns();
        (self.elapsed_ns(before, after), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let first = now_ns();
        assert!(now_ns() >= first);
    }

    #[test]
    fn the_cost_of_reading_is_subtracted_once() {
        let clock = Clock { cost_ns: 25 };
        assert!((clock.elapsed_ns(100, 1_125) - 1_000.0).abs() < 1e-9);
    }
}
