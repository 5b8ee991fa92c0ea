//! Trampolines for aarch64 (AAPCS64).

use core::arch::naked_asm;

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

/// The instruction that ends the process with SIGTRAP.
macro_rules! trap_instruction {
    () => {
        "brk #1"
    };
}
pub(crate) use trap_instruction;
