//! A turn as one word, so that one instruction hands it over: whose it is, since when, and for how long.
//!
//! A turn is *offered* by whoever ends the one before, and *held* once its tenant has accepted it, so that one that has died costs seven milliseconds and
//! not a turn. A held one ends when its holder hands it over, or two milliseconds after its time, by whoever waits. A holder whose work runs on beyond that
//! says that it *drains*: then the others wait 25 ms for it, which they would lose to it anyway.

use crate::arbiter::TENANTS;

const MS: u64 = 1_000_000;

/// How long after its beginning a tenant may accept its turn, ns: [`NEAR_NS`] of it may have passed when it is offered. On an H100's host, a virtual machine,
/// threads are late by 2 to 5 ms now and then.
pub const ACCEPT_NS: u64 = 7 * MS;

/// A tenant that has launched nothing for so long, ns, and has nothing on the GPU, gives its turn up.
pub const QUIET_NS: u64 = MS / 10;

/// One of high priority keeps it so long, ns: the pause between two steps of a burst is none. H100: a program that waits for each launches the next some 10 µs
/// after its end; what it keeps longer is missing to its neighbour after each burst.
pub const LINGER_NS: u64 = 3 * MS / 50;

/// For so long, ns, where it has come back within that time after its last turn: a program's pauses are mostly alike.
pub const LONG_LINGER_NS: u64 = MS;

/// How long a turn may overrun before others end it, ns: what is in flight, and one late thread.
pub const GRACE_NS: u64 = 2 * MS;

/// How long, if its holder has said that it drains, ns: a long kernel.
pub const DRAIN_NS: u64 = 25 * MS;

/// A turn that passes so soon after the end of the one before begins there, ns: [`GRACE_NS`], and who ends it then. One that was held until then lasted until
/// its end: the thread was late, and the GPU had nothing.
pub(crate) const NEAR_NS: u64 = 3 * MS;

/// One that is accepted so much later than it began begins when it is accepted, ns: what its tenant's thread is late by is missing to all, as cycles keep
/// step with the clock, and not to that tenant's second. Who hands over so much before the end does so for the gap: the next begins at the end.
const LATE_NS: u64 = 3 * MS / 10;

/// How far ahead of now a turn may begin, ns, for a clock that differs a little.
const EARLY_NS: u64 = 5 * MS;

/// The steps of a turn's beginning and length.
const BEGIN_SHIFT: u32 = 13;
const LENGTH_SHIFT: u32 = 16;
const LENGTH_BITS: u32 = 10;
const LENGTH_MASK: u64 = (1 << LENGTH_BITS) - 1;

/// Fields of the word above the beginning: length, holder plus one, stage, and a number.
const LENGTH_AT: u32 = 32;
const HOLDER_AT: u32 = LENGTH_AT + LENGTH_BITS;
const STAGE_AT: u32 = HOLDER_AT + 7;
const NUMBER_AT: u32 = STAGE_AT + 2;

/// How far a turn has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Its tenant has not accepted it.
    Offered,
    /// Its tenant launches.
    Held,
    /// Its tenant launches no more; what it launched runs on.
    Drains,
}

/// A turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Whose; `None`: nobody's.
    pub holder: Option<usize>,
    /// How far it has come.
    pub stage: Stage,
    /// When it began, ns, in steps of 8 µs.
    pub begin_ns: u64,
    /// How long it is, ns, in steps of 66 µs.
    pub length_ns: u64,
    /// Which turn it is; goes round.
    number: u64,
}

/// A word that no honest tenant has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rubbish;

impl Turn {
    /// Nobody's, as in an untouched file.
    pub const NOBODYS: Self = Self::nobodys(0);

