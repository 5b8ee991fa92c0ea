//! What contexts and modules take beside allocations.

use crate::program::{PTX, Program, call, in_child};
use cuota_abi::cuda::*;
use std::ffi::CString;

const MIB: u64 = 1 << 20;

fn load(program: &Program, text: &str) -> (u32, CUmodule) {
    let (image, mut module) = (CString::new(text).expect("no zeros"), std::ptr::null_mut());
    let result = call!(
        program.cuda,
        cuModuleLoadData: PFN_cuModuleLoadData_v2000(&raw mut module, image.as_ptr().cast())
    );
    (result, module)
}

#[test]
fn a_module_takes_its_variables_when_it_is_loaded() {
    in_child("contexts::a_module_takes_its_variables_when_it_is_loaded", || {
        let program = Program::start();
        let before = program.free_bytes();
        let (loaded, module) = load(&program, &format!("{PTX}\n.global .align 8 .b8 big[268435456];\n"));
        // The module itself takes 2 MiB, its small variable a place in a block that is there.
        assert_eq!((loaded, before - program.free_bytes()), (0, 258 * MIB));
        let (mut address, mut bytes) = (0, 0);
        let get = call!(
            program.cuda,
            cuModuleGetGlobal_v2:
                PFN_cuModuleGetGlobal_v3020(&raw mut address, &raw mut bytes, module, c"big".as_ptr())
        );
        assert_eq!((get, bytes as u64), (0, 256 * MIB));
        assert_eq!(call!(program.cuda, cuMemsetD8_v2: PFN_cuMemsetD8_v3020(address, 1, 4096)), 0);
        assert_eq!(call!(program.cuda, cuMemFree_v2: PFN_cuMemFree_v3020(address)), 1, "not its own");
        let unload = call!(program.cuda, cuModuleUnload: PFN_cuModuleUnload_v2000(module));
        assert_eq!((unload, program.free_bytes()), (0, before));
        let more = format!("{PTX}\n.global .align 8 .b8 big[8589934592];\n");
        assert_eq!((load(&program, &more).0, program.free_bytes()), (2, before));
    });
}

#[test]
fn a_larger_stack_takes_its_memory_at_once() {
    in_child("contexts::a_larger_stack_takes_its_memory_at_once", || {
        let program = Program::start();
        let set = |limit, value| call!(program.cuda, cuCtxSetLimit: PFN_cuCtxSetLimit_v3010(limit, value));
        let get = |limit| {
            let mut value = 0;
            assert_eq!(call!(program.cuda, cuCtxGetLimit: PFN_cuCtxGetLimit_v3010(&raw mut value, limit)), 0);
            value
        };
        let before = program.free_bytes();
        assert_eq!(set(CUlimit::CU_LIMIT_STACK_SIZE, 16_384), 0);
        assert_eq!(before - program.free_bytes(), 3960 * MIB);
        assert_eq!(set(CUlimit::CU_LIMIT_STACK_SIZE, 65_536), 2);
        assert_eq!(get(CUlimit::CU_LIMIT_STACK_SIZE), 16_384);
        assert_eq!(set(CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE, 1 << 30), 0);
        assert_eq!(set(CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE, 1 << 30), 0);
        assert_eq!(
            (get(CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE), before - program.free_bytes()),
            (1 << 30, 3960 * MIB)
        );
        let mut context = std::ptr::null_mut();
        assert_eq!(call!(program.cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut context)), 0);
        let second = call!(program.cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut context, 0, 0));
        assert_eq!((second, before - program.free_bytes()), (0, (3960 + 500) * MIB), "as the first");
    });
}

