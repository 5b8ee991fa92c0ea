//! Memory mapped into sparse arrays, and into arrays whose mapping was deferred. A mapped region keeps its memory alive until
//! it is unmapped or mapped again, or its array is destroyed. Mappings change when the call is made, not when its stream
//! gets there, which is assumed to be all that a program can tell.

use super::streams::StreamRef;
use super::{Driver, State};
use crate::error::{Answer, Fault};
use crate::memory::sparse::{Properties, Region, TILE_BYTES};

/// One mapped region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapped {
    region: Region,
    handle: u64,
}

/// What is asked for one region: memory by its handle, from an offset on; `None` unmaps.
#[derive(Debug, Clone, Copy)]
pub struct ArrayMapping {
    /// The array or mipmapped array.
    pub array: u64,
    /// The region.
    pub region: Region,
    /// Handle and offset in bytes.
    pub memory: Option<(u64, u64)>,
}

impl Driver {
    /// What can be asked of a sparse array.
    ///
    /// # Errors
    /// `InvalidHandle` where it is none; `InvalidValue` where it is not sparse.
    pub fn sparse_properties(&self, array: u64) -> Answer<Properties> {
        let (shape, levels) = self.array(array)?;
        if shape.is_sparse() { Properties::new(&shape, levels) } else { Err(Fault::InvalidValue) }
    }

    /// Maps and unmaps regions. All is checked before anything is changed.
    ///
    /// # Errors
    /// `InvalidHandle`; `InvalidValue` for an array that has memory of its own, a region that is none of it, or memory that
    /// was not made for tiles or is too small; `NotSupported` for a region that overlaps a mapped one in part; the errors of
    /// captures.
    pub fn map_arrays(&self, mappings: &[ArrayMapping], stream: StreamRef) -> Answer<()> {
        self.check_not_capturing(stream)?;
        self.check_legacy(stream)?;
        let mut state = self.state.lock();
        mappings.iter().try_for_each(|mapping| state.check_mapping(mapping))?;
        for ArrayMapping { array, region, memory } in mappings {
            // The new memory is held before the old is let go: they may be the same.
            if let Some((handle, _)) = memory {
                state.vmm.hold(*handle)?;
            }
            self.unmap_region(&mut state, *array, region);
            if let Some((handle, _)) = memory {
                let mapped = Mapped { region: *region, handle: *handle };
                state.mapped_arrays.entry(*array).or_default().push(mapped);
            }
        }
        Ok(())
    }

    /// Lets go of all that is mapped into an array.
    pub(super) fn unmap_array(&self, state: &mut State, array: u64) {
        let gone = state.mapped_arrays.remove(&array).unwrap_or_default();
        gone.into_iter().for_each(|mapped| self.let_go(state, mapped.handle));
    }

    /// Lets go of memory that [`crate::memory::vmm::Vmm::hold`] held.
    pub(super) fn let_go(&self, state: &mut State, handle: u64) {
        if let Some(physical) = state.vmm.let_go(handle) {
            self.end_physical(state, handle, &physical);
        }
    }

    fn unmap_region(&self, state: &mut State, array: u64, region: &Region) {
        let all = state.mapped_arrays.remove(&array).unwrap_or_default();
        let (gone, kept) = all.into_iter().partition(|mapped| region.contains(&mapped.region));
        let gone: Vec<Mapped> = gone;
        state.mapped_arrays.insert(array, kept);
        gone.into_iter().for_each(|mapped| self.let_go(state, mapped.handle));
    }
}

impl State {
    fn check_mapping(&self, mapping: &ArrayMapping) -> Answer<()> {
        let found = self.arrays.get(&mapping.array).ok_or(Fault::InvalidHandle)?;
        if !found.is_unbacked() {
            return Err(Fault::InvalidValue);
        }
        let (shape, levels) = (found.shape(), found.levels());
        let bytes = if shape.is_sparse() {
            Properties::new(&shape, levels)?.bytes_of(&shape, &mapping.region)?
        } else {
            found.whole_bytes(&mapping.region)?
        };
        if let Some((handle, offset)) = mapping.memory {
            let physical = self.vmm.physical(handle)?;
            let end = offset.checked_add(bytes).ok_or(Fault::InvalidValue)?;
            let is_inside = offset.is_multiple_of(TILE_BYTES) && end <= physical.bytes;
            if !is_inside || !self.tile_pools.contains(&handle) {
                return Err(Fault::InvalidValue);
            }
        }
        let mut mapped = self.mapped_arrays.get(&mapping.array).into_iter().flatten();
        let is_split = |m: &Mapped| mapping.region.overlaps(&m.region) && !mapping.region.contains(&m.region);
        if mapped.any(is_split) {
            crate::log::once(
                "a region that overlaps a mapped one of an array in part is not modelled: NOT_SUPPORTED",
            );
            return Err(Fault::NotSupported);
        }
        Ok(())
    }
}
