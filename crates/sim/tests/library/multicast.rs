//! Multicast objects hold what is bound to them.

use crate::program::{Program, call, in_child};
use crate::sharing::{map, physical, release};
use cuota_abi::cuda::*;

const MIB: u64 = 1 << 20;
const SIZE: usize = 100 << 20;

fn create(program: &Program, devices: u32) -> Result<u64, u32> {
    let asked = CUmulticastObjectProp { numDevices: devices, size: SIZE, handleTypes: 0, flags: 0 };
    let mut handle = 0;
    match call!(
        program.cuda,
        cuMulticastCreate: PFN_cuMulticastCreate_v12010(&raw mut handle, &raw const asked)
    ) {
        0 => Ok(handle),
        error => Err(error),
    }
}

fn add(program: &Program, multicast: u64) -> u32 {
    call!(program.cuda, cuMulticastAddDevice: PFN_cuMulticastAddDevice_v12010(multicast, 0))
}

fn bind(program: &Program, multicast: u64, handle: u64) -> u32 {
    call!(program.cuda, cuMulticastBindMem: PFN_cuMulticastBindMem_v12010(multicast, 0, handle, 0, SIZE, 0))
}

fn unbind(program: &Program, multicast: u64) -> u32 {
    call!(program.cuda, cuMulticastUnbind: PFN_cuMulticastUnbind_v12010(multicast, 0, 0, SIZE))
}

#[test]
fn bound_memory_lives_until_it_is_unbound() {
    in_child("multicast::bound_memory_lives_until_it_is_unbound", || {
        let program = Program::start();
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let multicast = create(&program, 1).expect("one device");
        let handle = physical(&program, 0);
        assert_eq!(bind(&program, multicast, handle), 1, "the team is not complete");
        assert_eq!((add(&program, multicast), add(&program, multicast)), (0, 1));
        assert_eq!(
            (bind(&program, multicast, handle), bind(&program, multicast, handle), taken()),
            (0, 1, 100)
        );
        assert_eq!((release(&program, handle), taken()), (0, 100));
        assert_eq!((unbind(&program, multicast), taken(), unbind(&program, multicast)), (0, 0, 1));
        assert_eq!((release(&program, multicast), add(&program, multicast)), (0, 1));
    });
}

#[test]
fn an_object_that_is_gone_lets_go_of_what_is_bound() {
    in_child("multicast::an_object_that_is_gone_lets_go_of_what_is_bound", || {
        let program = Program::start();
        let before = program.free_bytes();
        let taken = || (before - program.free_bytes()) / MIB;
        let multicast = create(&program, 1).expect("one device");
        let handle = physical(&program, 0);
        let address = map(&program, handle);
        let bind = call!(
            program.cuda,
            cuMulticastBindAddr: PFN_cuMulticastBindAddr_v12010(multicast, 0, address, SIZE, 0)
        );
        assert_eq!((add(&program, multicast), bind), (0, 1));
        let bind = call!(
            program.cuda,
            cuMulticastBindAddr_v2: PFN_cuMulticastBindAddr_v13010(multicast, 0, 0, address, SIZE, 0)
        );
        let view = map(&program, multicast);
        let unmap = |address| call!(program.cuda, cuMemUnmap: PFN_cuMemUnmap_v10020(address, SIZE));
        assert_eq!((bind, unmap(address), release(&program, handle), taken()), (0, 0, 0, 100));
        assert_eq!((release(&program, multicast), taken()), (0, 100), "it is mapped");
        assert_eq!((unmap(view), taken()), (0, 0));
        assert_eq!((create(&program, 2), create(&program, 0)), (Err(1), Err(1)), "there is one device");
    });
}
