//! Which 2 MiB blocks of the address space hold plain memory, and which hold the start of a mapping.
//!
//! The driver takes plain memory in blocks of 2 MiB (`cuota_governor::physical`), so a block is charged when the first
//! allocation in it is made and given back when the last one is freed. One 64-bit word a block says how many
//! allocations lie in it; it also says where a larger allocation begins and how many blocks it has, so that a free finds
//! all it needs in one load, whatever the number of live allocations. A fixed two-level table covers 49 bits of address;
//! its leaves, 16 KiB for each 4 GiB of addresses, are mapped when they are first needed and kept.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use cuota_region::sys::{self, Mapping};

const BLOCK_SHIFT: u32 = 21;
const LEAF_SHIFT: u32 = 32;
const ADDRESS_BITS: u32 = 49;
const LEAF_BLOCKS: usize = 1 << (LEAF_SHIFT - BLOCK_SHIFT);
const LEAVES: usize = 1 << (ADDRESS_BITS - LEAF_SHIFT);
const BLOCK_MASK: u64 = (1 << BLOCK_SHIFT) - 1;

struct Leaf([AtomicU64; LEAF_BLOCKS]);

/// The table. All-zero is an empty one.
pub(crate) struct Blocks([AtomicPtr<Leaf>; LEAVES]);

/// A block's word, taken apart.
///
/// | bits | plain memory | a mapping |
/// |---|---|---|
/// | 0–14 | allocations in the block | |
/// | 0–31 | | the handle's place in its table |
/// | 15–28 | where a larger allocation begins, in 256-byte units, plus one; 0: none does | |
/// | 29–54 | how many further blocks that one has | |
/// | 55–62 | the context that owns the block | |
/// | 63 | 0 | 1 |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Plain {
    count: u64,
    start: u64,
    span: u64,
    context: u8,
}

const MAPPING: u64 = 1 << 63;
const COUNT_BITS: u32 = 15;
const START_BITS: u32 = 14;
const SPAN_BITS: u32 = 26;

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl Plain {
    #[inline(always)]
    fn unpack(word: u64) -> Self {
        if word & MAPPING != 0 {
            return Plain::default();
        }
        Plain {
            count: word & mask(COUNT_BITS),
            start: word >> COUNT_BITS & mask(START_BITS),
            span: word >> (COUNT_BITS + START_BITS) & mask(SPAN_BITS),
            context: (word >> (COUNT_BITS + START_BITS + SPAN_BITS)).to_le_bytes()[0],
        }
    }

    #[inline(always)]
    fn pack(self) -> u64 {
        self.count.min(mask(COUNT_BITS))
            | (self.start & mask(START_BITS)) << COUNT_BITS
            | (self.span & mask(SPAN_BITS)) << (COUNT_BITS + START_BITS)
            | u64::from(self.context) << (COUNT_BITS + START_BITS + SPAN_BITS)
    }
}

#[inline(always)]
fn start_of(address: u64) -> u64 {
    ((address & BLOCK_MASK) >> 8) + 1
}

/// The blocks of one allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    first: u64,
    span: u64,
    /// The context that it was made in.
    pub(crate) context: u8,
}

/// An address beyond the 49 bits that the table covers, or no memory for a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoPlace;

const CONTEXT_SHIFT: u32 = COUNT_BITS + START_BITS + SPAN_BITS;

/// A block in which an allocation lies that lies in no other.
#[derive(Clone, Copy)]
pub(crate) struct Sole<'a>(&'a AtomicU64);

impl Sole<'_> {
    /// Forgets the allocation, which the driver has freed. Returns the context of the block, if it was the last in it.
    #[inline(always)]
    pub(crate) fn remove(self) -> Option<u8> {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let count = old & mask(COUNT_BITS);
            // A mapping that took the place meanwhile is not ours to forget.
            if old & MAPPING != 0 || count == 0 {
                return None;
            }
            let new = if count == 1 { 0 } else { old - 1 };
            match self.0.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (count == 1).then(|| Plain::unpack(old).context),
                Err(now) => old = now,
            }
        }
    }
}

