//! Tricks: memory that lives on though it was freed, or seems to have been. The room that the row begins with is all that
//! there is, so that as much again must be refused.

use std::env;

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::driver::on_device;
use cuota_tests::machine::has_real_gpu;
use cuota_tests::shape::{SPARSE, Shape};

use super::{Row, code, handles, pools, trick};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

pub(super) const ROWS: &[Row] = &[
    trick("handle released while its memory is mapped", |t| handles::mapped_only(t).map(drop)),
    trick("handle released and unmapped while another handle is retained", handles::retained_only),
    trick("handle released while a sparse array has its memory", |t| sparse(t, "cuArray3DCreate_v2")),
    trick("handle released while a multicast object has its memory", multicast),
    trick("pool destroyed while its memory lives", |t| {
        let pool = pools::pool(t)?;
        pools::from(t, pool)?;
        t.done("cuMemPoolDestroy", &[Is(pool)])
    }),
    trick("pool trimmed while its memory lives", |t| {
        let pool = pools::pool(t)?;
        pools::from(t, pool)?;
        t.done("cuMemPoolTrimTo", &[Is(pool), Is(0)])
    }),
    trick("module loaded, its variable freed as if it were memory", |t| {
        let variable = code::load(t)?;
        let _ = t.call("cuMemFree_v2", &[Is(variable)]);
        let _ = t.call("cuMemFreeAsync", &[Is(variable), Is(0)]);
        Ok(())
    }),
    trick("the inside of an allocation, freed", |t| {
        let address = t.keep("cuMemAlloc_v2", &[Out(8), Is(TAKE)], "cuMemFree_v2")?;
        for offset in [256, 512, 1 << 16, 2 << 20, TAKE / 2] {
            let _ = t.call("cuMemFree_v2", &[Is(address + offset)]);
            let _ = t.call("cuMemFreeAsync", &[Is(address + offset), Is(0)]);
        }
        Ok(())
    }),
    trick("memory freed behind work that has not ended", |t| {
        let address = t.make("cuMemAlloc_v2", &[Out(8), Is(TAKE)])?;
        free_behind_a_wait(t, address)
    }),
    trick("pool's memory freed behind work that has not ended", |t| {
        let stream = t.stream()?;
        let address = t.make("cuMemAllocAsync", &[Out(8), Is(TAKE), Is(stream)])?;
        free_behind_a_wait(t, address)
    }),
    trick("memory freed while a DMA buffer of it is open", |t| {
        let address = t.make("cuMemAlloc_v2", &[Out(8), Is(TAKE)])?;
        let exported = dma_buffer(t, address);
        t.done("cuMemFree_v2", &[Is(address)])?;
        exported
    }),
    trick("memory freed while two DMA buffers of it are open, and the first one closed", |t| {
        let address = t.make("cuMemAlloc_v2", &[Out(8), Is(TAKE)])?;
        let exported = dma_buffer(t, address).and_then(|()| dma_buffer(t, address));
        t.close_first_descriptor();
        t.done("cuMemFree_v2", &[Is(address)])?;
        exported
    }),
    trick("mapped memory released while a DMA buffer of it is open", |t| {
        let handle = t.make("cuMemCreate", &[Out(8), Is(TAKE), At(&on_device(0)), Is(0)])?;
        let at = t.make("cuMemAddressReserve", &[Out(8), Is(TAKE), Is(0), Is(0), Is(0)])?;
        t.later("cuMemAddressFree", &[at, TAKE]);
        t.done("cuMemMap", &[Is(at), Is(TAKE), Is(0), Is(handle), Is(0)])?;
        let exported = dma_buffer(t, at);
        t.done("cuMemUnmap", &[Is(at), Is(TAKE)])?;
        t.done("cuMemRelease", &[Is(handle)])?;
        exported
    }),
    trick("handle released while a descriptor of it is open", |t| {
        let create = [Out(8), Is(TAKE), At(&handles::exportable()), Is(0)];
        let handle = t.make("cuMemCreate", &create)?;
        // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        let exported = t.open("cuMemExportToShareableHandle", &[Out(8), Is(handle), Is(1), Is(0)]);
        t.done("cuMemRelease", &[Is(handle)])?;
        exported.map(drop)
    }),
    trick("every descriptor closed", |t| {
        if has_real_gpu() {
            // NVIDIA's driver does not survive it.
            return Err(crate::NOT_THERE);
        }
        t.keep("cuMemAllocAsync", &[Out(8), Is(TAKE), Is(0)], "cuMemFree_v2")?;
        let _ = t.console.ask("closefrom 3");
        Ok(())
    }),
    trick("variables of the environment changed", |t| {
        t.keep("cuMemAllocAsync", &[Out(8), Is(TAKE), Is(0)], "cuMemFree_v2")?;
        for line in ["setenv CUOTA_TENANT other", "setenv CUOTA_DIR /nowhere", "clearenv"] {
            let _ = t.console.ask(line);
        }
        Ok(())
    }),
];

