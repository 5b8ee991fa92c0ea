//! What a process gets of the GPU: `saturate <kernel ns> <seconds>` keeps a stream full and prints its share of the time;
//! `saturate <kernel ns> <seconds> step` launches and synchronises kernel by kernel and prints how long each took.
//! Start several at once to see the turns. It loads the `libcuda.so.1` that the loader finds.

use cuota_abi::cuda::*;
use std::ffi::{CString, c_void};
use std::time::{Duration, Instant};

const PTX: &str = ".version 8.0
// cuota-sim: spin_arg=0 sms=132
.visible .entry spin(.param .u64 cost_ns) { ret; }
";

struct Cuda(*mut c_void);

impl Cuda {
    fn get<F: Copy>(&self, name: &str) -> F {
        let name = CString::new(name).expect("a name without zeros");
        // SAFETY: the handle is that of a loaded library.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?} is not in libcuda.so.1");
        // SAFETY: the caller names the function's own type; a function pointer has the size of an address.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

fn check(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS, "a CUDA call failed");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, cost_ns, seconds, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: saturate <kernel ns> <seconds> [step]");
        return;
    };
    let mut cost_ns: u64 = cost_ns.parse().expect("the cost of a kernel in nanoseconds");
    let time = Duration::from_secs_f64(seconds.parse().expect("a number of seconds"));
    // SAFETY: the name is a C string.
    let cuda = Cuda(unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) });
    assert!(!cuda.0.is_null(), "no libcuda.so.1: set LD_LIBRARY_PATH to the folder where it is installed");
    let launch: PFN_cuLaunchKernel_v4000 = cuda.get("cuLaunchKernel");
    let synchronize: PFN_cuStreamSynchronize_v2000 = cuda.get("cuStreamSynchronize");
    let (function, stream) = prepare(&cuda);
    let mut parameters = [(&raw mut cost_ns).cast::<c_void>()];
    let mut once = || {
        let none = std::ptr::null_mut();
        // SAFETY: the function, the stream and its one parameter exist while the program runs.
        check(unsafe { launch(function, 528, 1, 1, 64, 1, 1, 0, stream, parameters.as_mut_ptr(), none) });
    };
    // SAFETY: the stream exists.
    let wait = || check(unsafe { synchronize(stream) });
    let (begin, mut steps) = (Instant::now(), Vec::new());
    while begin.elapsed() < time {
        let before = Instant::now();
        once();
        if !rest.is_empty() {
            wait();
        }
        steps.push(before.elapsed());
    }
    wait();
    let (elapsed, kernels) = (begin.elapsed(), u32::try_from(steps.len()).unwrap_or(u32::MAX));
    steps.sort_unstable();
    if rest.is_empty() {
        let share = f64::from(kernels) * Duration::from_nanos(cost_ns).as_secs_f64() / elapsed.as_secs_f64();
        println!("{kernels} kernels of {cost_ns} ns: {:.1} % of the time (simulated)", share * 100.0);
    } else {
        let (median, p99) = (steps[steps.len() / 2], steps[steps.len() * 99 / 100]);
        println!("{kernels} steps of {cost_ns} ns: median {median:.3?}, p99 {p99:.3?} (simulated)");
    }
}

fn prepare(cuda: &Cuda) -> (CUfunction, CUstream) {
    let null = std::ptr::null_mut::<c_void>;
    let (mut context, mut module) = (null().cast(), null().cast());
    let (mut function, mut stream) = (null().cast(), null().cast());
    let image = CString::new(PTX).expect("a text without zeros");
    // SAFETY: every pointer is valid for its use, and every function has the type that the ABI crate gives its name.
    unsafe {
        check(cuda.get::<PFN_cuInit_v2000>("cuInit")(0));
        check(cuda.get::<PFN_cuCtxCreate_v3020>("cuCtxCreate_v2")(&raw mut context, 0, 0));
        check(cuda.get::<PFN_cuModuleLoadData_v2000>("cuModuleLoadData")(
            &raw mut module,
            image.as_ptr().cast(),
        ));
        let get = cuda.get::<PFN_cuModuleGetFunction_v2000>("cuModuleGetFunction");
        check(get(&raw mut function, module, c"spin".as_ptr()));
        check(cuda.get::<PFN_cuStreamCreate_v2000>("cuStreamCreate")(&raw mut stream, 1));
    }
    (function, stream)
}
