//! Several GPUs, and parts of one: a quota belongs to a UUID, however a program counts its devices.

use std::fs;

use cuota_region::event::Event;
use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::driver::{OUT_OF_MEMORY, uuid_text};
use cuota_tests::machine::{GIB, MIB, Machine, Program, has_gpus, has_real_gpu, skip};

use crate::{QUOTA, QUOTA_BYTES, eventually};

const TOO_FEW: &str = "this machine has too few GPUs";
const NO_MIG: &str = "this machine's GPU may not be cut into instances";

/// The size of an allocation with which a quota is filled.
const PIECE: u64 = 128 * MIB;

/// How many GPUs a machine of these tests has, and the quota of the tenant `t` on each, bytes.
const GPUS: &str = "3";
const QUOTAS: [u64; 3] = [2 * GIB, 3 * GIB, 4 * GIB];

/// The UUIDs of the GPUs, or of the MIG instances, in the machine's own order.
fn uuids(machine: &Machine, variable: &str, count: &str) -> Vec<[u8; 16]> {
    let mut observer = machine.native().with(variable, count).start();
    let devices = observer.devices();
    let all = (0..devices).map(|ordinal| observer.uuid(ordinal)).collect();
    observer.finish();
    all
}

/// A machine with three GPUs, and a tenant `t` with a quota of its own on each.
fn machine() -> (Machine, Vec<[u8; 16]>) {
    let machine = Machine::new();
    let uuids = uuids(&machine, "CUOTA_SIM_DEVICES", GPUS);
    for (uuid, quota) in uuids.iter().zip(QUOTAS) {
        machine.set_quota_on("t", *uuid, quota);
    }
    (machine, uuids)
}

fn tenant(machine: &Machine) -> Program {
    machine.tenant("t", None).with("CUOTA_SIM_DEVICES", GPUS)
}

/// Fills the current device: what was granted is what the books of that GPU say, and the most that its quota has room for.
#[track_caller]
fn fills(machine: &Machine, console: &mut Console, uuid: [u8; 16], quota: u64) {
    assert_eq!(console.memory().1, quota);
    let granted = console.fill(PIECE).len() as u64 * PIECE;
    let books = machine.books_on("t", uuid).expect("the GPU was used");
    assert_eq!(books.booked - books.overhead, granted);
    assert!(books.booked <= quota && books.booked + PIECE > quota, "{books:?} of {quota}");
    let handle = console.nvml_handle(&uuid_text("GPU", uuid));
    let memory = console.nvml_memory_of(handle);
    assert_eq!((memory.total, memory.used), (quota, books.booked), "by NVML");
}

#[test]
fn quota_of_a_gpu_is_that_of_its_uuid_in_whatever_order_the_program_sees_it() {
    if !has_gpus(3) {
        return skip(TOO_FEW);
    }
    let (_, all) = machine();
    let name = |index: usize| uuid_text("GPU", all[index]);
    let orders = [
        (None, vec![0, 1, 2]),
        (Some("0,1,2".to_owned()), vec![0, 1, 2]),
        (Some("2,0".to_owned()), vec![2, 0]),
        (Some("1".to_owned()), vec![1]),
        (Some("2,1,9,0".to_owned()), vec![2, 1]),
        (Some(format!("{},{}", name(2), name(0))), vec![2, 0]),
        (Some(name(1)), vec![1]),
    ];
    for (visible, expected) in orders {
        let (machine, all) = machine();
        if visible.is_none() && all.len() != expected.len() {
            skip("in part: the machine has more GPUs than quotas");
            continue;
        }
        let mut program = tenant(&machine);
        if let Some(visible) = &visible {
            program = program.with("CUDA_VISIBLE_DEVICES", visible);
        }
        let mut console = program.start();
        assert_eq!(console.devices(), expected.len() as u64, "{visible:?}");
        for (ordinal, index) in (0..).zip(&expected) {
            assert_eq!(console.uuid(ordinal), all[*index], "{visible:?}");
            console.use_device(ordinal);
            fills(&machine, &mut console, all[*index], QUOTAS[*index]);
        }
        for (index, uuid) in all.iter().enumerate() {
            let is_used = machine.books_on("t", *uuid).is_some_and(|books| books.booked != 0);
            assert_eq!(is_used, expected.contains(&index), "{visible:?}: GPU {index}");
        }
        console.finish();
    }
}

