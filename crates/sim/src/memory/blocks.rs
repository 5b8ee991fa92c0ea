//! Plain allocations, as the driver places them (measured on an H100, driver 580): below 2 MiB they share 2 MiB blocks at
//! 512-byte steps, in the first block with room, never across a border (1.5 MiB lay at offset 0x30000 of a block in use,
//! 1 MiB + 4096 bytes beside 700 KiB); 2 MiB and more take whole blocks of their own; a block whose last allocation goes
//! returns at once. Arrays lie so too, in blocks of their own.

use super::gaps::Gaps;
use crate::error::{Answer, Fault};
use crate::units::{BLOCK, round_up};
use std::collections::BTreeMap;

/// The step of addresses inside a shared block.
pub const ALIGNMENT: u64 = 512;

#[derive(Debug, Clone, Copy)]
struct Live {
    base: u64,
    taken: u64,
}

/// A physical range: a block, or a row of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The plain allocations, or the arrays, of one context.
#[derive(Debug, Default)]
pub struct Blocks {
    shared: BTreeMap<u64, Gaps>,
    live: BTreeMap<u64, Live>,
}

impl Blocks {
    /// Places `bytes`; `new_block` is asked for physical memory, in whole blocks, where no shared block has room.
    ///
    /// # Errors
    /// `InvalidValue` for zero bytes, `OutOfMemory` for sizes beyond 64 bits, and what `new_block` says.
    pub fn allocate(&mut self, bytes: u64, new_block: impl FnOnce(u64) -> Answer<u64>) -> Answer<u64> {
        if bytes == 0 {
            return Err(Fault::InvalidValue);
        }
        if bytes >= BLOCK {
            let taken = round_up(bytes, BLOCK).ok_or(Fault::OutOfMemory)?;
            let base = new_block(taken)?;
            self.live.insert(base, Live { base, taken });
            return Ok(base);
        }
        let taken = round_up(bytes, ALIGNMENT).ok_or(Fault::OutOfMemory)?;
        let found =
            self.shared.iter_mut().find_map(|(&base, gaps)| Some((base, gaps.take(taken, ALIGNMENT)?)));
        let (base, place) = match found {
            Some(found) => found,
            None => {
                let base = new_block(BLOCK)?;
                let mut gaps = Gaps::new(base, BLOCK);
                let place = gaps.take(taken, ALIGNMENT).ok_or(Fault::OutOfMemory)?;
                self.shared.insert(base, gaps);
                (base, place)
            }
        };
        self.live.insert(place, Live { base, taken });
        Ok(place)
    }

    /// Frees the allocation that begins at `place`. Gives the physical range that is empty now, if one is.
    ///
    /// # Errors
    /// `InvalidValue` where no allocation begins there.
    pub fn free(&mut self, place: u64) -> Answer<Option<Range>> {
        let live = self.live.remove(&place).ok_or(Fault::InvalidValue)?;
        let Some(gaps) = self.shared.get_mut(&live.base) else {
            return Ok(Some(Range { base: live.base, bytes: live.taken }));
        };
        gaps.give(place, live.taken);
        if !gaps.holds(live.base, BLOCK) {
            return Ok(None);
        }
        self.shared.remove(&live.base);
        Ok(Some(Range { base: live.base, bytes: BLOCK }))
    }

    /// Whether an allocation begins at `place`.
    #[must_use]
    pub fn contains(&self, place: u64) -> bool {
        self.live.contains_key(&place)
    }

    /// Every address at which an allocation begins.
    #[must_use]
    pub fn addresses(&self) -> Vec<u64> {
        self.live.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{KIB, MIB};
    use std::cell::Cell;

    struct Physical {
        next: Cell<u64>,
        taken: Cell<u64>,
    }

    impl Physical {
        fn new() -> Self {
            Self { next: Cell::new(BLOCK), taken: Cell::new(0) }
        }

        fn block(&self, bytes: u64) -> Answer<u64> {
            self.taken.set(self.taken.get() + bytes);
            Ok(self.next.replace(self.next.get() + bytes))
        }
    }

    fn taken_by(bytes: u64) -> u64 {
        let physical = Physical::new();
        Blocks::default().allocate(bytes, |b| physical.block(b)).expect("room");
        physical.taken.get()
    }

    #[test]
    fn sizes_take_whole_blocks() {
        assert_eq!(taken_by(3 * MIB / 2), 2 * MIB);
        assert_eq!(taken_by(2 * MIB), 2 * MIB);
        assert_eq!(taken_by(2 * MIB + 1), 4 * MIB);
        assert_eq!(taken_by(1), 2 * MIB);
    }

    #[test]
    fn whatever_is_below_two_mib_shares_a_block_where_it_fits() {
        let (physical, mut blocks) = (Physical::new(), Blocks::default());
        let mut place = |bytes| blocks.allocate(bytes, |b| physical.block(b)).expect("room");
        assert_eq!(place(192 * KIB), BLOCK);
        assert_eq!(place(3 * MIB / 2), BLOCK + 0x30000, "beside the first");
        assert_eq!(place(MIB + 4096), 2 * BLOCK, "not across a border");
        assert_eq!(place(700 * KIB), 2 * BLOCK + MIB + 4096);
        assert_eq!(place(2 * MIB), 3 * BLOCK, "a block of its own");
        assert_eq!(place(2 * MIB - 1), 4 * BLOCK);
    }

    #[test]
    fn one_live_allocation_keeps_its_block() {
        let (physical, mut blocks) = (Physical::new(), Blocks::default());
        let all: Vec<u64> =
            (0..3200).map(|_| blocks.allocate(64 * KIB, |b| physical.block(b)).expect("room")).collect();
        assert_eq!(physical.taken.get(), 200 * MIB);
        let released = all.iter().enumerate().filter(|(i, _)| i % 32 != 0);
        assert_eq!(released.filter(|(_, p)| blocks.free(**p).expect("live").is_some()).count(), 0);
    }

    #[test]
    fn freed_block_returns_at_once() {
        let (physical, mut blocks) = (Physical::new(), Blocks::default());
        let a = blocks.allocate(MIB, |b| physical.block(b)).expect("room");
        let b = blocks.allocate(MIB, |b| physical.block(b)).expect("room");
        assert_eq!(blocks.free(a), Ok(None));
        assert_eq!(blocks.free(b), Ok(Some(Range { base: BLOCK, bytes: BLOCK })));
        assert_eq!(blocks.free(b), Err(Fault::InvalidValue));
    }

    #[test]
    fn an_allocation_of_nothing_is_invalid() {
        assert_eq!(Blocks::default().allocate(0, |_| Ok(0)), Err(Fault::InvalidValue));
    }
}
