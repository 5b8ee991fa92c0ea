//! What differs between processors: the trampolines, and nothing else.
//!
//! A trampoline stands in for a function of glibc that looks at its caller's return address: `dlsym(RTLD_NEXT, ..)`
//! searches behind the caller's object, `dlopen` expands `$ORIGIN` in the caller's RUNPATH. An ordinary forwarding
//! function would be that caller. So a trampoline saves the arguments, asks a filter, puts them back and *jumps*:
//! glibc sees the stack and the return address of the original call.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

#[cfg(not(test))]
pub(crate) use this::trap_instruction;
pub(crate) use this::{attach, called, gate, make, number_in_stub, own_places, real, stub, thread_pointer};

/// Ends the process at once.
#[cfg(not(test))]
pub(crate) fn trap() -> ! {
    // SAFETY: the instruction does not return.
    unsafe { core::arch::asm!(trap_instruction!(), options(noreturn, nomem, nostack)) }
}
