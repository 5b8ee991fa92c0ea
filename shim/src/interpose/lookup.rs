//! What `dlsym` and `dlvsym` answer for the driver's names, and for their own.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;

use super::driver::Library;
use super::glibc::{Glibc, NAMES};
use super::table::{self, Row};
use crate::elf::hash::Name;

/// The objects behind us in the order of look-up: where a question is put that must not find our own exports. glibc takes
/// the caller of `dlsym`, so us, as the place to search from; no further handle, hence no allocation, is needed.
const OTHERS: *mut c_void = libc::RTLD_NEXT;

/// A look-up that somebody asks for; `version` is null for `dlsym`.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) handle: *mut c_void,
    pub(super) name: *const c_char,
    pub(super) version: *const c_char,
}

impl Query {
    /// Our answer; `None`: glibc shall answer the caller itself.
    ///
    /// # Safety
    /// The arguments are what `dlsym` or `dlvsym` takes.
    pub(super) unsafe fn answer(self, glibc: Glibc) -> Option<*mut c_void> {
        if !self.may_concern_us() {
            return None;
        }
        // SAFETY: not null, and a C string, as the caller promises.
        let name = unsafe { CStr::from_ptr(self.name) };
        if self.handle == libc::RTLD_DEFAULT || self.handle == libc::RTLD_NEXT {
            self.answer_for_caller(glibc, name)
        } else {
            // SAFETY: as the caller promises.
            Some(unsafe { self.answer_in_object(glibc, name) })
        }
    }

    /// Whether the name begins as the driver's functions or the loader's do. All others leave at once.
    fn may_concern_us(self) -> bool {
        if self.name.is_null() {
            return false;
        }
        // SAFETY: a C string; a byte is read only after the one before it was not NUL.
        unsafe {
            let byte = |index: usize| self.name.cast::<u8>().add(index).read();
            match byte(0) {
                b'c' => byte(1) == b'u',
                b'd' => byte(1) == b'l',
                b'n' => byte(1) == b'v' && byte(2) == b'm' && byte(3) == b'l',
                _ => false,
            }
        }
    }

    /// RTLD_DEFAULT and RTLD_NEXT mean "as seen from the caller", so glibc could not be asked on the caller's behalf. A
    /// hooked name is answered by the hook, but only where the driver has the function: a program must not find a
    /// CUDA that is not there.
    fn answer_for_caller(self, glibc: Glibc, name: &CStr) -> Option<*mut c_void> {
        if let Some(trampoline) = trampoline_named(name) {
            return self.exists_in(glibc, OTHERS).then_some(trampoline);
        }
        let row = table::named(name)?;
        if !row.library().attach() {
            // SAFETY: the strings are the caller's.
            return Some(unsafe { self.ask(glibc, OTHERS) });
        }
        // Asked in the driver, glibc succeeds or fails as for the caller, and `dlerror` says so. No handle: the driver is
        // there but could not be pinned now.
        let exists = row.library().handle().map_or(row.is_resolved(), |driver| self.exists_in(glibc, driver));
        Some(if exists { row.hook() } else { null_mut() })
    }

    /// In a given object glibc's answer does not depend on the caller, so we ask and look at what comes back.
    ///
    /// # Safety
    /// As [`Query::answer`].
    unsafe fn answer_in_object(self, glibc: Glibc, name: &CStr) -> *mut c_void {
        // SAFETY: as the caller promises.
        let found = unsafe { self.ask(glibc, self.handle) };
        if found.is_null() {
            return found;
        }
        if let Some(trampoline) = trampoline_replacing(glibc, found) {
            return trampoline;
        }
        match table::named(name).filter(|row| row.hook() == found) {
            // Our own export, seen through the program's handle.
            Some(row) if row.library().attach() && row.is_resolved() => found,
            // SAFETY: the strings are the caller's.
            Some(_) => unsafe { self.ask(glibc, OTHERS) },
            None => hook_for(name, found).unwrap_or(found),
        }
    }

    fn exists_in(self, glibc: Glibc, handle: *mut c_void) -> bool {
        // SAFETY: the handle is an object's, the strings are the caller's.
        unsafe { !self.ask(glibc, handle).is_null() }
    }

    /// # Safety
    /// As [`Query::answer`].
    unsafe fn ask(self, glibc: Glibc, handle: *mut c_void) -> *mut c_void {
        // SAFETY: as the caller promises.
        unsafe {
            if self.version.is_null() {
                glibc.dlsym()(handle, self.name)
            } else {
                glibc.dlvsym()(handle, self.name, self.version)
            }
        }
    }
}

/// The hook for what glibc found: the real function of a hook, under whatever name; or a hooked name in another copy
/// of the driver than the one we know.
fn hook_for(name: &CStr, found: *mut c_void) -> Option<*mut c_void> {
    let library = match name.to_bytes() {
        [b'd', ..] => return None,
        [b'n', ..] => Library::Nvml,
        _ => Library::Cuda,
    };
    library.attach();
    table::replacing(found)
        .or_else(|| table::named(name).filter(|row| row.library().contains(found)))
        .map(Row::hook)
}

/// The trampoline of this name.
fn trampoline_named(name: &CStr) -> Option<*mut c_void> {
    let name = Name::of(name.to_bytes());
    trampoline(NAMES.iter().position(|own| *own == name)?)
}

/// The trampoline that stands in for what glibc found.
fn trampoline_replacing(glibc: Glibc, found: *mut c_void) -> Option<*mut c_void> {
    trampoline(glibc.at(found)?)
}

/// By its place in [`NAMES`]: our export of that name. (A table of their addresses would be relocated.)
fn trampoline(place: usize) -> Option<*mut c_void> {
    Some(table::export(*NAMES.get(place)?)).filter(|export| !export.is_null())
}