/// A descriptor for a range of half a GiB; CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD.
fn dma_buffer(t: &mut Attempt<'_>, address: u64) -> Ended {
    let arguments = [Out(8), Is(address), Is(TAKE), Is(1), Is(0)];
    t.open("cuMemGetHandleForAddressRange", &arguments).map(drop)
}

/// Frees on a stream that waits, until the row's end.
fn free_behind_a_wait(t: &mut Attempt<'_>, address: u64) -> Ended {
    // A word that both host and device see; CU_MEMHOSTALLOC_DEVICEMAP.
    let word = t.keep("cuMemHostAlloc", &[Out(8), Is(4096), Is(2)], "cuMemFreeHost")?;
    let seen = t.make("cuMemHostGetDevicePointer_v2", &[Out(8), Is(word), Is(0)])?;
    t.done("cuMemsetD32_v2", &[Is(seen), Is(0), Is(1)])?;
    t.settle()?;
    let (waiting, other) = (t.stream()?, t.stream()?);
    // CU_STREAM_WAIT_VALUE_GEQ
    t.done("cuStreamWaitValue32_v2", &[Is(waiting), Is(seen), Is(1), Is(0)])?;
    t.later("cuMemsetD32Async", &[seen, 1, 1, other]);
    t.done("cuMemFreeAsync", &[Is(address), Is(waiting)])
}

/// Puts a handle's memory under an array that was made without, and lets go of the handle.
fn sparse(t: &mut Attempt<'_>, symbol: &str) -> Ended {
    let shape = Shape::of_bytes(16_384, 32_768, 0).with(SPARSE).solid();
    let array = t.keep(symbol, &[Out(8), At(&shape)], "cuArrayDestroy")?;
    let mut properties = on_device(0);
    properties[26] = 1; // allocFlags.usage: CU_MEM_CREATE_USAGE_TILE_POOL
    let handle = t.make("cuMemCreate", &[Out(8), Is(TAKE), At(&properties), Is(0)])?;
    // CUarrayMapInfo: an array; level 0 from its origin, 16,384 × 32,768 × 1; map; a handle, from its begin; device 0.
    let mut map = [0; 96];
    map[8..16].copy_from_slice(&array.to_le_bytes());
    for (at, number) in [(44, 16_384_u32), (48, 32_768), (52, 1), (56, 1), (80, 1)] {
        map[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    map[64..72].copy_from_slice(&handle.to_le_bytes());
    let mapped = t.done("cuMemMapArrayAsync", &[At(&map), Is(1), Is(0)]);
    let _ = t.settle();
    t.done("cuMemRelease", &[Is(handle)])?;
    mapped
}

/// Binds a handle's memory to a multicast object, and lets go of the handle.
///
/// On a real machine only if asked with `CUOTA_TEST_MULTICAST=1`: multicast objects live in the switches, which other tenants'
/// GPUs hang on too.
fn multicast(t: &mut Attempt<'_>) -> Ended {
    if has_real_gpu() && env::var_os("CUOTA_TEST_MULTICAST").is_none_or(|value| value != "1") {
        return Err(crate::NOT_THERE);
    }
    // CUmulticastObjectProp: one device, the size, no handle types, no flags.
    let mut properties = [0; 32];
    properties[0] = 1;
    properties[8..16].copy_from_slice(&TAKE.to_le_bytes());
    let object = t.keep("cuMulticastCreate", &[Out(8), At(&properties)], "cuMemRelease")?;
    t.done("cuMulticastAddDevice", &[Is(object), Is(0)])?;
    let handle = t.make("cuMemCreate", &[Out(8), Is(TAKE), At(&on_device(0)), Is(0)])?;
    let bound = t.done("cuMulticastBindMem", &[Is(object), Is(0), Is(handle), Is(0), Is(TAKE), Is(0)]);
    t.done("cuMemRelease", &[Is(handle)])?;
    bound
}
