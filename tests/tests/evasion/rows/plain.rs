//! Plain and managed memory.

use cuota_tests::console::Arg::{Is, Out};

use super::{Row, take};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

pub(super) const ROWS: &[Row] = &[
    take("cuMemAlloc_v2", |t| t.keep("cuMemAlloc_v2", &[Out(8), Is(TAKE)], FREE).map(drop)),
    take("cuMemAlloc, 32 bits", |t| t.keep("cuMemAlloc", &[Out(4), Is(TAKE)], "cuMemFree").map(drop)),
    take("cuMemAllocPitch_v2", |t| pitched(t, "cuMemAllocPitch_v2", 8, FREE)),
    take("cuMemAllocPitch, 32 bits", |t| pitched(t, "cuMemAllocPitch", 4, "cuMemFree")),
    take("cuMemAllocManaged, then touched", managed),
];

const FREE: &str = "cuMemFree_v2";

/// 64 KiB a row.
fn pitched(t: &mut Attempt<'_>, symbol: &str, word: usize, free: &'static str) -> Ended {
    let width = 1 << 16;
    t.keep(symbol, &[Out(word), Out(word), Is(width), Is(TAKE / width), Is(4)], free).map(drop)
}

fn managed(t: &mut Attempt<'_>) -> Ended {
    // CU_MEM_ATTACH_GLOBAL
    let address = t.keep("cuMemAllocManaged", &[Out(8), Is(TAKE), Is(1)], FREE)?;
    t.done("cuMemsetD8_v2", &[Is(address), Is(0), Is(TAKE)])?;
    t.settle()
}
