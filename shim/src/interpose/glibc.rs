//! glibc's own `dlsym` and its kin, found by the symbol walker.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::elf::LinkMap;
use crate::elf::hash::Name;
use crate::elf::link_map::IteratePhdr;

pub(crate) type Dlsym = unsafe extern "C" fn(handle: *mut c_void, name: *const c_char) -> *mut c_void;
pub(crate) type Dlvsym =
    unsafe extern "C" fn(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
pub(crate) type Dlopen = unsafe extern "C" fn(path: *const c_char, flags: c_int) -> *mut c_void;
pub(crate) type Dlmopen =
    unsafe extern "C" fn(namespace: c_long, path: *const c_char, flags: c_int) -> *mut c_void;

/// The functions, of which the first four are those that we stand in for.
pub(super) const NAMES: [Name; 5] = [
    Name::of(b"dlsym"),
    Name::of(b"dlvsym"),
    Name::of(b"dlopen"),
    Name::of(b"dlmopen"),
    Name::of(b"dl_iterate_phdr"),
];

/// Where they are. The first is written last: not null means that all are there.
static FUNCTIONS: [AtomicPtr<c_void>; NAMES.len()] = [const { AtomicPtr::new(null_mut()) }; NAMES.len()];

/// glibc's functions, found. `None` only where glibc is older than 2.34 and the process has no libdl: then nobody
/// in it can have called `dlsym` in earnest.
#[derive(Clone, Copy)]
pub(crate) struct Glibc(());

impl Glibc {
    /// glibc's functions; the first call finds them.
    pub(crate) fn get() -> Option<Self> {
        let [dlsym, ..] = &FUNCTIONS;
        (!dlsym.load(Ordering::Acquire).is_null() || resolve().is_some()).then_some(Glibc(()))
    }

    /// Which of [`NAMES`] lies at an address.
    pub(super) fn at(self, address: *mut c_void) -> Option<usize> {
        FUNCTIONS.iter().position(|function| function.load(Ordering::Relaxed) == address)
    }

    pub(crate) fn dlsym(self) -> Dlsym {
        // SAFETY: all are there, of the types that <dlfcn.h> and <link.h> declare for their names; here and below.
        unsafe { core::mem::transmute::<*mut c_void, Dlsym>(FUNCTIONS[0].load(Ordering::Relaxed)) }
    }

    pub(crate) fn dlvsym(self) -> Dlvsym {
        // SAFETY: see `dlsym`.
        unsafe { core::mem::transmute::<*mut c_void, Dlvsym>(FUNCTIONS[1].load(Ordering::Relaxed)) }
    }

    pub(crate) fn dlopen(self) -> Dlopen {
        // SAFETY: see `dlsym`.
        unsafe { core::mem::transmute::<*mut c_void, Dlopen>(FUNCTIONS[2].load(Ordering::Relaxed)) }
    }

    pub(crate) fn dlmopen(self) -> Dlmopen {
        // SAFETY: see `dlsym`.
        unsafe { core::mem::transmute::<*mut c_void, Dlmopen>(FUNCTIONS[3].load(Ordering::Relaxed)) }
    }

    pub(crate) fn dl_iterate_phdr(self) -> IteratePhdr {
        // SAFETY: see `dlsym`.
        unsafe { core::mem::transmute::<*mut c_void, IteratePhdr>(FUNCTIONS[4].load(Ordering::Relaxed)) }
    }
}

/// Finds glibc's functions: in libc since 2.34, before that in libdl, all but the last.
#[cold]
#[inline(never)]
fn resolve() -> Option<()> {
    for (name, place) in NAMES.iter().zip(&FUNCTIONS).rev() {
        let address = found_in(c"libc.so.6", *name).or_else(|| found_in(c"libdl.so.2", *name))?;
        place.store(address, Ordering::Release);
    }
    Some(())
}

/// A function of libc, or of libpthread, where that is a library of its own (before glibc 2.34).
pub(crate) fn function(name: &[u8]) -> Option<*mut c_void> {
    let name = Name::of(name);
    found_in(c"libc.so.6", name).or_else(|| found_in(c"libpthread.so.0", name))
}

/// A function of the object with this soname that the process was started with.
#[inline(never)]
fn found_in(soname: &CStr, name: Name) -> Option<*mut c_void> {
    let object = LinkMap::of_start(soname)?;
    // SAFETY: an object that the process was started with is never unloaded.
    let address = unsafe { object.image() }.as_ref()?.function(name);
    (!address.is_null()).then_some(address)
}
