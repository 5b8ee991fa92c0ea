//! What happened to a tenant: a ring of the last 1,024 events, for `cuota` to show.
//!
//! A writer takes a number and fills that number's place; a writer that dies leaves a place whose number does not
//! match, which readers skip. Nothing is ever waited for.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys;

/// How many events are kept.
#[cfg(not(loom))]
pub const EVENTS: usize = 1024;
#[cfg(loom)]
pub use crate::model::EVENTS;

/// One place in the ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Record {
    /// The event's number plus one; 0 while it is being written. Load it (acquire), read the rest (relaxed), fence
    /// (acquire), load it again (relaxed): only if it is the same is the rest whole.
    number: AtomicU64,
    /// When, CLOCK_MONOTONIC ns.
    time_ns: AtomicU64,
    /// 1 refused (a asked, b booked, c quota), 2 grew inside a call (a), 3 a dead process's books closed (a pid,
    /// b booked), 4 rejoined (a booked), 5 NVML could not be asked (a its error), 6 not granted for another reason than its size
    /// (a: 1 another tenant's pool, 2 a full table, 3 a library that was ended, 4 of unknown size), 7 a variable of HAMi's or
    /// FCSP's, or CUOTA_HELPER, is not followed (a: which, b: 1 unreadable, 2 not supported, 3 its file cannot be used, 4 overruled, c: of 3 the error, of
    /// 4 by what: 0 a policy, 1 its file), or (b: 5) our own files of the container lie in the next best place (c: 1 its disk, 2 beside
    /// the file). Amounts in bytes.
    what: AtomicU32,
    /// The process that it happened to, in its own PID namespace.
    pid: AtomicU32,
    /// See `what`; so are the next two.
    a: AtomicU64,
    b: AtomicU64,
    c: AtomicU64,
    reserved: [AtomicU64; 2],
}

/// The ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct Events {
    /// How many events there ever were; the last of them are in the ring, number `n` at `n` modulo its length.
    next: AtomicU64,
    reserved: [AtomicU64; 7],
    pub(crate) ring: [Record; EVENTS],
}

/// See [`crate::abi`].
#[doc(hidden)]
pub const LAYOUTS: &[crate::abi::Layout] = &[
    crate::abi::layout!(Record as "cuota_event": number, time_ns, what, pid, a, b, c, reserved),
    crate::abi::layout!(Events as "cuota_events": next, reserved, ring),
];

/// Why something was not granted that may have fitted the quota. The numbers are part of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A memory pool of another tenant: nobody could be charged for what it holds.
    ForeignPool = 1,
    /// The process has as many objects of a kind as can be followed.
    TableFull = 2,
    /// A library that did not fit when it was used first, and was unloaded.
    LibraryEnded = 3,
    /// Imported memory whose size cannot be told.
    UnknownSize = 4,
}

impl Why {
    fn from_number(number: u64) -> Option<Self> {
        [Why::ForeignPool, Why::TableFull, Why::LibraryEnded, Why::UnknownSize]
            .into_iter()
            .find(|why| *why as u64 == number)
    }
}

/// Why a variable of another system's is not followed. The numbers are part of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Its value cannot be read.
    Unreadable = 1,
    /// There is nothing here that it could mean.
    NotSupported = 2,
    /// The file that it names cannot be used.
    BadFile = 3,
    /// The operator's policy counts, or the limit that the file has.
    Overruled = 4,
    /// Our own files could not be made in memory.
    NotInMemory = 5,
}

impl Problem {
    const ALL: [Problem; 5] = [
        Problem::Unreadable,
        Problem::NotSupported,
        Problem::BadFile,
        Problem::Overruled,
        Problem::NotInMemory,
    ];

    fn from_number(number: u64) -> Option<Self> {
        Problem::ALL.into_iter().find(|problem| *problem as u64 == number)
    }
}

/// What happened. The numbers are part of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An allocation was refused.
    Refused {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that the tenant had booked.
        booked: u64,
        /// The quota, bytes.
        quota: u64,
    },
    /// More memory was taken inside one driver call than could be reserved for it.
    GrewInsideCall {
        /// Bytes taken beyond the reservation.
        bytes: u64,
    },
    /// A dead process's books were closed.
    Reaped {
        /// Its process id.
        pid: u32,
        /// Bytes it had booked, over all GPUs.
        booked: u64,
    },
    /// A process that had lost its place came back with what it holds.
    Rejoined {
        /// Bytes it brought, over all GPUs.
        booked: u64,
    },
    /// NVML could not be asked, so a process's own overhead is an estimate.
    NoProcessMemory {
        /// NVML's error.
        error: u32,
    },
    /// Something was refused for another reason than its size.
    NotGranted {
        /// That reason.
        why: Why,
    },
    /// A variable of another system's is not followed.
    Setting {
        /// Its number, by `hami::variables::name`.
        variable: u32,
        /// Why.
        problem: Problem,
        /// The number of the error, where it has one: the kernel's, or a version.
        error: u32,
    },
    /// An event of another version.
    Unknown {
        /// Its number.
        what: u32,
    },
}

