//! Memory that several processes hold: within a tenant it counts once, and as long as one of them holds it.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::{NOT_SUPPORTED, OUT_OF_MEMORY, on_device};
use cuota_tests::machine::{MIB, Machine, skip};

use crate::{QUOTA, QUOTA_BYTES, eventually};

const SHARED: &str = "4GiB";

/// What is shared, bytes: whole blocks of 2 MiB.
const SIZE: u64 = 256 * MIB;

/// sizeof(`CUipcMemHandle`), of a fabric handle and of `CUmemPoolPtrExportData`
const HANDLE_BYTES: usize = 64;

/// `CU_MEM_HANDLE_TYPE_FABRIC`
const FABRIC: u8 = 8;

/// Shared memory: its address or handle, and its name for other processes.
type Memory = (u64, Vec<u8>);

/// A way to share: how its owner makes and names the memory, how another process opens and closes it.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    make: fn(&mut Console) -> Result<Memory, i64>,
    open: fn(&mut Console, &[u8]) -> Result<u64, i64>,
    /// The functions that let go of it: the owner's, the other's.
    ends: [&'static str; 2],
}

const WAYS: [Way; 2] = [
    Way {
        name: "IPC",
        make: |owner| {
            let address = owner.alloc(SIZE)?;
            let handle = owner.call("cuIpcGetMemHandle", &[Out(HANDLE_BYTES), Is(address)]).ok();
            Ok((address, handle.wrote[0].clone()))
        },
        open: |console, handle| made(&console.call("cuIpcOpenMemHandle_v2", &by_value(handle))),
        ends: ["cuMemFree_v2", "cuIpcCloseMemHandle"],
    },
    Way {
        name: "fabric handle",
        make: |owner| {
            let mut properties = on_device(0);
            properties[4] = FABRIC;
            let handle = made(&owner.call("cuMemCreate", &[Out(8), Is(SIZE), At(&properties), Is(0)]))?;
            let fabric = Is(u64::from(FABRIC));
            let export = [Out(HANDLE_BYTES), Is(handle), fabric, Is(0)];
            let answer = owner.call("cuMemExportToShareableHandle", &export);
            if answer.status == 0 { Ok((handle, answer.wrote[0].clone())) } else { Err(answer.status) }
        },
        open: |console, handle| {
            let arguments = [Out(8), At(handle), Is(u64::from(FABRIC))];
            made(&console.call("cuMemImportFromShareableHandle", &arguments))
        },
        ends: ["cuMemRelease", "cuMemRelease"],
    },
];

