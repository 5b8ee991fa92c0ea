//! Libraries of the toolkit that may be there or not: cuBLASLt and NCCL. They are opened by the names that installations
//! have (cudarc, whose types are used, looks for fewer: NCCL's `libnccl.so.2` is not among them).

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use anyhow::{Result, bail};

use crate::worker::NotMeasured;

/// An open library. Never closed.
pub struct Library {
    handle: NonNull<c_void>,
    name: &'static str,
}

impl Library {
    /// Opens the first of `names` that the loader finds.
    ///
    /// # Errors
    /// [`NotMeasured`] when there is none.
    pub fn open(names: &[&'static str]) -> Result<Self> {
        for name in names {
            let text = CString::new(*name)?;
            // SAFETY: the name ends with NUL; the library's constructors are those that every program runs that uses it.
            let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW) };
            if let Some(handle) = NonNull::new(handle) {
                return Ok(Self { handle, name });
            }
        }
        let text = names.join(" nor ");
        Err(NotMeasured::because(format!("the loader finds no {text} (LD_LIBRARY_PATH names where to look)"))
            .into())
    }

    /// The function `name` as an `F`, which must be a function pointer of its signature.
    ///
    /// # Safety
    /// `F` is the type of a pointer to the C function of this name.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let symbol = CString::new(name)?;
        // SAFETY: the handle is open and never closed; the name ends with NUL.
        let address = unsafe { libc::dlsym(self.handle.as_ptr(), symbol.as_ptr()) };
        if address.is_null() {
            bail!("{} has no {name}", self.name);
        }
        // SAFETY: a pointer's size (checked above), and by the caller's word the type of the function that is there.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_a_reason_not_to_measure_and_no_failure() {
        let error = Library::open(&["libno-such-thing.so.9"]).err().unwrap();
        assert!(NotMeasured::in_error(&error).unwrap().contains("libno-such-thing.so.9"));
    }

    #[test]
    fn functions_are_found_by_name_and_missing_ones_are_named() {
        let library = Library::open(&["libno-such-thing.so.9", "libc.so.6"]).unwrap();
        // SAFETY: getpid takes nothing and returns an int.
        let getpid = unsafe { library.function::<unsafe extern "C" fn() -> i32>("getpid") }.unwrap();
        // SAFETY: as above.
        assert_eq!(u32::try_from(unsafe { getpid() }).unwrap(), std::process::id());
        // SAFETY: it is not there.
        let missing = unsafe { library.function::<unsafe extern "C" fn() -> i32>("no_such_function") };
        assert!(missing.unwrap_err().to_string().contains("no_such_function"));
    }
}
