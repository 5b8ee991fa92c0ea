//! Pools: explicit ones, by location, and of several processes.

use crate::program::{Program, call, command, in_child, part};
use crate::sharing::{SHARED, close, fill, free, hear, importer, is_importer, read_byte, say, wait_for};
use cuota_abi::cuda::*;
use std::os::fd::AsRawFd;

const MIB: u64 = 1 << 20;
const NONE: CUstream = std::ptr::null_mut();

fn location(device: i32) -> CUmemLocation {
    // SAFETY: every field is a plain number.
    let mut location: CUmemLocation = unsafe { std::mem::zeroed() };
    location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    location.__bindgen_anon_1.id = device;
    location
}

fn create(program: &Program, kind: u32, most_bytes: usize) -> CUmemoryPool {
    // SAFETY: every field is a plain number or a null pointer.
    let mut properties: CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = location(0);
    properties.handleTypes = CUmemAllocationHandleType(kind);
    properties.maxSize = most_bytes;
    let mut pool = std::ptr::null_mut();
    let create = call!(
        program.cuda,
        cuMemPoolCreate: PFN_cuMemPoolCreate_v11020(&raw mut pool, &raw const properties)
    );
    assert_eq!(create, 0);
    pool
}

fn allocate(program: &Program, pool: CUmemoryPool, bytes: u64) -> Result<u64, u32> {
    let (mut address, bytes) = (0, usize::try_from(bytes).expect("a size"));
    match call!(
        program.cuda,
        cuMemAllocFromPoolAsync: PFN_cuMemAllocFromPoolAsync_v11020(&raw mut address, bytes, pool, NONE)
    ) {
        0 => Ok(address),
        error => Err(error),
    }
}

fn free_async(program: &Program, address: u64) -> u32 {
    call!(program.cuda, cuMemFreeAsync: PFN_cuMemFreeAsync_v11020(address, NONE))
}

fn destroy(program: &Program, pool: CUmemoryPool) -> u32 {
    call!(program.cuda, cuMemPoolDestroy: PFN_cuMemPoolDestroy_v11020(pool))
}

fn export(program: &Program, pool: CUmemoryPool) -> Result<i32, u32> {
    let (mut descriptor, kind) = (-1, CUmemAllocationHandleType(1));
    match call!(
        program.cuda,
        cuMemPoolExportToShareableHandle:
            PFN_cuMemPoolExportToShareableHandle_v11020((&raw mut descriptor).cast(), pool, kind, 0)
    ) {
        0 => Ok(descriptor),
        error => Err(error),
    }
}

fn import(program: &Program, descriptor: i32) -> Result<CUmemoryPool, u32> {
    let (mut pool, kind) = (std::ptr::null_mut(), CUmemAllocationHandleType(1));
    let from = usize::try_from(descriptor).expect("a descriptor") as *mut std::ffi::c_void;
    match call!(
        program.cuda,
        cuMemPoolImportFromShareableHandle:
            PFN_cuMemPoolImportFromShareableHandle_v11020(&raw mut pool, from, kind, 0)
    ) {
        0 => Ok(pool),
        error => Err(error),
    }
}

fn export_pointer(program: &Program, address: u64) -> Result<CUmemPoolPtrExportData, u32> {
    let mut data = CUmemPoolPtrExportData { reserved: [0; 64] };
    match call!(
        program.cuda,
        cuMemPoolExportPointer: PFN_cuMemPoolExportPointer_v11020(&raw mut data, address)
    ) {
        0 => Ok(data),
        error => Err(error),
    }
}

fn import_pointer(program: &Program, pool: CUmemoryPool, data: &CUmemPoolPtrExportData) -> Result<u64, u32> {
    let (mut address, mut data) = (0, *data);
    match call!(
        program.cuda,
        cuMemPoolImportPointer: PFN_cuMemPoolImportPointer_v11020(&raw mut address, pool, &raw mut data)
    ) {
        0 => Ok(address),
        error => Err(error),
    }
}

#[test]
fn a_destroyed_pool_keeps_the_memory_of_what_lives_in_it() {
    in_child("pools::a_destroyed_pool_keeps_the_memory_of_what_lives_in_it", || {
        let program = Program::start();
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let pool = create(&program, 0, 0);
        let (first, second) = (allocate(&program, pool, 40 * MIB), allocate(&program, pool, 30 * MIB));
        let (first, second) = (first.expect("room"), second.expect("room"));
        assert_eq!((destroy(&program, pool), taken()), (0, 96));
        assert_eq!((destroy(&program, pool), allocate(&program, pool, 1)), (1, Err(1)));
        fill(&program, first, 3);
        assert_eq!((free(&program, first), taken()), (0, 32));
        assert_eq!((free_async(&program, second), program.synchronize(NONE), taken()), (0, 0, 0));
    });
}

