//! What a stream carries: units of work, and what they do when they are done.

use crate::memory::Span;

/// A function of the host that a stream calls.
pub type HostCall = Box<dyn FnOnce() + Send>;

/// How `cuStreamWaitValue` compares, as `CUstreamWaitValue_flags` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The difference, as a signed number, is not negative.
    AtLeast,
    /// Equal.
    Equal,
    /// Some bit in common.
    And,
    /// Some bit clear in both.
    Nor,
}

/// A word in memory, by host address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Where it is.
    pub host: u64,
    /// Whether it has 64 bits rather than 32.
    pub is_wide: bool,
}

impl Comparison {
    /// Whether `value` in memory satisfies `wanted`.
    #[must_use]
    pub fn holds(self, value: u64, wanted: u64, is_wide: bool) -> bool {
        let mask = if is_wide { u64::MAX } else { u64::from(u32::MAX) };
        let sign = (mask >> 1) + 1;
        match self {
            Self::AtLeast => value.wrapping_sub(wanted) & sign == 0,
            Self::Equal => value & mask == wanted & mask,
            Self::And => value & wanted & mask != 0,
            Self::Nor => !(value | wanted) & mask != 0,
        }
    }
}

/// What a unit does to memory when its time has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Copies host bytes onto host bytes: both sides are spans of equal length in all.
    Copy {
        /// From where.
        from: Vec<Span>,
        /// To where.
        to: Vec<Span>,
    },
    /// Writes bytes that were copied aside when the unit was submitted.
    Bring {
        /// The bytes.
        bytes: Vec<u8>,
        /// To where.
        to: Vec<Span>,
    },
    /// Repeats a pattern of 1, 2 or 4 bytes.
    Fill {
        /// The pattern's bytes.
        pattern: Vec<u8>,
        /// To where.
        to: Vec<Span>,
    },
    /// Writes one word.
    Store {
        /// To where.
        word: Word,
        /// What.
        value: u64,
    },
    /// Writes one word of 64 bits where it is smaller, whoever else does so at that time.
    Raise {
        /// The host address.
        host: u64,
        /// To what.
        value: u64,
    },
    /// Several effects in order.
    All(Vec<Effect>),
}

/// What of the device a unit takes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// So many multiprocessors.
    Sms(u32),
    /// The engine that copies from host to device.
    HostToDevice,
    /// The engine that copies from device to host.
    DeviceToHost,
    /// Nothing that another unit could want.
    Free,
}

/// One unit of a stream.
pub enum Work {
    /// Takes a lane for a time, then has an effect.
    Timed {
        /// How long it takes by itself, in nanoseconds.
        cost_ns: u64,
        /// What it takes of the device.
        lane: Lane,
        /// What it does at its end.
        effect: Effect,
        /// Whether it ends with an illegal address.
        faults: bool,
    },
    /// A kernel that runs until a word is not zero, whatever time that takes.
    Spin {
        /// What it takes of the device.
        lane: Lane,
        /// The word.
        word: Word,
    },
    /// Stamps an event with the time at which the stream reaches it.
    Record {
        /// The event.
        event: u64,
        /// Which of its records this is.
        generation: u64,
        /// How long it takes, in nanoseconds: nothing for an event without timing.
        cost_ns: u64,
    },
    /// Holds the stream until a record of an event is reached.
    WaitEvent {
        /// The event.
        event: u64,
        /// The record.
        generation: u64,
    },
    /// Holds the stream until a word compares.
    WaitValue {
        /// The word.
        word: Word,
        /// What it is compared to.
        wanted: u64,
        /// How.
        comparison: Comparison,
    },
    /// Holds the stream while the host runs a function.
    Host(HostCall),
}

/// What the engine needs of the world: memory to read and write, and a thread for the host's functions.
pub trait World {
    /// Carries out an effect.
    fn perform(&mut self, effect: Effect);
    /// Reads a word.
    fn load(&mut self, word: Word) -> u64;
    /// Runs `call` elsewhere, then tells the engine by `host_done(stream)`.
    fn call(&mut self, stream: u64, call: HostCall);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_is_cyclic_as_in_cuda() {
        assert!(Comparison::AtLeast.holds(5, 5, false));
        assert!(!Comparison::AtLeast.holds(4, 5, false));
        assert!(Comparison::AtLeast.holds(0, 0xffff_fff0, false));
    }
}
