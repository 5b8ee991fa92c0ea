//! What a process is charged at least for time that it shared with others.
//!
//! Beside others a pair of events includes their slices, so a batch is charged what its units were learned to take
//! ([`crate::batch::Batch::settle`]). Where an argument decides what they take, what was learned may be next to nothing. So a process
//! that is not alone keeps *arrears*: of the time that its batches covered, what must have been its own, less what was charged. Beyond two
//! slices they are paid.
//!
//! The driver goes round among the processes that have work. What the tenant's other processes had, they say: what they were charged. Of the
//! rest, but for the switches, beside `n` strangers at least one part in `n + 1` was ours: no process has more turns than another.

/// Arrears, and credit, that are let stand, ns: two of the driver's slices with their switches (2.24 ms each, measured on an H100). A bracket
/// begins and ends anywhere in the round.
pub const SLACK_NS: i64 = 4_500_000;

/// Longest time that is reckoned with, ns: 13 days. Sums of some of them fit.
const MOST_NS: u64 = 1 << 50;

/// Who else was on the GPU while a batch was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbours {
    /// Processes with a context that are not the tenant's. Those that are idle are not told apart.
    pub strangers: u32,
    /// What the tenant's other processes were charged meanwhile, GPU-ns.
    pub companions_ns: u64,
}

/// What a process has had beside others and was not charged, ns; negative: credit. Starts at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrears(i64);

impl Arrears {
    /// From the word that the caller keeps. Rubbish in it is worth two slices.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word.cast_signed())
    }

    /// The word to keep.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0.cast_unsigned()
    }

    /// Takes a settled batch in that covered so much, ns, and was charged so much, GPU-ns. Returns what the process is to pay beyond
    /// that, GPU-ns.
    #[must_use]
    pub const fn settle(self, covered_ns: u64, charge_ns: u64, beside: Neighbours) -> (Self, u64) {
        let (covered_ns, companions_ns) = (signed(covered_ns), signed(beside.companions_ns));
        let own_ns = match beside.strangers {
            // A companion's slice may cost as much again for the switch to it and back.
            0 => covered_ns - companions_ns * 2,
            // A round of slices of 2.09 ms and switches of 0.15 is 93 % work (H100); an eighth for the switches, whatever the card.
            strangers => (covered_ns / 8 * 7 - companions_ns) / (strangers as i64 + 1),
        };
        let before_ns = within(self.0, SLACK_NS);
        let after_ns = before_ns + own_ns - signed(charge_ns);
        let pays_ns = if after_ns > SLACK_NS { (after_ns - SLACK_NS).cast_unsigned() } else { 0 };
        (Self(within(after_ns, SLACK_NS)), pays_ns)
    }
}

const fn signed(ns: u64) -> i64 {
    (if ns > MOST_NS { MOST_NS } else { ns }).cast_signed()
}

const fn within(ns: i64, most_ns: i64) -> i64 {
    if ns > most_ns {
        most_ns
    } else if ns < -most_ns {
        -most_ns
    } else {
        ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const STRANGER: Neighbours = Neighbours { strangers: 1, companions_ns: 0 };

    #[test]
    fn beside_companions_that_were_idle_all_time_is_paid_but_two_slices() {
        let idle = Neighbours { strangers: 0, companions_ns: 0 };
        let (arrears, pays_ns) = Arrears::default().settle(100 * MS, 1_000, idle);
        assert_eq!(pays_ns, 95_499_000);
        let (_, pays_ns) = arrears.settle(50 * MS, 1_000, idle);
        assert_eq!(pays_ns, 49_999_000);
    }

    #[test]
    fn what_companions_were_charged_is_not_charged_again() {
        let busy = Neighbours { strangers: 0, companions_ns: 48 * MS };
        let (_, pays_ns) = Arrears::default().settle(100 * MS, 48 * MS, busy);
        assert_eq!(pays_ns, 0);
    }

    #[test]
    fn beside_a_stranger_whoever_is_charged_its_turns_pays_no_more() {
        let mut arrears = Arrears::default();
        for _ in 0..1_000 {
            let (next, pays_ns) = arrears.settle(4_480_000, 2_090_000, STRANGER);
            assert_eq!(pays_ns, 0);
            arrears = next;
        }
    }

    /// Each of three that cover all the time and hide what they take, beside one stranger.
    #[test]
    fn companions_and_a_stranger_leave_no_more_unpaid_than_the_strangers_part_of_the_rounds() {
        let (mut arrears, mut paid_ns) = ([Arrears::default(); 3], [0; 3]);
        for _ in 0..1_000 {
            for process in 0..3 {
                let others_ns = paid_ns.iter().sum::<u64>() - paid_ns[process];
                let beside = Neighbours { strangers: 1, companions_ns: others_ns };
                let (next, pays_ns) = arrears[process].settle(10 * MS, 1_000, beside);
                (arrears[process], paid_ns[process]) = (next, 1_000 + pays_ns);
            }
        }
        // Of four turns one was the stranger's at most, and an eighth the switches'.
        let round_ns = paid_ns.iter().sum::<u64>();
        assert!(round_ns >= 10 * MS * 7 / 8 * 3 / 4 - MS / 10, "{round_ns}");
    }

    proptest! {
        #[test]
        fn over_any_time_it_pays_what_must_have_been_its_own_but_two_slices_each_way(
            word: u64, strangers in 0..9u32, batches in prop::collection::vec((0..100 * MS, 0..100u64), 1..100),
        ) {
            let (mut arrears, mut due_ns, mut paid_ns) = (Arrears::from_word(word), 0, 0);
            for (covered_ns, percent) in batches {
                let charge_ns = covered_ns * percent / 100;
                let (next, pays_ns) =
                    arrears.settle(covered_ns, charge_ns, Neighbours { strangers, companions_ns: 0 });
                due_ns += if strangers == 0 { covered_ns } else { covered_ns / 8 * 7 / (u64::from(strangers) + 1) };
                paid_ns += charge_ns + pays_ns;
                arrears = next;
            }
            prop_assert!(paid_ns + 2 * SLACK_NS.cast_unsigned() >= due_ns, "{paid_ns} of {due_ns}");
        }

        #[test]
        fn no_figures_make_it_overflow(
            word: u64, covered_ns: u64, charge_ns: u64, strangers: u32, companions_ns: u64,
        ) {
            let beside = Neighbours { strangers, companions_ns };
            let (arrears, pays_ns) = Arrears::from_word(word).settle(covered_ns, charge_ns, beside);
            prop_assert!(pays_ns <= MOST_NS);
            prop_assert_eq!(Arrears::from_word(arrears.to_word()), arrears);
        }
    }
}
