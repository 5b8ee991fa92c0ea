//! Trampolines for x86-64 (System V ABI).

use core::arch::{asm, naked_asm};
use core::ffi::c_void;
use core::sync::atomic::AtomicPtr;

use cuota_abi::cuda::CUresult;
use cuota_abi::nvml::nvmlReturn_t;
use cuota_region::policy::Policy;

use crate::interpose::call::{self, Call as Forwarded};
use crate::interpose::driver::{self, Library};
use crate::interpose::trampoline::{self, Call};
use crate::process::functions::Functions;
use crate::process::{self, at};

// What `gate` asks.
const _: () = assert!(Functions::SET_BYTES == 32);
const _: () = assert!(size_of::<Call>() == 56 && core::mem::offset_of!(Call, answer) == 48);

/// What all trampolines do: calls the filter in rax, `filter(&mut Call)`, in the frame below the return address of glibc's caller.
///
/// At entry rsp is 8 below a multiple of 16; `Call` is 56 bytes, so the call of the filter is aligned. All six integer
/// argument registers are restored, from the `Call`, where the filter may have changed them; the vector
/// registers carry no argument of these functions. `jmp rax` needs no notrack: glibc's entry points begin with endbr64.
///
/// # Safety
/// Only from [`trampoline`]'s assembly: rax is a filter.
#[unsafe(naked)]
unsafe extern "C" fn filtered() {
    naked_asm!(
        ".cfi_startproc",
        "sub rsp, 56",
        ".cfi_adjust_cfa_offset 56",
        "mov [rsp], rdi",
        "mov [rsp + 8], rsi",
        "mov [rsp + 16], rdx",
        "mov [rsp + 24], rcx",
        "mov [rsp + 32], r8",
        "mov [rsp + 40], r9",
        "mov rdi, rsp",
        "call rax",
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
    )
}

/// A trampoline: leads to [`filtered`] with its filter in rax, which carries no argument of these functions.
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
                "endbr64",
                "lea rax, [rip + {filter}]",
                "jmp {filtered}",
                filter = sym $filter,
                filtered = sym filtered,
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

/// In rax the place of a function of libcuda's; out of it the function. Keeps every other general register.
///
/// # Safety
/// Only from [`real`]'s assembly: it takes and returns nothing by any convention of Rust's.
#[unsafe(naked)]
unsafe extern "C" fn real_keeping_registers() {
    naked_asm!(
        ".cfi_startproc",
        "push rax",
        ".cfi_def_cfa_offset 16",
        "mov rax, [rax]",
        "test rax, rax",
        "jnz 2f",
        "mov eax, {cuda}",
        "call {attach}",
        "mov rax, [rsp]",
        "mov rax, [rax]",
        "test rax, rax",
        "jnz 2f",
        "lea rax, [rip + {missing}]",
        "2:",
        "lea rsp, [rsp + 8]",
        ".cfi_def_cfa_offset 8",
        "ret",
        ".cfi_endproc",
        cuda = const Library::Cuda as u32,
        attach = sym attach_keeping_registers,
        missing = sym driver::missing,
    )
}

