//! Descriptors for other drivers.

use crate::program::{Program, call, in_child};
use crate::sharing::{close, free, map, physical, release};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;

fn descriptor(program: &Program, address: u64, bytes: u64, flags: u64) -> Result<i32, u32> {
    let (mut descriptor, kind) = (-1, CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD);
    let bytes = usize::try_from(bytes).expect("64 bits");
    match call!(
        program.cuda,
        cuMemGetHandleForAddressRange:
            PFN_cuMemGetHandleForAddressRange_v11070((&raw mut descriptor).cast(), address, bytes, kind, flags)
    ) {
        0 => Ok(descriptor),
        error => Err(error),
    }
}

#[test]
fn a_descriptor_of_a_range_holds_its_memory_until_it_is_closed() {
    in_child("dma_bufs::a_descriptor_of_a_range_holds_its_memory_until_it_is_closed", || {
        let program = Program::start();
        let (before, shown) = (program.free_bytes(), program.shown_bytes());
        let taken_mib = || (before - program.free_bytes()) / MIB;
        let address = program.allocate(100 << 20).expect("room");
        let held = descriptor(&program, address + 4096, 8192, 0).expect("a range");
        assert_eq!((free(&program, address), taken_mib(), program.shown_bytes()), (0, 100, shown));
        close(held);
        assert_eq!(taken_mib(), 0);
        let handle = physical(&program, 0);
        let address = map(&program, handle);
        let held = descriptor(&program, address, 100 << 20, 1).expect("a mapping");
        let unmap = call!(program.cuda, cuMemUnmap: PFN_cuMemUnmap_v10020(address, 100 << 20));
        assert_eq!((release(&program, handle), unmap, taken_mib()), (0, 0, 100));
        close(held);
        assert_eq!(taken_mib(), 0);
    });
}

#[test]
fn a_range_of_whole_pages_inside_one_allocation_is_asked_for() {
    in_child("dma_bufs::a_range_of_whole_pages_inside_one_allocation_is_asked_for", || {
        let program = Program::start();
        let address = program.allocate(4 << 20).expect("room");
        assert_eq!(descriptor(&program, address + 512, 4096, 0), Err(1));
        assert_eq!(descriptor(&program, address, 100, 0), Err(1));
        assert_eq!(descriptor(&program, address, 0, 0), Err(1));
        assert_eq!(descriptor(&program, address, 8 << 20, 0), Err(1));
        assert_eq!(descriptor(&program, 4096, 4096, 0), Err(1));
        assert_eq!(descriptor(&program, address, 4096, 2), Err(1), "an unknown flag");
        let mut pooled = 0;
        let allocate = call!(
            program.cuda,
            cuMemAllocAsync: PFN_cuMemAllocAsync_v11020(&raw mut pooled, 4096, std::ptr::null_mut())
        );
        assert_eq!((allocate, descriptor(&program, pooled, 4096, 0)), (0, Err(801)));
    });
}
