//! Calls where a program or a thread hardly exists any more.

use crate::program::{PTX, Program, call, in_child};
use cuota_abi::cuda::*;
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::OnceLock;

const OWN_STREAM: CUstream = std::ptr::without_provenance_mut(2);

struct Shared(Program);
// SAFETY: the library and its handles can be used from every thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

static PROGRAM: OnceLock<Shared> = OnceLock::new();

/// What needs thread-locals: the current context, the thread's own stream, captures; and what starts from nothing.
fn use_everything(program: &Program) {
    let (cuda, mut context) = (&program.cuda, null_mut());
    let get = call!(cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut context));
    assert_eq!((get, context.is_null()), (0, false), "the context is current still");
    let address = program.allocate(1 << 20).expect("room");
    assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 0);
    assert_eq!((program.launch("spin", 1000, OWN_STREAM), program.synchronize(OWN_STREAM)), (0, 0));
    let (mode, mut graph) = (CUstreamCaptureMode(0), null_mut());
    let stream = program.stream(1);
    let begin = call!(cuda, cuStreamBeginCapture_v2: PFN_cuStreamBeginCapture_v10010(stream, mode));
    let unsafe_call = program.query(program.event());
    let end = call!(cuda, cuStreamEndCapture: PFN_cuStreamEndCapture_v10000(stream, &raw mut graph));
    assert_eq!((begin, unsafe_call, end), (0, 900, 901));
    let (image, mut module, mut second) = (CString::new(PTX).expect("no zeros"), null_mut(), null_mut());
    let make = call!(cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut second, 0, 0));
    let load = call!(
        cuda,
        cuModuleLoadData: PFN_cuModuleLoadData_v2000(&raw mut module, image.as_ptr().cast())
    );
    let destroy = call!(cuda, cuCtxDestroy_v2: PFN_cuCtxDestroy_v4000(second));
    let get = call!(cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut second));
    assert_eq!((make, load, destroy, get, second), (0, 0, 0, 0, context));
}

extern "C" fn at_exit() {
    use_everything(&PROGRAM.get().expect("it was set").0);
    // SAFETY: ends the process at once; a failed assertion above has aborted it.
    unsafe { libc::_exit(0) };
}

#[test]
fn exit_handlers_can_call_the_driver() {
    in_child("ends::exit_handlers_can_call_the_driver", || {
        let Shared(program) = PROGRAM.get_or_init(|| Shared(Program::start()));
        use_everything(program);
        // SAFETY: the handler is a function of this program. The exit runs this thread's destructors, then the handler.
        unsafe {
            assert_eq!(libc::atexit(at_exit), 0);
            libc::exit(1);
        }
    });
}

extern "C" fn at_thread_end(_: *mut std::ffi::c_void) {
    use_everything(&PROGRAM.get().expect("it was set").0);
}

#[test]
fn destructors_of_a_thread_can_call_the_driver() {
    in_child("ends::destructors_of_a_thread_can_call_the_driver", || {
        let Shared(program) = PROGRAM.get_or_init(|| Shared(Program::start()));
        let mut context = null_mut();
        let get = call!(program.cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut context));
        let (mut key, context) = (0, context as usize);
        // SAFETY: the key is valid for writes and the destructor a function of this program.
        assert_eq!((get, unsafe { libc::pthread_key_create(&raw mut key, Some(at_thread_end)) }), (0, 0));
        let thread = std::thread::spawn(move || {
            let program = &PROGRAM.get().expect("it was set").0;
            let set = call!(program.cuda, cuCtxSetCurrent: PFN_cuCtxSetCurrent_v4000(context as CUcontext));
            use_everything(program);
            // SAFETY: the key was made above; any pointer that is not null has the destructor called.
            (set, unsafe { libc::pthread_setspecific(key, (&raw const PROGRAM).cast()) })
        });
        assert_eq!(thread.join().expect("its destructors ran"), (0, 0));
    });
}
