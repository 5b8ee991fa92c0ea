//! Memory that a process outside of the quota made, and the ways to hold it uncharged.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::{Arg, Console};
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{GIB, MIB, Machine, has_real_gpu, skip};

const QUOTA: &str = "4GiB";
const DESCRIPTOR: u64 = 1;

fn made(console: &mut Console, function: &str, arguments: &[Arg<'_>]) -> Result<u64, i64> {
    let answer = console.call(function, arguments);
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

/// `owner`'s physical memory, as a descriptor of `console`.
fn handed_over(console: &mut Console, owner: &mut Console, bytes: u64) -> u64 {
    // CUmemAllocationProp: pinned, exportable to a descriptor, on a device.
    let mut properties = [0; 32];
    (properties[0], properties[4], properties[8]) = (1, 1, 1);
    let handle =
        made(owner, "cuMemCreate", &[Out(8), Is(bytes), At(&properties), Is(0)]).expect("there is room");
    let export = [Out(8), Is(handle), Is(DESCRIPTOR), Is(0)];
    let descriptor = made(owner, "cuMemExportToShareableHandle", &export).expect("it can be exported");
    taken(console, owner, descriptor)
}

fn taken(console: &mut Console, owner: &Console, descriptor: u64) -> u64 {
    console.ask(&format!("takefd {} {}", owner.pid(), descriptor & u64::from(u32::MAX))).ok().number(0)
}

/// A pool of `owner` that has `bytes`, as a descriptor of `console`.
fn pool_handed_over(console: &mut Console, owner: &mut Console, bytes: u64) -> u64 {
    let descriptor = exported_pool(owner, bytes);
    taken(console, owner, descriptor)
}

fn exported_pool(owner: &mut Console, bytes: u64) -> u64 {
    let mut properties = [0; 88];
    (properties[0], properties[4], properties[8]) = (1, 1, 1);
    let pool = made(owner, "cuMemPoolCreate", &[Out(8), At(&properties)]).expect("a pool");
    if bytes != 0 {
        made(owner, "cuMemAllocFromPoolAsync", &[Out(8), Is(bytes), Is(pool), Is(0)]).expect("there is room");
        owner.synchronize();
    }
    let export = [Out(8), Is(pool), Is(DESCRIPTOR), Is(0)];
    made(owner, "cuMemPoolExportToShareableHandle", &export).expect("it can be exported")
}

fn import(console: &mut Console, descriptor: u64) -> Result<u64, i64> {
    made(console, "cuMemImportFromShareableHandle", &[Out(8), Is(descriptor), Is(DESCRIPTOR)])
}

fn import_pool(console: &mut Console, descriptor: u64) -> Result<u64, i64> {
    made(console, "cuMemPoolImportFromShareableHandle", &[Out(8), Is(descriptor), Is(DESCRIPTOR), Is(0)])
}

/// External memory that is said to have so many bytes.
fn import_external(console: &mut Console, descriptor: u64, declared: u64) -> Result<u64, i64> {
    let mut description = [0; 104];
    description[0] = 1;
    description[8..16].copy_from_slice(&descriptor.to_le_bytes());
    description[24..32].copy_from_slice(&declared.to_le_bytes());
    made(console, "cuImportExternalMemory", &[Out(8), At(&description)])
}

fn map_external(console: &mut Console, memory: u64) -> Result<u64, i64> {
    let mut buffer = [0; 88];
    buffer[8..16].copy_from_slice(&(2 * MIB).to_le_bytes());
    made(console, "cuExternalMemoryGetMappedBuffer", &[Out(8), Is(memory), At(&buffer)])
}

#[test]
fn what_cannot_be_measured_for_want_of_addresses_is_not_granted() {
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let [one, other] = [(); 2].map(|()| handed_over(&mut console, &mut owner, 2 * GIB));
    let mut bytes = 1 << 46;
    while bytes >= 8 * GIB {
        if made(&mut console, "cuMemAddressReserve", &[Out(8), Is(bytes), Is(0), Is(0), Is(0)]).is_err() {
            bytes /= 2;
        }
    }
    let before = machine.books("t").booked;
    assert_eq!(import(&mut console, one), Err(OUT_OF_MEMORY));
    assert_eq!(import_external(&mut console, other, 2 * MIB), Err(OUT_OF_MEMORY));
    assert_eq!(machine.books("t").booked, before);
    console.finish();
    owner.finish();
}

#[test]
fn memory_whose_import_is_released_stays_booked_until_its_descriptor_is_closed() {
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let before = machine.held("t");
    let descriptor = handed_over(&mut console, &mut owner, 2 * GIB);
    let handle = import(&mut console, descriptor).expect("there is room");
    assert_eq!(console.call("cuMemRelease", &[Is(handle)]).status, 0);
    owner.kill();
    assert_eq!(console.alloc(3 * GIB), Err(OUT_OF_MEMORY));
    assert_eq!(machine.held("t"), before + 2 * GIB, "the descriptor keeps it");
    let _ = console.ask(&format!("openas {descriptor}"));
    let piece = console.alloc(3 * GIB).expect("nothing keeps it");
    assert_eq!(console.free(piece), 0);
    assert_eq!(machine.held("t"), before);
    console.finish();
}

#[test]
fn external_memory_stays_booked_with_more_buffers_than_can_be_followed() {
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let before = machine.held("t");
    let [small, large] = [2 * MIB, GIB].map(|bytes| {
        let descriptor = handed_over(&mut console, &mut owner, bytes);
        import_external(&mut console, descriptor, bytes).expect("there is room")
    });
    for _ in 0..2048 {
        assert!(map_external(&mut console, small).is_ok());
    }
    assert!(map_external(&mut console, large).is_ok());
    assert_eq!(console.call("cuDestroyExternalMemory", &[Is(large)]).status, 0);
    assert!(machine.held("t") >= before + GIB, "its buffer keeps it");
    console.finish();
    owner.finish();
}

#[test]
fn external_memory_outlives_the_context_it_was_imported_in() {
    if has_real_gpu() {
        return skip("whether a context takes external memory along was not seen");
    }
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let descriptor = handed_over(&mut console, &mut owner, GIB);
    let context = made(&mut console, "cuCtxCreate_v2", &[Out(8), Is(0), Is(0)]).expect("there is room");
    let before = machine.held("t");
    let memory = import_external(&mut console, descriptor, GIB).expect("there is room");
    assert!(map_external(&mut console, memory).is_ok());
    assert_eq!(console.call("cuCtxDestroy_v2", &[Is(context)]).status, 0);
    assert!(machine.held("t") >= before + GIB);
    console.kill();
    owner.finish();
}

#[test]
fn allocations_that_fail_in_a_destroyed_pool_book_nothing() {
    if has_real_gpu() {
        return skip("NVIDIA's driver may crash at a pool that it has ended");
    }
    let machine = Machine::new();
    let mut console = machine.start("t", QUOTA);
    let mut properties = [0; 88];
    (properties[0], properties[8]) = (1, 1);
    let pool = made(&mut console, "cuMemPoolCreate", &[Out(8), At(&properties)]).expect("a pool");
    assert_eq!(console.call("cuMemPoolDestroy", &[Is(pool)]).status, 0);
    let before = machine.books("t").booked;
    for _ in 0..4 {
        let arguments = [Out(8), Is(256 * MIB), Is(pool), Is(0)];
        assert!(made(&mut console, "cuMemAllocFromPoolAsync", &arguments).is_err());
    }
    assert_eq!(machine.books("t").booked, before);
    console.finish();
}

#[test]
fn pool_of_a_stranger_is_not_opened_though_the_tenant_has_exported_one() {
    let machine = Machine::new();
    let mut owner = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let _ = exported_pool(&mut console, 0);
    let descriptor = pool_handed_over(&mut console, &mut owner, GIB);
    assert_eq!(import_pool(&mut console, descriptor), Err(OUT_OF_MEMORY));
    console.finish();
    owner.finish();
}

#[test]
fn dead_exporter_s_pool_stays_booked_for_a_sibling_that_has_it_open_and_lost_its_descriptors() {
    let machine = Machine::new();
    let (mut owner, mut other) = (machine.start("t", QUOTA), machine.start("t", QUOTA));
    let mut third = machine.start("t", QUOTA);
    let descriptor = pool_handed_over(&mut other, &mut owner, 2 * GIB);
    assert!(import_pool(&mut other, descriptor).is_ok());
    let _ = other.ask("closefrom 3");
    owner.kill();
    // It asks for so long as the dead are held for, two seconds.
    for _ in 0..5 {
        assert_eq!(third.alloc(2 * GIB), Err(OUT_OF_MEMORY), "{:?}", machine.processes("t"));
        std::thread::sleep(std::time::Duration::from_millis(700));
    }
    other.kill();
    third.finish();
}

#[test]
fn quota_holds_without_a_current_context_on_each_of_two_gpus() {
    if has_real_gpu() {
        return skip("this machine may have one GPU only");
    }
    let machine = Machine::new();
    let mut owner = machine.native().with("CUOTA_SIM_DEVICES", "2").start();
    owner.use_device(0);
    for device in 0..2 {
        let uuid = owner.uuid(device);
        machine.set_quota_on("t", uuid, 2 * GIB);
    }
    let mut console = machine.tenant("t", None).with("CUOTA_SIM_DEVICES", "2").start();
    console.use_device(0);
    let graph = made(&mut console, "cuGraphCreate", &[Out(8), Is(0)]).expect("a graph");
    let node = cuota_tests::graph::alloc_node(4 * GIB);
    let arguments = [Out(8), Is(graph), Is(0), Is(0), At(&node)];
    assert_eq!(console.call("cuGraphAddMemAllocNode", &arguments).status, 0);
    let stream = made(&mut console, "cuStreamCreate", &[Out(8), Is(1)]).expect("a stream");
    let memory = handed_over(&mut console, &mut owner, 4 * GIB);
    let pool = pool_handed_over(&mut console, &mut owner, 4 * GIB);
    let context = made(&mut console, "cuCtxGetCurrent", &[Out(8)]).expect("a context");
    assert_eq!(console.call("cuCtxSetCurrent", &[Is(0)]).status, 0);
    assert_eq!(import(&mut console, memory), Err(OUT_OF_MEMORY));
    assert_eq!(import_pool(&mut console, pool), Err(OUT_OF_MEMORY));
    let executable = made(&mut console, "cuGraphInstantiateWithFlags", &[Out(8), Is(graph), Is(0)]);
    assert_eq!(console.call("cuCtxSetCurrent", &[Is(context)]).status, 0);
    if let Ok(executable) = executable {
        assert_eq!(console.call("cuGraphLaunch", &[Is(executable), Is(stream)]).status, OUT_OF_MEMORY);
    }
    console.finish();
    owner.finish();
}
