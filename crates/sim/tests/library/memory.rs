//! Memory: physical blocks, other processes, pools, mappings, and the bytes themselves.

use crate::program::{Program, call, in_child, part, start};
use cuota_abi::cuda::*;
use std::io::{Read, Write};

const MIB: usize = 1 << 20;

#[test]
fn an_allocation_takes_whole_blocks_and_gives_them_back_at_once() {
    in_child("memory::an_allocation_takes_whole_blocks_and_gives_them_back_at_once", || {
        let program = Program::start();
        let before = program.free_bytes();
        let address = program.allocate(2 * MIB + 1).expect("room");
        assert_eq!(before - program.free_bytes(), 4 * MIB as u64);
        assert_eq!(call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 0);
        assert_eq!(program.free_bytes(), before);
        assert_eq!(call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 1);
    });
}

#[test]
fn bytes_survive_a_round_trip() {
    in_child("memory::bytes_survive_a_round_trip", || {
        let program = Program::start();
        let (first, second) = (program.allocate(8192).expect("room"), program.allocate(8192).expect("room"));
        let data: Vec<u8> = (0..8192_u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let mut back = vec![0; 8192];
        let cuda = &program.cuda;
        assert_eq!(
            call!(cuda, cuMemcpyHtoD_v2: PFN_cuMemcpyHtoD_v3020(first, data.as_ptr().cast(), 8192)),
            0
        );
        assert_eq!(call!(cuda, cuMemcpyDtoD_v2: PFN_cuMemcpyDtoD_v3020(second, first, 8192)), 0);
        assert_eq!(call!(cuda, cuMemsetD32_v2: PFN_cuMemsetD32_v3020(second + 4, 0xdead_beef, 1)), 0);
        assert_eq!(
            call!(cuda, cuMemcpyDtoH_v2: PFN_cuMemcpyDtoH_v3020(back.as_mut_ptr().cast(), second, 8192)),
            0
        );
        assert_eq!(back[4..8], 0xdead_beef_u32.to_le_bytes());
        back[4..8].copy_from_slice(&data[4..8]);
        assert_eq!(back, data);
        let beyond = call!(cuda, cuMemcpyDtoH_v2: PFN_cuMemcpyDtoH_v3020(back.as_mut_ptr().cast(), 4096, 16));
        assert_eq!(beyond, 1, "an address that the device does not know");
    });
}

#[test]
fn a_killed_process_leaves_its_memory_to_others() {
    let name = "memory::a_killed_process_leaves_its_memory_to_others";
    match part().as_deref() {
        None => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut holder = start(name, "holder", folder.path());
            let mut line = [0; 1];
            let mut output = holder.stdout.take().expect("a pipe");
            // The test harness writes first; the holder writes `!` when it holds the memory.
            while line[0] != b'!' {
                output.read_exact(&mut line).expect("the holder goes on");
            }
            assert!(start(name, "refused", folder.path()).wait().expect("runs").success());
            holder.kill().expect("it runs");
            holder.wait().expect("it is a child");
            assert!(start(name, "granted", folder.path()).wait().expect("runs").success());
        }
        Some("holder") => {
            let program = Program::start();
            program.allocate(6144 * MIB).expect("room");
            print!("!");
            std::io::stdout().flush().expect("a pipe");
            // Until it is killed.
            let _ = std::io::stdin().read(&mut [0]);
        }
        Some("refused") => assert_eq!(Program::start().allocate(2048 * MIB), Err(2)),
        _ => assert!(Program::start().allocate(6144 * MIB).is_ok()),
    }
}