impl Blocks {
    /// Notes an allocation of `bytes` > 0 at `address`, made in `context`, which lies in one block. `true`: it is the first there. `None`:
    /// nothing is noted, and [`Blocks::add`] knows more.
    #[inline(always)]
    pub(crate) fn add_at_once(&self, address: u64, bytes: u64, context: u8) -> Option<bool> {
        if bytes > BLOCK_MASK + 1 - (address & BLOCK_MASK) {
            return None;
        }
        let word = self.word_hot(address >> BLOCK_SHIFT)?;
        let mut old = word.load(Ordering::Relaxed);
        loop {
            let count = old & mask(COUNT_BITS);
            if old & MAPPING != 0 || count == mask(COUNT_BITS) {
                return None;
            }
            let new = ((old & mask(CONTEXT_SHIFT)) + 1) | u64::from(context) << CONTEXT_SHIFT;
            match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(count == 0),
                Err(now) => old = now,
            }
        }
    }

    /// The block of the allocation at `address`, where that lies in one block. `None`: it may be larger, or not ours.
    #[inline(always)]
    pub(crate) fn sole(&self, address: u64) -> Option<Sole<'_>> {
        let word = self.word_hot(address >> BLOCK_SHIFT)?;
        let old = word.load(Ordering::Relaxed);
        let starts_here = old >> COUNT_BITS & mask(START_BITS) == start_of(address);
        (old & MAPPING == 0 && old & mask(COUNT_BITS) != 0 && !starts_here).then_some(Sole(word))
    }

    #[inline(never)]
    fn word(&self, block: u64) -> Option<&AtomicU64> {
        self.word_hot(block)
    }

    /// [`Blocks::word`], inlined.
    #[inline(always)]
    fn word_hot(&self, block: u64) -> Option<&AtomicU64> {
        let leaf = self.0.get(usize::try_from(block).ok()? / LEAF_BLOCKS)?;
        // SAFETY: a leaf, once set, is a mapping that is never taken away, and all-zero is a `Leaf`.
        let leaf = unsafe { leaf.load(Ordering::Acquire).as_ref() }?;
        leaf.0.get(usize::try_from(block).ok()? % LEAF_BLOCKS)
    }

    #[inline(never)]
    fn word_or_new(&self, block: u64) -> Result<&AtomicU64, NoPlace> {
        if let Some(word) = self.word(block) {
            return Ok(word);
        }
        let index = usize::try_from(block).map_err(|_| NoPlace)? / LEAF_BLOCKS;
        let place = self.0.get(index).ok_or(NoPlace)?;
        let fresh: NonNull<Leaf> = sys::map(Mapping::Private, size_of::<Leaf>()).map_err(|_| NoPlace)?.cast();
        if place.compare_exchange(null_mut(), fresh.as_ptr(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: mapped above, lost the race, seen by nobody.
            unsafe { sys::unmap(fresh.cast(), size_of::<Leaf>()) };
        }
        self.word(block).ok_or(NoPlace)
    }

    /// Changes a block's word by `change` and returns what it was.
    #[inline(always)]
    fn change(word: &AtomicU64, mut change: impl FnMut(Plain) -> Plain) -> Plain {
        let mut old = word.load(Ordering::Relaxed);
        loop {
            let plain = Plain::unpack(old);
            let new = change(plain);
            // A mapping's word reads as no plain memory; what leaves that as it is must leave the mapping too.
            if new == plain {
                return plain;
            }
            match word.compare_exchange_weak(old, new.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return plain,
                Err(now) => old = now,
            }
        }
    }

    /// Notes an allocation of `bytes` > 0 at `address`, made in `context`. Returns how many blocks it is the first in.
    ///
    /// # Errors
    /// [`NoPlace`]; then nothing is noted.
    #[inline(always)]
    pub(crate) fn add(&self, address: u64, bytes: u64, context: u8) -> Result<u64, NoPlace> {
        let first = address >> BLOCK_SHIFT;
        let span = (address.checked_add(bytes - 1).ok_or(NoPlace)? >> BLOCK_SHIFT) - first;
        if span != 0 {
            // All the leaves first, so that nothing can fail half-way.
            let mut block = first;
            while block < first + span {
                self.word_or_new(block)?;
                block += LEAF_BLOCKS as u64;
            }
            self.word_or_new(first + span)?;
        }
        let mut fresh = 0;
        let mut block = first;
        // No iterator: at the guest's level of optimization it is a call for each block.
        while block <= first + span {
            let begins = span != 0 && block == first;
            let word = self.word_or_new(block)?;
            let old = Self::change(word, |plain| {
                let (start, span) =
                    if begins { (start_of(address), span) } else { (plain.start, plain.span) };
                Plain { count: plain.count + 1, start, span, context }
            });
            fresh += u64::from(old.count == 0);
            block += 1;
        }
        Ok(fresh)
    }

    /// Finds the allocation at `address` and takes hold of it, before the driver is asked to free it: once the driver has
    /// freed it, the address can be another allocation's. `None`: not ours.
    #[inline(always)]
    pub(crate) fn take(&self, address: u64) -> Option<Extent> {
        let first = address >> BLOCK_SHIFT;
        let word = self.word(first)?;
        let begins_here = |plain: &Plain| plain.span != 0 && plain.start == start_of(address);
        let old = Self::change(word, |plain| {
            if begins_here(&plain) { Plain { start: 0, span: 0, ..plain } } else { plain }
        });
        let span = if begins_here(&old) { old.span } else { 0 };
        (old.count != 0).then_some(Extent { first, span, context: old.context })
    }

    /// Puts back what was taken hold of: the driver did not free it.
    pub(crate) fn put_back(&self, address: u64, extent: Extent) {
        if extent.span != 0
            && let Some(word) = self.word(extent.first)
        {
            Self::change(word, |plain| Plain { start: start_of(address), span: extent.span, ..plain });
        }
    }

    /// Forgets an allocation that the driver has freed. Returns how many blocks it was the last in.
    #[inline(always)]
    pub(crate) fn remove(&self, extent: Extent) -> u64 {
        let words = (extent.first..=extent.first + extent.span).filter_map(|block| self.word(block));
        words
            .map(|word| {
                let old = Self::change(word, |plain| match plain.count {
                    0 | 1 => Plain::default(),
                    count => Plain { count: count - 1, ..plain },
                });
                u64::from(old.count == 1)
            })
            .sum()
    }

    /// Forgets all plain memory of `context`, which is gone. Returns how many blocks there were.
    pub(crate) fn remove_context(&self, context: u8) -> u64 {
        let leaves = self.0.iter().map(|leaf| leaf.load(Ordering::Acquire));
        // SAFETY: as in `word`.
        let leaves = leaves.filter_map(|leaf| unsafe { leaf.as_ref() });
        let owned = |plain: &Plain| plain.count != 0 && plain.context == context;
        leaves
            .flat_map(|leaf| &leaf.0)
            .map(|word| {
                let old = Self::change(word, |plain| if owned(&plain) { Plain::default() } else { plain });
                u64::from(owned(&old))
            })
            .sum()
    }

    /// Notes that a mapping of the handle in place `handle` begins at `address`.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub(crate) fn add_mapping(&self, address: u64, handle: u32) -> Result<(), NoPlace> {
        self.word_or_new(address >> BLOCK_SHIFT)?.store(MAPPING | u64::from(handle), Ordering::Relaxed);
        Ok(())
    }

    /// Takes away the mappings that begin between `address` and `address + bytes`; calls `each` with the place of
    /// each one's handle.
    pub(crate) fn take_mappings(&self, address: u64, bytes: u64, mut each: impl FnMut(u32)) {
        let end = address.saturating_add(bytes).div_ceil(BLOCK_MASK + 1);
        for word in (address >> BLOCK_SHIFT..end).filter_map(|block| self.word(block)) {
            let value = word.load(Ordering::Relaxed);
            let taken = value & MAPPING != 0
                && word.compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if taken {
                each(u32::try_from(value & mask(32)).unwrap_or(u32::MAX));
            }
        }
    }

    /// The place of the handle whose mapping begins at `address`'s block.
    pub(crate) fn mapping_at(&self, address: u64) -> Option<u32> {
        let value = self.word(address >> BLOCK_SHIFT)?.load(Ordering::Relaxed);
        (value & MAPPING != 0).then_some(u32::try_from(value & mask(32)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MIB: u64 = 1 << 20;
    const BASE: u64 = 0x7fb0_3fe0_0000;

    fn blocks() -> &'static Blocks {
        let memory = sys::map(Mapping::Private, size_of::<Blocks>()).unwrap();
        // SAFETY: fresh zeroed memory, page-aligned, mapped for good.
        unsafe { memory.cast::<Blocks>().as_ref() }
    }

    #[test]
    fn small_allocations_share_a_block_and_the_last_one_gives_it_back() {
        let blocks = blocks();
        assert_eq!(blocks.add(BASE, 65536, 1), Ok(1));
        assert_eq!(blocks.add(BASE + 65536, 3 * MIB / 2, 1), Ok(0));
        let (a, b) = (blocks.take(BASE).unwrap(), blocks.take(BASE + 65536).unwrap());
        assert_eq!((blocks.remove(a), blocks.remove(b)), (0, 1));
        assert_eq!(blocks.take(BASE), None);
    }

    #[test]
    fn a_larger_allocation_takes_and_gives_back_all_its_blocks() {
        let blocks = blocks();
        assert_eq!(blocks.add(BASE, 2 * MIB + 1, 1), Ok(2));
        assert_eq!(blocks.add(BASE + 4 * MIB, 6000 * MIB, 1), Ok(3000));
        let large = blocks.take(BASE + 4 * MIB).unwrap();
        assert_eq!(blocks.remove(large), 3000);
        let small = blocks.take(BASE).unwrap();
        assert_eq!(blocks.remove(small), 2);
    }

    #[test]
    fn an_allocation_that_straddles_a_border_is_told_from_its_neighbours() {
        let blocks = blocks();
        assert_eq!(blocks.add(BASE, 512, 1), Ok(1));
        assert_eq!(blocks.add(BASE + MIB, 2 * MIB, 1), Ok(1));
        let neighbour = blocks.take(BASE).unwrap();
        assert_eq!(blocks.remove(neighbour), 0);
        let straddler = blocks.take(BASE + MIB).unwrap();
        assert_eq!(blocks.remove(straddler), 2);
    }

    #[test]
    fn a_free_that_the_driver_refuses_changes_nothing() {
        let blocks = blocks();
        blocks.add(BASE, 5 * MIB, 1).unwrap();
        let extent = blocks.take(BASE).unwrap();
        blocks.put_back(BASE, extent);
        let again = blocks.take(BASE).unwrap();
        assert_eq!(again, extent);
        assert_eq!(blocks.remove(again), 3);
    }

    #[test]
    fn a_context_takes_its_memory_with_it_and_leaves_the_others() {
        let blocks = blocks();
        blocks.add(BASE, 6 * MIB, 1).unwrap();
        blocks.add(BASE + 8 * MIB, 65536, 2).unwrap();
        blocks.add_mapping(BASE + 16 * MIB, 1).unwrap();
        assert_eq!(blocks.remove_context(1), 3);
        assert_eq!(blocks.take(BASE), None);
        assert!(blocks.take(BASE + 8 * MIB).is_some());
        assert_eq!(blocks.mapping_at(BASE + 16 * MIB), Some(1));
    }

    #[test]
    fn mappings_in_a_range_are_taken_once() {
        let blocks = blocks();
        blocks.add_mapping(BASE, 7).unwrap();
        blocks.add_mapping(BASE + 4 * MIB, 9).unwrap();
        blocks.add_mapping(BASE + 8 * MIB, 11).unwrap();
        let mut taken = Vec::new();
        blocks.take_mappings(BASE, 8 * MIB, |handle| taken.push(handle));
        blocks.take_mappings(BASE, 8 * MIB, |handle| taken.push(handle));
        assert_eq!(taken, [7, 9]);
        assert_eq!((blocks.mapping_at(BASE), blocks.mapping_at(BASE + 8 * MIB)), (None, Some(11)));
    }

    #[test]
    fn an_address_beyond_the_table_is_an_error_and_a_free_of_it_not_ours() {
        let blocks = blocks();
        assert_eq!(blocks.add(1 << 49, 1, 1), Err(NoPlace));
        assert_eq!(blocks.add(u64::MAX - 1, 9, 1), Err(NoPlace));
        assert_eq!(blocks.take(u64::MAX), None);
    }

    #[test]
    fn what_is_no_small_allocation_is_left_to_the_long_way() {
        let blocks = blocks();
        assert_eq!(blocks.add_at_once(BASE, 65536, 3), None, "the table has no leaf there yet");
        assert_eq!(blocks.add(BASE, 5 * MIB, 3), Ok(3));
        assert!(blocks.sole(BASE).is_none(), "a larger one begins there");
        assert_eq!(blocks.add_at_once(BASE + 8 * MIB + 512, 2 * MIB, 3), None, "it straddles a border");
        blocks.add_mapping(BASE + 16 * MIB, 7).unwrap();
        assert_eq!(blocks.add_at_once(BASE + 16 * MIB, 512, 3), None);
        assert!(blocks.sole(BASE + 16 * MIB).is_none());
        assert_eq!(blocks.mapping_at(BASE + 16 * MIB), Some(7));
        assert_eq!(blocks.add_at_once(BASE + 8 * MIB, 2 * MIB, 3), Some(true));
        assert_eq!(blocks.sole(BASE + 8 * MIB).unwrap().remove(), Some(3));
        assert!(blocks.sole(BASE + 8 * MIB).is_none());
    }

    #[test]
    fn counts_agree_with_a_plain_model_under_random_use() {
        let mut seed = 42_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (blocks, mut live, mut charged) = (blocks(), BTreeMap::new(), BTreeMap::<u64, u64>::new());
        for _ in 0..20_000 {
            if random(2) == 0 {
                // Allocations do not overlap: each has a 16 MiB window of its own, but small ones share windows of 64.
                let slot = random(512);
                let (address, bytes) = if slot < 256 {
                    (BASE + slot * 4096, 4096)
                } else {
                    (BASE + 64 * MIB + slot * 16 * MIB + random(8) * 512, 1 + random(12 * MIB))
                };
                let key = if slot < 256 { address } else { BASE + 64 * MIB + slot * 16 * MIB };
                if let std::collections::btree_map::Entry::Vacant(entry) = live.entry(key) {
                    entry.insert((address, bytes));
                    let mut fresh = 0;
                    for block in address >> 21..=(address + bytes - 1) >> 21 {
                        let count = charged.entry(block).or_insert(0);
                        fresh += u64::from(*count == 0);
                        *count += 1;
                    }
                    // As the hooks do it: in a straight line where that can be.
                    let added = match blocks.add_at_once(address, bytes, 1) {
                        Some(is_first) => Ok(u64::from(is_first)),
                        None => blocks.add(address, bytes, 1),
                    };
                    assert_eq!(added, Ok(fresh));
                }
            } else if let Some(key) =
                live.keys().nth(usize::try_from(random(512)).unwrap() % live.len().max(1)).copied()
            {
                let (address, bytes) = live.remove(&key).unwrap();
                let mut last = 0;
                for block in address >> 21..=(address + bytes - 1) >> 21 {
                    let count = charged.get_mut(&block).unwrap();
                    *count -= 1;
                    last += u64::from(*count == 0);
                }
                let removed = match blocks.sole(address) {
                    Some(block) => u64::from(block.remove() == Some(1)),
                    None => blocks.take(address).map(|extent| blocks.remove(extent)).unwrap(),
                };
                assert_eq!(removed, last);
            }
        }
    }
}
