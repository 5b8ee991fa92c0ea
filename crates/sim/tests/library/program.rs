//! A test is a program: it runs itself again in a child process, where it loads the libraries.

use cuota_abi::cuda::*;
use cuota_abi::nvml::*;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const CHILD: &str = "CUOTA_SIM_TEST_CHILD";

/// The kernels of the tests.
pub(crate) const PTX: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .global .align 4 .b8 table[64];
// cuota-sim: spin_arg=0 sms=132
.visible .entry spin(.param .u64 cost_ns) { ret; }
// cuota-sim: wait_flag_arg=0
.visible .entry waiter(.param .u64 flag) { ret; }
// cuota-sim: cost_ns=5000 set_flag_arg=0 sms=1
.visible .entry setter(.param .u64 flag) { ret; }
// cuota-sim: fault=1
.visible .entry broken() { ret; }
";

/// Runs `scenario` in a child process whose machine has 8 GiB; `name` is the test's path in this crate.
pub(crate) fn in_child(name: &str, scenario: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return scenario();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let status = start(name, "0", folder.path()).wait().expect("the child runs");
    assert!(status.success(), "{name}: {status}");
}

/// Which part of a test with several processes this one plays; `None` in the process that starts them.
pub(crate) fn part() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Starts the test `name` again as `part`, on the machine in `folder`.
pub(crate) fn start(name: &str, part: &str, folder: &Path) -> Child {
    command(name, part, folder).spawn().expect("the test can be started")
}

/// The test `name` as `part`, on the machine in `folder`, to be started.
pub(crate) fn command(name: &str, part: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test has a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, part).env("CUOTA_SIM_DIR", folder).env("CUOTA_SIM_MEMORY", "8GiB");
    command.env("CUOTA_SIM_LOG", folder.join("log"));
    command.env_remove("CUDA_VISIBLE_DEVICES").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn library(file: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let folder = test.parent().expect("it lies in a folder");
    folder.join(file)
}

/// A loaded library.
pub(crate) struct Library(*mut c_void);

impl Library {
    pub(crate) fn cuda() -> Self {
        Self::open("libcuota_sim_cuda.so")
    }

    pub(crate) fn nvml() -> Self {
        Self::open("libcuota_sim_nvml.so")
    }

    fn open(file: &str) -> Self {
        let path =
            CString::new(library(file).to_str().expect("a path in UTF-8")).expect("a path without zeros");
        // SAFETY: the path is a C string and the library one of this workspace.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "cannot load {}", path.display_lossy());
        Self(handle)
    }

    pub(crate) fn address(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).expect("a name without zeros");
        // SAFETY: the handle is that of a loaded library.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?} is not exported");
        address
    }

    /// The function `name`, as a pointer of its type in the ABI crate.
    pub(crate) fn get<F: Copy>(&self, name: &str) -> F {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the build script of the library checks each export against the ABI crate's type for its name.
        unsafe { std::mem::transmute_copy(&self.address(name)) }
    }
}

trait DisplayLossy {
    fn display_lossy(&self) -> String;
}

