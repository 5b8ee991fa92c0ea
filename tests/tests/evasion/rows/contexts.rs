//! Contexts: half a GiB each.

use cuota_tests::console::Arg::{At, Is, Out};

use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

/// sizeof(CUdevResource), and `CU_DEV_RESOURCE_TYPE_SM`.
const RESOURCE_BYTES: usize = 144;
const SM: u64 = 1;
/// `CU_GREEN_CTX_DEFAULT_STREAM`
const DEFAULT_STREAM: u64 = 1;
/// What a green context takes on the software GPU, bytes.
const GREEN_BYTES: u64 = 4 << 20;

const DESTROY: &str = "cuCtxDestroy_v2";

pub(super) const ROWS: &[Row] = &[
    take("cuCtxCreate, 32 bits", |t| current(t, "cuCtxCreate", &[Is(0), Is(0)])),
    take("cuCtxCreate_v2", |t| current(t, "cuCtxCreate_v2", &[Is(0), Is(0)])),
    take("cuCtxCreate_v3", |t| current(t, "cuCtxCreate_v3", &[Is(0), Is(0), Is(0), Is(0)])),
    take("cuCtxCreate_v4", |t| current(t, "cuCtxCreate_v4", &[Is(0), Is(0), Is(0)])),
    take("cuGreenCtxCreate, over and over", |t| (0..TAKE / GREEN_BYTES).try_for_each(|_| green(t).map(drop))),
];

/// A green context of all multiprocessors.
pub(super) fn green(t: &mut Attempt<'_>) -> Result<u64, i64> {
    let resource = t.call("cuDeviceGetDevResource", &[Is(0), Out(RESOURCE_BYTES), Is(SM)]);
    if resource.status != 0 {
        return Err(resource.status);
    }
    let description = t.make("cuDevResourceGenerateDesc", &[Out(8), At(&resource.wrote[0]), Is(1)])?;
    let arguments = [Out(8), Is(description), Is(0), Is(DEFAULT_STREAM)];
    t.keep("cuGreenCtxCreate", &arguments, "cuGreenCtxDestroy")
}

/// Makes a context; the one before is current again.
fn current(t: &mut Attempt<'_>, symbol: &str, rest: &[cuota_tests::console::Arg<'_>]) -> Ended {
    let arguments = [&[Out(8)], rest].concat();
    t.keep(symbol, &arguments, DESTROY)?;
    t.done("cuCtxPopCurrent_v2", &[Out(8)])
}
