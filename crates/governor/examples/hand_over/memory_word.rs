//! Words of the host that the device writes and waits for.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::AtomicU32;

use crate::cuda::{self, Stream};
use crate::page::Page;

type Register = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> c_int;
type Address = unsafe extern "C" fn(*mut u64, *mut c_void, c_uint) -> c_int;
type Word = unsafe extern "C" fn(*mut c_void, u64, u32, c_uint) -> c_int;

/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
const PORTABLE_AND_MAPPED: c_uint = 1 | 2;
/// `CU_STREAM_WAIT_VALUE_GEQ`.
const AT_LEAST: c_uint = 0;

/// The page, as the device sees it.
#[derive(Clone, Copy)]
pub(crate) struct OnDevice {
    host: usize,
    device: u64,
    write: Word,
    wait: Word,
}

impl OnDevice {
    /// Registers the page with the current context.
    pub(crate) fn new(page: &'static Page) -> Self {
        let library = cuda::open(c"libcuda.so.1");
        // SAFETY: each symbol has the type that CUDA's driver API gives it.
        let (register, address, write, wait) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Register>(cuda::find(library, c"cuMemHostRegister_v2")),
                std::mem::transmute::<*mut c_void, Address>(cuda::find(
                    library,
                    c"cuMemHostGetDevicePointer_v2",
                )),
                std::mem::transmute::<*mut c_void, Word>(cuda::find(library, c"cuStreamWriteValue32_v2")),
                std::mem::transmute::<*mut c_void, Word>(cuda::find(library, c"cuStreamWaitValue32_v2")),
            )
        };
        let host = std::ptr::from_ref(page).cast_mut().cast::<c_void>();
        // SAFETY: a whole page that is never unmapped.
        let code = unsafe { register(host, size_of::<Page>(), PORTABLE_AND_MAPPED) };
        assert!(code == 0, "cuMemHostRegister failed with error {code}");
        let mut device = 0;
        // SAFETY: the output is writable.
        let code = unsafe { address(&raw mut device, host, 0) };
        assert!(code == 0, "cuMemHostGetDevicePointer failed with error {code}");
        Self { host: host.addr(), device, write, wait }
    }

    fn at(self, word: &AtomicU32) -> u64 {
        self.device + (word.as_ptr().addr() - self.host) as u64
    }

    /// Has the device write a word when the stream gets there.
    pub(crate) fn write(self, stream: Stream, word: &AtomicU32, value: u32) {
        // SAFETY: a live stream and a word of the registered page.
        let code = unsafe { (self.write)(stream.raw(), self.at(word), value, 0) };
        assert!(code == 0, "cuStreamWriteValue32 failed with error {code}");
    }

    /// Has the stream wait until a word is at least `value`.
    pub(crate) fn wait(self, stream: Stream, word: &AtomicU32, value: u32) {
        // SAFETY: as above.
        let code = unsafe { (self.wait)(stream.raw(), self.at(word), value, AT_LEAST) };
        assert!(code == 0, "cuStreamWaitValue32 failed with error {code}");
    }
}
