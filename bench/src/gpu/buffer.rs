//! Device memory that is freed when it goes.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::device::Gpu;
use super::error::{CudaError, check};
use super::stream::StreamHandle;

/// Plain device memory.
pub struct Buffer {
    address: CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// Takes `bytes`.
    pub fn new(_gpu: &Gpu, bytes: usize) -> Result<Self, CudaError> {
        let mut address = 0;
        // SAFETY: `address` is writable and a context is current since a `Gpu` exists.
        check("cuMemAlloc_v2", unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        Ok(Self { address, bytes })
    }

    /// Takes room for `words` of 4 bytes, all zero.
    pub fn zeroed(gpu: &Gpu, words: usize) -> Result<Self, CudaError> {
        let buffer = Self::new(gpu, words * 4)?;
        buffer.set_words(0)?;
        Ok(buffer)
    }

    /// Its first address.
    #[inline(always)]
    pub fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Its first address, as the libraries of the toolkit take it: a pointer that the host must not follow.
    pub fn pointer(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(usize::try_from(self.address).unwrap_or(0))
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets every word of 4 bytes, and waits until it is done: other streams do not wait for the legacy one.
    pub fn set_words(&self, value: u32) -> Result<(), CudaError> {
        self.set_words_on(StreamHandle::LEGACY, value)?;
        // SAFETY: NULL is the legacy stream of the current context.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(ptr::null_mut()) })
    }

    /// Sets every word of 4 bytes, in the order of `stream`.
    pub fn set_words_on(&self, stream: StreamHandle, value: u32) -> Result<(), CudaError> {
        // SAFETY: the range is this allocation; the stream is alive.
        check("cuMemsetD32Async", unsafe {
            sys::cuMemsetD32Async(self.address, value, self.bytes / 4, stream.raw())
        })
    }

    /// Copies `values` to its beginning, and waits until they are there.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<(), CudaError> {
        let bytes = size_of_val(values);
        assert!(bytes <= self.bytes, "{bytes} bytes do not fit {}", self.bytes);
        // SAFETY: the source is plain data of that size and the target is long enough. The copy of pageable memory may
        // return before its last part has arrived (CUDA driver API, synchronisation behaviour), hence the wait.
        unsafe {
            check("cuMemcpyHtoD_v2", sys::cuMemcpyHtoD_v2(self.address, values.as_ptr().cast(), bytes))?;
            check("cuStreamSynchronize", sys::cuStreamSynchronize(ptr::null_mut()))
        }
    }

    /// Copies `values.len()` values from value number `first` on.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn download<T: Plain>(&self, first: usize, values: &mut [T]) -> Result<(), CudaError> {
        let (bytes, from) = (size_of_val(values), first * size_of::<T>());
        assert!(from + bytes <= self.bytes, "{bytes} bytes from {from} on are not in {}", self.bytes);
        // SAFETY: the source range is in the allocation; any bytes are a value of a `Plain` type.
        check("cuMemcpyDtoH_v2", unsafe {
            sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), self.address + from as u64, bytes)
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the allocation is this buffer's alone. An error leaves it to the end of the process.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// Numbers for which any bytes are a value.
pub trait Plain: Copy + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($number:ty),*) => { $(impl private::Sealed for $number {} impl Plain for $number {})* };
}
plain!(u8, u16, u32, i32, u64, f32);
