//! What a unit of work costs: learned, bounded, and cheap to ask.
//!
//! A *unit* is what one call puts on the GPU: a kernel, a graph, a memset, a copy within the device, a chain of
//! kernels under programmatic dependent launch. Its key is its function (or graph) and its shape: grid, block,
//! shared memory, nodes. The same key does not always cost the same, since an argument may decide; so a cost follows
//! what is measured, and the budget is corrected when a batch ends, whatever had been believed.
//!
//! Costs are learned from *exclusive* batches: under the driver's time slices a pair of events includes the neighbour's slices
//! (measured on an H100: 91 % for a true 46 %). From such a pair only a bound is learned, which falls at once and rises slowly:
//! most batches are shorter than a slice, so the smallest of some is the cost.
//!
//! The table is the caller's slice of words, in sets of eight, one cache line each. A word is a whole entry, so threads
//! read and write it without a lock; two that learn at once lose one of two lessons.
//!
//! ```text
//! 63       44 43        40 39    36 35             0
//! +----------+------------+--------+----------------+
//! | tag      | confidence | age    | cost, ns       |      0: no entry
//! +----------+------------+--------+----------------+
//! ```

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is believed of a unit whose function was never measured, ns.
pub const PRIOR_NS: u64 = 10_000;

/// Entries in a set: words in a cache line. The table's length is rounded down to whole sets.
pub const WAYS: usize = 8;

const COST_BITS: u32 = 36;
/// The dearest unit that the table can hold, ns: 68 s.
const MAX_COST_NS: u64 = (1 << COST_BITS) - 1;
const AGE_SHIFT: u32 = COST_BITS;
const CONFIDENCE_SHIFT: u32 = AGE_SHIFT + 4;
const TAG_SHIFT: u32 = CONFIDENCE_SHIFT + 4;
const OLDEST: u64 = 15;

/// Confidence from which a lesson weighs an eighth: it follows a changed argument within some ten batches, and a
/// single odd one hardly moves it.
const STEADY: u64 = 3;

/// How slowly a bound rises that a neighbour's slice may have raised: by a 64th of the distance. What exceeds the cost by a quarter
/// at most is taken for the unit's own spread.
const RELUCTANT: u64 = 6;

/// What identifies a unit's cost. Both are hashes or addresses of the caller's choice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// The function, or the graph.
    pub function: u64,
    /// Grid, block, shared memory, cluster; the node count of a graph.
    pub shape: u64,
}

/// What a unit is believed to cost alone on the GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Estimate {
    /// This key was measured, ns.
    Learned(u64),
    /// Only other shapes of the function were measured: their mean, ns.
    OfFunction(u64),
    /// Nothing is known: [`PRIOR_NS`].
    Prior,
}

impl Estimate {
    /// The figure, ns: at least 1.
    #[must_use]
    pub const fn cost_ns(self) -> u64 {
        match self {
            Self::Learned(cost_ns) | Self::OfFunction(cost_ns) => cost_ns,
            Self::Prior => PRIOR_NS,
        }
    }

    /// Whether the unit itself was measured. If not, it gets a batch of its own.
    #[must_use]
    pub const fn is_learned(self) -> bool {
        matches!(self, Self::Learned(_))
    }
}

