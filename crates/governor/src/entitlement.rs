//! What can be asked of a GPU's time beside a cap: a guarantee, a weight, a priority; and the presets that are names for these.
//!
//! | asked | means |
//! |---|---|
//! | cap | never more ([`crate::cap`]; the limiter holds it, with or without neighbours) |
//! | guarantee | never less while it has work, whatever the others' priority |
//! | weight | how what nobody is guaranteed is divided among those of the highest priority that have work |
//! | priority | who of several that have work gets what nobody is guaranteed |

use core::fmt;

use crate::cap::Cap;

/// All of a GPU, parts per million.
pub const WHOLE_PPM: u32 = 1_000_000;

/// The weight of a tenant for which none was asked.
pub const USUAL_WEIGHT: u32 = 100;

/// The largest weight.
pub const MOST_WEIGHT: u32 = 10_000;

/// Who goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Priority {
    /// Has what the others leave.
    Low,
    /// As a rule.
    #[default]
    Normal,
    /// Is let in at once; the others stay out while it is busy.
    High,
}

impl Priority {
    /// The priority with this number, 0 to 2.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Low),
            1 => Some(Self::Normal),
            2 => Some(Self::High),
            _ => None,
        }
    }
}

/// What a tenant is entitled to where several want the GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entitlement {
    /// Never less than this while it has work, parts per million.
    pub guarantee_ppm: u32,
    /// Its part of what nobody is guaranteed; 0: none of it, as long as others want it.
    pub weight: u32,
    /// Who goes first.
    pub priority: Priority,
}

impl Default for Entitlement {
    fn default() -> Self {
        Self::USUAL
    }
}

const WEIGHT_SHIFT: u32 = 20;
const PRIORITY_SHIFT: u32 = 34;
const IS_ONE: u64 = 1 << 63;

impl Entitlement {
    /// That of a tenant for which nothing was asked.
    pub const USUAL: Self = Self { guarantee_ppm: 0, weight: USUAL_WEIGHT, priority: Priority::Normal };

    /// As it stands in shared memory: never 0.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        IS_ONE
            | (self.priority as u64) << PRIORITY_SHIFT
            | (self.weight as u64) << WEIGHT_SHIFT
            | self.guarantee_ppm as u64
    }

    /// Whether a word's priority is [`Priority::High`].
    #[must_use]
    pub const fn is_high(word: u64) -> bool {
        word >> PRIORITY_SHIFT & 3 == Priority::High as u64
    }

    /// What a word says; `None`: it is none that was ever written by [`Self::to_word`].
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        let guarantee_ppm = (word & 0xf_ffff) as u32;
        let weight = (word >> WEIGHT_SHIFT & 0x3fff) as u32;
        let Some(priority) = Priority::from_number((word >> PRIORITY_SHIFT & 3) as u32) else { return None };
        let entitlement = Self { guarantee_ppm, weight, priority };
        if entitlement.to_word() != word || guarantee_ppm > WHOLE_PPM || weight > MOST_WEIGHT {
            return None;
        }
        Some(entitlement)
    }
}

/// A name for a cap and an entitlement together, made from one share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// The share, never more and never less.
    Strict,
    /// The share is guaranteed; what others leave idle, or are not guaranteed, is lent.
    Balanced,
    /// The share while others want the rest, all of the GPU while nobody does.
    Adaptive,
    /// Neither a cap nor a guarantee.
    None,
}

impl Preset {
    /// What it stands for with this share.
    #[must_use]
    pub const fn of(self, share: Cap) -> (Cap, Entitlement) {
        let (cap, guarantee_ppm, weight) = match self {
            Self::Strict => (share, share.ppm(), 0),
            Self::Balanced => (Cap::FULL, share.ppm(), USUAL_WEIGHT),
            Self::Adaptive => (Cap::FULL, share.ppm(), 0),
            Self::None => (Cap::FULL, 0, USUAL_WEIGHT),
        };
        (cap, Entitlement { guarantee_ppm, weight, priority: Priority::Normal })
    }
}

/// Guarantees that cannot all be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverCommitted {
    /// What was asked for, parts per million.
    pub asked_ppm: u32,
    /// What others are guaranteed already, parts per million.
    pub others_ppm: u64,
}

impl OverCommitted {
    /// Whether a guarantee of `asked_ppm` can be kept beside those of `others`, parts per million.
    ///
    /// # Errors
    /// The sum, where it is more than all of the GPU.
    pub fn check(asked_ppm: u32, others: impl Iterator<Item = u32>) -> Result<(), Self> {
        let others_ppm = others.map(u64::from).sum();
        if others_ppm + u64::from(asked_ppm) > u64::from(WHOLE_PPM) && asked_ppm != 0 {
            return Err(Self { asked_ppm, others_ppm });
        }
        Ok(())
    }

    /// The most that can still be guaranteed, parts per million.
    #[must_use]
    pub fn left_ppm(self) -> u32 {
        WHOLE_PPM.saturating_sub(u32::try_from(self.others_ppm).unwrap_or(WHOLE_PPM))
    }
}

impl fmt::Display for OverCommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ppm: u64| f64::from(u32::try_from(ppm).unwrap_or(u32::MAX)) / 10_000.0;
        write!(
            f,
            "a guarantee of {}% was asked for; others are guaranteed {}%, together {}% of 100%; {}% can still be guaranteed",
            percent(self.asked_ppm.into()),
            percent(self.others_ppm),
            percent(self.others_ppm + u64::from(self.asked_ppm)),
            percent(self.left_ppm().into()),
        )
    }
}

impl core::error::Error for OverCommitted {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(percent: u32) -> Cap {
        Cap::from_ppm(percent * 10_000).unwrap()
    }

    #[test]
    fn guarantees_that_do_not_fit_together_are_refused_with_their_sum() {
        assert_eq!(OverCommitted::check(400_000, [600_000].into_iter()), Ok(()));
        assert_eq!(OverCommitted::check(0, [1_000_000].into_iter()), Ok(()));
        let refused = OverCommitted::check(500_000, [300_000, 300_000].into_iter()).unwrap_err();
        assert_eq!(refused.left_ppm(), 400_000);
        let words = refused.to_string();
        for part in ["50%", "60%", "110%", "40%"] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn a_preset_is_a_cap_and_an_entitlement() {
        let half = share(50);
        let of = |preset: Preset| {
            let (cap, entitlement) = preset.of(half);
            (cap.binds(), entitlement.guarantee_ppm, entitlement.weight)
        };
        assert_eq!(of(Preset::Strict), (true, 500_000, 0));
        assert_eq!(of(Preset::Balanced), (false, 500_000, USUAL_WEIGHT));
        assert_eq!(of(Preset::Adaptive), (false, 500_000, 0));
        assert_eq!(of(Preset::None), (false, 0, USUAL_WEIGHT));
    }

    proptest! {
        #[test]
        fn a_word_gives_back_what_was_put_in(
            guarantee_ppm in 0..=WHOLE_PPM, weight in 0..=MOST_WEIGHT, priority in 0..3_u32,
        ) {
            let priority = Priority::from_number(priority).unwrap();
            let entitlement = Entitlement { guarantee_ppm, weight, priority };
            prop_assert_eq!(Entitlement::from_word(entitlement.to_word()), Some(entitlement));
        }

        #[test]
        fn rubbish_is_no_entitlement_or_a_possible_one(word: u64) {
            if let Some(entitlement) = Entitlement::from_word(word) {
                prop_assert!(entitlement.guarantee_ppm <= WHOLE_PPM && entitlement.weight <= MOST_WEIGHT);
            }
        }
    }
}