#[test]
fn shortened_uuid_names_the_gpu_and_its_quota() {
    let machine = Machine::new();
    let [uuid] = uuids(&machine, "CUOTA_SIM_DEVICES", "1")[..] else { return skip("it has several GPUs") };
    machine.set_quota_on("t", uuid, QUOTA_BYTES);
    let short = &uuid_text("GPU", uuid)[..12];
    let mut console = machine.tenant("t", None).with("CUDA_VISIBLE_DEVICES", short).start();
    console.use_device(0);
    fills(&machine, &mut console, uuid, QUOTA_BYTES);
    console.finish();
}

#[test]
fn processes_that_count_the_gpus_differently_share_each_ones_quota() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let (machine, all) = machine();
    let mut one = tenant(&machine).with("CUDA_VISIBLE_DEVICES", "0,1").start();
    let mut other = tenant(&machine).with("CUDA_VISIBLE_DEVICES", "1,0").start();
    one.use_device(1);
    other.use_device(0);
    let pieces = one.fill(PIECE);
    assert_eq!(other.alloc(2 * PIECE), Err(OUT_OF_MEMORY), "GPU 1 is full");
    let books = machine.books_on("t", all[1]).expect("both use it");
    assert!(books.booked <= QUOTAS[1], "{books:?}");
    other.use_device(1);
    assert!(other.alloc(PIECE).is_ok(), "GPU 0 is not");
    other.use_device(0);
    pieces.into_iter().take(2).for_each(|piece| assert_eq!(one.free(piece), 0));
    assert!(other.alloc(PIECE).is_ok(), "what one gives back on GPU 1, the other gets there");
    one.finish();
    other.finish();
}

#[test]
fn process_that_joins_again_in_books_made_anew_is_booked_on_the_gpu_that_it_uses() {
    if has_real_gpu() {
        return skip("NVIDIA's driver does not survive the loss of its own descriptors");
    }
    for other_is_first in [false, true] {
        let (machine, all) = machine();
        let mut one = tenant(&machine).start();
        one.use_device(1);
        let _piece = one.alloc(GIB).expect("there is room");
        for file in ["t.v1", "t.v1.live"] {
            fs::remove_file(machine.region().join("tenant").join(file)).expect("the file is ours");
        }
        let mut other = tenant(&machine).start();
        if other_is_first {
            other.use_device(0);
        }
        let _ = one.ask("closefrom 3");
        eventually("it has joined again", || {
            // It looks for the dead, unless it has just done so, and finds that it sees none.
            assert_eq!(one.alloc(QUOTAS[1]), Err(OUT_OF_MEMORY));
            machine.events("t").iter().any(|event| matches!(event, Event::Rejoined { .. }))
        });
        other.use_device(0);
        assert_eq!([all[0], all[1]].map(|uuid| booked_on(&machine, uuid)), [0, GIB]);
        other.use_device(1);
        assert_eq!(other.alloc(QUOTAS[1] - GIB), Err(OUT_OF_MEMORY));
        one.finish();
        other.finish();
    }
}

#[test]
fn entry_of_a_gpu_stands_before_the_tenants_own() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let machine = Machine::new();
    let all = uuids(&machine, "CUOTA_SIM_DEVICES", "2");
    machine.set_quota("t", QUOTA_BYTES);
    machine.set_quota_on("t", all[1], 2 * QUOTA_BYTES);
    let mut console = machine.tenant("t", None).with("CUOTA_SIM_DEVICES", "2").start();
    console.use_device(0);
    fills(&machine, &mut console, all[0], QUOTA_BYTES);
    console.use_device(1);
    fills(&machine, &mut console, all[1], 2 * QUOTA_BYTES);
    console.finish();
}

