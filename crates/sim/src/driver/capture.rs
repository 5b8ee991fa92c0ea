//! Stream capture: streams whose work becomes a graph's nodes instead of running, and the calls that a capture forbids.
//!
//! The rules are those of `cuStreamBeginCapture` and `cuThreadExchangeStreamCaptureMode` in NVIDIA's manual, and where it is
//! silent those measured on driver 580: under a capture in global mode even `cuEventQuery` of another thread fails with 900
//! and ruins the capture; work on the legacy stream beside a capturing blocking stream fails with 906 in every mode.

use super::graph::{Graph, Node};
use super::handle::{Kind, fresh};
use super::streams::StreamRef;
use super::{Driver, State, thread};
use crate::error::{Answer, Fault};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// A capture's mode, and a thread's, as `CUstreamCaptureMode` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The unsafe calls of every thread are forbidden.
    Global,
    /// Those of the capturing thread are.
    ThreadLocal,
    /// None are.
    Relaxed,
}

/// What is known of a stream's capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureStatus {
    /// It does not capture.
    None,
    /// It captures: the capture's number and its graph.
    Active(u64, u64),
    /// Its capture is ruined.
    Invalidated,
}

/// One capture.
#[derive(Debug)]
pub(crate) struct Capture {
    origin: u64,
    context: u64,
    mode: Mode,
    /// The number of the thread that began it.
    thread: u64,
    graph: u64,
    is_ruined: bool,
    /// The streams in it: whether each one's last work is joined.
    streams: HashMap<u64, Member>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    is_blocking: bool,
    units: u64,
    joined_units: u64,
}

/// The captures of a process.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    all: HashMap<u64, Capture>,
    /// Events that were last recorded in a capture: which one, in which stream, after how many units.
    events: HashMap<u64, (u64, u64, u64)>,
}

/// How many captures live, so that calls need not take the lock to learn that there are none.
static ALIVE: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

impl Captures {
    fn of_stream(&mut self, stream: u64) -> Option<(u64, &mut Capture)> {
        self.all.iter_mut().find(|(_, c)| c.streams.contains_key(&stream)).map(|(&id, c)| (id, c))
    }

    /// Ruins the captures that forbid an unsafe call of this thread. True where there is one.
    fn ruin_for_unsafe_call(&mut self) -> bool {
        let (mode, thread) = (MODE.get(), thread::number());
        let forbids = |c: &Capture| match mode {
            Mode::Relaxed => false,
            Mode::ThreadLocal => c.thread == thread && c.mode != Mode::Relaxed,
            Mode::Global => c.mode == Mode::Global || (c.thread == thread && c.mode != Mode::Relaxed),
        };
        let mut found = false;
        for capture in self.all.values_mut().filter(|c| forbids(c)) {
            capture.is_ruined = true;
            found = true;
        }
        found
    }

    /// Ruins the captures of blocking streams in `context`. True where there is one.
    fn ruin_blocking(&mut self, context: u64) -> bool {
        let mut found = false;
        for capture in self.all.values_mut() {
            if capture.context == context && capture.streams.values().any(|m| m.is_blocking) {
                capture.is_ruined = true;
                found = true;
            }
        }
        found
    }
}

impl Driver {
    /// Sets how the calling thread meets captures; gives what was set before.
    #[must_use]
    pub fn exchange_mode(mode: Mode) -> Mode {
        MODE.replace(mode)
    }

    /// How the calling thread meets captures.
    #[must_use]
    pub fn mode() -> Mode {
        MODE.get()
    }

    /// Fails where a capture forbids unsafe calls, and ruins that capture.
    ///
    /// # Errors
    /// `CaptureUnsupported`.
    pub fn check_unsafe_call(&self) -> Answer<()> {
        if ALIVE.load(Ordering::Acquire) > 0 && self.state.lock().captures.ruin_for_unsafe_call() {
            return Err(Fault::CaptureUnsupported);
        }
        Ok(())
    }

