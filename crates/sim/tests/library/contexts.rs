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
