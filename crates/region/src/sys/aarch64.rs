//! System calls on 64-bit Arm Linux.

use core::arch::asm;

/// Makes system call `number` and returns what the kernel put into `x0`: a result, or a negated errno.
///
/// # Safety
/// The caller keeps the contract of the system call that `number` names.
#[inline]
pub(super) unsafe fn syscall6(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers x0 and, of SVE's registers, what lies beyond v0-v31 (Linux, Documentation/arch/arm64/
    // sve.rst, "System call behaviour"); this target's baseline has no SVE, so the compiler keeps nothing there. The
    // rest is the caller's contract.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    result
}
