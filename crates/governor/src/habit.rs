//! Who takes turns: a tenant that fills them. One that does not keep the GPU busy for nine tenths of two turns in a row shares the GPU with the turns of others for
//! a while, as the driver slices it; then it is tried again. The while is short at first, since a busy tenant may have been kept from its CPU, and two
//! seconds where two more turns were not filled again and again: each trial costs what sharing brings (H100: 10 %) for as long as those take.
//!
//! Sharing is no way to more: what it takes is charged all the same, and one whose horizon runs ahead of the others' by more than a cycle has to
//! ask for turns.

/// How long a tenant shares before it is tried again for the first time, ns; four times as long each time that it does not fill its turns then.
const SHARES_NS: u64 = 125_000_000;
/// How often the time is multiplied by four: to two seconds.
const TIMES: u64 = 2;

/// A turn that was kept busy for less than this, in tenths, was not filled.
const FILLED_TENTHS: u64 = 9;

/// What every turn loses, ns, so that it counts as busy: the switch of the GPU (0.14 ms on an H100), part of a batch at its end, and the hand-over.
/// Without it nobody would fill a turn of 5 ms.
const LOST_NS: u64 = 600_000;

/// A tenant's habit. 0: nothing is known, and it takes turns. Bit 0: its last turn was not filled. The next bits: how often it has shared in a row.
/// From bit 8 on: until when it shares, ns.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Habit(u64);

impl Habit {
    /// As it was kept.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// To be kept.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// After a turn of which the GPU was busy for `busy_ns`, and which the tenant had for `held_ns`; one that it gave up because it had nothing to
    /// launch counts with its whole length. A turn that others took says nothing: leave it out.
    #[must_use]
    pub const fn after_turn(self, now_ns: u64, busy_ns: u64, held_ns: u64) -> Self {
        let busy_ns = busy_ns.saturating_add(LOST_NS);
        let is_filled = busy_ns.saturating_mul(10) >= held_ns.saturating_mul(FILLED_TENTHS);
        let (was_filled, times) = (self.0 & 1 == 0, self.0 >> 1 & 0x7f);
        match (is_filled, was_filled) {
            (true, _) => Self(0),
            (false, true) => Self(times << 1 | 1),
            (false, false) => {
                let times = if times < TIMES { times } else { TIMES };
                Self((now_ns + (SHARES_NS << (2 * times))) & !0xff | (times + 1) << 1)
            }
        }
    }

    /// Whether it takes turns now. `horizon_ns`: its own; `entry_ns`: that of the tenant furthest behind; both as of now.
    #[must_use]
    pub const fn takes_turns(self, now_ns: u64, horizon_ns: u64, entry_ns: u64, cycle_ns: u64) -> bool {
        now_ns >= self.0 || horizon_ns > entry_ns.saturating_add(cycle_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const NOW: u64 = 77_000 * MS;

    #[test]
    fn two_turns_in_a_row_that_were_not_filled_are_a_habit_for_a_while() {
        let once = Habit::default().after_turn(NOW, 17 * MS, 20 * MS);
        assert!(once.takes_turns(NOW, 0, 0, MS));
        assert_eq!(once.after_turn(NOW, 18 * MS, 20 * MS), Habit::default());
        let twice = once.after_turn(NOW, 0, 20 * MS);
        assert!(!twice.takes_turns(NOW + 124 * MS, 0, 0, MS));
        assert!(twice.takes_turns(NOW + 126 * MS, 0, 0, MS));
        assert_eq!(Habit::from_word(twice.to_word()), twice);
    }

    #[test]
    fn the_while_grows_to_two_seconds_until_a_turn_is_filled() {
        let mut habit = Habit::default();
        for while_ms in [125, 500, 2_000, 2_000, 2_000] {
            habit = habit.after_turn(NOW, 0, 20 * MS).after_turn(NOW, 0, 20 * MS);
            assert!(!habit.takes_turns(NOW + (while_ms - 1) * MS, 0, 0, MS), "{while_ms}");
            assert!(habit.takes_turns(NOW + (while_ms + 1) * MS, 0, 0, MS), "{while_ms}");
        }
        assert_eq!(habit.after_turn(NOW, 20 * MS, 20 * MS), Habit::default());
    }

    #[test]
    fn a_short_turn_is_filled_by_what_can_be_had_of_it() {
        assert_eq!(Habit::default().after_turn(NOW, 4_200_000, 5 * MS), Habit::default());
    }

    #[test]
    fn one_that_takes_more_than_its_share_beside_the_turns_has_to_ask_for_them() {
        let sharing = Habit::default().after_turn(NOW, 0, 20 * MS).after_turn(NOW, 0, 20 * MS);
        assert!(!sharing.takes_turns(NOW, NOW + 40 * MS, NOW, 40 * MS));
        assert!(sharing.takes_turns(NOW, NOW + 41 * MS, NOW, 40 * MS));
    }
}