#[test]
fn a_pool_returns_its_memory_when_the_host_synchronises() {
    in_child("memory::a_pool_returns_its_memory_when_the_host_synchronises", || {
        let program = Program::start();
        let (cuda, stream) = (&program.cuda, program.stream(1));
        let before = program.free_bytes();
        let mut address = 0;
        assert_eq!(
            call!(cuda, cuMemAllocAsync: PFN_cuMemAllocAsync_v11020(&raw mut address, 4096, stream)),
            0
        );
        assert_eq!((before - program.free_bytes()) >> 20, 32);
        assert_eq!(call!(cuda, cuMemFreeAsync: PFN_cuMemFreeAsync_v11020(address, stream)), 0);
        assert_eq!(program.synchronize(stream), 0);
        assert_eq!(program.free_bytes(), before);
    });
}

#[test]
fn mapped_memory_lives_until_it_is_unmapped() {
    in_child("memory::mapped_memory_lives_until_it_is_unmapped", || {
        let program = Program::start();
        let cuda = &program.cuda;
        let before = program.free_bytes();
        // SAFETY: every field is a plain number or a null pointer.
        let mut properties: CUmemAllocationProp = unsafe { std::mem::zeroed() };
        properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        let (mut handle, mut address) = (0, 0);
        let create = |handle: &mut u64, bytes| call!(cuda, cuMemCreate: PFN_cuMemCreate_v10020(handle, bytes, &raw const properties, 0));
        assert_eq!(create(&mut handle, 3 * MIB), 1);
        assert_eq!(create(&mut handle, 4 * MIB), 0);
        assert_eq!(before - program.free_bytes(), 4 * MIB as u64);
        assert_eq!(
            call!(cuda, cuMemAddressReserve: PFN_cuMemAddressReserve_v10020(&raw mut address, 4 * MIB, 0, 0, 0)),
            0
        );
        for other in [2 * MIB, 8 * MIB] {
            let map = call!(cuda, cuMemMap: PFN_cuMemMap_v10020(address, other, 0, handle, 0));
            assert_eq!(map, 801, "a mapping is of all the memory");
        }
        assert_eq!(call!(cuda, cuMemMap: PFN_cuMemMap_v10020(address, 4 * MIB, 0, handle, 0)), 0);
        let (mut base, mut bytes) = (0, 0);
        let range = call!(
            cuda,
            cuMemGetAddressRange_v2: PFN_cuMemGetAddressRange_v3020(&raw mut base, &raw mut bytes, address)
        );
        assert_eq!(range, 500, "a mapping is no allocation");
        assert_eq!(call!(cuda, cuMemRelease: PFN_cuMemRelease_v10020(handle)), 0);
        assert_eq!(before - program.free_bytes(), 4 * MIB as u64);
        let mut access = CUmemAccessDesc { location: properties.location, flags: CUmemAccess_flags(3) };
        assert_eq!(call!(cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address, 7, 16)), 1, "no access yet");
        assert_eq!(
            call!(cuda, cuMemSetAccess: PFN_cuMemSetAccess_v10020(address, 4 * MIB, &raw mut access, 1)),
            0
        );
        assert_eq!(call!(cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address, 7, 16)), 0);
        assert_eq!(call!(cuda, cuMemUnmap: PFN_cuMemUnmap_v10020(address, 4 * MIB)), 0);
        assert_eq!(program.free_bytes(), before);
        assert_eq!(call!(cuda, cuMemAddressFree: PFN_cuMemAddressFree_v10020(address, 4 * MIB)), 0);
    });
}

