//! The list of loaded objects.
//!
//! It is read in two ways. `_r_debug`, the loader's list for debuggers, needs no call and no lock, and its
//! head (the program and what it was started with, so also libc) never changes: that is how glibc's own functions are
//! found, at any time, even in a signal handler. Objects that come and go, the driver, are found by glibc's own
//! `dl_iterate_phdr`, which holds the loader's lock meanwhile. *Its own*: there are interposers of `dl_iterate_phdr` (caches
//! for exception unwinding); they answer from a list that may be old, and look names up themselves.

use core::ffi::{CStr, c_char, c_int, c_void};

use super::image::{Dyn, Image};

/// glibc's `struct link_map`, the public part (`<link.h>`).
#[repr(C)]
pub(crate) struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const Dyn,
    next: *const LinkMap,
    previous: *const LinkMap,
}

/// glibc's `struct r_debug` (`<link.h>`).
#[repr(C)]
struct Debug {
    version: c_int,
    map: *const LinkMap,
    breakpoint: usize,
    state: c_int,
    loader_base: usize,
}

const RT_CONSISTENT: c_int = 0;
/// A process has hundreds of objects, not millions.
const MOST_OBJECTS: usize = 1 << 16;

unsafe extern "C" {
    static _r_debug: Debug;
}

/// glibc's `dl_iterate_phdr`.
pub(crate) type IteratePhdr = unsafe extern "C" fn(
    callback: unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int,
    data: *mut c_void,
) -> c_int;

impl LinkMap {
    /// The object that the process was started with and that has this soname; without a lock.
    pub(crate) fn of_start(soname: &CStr) -> Option<&'static LinkMap> {
        // SAFETY: the loader sets the list before it runs anybody's code. An object loaded at the start stays,
        // and comes before all that are loaded later, so the walk ends before it reaches anything that can go away;
        // libc is such an object, since we need it.
        unsafe {
            let mut at = (&raw const _r_debug.map).read_volatile();
            for _ in 0..MOST_OBJECTS {
                let map = at.as_ref()?;
                if map.image().is_some_and(|image| image.soname() == Some(soname)) {
                    return Some(map);
                }
                at = map.next;
            }
        }
        None
    }

    /// Where the object was loaded from, as the loader was told.
    pub(crate) fn path(&'static self) -> &'static [u8] {
        // SAFETY: the loader's string, which stays as long as the object does: one of the start, for good.
        if self.name.is_null() { b"" } else { unsafe { CStr::from_ptr(self.name) }.to_bytes() }
    }

    /// The object's tables.
    ///
    /// # Safety
    /// The object stays loaded while the image is in use.
    pub(crate) unsafe fn image(&self) -> Option<Image> {
        // SAFETY: as the caller promises.
        unsafe { Image::new(self.base, self.dynamic) }
    }
}

/// Whether nobody is in the middle of loading or unloading an object, so that `dlopen` may be called. glibc
/// asserts it in `dl_open_worker`: a `dlopen` from a signal handler that interrupts a `dlopen` ends the process.
pub(crate) fn list_is_consistent() -> bool {
    // SAFETY: the loader's own variable, read as a debugger does.
    unsafe { (&raw const _r_debug.state).read_volatile() == RT_CONSISTENT }
}

/// Calls `visit` with each loaded object's tables and place until it returns true; true if it did.
pub(crate) fn any_object(iterate: IteratePhdr, mut visit: impl FnMut(&Image, &Extent) -> bool) -> bool {
    unsafe extern "C" fn each<F>(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int
    where
        F: FnMut(&Image, &Extent) -> bool,
    {
        // SAFETY: glibc passes a valid info, and the data that we gave: the closure, alive until the iteration returns.
        let (info, visit) = unsafe { (&*info, &mut *data.cast::<F>()) };
        let extent = Extent::of(info);
        // SAFETY: glibc holds the loader's lock, so the object stays while we look at it.
        let image = unsafe { Image::new(extent.base, extent.dynamic) };
        c_int::from(image.as_ref().is_some_and(|image| visit(image, &extent)))
    }
    fn start<F>(iterate: IteratePhdr, visit: &mut F) -> bool
    where
        F: FnMut(&Image, &Extent) -> bool,
    {
        // SAFETY: the callback has the type that glibc asks for, and gets the closure's own address back.
        unsafe { iterate(each::<F>, (&raw mut *visit).cast()) != 0 }
    }
    start(iterate, &mut visit)
}

/// Where an object lies.
pub(crate) struct Extent {
    base: usize,
    dynamic: *const Dyn,
    start: usize,
    end: usize,
}

impl Extent {
    #[expect(clippy::cast_possible_truncation, reason = "addresses of a 64-bit process")]
    fn of(info: &libc::dl_phdr_info) -> Self {
        let base = info.dlpi_addr as usize;
        let mut extent = Self { base, dynamic: core::ptr::null(), start: usize::MAX, end: 0 };
        for index in 0..usize::from(info.dlpi_phnum) {
            // SAFETY: the object has that many program headers.
            let header = unsafe { &*info.dlpi_phdr.add(index) };
            let address = base.wrapping_add(header.p_vaddr as usize);
            match header.p_type {
                libc::PT_DYNAMIC => extent.dynamic = address as *const Dyn,
                libc::PT_LOAD => {
                    extent.start = extent.start.min(address);
                    extent.end = extent.end.max(address.wrapping_add(header.p_memsz as usize));
                }
                _ => {}
            }
        }
        extent
    }

    /// Whether the address lies in the object.
    pub(crate) fn contains(&self, address: *const c_void) -> bool {
        (self.start..self.end).contains(&address.addr())
    }
}