/// The function of libcuda's that belongs at a place, or one that fails as that would.
///
/// Assembly for the same reason: most handlers call several.
#[inline(always)]
pub(crate) fn real(place: &'static AtomicPtr<c_void>) -> *mut c_void {
    let found;
    // SAFETY: as in `attach`.
    unsafe {
        asm!(
            "call {real}",
            real = sym real_keeping_registers,
            inout("rax") place.as_ptr() => found,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    found
}

/// As [`real_keeping_registers`], with a number of [`CALLED`](crate::hooks_table::CALLED) in rax.
///
/// # Safety
/// Only from [`called`]'s assembly: it takes and returns nothing by any convention of Rust's.
#[unsafe(naked)]
unsafe extern "C" fn called_keeping_registers() {
    naked_asm!(
        ".cfi_startproc",
        "push rcx",
        ".cfi_def_cfa_offset 16",
        "lea rcx, [rip + {places}]",
        "lea rax, [rcx + rax * 8]",
        "pop rcx",
        ".cfi_def_cfa_offset 8",
        "jmp {real}",
        ".cfi_endproc",
        places = sym crate::hooks_table::CALLED,
        real = sym real_keeping_registers,
    )
}

/// [`real`] of the function with this number in [`CALLED`](crate::hooks_table::CALLED): three bytes say it, and seven where it is.
#[inline(always)]
pub(crate) fn called(number: usize) -> *mut c_void {
    let found;
    // SAFETY: as in `attach`; the number is one of the table's.
    unsafe {
        asm!(
            "call {called}",
            called = sym called_keeping_registers,
            inout("rax") number => found,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    found
}

/// Where the stubs of [`crate::interpose::call`] lead: eax has the hook's word ([`call::word_of`]).
///
/// A launch that nothing holds goes on to the driver from here, and nothing is written: a launch ends with a store to the card's doorbell, which
/// takes some hundred ns to leave the core, and what is stored behind it waits in a buffer of 56 to 112 stores, to which the driver's next launch has as much
/// to add. By way of a handler it was 50, which a processor with few had to wait for. What is asked here is what `goes_at_once` asks in `hooks::launch`.
///
/// The registers that a caller keeps are all saved here, in places that [`make`]'s unwind table knows.
///
/// # Safety
/// Only from such a stub.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn gate() {
    naked_asm!(
        "mov r11d, eax",
        "shr r11d, {handler_shift}",
        "sub r11d, {launches}",
        "cmp r11d, 1",
        "ja 9f",
        // The function: argument 0, or 1 behind a configuration. No argument of a launch is in a vector register.
        "mov r11, rdi",
        "cmove r11, rsi",
        "mov r10, [rip + {process}]",
        "test r10, r10",
        "jz 9f",
        "cmp dword ptr [r10 + {standing}], {managed}",
        "jne 9f",
        "movd xmm0, eax",
        "mov rax, [r10 + {policy}]",
        "mov eax, [rax + {epoch}]",
        "inc rax",
        "cmp rax, [r10 + {free}]",
        "jne 8f",
        "cmp dword ptr [r10 + {live}], 1",
        "jne 8f",
        "movzx eax, byte ptr [r10 + {sole}]",
        "shl rax, 56",
        "xor r11, rax",
        "movabs rax, {factor}",
        "imul rax, r11",
        "shr rax, {shift}",
        "shl eax, 5",
        "lea rax, [rax + r10 + {known}]",
        // Four ways.
        "cmp r11, [rax]",
        "je 7f",
        "cmp r11, [rax + 8]",
        "je 7f",
        "cmp r11, [rax + 16]",
        "je 7f",
        "cmp r11, [rax + 24]",
        "jne 8f",
        "7:",
        "movd eax, xmm0",
        "shr eax, {number_shift}",
        "and eax, 1023",
        "lea r10, [rip + {places}]",
        "mov r10, [r10 + rax * 8]",
        // A driver that has no such function is said to have none below.
        "test r10, r10",
        "jz 8f",
        "jmp r10",
        "8:",
        "movd eax, xmm0",
        "9:",
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 136",
        "mov [rsp + 8], rdi",
        "mov [rsp + 16], rsi",
        "mov [rsp + 24], rdx",
        "mov [rsp + 32], rcx",
        "mov [rsp + 40], r8",
        "mov [rsp + 48], r9",
        "mov ebx, eax",
        "shr ebx, {number_shift}",
        "and ebx, 1023",
        "mov [rsp + 120], rax",
        // IN_REGISTERS: there are no words on the stack.
        "bt eax, 13",
        "setc byte ptr [rsp + 128]",
        "jc 4f",
        // The caller's frame is there, whether all of these words are arguments or not. Word by word, as the caller has just pushed them: a load of two
        // is not forwarded from two stores but waits until both have left the core, behind the doorbell of the launch before (H100: 0.2 µs).
        "mov r10, [rbp + 16]",
        "mov [rsp + 56], r10",
        "mov r10, [rbp + 24]",
        "mov [rsp + 64], r10",
        "mov r10, [rbp + 32]",
        "mov [rsp + 72], r10",
        "mov r10, [rbp + 40]",
        "mov [rsp + 80], r10",
        "mov r10, [rbp + 48]",
        "mov [rsp + 88], r10",
        "mov r10, [rbp + 56]",
        "mov [rsp + 96], r10",
        "mov r10, [rbp + 64]",
        "mov [rsp + 104], r10",
        "mov r10, [rbp + 72]",
        "mov [rsp + 112], r10",
        "4:",
        "lea r12, [rip + {places}]",
        "mov rax, [r12 + rbx * 8]",
        "test rax, rax",
        "jz 5f",
        "2:",
        "mov [rsp], rax",
        "mov rdi, rsp",
        // The handler's number: the word's highest byte.
        "movzx eax, byte ptr [rsp + 123]",
        "lea rcx, [rip + {handlers}]",
        "movsxd rax, dword ptr [rcx + rax * 4]",
        "add rax, rcx",
        "call rax",
        "3:",
        "lea rsp, [rbp - 40]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        "5:",
        "xor r13d, r13d",
        "cmp ebx, {first_of_nvml}",
        "setae r13b",
        "mov edi, r13d",
        "call {attach}",
        "mov rax, [r12 + rbx * 8]",
        "test rax, rax",
        "jnz 2b",
        "mov eax, {no_cuda}",
        "mov ecx, {no_nvml}",
        "test r13d, r13d",
        "cmovnz eax, ecx",
        "jmp 3b",
        places = sym crate::hooks_table::HOOKED,
        handlers = sym crate::hooks_table::handler_offsets,
        attach = sym driver::attach,
        process = sym process::PROCESS,
        launches = const crate::hooks_table::LAUNCHES,
        managed = const process::MANAGED,
        standing = const at::STANDING,
        policy = const at::POLICY,
        epoch = const Policy::EPOCH_AT,
        free = const at::FREE,
        live = const at::LIVE,
        sole = const at::SOLE,
        known = const at::KNOWN,
        factor = const Functions::FACTOR,
        shift = const Functions::SHIFT,
        handler_shift = const call::HANDLER_SHIFT,
        number_shift = const call::NUMBER_SHIFT,
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
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "sub rsp, 8",
        "cmp byte ptr [rdi + 128], 0",
        "jne 4f",
        "push [rdi + 112]",
        "push [rdi + 104]",
        "push [rdi + 96]",
        "push [rdi + 88]",
        "push [rdi + 80]",
        "push [rdi + 72]",
        "push [rdi + 64]",
        "push [rdi + 56]",
        "4:",
        "mov rbx, rdi",
        "mov rsi, [rdi + 16]",
        "mov rdx, [rdi + 24]",
        "mov rcx, [rdi + 32]",
        "mov r8, [rdi + 40]",
        "mov r9, [rdi + 48]",
        "mov rdi, [rdi + 8]",
        "cmp byte ptr [rbx + 128], 2",
        "je 2f",
        "cuota_made:",
        "call [rbx]",
        "cuota_made_end:",
        "nop",
        "3:",
        "mov rbx, [rbp - 8]",
        "leave",
        "ret",
        // A call of our own: below it are frames that nobody can unwind.
        "2:",
        "call [rbx]",
        "jmp 3b",
    )
}

// How an exception, a cancelled thread, or somebody who wants a backtrace gets from a call to the driver to the hook's caller: in
// one step, over all frames of ours, by the registers that `gate` has saved. No frame of ours needs a table of its own then (a
// fifth of the library: DWARF's describe each push), nor has one; `make` knows where the call lies, and so the gate's frame, by
// rbx. (DWARF 4, 6.4; LSB 5.0 core, 10.6: a CIE, one FDE.)
#[cfg(not(test))]
core::arch::global_asm!(
    // Where the compiler's tables go instead: the linker strips them.
    ".cfi_sections .debug_frame",
    ".pushsection .eh_frame, \"a\", @unwind",
    ".p2align 3",
    "4:",
    ".long 6f - 5f",
    "5:",
    ".long 0",
    ".byte 1",       // version
    ".asciz \"zR\"", // augmentation: a length, then how the FDE's addresses are encoded
    ".uleb128 1",    // code alignment
    ".sleb128 -8",   // data alignment
    ".byte 16",      // the return address's register
    ".uleb128 1",
    ".byte 0x1b",         // relative to their place, 32 bits, signed
    ".byte 0x0c, 3",      // DW_CFA_def_cfa: rbx, and
    ".uleb128 192",       // the 176 bytes between the call and the gate's frame, rbp and the return address
    ".byte 0x80 | 16, 1", // DW_CFA_offset: the return address at CFA - 8,
    ".byte 0x80 | 6, 2",  // rbp,
    ".byte 0x80 | 3, 3",  // rbx,
    ".byte 0x80 | 12, 4", // r12,
    ".byte 0x80 | 13, 5", // r13,
    ".byte 0x80 | 14, 6", // r14,
    ".byte 0x80 | 15, 7", // and r15 below it
    ".p2align 3, 0",
    "6:",
    ".long 8f - 7f",
    "7:",
    ".long 7b - 4b",
    ".long cuota_made - .",
    ".long cuota_made_end + 1 - cuota_made",
    ".uleb128 0",
    ".p2align 3, 0",
    "8:",
    ".popsection",
);

/// The stub of a hook: see [`gate`]. In a library that is shipped one in twenty-four leads there, and those about it to its jump, in two bytes
/// and not five: a place has eight then, and not twelve. They are counted as they come, all of them in one section of one object
/// (`codegen-units = 1`); `count` is how many there are.
#[cfg(not(any(test, debug_assertions)))]
macro_rules! stub {
    ($word:expr, $count:expr) => {
        core::arch::naked_asm!(
            ".ifndef cuota_stubs",
            ".set cuota_stubs, 0",
            ".endif",
            "mov eax, {word}",
            ".if cuota_stubs % 24 == 12 || cuota_stubs == {count} - 1",
            "77:",
            "jmp {gate}",
            ".elseif cuota_stubs % 24 < 12",
            "jmp 77f",
            ".else",
            "jmp 77b",
            ".endif",
            ".set cuota_stubs, cuota_stubs + 1",
            word = const $word,
            count = const $count,
            gate = sym $crate::arch::gate,
        )
    };
}
/// The same in a build of many objects.
#[cfg(any(test, debug_assertions))]
macro_rules! stub {
    ($word:expr, $count:expr) => {
        core::arch::naked_asm!(
            "mov eax, {word}",
            "jmp {gate}",
            word = const $word,
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
    const MOV_EAX: u8 = 0xb8;
    // SAFETY: both are longer; a stub begins with one byte and what it moves.
    let (first, moved) =
        unsafe { (code.cast::<u8>().read(), code.cast::<u8>().add(1).cast::<u32>().read_unaligned()) };
    (first == MOV_EAX).then_some(moved as usize >> call::NUMBER_SHIFT & 1023)
}

/// Where this library is loaded, and its dynamic section. Assembly, since Rust asks the table of addresses for what another object might
/// define, and each address there is relocated.
pub(crate) fn own_places() -> (usize, *const c_void) {
    let (start, dynamic);
    // SAFETY: the linker's names; nothing is read.
    unsafe {
        asm!(
            "lea {}, [rip + __ehdr_start]",
            "lea {}, [rip + _DYNAMIC]",
            out(reg) start,
            out(reg) dynamic,
            options(nostack, nomem, preserves_flags),
        );
    }
    (start, dynamic)
}

/// What tells the calling thread from all others that live.
#[inline(always)]
pub(crate) fn thread_pointer() -> u64 {
    let pointer;
    // SAFETY: the first word of a thread's control block is its address (x86-64 psABI, thread-local storage).
    unsafe { asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags)) };
    pointer
}

/// The instruction that ends the process with SIGILL.
macro_rules! trap_instruction {
    () => {
        "ud2"
    };
}
pub(crate) use trap_instruction;
