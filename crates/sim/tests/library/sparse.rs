//! Memory mapped into arrays.

use crate::program::{Program, call, in_child};
use crate::sharing::release;
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;
const SPARSE: u32 = 0x40;
const DEFERRED: u32 = 0x80;

struct Sparse {
    program: Program,
    array: CUarray,
}

impl Sparse {
    /// A program with an array of 1024 x 512 floats, 2 MiB, without memory.
    fn start(flags: u32) -> Self {
        let program = Program::start();
        let shape = CUDA_ARRAY3D_DESCRIPTOR {
            Width: 1024,
            Height: 512,
            Depth: 0,
            Format: CUarray_format::CU_AD_FORMAT_FLOAT,
            NumChannels: 1,
            Flags: flags,
        };
        let mut array = std::ptr::null_mut();
        let create = call!(program.cuda, cuArray3DCreate_v2: PFN_cuArray3DCreate_v3020(&raw mut array, &raw const shape));
        assert_eq!(create, 0);
        Self { program, array }
    }

    fn tiles(&self, usage: u16, mib: usize) -> u64 {
        // SAFETY: every field is a plain number or a null pointer.
        let mut properties: CUmemAllocationProp = unsafe { std::mem::zeroed() };
        properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.allocFlags.usage = usage;
        let mut handle = 0;
        let create = call!(
            self.program.cuda,
            cuMemCreate: PFN_cuMemCreate_v10020(&raw mut handle, mib << 20, &raw const properties, 0)
        );
        assert_eq!(create, 0);
        handle
    }

    fn info(&self, columns: [u32; 2], memory: Option<u64>) -> CUarrayMapInfo {
        // SAFETY: every field is a plain number or a null pointer.
        let mut info: CUarrayMapInfo = unsafe { std::mem::zeroed() };
        info.resourceType = CUresourcetype::CU_RESOURCE_TYPE_ARRAY;
        info.resource.array = self.array;
        info.deviceBitMask = 1;
        // SAFETY: the zeroed union is plain numbers whichever member is meant.
        let mut level = unsafe { info.subresource.sparseLevel };
        (level.offsetX, level.extentWidth, level.extentHeight, level.extentDepth) =
            (columns[0], columns[1] - columns[0], 512, 1);
        info.subresource.sparseLevel = level;
        info.memOperationType = CUmemOperationType(if memory.is_some() { 1 } else { 2 });
        info.memHandle.memHandle = memory.unwrap_or(0);
        info
    }

    fn apply(&self, mut info: CUarrayMapInfo) -> u32 {
        let none = std::ptr::null_mut();
        call!(self.program.cuda, cuMemMapArrayAsync: PFN_cuMemMapArrayAsync_v11010(&raw mut info, 1, none))
    }

    fn map(&self, columns: [u32; 2], handle: u64) -> u32 {
        self.apply(self.info(columns, Some(handle)))
    }

    fn unmap(&self, columns: [u32; 2]) -> u32 {
        self.apply(self.info(columns, None))
    }

    fn destroy(&self) -> u32 {
        call!(self.program.cuda, cuArrayDestroy: PFN_cuArrayDestroy_v2000(self.array))
    }
}

#[test]
fn memory_mapped_into_an_array_lives_until_its_last_region_is_unmapped() {
    in_child("sparse::memory_mapped_into_an_array_lives_until_its_last_region_is_unmapped", || {
        let sparse = Sparse::start(SPARSE);
        let before = sparse.program.free_bytes();
        let taken = || (before - sparse.program.free_bytes()) / MIB;
        let handle = sparse.tiles(1, 2);
        assert_eq!((sparse.map([0, 512], handle), sparse.map([512, 1024], handle)), (0, 0));
        assert_eq!((release(&sparse.program, handle), taken()), (0, 2), "the regions hold it");
        assert_eq!(
            (sparse.map([0, 512], handle), sparse.unmap([0, 256])),
            (1, 801),
            "no handle, half a region"
        );
        assert_eq!((sparse.unmap([0, 512]), taken()), (0, 2));
        let second = sparse.tiles(1, 4);
        assert_eq!((sparse.map([512, 1024], second), taken()), (0, 4), "mapped again");
        assert_eq!((release(&sparse.program, second), sparse.unmap([0, 1024]), taken()), (0, 0, 0));
        assert_eq!(sparse.unmap([0, 1024]), 0);
    });
}

#[test]
fn an_array_that_is_destroyed_lets_go_of_its_memory() {
    in_child("sparse::an_array_that_is_destroyed_lets_go_of_its_memory", || {
        let sparse = Sparse::start(DEFERRED);
        let before = sparse.program.free_bytes();
        let handle = sparse.tiles(1, 2);
        assert_eq!(sparse.map([0, 512], handle), 1, "the whole, or nothing");
        assert_eq!((sparse.map([0, 1024], handle), release(&sparse.program, handle)), (0, 0));
        assert_eq!(before - sparse.program.free_bytes(), 2 * MIB);
        assert_eq!((sparse.destroy(), sparse.program.free_bytes()), (0, before));
    });
}

#[test]
fn what_cannot_be_mapped_into_an_array_is_refused() {
    in_child("sparse::what_cannot_be_mapped_into_an_array_is_refused", || {
        let sparse = Sparse::start(SPARSE);
        let (plain, tiles) = (sparse.tiles(0, 2), sparse.tiles(1, 2));
        assert_eq!(sparse.map([0, 1024], plain), 1, "not made for tiles");
        assert_eq!((sparse.map([0, 100], tiles), sparse.map([0, 1152], tiles)), (1, 1), "no whole tiles");
        let mut beyond = sparse.info([0, 1024], Some(tiles));
        beyond.offset = 64 << 10;
        assert_eq!(sparse.apply(beyond), 1, "more than the memory has");
        let mut properties = std::mem::MaybeUninit::<CUDA_ARRAY_SPARSE_PROPERTIES>::uninit();
        let mut ask = |array| {
            call!(
                sparse.program.cuda,
                cuArrayGetSparseProperties: PFN_cuArrayGetSparseProperties_v11010(properties.as_mut_ptr(), array)
            )
        };
        assert_eq!((ask(sparse.array), ask(std::ptr::null_mut())), (0, 400));
        // SAFETY: the first call has filled it.
        let properties = unsafe { properties.assume_init() };
        assert_eq!((properties.tileExtent.width, properties.tileExtent.height), (128, 128));
        assert_eq!((properties.miptailFirstLevel, properties.miptailSize), (1, 0));
    });
}
