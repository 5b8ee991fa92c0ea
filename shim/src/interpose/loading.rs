//! What `dlopen` and `dlmopen` are asked to do differently.

use core::ffi::{CStr, c_char, c_int};

use super::driver::Library;

/// Flags without RTLD_DEEPBIND: an object that is bound to its own dependencies first finds libcuda, and glibc's
/// `dlsym`, in front of us.
pub(super) fn without_deepbind(flags: c_int) -> c_int {
    flags & !libc::RTLD_DEEPBIND
}

/// The namespace to load `path` into. A second namespace has its own libcuda and its own `dlsym`, without us; the driver
/// belongs into the base namespace, where its one instance is.
///
/// # Safety
/// `path` is null or a C string.
pub(super) unsafe fn namespace_for(namespace: isize, path: *const c_char) -> isize {
    const BASE: isize = 0; // LM_ID_BASE of <dlfcn.h>
    // SAFETY: as the caller promises.
    if !path.is_null() && is_driver(unsafe { CStr::from_ptr(path) }) { BASE } else { namespace }
}

/// Whether the last component of the path is a name of the driver.
fn is_driver(path: &CStr) -> bool {
    let bytes = path.to_bytes();
    let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = bytes.get(start..).unwrap_or(b"");
    Library::Cuda.is_named(name) || Library::Nvml.is_named(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_is_known_by_its_file_name() {
        assert!(is_driver(c"libcuda.so.1"));
        assert!(is_driver(c"/usr/lib/x86_64-linux-gnu/libcuda.so.580.1"));
        assert!(is_driver(c"./libnvidia-ml.so"));
        assert!(!is_driver(c"libcudart.so.13"));
        assert!(!is_driver(c"/opt/libcuda.so.d/plugin.so"));
        assert!(!is_driver(c""));
    }
}