#[test]
fn a_pool_holds_no_more_than_its_bound() {
    in_child("pools::a_pool_holds_no_more_than_its_bound", || {
        let program = Program::start();
        let pool = create(&program, 0, 50 << 20);
        assert!(allocate(&program, pool, 40 * MIB).is_ok());
        assert_eq!(allocate(&program, pool, 30 * MIB), Err(2));
    });
}

#[test]
fn a_location_names_the_pools_of_its_device() {
    in_child("pools::a_location_names_the_pools_of_its_device", || {
        let program = Program::start();
        let (mut place, pinned) = (location(0), CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED);
        let get = |name: &str, place: *mut CUmemLocation, kind| {
            let (get, mut pool): (PFN_cuMemGetMemPool_v13000, _) =
                (program.cuda.get(name), std::ptr::null_mut());
            // SAFETY: both pointers are valid.
            (unsafe { get(&raw mut pool, place, kind) }.0, pool)
        };
        let at = &raw mut place;
        let default = get("cuMemGetDefaultMemPool", at, pinned);
        assert_eq!((default.0, get("cuMemGetMemPool", at, pinned)), (0, default));
        let pool = create(&program, 0, 0);
        let set = call!(program.cuda, cuMemSetMemPool: PFN_cuMemSetMemPool_v13000(at, pinned, pool));
        assert_eq!((set, get("cuMemGetMemPool", at, pinned)), (0, (0, pool)));
        assert_eq!(get("cuMemGetDefaultMemPool", at, pinned), default);
        let managed = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_MANAGED;
        assert_eq!(get("cuMemGetMemPool", at, managed).0, 801);
        assert_eq!(get("cuMemGetMemPool", &mut location(1), pinned).0, 101);
        assert_eq!(get("cuMemGetMemPool", std::ptr::null_mut(), pinned).0, 1);
    });
}

fn import_shared() {
    let program = Program::start();
    let words = std::env::var(SHARED).expect("the exporter sets it");
    let (descriptor, hex) = words.split_once(' ').expect("two words");
    let mut data = CUmemPoolPtrExportData { reserved: [0; 64] };
    for (place, byte) in data.reserved.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).expect("hexadecimal");
    }
    let pool = import(&program, descriptor.parse().expect("a number")).expect("a pool");
    assert_eq!(allocate(&program, pool, MIB), Err(1), "it is another process's");
    let (before, shown) = (program.free_bytes(), program.shown_bytes());
    let address = import_pointer(&program, pool, &data).expect("it lives");
    assert_eq!((read_byte(&program, address), program.shown_bytes()), ((0, 5), shown));
    assert_eq!(program.free_bytes(), before);
    assert_eq!((import_pointer(&program, pool, &data), export(&program, pool)), (Err(801), Err(1)));
    fill(&program, address, 6);
    say('!');
    hear();
    let held = program.free_bytes();
    assert_eq!((read_byte(&program, address), free(&program, address)), ((0, 6), 0));
    assert_eq!((program.free_bytes() - held, destroy(&program, pool)), (64 * MIB, 0));
}

#[test]
fn an_imported_allocation_of_a_pool_is_shared_and_outlives_its_owner() {
    let name = "pools::an_imported_allocation_of_a_pool_is_shared_and_outlives_its_owner";
    in_child(name, || {
        if is_importer() {
            return import_shared();
        }
        let program = Program::start();
        let (private, pool) = (create(&program, 0, 0), create(&program, 1, 0));
        let unshared = allocate(&program, private, MIB).expect("room");
        assert_eq!((export(&program, private), export_pointer(&program, unshared).is_err()), (Err(1), true));
        let address = allocate(&program, pool, 64 * MIB).expect("room");
        fill(&program, address, 5);
        let data = export_pointer(&program, address).expect("of a pool to share");
        let descriptor = export(&program, pool).expect("made for it");
        // SAFETY: the descriptor is open; without the flag the child inherits it.
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }, 0);
        let hex: String = data.reserved.iter().map(|b| format!("{b:02x}")).collect();
        let mut child = importer(name, &format!("{descriptor} {hex}"));
        close(descriptor);
        wait_for(&mut child, b'!');
        assert_eq!(read_byte(&program, address), (0, 6));
        let (shown, left) = (program.shown_bytes(), program.free_bytes());
        assert_eq!((destroy(&program, pool), free(&program, address)), (0, 0));
        assert_eq!((shown - program.shown_bytes(), program.free_bytes()), (64 * MIB, left));
        drop(child.stdin.take());
        assert!(child.wait().expect("it is a child").success());
    });
}