#[test]
fn managed_memory_is_the_devices_loss_when_it_is_touched_and_no_process_shows_it() {
    in_child("memory::managed_memory_is_the_devices_loss_when_it_is_touched_and_no_process_shows_it", || {
        let program = Program::start();
        let cuda = &program.cuda;
        let (before, shown, mut address) = (program.free_bytes(), program.shown_bytes(), 0);
        let taken = || (before - program.free_bytes()) >> 20;
        let length = 16_384 * MIB;
        let allocate =
            call!(cuda, cuMemAllocManaged: PFN_cuMemAllocManaged_v6000(&raw mut address, length, 1));
        assert_eq!((allocate, taken()), (0, 0), "more than the device has");
        // SAFETY: managed memory is the host's too.
        unsafe { *(address as *mut u32) = 7 };
        let fill = call!(cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address + 4096, 1, 4 * MIB));
        assert_eq!((fill, taken(), program.shown_bytes()), (0, 128, shown));
        // SAFETY: as above.
        assert_eq!(unsafe { *(address as *const u32) }, 7);
        let prefetch = |device| {
            let none = std::ptr::null_mut();
            call!(cuda, cuMemPrefetchAsync: PFN_cuMemPrefetchAsync_v8000(address, 256 * MIB, device, none))
        };
        assert_eq!((prefetch(0), taken()), (0, 256));
        assert_eq!((prefetch(-1), taken()), (0, 0));
        assert_eq!((prefetch(0), taken()), (0, 256));
        assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 0);
        assert_eq!(taken(), 0);
    });
}

#[test]
fn host_memory_takes_nothing_of_the_device() {
    in_child("memory::host_memory_takes_nothing_of_the_device", || {
        let program = Program::start();
        let (before, mut address) = (program.free_bytes(), std::ptr::null_mut());
        let allocate =
            call!(program.cuda, cuMemHostAlloc: PFN_cuMemHostAlloc_v2020(&raw mut address, 64 * MIB, 0));
        let mut own = vec![0_u8; MIB];
        let register = call!(
            program.cuda,
            cuMemHostRegister_v2: PFN_cuMemHostRegister_v6050(own.as_mut_ptr().cast(), MIB, 0)
        );
        assert_eq!((allocate, register, program.free_bytes()), (0, 0, before));
        let last = call!(
            program.cuda,
            cuMemHostUnregister: PFN_cuMemHostUnregister_v4000(own.as_mut_ptr().cast())
        );
        assert_eq!(last, 0);
    });
}

#[test]
fn either_free_takes_either_kind_of_memory() {
    in_child("memory::either_free_takes_either_kind_of_memory", || {
        let program = Program::start();
        let (cuda, stream) = (&program.cuda, program.stream(1));
        assert_eq!((program.launch("spin", 1000, stream), program.synchronize(stream)), (0, 0));
        let (before, mut address) = (program.free_bytes(), 0);
        let allocate =
            call!(cuda, cuMemAllocAsync: PFN_cuMemAllocAsync_v11020(&raw mut address, 4096, stream));
        assert_eq!((allocate, call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address))), (0, 0));
        let plain = program.allocate(6144 * MIB).expect("room");
        assert_eq!(program.launch("spin", 5_000_000, stream), 0);
        let free = || call!(cuda, cuMemFreeAsync: PFN_cuMemFreeAsync_v11020(plain, stream));
        assert_eq!((free(), free()), (0, 1));
        assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(plain)), 1);
        let event = program.event();
        assert_eq!(program.record(event, stream), 0);
        while program.query(event) == 600 {}
        let again = program.allocate(6144 * MIB).expect("what is reached is free for whoever needs it");
        assert_eq!(call!(cuda, cuMemFree_v2: PFN_cuMemFree_v3020(again)), 0);
        assert_eq!((program.synchronize(stream), program.free_bytes()), (0, before));
    });
}

#[test]
fn a_program_that_executes_another_leaves_its_memory() {
    use std::os::unix::process::CommandExt;
    let name = "memory::a_program_that_executes_another_leaves_its_memory";
    in_child(name, || {
        let program = Program::start();
        // The machine has 8 GiB, so the second program fits only where the first one's memory is free.
        assert!(program.allocate(6144 * MIB).is_ok());
        if part().as_deref() == Some("second") {
            return;
        }
        let folder = std::path::PathBuf::from(std::env::var_os("CUOTA_SIM_DIR").expect("the test sets it"));
        let failed = crate::program::command(name, "second", &folder)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::inherit())
            .exec();
        panic!("the program cannot execute itself: {failed}");
    });
}
