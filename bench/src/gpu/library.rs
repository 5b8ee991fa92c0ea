//! Libraries of the toolkit that may be there or not: cuBLASLt and NCCL. They are opened by the names that installations
//! have (cudarc, whose types are used, looks for fewer: NCCL's `libnccl.so.2` is not among them).

use std::env;
use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::NonNull;

use anyhow::{Result, bail};

use crate::worker::NotMeasured;

/// Folders, with colons between them, that are searched before the loader's own. LD_LIBRARY_PATH would do as well, and would
/// have every program look there for every library that it starts with, which is among what is measured.
const FOLDERS: &str = "CUOTA_BENCH_LIBS";

/// An open library. Never closed.
pub struct Library {
    handle: NonNull<c_void>,
    name: &'static str,
}

impl Library {
    /// Opens the first of `names` that is in one of the folders of `CUOTA_BENCH_LIBS` or that the loader finds.
    ///
    /// # Errors
    /// [`NotMeasured`] when there is none.
    pub fn open(names: &[&'static str]) -> Result<Self> {
        Self::open_in(env::var_os(FOLDERS).unwrap_or_default().as_os_str(), names)
    }

    fn open_in(folders: &OsStr, names: &[&'static str]) -> Result<Self> {
        let mut last = String::new();
        for name in names {
            let within = env::split_paths(folders).filter(|folder| folder.is_dir());
            for path in within
                .map(|folder| folder.join(name))
                .filter(|path| path.is_file())
                .chain([PathBuf::from(name)])
            {
                // SAFETY: the library's constructors are those that every program runs that uses it; the name ends with NUL.
                let handle = unsafe {
                    libc::dlopen(CString::new(path.as_os_str().as_bytes())?.as_ptr(), libc::RTLD_NOW)
                };
                if let Some(handle) = NonNull::new(handle) {
                    return Ok(Self { handle, name });
                }
                last = loader_says();
            }
        }
        let text = names.join(" nor ");
        Err(NotMeasured::because(format!(
            "no {text} could be opened ({FOLDERS} names folders to look in; the loader's last words: {last})"
        ))
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

/// Why the last `dlopen` failed.
fn loader_says() -> String {
    // SAFETY: dlerror returns NULL or a string that is valid until this thread's next dl* call.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
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
    fn a_folder_that_is_named_comes_before_the_loaders_own_and_a_file_that_cannot_be_opened_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libno-such-thing.so.9"), "no library").unwrap();
        let error = Library::open_in(folder.path().as_os_str(), &["libno-such-thing.so.9"]).err().unwrap();
        let reason = NotMeasured::in_error(&error).unwrap();
        assert!(reason.contains("libno-such-thing.so.9") && reason.contains(FOLDERS), "{reason}");
        let libc = mapped_libc();
        std::os::unix::fs::symlink(libc, folder.path().join("libof-this-test.so.1")).unwrap();
        let both = std::env::join_paths(["/no/such/folder".as_ref(), folder.path()]).unwrap();
        assert!(Library::open_in(&both, &["libof-this-test.so.1"]).is_ok());
    }

    fn mapped_libc() -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
        path.into_iter().find(|path| path.contains("/libc")).unwrap().to_owned()
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