fn made(answer: &cuota_tests::console::Answer) -> Result<u64, i64> {
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

/// The arguments of `cuIpcOpenMemHandle_v2`: a structure of 64 bytes by value lies on the stack on x86-64, behind six registers, and is
/// passed by its address elsewhere. The flag is CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.
fn by_value(handle: &[u8]) -> Vec<cuota_tests::console::Arg<'_>> {
    if cfg!(not(target_arch = "x86_64")) {
        return vec![Out(8), At(handle), Is(1)];
    }
    let word = |chunk: &[u8]| Is(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    let registers = [Out(8), Is(1), Is(0), Is(0), Is(0), Is(0)];
    registers.into_iter().chain(handle.chunks_exact(8).map(word)).collect()
}

/// Each way, with two processes of one tenant of which the first has shared memory, and its name.
fn for_each_way(mut test: impl FnMut(&Machine, Way, Console, Console, Memory)) {
    for way in WAYS {
        let machine = Machine::new();
        let (mut owner, other) = (machine.start("t", SHARED), machine.start("t", SHARED));
        match (way.make)(&mut owner) {
            Ok(memory) => test(&machine, way, owner, other, memory),
            Err(status) => {
                // 800: NOT_PERMITTED, where a fabric has no channel for the user.
                assert!([NOT_SUPPORTED, 800].contains(&status), "{}: {status}", way.name);
                skip(&format!("{} is not supported here", way.name));
            }
        }
    }
}

#[test]
fn memory_that_a_sibling_opens_counts_once() {
    for_each_way(|machine, way, mut owner, mut other, (memory, handle)| {
        assert_eq!(machine.held("t"), SIZE, "{}", way.name);
        let opened = (way.open)(&mut other, &handle).expect("it can be opened");
        assert_eq!(machine.held("t"), SIZE, "{}: opened", way.name);
        assert_eq!(other.call(way.ends[1], &[Is(opened)]).status, 0);
        assert_eq!(machine.held("t"), SIZE, "{}: closed again", way.name);
        assert_eq!(owner.call(way.ends[0], &[Is(memory)]).status, 0);
        assert_eq!(machine.held("t"), 0, "{}: freed", way.name);
        owner.finish();
        other.finish();
    });
}

#[test]
fn memory_that_a_sibling_opens_several_times_counts_once() {
    for_each_way(|machine, way, mut owner, mut other, (memory, handle)| {
        let opened: Vec<u64> =
            (0..3).map(|_| (way.open)(&mut other, &handle).expect("it can be opened")).collect();
        assert_eq!(machine.held("t"), SIZE, "{}", way.name);
        for (place, address) in opened.iter().enumerate() {
            assert_eq!(other.call(way.ends[1], &[Is(*address)]).status, 0);
            assert_eq!(machine.held("t"), SIZE, "{}: {} closed", way.name, place + 1);
        }
        assert_eq!(owner.call(way.ends[0], &[Is(memory)]).status, 0);
        assert_eq!(machine.held("t"), 0, "{}", way.name);
        owner.finish();
        other.finish();
    });
}

#[test]
fn memory_is_charged_to_the_sibling_that_has_it_open_when_its_owner_dies() {
    for_each_way(|machine, way, owner, mut other, (_, handle)| {
        let opened = (way.open)(&mut other, &handle).expect("it can be opened");
        owner.kill();
        eventually("the owner is struck off the books", || {
            let _ = other.alloc(2 * QUOTA_BYTES);
            machine.processes("t").len() == 1
        });
        assert_eq!(machine.held("t"), SIZE, "{}: it is the sibling's now", way.name);
        assert_eq!(other.call(way.ends[1], &[Is(opened)]).status, 0);
        assert_eq!(machine.held("t"), 0, "{}", way.name);
        other.finish();
    });
}

#[test]
fn memory_that_its_owner_frees_is_charged_as_long_as_a_sibling_has_it_open() {
    for_each_way(|machine, way, mut owner, mut other, (memory, handle)| {
        let opened = (way.open)(&mut other, &handle).expect("it can be opened");
        assert_eq!(owner.call(way.ends[0], &[Is(memory)]).status, 0);
        assert_eq!(machine.held("t"), SIZE, "{}", way.name);
        assert_eq!(other.call(way.ends[1], &[Is(opened)]).status, 0);
        assert_eq!(machine.held("t"), 0, "{}", way.name);
        owner.finish();
        other.finish();
    });
}

#[test]
fn sibling_opens_memory_of_the_tenant_though_the_quota_is_full() {
    for_each_way(|machine, way, mut owner, mut other, (_, handle)| {
        let _rest = owner.fill(16 * MIB);
        let held = machine.held("t");
        assert!((way.open)(&mut other, &handle).is_ok(), "{}", way.name);
        assert_eq!(machine.held("t"), held, "{}", way.name);
        owner.finish();
        other.finish();
    });
}

#[test]
fn memory_of_another_tenant_is_charged_to_whoever_opens_it_too() {
    for_each_way(|machine, way, owner, other, (_, handle)| {
        other.finish();
        let mut stranger = machine.start("u", QUOTA);
        let opened = (way.open)(&mut stranger, &handle).expect("there is room");
        assert_eq!((machine.held("t"), machine.held("u")), (SIZE, SIZE), "{}", way.name);
        owner.kill();
        assert_eq!(stranger.call(way.ends[1], &[Is(opened)]).status, 0);
        assert_eq!(machine.held("u"), 0, "{}", way.name);
        stranger.finish();
    });
}

#[test]
fn memory_of_another_tenant_that_does_not_fit_is_not_opened() {
    for_each_way(|machine, way, owner, other, (_, handle)| {
        other.finish();
        let mut stranger = machine.start("u", QUOTA);
        let pieces = stranger.fill(32 * MIB);
        let held = machine.held("u");
        assert_eq!((way.open)(&mut stranger, &handle), Err(OUT_OF_MEMORY), "{}", way.name);
        assert_eq!(machine.held("u"), held, "{}", way.name);
        // And is once there is room.
        pieces.into_iter().take(9).for_each(|piece| assert_eq!(stranger.free(piece), 0));
        assert!((way.open)(&mut stranger, &handle).is_ok(), "{}", way.name);
        owner.finish();
        stranger.finish();
    });
}
