//! The filters behind the trampolines of [`crate::arch`].
//!
//! A filter returns the function to jump to, with the (perhaps changed) arguments of the [`Call`]; or null, and the
//! trampoline returns the call's `answer`.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::{null, null_mut};

use super::glibc::Glibc;
use super::loading;
use super::lookup::Query;

/// The argument registers of a call, as the trampoline saved them, and room for an answer. Its layout is known
/// to the assembly.
#[repr(C)]
pub(crate) struct Call {
    arguments: [*mut c_void; 6],
    pub(crate) answer: *mut c_void,
}

impl Call {
    /// No jump: the trampoline returns this.
    fn give(&mut self, answer: *mut c_void) -> *const c_void {
        self.answer = answer;
        null()
    }

    /// Argument `index` as a C `int`: the upper half of its register means nothing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "an int argument is the low half of its register"
    )]
    fn int(&self, index: usize) -> c_int {
        self.arguments[index].addr() as c_int
    }

    fn set_int(&mut self, index: usize, value: c_int) {
        self.arguments[index] = null_mut::<c_void>().with_addr(value.cast_unsigned() as usize);
    }
}

/// `void *dlsym(void *handle, const char *name)`
pub(crate) unsafe extern "C" fn filter_dlsym(call: &mut Call) -> *const c_void {
    let Some(glibc) = Glibc::get() else { return call.give(null_mut()) };
    let [handle, name, ..] = call.arguments;
    let query = Query { handle, name: name.cast(), version: null() };
    // SAFETY: the caller's arguments for dlsym.
    match unsafe { query.answer(glibc) } {
        Some(answer) => call.give(answer),
        None => glibc.dlsym() as *const c_void,
    }
}

/// `void *dlvsym(void *handle, const char *name, const char *version)`
pub(crate) unsafe extern "C" fn filter_dlvsym(call: &mut Call) -> *const c_void {
    let Some(glibc) = Glibc::get() else { return call.give(null_mut()) };
    let [handle, name, version, ..] = call.arguments;
    let query = Query { handle, name: name.cast(), version: version.cast() };
    // SAFETY: the caller's arguments for dlvsym.
    match unsafe { query.answer(glibc) } {
        Some(answer) => call.give(answer),
        None => glibc.dlvsym() as *const c_void,
    }
}

/// `void *dlopen(const char *path, int flags)`
pub(crate) unsafe extern "C" fn filter_dlopen(call: &mut Call) -> *const c_void {
    let Some(glibc) = Glibc::get() else { return call.give(null_mut()) };
    if is_managed() {
        call.set_int(1, loading::without_deepbind(call.int(1)));
    }
    glibc.dlopen() as *const c_void
}

/// `void *dlmopen(Lmid_t namespace, const char *path, int flags)`
pub(crate) unsafe extern "C" fn filter_dlmopen(call: &mut Call) -> *const c_void {
    let Some(glibc) = Glibc::get() else { return call.give(null_mut()) };
    if is_managed() {
        let [namespace, path, ..] = call.arguments;
        // SAFETY: the caller's path for dlmopen.
        let namespace =
            unsafe { loading::namespace_for(namespace.addr().cast_signed(), path.cast::<c_char>()) };
        call.arguments[0] = null_mut::<c_void>().with_addr(namespace.cast_unsigned());
        call.set_int(2, loading::without_deepbind(call.int(2)));
    }
    glibc.dlmopen() as *const c_void
}

/// Whether this process is held to anything at all.
fn is_managed() -> bool {
    crate::process::is_managed()
}
