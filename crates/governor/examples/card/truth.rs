//! What the records say: occupied time, and how the same kernel's time varies.

use std::collections::HashMap;

use cuota_governor::occupancy::SHORT_GAP_NS;

use crate::cupti::Record;

/// Occupied time, ns.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Occupied {
    /// The union of the records' intervals.
    pub(crate) union_ns: u64,
    /// And the gaps under 50 µs.
    pub(crate) with_short_gaps_ns: u64,
}

/// Of records in any order.
pub(crate) fn occupied<'a>(records: impl Iterator<Item = &'a Record>) -> Occupied {
    let mut intervals: Vec<(u64, u64)> = records.map(|r| (r.start_ns, r.end_ns)).collect();
    intervals.sort_unstable();
    let (mut occupied, mut front_ns) = (Occupied::default(), None);
    for (start_ns, end_ns) in intervals {
        let gap_ns = front_ns.map_or(u64::MAX, |front| start_ns.saturating_sub(front));
        let new_ns = end_ns.saturating_sub(front_ns.map_or(start_ns, |front: u64| front.max(start_ns)));
        occupied.union_ns += new_ns;
        occupied.with_short_gaps_ns += new_ns + if gap_ns < SHORT_GAP_NS { gap_ns } else { 0 };
        front_ns = Some(front_ns.unwrap_or(0).max(end_ns));
    }
    occupied
}

/// Durations of one kernel at one grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) median_ns: u64,
    pub(crate) p5_ns: u64,
    pub(crate) p95_ns: u64,
    /// Standard deviation over mean.
    pub(crate) variation: f64,
}

/// Of the kernels that took the most time, each with its grid.
pub(crate) fn spreads(records: &[Record]) -> Vec<Spread> {
    let mut by_key: HashMap<u64, Vec<u64>> = HashMap::new();
    for record in records.iter().filter(|record| !record.host_copy) {
        by_key.entry(record.key).or_default().push(record.end_ns.saturating_sub(record.start_ns));
    }
    let mut all: Vec<Vec<u64>> = by_key.into_values().collect();
    all.sort_unstable_by_key(|durations| std::cmp::Reverse(durations.iter().sum::<u64>()));
    all.truncate(4);
    all.into_iter().map(spread).collect()
}

#[expect(clippy::cast_precision_loss, reason = "seconds at most")]
fn spread(mut durations: Vec<u64>) -> Spread {
    durations.sort_unstable();
    let at = |part: usize| durations[(durations.len() - 1) * part / 100];
    let values: Vec<f64> = durations.iter().map(|ns| *ns as f64).collect();
    Spread {
        count: durations.len(),
        median_ns: at(50),
        p5_ns: at(5),
        p95_ns: at(95),
        variation: crate::progress::variation(&values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start_ns: u64, end_ns: u64) -> Record {
        Record { start_ns, end_ns, host_copy: false, key: 0 }
    }

    #[test]
    fn overlaps_count_once_and_short_gaps_count_apart() {
        let records =
            [record(200_000, 210_000), record(0, 100_000), record(50_000, 120_000), record(130_000, 140_000)];
        let occupied = occupied(records.iter());
        assert_eq!((occupied.union_ns, occupied.with_short_gaps_ns), (140_000, 150_000));
    }
}