/// The costs that a process has learned on one GPU.
#[derive(Clone, Copy, Debug)]
pub struct Costs<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Costs<'a> {
    /// A table in `words`, zeroed at first. With fewer than [`WAYS`] words nothing is ever learned.
    #[must_use]
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    /// What is believed of a unit. Reads one cache line, two where the unit is unknown; writes nothing.
    #[must_use]
    pub fn estimate(&self, key: Key) -> Estimate {
        if let Some(cost_ns) = self.find(hash_of_unit(key)) {
            return Estimate::Learned(cost_ns);
        }
        self.find(hash_of_function(key)).map_or(Estimate::Prior, Estimate::OfFunction)
    }

    /// Learns from an exclusive batch that one unit of this key took `cost_ns`.
    pub fn learn(&self, key: Key, cost_ns: u64) {
        self.take(key, cost_ns, &FOLLOWED);
    }

    /// Learns from a batch beside a neighbour that one unit of this key took `bound_ns` at most.
    pub fn learn_bound(&self, key: Key, bound_ns: u64) {
        self.take(key, bound_ns, &BOUNDED);
    }

    /// Learns from a batch beside which launches of its own process were held back that one unit of this key took `cost_ns`, if it
    /// did not wait for them: by a thirtieth a time.
    pub fn learn_held(&self, key: Key, cost_ns: u64) {
        self.take(key, cost_ns, &HELD);
    }

    /// Takes a lesson: one unit of this key took `cost_ns`.
    pub(crate) fn take(&self, key: Key, cost_ns: u64, lesson: &Lesson) {
        for hash in [hash_of_unit(key), hash_of_function(key)] {
            self.teach(hash, cost_ns, lesson);
        }
    }

    /// Forgets everything: another GPU, another clock rate.
    pub fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Relaxed));
    }

    fn set(&self, hash: u64) -> &'a [AtomicU64] {
        let sets = self.words.len() / WAYS;
        // A usize of 64 bits on every machine with CUDA; elsewhere the low bits serve as well.
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let start = (hash as usize).checked_rem(sets).unwrap_or(0) * WAYS;
        self.words.get(start..start + WAYS).unwrap_or_default()
    }

    fn find(&self, hash: u64) -> Option<u64> {
        let entry = self.set(hash).iter().map(|word| word.load(Relaxed));
        entry.into_iter().find(|&word| word != 0 && tag(word) == tag_of(hash)).map(cost_of)
    }

    fn teach(&self, hash: u64, cost_ns: u64, next: &Lesson) {
        let cost_ns = cost_ns.clamp(1, MAX_COST_NS);
        let set = self.set(hash);
        let known =
            set.iter().find(|word| matches!(word.load(Relaxed), w if w != 0 && tag(w) == tag_of(hash)));
        if let Some(place) = known {
            let word = place.load(Relaxed);
            let confidence = confidence_of(word);
            let cost_ns = (next.moves)(cost_of(word), cost_ns, confidence.min(STEADY));
            place.store(entry(hash, (confidence + 1).min(STEADY), cost_ns), Relaxed);
        } else {
            self.replace(set, entry(hash, next.first, cost_ns));
        }
    }

    /// Puts a new entry in a free place, else in that of the entry taught least recently; the others grow older.
    fn replace(&self, set: &[AtomicU64], entry: u64) {
        let staleness = |word: u64| if word == 0 { OLDEST + 1 } else { age_of(word) };
        let Some(place) = set.iter().max_by_key(|word| staleness(word.load(Relaxed))) else { return };
        place.store(entry, Relaxed);
        for other in set.iter().filter(|other| !core::ptr::eq(*other, place)) {
            let word = other.load(Relaxed);
            if word != 0 && age_of(word) < OLDEST {
                other.store(word + (1 << AGE_SHIFT), Relaxed);
            }
        }
    }
}

/// How a measurement changes a cost.
pub(crate) struct Lesson {
    /// From what is known and what was measured, ns, by how well it is known.
    moves: fn(u64, u64, u64) -> u64,
    /// The confidence in the first: with 0 the next takes its place.
    first: u64,
}

pub(crate) const FOLLOWED: Lesson = Lesson { moves: followed, first: 1 };
pub(crate) const BOUNDED: Lesson = Lesson { moves: bounded, first: 1 };
pub(crate) const HELD: Lesson = Lesson { moves: held, first: 0 };

/// A cost after it was measured while it may have waited: by a quarter of the way at most up or down, so that it tends to the middle of
/// what is measured, whatever the longest wait.
const fn held(known_ns: u64, cost_ns: u64, confidence: u64) -> u64 {
    let step_ns = known_ns / 4 + 1;
    let (least_ns, most_ns) = (known_ns.saturating_sub(step_ns), known_ns.saturating_add(step_ns));
    let near_ns = if confidence == 0 {
        cost_ns
    } else if cost_ns < least_ns {
        least_ns
    } else if cost_ns > most_ns {
        most_ns
    } else {
        cost_ns
    };
    followed(known_ns, near_ns, confidence)
}

/// A cost after it was measured alone.
const fn followed(known_ns: u64, cost_ns: u64, confidence: u64) -> u64 {
    moved(known_ns, cost_ns, confidence)
}

/// A cost after it was bounded.
const fn bounded(known_ns: u64, bound_ns: u64, confidence: u64) -> u64 {
    if bound_ns <= known_ns {
        bound_ns
    } else if bound_ns - known_ns <= known_ns / 4 {
        moved(known_ns, bound_ns, confidence)
    } else {
        moved(known_ns, bound_ns, RELUCTANT)
    }
}

