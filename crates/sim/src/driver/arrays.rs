//! Arrays and mipmapped arrays: memory that no address names. Nothing can be copied into them or out of them.

use super::handle::{Kind, fresh};
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::array::Shape;
use crate::memory::sparse::Region;

/// An array, or the levels of a mipmapped one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array {
    shape: Shape,
    /// 0 for an ordinary array.
    levels: u32,
    context: u64,
    bytes: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At an address of its context's blocks.
    Own(u64),
    /// None: sparse, or mapped later.
    Unbacked,
    /// Inside the mipmapped array with this handle.
    Level(u64),
}

impl Array {
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn levels(&self) -> u32 {
        self.levels
    }

    /// Whether it has no memory of its own and is no level of another.
    pub(super) fn is_unbacked(&self) -> bool {
        self.place == Place::Unbacked
    }

    /// What a deferred mapping takes, where `region` is the whole array.
    pub(super) fn whole_bytes(&self, region: &Region) -> Answer<u64> {
        let Shape { width, height, depth, .. } = self.shape;
        let extent = [width, height.max(1), depth.max(1)];
        let whole = Region::Level { level: 0, layer: 0, offset: [0; 3], extent };
        if *region == whole { Ok(self.bytes) } else { Err(Fault::InvalidValue) }
    }
}

impl Driver {
    /// Makes an array, or a mipmapped one where `levels` is not 0.
    ///
    /// # Errors
    /// `InvalidContext`; `InvalidValue` for a shape that no array has; `NotSupported` for a format that the model does not
    /// know; `OutOfMemory`.
    pub fn create_array(&self, shape: Shape, levels: u32) -> Answer<u64> {
        self.check_unsafe_call()?;
        let bytes = if levels == 0 { shape.bytes()? } else { shape.mipmap_bytes(levels)? };
        self.in_context(|state, context| {
            let place = if shape.is_backed() {
                Place::Own(self.place_in(state, context, bytes, |c| &mut c.arrays)?)
            } else {
                Place::Unbacked
            };
            let handle = fresh(if levels == 0 { Kind::Array } else { Kind::Mipmap });
            state.arrays.insert(handle, Array { shape, levels, context, bytes, place });
            Ok(handle)
        })
    }

    /// Destroys an array or a mipmapped one, with the levels that were asked for. Waits for the device first.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none, or a level of a mipmapped one.
    pub fn destroy_array(&self, array: u64) -> Answer<()> {
        self.check_unsafe_call()?;
        self.array(array)?;
        self.wait_for_all()?;
        let mut state = self.state.lock();
        let is_level = |a: &&Array| matches!(a.place, Place::Level(_));
        if state.arrays.get(&array).filter(|a| !is_level(a)).is_none() {
            return Err(Fault::InvalidHandle);
        }
        self.end_array(&mut state, array);
        Ok(())
    }

    /// The shape of an array, and how many levels it has: 0 for an ordinary one.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none.
    pub fn array(&self, array: u64) -> Answer<(Shape, u32)> {
        let state = self.state.lock();
        let found = state.arrays.get(&array).ok_or(Fault::InvalidHandle)?;
        Ok((found.shape, found.levels))
    }

    /// The bytes that an array without memory asks for.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none; `InvalidValue` where it has memory, as measured.
    pub fn array_requirement(&self, array: u64) -> Answer<u64> {
        let state = self.state.lock();
        let found = state.arrays.get(&array).ok_or(Fault::InvalidHandle)?;
        if found.place == Place::Unbacked { Ok(found.bytes) } else { Err(Fault::InvalidValue) }
    }

    /// One level of a mipmapped array, as an array.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none; `InvalidValue` for a level that it has not.
    pub fn array_level(&self, mipmap: u64, level: u32) -> Answer<u64> {
        let mut state = self.state.lock();
        let whole = *state.arrays.get(&mipmap).filter(|a| a.levels > 0).ok_or(Fault::InvalidHandle)?;
        if level >= whole.levels {
            return Err(Fault::InvalidValue);
        }
        let shape = whole.shape.level(level);
        let known = state.arrays.iter().find(|(_, a)| a.place == Place::Level(mipmap) && a.shape == shape);
        if let Some((handle, _)) = known {
            return Ok(*handle);
        }
        let handle = fresh(Kind::Array);
        state
            .arrays
            .insert(handle, Array { shape, levels: 0, place: Place::Level(mipmap), bytes: 0, ..whole });
        Ok(handle)
    }

    /// Destroys the arrays of a context.
    pub(super) fn end_arrays_of(&self, state: &mut State, context: u64) {
        let all: Vec<u64> =
            state.arrays.iter().filter(|(_, a)| a.context == context).map(|(&handle, _)| handle).collect();
        all.into_iter().for_each(|array| self.end_array(state, array));
    }

    fn end_array(&self, state: &mut State, array: u64) {
        let Some(gone) = state.arrays.remove(&array) else { return };
        self.unmap_array(state, array);
        state.arrays.retain(|_, a| a.place != Place::Level(array));
        if let Place::Own(place) = gone.place {
            self.unplace_in(state, gone.context, place, |c| &mut c.arrays);
        }
    }
}
