//! Trampolines for x86-64 (System V ABI).

use core::arch::{asm, naked_asm};

use crate::interpose::driver::{self, Library};
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

/// Calls [`driver::attach`] for the library whose number is in eax, and keeps every other general register.
///
/// # Safety
/// Only from [`attach`]'s assembly: it takes and returns nothing by any convention of Rust's.
#[unsafe(naked)]
unsafe extern "C" fn attach_keeping_registers() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        // The compiler may call from in front of the prologue, where the stack is not aligned yet.
        "and rsp, -16",
        "mov edi, eax",
        "call {attach}",
        "lea rsp, [rbp - 64]",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        attach = sym driver::attach,
    )
}

/// Looks for the library of a hook that was called, and finds its functions.
///
/// Assembly, since an ordinary call, though it is made once in a process, has every hook save its arguments
/// first: that was a tenth of the library.
#[inline(always)]
pub(crate) fn attach(library: Library) {
    // SAFETY: keeps all general registers; `driver::attach` has the vector registers of the base instruction set to use.
    unsafe {
        asm!(
            "call {attach}",
            attach = sym attach_keeping_registers,
            inout("eax") library as u32 => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}

/// The instruction that ends the process with SIGILL.
macro_rules! trap_instruction {
    () => {
        "ud2"
    };
}
pub(crate) use trap_instruction;
