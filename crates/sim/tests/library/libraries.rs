//! Libraries and their kernels.

use crate::program::{PTX, Program, call, in_child};
use cuota_abi::cuda::*;
use std::ffi::CString;
use std::ptr::null_mut;

const MIB: u64 = 1 << 20;

impl Program {
    fn library(&self, text: &str) -> CUlibrary {
        let (code, mut library) = (CString::new(text).expect("no zeros"), null_mut());
        let load = call!(
            self.cuda,
            cuLibraryLoadData: PFN_cuLibraryLoadData_v12000(
                &raw mut library, code.as_ptr().cast(), null_mut(), null_mut(), 0, null_mut(), null_mut(), 0
            )
        );
        assert_eq!(load, 0);
        library
    }

    fn library_of(&self, kernel: CUkernel) -> (u32, CUlibrary) {
        let mut library = null_mut();
        let get = call!(
            self.cuda,
            cuKernelGetLibrary: PFN_cuKernelGetLibrary_v12050(&raw mut library, kernel)
        );
        (get, library)
    }

    fn unload(&self, library: CUlibrary) -> u32 {
        call!(self.cuda, cuLibraryUnload: PFN_cuLibraryUnload_v12000(library))
    }
}

#[test]
fn a_library_names_its_kernels_and_a_kernel_its_library() {
    in_child("libraries::a_library_names_its_kernels_and_a_kernel_its_library", || {
        let program = Program::start();
        let (cuda, library) = (&program.cuda, program.library(PTX));
        let mut count = 0;
        let get = call!(
            cuda,
            cuLibraryGetKernelCount: PFN_cuLibraryGetKernelCount_v12040(&raw mut count, library)
        );
        assert_eq!((get, count), (0, 4));
        let (mut all, mut spin): ([CUkernel; 6], CUkernel) = ([null_mut(); 6], null_mut());
        let list = |room, to: *mut CUkernel, library| call!(cuda, cuLibraryEnumerateKernels: PFN_cuLibraryEnumerateKernels_v12040(to, room, library));
        assert_eq!((list(2, all.as_mut_ptr(), library), all[2]), (0, null_mut()), "no more than asked for");
        assert_eq!((list(6, all.as_mut_ptr(), library), all[4]), (0, null_mut()), "no more than there are");
        let by_name = call!(
            cuda,
            cuLibraryGetKernel: PFN_cuLibraryGetKernel_v12000(&raw mut spin, library, c"spin".as_ptr())
        );
        assert_eq!((by_name, spin), (0, all[0]), "one handle a kernel");
        assert_eq!(program.library_of(all[3]), (0, library));
        let mut function = null_mut();
        let of_module = call!(
            cuda,
            cuModuleGetFunction:
                PFN_cuModuleGetFunction_v2000(&raw mut function, program.module, c"spin".as_ptr())
        );
        assert_eq!((of_module, program.library_of(function.cast()).0), (0, 400), "no kernel");
        let mut same = null_mut();
        let get = call!(
            cuda,
            cuKernelGetFunction: PFN_cuKernelGetFunction_v12000(&raw mut same, function.cast())
        );
        assert_eq!(get, 400, "no kernel");
        assert_eq!((program.library_of(library.cast()).0, program.library_of(null_mut()).0), (400, 400));
        assert_eq!((list(1, null_mut(), library), list(6, all.as_mut_ptr(), null_mut())), (1, 400));
        assert_eq!(
            (program.unload(library), program.library_of(all[0]).0),
            (0, 400),
            "gone with its library"
        );
    });
}

#[test]
fn a_library_is_given_back_in_every_context() {
    in_child("libraries::a_library_is_given_back_in_every_context", || {
        let program = Program::start();
        let (cuda, mut first, mut second) = (&program.cuda, null_mut(), null_mut());
        let get = call!(cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut first));
        let make = call!(cuda, cuCtxCreate_v2: PFN_cuCtxCreate_v3020(&raw mut second, 0, 0));
        assert_eq!((get, make), (0, 0));
        let before = program.free_bytes();
        let taken_mib = || (before - program.free_bytes()) / MIB;
        let text = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .global .align 4 .b8 large[104857600];\n\
                    .visible .entry empty() { ret; }\n";
        let library = program.library(text);
        assert_eq!(taken_mib(), 0, "nothing before its first use");
        for (place, context) in [first, second, first].into_iter().enumerate() {
            let set = call!(cuda, cuCtxSetCurrent: PFN_cuCtxSetCurrent_v4000(context));
            let (mut module, expected_mib) = (null_mut(), [102, 204, 204][place]);
            let get =
                call!(cuda, cuLibraryGetModule: PFN_cuLibraryGetModule_v12000(&raw mut module, library));
            assert_eq!((set, get, taken_mib()), (0, 0, expected_mib));
        }
        assert_eq!((program.unload(library), taken_mib()), (0, 0));
        assert_eq!(program.unload(library), 400);
    });
}

#[test]
fn a_fat_binary_may_be_text() {
    in_child("libraries::a_fat_binary_may_be_text", || {
        let program = Program::start();
        let (cuda, mut module, text) = (&program.cuda, null_mut(), CString::new(PTX).expect("no zeros"));
        let mut load = |image: *const i8| call!(cuda, cuModuleLoadFatBinary: PFN_cuModuleLoadFatBinary_v2000(&raw mut module, image.cast()));
        assert_eq!(load(text.as_ptr()), 0);
        assert_eq!((load(c"\x50\xed\x55\xba".as_ptr()), load(std::ptr::null())), (200, 1));
    });
}