/// Where the owner of the next test leaves its descriptor.
const LEFT: i32 = 100;

#[test]
fn an_imported_pool_keeps_all_that_its_dead_owner_left_in_it() {
    let name = "pools::an_imported_pool_keeps_all_that_its_dead_owner_left_in_it";
    in_child(name, || {
        let program = Program::start();
        if part().as_deref() == Some("owner") {
            let pool = create(&program, 1, 0);
            allocate(&program, pool, 64 * MIB).expect("room");
            let descriptor = export(&program, pool).expect("made for it");
            allocate(&program, pool, 32 * MIB).expect("room");
            // SAFETY: both are numbers of descriptors.
            assert_eq!(unsafe { libc::dup2(descriptor, LEFT) }, LEFT);
            say('!');
            return hear();
        }
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let folder = std::env::var_os("CUOTA_SIM_DIR").expect("the test sets it");
        let mut owner = command(name, "owner", folder.as_ref()).spawn().expect("it can be started");
        wait_for(&mut owner, b'!');
        let file = std::fs::File::open(format!("/proc/{}/fd/{LEFT}", owner.id())).expect("it is open there");
        let pools = [0, 1].map(|_| import(&program, file.as_raw_fd()).expect("a pool"));
        let mut figure = 0_u64;
        for attribute in 1..=8 {
            let get = call!(
                program.cuda,
                cuMemPoolGetAttribute:
                    PFN_cuMemPoolGetAttribute_v11020(
                        pools[0],
                        CUmemPool_attribute(attribute),
                        (&raw mut figure).cast()
                    )
            );
            assert_eq!(get, 1, "an imported pool answers no questions");
        }
        assert_eq!(call!(program.cuda, cuMemPoolTrimTo: PFN_cuMemPoolTrimTo_v11020(pools[0], 0)), 1);
        owner.kill().expect("it runs");
        owner.wait().expect("it is a child");
        assert_eq!(taken(), 96, "all that its owner had");
        assert_eq!((destroy(&program, pools[0]), taken()), (0, 96), "imported twice");
        assert_eq!((destroy(&program, pools[1]), taken()), (0, 0));
        assert_eq!(import(&program, file.as_raw_fd()).err(), Some(1), "the pool is gone");
    });
}

#[test]
fn an_imported_pointer_that_is_freed_leaves_its_memory_to_the_imported_pool() {
    let name = "pools::an_imported_pointer_that_is_freed_leaves_its_memory_to_the_imported_pool";
    in_child(name, || {
        let program = Program::start();
        if part().as_deref() == Some("owner") {
            let pool = create(&program, 1, 0);
            let address = allocate(&program, pool, 64 * MIB).expect("room");
            let data = export_pointer(&program, address).expect("of a pool to share");
            let descriptor = export(&program, pool).expect("made for it");
            // SAFETY: both are numbers of descriptors.
            assert_eq!(unsafe { libc::dup2(descriptor, LEFT) }, LEFT);
            let path = std::env::var_os(SHARED).expect("the importer sets it");
            std::fs::write(path, data.reserved).expect("a file");
            say('!');
            return hear();
        }
        let folder = std::env::var_os("CUOTA_SIM_DIR").expect("the test sets it");
        let path = std::path::Path::new(&folder).join("pointer");
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let mut owner = command(name, "owner", folder.as_ref());
        let mut owner = owner.env(SHARED, &path).spawn().expect("it can be started");
        wait_for(&mut owner, b'!');
        let file = std::fs::File::open(format!("/proc/{}/fd/{LEFT}", owner.id())).expect("it is open there");
        let pool = import(&program, file.as_raw_fd()).expect("a pool");
        let bytes: [u8; 64] = std::fs::read(path).expect("a file").try_into().expect("64 bytes");
        let data = CUmemPoolPtrExportData { reserved: bytes };
        let address = import_pointer(&program, pool, &data).expect("it lives");
        let (mut base, mut size) = (0, 0);
        let range = call!(
            program.cuda,
            cuMemGetAddressRange_v2:
                PFN_cuMemGetAddressRange_v3020(&raw mut base, &raw mut size, address + 4096)
        );
        assert_eq!((range, base, size as u64), (0, address, 64 * MIB));
        owner.kill().expect("it runs");
        owner.wait().expect("it is a child");
        assert_eq!((free(&program, address), taken()), (0, 64));
        assert_eq!((destroy(&program, pool), taken()), (0, 0));
    });
}
