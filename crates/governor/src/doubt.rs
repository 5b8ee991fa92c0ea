//! When turns are left alone: what stands in the arena has made no sense eight times within a second, or a launch was kept out for longer than the rules
//! allow. So somebody does not keep to them, and everybody is better off with the driver's slicing for a while.

const MS: u64 = 1_000_000;
/// So often.
const TIMES: u64 = 8;
/// Within this, ns.
const WITHIN_NS: u64 = 1_000 * MS;
/// For so long, ns.
const ALOOF_NS: u64 = 10_000 * MS;

/// A process's doubt. 0: none. The times in the low byte, and above it since when, or, with all times, until when.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Doubt(u64);

impl Doubt {
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

    /// After something that made no sense.
    #[must_use]
    pub const fn after_rubbish(self, now_ns: u64) -> Self {
        let (times, since_ns) = (self.0 & 0xff, self.0 & !0xff);
        if now_ns.saturating_sub(since_ns) > WITHIN_NS {
            return Self(now_ns & !0xff | 1);
        }
        match times + 1 {
            TIMES.. => Self::certain(now_ns),
            times => Self(since_ns | times),
        }
    }

    /// After something that cannot be but by one who does not keep to the rules.
    #[must_use]
    pub const fn certain(now_ns: u64) -> Self {
        Self(now_ns.saturating_add(ALOOF_NS) & !0xff | TIMES)
    }

    /// Whether turns are to be left alone.
    #[must_use]
    pub const fn is_aloof(self, now_ns: u64) -> bool {
        self.0 & 0xff >= TIMES && now_ns < self.0 & !0xff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 99_000 * MS;

    fn after(times: u64, step_ns: u64) -> Doubt {
        (0..times).fold(Doubt::default(), |doubt, n| doubt.after_rubbish(NOW + n * step_ns))
    }

    #[test]
    fn rubbish_again_and_again_within_a_second_ends_the_turns_for_ten() {
        let now_ns = NOW + TIMES * MS;
        assert!(!after(TIMES - 1, MS).is_aloof(now_ns));
        assert!(after(TIMES, MS).is_aloof(now_ns));
        assert!(!after(TIMES, MS).is_aloof(now_ns + ALOOF_NS));
    }

    #[test]
    fn one_thing_that_cannot_be_is_enough() {
        assert!(Doubt::certain(NOW).is_aloof(NOW + ALOOF_NS / 2));
    }

    #[test]
    fn rubbish_now_and_then_ends_nothing() {
        assert!(!after(100, 300 * MS).is_aloof(NOW + 100 * 300 * MS));
    }
}
