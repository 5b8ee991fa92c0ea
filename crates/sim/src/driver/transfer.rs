//! Copies and fills.

use super::graph::{Node, NodeKind};
use super::streams::StreamRef;
use super::{Driver, State};
use crate::engine::{Comparison, Effect, Lane, Word, Work};
use crate::error::{Answer, Fault};
use crate::gpu::Awaited;
use crate::memory::Span;
use crate::units::index;

/// Bytes in a nanosecond over PCIe 5 x16, about what an H100 reaches.
const LINK_BYTES_PER_NS: u64 = 50;
/// Bytes in a nanosecond inside the device: HBM3 read and written once.
const DEVICE_BYTES_PER_NS: u64 = 1_500;
/// What the smallest copy or fill takes.
const LEAST_NS: u64 = 1_500;
/// What a write of a word by the stream takes, measured on an H100.
const WRITE_VALUE_NS: u64 = 2_000;

/// The side of a copy that an address is on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Device(Vec<Span>),
    Pinned(Vec<Span>),
    Pageable(Vec<Span>),
}

impl Side {
    fn spans(&self) -> &[Span] {
        match self {
            Self::Device(spans) | Self::Pinned(spans) | Self::Pageable(spans) => spans,
        }
    }
}

/// Which addresses of a copy must be memory that the device knows: its own, or pinned host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// None: the addresses say where they are.
    Any,
    /// The destination.
    ToDevice,
    /// The source.
    FromDevice,
    /// Both.
    OnDevice,
}

impl Direction {
    fn allows(self, to: &Side, from: &Side) -> bool {
        let is_known = |side: &Side| !matches!(side, Side::Pageable(_));
        match self {
            Self::Any => true,
            Self::ToDevice => is_known(to),
            Self::FromDevice => is_known(from),
            Self::OnDevice => is_known(to) && is_known(from),
        }
    }
}

/// What a copy promises its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The call returns when the copy is done.
    Synchronous,
    /// The call returns at once, as far as pageable memory allows.
    Asynchronous,
}

impl Driver {
    /// Copies `bytes` from one address to another; each may be on the device or on the host, as far as `direction` allows.
    ///
    /// # Errors
    /// `InvalidValue` where an address is null, device memory ends too soon, or an address that must be the device's is
    /// not; the sticky error.
    pub fn copy(
        &self,
        direction: Direction,
        to: u64,
        from: u64,
        bytes: u64,
        stream: StreamRef,
        promise: Promise,
    ) -> Answer<()> {
        if promise == Promise::Synchronous {
            self.check_unsafe_call()?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let (to, from) = {
            let mut state = self.state.lock();
            let sides = (state.side(to, bytes)?, state.side(from, bytes)?);
            self.touch(&mut state, to, bytes, stream.device);
            self.touch(&mut state, from, bytes, stream.device);
            sides
        };
        if !direction.allows(&to, &from) {
            return Err(Fault::InvalidValue);
        }
        let (lane, rate) = match (&to, &from) {
            (Side::Device(_), Side::Device(_)) => (Lane::Sms(16), DEVICE_BYTES_PER_NS),
            (Side::Device(_), _) => (Lane::HostToDevice, LINK_BYTES_PER_NS),
            (_, Side::Device(_)) => (Lane::DeviceToHost, LINK_BYTES_PER_NS),
            _ => (Lane::Free, LINK_BYTES_PER_NS),
        };
        let touches_pageable = matches!(to, Side::Pageable(_)) || matches!(from, Side::Pageable(_));
        let is_captured = self.is_capturing(stream);
        // As the driver stages it: a copy from pageable memory has read its source when the call returns.
        let effect = match &from {
            Side::Pageable(spans) if promise == Promise::Asynchronous && !is_captured => {
                Effect::Bring { bytes: read(spans), to: to.spans().to_vec() }
            }
            _ => Effect::Copy { from: from.spans().to_vec(), to: to.spans().to_vec() },
        };
        let cost_ns = (bytes / rate).max(LEAST_NS);
        self.enqueue(stream, Node::Timed { cost_ns, lane, effect, faults: false, kind: NodeKind::Copy })?;
        let must_wait =
            promise == Promise::Synchronous || (touches_pageable && matches!(to, Side::Pageable(_)));
        if must_wait && !is_captured {
            return self.gpu_of(stream.device).wait(Awaited::Stream(stream.id));
        }
        Ok(())
    }

    /// Repeats a pattern of 1, 2 or 4 bytes over `bytes` bytes at `to`.
    ///
    /// # Errors
    /// `InvalidValue` where that is no device or pinned memory, or not aligned to the pattern; the sticky error.
    pub fn fill(&self, to: u64, pattern: &[u8], bytes: u64, stream: StreamRef) -> Answer<()> {
        if bytes == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(Fault::InvalidValue);
        }
        let to = {
            let mut state = self.state.lock();
            self.touch(&mut state, to, bytes, stream.device);
            match state.side(to, bytes)? {
                Side::Pageable(_) => return Err(Fault::InvalidValue),
                Side::Device(spans) | Side::Pinned(spans) => spans,
            }
        };
        let effect = Effect::Fill { pattern: pattern.to_vec(), to };
        let cost_ns = (bytes / (2 * DEVICE_BYTES_PER_NS)).max(LEAST_NS);
        let (lane, kind) = (Lane::Sms(16), NodeKind::Fill);
        self.enqueue(stream, Node::Timed { cost_ns, lane, effect, faults: false, kind })
    }

