//! The decisions of cuota, and nothing else: numbers and the time go in, a verdict comes out.
//!
//! This crate knows neither CUDA nor shared memory.
//!
//! Memory: *whether* an allocation is granted stands in [`quota`]; how many bytes it really takes from the GPU in
//! [`physical`].
//!
//! GPU time, in the order in which a launch meets it: [`lease`] (the common launch goes at once), [`cost`] (what a unit
//! is believed to cost), [`batch`] (where the boundary events are drawn), [`budget`] (what the tenant may take,
//! under its [`cap`]), [`admission`] (who waits, and for what). When a batch has ended, [`occupancy`] says how much
//! time it occupied that nothing else had, and [`concurrency`] what that means for the next estimate; [`neighbours`] what
//! is charged at least where others were there too. [`rounds`]: when the helper thread looks.
//!
//! Turns, where several tenants keep one GPU busy: [`entitlement`] (what can be asked), [`arbiter`] (whose turn is next, and how long it
//! is), [`turn`] (a turn as a word, and when it ends), [`hand_over`] (who may end it, and what that costs whom), [`habit`] (who takes turns at all), [`doubt`] (when they are left alone).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod admission;
pub mod arbiter;
pub mod batch;
pub mod budget;
pub mod cap;
pub mod concurrency;
pub mod cost;
pub mod doubt;
pub mod entitlement;
pub mod habit;
pub mod hand_over;
pub mod lease;
pub mod neighbours;
pub mod occupancy;
pub mod pace;
pub mod physical;
pub mod quota;
pub mod rounds;
pub mod turn;

/// The part of `of` that `share` is of `whole`, rounded down; a `whole` of 0 counts as 1. Of both only the upper 32 bits count, where one has
/// more (four seconds, in nanoseconds): the guest is small, and a division of 128 bits is not.
#[inline(never)]
pub(crate) fn part(of: u64, share: u64, whole: u64) -> u64 {
    let beyond = 32_u32.saturating_sub((whole | share).leading_zeros());
    let (share, whole) = (share >> beyond, (whole >> beyond).max(1));
    (of / whole).saturating_mul(share).saturating_add(of % whole * share / whole)
}

#[cfg(test)]
mod tests {
    use super::part;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_part_is_exact_below_four_seconds(of: u32, share: u32, whole in 1_u32..) {
            let exact = u64::from(of) * u64::from(share) / u64::from(whole);
            prop_assert_eq!(part(of.into(), share.into(), whole.into()), exact);
        }

        #[test]
        fn a_part_of_more_is_right_to_a_billionth(of in 1_u64 << 32.., share: u64, whole in 1_u64 << 32..) {
            let share = share % whole;
            let exact = u128::from(of) * u128::from(share) / u128::from(whole);
            prop_assert!(u128::from(part(of, share, whole)).abs_diff(exact) <= u128::from(of >> 30));
        }
    }
}