/// Moves `from` towards `to` by 1 / 2^`shift` of the distance.
const fn moved(from: u64, to: u64, shift: u64) -> u64 {
    if to >= from { from + ((to - from) >> shift) } else { from - ((from - to) >> shift) }
}

const fn entry(hash: u64, confidence: u64, cost_ns: u64) -> u64 {
    tag_of(hash) << TAG_SHIFT | confidence << CONFIDENCE_SHIFT | cost_ns
}

const fn tag(word: u64) -> u64 {
    word >> TAG_SHIFT
}

/// The top bits: the low ones choose the set.
const fn tag_of(hash: u64) -> u64 {
    hash >> TAG_SHIFT
}

const fn confidence_of(word: u64) -> u64 {
    word >> CONFIDENCE_SHIFT & 15
}

const fn age_of(word: u64) -> u64 {
    word >> AGE_SHIFT & 15
}

const fn cost_of(word: u64) -> u64 {
    // A word of rubbish may say 0, which would be free.
    let cost_ns = word & MAX_COST_NS;
    if cost_ns == 0 { 1 } else { cost_ns }
}

const fn hash_of_unit(key: Key) -> u64 {
    mixed(mixed(key.function).wrapping_add(key.shape).wrapping_add(1))
}

const fn hash_of_function(key: Key) -> u64 {
    mixed(!key.function)
}

/// Spreads the bits of a word: an odd factor (2^64 ÷ the golden ratio), and the top half folded down.
const fn mixed(word: u64) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = word.wrapping_mul(FACTOR);
    (word ^ word >> 32).wrapping_mul(FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words<const N: usize>() -> [AtomicU64; N] {
        [const { AtomicU64::new(0) }; N]
    }

    const KEY: Key = Key { function: 0x7f00_1000, shape: 528 };

    #[test]
    fn a_unit_that_was_never_measured_costs_the_prior_and_then_its_functions_mean() {
        let words = words::<64>();
        let costs = Costs::new(&words);
        assert_eq!(costs.estimate(KEY), Estimate::Prior);
        costs.learn(KEY, 123_456);
        assert_eq!(costs.estimate(KEY), Estimate::Learned(123_456));
        assert_eq!(costs.estimate(Key { shape: 1, ..KEY }), Estimate::OfFunction(123_456));
        assert_eq!(costs.estimate(Key { function: 1, ..KEY }), Estimate::Prior);
    }

    #[test]
    fn a_cost_follows_an_argument_that_changes_it() {
        let words = words::<64>();
        let costs = Costs::new(&words);
        for _ in 0..50 {
            costs.learn(KEY, 10_000);
        }
        for _ in 0..40 {
            costs.learn(KEY, 1_000_000);
        }
        assert!(costs.estimate(KEY).cost_ns() > 950_000, "{:?}", costs.estimate(KEY));
    }

    #[test]
    fn what_is_launched_again_and_again_survives_ten_thousand_that_are_launched_once() {
        let words = words::<256>();
        let costs = Costs::new(&words);
        let mut forgotten = 0;
        for once in 0..10_000 {
            forgotten += u32::from(!costs.estimate(KEY).is_learned());
            costs.learn(KEY, 5_000);
            costs.learn(Key { function: 9, shape: once }, 7_000);
        }
        assert!(forgotten <= 1, "forgotten {forgotten} times");
    }

    #[test]
    fn a_table_without_room_learns_nothing_and_does_no_harm() {
        let words = words::<7>();
        let costs = Costs::new(&words);
        costs.learn(KEY, 5);
        assert_eq!(costs.estimate(KEY), Estimate::Prior);
    }

    #[test]
    fn what_was_learned_is_forgotten_on_request() {
        let words = words::<8>();
        let costs = Costs::new(&words);
        costs.learn(KEY, 5);
        costs.clear();
        assert_eq!(costs.estimate(KEY), Estimate::Prior);
    }

    proptest! {
        #[test]
        fn rubbish_in_the_table_is_a_wrong_cost_and_nothing_worse(seed: [u64; 8], function: u64, shape: u64, cost: u64) {
            let words = seed.map(AtomicU64::new);
            let costs = Costs::new(&words);
            let key = Key { function, shape };
            prop_assert!((1..=MAX_COST_NS.max(PRIOR_NS)).contains(&costs.estimate(key).cost_ns()));
            costs.learn(key, cost);
            prop_assert!(costs.estimate(key).is_learned());
        }
    }
}
