//! The real driver: NVIDIA's libcuda and libnvidia-ml, wherever they were loaded from.
//!
//! They are never loaded by us: who can call a hook has linked the driver or opened it.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use cuota_abi::cuda::CUresult;

use super::glibc::Glibc;
use super::table;
use crate::elf::{Image, link_map};

/// A library of the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Library {
    /// `libcuda.so.1`
    Cuda,
    /// `libnvidia-ml.so.1`
    Nvml,
}

/// Longer than any soname of the driver, with its NUL.
const SONAME_BYTES: usize = 64;

/// glibc's handle of the library, once it is pinned.
static CUDA_HANDLE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static NVML_HANDLE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

impl Library {
    /// Without the ABI version: what matters is whose functions they are.
    const fn soname_prefix(self) -> &'static [u8] {
        match self {
            Self::Cuda => b"libcuda.so",
            Self::Nvml => b"libnvidia-ml.so",
        }
    }

    fn pinned(self) -> &'static AtomicPtr<c_void> {
        match self {
            Self::Cuda => &CUDA_HANDLE,
            Self::Nvml => &NVML_HANDLE,
        }
    }

    /// glibc's handle of the library; `None` before it is attached, and while it could not be pinned.
    pub(crate) fn handle(self) -> Option<*mut c_void> {
        let handle = self.pinned().load(Ordering::Acquire);
        (!handle.is_null()).then_some(handle)
    }

    /// Whether an object of this soname, or the file of this name, is this library.
    pub(crate) fn is_named(self, name: &[u8]) -> bool {
        name.starts_with(self.soname_prefix())
    }

    /// Whether the library is loaded; when it is first seen, the real functions of all its hooks are found.
    pub(crate) fn attach(self) -> bool {
        self.handle().is_some() || self.attach_now()
    }

    #[cold]
    fn attach_now(self) -> bool {
        let Some(glibc) = Glibc::get() else { return false };
        let mut soname = [0; SONAME_BYTES];
        let loaded = link_map::any_object(glibc.dl_iterate_phdr(), |image, _| {
            let named = image
                .soname()
                .filter(|name| self.is_named(name.to_bytes()))
                .is_some_and(|name| copy(name, &mut soname));
            if named {
                table::resolve(self, image);
            }
            named
        });
        if loaded {
            self.pinned().store(pin(glibc, &soname), Ordering::Release);
        }
        loaded
    }

    /// Whether this library defines what lies at the address.
    pub(crate) fn contains(self, address: *const c_void) -> bool {
        Glibc::get().is_some_and(|glibc| {
            link_map::any_object(glibc.dl_iterate_phdr(), |image: &Image, extent| {
                extent.contains(address) && image.soname().is_some_and(|name| self.is_named(name.to_bytes()))
            })
        })
    }
}

/// [`Library::attach`] for assembly, which knows numbers.
pub(crate) extern "C" fn attach(library: u32) {
    let library = if library == Library::Cuda as u32 { Library::Cuda } else { Library::Nvml };
    library.attach();
}

/// Stands in for a function that the driver lacks.
pub(crate) extern "C" fn missing() -> CUresult {
    CUresult::CUDA_ERROR_NOT_FOUND
}

/// Keeps the library loaded from now on; its handle, or null if that cannot be done now. A program that opens the driver
/// to see whether there is one, closes it and opens it again may find it at another address, and the addresses that
/// we keep would lead nowhere.
fn pin(glibc: Glibc, soname: &[u8; SONAME_BYTES]) -> *mut c_void {
    if !link_map::list_is_consistent() {
        return null_mut();
    }
    // SAFETY: the soname ends with a NUL (`copy`); with RTLD_NOLOAD nothing is loaded and no foreign code runs.
    unsafe { glibc.dlopen()(soname.as_ptr().cast::<c_char>(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }
}

/// Copies a name with its NUL; false if it does not fit.
fn copy(name: &CStr, into: &mut [u8; SONAME_BYTES]) -> bool {
    let bytes = name.to_bytes_with_nul();
    let fits = bytes.len() <= into.len();
    if fits {
        for (to, from) in into.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
    fits
}
