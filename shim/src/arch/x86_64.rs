//! Trampolines for x86-64 (System V ABI).

use core::arch::naked_asm;

use crate::interpose::trampoline::{self, Call};

const _: () = assert!(size_of::<Call>() == 56 && core::mem::offset_of!(Call, answer) == 48);

/// The body of a trampoline: `filter(&mut Call)` in the frame below the caller's return address.
///
/// At entry rsp is 8 below a multiple of 16; `Call` is 56 bytes, so the call of the filter is aligned. All six integer
/// argument registers are restored, from the `Call`, where the filter may have changed them; the vector
/// registers carry no argument of these functions. `jmp rax` needs no notrack: glibc's entry points begin with endbr64.
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
                "endbr64",
                "sub rsp, 56",
                ".cfi_adjust_cfa_offset 56",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "mov rdi, rsp",
                "call {filter}",
                "mov rdi, [rsp]",
                "mov rsi, [rsp + 8]",
                "mov rdx, [rsp + 16]",
                "mov rcx, [rsp + 24]",
                "mov r8, [rsp + 32]",
                "mov r9, [rsp + 40]",
                "mov r11, [rsp + 48]",
                "add rsp, 56",
                ".cfi_adjust_cfa_offset -56",
                "test rax, rax",
                "jz 2f",
                "jmp rax",
                "2:",
                "mov rax, r11",
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

/// The instruction that ends the process with SIGILL.
macro_rules! trap_instruction {
    () => {
        "ud2"
    };
}
pub(crate) use trap_instruction;
