//! How much of a tenant's work runs beside its own other work.
//!
//! Four streams whose kernels overlap occupy the GPU for the wall time, not for four times it. What a unit adds to the
//! occupied time is therefore its cost times the share of a batch that no other batch of the tenant had covered,
//! learned from each batch whose end was seen in time. Beside a neighbour too: its slices lie in the batch and in what it adds alike.

use crate::part;

/// All of a batch's own time. A power of two: each launch scales an estimate, and what is built for size divides by dividing.
const ALL: u64 = 1 << 20;
/// The least share: 64 streams that overlap completely.
const LEAST: u64 = ALL / 64;

/// The share of a batch's own time that it adds to the occupied time, in parts of 2^20, in a word of the process's own memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Concurrency(u64);

impl Concurrency {
    /// Nothing overlaps.
    pub const NONE: Self = Self(ALL);

    /// From a stored word; 0 and rubbish are no concurrency.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        if word < LEAST || word > ALL { Self::NONE } else { Self(word) }
    }

    /// To a word to store.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// What units that cost `cost_ns` alone are believed to add to the occupied time, ns: at least 1.
    #[must_use]
    pub const fn scale(self, cost_ns: u64) -> u64 {
        // Split, so that no product leaves 64 bits: 2^20 × 2^20 at most, and cost × share ≤ cost.
        let scaled = cost_ns / ALL * self.0 + cost_ns % ALL * self.0 / ALL;
        if scaled == 0 { 1 } else { scaled }
    }

    /// After a batch that lasted `bracket_ns` and added `covered_ns` to the union.
    #[must_use]
    pub fn learned(self, bracket_ns: u64, covered_ns: u64) -> Self {
        if bracket_ns == 0 {
            return self;
        }
        let share = part(ALL, covered_ns.min(bracket_ns), bracket_ns);
        // An eighth of the way: it settles within some twenty batches, a few milliseconds.
        Self(((self.0 * 7 + share) / 8).clamp(LEAST, ALL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn four_streams_that_overlap_are_charged_a_quarter_each() {
        let mut concurrency = Concurrency::NONE;
        for batch in 0..80 {
            concurrency = concurrency.learned(300_000, if batch % 4 == 0 { 300_000 } else { 0 });
        }
        let charged = concurrency.scale(1_000_000);
        assert!((150_000..350_000).contains(&charged), "{charged}");
    }

    #[test]
    fn a_stream_alone_is_charged_whole() {
        assert_eq!(Concurrency::NONE.learned(300_000, 340_000), Concurrency::NONE);
        assert_eq!(Concurrency::from_word(0), Concurrency::NONE);
        assert_eq!(Concurrency::from_word(u64::MAX), Concurrency::NONE);
    }

    proptest! {
        #[test]
        fn scaling_never_charges_more_than_the_cost_and_never_nothing(word: u64, bracket: u64, covered: u64, cost: u64) {
            let concurrency = Concurrency::from_word(word).learned(bracket, covered);
            let scaled = concurrency.scale(cost);
            prop_assert!(scaled >= 1 && scaled <= cost.max(1));
            prop_assert_eq!(Concurrency::from_word(concurrency.to_word()), concurrency);
        }
    }
}
