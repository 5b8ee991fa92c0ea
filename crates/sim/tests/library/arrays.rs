//! Arrays and mipmapped arrays. The figures are those measured on an H100.

use crate::program::{Program, call, in_child};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;
const SPARSE: u32 = 0x40;
const DEFERRED: u32 = 0x80;

fn shape(size: [usize; 3], channels: u32, flags: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
    let [width, height, depth] = size;
    let format = CUarray_format::CU_AD_FORMAT_FLOAT;
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: width,
        Height: height,
        Depth: depth,
        Format: format,
        NumChannels: channels,
        Flags: flags,
    }
}

fn create(program: &Program, shape: &CUDA_ARRAY3D_DESCRIPTOR) -> Result<CUarray, u32> {
    let mut array = std::ptr::null_mut();
    match call!(program.cuda, cuArray3DCreate_v2: PFN_cuArray3DCreate_v3020(&raw mut array, shape)) {
        0 => Ok(array),
        error => Err(error),
    }
}

fn destroy(program: &Program, array: CUarray) -> u32 {
    call!(program.cuda, cuArrayDestroy: PFN_cuArrayDestroy_v2000(array))
}

#[test]
fn small_arrays_share_blocks_with_each_other_and_never_with_plain_memory() {
    in_child("arrays::small_arrays_share_blocks_with_each_other_and_never_with_plain_memory", || {
        let program = Program::start();
        let plain = program.allocate(512).expect("room");
        let before = program.free_bytes();
        let small = shape([64, 64, 0], 1, 0);
        let first = create(&program, &small).expect("room");
        assert_eq!(before - program.free_bytes(), 2 * MIB);
        let all: Vec<CUarray> = (1..200).map(|_| create(&program, &small).expect("room")).collect();
        assert_eq!(before - program.free_bytes(), 4 * MIB);
        all.into_iter().chain([first]).for_each(|array| assert_eq!(destroy(&program, array), 0));
        assert_eq!(program.free_bytes(), before);
        assert_eq!(destroy(&program, first), 400);
        assert_eq!(call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(plain)), 0);
    });
}

#[test]
fn a_mipmapped_array_takes_the_sum_of_its_levels_at_once() {
    in_child("arrays::a_mipmapped_array_takes_the_sum_of_its_levels_at_once", || {
        let program = Program::start();
        let cuda = &program.cuda;
        let before = program.free_bytes();
        let (mut mipmap, mut level) = (std::ptr::null_mut(), std::ptr::null_mut());
        let wanted = shape([1024, 1024, 0], 4, 0);
        let create = call!(
            cuda,
            cuMipmappedArrayCreate: PFN_cuMipmappedArrayCreate_v5000(&raw mut mipmap, &raw const wanted, 11)
        );
        assert_eq!((create, before - program.free_bytes()), (0, 22 * MIB));
        let get = call!(
            cuda,
            cuMipmappedArrayGetLevel: PFN_cuMipmappedArrayGetLevel_v5000(&raw mut level, mipmap, 3)
        );
        let mut found = shape([0; 3], 0, 0);
        let ask = call!(
            cuda,
            cuArray3DGetDescriptor_v2: PFN_cuArray3DGetDescriptor_v3020(&raw mut found, level)
        );
        assert_eq!((get, ask, found.Width, found.Height, found.Depth), (0, 0, 128, 128, 0));
        assert_eq!(destroy(&program, level), 400, "a level goes with its mipmapped array");
        let gone = call!(cuda, cuMipmappedArrayDestroy: PFN_cuMipmappedArrayDestroy_v5000(mipmap));
        assert_eq!((gone, program.free_bytes()), (0, before));
    });
}

#[test]
fn arrays_without_memory_say_what_they_need() {
    in_child("arrays::arrays_without_memory_say_what_they_need", || {
        let program = Program::start();
        let before = program.free_bytes();
        let need = |array| {
            // SAFETY: every field is a plain number.
            let mut answer: CUDA_ARRAY_MEMORY_REQUIREMENTS = unsafe { std::mem::zeroed() };
            let result = call!(
                program.cuda,
                cuArrayGetMemoryRequirements:
                    PFN_cuArrayGetMemoryRequirements_v11060(&raw mut answer, array, 0)
            );
            (result, answer.size, answer.alignment)
        };
        for flags in [SPARSE, DEFERRED] {
            let array = create(&program, &shape([1024, 1024, 0], 4, flags)).expect("nothing to take");
            assert_eq!((need(array), program.free_bytes()), ((0, 16_777_216, 65_536), before));
        }
        let ordinary = create(&program, &shape([1024, 1024, 0], 4, 0)).expect("room");
        assert_eq!((need(ordinary), before - program.free_bytes()), ((1, 0, 0), 16 * MIB));
    });
}

#[test]
fn an_array_that_does_not_fit_is_refused() {
    in_child("arrays::an_array_that_does_not_fit_is_refused", || {
        let program = Program::start();
        assert_eq!(create(&program, &shape([1_000_000, 0, 0], 1, 0)), Err(1), "one dimension");
        assert_eq!(create(&program, &shape([16_384, 16_384, 16], 1, 0)), Err(2), "16 GiB of 8");
        let before = program.free_bytes();
        let array = create(&program, &shape([16_384, 16_384, 0], 1, 0)).expect("room");
        assert_eq!(before - program.free_bytes(), 1024 * MIB);
        assert_eq!((destroy(&program, array), program.free_bytes()), (0, before));
    });
}