impl Event {
    fn to_words(self) -> (u32, [u64; 3]) {
        match self {
            Event::Refused { asked, booked, quota } => (1, [asked, booked, quota]),
            Event::GrewInsideCall { bytes } => (2, [bytes, 0, 0]),
            Event::Reaped { pid, booked } => (3, [u64::from(pid), booked, 0]),
            Event::Rejoined { booked } => (4, [booked, 0, 0]),
            Event::NoProcessMemory { error } => (5, [u64::from(error), 0, 0]),
            Event::NotGranted { why } => (6, [why as u64, 0, 0]),
            Event::Setting { variable, problem, error } => {
                (7, [u64::from(variable), problem as u64, u64::from(error)])
            }
            Event::Unknown { what } => (what, [0; 3]),
        }
    }

    fn from_words(what: u32, [a, b, c]: [u64; 3]) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match what {
            1 => Event::Refused { asked: a, booked: b, quota: c },
            2 => Event::GrewInsideCall { bytes: a },
            3 => Event::Reaped { pid: small(a), booked: b },
            4 => Event::Rejoined { booked: a },
            5 => Event::NoProcessMemory { error: small(a) },
            6 => Why::from_number(a).map_or(Event::Unknown { what }, |why| Event::NotGranted { why }),
            7 => Problem::from_number(b).map_or(Event::Unknown { what }, |problem| Event::Setting {
                variable: small(a),
                problem,
                error: small(c),
            }),
            what => Event::Unknown { what },
        }
    }
}

/// An event with its place in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Counts from 0 over the tenant's life.
    pub number: u64,
    /// CLOCK_MONOTONIC, a timer tick coarse.
    pub time_ns: u64,
    /// The process that it happened to, in its own PID namespace.
    pub pid: u32,
    /// What happened.
    pub event: Event,
}

impl Events {
    /// Adds an event of process `pid`.
    pub fn add(&self, pid: u32, event: Event) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(record) = self.record(number) else { return };
        let (what, [a, b, c]) = event.to_words();
        record.number.store(0, Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::Release);
        record.time_ns.store(sys::coarse_ns(), Ordering::Relaxed);
        record.what.store(what, Ordering::Relaxed);
        record.pid.store(pid, Ordering::Relaxed);
        record.a.store(a, Ordering::Relaxed);
        record.b.store(b, Ordering::Relaxed);
        record.c.store(c, Ordering::Relaxed);
        record.number.store(number.wrapping_add(1), Ordering::Release);
    }

    fn record(&self, number: u64) -> Option<&Record> {
        self.ring.get(usize::try_from(number).unwrap_or(0) % EVENTS)
    }

    /// The events that are still in the ring, oldest first; one that is being written is left out.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let next = self.next.load(Ordering::Acquire);
        (next.saturating_sub(EVENTS as u64)..next).filter_map(|number| self.entry(number))
    }

    fn entry(&self, number: u64) -> Option<Entry> {
        let record = self.record(number)?;
        let before = record.number.load(Ordering::Acquire);
        let words = [&record.a, &record.b, &record.c].map(|word| word.load(Ordering::Relaxed));
        let entry = Entry {
            number,
            time_ns: record.time_ns.load(Ordering::Relaxed),
            pid: record.pid.load(Ordering::Relaxed),
            event: Event::from_words(record.what.load(Ordering::Relaxed), words),
        };
        core::sync::atomic::fence(Ordering::Acquire);
        let same = before == number.wrapping_add(1) && record.number.load(Ordering::Relaxed) == before;
        same.then_some(entry)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn what_is_added_is_read_in_order() {
        let events = Bench::new().tenant().events();
        let refused = Event::Refused { asked: 3, booked: 2, quota: 1 };
        events.add(11, refused);
        events.add(12, Event::Reaped { pid: 9, booked: 8 });
        let read: Vec<_> = events.entries().map(|e| (e.number, e.pid, e.event)).collect();
        assert_eq!(read, [(0, 11, refused), (1, 12, Event::Reaped { pid: 9, booked: 8 })]);
    }

    #[test]
    fn each_reason_is_read_as_it_was_written_and_an_unknown_one_as_unknown() {
        for why in [Why::ForeignPool, Why::TableFull, Why::LibraryEnded, Why::UnknownSize] {
            let (what, words) = Event::NotGranted { why }.to_words();
            assert_eq!(Event::from_words(what, words), Event::NotGranted { why });
        }
        for problem in Problem::ALL {
            let event = Event::Setting { variable: 3, problem, error: 28 };
            let (what, words) = event.to_words();
            assert_eq!(Event::from_words(what, words), event);
        }
        assert_eq!(Event::from_words(7, [0, 99, 0]), Event::Unknown { what: 7 });
        assert_eq!(Event::from_words(6, [99, 0, 0]), Event::Unknown { what: 6 });
    }

    #[test]
    fn the_ring_keeps_the_last_ones() {
        let events = Bench::new().tenant().events();
        (0..3000).for_each(|n| events.add(1, Event::Rejoined { booked: n }));
        let numbers: Vec<_> = events.entries().map(|e| e.number).collect();
        assert_eq!(numbers, (3000 - 1024..3000).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_whose_writer_died_is_left_out() {
        let events = Bench::new().tenant().events();
        events.add(1, Event::Rejoined { booked: 1 });
        events.next.fetch_add(1, Ordering::Relaxed);
        events.add(1, Event::Rejoined { booked: 2 });
        assert_eq!(events.entries().map(|e| e.number).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn rubbish_in_the_ring_ends_no_reader() {
        let events = Bench::new().tenant().events();
        events.next.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(events.entries().count(), 0);
    }
}