    /// What a word says, now. The word of an untouched file, 0, is nobody's.
    ///
    /// # Errors
    /// [`Rubbish`]: a tenant that cannot be, or a turn that is to begin later than a clock can differ.
    pub fn from_word(word: u64, now_ns: u64) -> Result<Self, Rubbish> {
        let number = word >> NUMBER_AT;
        let holder = match usize::try_from(word >> HOLDER_AT & 0x7f) {
            Ok(0) => return Ok(Self::nobodys(number)),
            Ok(holder @ 1..=TENANTS) => holder - 1,
            _ => return Err(Rubbish),
        };
        // The beginning is kept modulo nine hours: it is the nearest to now.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "modulo 2^32 by intent"
        )]
        let ahead = (word as u32).wrapping_sub((now_ns >> BEGIN_SHIFT) as u32) as i32;
        if i64::from(ahead) << BEGIN_SHIFT > EARLY_NS.cast_signed() {
            return Err(Rubbish);
        }
        let begin_ns = (now_ns >> BEGIN_SHIFT).saturating_add_signed(ahead.into()) << BEGIN_SHIFT;
        let length_ns = (word >> LENGTH_AT & LENGTH_MASK) << LENGTH_SHIFT;
        let stage = match word >> STAGE_AT & 3 {
            0 => Stage::Offered,
            1 => Stage::Held,
            2 => Stage::Drains,
            _ => return Err(Rubbish),
        };
        Ok(Self { holder: Some(holder), stage, begin_ns, length_ns, number })
    }

    const fn nobodys(number: u64) -> Self {
        Self { holder: None, stage: Stage::Offered, begin_ns: 0, length_ns: 0, number }
    }

    /// As it stands in shared memory.
    #[must_use]
    pub fn to_word(self) -> u64 {
        let holder = self.holder.map_or(0, |holder| holder as u64 + 1);
        self.number << NUMBER_AT
            | (self.stage as u64) << STAGE_AT
            | holder << HOLDER_AT
            | (self.length_ns >> LENGTH_SHIFT & LENGTH_MASK) << LENGTH_AT
            | self.begin_ns >> BEGIN_SHIFT & u64::from(u32::MAX)
    }

    /// When it is over by the clock, ns.
    #[must_use]
    pub const fn until_ns(&self) -> u64 {
        self.begin_ns + self.length_ns
    }

    /// When others may end it, ns; 0: it is nobody's.
    #[must_use]
    pub const fn free_ns(&self) -> u64 {
        match (self.holder, self.stage) {
            (None, _) => 0,
            (Some(_), Stage::Offered) => self.begin_ns + ACCEPT_NS,
            (Some(_), Stage::Held) => self.until_ns() + GRACE_NS,
            (Some(_), Stage::Drains) => self.until_ns() + DRAIN_NS,
        }
    }

    /// Whether `me` may launch now.
    #[must_use]
    pub fn is_of(&self, me: usize) -> bool {
        self.holder == Some(me) && matches!(self.stage, Stage::Held)
    }

    /// When the turn after this one begins, ns, that is given now.
    #[must_use]
    pub(crate) fn next_begin_ns(&self, now_ns: u64) -> u64 {
        let until_ns = self.until_ns();
        let is_near = self.holder.is_some() && until_ns <= now_ns + LATE_NS && now_ns <= until_ns + NEAR_NS;
        if is_near { until_ns } else { now_ns }
    }

    /// The turn after this one, now: of a tenant and so long, ns. `by`: the tenant that changes the word, which need not accept its own.
    #[must_use]
    pub fn next(self, now_ns: u64, of: Option<(usize, u64)>, by: usize) -> Self {
        let number = (self.number + 1) & (u64::MAX >> NUMBER_AT);
        let Some((holder, length_ns)) = of else {
            return Self::nobodys(number);
        };
        let begin_ns = self.next_begin_ns(now_ns);
        let turn = Self { holder: Some(holder), stage: Stage::Offered, begin_ns, length_ns, number };
        // Who had to end the turn of another that was late pays for none of that.
        if holder == by { turn.accepted(now_ns) } else { turn }
    }

    /// The same turn, accepted now.
    #[must_use]
    pub fn accepted(self, now_ns: u64) -> Self {
        let is_late = now_ns > self.begin_ns + LATE_NS;
        Self { stage: Stage::Held, begin_ns: if is_late { now_ns } else { self.begin_ns }, ..self }
    }

    /// The same turn, in which nothing more is launched.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { stage: Stage::Drains, ..self }
    }
}

/// What a holder does between two batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inside {
    /// Launch.
    Launch,
    /// No more: let what is in flight drain, and hand over.
    Close,
}

