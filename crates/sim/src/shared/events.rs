//! Events of several processes: which record of each was submitted last, by whomever, and which was reached. Each process's
//! engine raises and reads the words itself; a process that dies takes the events that it made with it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most events that a device's processes can share.
const EVENTS: usize = 256;

/// One event. Its number is never used again.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SharedEvent {
    id: AtomicU64,
    /// The owner's slot.
    owner: AtomicU64,
    /// The last record of the event that was here before. Numbers go on, so that what still waits for it, or raises it, never
    /// meets its successor.
    before: AtomicU64,
    submitted: AtomicU64,
    reached: AtomicU64,
}

impl SharedEvent {
    /// Notes that a record is submitted and gives its number.
    pub fn submit(&self) -> u64 {
        self.submitted.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the newest record.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Acquire)
    }

    /// Whether it was ever recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.submitted() > self.before.load(Ordering::Acquire)
    }

    /// Whether a record, or a later one, is reached.
    #[must_use]
    pub fn is_reached(&self, record: u64) -> bool {
        self.reached.load(Ordering::Acquire) >= record
    }

    /// Where the number of the newest record that was reached lies: the host address of a word of 64 bits.
    #[must_use]
    pub fn reached_word(&self) -> u64 {
        self.reached.as_ptr() as u64
    }
}

/// The shared events of one device. Part of the shared file's layout. Numbers are given and ended with the file's mutex held.
#[repr(C)]
#[derive(Debug)]
pub struct SharedEvents {
    last_id: AtomicU64,
    all: [SharedEvent; EVENTS],
}

impl Default for SharedEvents {
    fn default() -> Self {
        Self { last_id: AtomicU64::new(0), all: std::array::from_fn(|_| SharedEvent::default()) }
    }
}

impl SharedEvents {
    /// A new event of `slot`; `None` where there are too many.
    pub(super) fn add(&self, slot: usize) -> Option<u64> {
        let free = self.all.iter().find(|e| e.id.load(Ordering::Acquire) == 0)?;
        let id = self.last_id.fetch_add(1, Ordering::AcqRel) + 1;
        free.owner.store(slot as u64, Ordering::Release);
        free.before.store(free.submitted(), Ordering::Release);
        free.id.store(id, Ordering::Release);
        Some(id)
    }

    /// The event `id`, where it still is.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<&SharedEvent> {
        self.all.iter().find(|e| e.id.load(Ordering::Acquire) == id && id != 0)
    }

    /// The event `id` is destroyed.
    pub(super) fn end(&self, id: u64) {
        if let Some(event) = self.find(id) {
            // Who still waits for it must not wait for ever; NVIDIA's manual leaves open what happens to them.
            event.reached.fetch_max(event.submitted(), Ordering::AcqRel);
            event.id.store(0, Ordering::Release);
        }
    }

    /// The process of `slot` is gone.
    pub(super) fn leave(&self, slot: usize) {
        let is_its = |e: &&SharedEvent| e.owner.load(Ordering::Acquire) == slot as u64;
        for event in self.all.iter().filter(is_its) {
            self.end(event.id.load(Ordering::Acquire));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_its_process_and_lets_waiters_go() {
        let events = SharedEvents::default();
        let (first, second) = (events.add(3).expect("room"), events.add(4).expect("room"));
        let event = events.find(first).expect("it is there");
        let record = event.submit();
        assert!(!event.is_reached(record));
        events.leave(3);
        assert!(event.is_reached(record) && events.find(first).is_none() && events.find(second).is_some());
        let third = events.add(5).expect("room");
        let event = events.find(third).expect("it is there");
        assert!(third != first && third != second && !event.is_recorded());
        assert!(event.is_reached(event.submitted()) && !event.is_reached(event.submit()));
    }

    #[test]
    fn events_of_several_processes_are_not_without_end() {
        let events = SharedEvents::default();
        assert!((0..EVENTS).all(|slot| events.add(slot).is_some()));
        assert_eq!(events.add(0), None);
    }
}