#[test]
fn quota_lowered_on_one_gpu_leaves_the_others_as_they_are() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let (machine, all) = machine();
    let mut console = tenant(&machine).start();
    for ordinal in [0, 1] {
        console.use_device(ordinal);
        let _kept = console.alloc(PIECE).expect("there is room");
    }
    machine.set_quota_on("t", all[1], PIECE);
    assert_eq!(console.alloc(2 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(console.memory(), (0, PIECE));
    console.use_device(0);
    assert!(console.alloc(PIECE).is_ok());
    assert_eq!(console.memory().1, QUOTAS[0]);
    console.finish();
}

#[test]
fn run_shows_the_device_that_it_is_told_to() {
    if !has_gpus(3) {
        return skip(TOO_FEW);
    }
    let (machine, all) = machine();
    let name = uuid_text("GPU", all[2]);
    for device in ["2", &name, "2,0"] {
        let program = machine.tenant_with("u", &["--memory", QUOTA, "--device", device]);
        let mut console = program.with("CUOTA_SIM_DEVICES", GPUS).start();
        assert_eq!(console.devices(), device.split(',').count() as u64, "{device}");
        assert_eq!(console.uuid(0), all[2], "{device}");
        console.use_device(0);
        assert_eq!(console.memory().1, QUOTA_BYTES);
        console.finish();
    }
    assert!(machine.books_on("u", all[1]).is_none_or(|books| books.booked == 0), "it was never shown");
}

#[test]
fn mig_instance_has_the_quota_of_its_own_uuid() {
    if has_real_gpu() {
        return skip(NO_MIG);
    }
    let machine = Machine::new();
    let instance = |index: u8| {
        let mut uuid = *b"cuota-sim-mig-\0\0";
        uuid[15] = index;
        uuid
    };
    machine.set_quota("t", QUOTA_BYTES);
    machine.set_quota_on("t", instance(1), 3 * GIB);
    let start = |index: u8| {
        let name = uuid_text("MIG", instance(index));
        let program = machine.tenant("t", None).with("CUOTA_SIM_MIG", "2");
        let mut console = program.with("CUDA_VISIBLE_DEVICES", name).start();
        console.use_device(0);
        console
    };
    let (mut first, mut second) = (start(0), start(1));
    for (console, index, quota) in [(&mut first, 0, QUOTA_BYTES), (&mut second, 1, 3 * GIB)] {
        assert_eq!(console.devices(), 1);
        assert_eq!(console.uuid(0), instance(index));
        assert_eq!((console.memory().1, console.total()), (quota, quota));
        let granted = console.fill(PIECE).len() as u64 * PIECE;
        let books = machine.books_on("t", instance(index)).expect("it was used");
        assert_eq!(books.booked - books.overhead, granted, "instance {index}");
        assert!(books.booked <= quota && books.booked + PIECE > quota, "{books:?} of {quota}");
        let handle = console.nvml_handle(&uuid_text("MIG", instance(index)));
        let memory = console.nvml_memory_of(handle);
        assert_eq!((memory.total, memory.used), (quota, books.booked), "by NVML, instance {index}");
        assert_eq!(memory.free, quota - books.booked);
    }
    assert_eq!(first.alloc(2 * PIECE), Err(OUT_OF_MEMORY), "the other's room is not its own");
    first.finish();
    second.finish();
}

#[test]
fn only_mig_instance_may_be_named_by_a_shortened_uuid() {
    if has_real_gpu() {
        return skip(NO_MIG);
    }
    let machine = Machine::new();
    let uuid = *b"cuota-sim-mig-\0\0";
    machine.set_quota_on("t", uuid, QUOTA_BYTES);
    let program = machine.tenant("t", None).with("CUOTA_SIM_MIG", "1");
    let mut console = program.with("CUDA_VISIBLE_DEVICES", &uuid_text("MIG", uuid)[..12]).start();
    console.use_device(0);
    assert_eq!(console.memory().1, QUOTA_BYTES);
    assert!(console.fill(PIECE).len() as u64 * PIECE < QUOTA_BYTES);
    console.finish();
}

/// A stranger with memory on GPU 0, and a tenant whose current device is GPU 1; each GPU has a quota of its own.
fn stranger_and_tenant(machine: &Machine) -> (Console, Console, Vec<[u8; 16]>) {
    let mut stranger = machine.native().with("CUOTA_SIM_DEVICES", GPUS).start();
    stranger.use_device(0);
    let all = (0..2).map(|ordinal| stranger.uuid(ordinal)).collect();
    let mut console = tenant(machine).start();
    console.use_device(0);
    console.use_device(1);
    (stranger, console, all)
}

fn booked_on(machine: &Machine, uuid: [u8; 16]) -> u64 {
    machine.books_on("t", uuid).map_or(0, |books| books.booked - books.overhead)
}

#[test]
fn memory_that_was_opened_is_charged_to_the_gpu_that_it_lies_on() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let (machine, _) = machine();
    let (mut stranger, mut console, all) = stranger_and_tenant(&machine);
    for (bytes, status) in [(GIB, 0), (2 * GIB, OUT_OF_MEMORY)] {
        let piece = stranger.alloc(bytes).expect("there is room");
        let handle = stranger.call("cuIpcGetMemHandle", &[Out(64), Is(piece)]).ok().wrote.remove(0);
        let words =
            handle.chunks_exact(8).map(|word| Is(u64::from_le_bytes(word.try_into().expect("8 bytes"))));
        let arguments =
            [Out(8), Is(1), Is(0), Is(0), Is(0), Is(0)].into_iter().chain(words).collect::<Vec<_>>();
        let opened = console.call("cuIpcOpenMemHandle_v2", &arguments);
        assert_eq!(opened.status, status, "{} MiB beside {:?}", bytes / MIB, machine.books_on("t", all[0]));
        assert_eq!([0, 1].map(|gpu| booked_on(&machine, all[gpu])), [GIB, 0]);
    }
    let mut properties = [0; 32];
    (properties[0], properties[4], properties[8]) = (1, 1, 1);
    let made = [Out(8), Is(2 * GIB), At(&properties), Is(0)];
    let memory = stranger.call("cuMemCreate", &made).ok().number(0);
    let export = [Out(8), Is(memory), Is(1), Is(0)];
    let descriptor = stranger.call("cuMemExportToShareableHandle", &export).ok().number(0);
    let take = format!("takefd {} {}", stranger.pid(), descriptor & u64::from(u32::MAX));
    let mut description = [0; 104];
    description[0] = 1;
    description[8..16].copy_from_slice(&console.ask(&take).ok().number(0).to_le_bytes());
    description[24..32].copy_from_slice(&(2 * GIB).to_le_bytes());
    let import = console.call("cuImportExternalMemory", &[Out(8), At(&description)]);
    assert_eq!(import.status, OUT_OF_MEMORY, "memory of other APIs, too");
    assert_eq!([0, 1].map(|gpu| booked_on(&machine, all[gpu])), [GIB, 0]);
    console.finish();
    stranger.finish();
}

#[test]
fn memory_in_stream_order_is_charged_to_the_streams_gpu() {
    if !has_gpus(2) {
        return skip(TOO_FEW);
    }
    let (machine, _) = machine();
    let (mut stranger, mut console, all) = stranger_and_tenant(&machine);
    let other_gpus_stream = |console: &mut Console| {
        console.use_device(0);
        let stream = console.stream();
        console.use_device(1);
        stream
    };
    let take = |console: &mut Console, bytes, stream| {
        console.call("cuMemAllocAsync", &[Out(8), Is(bytes), Is(stream)]).status
    };
    let theirs = other_gpus_stream(&mut stranger);
    let natively = take(&mut stranger, 2 * MIB, theirs);
    let stream = other_gpus_stream(&mut console);
    assert_eq!(take(&mut console, GIB, stream), natively);
    if natively != 0 {
        return skip("the driver takes no memory in the order of another device's stream");
    }
    assert_eq!([0, 1].map(|gpu| booked_on(&machine, all[gpu])), [GIB, 0]);
    assert_eq!(take(&mut console, GIB, stream), OUT_OF_MEMORY, "GPU 0 has no room, whatever GPU 1 has");
    console.finish();
    stranger.finish();
}
