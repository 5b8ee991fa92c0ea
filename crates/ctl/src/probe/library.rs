//! A shared library, and the ways to look a function up in it.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// A library that stays loaded.
#[derive(Clone, Copy)]
pub(crate) struct Library(NonNull<c_void>);

/// A way to look a function up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// As a program finds what it is linked with: the first in the global scope.
    Default,
    /// As an interposer finds what comes after it.
    Next,
    /// In the library.
    Handle,
    /// In the library, with a version.
    Version,
}

impl Library {
    /// Loads `name`.
    ///
    /// # Errors
    /// The dynamic linker's reason.
    pub(crate) fn open(name: &CStr) -> Result<Self, String> {
        // Global, so that the look-ups without a handle can find its functions natively too.
        // SAFETY: a C string; the libraries loaded here are the driver's, whose constructors are theirs to answer for.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        NonNull::new(handle).map(Library).ok_or_else(last_error)
    }

    /// The address of `symbol`, looked up in the given way.
    pub(crate) fn look_up(&self, way: Way, symbol: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: C strings and a live handle; no address is called here.
        let address = unsafe {
            match way {
                Way::Default => libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()),
                Way::Next => libc::dlsym(libc::RTLD_NEXT, symbol.as_ptr()),
                Way::Handle => libc::dlsym(self.0.as_ptr(), symbol.as_ptr()),
                // NVIDIA's libraries define no versions, so glibc may find nothing; it must not find a way around.
                Way::Version => libc::dlvsym(self.0.as_ptr(), symbol.as_ptr(), c"libcuda.so.1".as_ptr()),
            }
        };
        NonNull::new(address)
    }

    /// The function `symbol` as a `F`.
    ///
    /// # Safety
    /// `F` is the `extern "C"` function-pointer type of `symbol`.
    pub(crate) unsafe fn function<F: Copy>(&self, symbol: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        let address = self.look_up(Way::Handle, symbol)?;
        // SAFETY: as large as an address, and by the caller's contract a pointer to that kind of function.
        Some(unsafe { std::mem::transmute_copy::<NonNull<c_void>, F>(&address) })
    }
}

fn last_error() -> String {
    // SAFETY: returns null or a C string that lives until this thread's next dl call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: not null, see above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_nowhere_is_an_error_with_the_linkers_reason() {
        assert!(Library::open(c"libnowhere.so.9").err().unwrap().contains("libnowhere.so.9"));
    }

    #[test]
    fn a_function_is_found_by_its_name() {
        let libc = Library::open(c"libc.so.6").unwrap();
        // SAFETY: the type of getpid.
        let getpid = unsafe { libc.function::<unsafe extern "C" fn() -> i32>(c"getpid") }.unwrap();
        // SAFETY: takes nothing.
        assert_eq!(u32::try_from(unsafe { getpid() }), Ok(std::process::id()));
        assert!(libc.look_up(Way::Handle, c"no_such_function").is_none());
    }
}
