//! Sparse arrays: the tiles of 64 KiB in which memory is mapped into them, and the tail of small levels that is mapped as one.
//! The tiles' extents are those that Vulkan calls the standard sparse block shapes, which NVIDIA's devices have; that CUDA
//! says the same is assumed.

use super::array::Shape;
use crate::error::{Answer, Fault};
use crate::units::KIB;

/// Memory of one tile.
pub const TILE_BYTES: u64 = 64 * KIB;
/// Elements of a tile of a flat array, by the size of an element: 1, 2, 4, 8, 16 bytes.
const FLAT: [[u64; 3]; 5] = [[256, 256, 1], [256, 128, 1], [128, 128, 1], [128, 64, 1], [64, 64, 1]];
/// The same of an array of three dimensions.
const SOLID: [[u64; 3]; 5] = [[64, 32, 32], [32, 32, 32], [32, 32, 16], [32, 16, 16], [16, 16, 16]];

/// A part of a sparse array in which memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// A box of one level.
    Level {
        /// The level, 0 in an array without levels.
        level: u32,
        /// The layer, 0 in an array without layers.
        layer: u32,
        /// Where it begins, in elements.
        offset: [u64; 3],
        /// How large it is, in elements.
        extent: [u64; 3],
    },
    /// Bytes of the tail.
    Tail {
        /// The layer, 0 where the layers share a tail.
        layer: u32,
        /// Where it begins, in bytes.
        offset: u64,
        /// How large it is, in bytes.
        bytes: u64,
    },
}

/// What can be asked of a sparse array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Elements of a tile.
    pub tile: [u64; 3],
    /// The first level in the tail; as many as there are levels where there is no tail.
    pub tail_level: u32,
    /// Bytes of the tail of one layer.
    pub tail_bytes: u64,
}

impl Region {
    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let within = |start: u64, length: u64, at: u64, size: u64| at >= start && at + size <= start + length;
        match (*self, *other) {
            (
                Self::Level { level, layer, offset, extent },
                Self::Level { level: l, layer: y, offset: o, extent: e },
            ) => {
                (level, layer) == (l, y)
                    && (0..3).all(|side| within(offset[side], extent[side], o[side], e[side]))
            }
            (Self::Tail { layer, offset, bytes }, Self::Tail { layer: y, offset: o, bytes: b }) => {
                layer == y && within(offset, bytes, o, b)
            }
            _ => false,
        }
    }

    /// Whether they have a tile in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let meets = |start: u64, length: u64, at: u64, size: u64| at < start + length && start < at + size;
        match (*self, *other) {
            (
                Self::Level { level, layer, offset, extent },
                Self::Level { level: l, layer: y, offset: o, extent: e },
            ) => {
                (level, layer) == (l, y)
                    && (0..3).all(|side| meets(offset[side], extent[side], o[side], e[side]))
            }
            (Self::Tail { layer, offset, bytes }, Self::Tail { layer: y, offset: o, bytes: b }) => {
                layer == y && meets(offset, bytes, o, b)
            }
            _ => false,
        }
    }
}

impl Properties {
    /// Those of an array of `shape` with `levels` levels.
    ///
    /// # Errors
    /// `InvalidValue` for an array of one dimension, or elements that no tile has.
    pub fn new(shape: &Shape, levels: u32) -> Answer<Self> {
        let kinds = if shape.is_layered() || shape.depth == 0 { FLAT } else { SOLID };
        let element = shape.element_bytes()?;
        if shape.height == 0 || !element.is_power_of_two() || element > 16 {
            return Err(Fault::InvalidValue);
        }
        let tile = kinds[element.ilog2() as usize];
        let levels = levels.max(1);
        let is_small =
            |level: &u32| sides(&shape.level(*level)).iter().zip(tile).any(|(&side, least)| side < least);
        let tail_level = (0..levels).find(is_small).unwrap_or(levels);
        let bytes = |level| sides(&shape.level(level)).iter().product::<u64>() * element;
        let tail_bytes = (tail_level..levels).map(bytes).sum::<u64>().next_multiple_of(TILE_BYTES);
        Ok(Self { tile, tail_level, tail_bytes })
    }

