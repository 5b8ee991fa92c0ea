//! Memory of several processes. What is counted where was measured on an H100.

use crate::program::{Program, call, command, in_child, part};
use cuota_abi::cuda::*;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Child;

const MIB: u64 = 1 << 20;
pub(crate) const SHARED: &str = "CUOTA_SIM_TEST_SHARED";

/// Starts the importer of a test and gives it a word.
pub(crate) fn importer(name: &str, word: &str) -> Child {
    let folder = PathBuf::from(std::env::var_os("CUOTA_SIM_DIR").expect("the test sets it"));
    command(name, "importer", &folder).env(SHARED, word).spawn().expect("the test can be started")
}

pub(crate) fn is_importer() -> bool {
    part().as_deref() == Some("importer")
}

/// Waits until `child` says `mark`; the test harness writes first.
pub(crate) fn wait_for(child: &mut Child, mark: u8) {
    let mut byte = [0; 1];
    let output = child.stdout.as_mut().expect("a pipe");
    while byte[0] != mark {
        output.read_exact(&mut byte).expect("the importer goes on");
    }
}

pub(crate) fn say(mark: char) {
    print!("{mark}");
    std::io::stdout().flush().expect("a pipe");
}

/// Waits until the exporter says something, or is gone.
pub(crate) fn hear() {
    // Either way the importer goes on.
    let _ = std::io::stdin().read(&mut [0]);
}

pub(crate) fn read_byte(program: &Program, address: u64) -> (u32, u8) {
    let mut byte = 0_u8;
    let to = (&raw mut byte).cast();
    (call!(program.cuda, cuMemcpyDtoH_v2: PFN_cuMemcpyDtoH_v3020(to, address, 1)), byte)
}

pub(crate) fn fill(program: &Program, address: u64, byte: u8) {
    assert_eq!(call!(program.cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address, byte, 4096)), 0);
    assert_eq!(program.synchronize(std::ptr::null_mut()), 0);
}

pub(crate) fn free(program: &Program, address: u64) -> u32 {
    call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address))
}

fn ipc_handle(program: &Program, address: u64) -> (u32, CUipcMemHandle) {
    let mut handle = CUipcMemHandle { reserved: [0; 64] };
    let get = call!(program.cuda, cuIpcGetMemHandle: PFN_cuIpcGetMemHandle_v4010(&raw mut handle, address));
    (get, handle)
}

fn open_ipc(program: &Program, handle: CUipcMemHandle) -> (u32, u64) {
    let mut address = 0;
    let open = call!(
        program.cuda,
        cuIpcOpenMemHandle_v2: PFN_cuIpcOpenMemHandle_v11000(&raw mut address, handle, 1)
    );
    (open, address)
}

fn to_text(handle: CUipcMemHandle) -> String {
    handle.reserved.iter().map(|b| format!("{:02x}", b.cast_unsigned())).collect()
}

fn from_text(text: &str) -> CUipcMemHandle {
    let mut reserved = [0; 64];
    for (place, byte) in reserved.iter_mut().enumerate() {
        let digits = &text[2 * place..2 * place + 2];
        *byte = u8::from_str_radix(digits, 16).expect("hexadecimal").cast_signed();
    }
    CUipcMemHandle { reserved }
}

fn import_ipc() {
    let program = Program::start();
    let words = std::env::var(SHARED).expect("the exporter sets it");
    let (large, small) = words.split_once(' ').expect("two handles");
    let before = program.shown_bytes();
    let (open, address) = open_ipc(&program, from_text(large));
    assert_eq!((open, read_byte(&program, address)), (0, (0, 7)));
    assert_eq!(open_ipc(&program, from_text(large)), (0, address), "open already");
    let (open, beside) = open_ipc(&program, from_text(small));
    assert_eq!((open, read_byte(&program, beside), program.shown_bytes()), (0, (0, 9), before));
    assert_eq!(free(&program, address), 1, "not its own");
    fill(&program, address, 8);
    say('!');
    hear();
    assert_eq!(read_byte(&program, address), (0, 8), "it outlives its owner");
    for last in [0, 0, 1] {
        let close = call!(program.cuda, cuIpcCloseMemHandle: PFN_cuIpcCloseMemHandle_v4010(address));
        assert_eq!(close, last);
    }
    say('?');
    hear();
    hear();
}

