//! What a `no_std` library must bring to be linked.

use core::panic::PanicInfo;

/// No code of ours panics on purpose; should it happen, the process traps at once: no message, no unwinding into frames
/// of the tenant, no exit handlers.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    crate::arch::trap()
}

// The precompiled `core` was built to unwind, and its objects name the personality routine of std. Nothing unwinds
// here (panic = "abort"), so it is never called, yet a shared library may leave it undefined and then fails in dlopen.
// Hidden: an export of this name would interpose the one of a Rust program.
core::arch::global_asm!(
    ".pushsection .text.rust_eh_personality, \"ax\", @progbits",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    crate::arch::trap_instruction!(),
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
);
