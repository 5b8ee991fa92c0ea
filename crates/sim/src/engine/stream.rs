//! One stream: units in order, of which the first may be running.

use super::work::Work;
use std::collections::VecDeque;

/// How a stream is ordered against its context's legacy default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The legacy default stream: waits for all blocking streams, and they wait for it.
    Legacy,
    /// A blocking stream.
    Blocking,
    /// A stream made with `CU_STREAM_NON_BLOCKING`.
    Free,
}

pub(super) struct Unit {
    pub(super) ticket: u64,
    pub(super) submitted_ns: u64,
    pub(super) work: Work,
}

pub(super) struct Stream {
    pub(super) order: Order,
    pub(super) context: u64,
    pub(super) priority: i32,
    pub(super) units: VecDeque<Unit>,
    pub(super) is_started: bool,
    pub(super) last_ticket: u64,
}

impl Stream {
    pub(super) fn new(order: Order, context: u64, priority: i32) -> Self {
        Self { order, context, priority, units: VecDeque::new(), is_started: false, last_ticket: 0 }
    }

    /// The ticket of the oldest unit that is not done.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.units.front().map(|unit| unit.ticket)
    }
}
