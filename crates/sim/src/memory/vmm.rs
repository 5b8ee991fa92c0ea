//! Virtual memory management: physical memory with handles, address ranges, and mappings of one onto the other. Physical
//! memory lives until its last handle is released and its last mapping is gone.

use crate::error::{Answer, Fault};
use crate::units::BLOCK;
use std::collections::BTreeMap;

/// What lives behind a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Physical {
    /// Length in bytes, a multiple of 2 MiB.
    pub bytes: u64,
    /// The device that holds it.
    pub device: u32,
    handles: u64,
    mappings: u64,
}

/// One mapping of an address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Length in bytes.
    pub bytes: u64,
    /// The physical memory.
    pub handle: u64,
    /// 0: no access, 1: read, 3: read and write, as `CUmemAccess_flags`.
    pub access: u32,
}

/// What an unmapping ends: the mappings' addresses, and the physical memory that is gone with them, by handle.
pub type Unmapped = (Vec<u64>, Vec<(u64, Physical)>);

/// The handles, reservations and mappings of one process.
#[derive(Debug, Default)]
pub struct Vmm {
    physical: BTreeMap<u64, Physical>,
    reserved: BTreeMap<u64, u64>,
    mappings: BTreeMap<u64, Mapping>,
}

impl Vmm {
    /// Notes new physical memory with one handle.
    ///
    /// # Errors
    /// `InvalidValue` where `bytes` is no multiple of the granularity.
    pub fn create(&mut self, handle: u64, bytes: u64, device: u32) -> Answer<()> {
        if bytes == 0 || !bytes.is_multiple_of(BLOCK) {
            return Err(Fault::InvalidValue);
        }
        self.physical.insert(handle, Physical { bytes, device, handles: 1, mappings: 0 });
        Ok(())
    }

    /// What `handle` names.
    ///
    /// # Errors
    /// `InvalidValue` where it names nothing.
    pub fn physical(&self, handle: u64) -> Answer<Physical> {
        self.physical.get(&handle).copied().filter(|p| p.handles > 0).ok_or(Fault::InvalidValue)
    }

    /// Releases one handle. True where the memory is gone with it.
    ///
    /// # Errors
    /// `InvalidValue` where it names nothing.
    pub fn release(&mut self, handle: u64) -> Answer<bool> {
        let physical = self.physical.get_mut(&handle).filter(|p| p.handles > 0).ok_or(Fault::InvalidValue)?;
        physical.handles -= 1;
        Ok(self.forget_if_unused(handle).is_some())
    }

    /// Notes a reserved address range.
    pub fn reserve(&mut self, address: u64, bytes: u64) {
        self.reserved.insert(address, bytes);
    }

    /// Gives a reserved range back.
    ///
    /// # Errors
    /// `InvalidValue` where it was not reserved in these very bounds, or is still mapped in part.
    pub fn unreserve(&mut self, address: u64, bytes: u64) -> Answer<()> {
        let mapped = self.mappings.range(address..address.saturating_add(bytes)).next().is_some();
        if self.reserved.get(&address) != Some(&bytes) || mapped {
            return Err(Fault::InvalidValue);
        }
        self.reserved.remove(&address);
        Ok(())
    }

    /// Maps all of `handle`'s memory at `address`, without access yet.
    ///
    /// # Errors
    /// `NotSupported` for another size than the memory's own; `InvalidValue` where the range is not reserved, or is mapped already.
    pub fn map(&mut self, address: u64, bytes: u64, handle: u64) -> Answer<Physical> {
        let physical = self.physical(handle)?;
        if bytes != physical.bytes {
            return Err(Fault::NotSupported);
        }
        let end = address.checked_add(bytes).ok_or(Fault::InvalidValue)?;
        let (&start, &length) = self.reserved.range(..=address).next_back().ok_or(Fault::InvalidValue)?;
        let inside = end <= start + length && address.is_multiple_of(BLOCK);
        if !inside || self.overlaps(address, end) {
            return Err(Fault::InvalidValue);
        }
        self.mappings.insert(address, Mapping { bytes, handle, access: 0 });
        if let Some(physical) = self.physical.get_mut(&handle) {
            physical.mappings += 1;
        }
        Ok(physical)
    }

    /// Ends the mappings that fill exactly `bytes` at `address`. Gives their addresses, and the physical memory that is
    /// gone with them, by handle.
    ///
    /// # Errors
    /// `InvalidValue` where whole mappings do not fill the range.
    pub fn unmap(&mut self, address: u64, bytes: u64) -> Answer<Unmapped> {
        let starts = self.whole_mappings(address, bytes)?;
        let mut gone = Vec::new();
        for start in &starts {
            let Some(mapping) = self.mappings.remove(start) else { continue };
            if let Some(physical) = self.physical.get_mut(&mapping.handle) {
                physical.mappings -= 1;
            }
            if let Some(physical) = self.forget_if_unused(mapping.handle) {
                gone.push((mapping.handle, physical));
            }
        }
        Ok((starts, gone))
    }

    /// Sets the access of the mappings that fill exactly `bytes` at `address`; gives them with their addresses.
    ///
    /// # Errors
    /// `InvalidValue` where whole mappings do not fill the range.
    pub fn set_access(&mut self, address: u64, bytes: u64, access: u32) -> Answer<Vec<(u64, Mapping)>> {
        let starts = self.whole_mappings(address, bytes)?;
        let mut changed = Vec::new();
        for start in starts {
            if let Some(mapping) = self.mappings.get_mut(&start) {
                mapping.access = access;
                changed.push((start, *mapping));
            }
        }
        Ok(changed)
    }

