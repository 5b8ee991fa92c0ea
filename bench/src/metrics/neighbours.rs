//! Native controls that several samples are held against, because they are neighbours in time: they are measured once.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::system::{Launcher, Moment};

/// What native tenants gave, and when.
struct Kept<T> {
    at: Moment,
    value: T,
}

/// A control that the samples of a turn share.
pub(super) struct OfTurn<T>(Mutex<Option<Kept<T>>>);

impl<T: Clone> OfTurn<T> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What `measure` gives natively: measured for the first sample of a turn, and again where the device was slowed down since.
    pub(super) fn get(
        &self,
        launcher: &Launcher<'_>,
        measure: impl FnOnce(&Launcher<'_>) -> Result<T>,
    ) -> Result<T> {
        self.get_at(launcher.session.moment(), || measure(&launcher.native()))
    }

    fn get_at(&self, at: Moment, measure: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.as_ref().filter(|known| known.at == at) {
            return Ok(known.value.clone());
        }
        let value = measure()?;
        *kept = Some(Kept { at, value: value.clone() });
        Ok(value)
    }
}

/// A control that ends one sample and begins the next.
pub(super) struct Between<T>(Mutex<Option<Kept<T>>>);

impl<T> Between<T> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What ended the sample before this one, if that came to its end and the device was not slowed down since.
    pub(super) fn take(&self, launcher: &Launcher<'_>) -> Option<T> {
        self.take_at(launcher.session.moment())
    }

    /// Keeps what ends this sample.
    pub(super) fn keep(&self, launcher: &Launcher<'_>, value: T) {
        self.keep_at(launcher.session.moment(), value);
    }

    fn take_at(&self, at: Moment) -> Option<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|kept| kept.at.slowed == at.slowed).map(|kept| kept.value)
    }

    fn keep_at(&self, at: Moment, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kept { at, value });
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn at(turn: usize, slowed: u32) -> Moment {
        Moment { turn, slowed }
    }

    #[test]
    fn samples_of_a_turn_share_a_control_and_those_of_the_next_have_their_own() {
        let control = OfTurn::new();
        let (first, slowed, next) = (at(0, 0), at(0, 1), at(1, 1));
        for (number, moment) in [first, first, slowed, slowed, next].into_iter().enumerate() {
            let value = control.get_at(moment, || Ok(number)).unwrap();
            assert_eq!(value, [0, 0, 2, 2, 4][number]);
        }
    }

    #[test]
    fn control_that_failed_is_measured_again() {
        let control = OfTurn::new();
        assert!(control.get_at(at(0, 0), || bail!("no")).is_err());
        assert_eq!(control.get_at(at(0, 0), || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn control_between_two_samples_belongs_to_both_and_to_no_third() {
        let control = Between::new();
        assert_eq!(control.take_at(at(0, 0)), None);
        control.keep_at(at(0, 0), 1);
        assert_eq!((control.take_at(at(1, 0)), control.take_at(at(1, 0))), (Some(1), None));
        control.keep_at(at(1, 0), 2);
        assert_eq!(control.take_at(at(1, 1)), None, "the device was slowed down");
    }
}
