//! Occupied time: the union, over the streams of a tenant, of the intervals in which its work is on the GPU.
//!
//! Batches end in any order: a long one on one stream can end after ten short ones on another that lie inside it.
//! So the union remembers the gaps that are still open behind its front, and a late interval fills the part of them
//! that it covers. A gap of less than [`SHORT_GAP_NS`] counts as occupied, since no neighbour could use it. The
//! result does not depend on the order, as long as no more than [`GAPS`] are open at once. Beyond that the two gaps
//! with the least work between them become one: that work is counted again if a batch ends later that covers it.

/// A gap shorter than this, ns, counts as occupied: a switch to a neighbour and back costs three times as much
/// (0.15 ms, measured on an H100).
pub const SHORT_GAP_NS: u64 = 50_000;

/// How many gaps can be open behind the front.
pub const GAPS: usize = 32;

/// A stretch of the GPU's time, ns, from the start of a base event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interval {
    /// Its start.
    pub start_ns: u64,
    /// Its end; not after the start, and it is empty.
    pub end_ns: u64,
}

impl Interval {
    const fn length_ns(self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// The union so far. One a GPU and process; whoever reaps completed batches holds it.
#[derive(Clone, Debug)]
pub struct Union {
    front_ns: u64,
    // In order of time; the first `open` are gaps of at least `SHORT_GAP_NS`, and while one is added the time since the front.
    gaps: [Interval; GAPS + 1],
    open: usize,
}

impl Default for Union {
    fn default() -> Self {
        Self::new()
    }
}

impl Union {
    /// A union of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { front_ns: 0, gaps: [Interval { start_ns: 0, end_ns: 0 }; GAPS + 1], open: 0 }
    }

    /// Adds the interval of a batch. Returns what it adds to the occupied time, ns: short gaps that it closes
    /// included, what others have covered already left out.
    pub fn add(&mut self, batch: Interval) -> u64 {
        if batch.length_ns() == 0 {
            return 0;
        }
        // Moved by a gap, so that what lies before everything is itself a gap and never a short one.
        let batch = Interval {
            start_ns: batch.start_ns.saturating_add(SHORT_GAP_NS),
            end_ns: batch.end_ns.saturating_add(SHORT_GAP_NS),
        };
        // The time since the front is a gap like the others. Work that began earlier and ends later than the first batch to end is found in the
        // gap before that.
        let front_ns = self.front_ns;
        if batch.end_ns > front_ns {
            self.front_ns = batch.end_ns;
            self.open_gap(Interval { start_ns: front_ns, end_ns: batch.end_ns });
        }
        self.fill(batch)
    }

    /// Fills the gaps that the interval covers, wholly or in part.
    fn fill(&mut self, batch: Interval) -> u64 {
        let before = self.gaps;
        let mut added = 0;
        for gap in before.into_iter().take(core::mem::take(&mut self.open)) {
            let left = Interval { start_ns: gap.start_ns, end_ns: gap.end_ns.min(batch.start_ns) };
            let right = Interval { start_ns: gap.start_ns.max(batch.end_ns), end_ns: gap.end_ns };
            added += gap.length_ns() - self.keep(left) - self.keep(right);
        }
        added
    }

    /// Keeps what is left of a gap, unless it is short. Returns what is kept, ns.
    fn keep(&mut self, gap: Interval) -> u64 {
        if gap.length_ns() < SHORT_GAP_NS {
            return 0;
        }
        self.open_gap(gap);
        gap.length_ns()
    }

    /// Makes room for a gap.
    fn join_the_closest(&mut self) {
        let between = |at: &usize| match self.gaps.get(*at..at + 2) {
            Some([left, right]) => right.start_ns.saturating_sub(left.end_ns),
            _ => u64::MAX,
        };
        let Some(at) = (0..GAPS).min_by_key(between) else { return };
        let mut pair = self.gaps.get_mut(at..).unwrap_or_default();
        if let [left, right, ..] = pair {
            left.end_ns = right.end_ns;
        }
        // The second goes, and those after it move up.
        while let [_, gone, next, ..] = pair {
            *gone = *next;
            pair = pair.get_mut(1..).unwrap_or_default();
        }
        self.open -= 1;
    }

    fn open_gap(&mut self, gap: Interval) {
        if self.open > GAPS {
            self.join_the_closest();
        }
        if let Some(place) = self.gaps.get_mut(self.open) {
            *place = gap;
            self.open += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn union_of(intervals: &[(u64, u64)]) -> u64 {
        let mut union = Union::new();
        intervals.iter().map(|&(start_ns, end_ns)| union.add(Interval { start_ns, end_ns })).sum()
    }

    const US: u64 = 1_000;

    #[test]
    fn streams_that_overlap_are_charged_the_wall_time() {
        assert_eq!(union_of(&[(1, 101 * US), (1, 101 * US), (50 * US, 151 * US), (2, 3)]), 151 * US - 1);
    }

    #[test]
    fn a_short_gap_counts_and_a_long_one_does_not() {
        assert_eq!(union_of(&[(1_000, 2_000), (51_999, 52_999)]), 51_999);
        assert_eq!(union_of(&[(1_000, 2_000), (52_000, 53_000)]), 2_000);
    }

    #[test]
    fn a_long_batch_that_ends_after_short_ones_inside_it_counts_once_and_whole() {
        assert_eq!(union_of(&[(400 * US, 410 * US), (600 * US, 700 * US), (100 * US, 900 * US)]), 800 * US);
        assert_eq!(union_of(&[(100, 5 * US), (400 * US, 410 * US), (100, 900 * US)]), 900 * US - 100);
    }

    #[test]
    fn a_long_batch_counts_whole_however_many_short_ones_ended_before_it() {
        // 200 of 1 µs, 200 µs apart, of which 31 are still told apart when the long one ends.
        let mut intervals: Vec<_> = (1..=200).map(|n| (n * 200 * US, n * 200 * US + US)).collect();
        intervals.push((100 * US, 40_300 * US));
        let total = union_of(&intervals);
        assert!((40_200 * US..=40_400 * US).contains(&total), "{total}");
    }

    #[test]
    fn an_interval_that_ends_before_it_starts_is_nothing() {
        assert_eq!(union_of(&[(5, 5), (9, 2), (u64::MAX, 0)]), 0);
    }

    proptest! {
        #[test]
        fn the_union_does_not_depend_on_the_order(
            (intervals, shuffled) in prop::collection::vec((0..2_000_000u64, 1..300_000u64), 1..12)
                .prop_map(|pairs| pairs.iter().map(|&(s, l)| (s, s + l)).collect::<Vec<_>>())
                .prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
        ) {
            prop_assert_eq!(union_of(&intervals), union_of(&shuffled));
            let mut sorted = intervals.clone();
            sorted.sort_unstable();
            let (mut total, mut front) = (0, None);
            for (start, end) in sorted {
                let from = front.filter(|&f: &u64| start < f + SHORT_GAP_NS).unwrap_or(start);
                total += end.saturating_sub(from);
                front = front.max(Some(end));
            }
            prop_assert_eq!(union_of(&intervals), total);
        }

        #[test]
        fn no_interval_ever_counts_more_than_itself_and_the_short_gaps_beside_it(intervals: Vec<(u64, u64)>) {
            let mut union = Union::new();
            for &(start_ns, end_ns) in &intervals {
                let interval = Interval { start_ns, end_ns };
                let counted = u128::from(union.add(interval));
                // Each gap that it meets leaves at most two short ones.
                let short_gaps = u128::from(SHORT_GAP_NS) * 2 * (GAPS as u128 + 1);
                prop_assert!(counted <= u128::from(interval.length_ns()) + short_gaps);
            }
        }
    }
}
