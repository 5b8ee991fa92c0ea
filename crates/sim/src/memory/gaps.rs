//! The free ranges of an address range: first fit, lowest address first, neighbours merged.

use std::collections::BTreeMap;

/// Free ranges, by start address.
#[derive(Debug, Clone, Default)]
pub(super) struct Gaps {
    free: BTreeMap<u64, u64>,
}

impl Gaps {
    /// One free range of `bytes` at `start`.
    #[must_use]
    pub(super) fn new(start: u64, bytes: u64) -> Self {
        Self { free: BTreeMap::from([(start, bytes)]) }
    }

    /// Takes the first place for `bytes` at a multiple of `alignment`; `None` where there is none.
    pub(super) fn take(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        let (gap, place) = self.free.iter().find_map(|(&start, &length)| {
            let place = start.checked_next_multiple_of(alignment)?;
            (place.checked_add(bytes)? <= start + length).then_some((start, place))
        })?;
        self.cut(gap, place, bytes);
        Some(place)
    }

    /// Takes exactly `bytes` at `place`; false where part of that is taken.
    pub(super) fn take_at(&mut self, place: u64, bytes: u64) -> bool {
        let Some((&gap, &length)) = self.free.range(..=place).next_back() else { return false };
        let fits = place.checked_add(bytes).is_some_and(|end| end <= gap + length);
        if fits {
            self.cut(gap, place, bytes);
        }
        fits
    }

    /// Gives back a range that was taken.
    pub(super) fn give(&mut self, mut start: u64, mut bytes: u64) {
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            start = before;
            bytes += length;
        }
        if let Some(after) = self.free.remove(&(start + bytes)) {
            bytes += after;
        }
        self.free.insert(start, bytes);
    }

    /// Whether all of `bytes` at `start` is free.
    #[must_use]
    pub(super) fn holds(&self, start: u64, bytes: u64) -> bool {
        self.free.range(..=start).next_back().is_some_and(|(&gap, &length)| gap + length >= start + bytes)
    }

    fn cut(&mut self, gap: u64, place: u64, bytes: u64) {
        let Some(length) = self.free.remove(&gap) else { return };
        if place > gap {
            self.free.insert(gap, place - gap);
        }
        let rest = gap + length - (place + bytes);
        if rest > 0 {
            self.free.insert(place + bytes, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_when_given_back() {
        let mut gaps = Gaps::new(0, 100);
        let (a, b) = (gaps.take(30, 1).expect("fits"), gaps.take(30, 1).expect("fits"));
        gaps.give(a, 30);
        gaps.give(b, 30);
        assert!(gaps.holds(0, 100));
    }

    #[test]
    fn a_taken_range_cannot_be_taken_again() {
        let mut gaps = Gaps::new(0, 100);
        assert!(gaps.take_at(40, 20));
        assert!(!gaps.take_at(59, 1));
        assert_eq!(gaps.take(60, 1), None);
        assert_eq!(gaps.take(40, 1), Some(0));
    }
}