    /// The memory that `region` of an array of `shape` takes.
    ///
    /// # Errors
    /// `InvalidValue` where it is not whole tiles, or is none of the array.
    pub fn bytes_of(&self, shape: &Shape, region: &Region) -> Answer<u64> {
        match *region {
            Region::Tail { offset, bytes, .. } => {
                let end = offset.checked_add(bytes).ok_or(Fault::InvalidValue)?;
                let is_whole = offset.is_multiple_of(TILE_BYTES) && bytes.is_multiple_of(TILE_BYTES);
                if bytes == 0 || !is_whole || end > self.tail_bytes {
                    Err(Fault::InvalidValue)
                } else {
                    Ok(bytes)
                }
            }
            Region::Level { level, layer, offset, extent } => {
                let layers = if shape.is_layered() { shape.depth } else { 1 };
                if level >= self.tail_level || u64::from(layer) >= layers {
                    return Err(Fault::InvalidValue);
                }
                let whole = sides(&shape.level(level));
                let mut tiles = 1;
                for side in 0..3 {
                    let end = offset[side].checked_add(extent[side]).ok_or(Fault::InvalidValue)?;
                    let ends_well = end.is_multiple_of(self.tile[side]) || end == whole[side];
                    let is_inside = extent[side] > 0 && end <= whole[side];
                    if !offset[side].is_multiple_of(self.tile[side]) || !ends_well || !is_inside {
                        return Err(Fault::InvalidValue);
                    }
                    tiles *= extent[side].div_ceil(self.tile[side]);
                }
                Ok(tiles * TILE_BYTES)
            }
        }
    }
}

/// Width, height and depth of one layer.
fn sides(shape: &Shape) -> [u64; 3] {
    let depth = if shape.is_layered() { 1 } else { shape.depth.max(1) };
    [shape.width, shape.height.max(1), depth]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { width: 1024, height: 512, depth: 0, format: 0x20, channels: 1, flags: 0x40 };

    fn level(level: u32, offset: [u64; 3], extent: [u64; 3]) -> Region {
        Region::Level { level, layer: 0, offset, extent }
    }

    #[test]
    fn a_region_takes_its_tiles() {
        let p = Properties::new(&SHAPE, 11).expect("two dimensions");
        assert_eq!((p.tile, p.tail_level, p.tail_bytes), ([128, 128, 1], 3, TILE_BYTES));
        let all = level(0, [0; 3], [1024, 512, 1]);
        assert_eq!(p.bytes_of(&SHAPE, &all), Ok(1024 * 512 * 4));
        assert_eq!(p.bytes_of(&SHAPE, &level(1, [384, 128, 0], [128, 128, 1])), Ok(TILE_BYTES));
        assert_eq!(p.bytes_of(&SHAPE, &level(0, [64, 0, 0], [128, 128, 1])), Err(Fault::InvalidValue));
        assert_eq!(p.bytes_of(&SHAPE, &level(0, [0; 3], [1025, 128, 1])), Err(Fault::InvalidValue));
        assert_eq!(
            p.bytes_of(&SHAPE, &level(3, [0; 3], [128, 64, 1])),
            Err(Fault::InvalidValue),
            "in the tail"
        );
        let tail = Region::Tail { layer: 0, offset: 0, bytes: TILE_BYTES };
        assert_eq!(p.bytes_of(&SHAPE, &tail), Ok(TILE_BYTES));
    }

    #[test]
    fn regions_of_one_level_meet_and_of_two_do_not() {
        let all = level(0, [0; 3], [1024, 512, 1]);
        let part = level(0, [128, 128, 0], [128, 128, 1]);
        assert!(all.contains(&part) && all.overlaps(&part) && part.overlaps(&all) && !part.contains(&all));
        assert!(!all.overlaps(&level(1, [0; 3], [128, 128, 1])));
    }
}
