//! The 32-bit forms of CUDA 2, as an H100's driver answers them, and as they were.

use crate::program::{Program, call, command, in_child, part};
use cuota_abi::cuda::*;

/// What plain memory, its figures, an array, a context and a device's size answer.
fn ask(program: &Program) -> [u32; 5] {
    let (cuda, mut address, mut free, mut total) = (&program.cuda, 0, 0, 0);
    // SAFETY: every field is a plain number.
    let mut shape: CUDA_ARRAY_DESCRIPTOR_v1 = unsafe { std::mem::zeroed() };
    (shape.Width, shape.Height, shape.NumChannels) = (64, 64, 1);
    shape.Format = CUarray_format::CU_AD_FORMAT_FLOAT;
    let (mut array, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
    [
        call!(cuda, cuMemAlloc: PFN_cuMemAlloc_v2000(&raw mut address, 1 << 20)),
        call!(cuda, cuMemGetInfo: PFN_cuMemGetInfo_v2000(&raw mut free, &raw mut total)),
        call!(cuda, cuArrayCreate: PFN_cuArrayCreate_v2000(&raw mut array, &raw const shape)),
        call!(cuda, cuCtxCreate: PFN_cuCtxCreate_v2000(&raw mut context, 0, 0)),
        call!(cuda, cuDeviceTotalMem: PFN_cuDeviceTotalMem_v2000(&raw mut total, 0)),
    ]
}

#[test]
fn old_forms_find_no_context_unless_asked_for() {
    let name = "old_forms::old_forms_find_no_context_unless_asked_for";
    in_child(name, || {
        if part().as_deref() == Some("old") {
            // Addresses do not fit 32 bits.
            return assert_eq!(ask(&Program::start()), [801, 0, 0, 0, 0]);
        }
        assert_eq!(ask(&Program::start()), [201, 201, 201, 2, 0]);
        let folder = std::env::var_os("CUOTA_SIM_DIR").expect("the test sets it");
        let mut old = command(name, "old", folder.as_ref());
        let ended = old.env("CUOTA_SIM_OLD_FORMS", "1").status().expect("it can be started");
        assert!(ended.success());
    });
}
