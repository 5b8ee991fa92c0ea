//! GPU time held to a cap: what a launch meets on its way to the driver. The decisions are `cuota-governor`'s.
//!
//! - [`caps`]: which cap is in force, and the tenant's budget.
//! - [`stream`]: what is open and in flight on each stream.
//! - [`timeline`]: a context's boundary events.
//! - [`gate`]: a launch goes now, or waits.
//! - [`sensor`]: batches are closed, and settled when they have ended.
//! - [`evicted`]: streams that gave up their place.
//! - [`captures`]: what may be recorded while they live.
//! - [`per_thread`]: streams that only their own thread can name.
//! - [`turns`]: where others are on the GPU, its tenant's turn.
//! - [`helper`]: the thread that does it where the program does not come by.
//! - [`lock`]: nobody waits for anybody for long.
//!
//! No lock is held while a launch waits or is in the driver, and none is waited for without end.

mod caps;
pub(crate) mod captures;
mod evicted;
pub(crate) mod gate;
mod helper;
mod lock;
mod per_thread;
pub(crate) mod sensor;
pub(crate) mod stream;
mod timeline;
mod turns;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use self::caps::Gpu;
use self::captures::Captures;
use self::evicted::Evicted;
use self::helper::Helper;
use self::stream::Streams;
use self::timeline::Timeline;
use crate::process::Process;
use crate::process::device::DEVICES;

/// The limiter's part of a process's state. All-zero is "nothing known yet". What each launch reads stands first, and apart from what
/// other threads' looks write.
#[repr(C)]
pub(crate) struct Limiter {
    /// 1 + the policy's epoch of which it is known that no cap binds; 0: none.
    free_epoch: AtomicU64,
    /// 1 + the policy's epoch that the GPUs' caps are of; 0: none.
    caps_epoch: AtomicU64,
    pub(crate) captures: Captures,
    /// When a batch of the process last ended, ns.
    progress_ns: AtomicU64,
    /// Looks at which a launch was held back, on any stream.
    held: AtomicU64,
    /// On which stream the next look begins to settle.
    turn: AtomicU32,
    pub(crate) helper: Helper,
    gpus: [Gpu; DEVICES],
    streams: Streams,
    evicted: Evicted,
    /// By context's number.
    timelines: [Timeline; 256],
}

impl Limiter {
    /// Where the word that [`Self::is_free`] reads lies, bytes.
    pub(crate) const FREE_AT: usize = core::mem::offset_of!(Self, free_epoch);

    /// Whether nothing is held back and nothing is counted: two loads and a compare.
    #[inline(always)]
    pub(crate) fn is_free(&self, process: &Process) -> bool {
        self.free_epoch.load(Ordering::Relaxed) == u64::from(process.policy().epoch()) + 1
    }

    /// The next launch reads the caps again: something has changed that the policy does not say.
    pub(crate) fn forget_caps(&self) {
        self.caps_epoch.store(0, Ordering::SeqCst);
        self.free_epoch.store(0, Ordering::SeqCst);
    }
}
