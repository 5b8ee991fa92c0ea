//! The few driver calls that the experiments need, found in `libcuda.so.1` when the program starts, so that it builds and
//! starts where there is no driver. A call that fails ends the program with its name and code: a cell whose calls failed
//! has no figure.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cuota_abi::cuda::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchConfig};

type Handle = *mut c_void;
type Code = c_int;

/// `CUDA_ERROR_NOT_READY`.
const NOT_READY: Code = 600;
/// `CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC`.
const MARK_FLAGS: c_uint = 2 | 1;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`.
const THREAD_LOCAL: c_int = 1;

macro_rules! driver {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        struct Driver { $($name: unsafe extern "C" fn($($kind),*) -> Code,)* }

        impl Driver {
            fn load() -> Self {
                let library = open(c"libcuda.so.1");
                // SAFETY: each symbol has the type that CUDA's driver API gives it.
                unsafe { Self { $($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($kind),*) -> Code>(find(library, $symbol)),)* } }
            }
        }
    };
}

driver! {
    init = c"cuInit" (c_uint);
    device_get = c"cuDeviceGet" (*mut c_int, c_int);
    device_name = c"cuDeviceGetName" (*mut c_char, c_int, c_int);
    device_attribute = c"cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    driver_version = c"cuDriverGetVersion" (*mut c_int);
    primary_retain = c"cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    set_current = c"cuCtxSetCurrent" (Handle);
    stream_create = c"cuStreamCreate" (*mut Handle, c_uint);
    stream_synchronize = c"cuStreamSynchronize" (Handle);
    event_create = c"cuEventCreate" (*mut Handle, c_uint);
    event_record = c"cuEventRecord" (Handle, Handle);
    event_query = c"cuEventQuery" (Handle);
    event_synchronize = c"cuEventSynchronize" (Handle);
    event_elapsed = c"cuEventElapsedTime" (*mut f32, Handle, Handle);
    module_load = c"cuModuleLoadData" (*mut Handle, *const c_void);
    module_function = c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    launch = c"cuLaunchKernel" (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    launch_ex = c"cuLaunchKernelEx" (*const CUlaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    mem_alloc = c"cuMemAlloc_v2" (*mut u64, usize);
    memset = c"cuMemsetD8_v2" (u64, u8, usize);
    copy_to_device = c"cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    host_alloc = c"cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    begin_capture = c"cuStreamBeginCapture_v2" (Handle, c_int);
    end_capture = c"cuStreamEndCapture" (Handle, *mut Handle);
    instantiate = c"cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    graph_launch = c"cuGraphLaunch" (Handle, Handle);
}

/// Opens a library, or ends the program with the loader's words.
pub(crate) fn open(name: &std::ffi::CStr) -> *mut c_void {
    // SAFETY: a C string; the library's initialisers are trusted as those of any driver.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if library.is_null() {
        // SAFETY: after a failed dlopen, dlerror gives a C string.
        panic!("{}", unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) }.to_string_lossy());
    }
    library
}

/// Finds a symbol, or ends the program.
pub(crate) fn find(library: *mut c_void, symbol: &std::ffi::CStr) -> *mut c_void {
    // SAFETY: an open library and a C string.
    let address = unsafe { libc::dlsym(library, symbol.as_ptr()) };
    assert!(!address.is_null(), "{} is not in the library", symbol.to_string_lossy());
    address
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

fn driver() -> &'static Driver {
    DRIVER.get_or_init(Driver::load)
}

macro_rules! call {
    ($name:ident($($argument:expr),*)) => {{
        // SAFETY: outputs are writable, handles are live: they are made by this module and never destroyed.
        let code = unsafe { (driver().$name)($($argument),*) };
        assert!(code == 0, "{} failed with error {code}", stringify!($name));
    }};
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) struct $name(usize);

        impl $name {
            /// As the driver takes it.
            pub(crate) fn raw(self) -> Handle {
                std::ptr::with_exposed_provenance_mut(self.0)
            }
        }
    )* };
}

handles!(
    /// A context.
    Context,
    /// A stream.
    Stream,
    /// An event.
    Event,
    /// A module.
    Module,
    /// A kernel.
    Function,
    /// A graph that can be launched.
    Graph
);

/// A device that is ready for work.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// What the driver calls it.
    pub(crate) name: String,
    /// As `cuDriverGetVersion` has it.
    pub(crate) driver: i32,
    /// Multiprocessors.
    pub(crate) multiprocessors: u32,
    /// The highest clock, kHz.
    pub(crate) clock_khz: u64,
    context: Context,
}

impl Device {
    /// The first device, its primary context current in this thread.
    pub(crate) fn open() -> Self {
        call!(init(0));
        let (mut device, mut name, mut driver_version) = (0, [0_u8; 128], 0);
        call!(device_get(&raw mut device, 0));
        call!(device_name(name.as_mut_ptr().cast(), 128, device));
        call!(driver_version(&raw mut driver_version));
        let mut context = std::ptr::null_mut();
        call!(primary_retain(&raw mut context, device));
        let attribute = |which: c_int| {
            let mut value = 0;
            call!(device_attribute(&raw mut value, which, device));
            value
        };
        // 16: CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT; 13: CU_DEVICE_ATTRIBUTE_CLOCK_RATE.
        let device = Self {
            name: String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned(),
            driver: driver_version,
            multiprocessors: u32::try_from(attribute(16)).unwrap_or(1).max(1),
            clock_khz: u64::try_from(attribute(13)).unwrap_or(0).max(1_000_000),
            context: Context(context.expose_provenance()),
        };
        device.enter();
        device
    }

    /// Makes the context current in this thread.
    pub(crate) fn enter(&self) {
        call!(set_current(self.context.raw()));
    }
}

impl Stream {
    /// A stream that does not wait for the legacy one.
    pub(crate) fn new() -> Self {
        let mut stream = std::ptr::null_mut();
        call!(stream_create(&raw mut stream, NON_BLOCKING));
        Self(stream.expose_provenance())
    }

    /// Waits until it has drained.
    pub(crate) fn synchronize(self) {
        call!(stream_synchronize(self.raw()));
    }

    /// Copies from pinned memory.
    pub(crate) fn upload(self, to: u64, from: Pinned, bytes: usize) {
        let from: *const c_void = std::ptr::with_exposed_provenance(from.0);
        call!(copy_to_device(to, from, bytes, self.raw()));
    }

    /// What `launches` puts on it, as a graph.
    pub(crate) fn capture(self, launches: impl FnOnce()) -> Graph {
        call!(begin_capture(self.raw(), THREAD_LOCAL));
        launches();
        let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
        call!(end_capture(self.raw(), &raw mut graph));
        call!(instantiate(&raw mut executable, graph, 0));
        Graph(executable.expose_provenance())
    }
}

impl Graph {
    /// Launches it.
    pub(crate) fn launch(self, stream: Stream) {
        call!(graph_launch(self.raw(), stream.raw()));
    }

    /// What a cost is filed under.
    pub(crate) fn id(self) -> u64 {
        self.0 as u64
    }
}

impl Event {
    /// An event that keeps the time.
    pub(crate) fn timing() -> Self {
        Self::with(0)
    }

    /// An event that only says that it was reached.
    pub(crate) fn mark() -> Self {
        Self::with(MARK_FLAGS)
    }

    fn with(flags: c_uint) -> Self {
        let mut event = std::ptr::null_mut();
        call!(event_create(&raw mut event, flags));
        Self(event.expose_provenance())
    }

    /// Puts it on the stream.
    pub(crate) fn record(self, stream: Stream) {
        call!(event_record(self.raw(), stream.raw()));
    }

    /// Whether it was reached.
    pub(crate) fn is_reached(self) -> bool {
        // SAFETY: a live event.
        let code = unsafe { (driver().event_query)(self.raw()) };
        assert!(code == 0 || code == NOT_READY, "cuEventQuery failed with error {code}");
        code == 0
    }

    /// Waits until it is reached.
    pub(crate) fn synchronize(self) {
        call!(event_synchronize(self.raw()));
    }

    /// From `earlier` to this one, ns; both were reached.
    pub(crate) fn since_ns(self, earlier: Self) -> i64 {
        let mut milliseconds = 0.0;
        call!(event_elapsed(&raw mut milliseconds, earlier.raw(), self.raw()));
        #[expect(clippy::cast_possible_truncation, reason = "minutes at most")]
        let ns = (f64::from(milliseconds) * 1e6).round() as i64;
        ns
    }
}

/// Memory of the host that the device can copy from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned(usize);

impl Pinned {
    /// `bytes` of it.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut at = std::ptr::null_mut();
        call!(host_alloc(&raw mut at, bytes, 0));
        Self(at.expose_provenance())
    }
}

/// Device memory that lives as long as the process, zeroed: its address.
pub(crate) fn zeroed(bytes: usize) -> u64 {
    let mut at = 0;
    call!(mem_alloc(&raw mut at, bytes));
    call!(memset(at, 0, bytes));
    // It was put on the legacy stream, for which ours do not wait.
    call!(stream_synchronize(std::ptr::null_mut()));
    at
}

impl Module {
    /// Loads PTX text.
    pub(crate) fn load(ptx: &str) -> Self {
        let image = CString::new(ptx).expect("PTX without a zero byte");
        let mut module = std::ptr::null_mut();
        call!(module_load(&raw mut module, image.as_ptr().cast()));
        Self(module.expose_provenance())
    }

    /// Finds a kernel.
    pub(crate) fn function(self, name: &str) -> Function {
        let name = CString::new(name).expect("a name");
        let mut function = std::ptr::null_mut();
        call!(module_function(&raw mut function, self.raw(), name.as_ptr()));
        Function(function.expose_provenance())
    }
}

/// A launch, but for its stream.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What is launched.
    pub(crate) function: Function,
    /// Blocks.
    pub(crate) grid: [u32; 2],
    /// Threads of each.
    pub(crate) threads: u32,
    /// Its arguments, each in the low bytes of a word; the driver reads as many as the kernel takes.
    pub(crate) arguments: [u64; 9],
    /// Programmatic dependent launch: it may begin while its predecessor still runs.
    pub(crate) dependent: bool,
}

impl Kernel {
    /// Launches it.
    pub(crate) fn launch(&self, stream: Stream) {
        let mut words = self.arguments;
        let mut pointers = words.each_mut().map(|word| std::ptr::from_mut(word).cast());
        let [x, y] = self.grid;
        if !self.dependent {
            let (parameters, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
            call!(launch(
                self.function.raw(),
                x,
                y,
                1,
                self.threads,
                1,
                1,
                0,
                stream.raw(),
                parameters,
                none
            ));
            return;
        }
        // SAFETY: a plain structure of numbers; the field belongs to the attribute that is named.
        let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.raw().cast(),
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        let none = std::ptr::null_mut();
        call!(launch_ex(&raw const config, self.function.raw(), pointers.as_mut_ptr(), none));
    }

    /// What its cost is filed under: function and shape.
    pub(crate) fn key(&self) -> [u64; 2] {
        let shape = u64::from(self.grid[0]) << 32 ^ u64::from(self.grid[1]) << 12 ^ u64::from(self.threads);
        [self.function.0 as u64, shape]
    }
}