/// Whether a batch of `batch_ns` may follow what is in flight, estimated ns, in a turn that ends at `until_ns`. The first of a turn may, however
/// long it is.
#[must_use]
pub fn inside(now_ns: u64, in_flight_ns: u64, batch_ns: u64, until_ns: u64, is_first: bool) -> Inside {
    let ends_ns = now_ns.saturating_add(in_flight_ns).saturating_add(batch_ns);
    if ends_ns <= until_ns || is_first && now_ns < until_ns { Inside::Launch } else { Inside::Close }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_NS: u64 = 3_600_000 * MS;

    #[test]
    fn an_untouched_word_is_nobodys_turn() {
        let turn = Turn::from_word(0, HOUR_NS).unwrap();
        assert_eq!((turn.holder, turn.free_ns()), (None, 0));
    }

    #[test]
    fn an_offer_that_nobody_accepts_is_free_sooner_than_a_held_turn() {
        let none = Turn::from_word(0, HOUR_NS).unwrap();
        let offer = none.next(HOUR_NS, Some((3, 20 * MS)), 1);
        assert!(!offer.is_of(3));
        assert!(offer.free_ns() <= HOUR_NS + ACCEPT_NS);
        assert!(offer.accepted(HOUR_NS).is_of(3));
        assert!(offer.accepted(HOUR_NS).free_ns() >= HOUR_NS + 20 * MS);
    }

    #[test]
    fn a_turn_handed_over_about_its_end_leaves_no_gap_in_the_cycle() {
        let first = Turn::from_word(0, HOUR_NS).unwrap().next(HOUR_NS, Some((1, 20 * MS)), 1);
        let begin_ns = |now_ns| first.next(now_ns, Some((2, 20 * MS)), 1).begin_ns;
        let near_ns = [first.until_ns() - LATE_NS, first.until_ns() + NEAR_NS];
        assert_eq!(near_ns.map(begin_ns), [first.until_ns(); 2]);
        let far_ns = [near_ns[0] - 1, near_ns[1] + 1];
        assert_eq!(far_ns.map(begin_ns), far_ns);
        let early_ns = first.begin_ns + 5 * MS;
        assert_eq!(first.next(early_ns, Some((2, 20 * MS)), 1).begin_ns, early_ns);
        let soon_ns = first.until_ns() - 2 * MS;
        assert_eq!(first.next(soon_ns, Some((2, 20 * MS)), 1).begin_ns, soon_ns);
    }

    #[test]
    fn who_ends_the_turn_of_a_late_one_has_the_whole_of_its_own() {
        let first = Turn::from_word(0, HOUR_NS).unwrap().next(HOUR_NS, Some((1, 20 * MS)), 1);
        let now_ns = first.free_ns() + MS / 16;
        let own = first.next(now_ns, Some((2, 20 * MS)), 2);
        assert!(own.is_of(2));
        assert_eq!((own.begin_ns, own.until_ns()), (now_ns, now_ns + 20 * MS));
    }

    #[test]
    fn a_turn_that_is_accepted_late_is_as_long_as_it_was_to_be() {
        let offer = Turn::from_word(0, HOUR_NS).unwrap().next(HOUR_NS, Some((1, 20 * MS)), 0);
        assert_eq!(offer.accepted(HOUR_NS + LATE_NS / 2).until_ns(), offer.until_ns());
        assert_eq!(offer.accepted(HOUR_NS + 3 * MS).until_ns(), HOUR_NS + 23 * MS);
    }

    #[test]
    fn a_batch_that_would_end_behind_the_turn_is_not_begun_unless_it_is_the_first() {
        assert_eq!(inside(0, MS, MS, 2 * MS, false), Inside::Launch);
        assert_eq!(inside(0, MS, MS + 1, 2 * MS, false), Inside::Close);
        assert_eq!(inside(0, 0, HOUR_NS, 2 * MS, true), Inside::Launch);
        assert_eq!(inside(2 * MS, 0, 1, 2 * MS, true), Inside::Close);
    }

    proptest! {
        #[test]
        fn a_word_gives_back_its_turn_for_hours(
            holder in 0..TENANTS, length_ms in 1..64_u64, now in HOUR_NS..1_000 * HOUR_NS, later in 0..4 * HOUR_NS,
        ) {
            let before = Turn::from_word(0, now).unwrap();
            let turn = before.next(now, Some((holder, length_ms * MS)), holder);
            let read = Turn::from_word(turn.to_word(), now + later).unwrap();
            prop_assert_eq!(read.holder, Some(holder));
            prop_assert!(read.is_of(holder));
            prop_assert!(read.begin_ns.abs_diff(now) < 1 << BEGIN_SHIFT);
            prop_assert!(read.length_ns.abs_diff(length_ms * MS) < 1 << LENGTH_SHIFT);
        }

        #[test]
        fn no_word_keeps_others_out_for_longer_than_a_turn(word: u64, now in HOUR_NS..1_000 * HOUR_NS) {
            if let Ok(turn) = Turn::from_word(word, now) {
                prop_assert!(turn.free_ns() <= now + 100 * MS);
                prop_assert!(turn.holder.is_none_or(|holder| holder < TENANTS));
            }
        }
    }
}