#[test]
fn memory_opened_by_another_process_stays_taken_when_its_owner_frees_it() {
    let name = "sharing::memory_opened_by_another_process_stays_taken_when_its_owner_frees_it";
    in_child(name, || {
        if is_importer() {
            return import_ipc();
        }
        let program = Program::start();
        program.allocate(512).expect("room");
        let (large, small) = (program.allocate(100 << 20), program.allocate(1 << 20));
        let (large, small) = (large.expect("room"), small.expect("room"));
        fill(&program, large, 7);
        fill(&program, small, 9);
        let (mut of_large, mut of_small) = (ipc_handle(&program, large + 4096), ipc_handle(&program, small));
        assert_eq!((of_large.0, of_small.0, ipc_handle(&program, 4096).0), (0, 0, 1));
        assert_eq!(open_ipc(&program, of_large.1).0, 201, "in its own process");
        let words = format!("{} {}", to_text(of_large.1), to_text(of_small.1));
        let mut child = importer(name, &words);
        wait_for(&mut child, b'!');
        (of_large, of_small) = (ipc_handle(&program, large), ipc_handle(&program, small));
        assert_eq!((of_large.0, of_small.0, read_byte(&program, large)), (0, 0, (0, 8)));
        let (shown, left) = (program.shown_bytes(), program.free_bytes());
        assert_eq!(free(&program, large), 0);
        assert_eq!((shown - program.shown_bytes(), program.free_bytes()), (100 * MIB, left));
        child.stdin.as_mut().expect("a pipe").write_all(b"x").expect("the importer waits");
        wait_for(&mut child, b'?');
        assert_eq!(program.free_bytes() - left, 100 * MIB);
        assert_eq!(free(&program, small), 0);
        child.kill().expect("it runs");
        child.wait().expect("it is a child");
        // The importer's context, module and variable go with it; the block of 1 MiB holds the first allocation still.
        assert_eq!(program.free_bytes() - left, (100 + 504) * MIB);
    });
}

pub(crate) fn physical(program: &Program, kind: u32) -> u64 {
    // SAFETY: every field is a plain number or a null pointer.
    let mut properties: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.requestedHandleTypes = CUmemAllocationHandleType(kind);
    let mut handle = 0;
    let create = call!(
        program.cuda,
        cuMemCreate: PFN_cuMemCreate_v10020(&raw mut handle, 100 << 20, &raw const properties, 0)
    );
    assert_eq!(create, 0);
    handle
}

pub(crate) fn release(program: &Program, handle: u64) -> u32 {
    call!(program.cuda, cuMemRelease: PFN_cuMemRelease_v10020(handle))
}

pub(crate) fn export(program: &Program, handle: u64) -> Result<i32, u32> {
    let (mut descriptor, kind) = (-1, CUmemAllocationHandleType(1));
    match call!(
        program.cuda,
        cuMemExportToShareableHandle:
            PFN_cuMemExportToShareableHandle_v10020((&raw mut descriptor).cast(), handle, kind, 0)
    ) {
        0 => Ok(descriptor),
        error => Err(error),
    }
}

pub(crate) fn import(program: &Program, descriptor: i32) -> (u32, u64) {
    let (mut handle, kind) = (0, CUmemAllocationHandleType(1));
    let from = usize::try_from(descriptor).expect("a descriptor") as *mut std::ffi::c_void;
    let import = call!(
        program.cuda,
        cuMemImportFromShareableHandle:
            PFN_cuMemImportFromShareableHandle_v10020(&raw mut handle, from, kind)
    );
    (import, handle)
}

/// Maps all of `handle`'s memory and gives its address.
pub(crate) fn map(program: &Program, handle: u64) -> u64 {
    let (cuda, bytes, mut address) = (&program.cuda, 100 << 20, 0);
    // SAFETY: every field is a plain number.
    let mut access: CUmemAccessDesc = unsafe { std::mem::zeroed() };
    access.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    access.flags = CUmemAccess_flags(3);
    let reserve =
        call!(cuda, cuMemAddressReserve: PFN_cuMemAddressReserve_v10020(&raw mut address, bytes, 0, 0, 0));
    let map = call!(cuda, cuMemMap: PFN_cuMemMap_v10020(address, bytes, 0, handle, 0));
    let set = call!(cuda, cuMemSetAccess: PFN_cuMemSetAccess_v10020(address, bytes, &raw const access, 1));
    assert_eq!((reserve, map, set), (0, 0, 0));
    address
}

pub(crate) fn close(descriptor: i32) {
    // SAFETY: the descriptor is this test's own.
    assert_eq!(unsafe { libc::close(descriptor) }, 0);
}

#[test]
fn exported_memory_lives_while_a_descriptor_of_it_is_open() {
    in_child("sharing::exported_memory_lives_while_a_descriptor_of_it_is_open", || {
        let program = Program::start();
        let private = physical(&program, 0);
        assert_eq!((export(&program, private), release(&program, private)), (Err(1), 0));
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let handle = physical(&program, 1);
        let descriptor = export(&program, handle).expect("made for it");
        assert_eq!(import(&program, descriptor), (0, handle), "one more handle");
        assert_eq!((release(&program, handle), taken()), (0, 100));
        assert_eq!((release(&program, handle), taken()), (0, 100), "the descriptor holds it");
        let (result, again) = import(&program, descriptor);
        close(descriptor);
        assert_eq!((result, taken()), (0, 100), "the new handle holds it");
        assert_eq!((release(&program, again), taken()), (0, 0));
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert_eq!(import(&program, std::os::fd::AsRawFd::as_raw_fd(&file)).0, 1);
    });
}

