//! Streams: the handles of the C interface, and the default streams of each context and thread.

use super::handle::{self, Kind, fresh};
use super::{Driver, State, sundries, thread};
use crate::engine::Order;
use crate::error::{Answer, Fault};
use crate::gpu::{Awaited, Gpu};

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// The handle of the legacy default stream, `CU_STREAM_LEGACY`; 0 means it too, or the thread's own.
const LEGACY: u64 = 1;
/// The handle of the thread's own default stream, `CU_STREAM_PER_THREAD`.
const PER_THREAD: u64 = 2;
/// The highest priority, as a number the lowest.
pub const GREATEST_PRIORITY: i32 = -5;

/// A stream that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamRef {
    /// The engine's name for it.
    pub id: u64,
    /// Its device.
    pub device: u32,
    /// Its context.
    pub context: u64,
    /// Whether it is the legacy default stream.
    pub is_legacy: bool,
    /// `CU_STREAM_NON_BLOCKING` or 0.
    pub flags: u32,
    /// Its priority: 0 is the lowest.
    pub priority: i32,
}

impl Driver {
    /// The stream that a handle of the C interface names for the calling thread.
    ///
    /// # Errors
    /// `InvalidHandle` where it names none; `InvalidContext` for a default stream without a current context.
    pub fn stream(&self, handle: u64, per_thread: bool) -> Answer<StreamRef> {
        if handle > PER_THREAD {
            return self.state.lock().streams.get(&handle).copied().ok_or(Fault::InvalidHandle);
        }
        self.in_context(|state, context| {
            if handle == PER_THREAD || (handle == 0 && per_thread) {
                return Ok(self.own_stream(state, context));
            }
            debug_assert!(handle <= LEGACY);
            Ok(state.contexts[&context].legacy)
        })
    }

    /// Makes a stream in the current context.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` for unknown flags; `OutOfMemory` where the device has no room for one more.
    pub fn create_stream(&self, flags: u32, priority: i32) -> Answer<u64> {
        let context = self.in_context(|_, context| Ok(context))?;
        self.create_stream_in(context, flags, priority)
    }

    /// Makes a stream in `context`.
    ///
    /// # Errors
    /// `InvalidContext` where it is none; `InvalidValue` for unknown flags; `OutOfMemory` where the device has no room for one more.
    pub fn create_stream_in(&self, context: u64, flags: u32, priority: i32) -> Answer<u64> {
        if flags > NON_BLOCKING {
            return Err(Fault::InvalidValue);
        }
        let mut state = self.state.lock();
        let device = state.contexts.get(&context).ok_or(Fault::InvalidContext)?.device();
        self.take_sundry(&mut state, context, sundries::STREAM_BYTES)?;
        let priority = priority.clamp(GREATEST_PRIORITY, 0);
        let order = if flags == NON_BLOCKING { Order::Free } else { Order::Blocking };
        let stream = self.new_stream(handle::of_stream(), device, context, order, flags, priority);
        state.streams.insert(stream.id, stream);
        Ok(stream.id)
    }

    /// Destroys a stream after its work is done.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none or a default stream.
    pub fn destroy_stream(&self, handle: u64) -> Answer<()> {
        let stream = self.state.lock().streams.get(&handle).copied().ok_or(Fault::InvalidHandle)?;
        let gpu = self.gpu_of(stream.device);
        gpu.wait(Awaited::Stream(stream.id))?;
        let mut state = self.state.lock();
        state.drop_capture_of(stream.id);
        let is_gone = state.streams.remove(&handle).is_some();
        if is_gone {
            state.leave_sundry(stream.context, sundries::STREAM_BYTES);
        }
        drop(state);
        gpu.with_engine(|engine| engine.remove_stream(stream.id));
        if is_gone {
            handle::end_stream(handle);
        }
        Ok(())
    }

    /// Waits for a stream; a legacy default stream waits for the blocking streams of its context with it.
    ///
    /// # Errors
    /// The sticky error.
    pub fn synchronize_stream(&self, stream: StreamRef) -> Answer<()> {
        self.check_not_capturing(stream)?;
        self.check_unsafe_call()?;
        self.check_legacy(stream)?;
        let gpu = self.gpu_of(stream.device);
        gpu.wait(Self::awaited(stream))?;
        self.trim_after_synchronize(stream.device);
        Ok(())
    }

    /// Whether a stream's work is done.
    ///
    /// # Errors
    /// `NotReady` where it is not; the sticky error.
    pub fn query_stream(&self, stream: StreamRef) -> Answer<()> {
        self.check_not_capturing(stream)?;
        self.check_unsafe_call()?;
        self.check_legacy(stream)?;
        let done = self.gpu_of(stream.device).is_done(Self::awaited(stream))?;
        if done { Ok(()) } else { Err(Fault::NotReady) }
    }

    /// The flags that a stream was made with.
    ///
    /// # Errors
    /// `StreamCaptureUnsupported` where it captures, which ruins the capture, whatever the thread's mode (measured: driver 580).
    pub fn stream_flags(&self, stream: StreamRef) -> Answer<u32> {
        self.check_not_capturing(stream)?;
        Ok(stream.flags)
    }

    /// Waits for all work of `context`, 0 for the current one.
    ///
    /// # Errors
    /// `InvalidContext`; the sticky error.
    pub fn synchronize_context(&self, context: u64) -> Answer<()> {
        let device = self.context_facts(context)?.device;
        self.check_unsafe_call()?;
        let context = if context == 0 { self.current() } else { context };
        self.gpu_of(device).wait(Awaited::Context(context))?;
        self.trim_after_synchronize(device);
        Ok(())
    }

    /// Has a stream call `call` on the host when its work so far is done.
    ///
    /// # Errors
    /// The sticky error.
    pub fn call_host(&self, stream: StreamRef, call: crate::engine::HostCall) -> Answer<()> {
        self.check_not_capturing(stream)?;
        self.check_legacy(stream)?;
        self.gpu_of(stream.device).check_fault()?;
        self.gpu_of(stream.device).submit(stream.id, crate::engine::Work::Host(call));
        Ok(())
    }

    pub(super) fn new_stream(
        &self,
        id: u64,
        device: u32,
        context: u64,
        order: Order,
        flags: u32,
        priority: i32,
    ) -> StreamRef {
        self.gpu_of(device).with_engine(|engine| engine.add_stream(id, order, context, priority));
        StreamRef { id, device, context, is_legacy: order == Order::Legacy, flags, priority }
    }

    /// Forgets the streams and events of a context.
    pub(super) fn end_streams(gpu: &Gpu, state: &mut State, context: u64) {
        state.streams.retain(|_, s| s.context != context);
        state.own_streams.retain(|(_, c), _| *c != context);
        gpu.with_engine(|engine| engine.remove_streams_of(context));
    }

    /// What a wait for `stream` waits for: the legacy default stream stands for the blocking streams of its context too.
    fn awaited(stream: StreamRef) -> Awaited {
        if stream.is_legacy { Awaited::Blocking(stream.context) } else { Awaited::Stream(stream.id) }
    }

    fn own_stream(&self, state: &mut State, context: u64) -> StreamRef {
        let of = (thread::number(), context);
        let known = state.own_streams.get(&of);
        if let Some(stream) = known.and_then(|id| state.streams.get(id)) {
            return *stream;
        }
        let device = state.contexts[&context].device();
        let stream = self.new_stream(fresh(Kind::Stream), device, context, Order::Blocking, 0, 0);
        state.streams.insert(stream.id, stream);
        state.own_streams.insert(of, stream.id);
        stream
    }
}
