//! The sizes of arrays and mipmapped arrays. The totals are those measured on an H100 (driver 580); the padding of rows is
//! assumed, and no measured total depends on it.

use crate::error::{Answer, Fault};
use crate::units::round_up;

/// `CUDA_ARRAY3D_LAYERED`: the depth is a number of layers.
const LAYERED: u32 = 0x01;
/// `CUDA_ARRAY3D_CUBEMAP`: the depth is a number of faces.
const CUBEMAP: u32 = 0x04;
/// `CUDA_ARRAY3D_SPARSE`: memory is mapped into parts of it.
const SPARSE: u32 = 0x40;
/// `CUDA_ARRAY3D_SPARSE` and `CUDA_ARRAY3D_DEFERRED_MAPPING`: no memory until some is mapped.
const UNBACKED: u32 = SPARSE | 0x80;
/// Rows lie in tiles of 64 bytes by 8 rows.
const TILE: (u64, u64) = (64, 8);
/// The largest sizes of arrays of one, two and three dimensions, as the device's attributes say.
const LARGEST: [[u64; 3]; 3] = [[131_072, 0, 0], [131_072, 65_536, 0], [16_384, 16_384, 16_384]];
/// The largest sizes of layered arrays of one and two dimensions, and of cubes.
const LARGEST_LAYERED: [u64; 2] = [32_768, 2_048];

/// What an array is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Elements of a row.
    pub width: u64,
    /// Rows; 0 in an array of one dimension.
    pub height: u64,
    /// Planes, layers or faces; 0 where there are none.
    pub depth: u64,
    /// `CUarray_format`.
    pub format: u32,
    /// Numbers in an element: 1, 2 or 4.
    pub channels: u32,
    /// The `CUDA_ARRAY3D_` flags.
    pub flags: u32,
}

impl Shape {
    /// Whether the array has memory of its own from the start.
    #[must_use]
    pub fn is_backed(&self) -> bool {
        self.flags & UNBACKED == 0
    }

    /// Whether memory is mapped into parts of it.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.flags & SPARSE != 0
    }

    /// Bytes of an array of this shape.
    ///
    /// # Errors
    /// `InvalidValue` for a shape that no array has; `NotSupported` for a format that the model does not know.
    pub fn bytes(&self) -> Answer<u64> {
        self.check()?;
        self.level_bytes(0)
    }

    /// Bytes of a mipmapped array with `levels` levels.
    ///
    /// # Errors
    /// As [`Self::bytes`]; `InvalidValue` for no levels, or more than the shape has halves.
    pub fn mipmap_bytes(&self, levels: u32) -> Answer<u64> {
        self.check()?;
        if levels == 0 || levels > self.most_levels() {
            return Err(Fault::InvalidValue);
        }
        (0..levels)
            .try_fold(0_u64, |all, level| all.checked_add(self.level_bytes(level)?).ok_or(Fault::OutOfMemory))
    }

    /// The shape of one level.
    #[must_use]
    pub fn level(&self, level: u32) -> Self {
        let halved = |size: u64| if size == 0 { 0 } else { (size >> level).max(1) };
        let depth = if self.is_layered() { self.depth } else { halved(self.depth) };
        Self { width: halved(self.width), height: halved(self.height), depth, ..*self }
    }

    fn most_levels(&self) -> u32 {
        let depth = if self.is_layered() { 0 } else { self.depth };
        self.width.max(self.height).max(depth).max(1).ilog2() + 1
    }

    pub(super) fn is_layered(&self) -> bool {
        self.flags & (LAYERED | CUBEMAP) != 0
    }

    fn check(&self) -> Answer<()> {
        let is_cube =
            self.flags & CUBEMAP == 0 || (self.width == self.height && self.depth.is_multiple_of(6));
        let is_known = matches!(self.channels, 1 | 2 | 4) && is_cube && self.width > 0;
        if !is_known || (self.height == 0 && self.depth > 0 && !self.is_layered()) {
            return Err(Fault::InvalidValue);
        }
        let largest = if self.is_layered() {
            let [side, layers] = LARGEST_LAYERED;
            [side, side, layers]
        } else {
            LARGEST[usize::from(self.height > 0) + usize::from(self.depth > 0)]
        };
        let fits =
            [self.width, self.height, self.depth].iter().zip(largest).all(|(&size, most)| size <= most);
        if fits && (!self.is_layered() || self.depth > 0) { Ok(()) } else { Err(Fault::InvalidValue) }
    }

    pub(super) fn element_bytes(&self) -> Answer<u64> {
        let number = match self.format {
            0x01 | 0x08 => 1,
            0x02 | 0x09 | 0x10 => 2,
            0x03 | 0x0a | 0x20 => 4,
            format => {
                crate::log::once(&format!("array format {format:#x} is not modelled: NOT_SUPPORTED"));
                return Err(Fault::NotSupported);
            }
        };
        Ok(number * u64::from(self.channels))
    }

    fn level_bytes(&self, level: u32) -> Answer<u64> {
        let Self { width, height, depth, .. } = self.level(level);
        let row = round_up(width * self.element_bytes()?, TILE.0).ok_or(Fault::OutOfMemory)?;
        let rows = if height > 1 { round_up(height, TILE.1).ok_or(Fault::OutOfMemory)? } else { 1 };
        row.checked_mul(rows).and_then(|plane| plane.checked_mul(depth.max(1))).ok_or(Fault::OutOfMemory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BLOCK, GIB, KIB, MIB};

    fn floats(size: [u64; 3], channels: u32, flags: u32) -> Shape {
        let [width, height, depth] = size;
        Shape { width, height, depth, format: 0x20, channels, flags }
    }

    fn taken(bytes: Answer<u64>) -> u64 {
        bytes.expect("a shape").next_multiple_of(BLOCK)
    }

    #[test]
    fn sizes_are_those_measured() {
        assert_eq!(floats([64, 64, 0], 1, 0).bytes(), Ok(16 * KIB));
        assert_eq!(taken(floats([1024, 1024, 0], 4, 0).bytes()), 16 * MIB);
        assert_eq!(taken(floats([1000, 1000, 0], 4, 0).bytes()), 16 * MIB);
        assert_eq!(taken(floats([16_384, 16_384, 0], 1, 0).bytes()), GIB);
        assert_eq!(taken(floats([256, 256, 64], 2, 0).bytes()), 32 * MIB);
        assert_eq!(taken(floats([1024, 1024, 6], 4, LAYERED).bytes()), 96 * MIB);
        assert_eq!(taken(floats([1024, 1024, 0], 4, 0).mipmap_bytes(11)), 22 * MIB);
    }

    #[test]
    fn impossible_shapes_are_invalid() {
        assert_eq!(floats([1_000_000, 0, 0], 1, 0).bytes(), Err(Fault::InvalidValue), "one dimension");
        assert_eq!(floats([64, 64, 0], 3, 0).bytes(), Err(Fault::InvalidValue));
        assert_eq!(floats([0, 64, 0], 1, 0).bytes(), Err(Fault::InvalidValue));
        assert_eq!(floats([1024, 1024, 0], 4, 0).mipmap_bytes(12), Err(Fault::InvalidValue));
        assert_eq!(floats([16_385, 4, 4], 4, 0).bytes(), Err(Fault::InvalidValue));
    }
}
