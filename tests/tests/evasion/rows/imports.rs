//! Memory of another process, outside of the quota, that ends when the tenant holds it.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::{Arg, Console};
use cuota_tests::driver::on_device;

use super::{Row, handles, pools, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR` and `_FABRIC`
const DESCRIPTOR: u64 = 1;
const FABRIC: u8 = 8;

/// sizeof(`CUipcMemHandle`) and sizeof(`CUmemPoolPtrExportData`)
const HANDLE_BYTES: usize = 64;

pub(super) const ROWS: &[Row] = &[
    take("cuIpcOpenMemHandle_v2, then its owner ends", |t| opened(t, "cuIpcOpenMemHandle_v2")),
    take("cuIpcOpenMemHandle, then its owner ends", |t| opened(t, "cuIpcOpenMemHandle")),
    take("cuMemImportFromShareableHandle, then its owner ends", |t| {
        let mut owner = t.stranger();
        let descriptor = exported(t, &mut owner)?;
        let imported = import(t, descriptor);
        end(t, owner, descriptor);
        imported.map(drop)
    }),
    take("cuMemImportFromShareableHandle, fabric, then its owner ends", |t| {
        let mut owner = t.stranger();
        let mut properties = on_device(0);
        properties[4] = FABRIC;
        let created = owner.call("cuMemCreate", &[Out(8), Is(TAKE), At(&properties), Is(0)]);
        if created.status != 0 {
            return Err(created.status);
        }
        let export = [Out(HANDLE_BYTES), Is(created.number(0)), Is(u64::from(FABRIC)), Is(0)];
        let exported = owner.call("cuMemExportToShareableHandle", &export);
        if exported.status != 0 {
            return Err(exported.status);
        }
        let arguments = [Out(8), At(&exported.wrote[0]), Is(u64::from(FABRIC))];
        let imported = t.keep("cuMemImportFromShareableHandle", &arguments, "cuMemRelease");
        t.kill_other(owner);
        imported.map(drop)
    }),
    take(POOL_ALONE, |t| {
        let mut owner = t.stranger();
        let (descriptor, _) = exported_pool(t, &mut owner)?;
        let pool = import_pool(t, descriptor);
        end(t, owner, descriptor);
        pool.map(drop)
    }),
    take(POOL_POINTER, |t| {
        let mut owner = t.stranger();
        let (descriptor, pointer) = exported_pool(t, &mut owner)?;
        let pool = import_pool(t, descriptor);
        let address =
            pool.and_then(|pool| t.make("cuMemPoolImportPointer", &[Out(8), Is(pool), At(&pointer)]));
        end(t, owner, descriptor);
        t.later("cuMemFreeAsync", &[address?, 0]);
        Ok(())
    }),
];

/// A row's name: another process's pool, without any of its pointers.
pub(crate) const POOL_ALONE: &str = "cuMemPoolImportFromShareableHandle, then its owner ends";

/// A row's name: an allocation of another process's pool.
pub(crate) const POOL_POINTER: &str = "cuMemPoolImportPointer, then its owner ends";

/// Half a GiB of the owner's in a pool: the pool as a descriptor of the tenant, and what names the allocation.
pub(super) fn exported_pool(t: &mut Attempt<'_>, owner: &mut Console) -> Result<(u64, Vec<u8>), i64> {
    let mut properties = pools::properties();
    properties[4] = 1; // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    let pool = owner_makes(owner, "cuMemPoolCreate", &[Out(8), At(&properties)])?;
    let address = owner_makes(owner, "cuMemAllocFromPoolAsync", &[Out(8), Is(TAKE), Is(pool), Is(0)])?;
    owner.synchronize();
    let arguments = [Out(8), Is(pool), Is(DESCRIPTOR), Is(0)];
    let descriptor = owner_makes(owner, "cuMemPoolExportToShareableHandle", &arguments)?;
    let descriptor = taken(t, owner, descriptor)?;
    let pointer = owner.call("cuMemPoolExportPointer", &[Out(HANDLE_BYTES), Is(address)]).ok();
    Ok((descriptor, pointer.wrote[0].clone()))
}

pub(super) fn import_pool(t: &mut Attempt<'_>, descriptor: u64) -> Result<u64, i64> {
    let arguments = [Out(8), Is(descriptor), Is(DESCRIPTOR), Is(0)];
    t.keep("cuMemPoolImportFromShareableHandle", &arguments, "cuMemPoolDestroy")
}

pub(super) fn import(t: &mut Attempt<'_>, descriptor: u64) -> Result<u64, i64> {
    let arguments = [Out(8), Is(descriptor), Is(DESCRIPTOR)];
    t.keep("cuMemImportFromShareableHandle", &arguments, "cuMemRelease")
}

/// The owner's call, which writes a handle, an address or, in the low half, a descriptor.
fn owner_makes(owner: &mut Console, symbol: &str, arguments: &[Arg<'_>]) -> Result<u64, i64> {
    let answer = owner.call(symbol, arguments);
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(answer.status) }
}

/// The owner's descriptor, as one of the tenant's own.
fn taken(t: &mut Attempt<'_>, owner: &Console, descriptor: u64) -> Result<u64, i64> {
    let descriptor = descriptor & u64::from(u32::MAX);
    let answer = t.console.ask(&format!("takefd {} {descriptor}", owner.pid()));
    if answer.status == 0 { Ok(answer.number(0)) } else { Err(crate::NOT_THERE) }
}

/// Half a GiB of the owner's by handle, as a descriptor of the tenant.
pub(super) fn exported(t: &mut Attempt<'_>, owner: &mut Console) -> Result<u64, i64> {
    let create = [Out(8), Is(TAKE), At(&handles::exportable()), Is(0)];
    let handle = owner_makes(owner, "cuMemCreate", &create)?;
    let export = [Out(8), Is(handle), Is(DESCRIPTOR), Is(0)];
    let descriptor = owner_makes(owner, "cuMemExportToShareableHandle", &export)?;
    taken(t, owner, descriptor)
}

/// The owner ends, and the descriptor with it: only what was imported holds the memory now. (An open descriptor holds it too, for
/// nobody to use.)
pub(super) fn end(t: &mut Attempt<'_>, owner: Console, descriptor: u64) {
    t.kill_other(owner);
    let _ = t.console.ask(&format!("openas {descriptor}"));
}

fn opened(t: &mut Attempt<'_>, symbol: &str) -> Ended {
    let mut owner = t.stranger();
    let address = owner.alloc(TAKE).map_err(|_| crate::NOT_THERE)?;
    let handle = owner.call("cuIpcGetMemHandle", &[Out(HANDLE_BYTES), Is(address)]).ok().wrote.remove(0);
    // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
    const FLAGS: u64 = 1;
    // A structure of 64 bytes by value: on x86-64 on the stack, behind six registers; elsewhere by its address.
    let words =
        handle.chunks_exact(8).map(|word| Is(u64::from_le_bytes(word.try_into().expect("eight bytes"))));
    let mut arguments = vec![Out(8), Is(FLAGS), Is(0), Is(0), Is(0), Is(0)];
    arguments.extend(words);
    if cfg!(not(target_arch = "x86_64")) {
        arguments = vec![Out(8), At(&handle), Is(FLAGS)];
    }
    let open = t.keep(symbol, &arguments, "cuIpcCloseMemHandle");
    t.kill_other(owner);
    open.map(drop)
}