impl DisplayLossy for CString {
    fn display_lossy(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

/// Calls a function of the library and gives the number of its result.
macro_rules! call {
    ($library:expr, $name:ident: $type:ident($($argument:expr),* $(,)?)) => {{
        let function: $type = $library.get(stringify!($name));
        // SAFETY: the arguments are those that CUDA documents for this function.
        unsafe { function($($argument),*) }.0
    }};
}
pub(crate) use call;

/// A program with a context and the kernels of [`PTX`].
pub(crate) struct Program {
    pub(crate) cuda: Library,
    pub(crate) module: CUmodule,
}

impl Program {
    pub(crate) fn start() -> Self {
        let cuda = Library::cuda();
        assert_eq!(call!(cuda, cuInit: PFN_cuInit_v2000(0)), 0);
        let mut context = std::ptr::null_mut();
        assert_eq!(call!(cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut context, 0, 0)), 0);
        let image = CString::new(PTX).expect("no zeros");
        let mut module = std::ptr::null_mut();
        let loaded =
            call!(cuda, cuModuleLoadData: PFN_cuModuleLoadData_v2000(&raw mut module, image.as_ptr().cast()));
        assert_eq!(loaded, 0);
        Self { cuda, module }
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<u64, u32> {
        let mut address = 0;
        match call!(self.cuda, cuMemAlloc_v2: PFN_cuMemAlloc_v3020(&raw mut address, bytes)) {
            0 => Ok(address),
            error => Err(error),
        }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let (mut free, mut total) = (0, 0);
        let asked = call!(self.cuda, cuMemGetInfo_v2: PFN_cuMemGetInfo_v3020(&raw mut free, &raw mut total));
        assert_eq!(asked, 0);
        free as u64
    }

    /// What NVML shows for this process, in bytes.
    pub(crate) fn shown_bytes(&self) -> u64 {
        let nvml = Library::nvml();
        let mut device = std::ptr::null_mut();
        assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
        let get =
            call!(nvml, nvmlDeviceGetHandleByIndex_v2: PFN_nvmlDeviceGetHandleByIndex_v2(0, &raw mut device));
        let nobody = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let (mut count, mut list) = (64, [nobody; 64]);
        let all = call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3:
                PFN_nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr())
        );
        assert_eq!((get, all), (0, 0));
        list.iter().find(|p| p.pid == std::process::id()).map_or(0, |p| p.usedGpuMemory)
    }

    /// A stream that does not wait for the legacy default stream (1), or does (0).
    pub(crate) fn stream(&self, flags: u32) -> CUstream {
        let mut stream = std::ptr::null_mut();
        assert_eq!(call!(self.cuda, cuStreamCreate: PFN_cuStreamCreate_v2000(&raw mut stream, flags)), 0);
        stream
    }

    pub(crate) fn event(&self) -> CUevent {
        let mut event = std::ptr::null_mut();
        assert_eq!(call!(self.cuda, cuEventCreate: PFN_cuEventCreate_v2000(&raw mut event, 0)), 0);
        event
    }

    pub(crate) fn record(&self, event: CUevent, stream: CUstream) -> u32 {
        call!(self.cuda, cuEventRecord: PFN_cuEventRecord_v2000(event, stream))
    }

    pub(crate) fn query(&self, event: CUevent) -> u32 {
        call!(self.cuda, cuEventQuery: PFN_cuEventQuery_v2000(event))
    }

    pub(crate) fn elapsed_us(&self, start: CUevent, end: CUevent) -> f32 {
        let mut elapsed_ms = 0.0;
        let elapsed = PFN_elapsed(&self.cuda);
        // SAFETY: the pointer is valid and the events exist.
        assert_eq!(unsafe { elapsed(&raw mut elapsed_ms, start, end) }.0, 0);
        elapsed_ms * 1000.0
    }

    pub(crate) fn launch(&self, kernel: &str, argument: u64, stream: CUstream) -> u32 {
        let name = CString::new(kernel).expect("no zeros");
        let mut function = std::ptr::null_mut();
        let get = call!(self.cuda, cuModuleGetFunction: PFN_cuModuleGetFunction_v2000(&raw mut function, self.module, name.as_ptr()));
        assert_eq!(get, 0, "{kernel}");
        let mut argument = argument;
        let mut each = [(&raw mut argument).cast::<c_void>()];
        let none = std::ptr::null_mut();
        call!(
            self.cuda,
            cuLaunchKernel: PFN_cuLaunchKernel_v4000(function, 132, 1, 1, 64, 1, 1, 0, stream, each.as_mut_ptr(), none)
        )
    }

    pub(crate) fn synchronize(&self, stream: CUstream) -> u32 {
        call!(self.cuda, cuStreamSynchronize: PFN_cuStreamSynchronize_v2000(stream))
    }
}

#[expect(non_snake_case, reason = "stands for a type of the ABI crate")]
fn PFN_elapsed(cuda: &Library) -> unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult {
    cuda.get("cuEventElapsedTime")
}
