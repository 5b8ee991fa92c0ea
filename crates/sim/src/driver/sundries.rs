//! What streams and launchable graphs take of a context: some hundred KiB each, by which the context grows in steps of 2 MiB. One that
//! is destroyed leaves its room to the next; the context keeps what it has grown to until it ends.

use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::pool::Point;
use crate::shared::Charge;
use crate::units::{BLOCK, KIB, MIB};

/// What a stream takes: 10,000 of them took 5,468 MiB on an H100.
pub(super) const STREAM_BYTES: u64 = 560 * KIB;
/// What a launchable graph takes from its instantiation on: on an H100 2,000 of one kernel each took 222 MiB then, and no more when they
/// were uploaded and launched. Larger ones are assumed to take no more.
pub(super) const GRAPH_BYTES: u64 = 114 * KIB;
/// What a new context has for them, which is part of its own size (assumed).
const FIRST_BYTES: u64 = 8 * MIB;

/// What one context has for streams and launchable graphs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sundries {
    used_bytes: u64,
    /// Beyond [`FIRST_BYTES`], a multiple of 2 MiB.
    grown_bytes: u64,
}

/// The launches of a graph that have not ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    /// Launches that are not yet submitted.
    begun: u32,
    /// Where the last launch ends in each stream, with the stream's device.
    ends: Vec<(u32, Point)>,
}

impl Running {
    /// A launch begins.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }

    /// It is submitted, up to a point of a stream; `None` where it was captured.
    pub(super) fn submitted(&mut self, end: Option<(u32, Point)>) {
        self.begun = self.begun.saturating_sub(1);
        if let Some((device, point)) = end {
            self.ends.retain(|(_, known)| known.stream != point.stream);
            self.ends.push((device, point));
        }
    }

    /// Whether none is under way; `is_reached` is asked of a device and a point of a stream there.
    pub(super) fn is_idle(&self, is_reached: impl Fn(u32, Point) -> bool) -> bool {
        self.begun == 0 && self.ends.iter().all(|(device, point)| is_reached(*device, *point))
    }
}

impl Driver {
    /// Takes room for a stream or a launchable graph in `context`.
    ///
    /// # Errors
    /// `InvalidContext`; `OutOfMemory` where the device has no room to grow it.
    pub(super) fn take_sundry(&self, state: &mut State, context: u64, bytes: u64) -> Answer<()> {
        let found = state.contexts.get(&context).ok_or(Fault::InvalidContext)?;
        let (device, mut after) = (found.device(), found.sundries);
        after.used_bytes += bytes;
        let needed = after.used_bytes.saturating_sub(FIRST_BYTES).next_multiple_of(BLOCK);
        let more = needed.saturating_sub(after.grown_bytes);
        after.grown_bytes += more;
        if more > 0 {
            self.take_charged(state, device, Charge::Context, more)?;
        }
        let found = state.contexts.get_mut(&context).ok_or(Fault::InvalidContext)?;
        found.sundries = after;
        found.charged_bytes += more;
        Ok(())
    }

    /// Takes the room of a launchable graph in `context`, where it has none in a context that lives.
    ///
    /// # Errors
    /// As [`Self::take_sundry`]; `InvalidValue` where it is none.
    pub(super) fn place_graph(&self, state: &mut State, executable: u64, context: u64) -> Answer<()> {
        let before = state.executables.get(&executable).ok_or(Fault::InvalidValue)?.context;
        if state.contexts.contains_key(&before) {
            return Ok(());
        }
        self.take_sundry(state, context, GRAPH_BYTES)?;
        if let Some(found) = state.executables.get_mut(&executable) {
            found.context = context;
        }
        Ok(())
    }
}

impl State {
    /// Leaves the room of a stream or a launchable graph to the next one of `context`, if that still lives.
    pub(super) fn leave_sundry(&mut self, context: u64, bytes: u64) {
        if let Some(found) = self.contexts.get_mut(&context) {
            found.sundries.used_bytes = found.sundries.used_bytes.saturating_sub(bytes);
        }
    }
}