    /// Has a stream write a word.
    ///
    /// # Errors
    /// `InvalidValue` where `address` is neither device nor pinned memory; the sticky error.
    pub fn write_value(&self, stream: StreamRef, address: u64, value: u64, is_wide: bool) -> Answer<()> {
        let word = self.word(address, is_wide)?;
        let effect = Effect::Store { word, value };
        let (lane, kind) = (Lane::Free, NodeKind::Batch);
        self.enqueue(stream, Node::Timed { cost_ns: WRITE_VALUE_NS, lane, effect, faults: false, kind })
    }

    /// Has a stream wait until a word compares.
    ///
    /// # Errors
    /// As [`Self::write_value`].
    pub fn wait_value(
        &self,
        stream: StreamRef,
        address: u64,
        wanted: u64,
        comparison: Comparison,
        is_wide: bool,
    ) -> Answer<()> {
        let word = self.word(address, is_wide)?;
        self.check_not_capturing(stream)?;
        self.check_legacy(stream)?;
        let gpu = self.gpu_of(stream.device);
        gpu.check_fault()?;
        gpu.submit(stream.id, Work::WaitValue { word, wanted, comparison });
        Ok(())
    }

    fn word(&self, address: u64, is_wide: bool) -> Answer<Word> {
        let bytes = if is_wide { 8 } else { 4 };
        if !address.is_multiple_of(bytes) {
            return Err(Fault::InvalidValue);
        }
        Ok(Word { host: self.state.lock().host_address(address, bytes)?, is_wide })
    }
}

impl State {
    /// The host address of a word in device or pinned memory.
    pub(super) fn host_address(&self, address: u64, bytes: u64) -> Answer<u64> {
        match self.side(address, bytes)? {
            Side::Pageable(_) => Err(Fault::InvalidValue),
            Side::Device(spans) | Side::Pinned(spans) => {
                spans.first().map(|s| s.host).ok_or(Fault::InvalidValue)
            }
        }
    }

    fn side(&self, address: u64, bytes: u64) -> Answer<Side> {
        if self.space.is_reserved(address) || self.space.device_of(address).is_some() {
            return Ok(Side::Device(self.space.translate(address, bytes)?));
        }
        if address == 0 {
            return Err(Fault::InvalidValue);
        }
        let spans = vec![Span { host: address, bytes }];
        let pinned = self.host.range(..=address).next_back();
        let is_pinned = pinned.is_some_and(|(start, range)| address + bytes <= start + range.bytes());
        Ok(if is_pinned { Side::Pinned(spans) } else { Side::Pageable(spans) })
    }
}

fn read(spans: &[Span]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for span in spans {
        let carried = span.bytes.min(crate::gpu::CARRIED);
        // SAFETY: the caller of the C interface promises that the source of a copy is readable.
        bytes
            .extend_from_slice(unsafe { std::slice::from_raw_parts(span.host as *const u8, index(carried)) });
    }
    bytes
}
