//! Events: which record of each was submitted last, and when it was reached.

use crate::error::{Answer, Fault};
use std::collections::HashMap;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventState {
    /// Whether it carries times.
    pub has_timing: bool,
    /// How often it was recorded.
    pub submitted: u64,
    /// The newest record that was reached.
    pub reached: u64,
    /// When that was, in device time.
    pub reached_ns: u64,
}

impl EventState {
    /// Whether the newest record is reached; an event that was never recorded is.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.reached >= self.submitted
    }
}

/// The events of one process on one device.
#[derive(Debug, Default)]
pub struct Events {
    all: HashMap<u64, EventState>,
}

impl Events {
    /// A new event.
    pub fn add(&mut self, event: u64, has_timing: bool) {
        self.all.insert(event, EventState { has_timing, ..EventState::default() });
    }

    /// Forgets an event. Units that name it find it reached.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn remove(&mut self, event: u64) -> Answer<()> {
        self.all.remove(&event).map(|_| ()).ok_or(Fault::InvalidHandle)
    }

    /// What is known of an event.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn get(&self, event: u64) -> Answer<EventState> {
        self.all.get(&event).copied().ok_or(Fault::InvalidHandle)
    }

    /// Notes that a record is submitted and gives its number.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn submit(&mut self, event: u64) -> Answer<u64> {
        let state = self.all.get_mut(&event).ok_or(Fault::InvalidHandle)?;
        state.submitted += 1;
        Ok(state.submitted)
    }

    /// The time between two events, in nanoseconds of device time; negative where they were reached the other way round.
    ///
    /// # Errors
    /// `InvalidHandle` for an event that was not recorded or has no timing, `NotReady` for one that is not reached.
    pub fn elapsed_ns(&self, start: u64, end: u64) -> Answer<i64> {
        let (start, end) = (self.get(start)?, self.get(end)?);
        if [start, end].iter().any(|e| !e.has_timing || e.submitted == 0) {
            return Err(Fault::InvalidHandle);
        }
        if !start.is_complete() || !end.is_complete() {
            return Err(Fault::NotReady);
        }
        Ok(end.reached_ns.cast_signed().wrapping_sub(start.reached_ns.cast_signed()))
    }

    pub(super) fn is_reached(&self, event: u64, generation: u64) -> bool {
        self.all.get(&event).is_none_or(|e| e.reached >= generation)
    }

    pub(super) fn reach(&mut self, event: u64, generation: u64, now_ns: u64) {
        if let Some(state) = self.all.get_mut(&event).filter(|e| e.reached < generation) {
            state.reached = generation;
            state.reached_ns = now_ns;
        }
    }
}
