//! Trampolines for aarch64 (AAPCS64).

use core::arch::{asm, naked_asm};
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};

use cuota_abi::cuda::CUresult;
use cuota_abi::nvml::nvmlReturn_t;

use crate::interpose::call::{self, Call as Forwarded};
use crate::interpose::driver::{self, Library};
use crate::interpose::trampoline::{self, Call};

const _: () = assert!(size_of::<Call>() == 56 && core::mem::offset_of!(Call, answer) == 48);

/// The body of a trampoline: a frame record, then `Call` (padded to 64 bytes, sp stays a multiple of 16).
///
/// x0-x5 are restored from the `Call`, where the filter may have changed them; these functions have no further
/// argument. The jump goes through x16, which `bti c` at glibc's entry points accepts. `hint #34` is `bti c`.
macro_rules! trampoline {
    ($name:ident, $filter:path) => {
        #[doc = concat!("Stands in for glibc's `", stringify!($name), "`; see the module's documentation.")]
        ///
        /// # Safety
        /// As glibc's function of this name. Not to be called from Rust: the type does not say its arguments.
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                "hint #34",
                "stp x29, x30, [sp, #-80]!",
                ".cfi_def_cfa_offset 80",
                ".cfi_offset x29, -80",
                ".cfi_offset x30, -72",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "add x0, sp, #16",
                "bl {filter}",
                "mov x16, x0",
                "ldp x0, x1, [sp, #16]",
                "ldp x2, x3, [sp, #32]",
                "ldp x4, x5, [sp, #48]",
                "ldr x17, [sp, #64]",
                "ldp x29, x30, [sp], #80",
                ".cfi_def_cfa_offset 0",
                ".cfi_restore x29",
                ".cfi_restore x30",
                "cbz x16, 2f",
                "br x16",
                "2:",
                "mov x0, x17",
                "ret",
                ".cfi_endproc",
                filter = sym $filter,
            )
        }
    };
}

trampoline!(dlsym, trampoline::filter_dlsym);
trampoline!(dlvsym, trampoline::filter_dlvsym);
trampoline!(dlopen, trampoline::filter_dlopen);
trampoline!(dlmopen, trampoline::filter_dlmopen);

/// Looks for the library of a hook that was called, and finds its functions.
pub(crate) fn attach(library: Library) {
    driver::attach(library as u32);
}

/// The function of libcuda's that belongs at a place, or one that fails as that would.
#[inline(never)]
pub(crate) fn real(place: &'static AtomicPtr<c_void>) -> *mut c_void {
    for _ in 0..2 {
        let real = place.load(Ordering::Acquire);
        if !real.is_null() {
            return real;
        }
        attach(Library::Cuda);
    }
    driver::missing as *mut c_void
}

/// [`real`] of the function with this number in [`CALLED`](crate::hooks_table::CALLED).
pub(crate) fn called(number: usize) -> *mut c_void {
    crate::hooks_table::CALLED.get(number).map_or(driver::missing as *mut c_void, real)
}

