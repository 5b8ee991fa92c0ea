//! In a library that is built without turns: nobody else is there. What [`turns`](../turns.rs) does where it is built with them.

use cuota_governor::admission::{Bound, Scene};
use cuota_governor::entitlement::Entitlement;

use super::Limiter;
use super::caps::Ground;
use super::stream::Stream;

/// A GPU's turns: none.
pub(super) struct Turns;

/// A launch that is about to go.
pub(super) struct Entering;

impl Turns {
    pub(super) fn is_on(&self) -> bool {
        false
    }

    pub(super) fn is_alone(&self) -> bool {
        false
    }

    pub(super) fn entitle(&self, _: Entitlement) {}

    pub(super) fn watch(&self, _: Ground) -> bool {
        false
    }

    pub(super) fn had_since(&self, _: u64) -> bool {
        false
    }

    pub(super) fn bound(&self, has_gpu_alone: bool) -> Bound {
        if has_gpu_alone { Bound::ALONE } else { Bound::USUAL }
    }

    pub(super) fn wait_for_room(&self, on: Ground, epoch: u32, until_ns: u64) {
        on.process().policy().wait(epoch, until_ns);
    }
}

impl Limiter {
    pub(crate) fn arrive(&self, _: u32) {}

    pub(super) fn has_turn(&self, _: Ground, _: &Stream, _: &Scene, _: u64, _: &mut u64) -> Option<Entering> {
        Some(Entering)
    }

    pub(super) fn tend(&self) -> u64 {
        u64::MAX
    }

    pub(super) fn sleep_alone(&self) -> bool {
        false
    }

    pub(super) fn ring(&self) {}

    pub(super) fn leave_turns(&self) {}
}
