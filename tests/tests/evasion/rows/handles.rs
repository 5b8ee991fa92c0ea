//! Memory by handle.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::driver::on_device;

use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

pub(super) const ROWS: &[Row] = &[
    take("cuMemCreate", |t| create(t).map(drop)),
    take("cuMemCreate + cuMemMap", |t| {
        let handle = create(t)?;
        map(t, handle).map(drop)
    }),
    take("cuMemCreate, compressible", |t| {
        let mut properties = on_device(0);
        properties[24] = 1; // allocFlags.compressionType: generic
        t.keep("cuMemCreate", &[Out(8), Is(TAKE), At(&properties), Is(0)], "cuMemRelease").map(drop)
    }),
    take("cuMemCreate, exportable", |t| {
        t.keep("cuMemCreate", &[Out(8), Is(TAKE), At(&exportable()), Is(0)], "cuMemRelease").map(drop)
    }),
];

/// `CUmemAllocationProp` for memory that can be exported as a file descriptor.
pub(super) fn exportable() -> [u8; 32] {
    let mut properties = on_device(0);
    properties[4] = 1; // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    properties
}

pub(super) fn create(t: &mut Attempt<'_>) -> Result<u64, i64> {
    t.keep("cuMemCreate", &[Out(8), Is(TAKE), At(&on_device(0)), Is(0)], "cuMemRelease")
}

pub(super) fn map(t: &mut Attempt<'_>, handle: u64) -> Result<u64, i64> {
    let at = t.make("cuMemAddressReserve", &[Out(8), Is(TAKE), Is(0), Is(0), Is(0)])?;
    t.later("cuMemAddressFree", &[at, TAKE]);
    t.done("cuMemMap", &[Is(at), Is(TAKE), Is(0), Is(handle), Is(0)])?;
    t.later("cuMemUnmap", &[at, TAKE]);
    Ok(at)
}

/// Creates, maps, and lets go of the handle: the mapping holds the memory.
pub(super) fn mapped_only(t: &mut Attempt<'_>) -> Result<u64, i64> {
    let handle = t.make("cuMemCreate", &[Out(8), Is(TAKE), At(&on_device(0)), Is(0)])?;
    let at = map(t, handle)?;
    t.done("cuMemRelease", &[Is(handle)])?;
    Ok(at)
}

/// Creates, maps, retains, lets go of the first handle and the mapping: the second handle holds the memory.
pub(super) fn retained_only(t: &mut Attempt<'_>) -> Ended {
    let handle = t.make("cuMemCreate", &[Out(8), Is(TAKE), At(&on_device(0)), Is(0)])?;
    let at = t.make("cuMemAddressReserve", &[Out(8), Is(TAKE), Is(0), Is(0), Is(0)])?;
    t.later("cuMemAddressFree", &[at, TAKE]);
    t.done("cuMemMap", &[Is(at), Is(TAKE), Is(0), Is(handle), Is(0)])?;
    t.keep("cuMemRetainAllocationHandle", &[Out(8), Is(at)], "cuMemRelease")?;
    t.done("cuMemRelease", &[Is(handle)])?;
    t.done("cuMemUnmap", &[Is(at), Is(TAKE)])
}
