//! Arrays, mipmapped arrays, and memory mapped into sparse ones.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::shape::Shape;

use super::{Row, take};
use crate::attempt::Attempt;

/// 512 MiB, with the largest width.
fn flat() -> Shape {
    Shape::of_bytes(16_384, 32_768, 0)
}

/// 512 MiB in three dimensions.
fn solid() -> Shape {
    Shape::of_float4(512, 512, 128)
}

pub(super) const ROWS: &[Row] = &[
    take("cuArrayCreate_v2", |t| array(t, "cuArrayCreate_v2", &flat().flat()).map(drop)),
    take("cuArrayCreate, 32 bits", |t| array(t, "cuArrayCreate", &flat().flat_v1()).map(drop)),
    take("cuArray3DCreate_v2", |t| array(t, "cuArray3DCreate_v2", &solid().solid()).map(drop)),
    take("cuArray3DCreate, 32 bits", |t| array(t, "cuArray3DCreate", &solid().solid_v1()).map(drop)),
    take("cuMipmappedArrayCreate", |t| {
        let shape = Shape::of_float4(4096, 6144, 0).solid();
        t.keep("cuMipmappedArrayCreate", &[Out(8), At(&shape), Is(3)], "cuMipmappedArrayDestroy").map(drop)
    }),
];

fn array(t: &mut Attempt<'_>, symbol: &str, descriptor: &[u8]) -> Result<u64, i64> {
    t.keep(symbol, &[Out(8), At(descriptor)], "cuArrayDestroy")
}
