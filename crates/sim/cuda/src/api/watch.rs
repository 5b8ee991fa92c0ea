//! Calls that a preloaded library makes of the driver for itself: `CUOTA_SIM_WATCH=<file>`.
//!
//! Such a call must ruin no capture of the program's, whoever captures when it comes. A capture is rarely open just then, so the rule is
//! checked where none is, too: what `cuThreadExchangeStreamCaptureMode`'s page calls potentially unsafe comes from a relaxed thread. What breaks
//! the rule fails with 900, and is named in the file, once a process.

use cuota_sim::driver::{Driver, Mode};
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, OnceLock};

/// What such a library is called.
const LIBRARIES: [&str; 2] = ["libcuota", "libvgpu"];

/// What follows where it passes on the program's own call: nop; mov rbx, [rbp - 8]; leave; ret (`make` in its `arch`).
const PASSED_ON: [u8; 7] = [0x90, 0x48, 0x8b, 0x5d, 0xf8, 0xc9, 0xc3];

/// What ruins no capture in any mode: measured on driver 580.
const SAFE: &[&str] = &[
    "cuCtxGetDevice",
    "cuCtxGetLimit",
    "cuDeviceGetGraphMemAttribute",
    "cuDeviceGetMemPool",
    "cuDeviceGraphMemTrim",
    "cuDevicePrimaryCtxGetState",
    "cuEventCreate",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuMemGetAddressRange_v2",
    "cuMemGetInfo_v2",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuThreadExchangeStreamCaptureMode",
];

/// What is taken for as harmless, and was not measured: it reads what does not change of a device, of code or of a graph, counts references
/// of a context that is there, names the thread's context, or is work of a stream, as a launch.
const HARMLESS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuGetProcAddress_v2",
    "cuGraphChildGraphNodeGetGraph",
    "cuGraphGetNodes",
    "cuGraphKernelNodeGetParams_v2",
    "cuGraphMemAllocNodeGetParams",
    "cuGraphNodeGetType",
    "cuKernelGetLibrary",
    "cuLibraryEnumerateKernels",
    "cuLibraryGetKernelCount",
    "cuMemFreeAsync",
];

/// What such a library never calls for itself, and programs call often.
const THE_PROGRAMS: &str = "cuLaunchKernel";

type Frame = *mut c_void;

unsafe extern "C" {
    fn _Unwind_Backtrace(look: extern "C" fn(Frame, *mut usize) -> c_int, at: *mut usize) -> c_int;
    fn _Unwind_GetIP(frame: Frame) -> usize;
}

/// The object that an address lies in: its name and its base.
fn object_at(address: usize) -> Option<(&'static CStr, usize)> {
    // SAFETY: integers and pointers, for which all-zero is a value.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: fills one structure.
    let is_found = unsafe { libc::dladdr(address as *const c_void, &raw mut found) } != 0;
    // SAFETY: the loader's own text, which lives as long as the object.
    (is_found && !found.dli_fname.is_null())
        .then(|| (unsafe { CStr::from_ptr(found.dli_fname) }, found.dli_fbase as usize))
}

/// Stops at the first frame that is not this library's.
extern "C" fn look(frame: Frame, at: *mut usize) -> c_int {
    const GO_ON: c_int = 0;
    const END: c_int = 5;
    // SAFETY: the unwinder's frame.
    let address = unsafe { _Unwind_GetIP(frame) };
    let own = object_at(look as *const () as usize).map(|(_, base)| base);
    if object_at(address).map(|(_, base)| base) == own {
        return GO_ON;
    }
    // SAFETY: `caller`'s word.
    unsafe { at.write(address) };
    END
}

/// Where the call comes from, if a library makes it for itself.
fn caller() -> Option<String> {
    let mut at = 0;
    // SAFETY: `look` takes such a word.
    unsafe { _Unwind_Backtrace(look, &raw mut at) };
    let (name, base) = object_at(at)?;
    let name = name.to_str().ok()?.rsplit('/').next()?;
    // SAFETY: code is read, some bytes behind a call.
    let passes_on = unsafe { (at as *const [u8; PASSED_ON.len()]).read_unaligned() } == PASSED_ON;
    let is_own = LIBRARIES.iter().any(|library| name.starts_with(library)) && !passes_on;
    is_own.then(|| format!("{name}+{:#x}", at - base))
}

fn file() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("CUOTA_SIM_WATCH").filter(|path| !path.is_empty())?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    };
    FILE.get_or_init(open).as_ref()
}

/// Whether a call breaks the rule.
pub(super) fn breaks_rule(name: &'static str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(mut file) = file() else { return false };
    let may_be_made = || SAFE.contains(&name) || HARMLESS.contains(&name) || name == THE_PROGRAMS;
    if Driver::mode() == Mode::Relaxed || may_be_made() {
        return false;
    }
    let Some(from) = caller() else { return false };
    let line = format!("{name} from {from}\n");
    if SAID.lock().is_ok_and(|mut said| said.insert(line.clone())) {
        let _ = file.write_all(line.as_bytes());
    }
    true
}
