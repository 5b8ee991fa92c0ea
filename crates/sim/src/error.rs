//! The errors of the CUDA driver API that the model can give, by NVIDIA's numbers.

/// An error of the driver API. `code()` is the `CUresult` that the caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are NVIDIA's own, less the CUDA_ERROR_ prefix")]
pub enum Fault {
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    FileNotFound = 301,
    OperatingSystem = 304,
    InvalidHandle = 400,
    IllegalState = 401,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    PrimaryContextActive = 708,
    ContextIsDestroyed = 709,
    HostMemoryAlreadyRegistered = 712,
    HostMemoryNotRegistered = 713,
    NotPermitted = 800,
    NotSupported = 801,
    CaptureUnsupported = 900,
    CaptureInvalidated = 901,
    CaptureMerge = 902,
    CaptureUnmatched = 903,
    CaptureUnjoined = 904,
    CaptureIsolation = 905,
    CaptureImplicit = 906,
    CapturedEvent = 907,
    CaptureWrongThread = 908,
    GraphExecUpdateFailure = 910,
    InvalidResourceConfiguration = 914,
    Unknown = 999,
}

impl Fault {
    /// The `CUresult` number.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// What a call of the model gives.
pub type Answer<T> = Result<T, Fault>;
