//! Handles: numbers that look like addresses, of a different range for each kind, so that a handle of the wrong kind is
//! never mistaken for another.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    Context = 0x5001,
    Stream = 0x5002,
    Event = 0x5003,
    Module = 0x5004,
    Function = 0x5005,
    Library = 0x5006,
    Kernel = 0x5007,
    Pool = 0x5008,
    Physical = 0x5009,
    Graph = 0x500a,
    GraphNode = 0x500b,
    GraphExec = 0x500c,
    Array = 0x500d,
    Mipmap = 0x500e,
    Footprint = 0x500f,
    Description = 0x5010,
    Green = 0x5011,
    External = 0x5012,
    Multicast = 0x5013,
}

impl Kind {
    /// Whether a handle is of this kind.
    pub(super) fn is_of(self, handle: u64) -> bool {
        handle >> 32 == self as u64
    }
}

/// Streams that were destroyed: the driver's handles are addresses, and come again.
static DESTROYED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// A stream's handle.
#[must_use]
pub(super) fn of_stream() -> u64 {
    DESTROYED.lock().pop().unwrap_or_else(|| fresh(Kind::Stream))
}

/// Takes back the handle of a stream that is gone.
pub(super) fn end_stream(handle: u64) {
    DESTROYED.lock().push(handle);
}

/// A handle of `kind` that was never given out before in this process.
#[must_use]
pub(super) fn fresh(kind: Kind) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ((kind as u64) << 32) + NEXT.fetch_add(1, Ordering::Relaxed) * 16
}
