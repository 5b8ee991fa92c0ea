//! A call as it came in: its arguments in words, whatever their types.
//!
//! Most hooks look at one or two arguments and pass all of them on. As Rust functions of their own types they would each
//! save, keep and load again every argument, and each describe that to unwinders. Instead the exported symbol is a stub of a few
//! instructions, and one gate ([`crate::arch`]) lays the arguments down here and makes the call to the driver from here.

use core::ffi::c_void;

use cuota_abi::cuda::{CUresult, CUstream};
use cuota_abi::nvml::nvmlReturn_t;

use crate::arch;

/// Words on the stack that can belong to a call's arguments: five of a launch, eight of a handle that is passed by value.
const ON_STACK: usize = 8;

/// The bit of a hook's word that says that stream 0 is the per-thread one. Below it: what the line in the table says of the function.
pub(crate) const PER_THREAD_MODE: u64 = 1 << 12;

/// The bit of a hook's word that says that all arguments are in registers.
const IN_REGISTERS: u64 = 1 << 13;

/// Where the hook's number stands in its word: ten bits.
pub(crate) const NUMBER_SHIFT: u32 = 14;

/// Where its handler's number stands: eight bits.
pub(crate) const HANDLER_SHIFT: u32 = 24;

/// All that a hook's stub says to the gate.
pub(crate) const fn word_of(number: usize, handler: usize, note: u64, name: &str, sizes: &[usize]) -> u64 {
    assert!(
        number < 1 << (HANDLER_SHIFT - NUMBER_SHIFT)
            && handler < 1 << (32 - HANDLER_SHIFT)
            && note < PER_THREAD_MODE
    );
    let numbers = (number as u64) << NUMBER_SHIFT | (handler as u64) << HANDLER_SHIFT;
    note | mode_of(name) | places_of(sizes) | numbers
}

/// [`IN_REGISTERS`] for a function whose arguments have these sizes, bytes, by the rules of x86-64: six words, and no larger structure.
const fn places_of(sizes: &[usize]) -> u64 {
    let mut index = 0;
    while index < sizes.len() {
        if sizes[index] > size_of::<u64>() {
            return 0;
        }
        index += 1;
    }
    if index <= 6 { IN_REGISTERS } else { 0 }
}

/// The driver's handle of it.
pub(crate) const CU_STREAM_PER_THREAD: usize = 2;

/// [`PER_THREAD_MODE`] for a function whose name says so.
const fn mode_of(name: &str) -> u64 {
    match name.as_bytes() {
        [.., b'_', b'p', b't', b's', b'z'] | [.., b'_', b'p', b't', b'd', b's'] => PER_THREAD_MODE,
        _ => 0,
    }
}

/// A call of the driver's that is on its way. Its layout is known to the assembly.
#[repr(C)]
pub(crate) struct Call {
    /// The driver's own function.
    real: *mut c_void,
    /// Six in registers, then those on the stack: integers, handles and pointers, of which the upper half means nothing where the type
    /// has 32 bits. aarch64 has eight in registers.
    words: [u64; 6 + ON_STACK],
    /// The hook's word ([`word_of`]); 0 in calls of our own.
    word: u64,
    /// 0: with words on the stack; 1: all in registers; 2: all in registers, and made by us, not by the program.
    kind: u64,
}

const _: () = assert!(size_of::<Call>() == 136 && core::mem::offset_of!(Call, word) == 120);

impl Call {
    /// A call of our own of `real`, which takes so many words, or fewer.
    #[inline(never)]
    pub(crate) fn new(real: *const c_void, [first, second, third]: [u64; 3]) -> Self {
        let words = [first, second, third, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Call { real: real.cast_mut(), words, word: 0, kind: 2 }
    }

    /// Makes the call.
    #[inline(always)]
    pub(crate) fn make(&self) -> CUresult {
        // SAFETY: the driver's own function, with the program's own arguments.
        CUresult(unsafe { arch::make(self) })
    }

    /// Makes the call, which is of NVML's.
    pub(crate) fn make_nvml(&self) -> nvmlReturn_t {
        nvmlReturn_t(self.make().0)
    }

    /// Makes a call of the same function with these arguments.
    pub(crate) fn make_with(&self, arguments: [u64; 3]) -> CUresult {
        Call::new(self.real, arguments).make()
    }

    /// Which function of the driver it is.
    #[inline(always)]
    pub(crate) fn function(&self) -> u64 {
        self.real.addr() as u64
    }

    /// What the line in the table says of this function.
    #[inline(always)]
    pub(crate) fn note(&self) -> usize {
        usize::try_from(self.word & (PER_THREAD_MODE - 1)).unwrap_or(0)
    }

    /// Argument `index`, counted from 0.
    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> u64 {
        // Those beyond the words here are never asked for.
        self.words.get(index).copied().unwrap_or(0)
    }

    /// Where the one argument lies that is a structure of 64 bytes, passed by value after a pointer: on the stack by the rules of
    /// x86-64, behind a pointer by those of aarch64.
    pub(crate) fn by_value(&self) -> *const c_void {
        if cfg!(target_arch = "aarch64") { self.pointer(1) } else { (&raw const self.words[6]).cast() }
    }

    /// Argument `index`, of 32 bits.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half of its register")]
    pub(crate) fn int(&self, index: usize) -> u32 {
        self.word(index) as u32
    }

    /// Where argument `index` lies, of 32 bits: the next one is a word further.
    #[inline(always)]
    pub(crate) fn ints(&self, index: usize) -> *const u32 {
        self.words.as_ptr().wrapping_add(index).cast()
    }

    /// Argument `index`, of `usize`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "64 bits: checked in the crate's root")]
    pub(crate) fn size(&self, index: usize) -> usize {
        self.word(index) as usize
    }

    /// Argument `index`, a pointer or a handle.
    #[inline(always)]
    pub(crate) fn pointer<T>(&self, index: usize) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.size(index))
    }

    /// Argument `index` as what it is.
    ///
    /// # Safety
    /// It is a `T`.
    #[inline(always)]
    pub(crate) unsafe fn argument<T: Copy>(&self, index: usize) -> T {
        const { assert!(size_of::<T>() <= size_of::<u64>()) };
        let word = self.word(index);
        // SAFETY: the caller's contract; on a little-endian machine a shorter type is the word's first bytes.
        unsafe { core::mem::transmute_copy(&word) }
    }

    /// Argument `index`, a stream.
    #[inline(always)]
    pub(crate) fn stream(&self, index: usize) -> CUstream {
        self.as_meant(self.pointer(index))
    }

    /// The stream that this function means by `stream`: 0 is the per-thread one to those that end in `_ptsz` and `_ptds`.
    #[inline(always)]
    pub(crate) fn as_meant(&self, stream: CUstream) -> CUstream {
        if stream.is_null() && self.word & PER_THREAD_MODE != 0 {
            core::ptr::without_provenance_mut(CU_STREAM_PER_THREAD)
        } else {
            stream
        }
    }

    /// What argument `index` leads to; `None` for null.
    ///
    /// # Safety
    /// The program's argument is a pointer to a `T`.
    #[inline(always)]
    pub(crate) unsafe fn at<T: Copy>(&self, index: usize) -> Option<T> {
        // SAFETY: the caller's contract.
        unsafe { self.pointer::<T>(index).as_ref() }.copied()
    }
}