    /// The mapping that holds `address`, and where it begins.
    ///
    /// # Errors
    /// `InvalidValue` where nothing is mapped there.
    pub fn mapping_at(&self, address: u64) -> Answer<(u64, Mapping)> {
        let found = self.mappings.range(..=address).next_back();
        found.filter(|(s, m)| address - **s < m.bytes).map(|(s, m)| (*s, *m)).ok_or(Fault::InvalidValue)
    }

    /// What lies behind a mapping, even when its last handle is released.
    #[must_use]
    pub fn mapped(&self, mapping: &Mapping) -> Option<Physical> {
        self.physical.get(&mapping.handle).copied()
    }

    /// One more handle for the memory that is mapped at `address`.
    ///
    /// # Errors
    /// `InvalidValue` where nothing is mapped there.
    pub fn retain(&mut self, address: u64) -> Answer<u64> {
        let (_, mapping) = self.mapping_at(address)?;
        self.retain_handle(mapping.handle)
    }

    /// One more handle for the memory of `handle`, which may be released as long as it is mapped.
    ///
    /// # Errors
    /// `InvalidValue` where there is none.
    pub fn retain_handle(&mut self, handle: u64) -> Answer<u64> {
        self.physical.get_mut(&handle).ok_or(Fault::InvalidValue)?.handles += 1;
        Ok(handle)
    }

    /// Holds the memory of `handle` as a mapping does, until [`Self::let_go`].
    ///
    /// # Errors
    /// `InvalidValue` where its memory is gone.
    pub fn hold(&mut self, handle: u64) -> Answer<()> {
        self.physical.get_mut(&handle).ok_or(Fault::InvalidValue)?.mappings += 1;
        Ok(())
    }

    /// What lives behind `handle`, even when it is released.
    #[must_use]
    pub fn find(&self, handle: u64) -> Option<Physical> {
        self.physical.get(&handle).copied()
    }

    /// Ends what [`Self::hold`] began. Gives the memory where it is gone with that.
    pub fn let_go(&mut self, handle: u64) -> Option<Physical> {
        let physical = self.physical.get_mut(&handle)?;
        physical.mappings = physical.mappings.saturating_sub(1);
        self.forget_if_unused(handle)
    }

    fn whole_mappings(&self, address: u64, bytes: u64) -> Answer<Vec<u64>> {
        let end = address.checked_add(bytes).ok_or(Fault::InvalidValue)?;
        let (mut at, mut starts) = (address, Vec::new());
        while at < end {
            let mapping = self.mappings.get(&at).ok_or(Fault::InvalidValue)?;
            starts.push(at);
            at += mapping.bytes;
        }
        if at == end && !starts.is_empty() { Ok(starts) } else { Err(Fault::InvalidValue) }
    }

    fn overlaps(&self, address: u64, end: u64) -> bool {
        self.mappings.range(..end).next_back().is_some_and(|(start, m)| start + m.bytes > address)
    }

    fn forget_if_unused(&mut self, handle: u64) -> Option<Physical> {
        let unused = self.physical.get(&handle).is_some_and(|p| p.handles == 0 && p.mappings == 0);
        if unused { self.physical.remove(&handle) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped() -> Vmm {
        let mut vmm = Vmm::default();
        vmm.create(1, BLOCK, 0).expect("whole");
        vmm.reserve(8 * BLOCK, 4 * BLOCK);
        vmm.map(8 * BLOCK, BLOCK, 1).expect("reserved");
        vmm
    }

    #[test]
    fn memory_lives_until_the_last_mapping_is_gone() {
        let mut vmm = mapped();
        assert_eq!(vmm.release(1), Ok(false));
        let (starts, gone) = vmm.unmap(8 * BLOCK, BLOCK).expect("mapped");
        assert_eq!((starts, gone.len(), gone[0].0), (vec![8 * BLOCK], 1, 1));
    }

    #[test]
    fn memory_lives_until_the_last_handle_is_gone() {
        let mut vmm = mapped();
        assert_eq!(vmm.retain(8 * BLOCK + 5), Ok(1));
        assert_eq!(vmm.release(1), Ok(false));
        assert_eq!(vmm.unmap(8 * BLOCK, BLOCK), Ok((vec![8 * BLOCK], vec![])));
        assert_eq!(vmm.release(1), Ok(true));
        assert_eq!(vmm.release(1), Err(Fault::InvalidValue));
    }

    #[test]
    fn a_size_off_the_granularity_is_invalid() {
        assert_eq!(Vmm::default().create(1, BLOCK + 1, 0), Err(Fault::InvalidValue));
    }

    #[test]
    fn a_mapped_range_can_neither_be_mapped_again_nor_unreserved() {
        let mut vmm = mapped();
        vmm.create(2, 2 * BLOCK, 0).expect("whole");
        assert_eq!(vmm.map(8 * BLOCK, 2 * BLOCK, 2), Err(Fault::InvalidValue));
        assert_eq!(vmm.unreserve(8 * BLOCK, 4 * BLOCK), Err(Fault::InvalidValue));
    }

    #[test]
    fn part_of_a_mapping_cannot_be_unmapped() {
        let mut vmm = Vmm::default();
        vmm.create(1, 2 * BLOCK, 0).expect("whole");
        vmm.reserve(8 * BLOCK, 4 * BLOCK);
        vmm.map(8 * BLOCK, 2 * BLOCK, 1).expect("reserved");
        assert_eq!(vmm.unmap(8 * BLOCK, BLOCK), Err(Fault::InvalidValue));
    }
}
