//! glibc's own `dlsym` and its kin, found by the symbol walker.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::elf::hash::Name;
use crate::elf::link_map::IteratePhdr;
use crate::elf::{Image, LinkMap};

pub(crate) type Dlsym = unsafe extern "C" fn(handle: *mut c_void, name: *const c_char) -> *mut c_void;
pub(crate) type Dlvsym =
    unsafe extern "C" fn(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
pub(crate) type Dlopen = unsafe extern "C" fn(path: *const c_char, flags: c_int) -> *mut c_void;
pub(crate) type Dlmopen =
    unsafe extern "C" fn(namespace: c_long, path: *const c_char, flags: c_int) -> *mut c_void;

/// Where glibc's functions are. `None` only where glibc is older than 2.34 and the process has no libdl: then nobody
/// in it can have called `dlsym` in earnest.
#[derive(Clone, Copy)]
pub(crate) struct Glibc {
    pub(crate) dlsym: Dlsym,
    pub(crate) dlvsym: Dlvsym,
    pub(crate) dlopen: Dlopen,
    pub(crate) dlmopen: Dlmopen,
    pub(crate) dl_iterate_phdr: IteratePhdr,
}

/// Written last: not null means that all are there.
static DLSYM: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DLVSYM: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DLOPEN: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DLMOPEN: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DL_ITERATE_PHDR: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

impl Glibc {
    /// glibc's functions; the first call finds them.
    pub(crate) fn get() -> Option<Self> {
        let dlsym = match DLSYM.load(Ordering::Acquire) {
            dlsym if dlsym.is_null() => resolve()?,
            dlsym => dlsym,
        };
        // SAFETY: `dlsym` is there, so `resolve` has stored the address of each function, of the type that
        // <dlfcn.h> and <link.h> declare for its name.
        unsafe {
            Some(Self {
                dlsym: core::mem::transmute::<*mut c_void, Dlsym>(dlsym),
                dlvsym: core::mem::transmute::<*mut c_void, Dlvsym>(DLVSYM.load(Ordering::Relaxed)),
                dlopen: core::mem::transmute::<*mut c_void, Dlopen>(DLOPEN.load(Ordering::Relaxed)),
                dlmopen: core::mem::transmute::<*mut c_void, Dlmopen>(DLMOPEN.load(Ordering::Relaxed)),
                dl_iterate_phdr: core::mem::transmute::<*mut c_void, IteratePhdr>(
                    DL_ITERATE_PHDR.load(Ordering::Relaxed),
                ),
            })
        }
    }
}

/// Finds glibc's functions: in libc since 2.34, before that in libdl.
#[cold]
fn resolve() -> Option<*mut c_void> {
    let libc = image_of_start(c"libc.so.6")?;
    let dl_iterate_phdr = libc.function(Name::of(b"dl_iterate_phdr"));
    let home =
        if libc.function(Name::of(b"dlsym")).is_null() { image_of_start(c"libdl.so.2")? } else { libc };
    let find = |name: Name, place: &AtomicPtr<c_void>| {
        let address = home.function(name);
        place.store(address, Ordering::Relaxed);
        !address.is_null()
    };
    DL_ITERATE_PHDR.store(dl_iterate_phdr, Ordering::Relaxed);
    let all = !dl_iterate_phdr.is_null()
        && find(Name::of(b"dlvsym"), &DLVSYM)
        && find(Name::of(b"dlopen"), &DLOPEN)
        && find(Name::of(b"dlmopen"), &DLMOPEN);
    let dlsym = home.function(Name::of(b"dlsym"));
    (all && !dlsym.is_null()).then(|| {
        DLSYM.store(dlsym, Ordering::Release);
        dlsym
    })
}

/// A function of libc, or of libpthread, where that is a library of its own (before glibc 2.34).
pub(crate) fn function(name: &[u8]) -> Option<*mut c_void> {
    let in_library = |soname| Some(image_of_start(soname)?.function(Name::of(name)));
    let found = |soname| in_library(soname).filter(|address| !address.is_null());
    found(c"libc.so.6").or_else(|| found(c"libpthread.so.0"))
}

fn image_of_start(soname: &CStr) -> Option<Image> {
    // SAFETY: an object that the process was started with is never unloaded.
    LinkMap::of_start(soname).and_then(|object| unsafe { object.image() })
}
