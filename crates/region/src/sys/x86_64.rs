//! System calls on x86-64 Linux.

use core::arch::asm;

/// Makes system call `number` and returns what the kernel put into `rax`: a result, or a negated errno.
///
/// # Safety
/// The caller keeps the contract of the system call that `number` names.
#[inline]
pub(super) unsafe fn syscall6(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rcx and r11 and nothing else; the rest is the caller's contract.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