    /// Fails where work on `stream` would tie the legacy default stream to a capture, and ruins that capture.
    ///
    /// # Errors
    /// `CaptureImplicit`.
    pub fn check_legacy(&self, stream: StreamRef) -> Answer<()> {
        let asks = stream.is_legacy && ALIVE.load(Ordering::Acquire) > 0;
        if asks && self.state.lock().captures.ruin_blocking(stream.context) {
            return Err(Fault::CaptureImplicit);
        }
        Ok(())
    }

    /// Fails where `stream` itself captures, and ruins the capture: what is asked cannot be captured.
    ///
    /// # Errors
    /// `CaptureUnsupported`.
    pub fn check_not_capturing(&self, stream: StreamRef) -> Answer<()> {
        if ALIVE.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.state.lock().captures.of_stream(stream.id) {
            Some((_, capture)) => {
                capture.is_ruined = true;
                Err(Fault::CaptureUnsupported)
            }
            None => Ok(()),
        }
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// `CaptureUnsupported` for the legacy default stream; `IllegalState` for a stream that captures already.
    pub fn begin_capture(&self, stream: StreamRef, mode: Mode) -> Answer<()> {
        if stream.is_legacy {
            return Err(Fault::CaptureUnsupported);
        }
        let mut state = self.state.lock();
        if state.captures.of_stream(stream.id).is_some() {
            return Err(Fault::IllegalState);
        }
        let graph = fresh(Kind::Graph);
        state.graphs.insert(graph, Graph::default());
        let member = Member { is_blocking: stream.flags == 0, ..Member::default() };
        let capture = Capture {
            origin: stream.id,
            context: stream.context,
            mode,
            thread: thread::number(),
            graph,
            is_ruined: false,
            streams: HashMap::from([(stream.id, member)]),
        };
        state.captures.all.insert(fresh(Kind::Graph), capture);
        ALIVE.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ends a capture and gives its graph.
    ///
    /// # Errors
    /// `IllegalState` for a stream that does not capture; `CaptureUnmatched` where the capture began in another stream;
    /// `CaptureWrongThread`; `CaptureInvalidated`; `CaptureUnjoined`.
    pub fn end_capture(&self, stream: StreamRef) -> Answer<u64> {
        let mut state = self.state.lock();
        let (id, capture) = state.captures.of_stream(stream.id).ok_or(Fault::IllegalState)?;
        if capture.origin != stream.id {
            capture.is_ruined = true;
            return Err(Fault::CaptureUnmatched);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::number() {
            return Err(Fault::CaptureWrongThread);
        }
        let is_joined = |(stream, member): (&u64, &Member)| {
            *stream == capture.origin || member.joined_units == member.units
        };
        let fault = if capture.is_ruined {
            Some(Fault::CaptureInvalidated)
        } else if !capture.streams.iter().all(is_joined) {
            Some(Fault::CaptureUnjoined)
        } else {
            None
        };
        let graph = capture.graph;
        state.captures.all.remove(&id);
        state.captures.events.retain(|_, (capture, _, _)| *capture != id);
        ALIVE.fetch_sub(1, Ordering::AcqRel);
        if let Some(fault) = fault {
            state.graphs.remove(&graph);
            self.forget_places(&mut state);
            return Err(fault);
        }
        Ok(graph)
    }

    /// What is known of a stream's capture.
    ///
    /// # Errors
    /// `CaptureImplicit` for the legacy default stream beside a capturing blocking stream, which ruins that capture: measured,
    /// where the manual says that it survives.
    pub fn capture_status(&self, stream: StreamRef) -> Answer<CaptureStatus> {
        self.check_legacy(stream)?;
        if ALIVE.load(Ordering::Acquire) == 0 {
            return Ok(CaptureStatus::None);
        }
        Ok(match self.state.lock().captures.of_stream(stream.id) {
            None => CaptureStatus::None,
            Some((_, capture)) if capture.is_ruined => CaptureStatus::Invalidated,
            Some((id, capture)) => CaptureStatus::Active(id, capture.graph),
        })
    }

    /// Whether a stream captures.
    #[must_use]
    pub fn is_capturing(&self, stream: StreamRef) -> bool {
        ALIVE.load(Ordering::Acquire) > 0 && self.state.lock().captures.of_stream(stream.id).is_some()
    }

    /// Takes a node into the capture of `stream`; gives it back where the stream does not capture.
    pub(super) fn capture(&self, stream: StreamRef, node: Node) -> Answer<Option<Node>> {
        if ALIVE.load(Ordering::Acquire) == 0 {
            return Ok(Some(node));
        }
        self.check_legacy(stream)?;
        let mut state = self.state.lock();
        let Some((_, capture)) = state.captures.of_stream(stream.id) else { return Ok(Some(node)) };
        if capture.is_ruined {
            return Err(Fault::CaptureInvalidated);
        }
        if let Some(member) = capture.streams.get_mut(&stream.id) {
            member.units += 1;
        }
        let graph = capture.graph;
        if let Some(graph) = state.graphs.get_mut(&graph) {
            graph.append(node);
        }
        Ok(None)
    }

    /// Notes a record of `event`; true where it belongs to a capture and the device must not see it.
    pub(super) fn capture_record(&self, event: u64, stream: StreamRef) -> Answer<bool> {
        if ALIVE.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        self.check_legacy(stream)?;
        let mut state = self.state.lock();
        let Some((id, capture)) = state.captures.of_stream(stream.id) else {
            state.captures.events.remove(&event);
            return Ok(false);
        };
        if capture.is_ruined {
            return Err(Fault::CaptureInvalidated);
        }
        let units = capture.streams.get(&stream.id).map_or(0, |m| m.units);
        state.captures.events.insert(event, (id, stream.id, units));
        Ok(true)
    }

    /// Notes a wait for `event`; true where it belongs to a capture. A stream that waits for a captured event joins the
    /// capture.
    pub(super) fn capture_wait(&self, stream: StreamRef, event: u64, is_recorded: bool) -> Answer<bool> {
        if ALIVE.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        self.check_legacy(stream)?;
        let mut state = self.state.lock();
        let captured = state.captures.events.get(&event).copied();
        let own = state.captures.of_stream(stream.id).map(|(id, capture)| {
            // Outside work inside a capture, or two captures in one: neither can be a graph.
            let is_foreign = captured.map_or(is_recorded, |(other, _, _)| other != id);
            capture.is_ruined |= is_foreign;
            id
        });
        match (own, captured) {
            (None, None) => Ok(false),
            (Some(_), None) if is_recorded => Err(Fault::CaptureIsolation),
            (Some(_), None) => Ok(true),
            (Some(id), Some((other, _, _))) if id != other => Err(Fault::CaptureMerge),
            (_, Some((id, source, units))) => {
                state.captures.join(id, stream, source, units);
                Ok(true)
            }
        }
    }

    /// Fails for an event that was last recorded in a capture.
    pub(super) fn check_not_captured(&self, event: u64) -> Answer<()> {
        let asks = ALIVE.load(Ordering::Acquire) > 0;
        let captured = asks && self.state.lock().captures.events.contains_key(&event);
        if captured { Err(Fault::CapturedEvent) } else { Ok(()) }
    }
}

impl Captures {
    fn join(&mut self, id: u64, stream: StreamRef, source: u64, units: u64) {
        let Some(capture) = self.all.get_mut(&id) else { return };
        let joins = capture.streams.entry(stream.id).or_insert(Member {
            is_blocking: stream.flags == 0,
            // The wait itself is work of the new stream, so the stream must be joined even if it does nothing else.
            units: 1,
            joined_units: 0,
        });
        joins.units += u64::from(stream.id != source);
        if let Some(member) = capture.streams.get_mut(&source).filter(|_| stream.id != source) {
            member.joined_units = member.joined_units.max(units);
        }
    }
}

impl State {
    /// A stream that is destroyed takes its capture with it.
    pub(super) fn drop_capture_of(&mut self, stream: u64) {
        if let Some((id, capture)) = self.captures.of_stream(stream) {
            if capture.origin == stream {
                self.captures.all.remove(&id);
                ALIVE.fetch_sub(1, Ordering::AcqRel);
            } else {
                capture.is_ruined = true;
            }
        }
    }
}
