//! The truth: what NVIDIA's CUPTI says of each kernel, copy and memset.
//!
//! Records of kernels, copies and memsets begin alike in every CUPTI since 11: their times are at bytes 16 and 24, those of a
//! kernel its grid at 52 and its name at 104 (`CUpti_ActivityKernel10`, `CUpti_ActivityMemcpy6`,
//! `CUpti_ActivityMemset4` of CUDA 13.0).

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Mutex;

use crate::cuda;

const BUFFER_BYTES: usize = 8 << 20;
/// `CUPTI_ACTIVITY_KIND_*`.
const MEMCPY: u32 = 1;
const MEMSET: u32 = 2;
const CONCURRENT_KERNEL: u32 = 10;
/// `CUPTI_ACTIVITY_FLAG_FLUSH_FORCED`.
const FORCED: u32 = 1;
/// `CUPTI_ACTIVITY_MEMCPY_KIND_HTOD` and `_DTOH`.
const HOST_COPIES: [u8; 2] = [1, 2];

/// One thing that was on the GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// A copy between host and device: its time is no time of the multiprocessors.
    pub(crate) host_copy: bool,
    /// Of a kernel: the hash of its name and its first grid dimension.
    pub(crate) key: u64,
}

#[derive(Default)]
struct Records {
    all: Vec<Record>,
    dropped: u64,
    names: HashMap<usize, u64>,
}

static RECORDS: Mutex<Option<Records>> = Mutex::new(None);

/// CUPTI at work in this process.
#[derive(Clone, Copy)]
pub(crate) struct Cupti {
    flush: unsafe extern "C" fn(u32) -> i32,
}

static NEXT: std::sync::OnceLock<Next> = std::sync::OnceLock::new();
type Next = unsafe extern "C" fn(*mut u8, usize, *mut *mut u8) -> i32;
static DROPPED: std::sync::OnceLock<Dropped> = std::sync::OnceLock::new();
type Dropped = unsafe extern "C" fn(*mut c_void, u32, *mut usize) -> i32;

type Request = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type Complete = unsafe extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);

impl Cupti {
    /// Loads the library at `path` and has it record, before the first context is made.
    pub(crate) fn start(path: &str) -> Self {
        let library = cuda::open(&CString::new(path).expect("a path"));
        // SAFETY: each symbol has the type that cupti_activity.h gives it.
        let (register, enable, flush, next, dropped) = unsafe {
            (
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Request, Complete) -> i32>(
                    cuda::find(library, c"cuptiActivityRegisterCallbacks"),
                ),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> i32>(cuda::find(
                    library,
                    c"cuptiActivityEnable",
                )),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> i32>(cuda::find(
                    library,
                    c"cuptiActivityFlushAll",
                )),
                std::mem::transmute::<*mut c_void, Next>(cuda::find(library, c"cuptiActivityGetNextRecord")),
                std::mem::transmute::<*mut c_void, Dropped>(cuda::find(
                    library,
                    c"cuptiActivityGetNumDroppedRecords",
                )),
            )
        };
        NEXT.get_or_init(|| next);
        DROPPED.get_or_init(|| dropped);
        *RECORDS.lock().expect("no thread panics and lives") = Some(Records::default());
        // SAFETY: the callbacks live as long as the process.
        let mut codes = vec![unsafe { register(request, complete) }];
        // SAFETY: kinds of activity.
        codes.extend([MEMCPY, MEMSET, CONCURRENT_KERNEL].map(|kind| unsafe { enable(kind) }));
        assert!(codes.iter().all(|code| *code == 0), "CUPTI refused: {codes:?}");
        Self { flush }
    }

    /// All records since the last time, and how many were dropped; the device is idle.
    pub(crate) fn take(self) -> (Vec<Record>, u64) {
        // SAFETY: a flag.
        unsafe { (self.flush)(FORCED) };
        let mut records = RECORDS.lock().expect("no thread panics and lives");
        let records = records.as_mut().expect("started");
        (std::mem::take(&mut records.all), std::mem::take(&mut records.dropped))
    }
}

extern "C" fn request(buffer: *mut *mut u8, size: *mut usize, records: *mut usize) {
    let layout = std::alloc::Layout::from_size_align(BUFFER_BYTES, 8).expect("a layout");
    // SAFETY: a layout of some size; the outputs are writable by CUPTI's word.
    unsafe {
        *buffer = std::alloc::alloc(layout);
        *size = if (*buffer).is_null() { 0 } else { BUFFER_BYTES };
        *records = 0;
    }
}

unsafe extern "C" fn complete(
    context: *mut c_void,
    stream: u32,
    buffer: *mut u8,
    _size: usize,
    valid: usize,
) {
    let mut all = RECORDS.lock().expect("no thread panics and lives");
    let (Some(records), Some(next), Some(dropped)) = (all.as_mut(), NEXT.get(), DROPPED.get()) else {
        return;
    };
    let mut record: *mut u8 = std::ptr::null_mut();
    // SAFETY: the buffer is CUPTI's again for the length of this call and holds `valid` bytes of records; it was
    // allocated by `request` with this layout.
    unsafe {
        while valid > 0 && next(buffer, valid, &raw mut record) == 0 {
            records.note(record);
        }
        let mut count = 0;
        if dropped(context, stream, &raw mut count) == 0 {
            records.dropped += count as u64;
        }
        std::alloc::dealloc(buffer, std::alloc::Layout::from_size_align_unchecked(BUFFER_BYTES, 8));
    }
}

impl Records {
    /// # Safety
    /// `record` points to a record of CUPTI's.
    unsafe fn note(&mut self, record: *const u8) {
        // SAFETY: every record begins with its kind; those of the three kinds are longer than what is read of them.
        unsafe {
            let word = |at: usize| record.add(at).cast::<u64>().read_unaligned();
            let kind = record.cast::<u32>().read_unaligned();
            if !matches!(kind, MEMCPY | MEMSET | CONCURRENT_KERNEL) {
                return;
            }
            let key = if kind == CONCURRENT_KERNEL {
                let grid = u64::from(record.add(52).cast::<u32>().read_unaligned());
                self.hash_of_name(record.add(104).cast::<*const c_char>().read_unaligned()) ^ grid
            } else {
                u64::from(kind)
            };
            let host_copy = kind == MEMCPY && HOST_COPIES.contains(&record.add(4).read());
            self.all.push(Record { start_ns: word(16), end_ns: word(24), host_copy, key });
        }
    }

    /// # Safety
    /// Null or a C string.
    unsafe fn hash_of_name(&mut self, name: *const c_char) -> u64 {
        *self.names.entry(name.addr()).or_insert_with(|| {
            if name.is_null() {
                return 0;
            }
            // SAFETY: a C string by the caller's word. FNV-1a.
            let bytes = unsafe { CStr::from_ptr(name) }.to_bytes();
            bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            })
        })
    }
}