#[test]
fn imported_memory_is_shared_and_outlives_its_exporter() {
    let name = "sharing::imported_memory_is_shared_and_outlives_its_exporter";
    in_child(name, || {
        let program = Program::start();
        if is_importer() {
            let descriptor = std::env::var(SHARED).expect("the exporter sets it");
            let before = program.shown_bytes();
            let (result, handle) = import(&program, descriptor.parse().expect("a number"));
            close(descriptor.parse().expect("a number"));
            let address = map(&program, handle);
            assert_eq!((result, read_byte(&program, address)), (0, (0, 5)));
            assert_eq!(program.shown_bytes(), before);
            fill(&program, address, 6);
            say('!');
            hear();
            return;
        }
        let handle = physical(&program, 1);
        let address = map(&program, handle);
        fill(&program, address, 5);
        let descriptor = export(&program, handle).expect("made for it");
        // SAFETY: the descriptor is open; without the flag the child inherits it.
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }, 0);
        let mut child = importer(name, &descriptor.to_string());
        close(descriptor);
        wait_for(&mut child, b'!');
        assert_eq!(read_byte(&program, address), (0, 6));
        let (shown, left) = (program.shown_bytes(), program.free_bytes());
        assert_eq!(call!(program.cuda, cuMemUnmap: PFN_cuMemUnmap_v10020(address, 100 << 20)), 0);
        assert_eq!(release(&program, handle), 0);
        assert_eq!((shown - program.shown_bytes(), program.free_bytes()), (100 * MIB, left));
        drop(child.stdin.take());
        assert!(child.wait().expect("it is a child").success());
        assert_eq!(program.free_bytes() - left, (100 + 504) * MIB);
    });
}

fn export_fabric(program: &Program, handle: u64) -> Result<CUmemFabricHandle, u32> {
    let mut fabric = CUmemFabricHandle { data: [0; 64] };
    let (to, kind) = ((&raw mut fabric).cast(), CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC);
    match call!(
        program.cuda,
        cuMemExportToShareableHandle: PFN_cuMemExportToShareableHandle_v10020(to, handle, kind, 0)
    ) {
        0 => Ok(fabric),
        error => Err(error),
    }
}

fn import_fabric(program: &Program, fabric: &mut CUmemFabricHandle) -> Result<u64, u32> {
    let (mut handle, kind) = (0, CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC);
    let from = std::ptr::from_mut(fabric).cast();
    match call!(
        program.cuda,
        cuMemImportFromShareableHandle:
            PFN_cuMemImportFromShareableHandle_v10020(&raw mut handle, from, kind)
    ) {
        0 => Ok(handle),
        error => Err(error),
    }
}

#[test]
fn a_fabric_handle_names_memory_and_holds_nothing() {
    let name = "sharing::a_fabric_handle_names_memory_and_holds_nothing";
    in_child(name, || {
        let program = Program::start();
        if is_importer() {
            let CUipcMemHandle { reserved } =
                from_text(&std::env::var(SHARED).expect("the exporter sets it"));
            let mut fabric = CUmemFabricHandle { data: reserved.map(i8::cast_unsigned) };
            let handle = import_fabric(&program, &mut fabric).expect("it lives");
            say('!');
            hear();
            let before = program.free_bytes();
            assert_eq!((release(&program, handle), program.free_bytes()), (0, before + 100 * MIB));
            assert_eq!(import_fabric(&program, &mut fabric), Err(1), "it is gone");
            return;
        }
        let (descriptor_only, handle) = (physical(&program, 1), physical(&program, 8));
        assert!(export_fabric(&program, descriptor_only).is_err(), "not made for it");
        assert_eq!(export(&program, handle), Err(1));
        let mut fabric = export_fabric(&program, handle).expect("made for it");
        assert_eq!(import_fabric(&program, &mut fabric), Ok(handle), "one more handle");
        assert_eq!(release(&program, handle), 0);
        let words = to_text(CUipcMemHandle { reserved: fabric.data.map(u8::cast_signed) });
        let mut child = importer(name, &words);
        wait_for(&mut child, b'!');
        let (shown, left) = (program.shown_bytes(), program.free_bytes());
        assert_eq!((release(&program, handle), program.free_bytes()), (0, left), "the importer holds it");
        assert_eq!(shown - program.shown_bytes(), 100 * MIB);
        drop(child.stdin.take());
        assert!(child.wait().expect("it is a child").success());
    });
}
