//! The lease: what one stream's open batch may still launch before anybody must look.
//!
//! A word in the process's own memory, one a stream, and one a GPU that says whether anything is counted at all. The
//! common launch is one load of that word and a branch: no clock, no event query, no line of shared memory. Under a
//! cap that binds, it is an estimate from the cost table and a compare-exchange on the stream's word; one launch in
//! a batch of about 0.3 ms looks at the clock and at the shared budget.
//!
//! A prototype that read the clock and queried an event at each launch cost 4 to 5 % on 5 µs kernels at a cap of
//! 100 % (measured on an H100).

use crate::admission::Cause;

/// Nothing binds and nobody is measuring: launch, count nothing.
pub const FREE: u64 = u64::MAX;

/// Nothing is left: look first. Also how a lease is taken back: exchange the word for this, and what was there has
/// not been spent and will not be.
pub const EMPTY: u64 = 0;

/// What a launch may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spend {
    /// Go; nothing is counted.
    Free,
    /// Go, once the word has been exchanged for this one; where that fails, load and ask again.
    Within {
        /// The new word.
        word: u64,
    },
    /// Look at the clock and the budget first.
    Look,
}

/// Spends an estimated cost of `cost_ns` from a lease. As with the budget, what is left is enough for one unit whatever
/// it costs; [`crate::batch::Batch::place`] keeps large units out of a batch that is nearly full, and closing the
/// batch books what it went over.
#[must_use]
pub const fn spend(word: u64, cost_ns: u64) -> Spend {
    if word == FREE {
        Spend::Free
    } else if word > EMPTY {
        Spend::Within { word: word.saturating_sub(cost_ns) }
    } else {
        Spend::Look
    }
}

/// For how many looks nothing is spared after a launch has had to wait, where it was so many the last time: 10 ms of work. Where the cap binds launches wait for
/// the budget again and again, each time when as much was spared again: up to a second. Who waits for room may have been believed to need it, as each launch beside
/// unmeasured units is; where the GPU is full the next waits, too, before anything is spared.
#[must_use]
pub fn strict_for(looks: u32, was_spared: bool, cause: Cause) -> u32 {
    let looks = if was_spared && matches!(cause, Cause::Budget) { 2 * looks } else { looks };
    looks.clamp(32, 4096)
}

/// How many times its usual size a batch may have, which occupies `usual_ns` then: where much of the budget and of the bound is left a batch more or
/// less decides nothing, and each costs its events and a look. It takes a sixteenth of the budget and three quarters of the room at most,
/// so batches have their usual size again before either ends.
#[must_use]
pub fn times(usual_ns: u64, left_ns: u64, room_ns: u64) -> u64 {
    let part_ns = (left_ns / 16).min(room_ns / 4 * 3);
    // 16: a bracket of several ms, where the process's streams overlap.
    (part_ns / usual_ns.max(1)).clamp(1, 16)
}

/// How much to book for a batch, GPU-ns: `target_ns`, less where the budget has less left, but always the unit that
/// is to be launched.
#[must_use]
pub const fn size(target_ns: u64, left_ns: u64, unit_ns: u64) -> u64 {
    let size = if left_ns < target_ns { left_ns } else { target_ns };
    // FREE is a promise, not an amount.
    let size = if size > unit_ns { size } else { unit_ns };
    if size < FREE { size } else { FREE - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_free_lease_counts_nothing() {
        assert_eq!(spend(FREE, u64::MAX), Spend::Free);
    }

    #[test]
    fn an_empty_lease_lets_nothing_through_uncounted() {
        assert_eq!(spend(EMPTY, 0), Spend::Look);
        assert_eq!(spend(5, 5), Spend::Within { word: EMPTY });
    }

    #[test]
    fn a_batch_is_large_only_while_much_of_the_budget_and_of_the_room_is_left() {
        const US: u64 = 1_000;
        assert_eq!(times(300 * US, 19_800 * US, 2_000 * US), 4);
        assert_eq!(times(300 * US, 19_800 * US, 500 * US), 1);
        assert_eq!(times(300 * US, 9_000 * US, 2_000 * US), 1);
        assert_eq!(times(5 * US, 19_800 * US, 2_000 * US), 16);
        assert_eq!(times(300 * US, 0, 0), 1);
    }

    #[test]
    fn who_waits_for_the_budget_again_and_again_spares_nothing_for_twice_as_long_each_time() {
        let after = |looks| strict_for(looks, true, Cause::Budget);
        assert_eq!([0, 32, 64, 2048, 4096].map(after), [32, 64, 128, 4096, 4096]);
        assert_eq!([strict_for(64, false, Cause::Budget), strict_for(64, true, Cause::Bound)], [64, 64]);
    }

    proptest! {
        #[test]
        fn a_lease_is_overspent_by_less_than_one_unit(lease in 0..FREE, costs: Vec<u64>) {
            let (mut word, mut spent, mut last) = (lease, 0u128, 0u64);
            for cost_ns in costs {
                if let Spend::Within { word: rest } = spend(word, cost_ns) {
                    (word, last) = (rest, cost_ns);
                    spent += u128::from(cost_ns);
                }
            }
            prop_assert!(spent <= u128::from(lease) + u128::from(last));
        }

        #[test]
        fn the_unit_itself_always_fits_its_lease(target: u64, left: u64, unit in 1..FREE) {
            let word = size(target, left, unit);
            prop_assert!(word != FREE && spend(word, unit) != Spend::Look);
        }
    }
}