/// Where the stubs of [`crate::interpose::call`] lead: w9 has the hook's word ([`call::word_of`]).
///
/// # Safety
/// Only from such a stub.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn gate() {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-160]!",
        ".cfi_def_cfa_offset 160",
        ".cfi_offset x29, -160",
        ".cfi_offset x30, -152",
        "mov x29, sp",
        ".cfi_def_cfa_register x29",
        "stp x0, x1, [sp, #24]",
        "stp x2, x3, [sp, #40]",
        "stp x4, x5, [sp, #56]",
        "stp x6, x7, [sp, #72]",
        // The caller's frame is there, whether these words are arguments or not.
        "ldp x12, x13, [x29, #160]",
        "stp x12, x13, [sp, #88]",
        "ldp x12, x13, [x29, #176]",
        "stp x12, x13, [sp, #104]",
        "ldp x12, x13, [x29, #192]",
        "stp x12, x13, [sp, #120]",
        "ubfx w14, w9, #{number_shift}, #10",
        "lsr w11, w9, #{handler_shift}",
        "str x9, [sp, #136]",
        "str xzr, [sp, #144]",
        "adrp x12, {handlers}",
        "add x12, x12, :lo12:{handlers}",
        "ldrsw x9, [x12, x11, lsl #2]",
        "add x9, x9, x12",
        "adrp x10, {places}",
        "add x10, x10, :lo12:{places}",
        "add x10, x10, x14, lsl #3",
        "ldr x12, [x10]",
        "cbnz x12, 2f",
        "cmp w14, #{first_of_nvml}",
        "cset w0, hs",
        "stp x9, x10, [sp, #-32]!",
        "str x0, [sp, #16]",
        "bl {attach}",
        "ldr x1, [sp, #16]",
        "ldp x9, x10, [sp], #32",
        "ldr x12, [x10]",
        "cbnz x12, 2f",
        "mov w0, #{no_cuda}",
        "mov w2, #{no_nvml}",
        "cmp w1, #0",
        "csel w0, w0, w2, eq",
        "b 3f",
        "2:",
        "str x12, [sp, #16]",
        "add x0, sp, #16",
        "blr x9",
        "3:",
        "ldp x29, x30, [sp], #160",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        places = sym crate::hooks_table::HOOKED,
        handlers = sym crate::hooks_table::handler_offsets,
        attach = sym driver::attach,
        number_shift = const call::NUMBER_SHIFT,
        handler_shift = const call::HANDLER_SHIFT,
        first_of_nvml = const crate::hooks_table::FIRST_OF_NVML,
        no_cuda = const CUresult::CUDA_ERROR_NOT_INITIALIZED.0,
        no_nvml = const nvmlReturn_t::NVML_ERROR_UNINITIALIZED.0,
    )
}

/// Makes a call with the arguments that were laid down.
///
/// # Safety
/// The call's function takes such arguments.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn make(call: &Forwarded) -> u32 {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa_register x29",
        "sub sp, sp, #48",
        "mov x9, x0",
        "ldp x10, x11, [x9, #72]",
        "stp x10, x11, [sp]",
        "ldp x10, x11, [x9, #88]",
        "stp x10, x11, [sp, #16]",
        "ldp x10, x11, [x9, #104]",
        "stp x10, x11, [sp, #32]",
        "ldp x0, x1, [x9, #8]",
        "ldp x2, x3, [x9, #24]",
        "ldp x4, x5, [x9, #40]",
        "ldp x6, x7, [x9, #56]",
        "ldr x16, [x9]",
        "blr x16",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
    )
}

/// The stub of a hook: see [`gate`].
macro_rules! stub {
    ($word:expr, $count:expr) => {
        core::arch::naked_asm!(
            "hint #34",
            "mov w9, #{low}",
            "movk w9, #{high}, lsl #16",
            "b {gate}",
            low = const $word & 0xffff,
            high = const $word >> 16,
            gate = sym $crate::arch::gate,
        )
    };
}
pub(crate) use stub;

/// The hook's number, if this is a hook's stub.
///
/// # Safety
/// A stub or a trampoline begins here.
pub(crate) unsafe fn number_in_stub(code: *const c_void) -> Option<usize> {
    /// `mov w9, #...`, with what it moves in its bits 5 to 20; so has the `movk` behind it, which moves the upper half.
    const MOV_W9: u32 = 0x5280_0009;
    // SAFETY: both are longer; after `bti c`, a stub moves.
    let [low, high] = unsafe { code.cast::<u32>().add(1).cast::<[u32; 2]>().read() };
    let word = (high >> 5 << 16) | (low >> 5 & 0xffff);
    (low & !(0xffff << 5) == MOV_W9).then_some(word as usize >> call::NUMBER_SHIFT & 1023)
}

/// Where this library is loaded, and its dynamic section.
pub(crate) fn own_places() -> (usize, *const c_void) {
    unsafe extern "C" {
        /// The linker's names for them.
        static __ehdr_start: u8;
        static _DYNAMIC: u8;
    }
    ((&raw const __ehdr_start).addr(), (&raw const _DYNAMIC).cast())
}

/// What tells the calling thread from all others that live.
pub(crate) fn thread_pointer() -> u64 {
    let pointer;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags)) };
    pointer
}

/// The instruction that ends the process with SIGTRAP.
macro_rules! trap_instruction {
    () => {
        "brk #1"
    };
}
pub(crate) use trap_instruction;
