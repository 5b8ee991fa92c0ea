//! External memory: imports of file descriptors, and buffers in them.

use crate::program::{Program, call, in_child};
use crate::sharing::{
    SHARED, close, export, fill, free, hear, import, importer, is_importer, physical, read_byte, release,
    say, wait_for,
};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;

fn import_external(
    program: &Program,
    descriptor: i32,
    kind: u32,
    bytes: u64,
) -> Result<CUexternalMemory, u32> {
    // SAFETY: every field is a plain number or a null pointer.
    let mut asked: CUDA_EXTERNAL_MEMORY_HANDLE_DESC = unsafe { std::mem::zeroed() };
    asked.type_ = CUexternalMemoryHandleType(kind);
    asked.handle.fd = descriptor;
    asked.size = bytes;
    let mut external = std::ptr::null_mut();
    match call!(
        program.cuda,
        cuImportExternalMemory: PFN_cuImportExternalMemory_v10000(&raw mut external, &raw const asked)
    ) {
        0 => Ok(external),
        error => Err(error),
    }
}

fn buffer(program: &Program, external: CUexternalMemory, offset: u64, bytes: u64) -> Result<u64, u32> {
    // SAFETY: every field is a plain number.
    let mut asked: CUDA_EXTERNAL_MEMORY_BUFFER_DESC = unsafe { std::mem::zeroed() };
    (asked.offset, asked.size) = (offset, bytes);
    let mut address = 0;
    match call!(
        program.cuda,
        cuExternalMemoryGetMappedBuffer:
            PFN_cuExternalMemoryGetMappedBuffer_v10000(&raw mut address, external, &raw const asked)
    ) {
        0 => Ok(address),
        error => Err(error),
    }
}

fn destroy(program: &Program, external: CUexternalMemory) -> u32 {
    call!(program.cuda, cuDestroyExternalMemory: PFN_cuDestroyExternalMemory_v10000(external))
}

#[test]
fn external_memory_lives_until_its_last_import_and_buffer_are_gone() {
    in_child("external::external_memory_lives_until_its_last_import_and_buffer_are_gone", || {
        let program = Program::start();
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let handle = physical(&program, 1);
        let descriptor = export(&program, handle).expect("made for it");
        let external = import_external(&program, descriptor, 1, 100 * MIB).expect("an import");
        // SAFETY: asks about a descriptor that the import has taken.
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_GETFD) }, -1, "it is the driver's now");
        assert_eq!((release(&program, handle), taken()), (0, 100), "the import holds it");
        let whole = buffer(&program, external, 0, 100 * MIB).expect("inside");
        let tail = buffer(&program, external, 64 * MIB, 36 * MIB).expect("inside");
        fill(&program, whole + 64 * MIB, 7);
        assert_eq!(read_byte(&program, tail), (0, 7));
        assert_eq!(buffer(&program, external, 64 * MIB, 37 * MIB), Err(1));
        assert_eq!((destroy(&program, external), taken()), (0, 100), "the buffers hold it");
        assert_eq!((destroy(&program, external), buffer(&program, external, 0, MIB)), (400, Err(400)));
        assert_eq!((free(&program, whole), taken()), (0, 100));
        assert_eq!((free(&program, tail), taken(), read_byte(&program, tail).0), (0, 0, 1));
    });
}

#[test]
fn an_import_and_a_handle_of_the_same_memory_hold_it_apart() {
    let name = "external::an_import_and_a_handle_of_the_same_memory_hold_it_apart";
    in_child(name, || {
        let program = Program::start();
        if is_importer() {
            let descriptor = std::env::var(SHARED).expect("the exporter sets it").parse().expect("a number");
            let (result, handle) = import(&program, descriptor);
            let external = import_external(&program, descriptor, 1, 100 * MIB).expect("an import");
            say('!');
            hear();
            let before = program.free_bytes();
            assert_eq!((result, release(&program, handle), program.free_bytes()), (0, 0, before));
            assert_eq!((destroy(&program, external), program.free_bytes()), (0, before + 100 * MIB));
            return;
        }
        let handle = physical(&program, 1);
        let descriptor = export(&program, handle).expect("made for it");
        // SAFETY: the descriptor is open; without the flag the child inherits it.
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }, 0);
        let mut child = importer(name, &descriptor.to_string());
        close(descriptor);
        wait_for(&mut child, b'!');
        assert_eq!(release(&program, handle), 0);
        drop(child.stdin.take());
        assert!(child.wait().expect("it is a child").success());
    });
}

#[test]
fn an_import_is_of_all_the_memory_whatever_is_declared() {
    in_child("external::an_import_is_of_all_the_memory_whatever_is_declared", || {
        let program = Program::start();
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        for declared in [2 * MIB, 4096 * MIB] {
            let handle = physical(&program, 1);
            let descriptor = export(&program, handle).expect("made for it");
            let external = import_external(&program, descriptor, 1, declared).expect("any size");
            assert_eq!((release(&program, handle), taken()), (0, 100));
            assert_eq!(buffer(&program, external, 0, 100 * MIB + 1), Err(1), "beyond the memory's end");
            let whole = buffer(&program, external, 0, 100 * MIB).expect("inside");
            assert_eq!((destroy(&program, external), taken()), (0, 100), "the buffer holds it");
            assert_eq!((free(&program, whole), taken()), (0, 0));
        }
    });
}

#[test]
fn other_kinds_of_external_memory_are_refused() {
    in_child("external::other_kinds_of_external_memory_are_refused", || {
        let program = Program::start();
        let handle = physical(&program, 1);
        let descriptor = export(&program, handle).expect("made for it");
        assert_eq!(import_external(&program, descriptor, 1, 0), Err(1));
        assert_eq!(import_external(&program, descriptor, 9, MIB), Err(801));
        assert_eq!(import_external(&program, descriptor, 0, MIB), Err(1));
        assert_eq!(import_external(&program, -1, 1, MIB), Err(1));
        close(descriptor);
    });
}
