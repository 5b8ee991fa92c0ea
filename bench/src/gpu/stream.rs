//! Streams, events and graphs, as thin as can be.

use std::ptr;

use cudarc::driver::sys::{self, CUevent, CUgraphExec, CUstream, CUstreamCaptureMode};

use super::device::Gpu;
use super::error::{CudaError, check};

/// A stream by its handle: what work is submitted to.
#[derive(Clone, Copy)]
pub struct StreamHandle(CUstream);

impl StreamHandle {
    /// The legacy default stream of the current context.
    pub(super) const LEGACY: Self = Self(ptr::null_mut());

    /// As the driver takes it.
    #[inline(always)]
    pub fn raw(self) -> CUstream {
        self.0
    }
}

/// A stream that does not wait for the legacy default stream. Lives as long as the process.
pub struct Stream(CUstream);

impl Stream {
    /// Makes one.
    pub fn new(_gpu: &Gpu) -> Result<Self, CudaError> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `stream` is writable and a context is current since a `Gpu` exists.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
        Ok(Self(stream))
    }

    /// What work is submitted to.
    #[inline(always)]
    pub fn handle(&self) -> StreamHandle {
        StreamHandle(self.0)
    }

    /// Waits until all of it is done.
    #[inline(always)]
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is never destroyed.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.0) })
    }

    /// Makes a launchable graph of what `submit` submits to this stream.
    pub fn capture<E: From<CudaError>>(
        &self,
        submit: impl FnOnce(StreamHandle) -> Result<(), E>,
    ) -> Result<Graph, E> {
        // Thread-local, so that no other thread of the process can spoil it.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let mut graph = ptr::null_mut();
        let mut launchable = ptr::null_mut();
        // SAFETY: the stream is alive; outputs are writable; the graph is not used after it is destroyed.
        unsafe {
            check("cuStreamBeginCapture", sys::cuStreamBeginCapture_v2(self.0, mode))?;
            let submitted = submit(self.handle());
            let ended = check("cuStreamEndCapture", sys::cuStreamEndCapture(self.0, &raw mut graph));
            submitted?;
            ended?;
            let made = sys::cuGraphInstantiateWithFlags(&raw mut launchable, graph, 0);
            check("cuGraphInstantiateWithFlags", made)?;
            check("cuGraphDestroy", sys::cuGraphDestroy(graph))?;
        }
        Ok(Graph(launchable))
    }
}

/// A launchable graph. Lives as long as the process.
pub struct Graph(CUgraphExec);

impl Graph {
    /// Launches it on `stream`.
    #[inline(always)]
    pub fn launch(&self, stream: StreamHandle) -> Result<(), CudaError> {
        // SAFETY: the graph is never destroyed; the stream is the caller's and alive.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.0, stream.raw()) })
    }

    /// The driver's handle.
    pub fn handle(&self) -> CUgraphExec {
        self.0
    }
}

/// An event. Lives as long as the process.
pub struct Event(CUevent);

impl Event {
    /// An event that carries a time.
    pub fn timing(_gpu: &Gpu) -> Result<Self, CudaError> {
        Self::with(sys::CUevent_flags::CU_EVENT_DEFAULT as u32)
    }

    /// An event that carries a time, and whose waiters sleep: so that waiting takes no CPU from other tenants.
    pub fn sleeping(_gpu: &Gpu) -> Result<Self, CudaError> {
        Self::with(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32)
    }

    /// An event without a time, waited for as the driver does by itself.
    pub fn plain(_gpu: &Gpu) -> Result<Self, CudaError> {
        Self::with(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32)
    }

    fn with(flags: u32) -> Result<Self, CudaError> {
        let mut event = ptr::null_mut();
        // SAFETY: `event` is writable and a context is current.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, flags) })?;
        Ok(Self(event))
    }

    /// Records it on `stream`.
    #[inline(always)]
    pub fn record(&self, stream: StreamHandle) -> Result<(), CudaError> {
        // SAFETY: event and stream are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream.raw()) })
    }

    /// Waits until it is reached.
    #[inline(always)]
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.0) })
    }

    /// GPU time from `earlier` to this one, in nanoseconds; both timing events that were reached.
    pub fn since_ns(&self, earlier: &Self) -> Result<f64, CudaError> {
        let mut ms = 0.0_f32;
        // SAFETY: `ms` is writable and both events are alive.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime(&raw mut ms, earlier.0, self.0) })?;
        Ok(f64::from(ms) * 1e6)
    }
}