#[test]
fn a_green_context_takes_four_mib_beside_the_primary_one() {
    in_child("contexts::a_green_context_takes_four_mib_beside_the_primary_one", || {
        let program = Program::start();
        let cuda = &program.cuda;
        let (mut primary, mut green, mut context) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let retain = call!(
            cuda,
            cuDevicePrimaryCtxRetain: PFN_cuDevicePrimaryCtxRetain_v7000(&raw mut primary, 0)
        );
        let before = program.free_bytes();
        // SAFETY: every field is a plain number or a null pointer.
        let (mut all, mut part): (CUdevResource, CUdevResource) = unsafe { std::mem::zeroed() };
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let ask =
            call!(cuda, cuDeviceGetDevResource: PFN_cuDeviceGetDevResource_v12040(0, &raw mut all, kind));
        let (mut groups, none) = (1, std::ptr::null_mut());
        let split = call!(
            cuda,
            cuDevSmResourceSplitByCount:
                PFN_cuDevSmResourceSplitByCount_v12040(
                    &raw mut part,
                    &raw mut groups,
                    &raw const all,
                    none,
                    0,
                    33
                )
        );
        // SAFETY: both are multiprocessors.
        let sms = unsafe { (all.__bindgen_anon_1.sm.smCount, part.__bindgen_anon_1.sm.smCount) };
        assert_eq!((retain, ask, split, groups, sms), (0, 0, 0, 1, (132, 40)));
        let mut description = std::ptr::null_mut();
        let describe = call!(
            cuda,
            cuDevResourceGenerateDesc:
                PFN_cuDevResourceGenerateDesc_v12040(&raw mut description, &raw mut part, 1)
        );
        let create = call!(
            cuda,
            cuGreenCtxCreate: PFN_cuGreenCtxCreate_v12040(&raw mut green, description, 0, 1)
        );
        let from = call!(cuda, cuCtxFromGreenCtx: PFN_cuCtxFromGreenCtx_v12040(&raw mut context, green));
        assert_eq!((describe, create, from, before - program.free_bytes()), (0, 0, 0, 4 * MIB));
        assert_eq!(call!(cuda, cuCtxDestroy_v2: PFN_cuCtxDestroy_v4000(context)), 201, "not an ordinary one");
        assert_eq!(call!(cuda, cuCtxPushCurrent_v2: PFN_cuCtxPushCurrent_v4000(context)), 0);
        program.allocate(100 << 20).expect("room");
        assert_eq!(before - program.free_bytes(), 104 * MIB);
        assert_eq!(call!(cuda, cuCtxPopCurrent_v2: PFN_cuCtxPopCurrent_v4000(&raw mut context)), 0);
        assert_eq!(call!(cuda, cuGreenCtxDestroy: PFN_cuGreenCtxDestroy_v12040(green)), 0);
        assert_eq!(program.free_bytes(), before);
    });
}

#[test]
fn a_context_ends_with_the_last_who_detaches() {
    in_child("contexts::a_context_ends_with_the_last_who_detaches", || {
        let program = Program::start();
        let (cuda, mut context, mut again) = (&program.cuda, std::ptr::null_mut(), std::ptr::null_mut());
        let before = program.shown_bytes();
        let attach = |to: *mut CUcontext, flags| call!(cuda, cuCtxAttach: PFN_cuCtxAttach_v2000(to, flags));
        let detach = |context| call!(cuda, cuCtxDetach: PFN_cuCtxDetach_v2000(context));
        assert_eq!(call!(cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut context, 0, 0)), 0);
        let with_it = program.shown_bytes();
        assert_eq!((attach(&raw mut again, 1), attach(&raw mut again, 0), again), (1, 0, context));
        assert_eq!((detach(context), program.shown_bytes()), (0, with_it), "its maker is there still");
        let mut popped = std::ptr::null_mut();
        assert_eq!(call!(cuda, cuCtxPopCurrent_v2: PFN_cuCtxPopCurrent_v4000(&raw mut popped)), 0);
        assert_eq!((detach(context), program.shown_bytes()), (201, with_it), "it is not current");
        assert_eq!(call!(cuda, cuCtxPushCurrent_v2: PFN_cuCtxPushCurrent_v4000(popped)), 0);
        assert_eq!((detach(context), program.shown_bytes()), (0, before));
        assert_eq!((detach(context), detach(std::ptr::null_mut())), (201, 201), "it is gone");
    });
}
