//! Stream-ordered memory, from the pools that a program can have.

use cuota_tests::console::Arg::{At, Is, Out};

use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

pub(super) const ROWS: &[Row] = &[
    take("cuMemAllocAsync", |t| ordered(t, 0)),
    take("cuMemAllocAsync on a stream of its own", |t| t.stream().and_then(|stream| ordered(t, stream))),
    take("cuMemAllocFromPoolAsync, default pool", |t| {
        let pool = t.make("cuDeviceGetDefaultMemPool", &[Out(8), Is(0)])?;
        from(t, pool)
    }),
    take("cuMemAllocFromPoolAsync, current pool", |t| {
        let pool = t.make("cuDeviceGetMemPool", &[Out(8), Is(0)])?;
        from(t, pool)
    }),
    take("cuMemAllocFromPoolAsync, pool of its own", |t| pool(t).and_then(|pool| from(t, pool))),
    take("cuMemAllocAsync after cuDeviceSetMemPool", |t| {
        let default = t.make("cuDeviceGetDefaultMemPool", &[Out(8), Is(0)])?;
        let pool = pool(t)?;
        t.done("cuDeviceSetMemPool", &[Is(0), Is(pool)])?;
        t.later("cuDeviceSetMemPool", &[0, default]);
        ordered(t, 0)
    }),
    take("cuMemAllocAsync after cuMemSetMemPool", |t| {
        let pool = pool(t)?;
        // CUmemLocation: a device, ordinal 0; pinned memory.
        let place = [1, 0, 0, 0, 0, 0, 0, 0];
        let default = t.make("cuMemGetMemPool", &[Out(8), At(&place), Is(1)])?;
        t.done("cuMemSetMemPool", &[At(&place), Is(1), Is(pool)])?;
        t.later("cuDeviceSetMemPool", &[0, default]);
        ordered(t, 0)
    }),
    take("cuMemAllocFromPoolAsync, pool from cuMemGetDefaultMemPool", |t| {
        let place = [1, 0, 0, 0, 0, 0, 0, 0];
        let pool = t.make("cuMemGetDefaultMemPool", &[Out(8), At(&place), Is(1)])?;
        from(t, pool)
    }),
];

/// `CUmemPoolProps`: pinned, on the first device.
pub(super) fn properties() -> [u8; 88] {
    let mut properties = [0; 88];
    (properties[0], properties[8]) = (1, 1);
    properties
}

/// A pool of the row's own that keeps nothing that is freed.
pub(super) fn pool(t: &mut Attempt<'_>) -> Result<u64, i64> {
    t.keep("cuMemPoolCreate", &[Out(8), At(&properties())], "cuMemPoolDestroy")
}

pub(super) fn ordered(t: &mut Attempt<'_>, stream: u64) -> Ended {
    let address = t.make("cuMemAllocAsync", &[Out(8), Is(TAKE), Is(stream)])?;
    t.later("cuMemFreeAsync", &[address, 0]);
    t.settle()
}

pub(super) fn from(t: &mut Attempt<'_>, pool: u64) -> Ended {
    let address = t.make("cuMemAllocFromPoolAsync", &[Out(8), Is(TAKE), Is(pool), Is(0)])?;
    t.later("cuMemFreeAsync", &[address, 0]);
    t.settle()
}
