//! A small generator with a fixed seed, so that the same samples always give the same interval.

/// SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): one 64-bit state, passes BigCrush, enough for resampling.
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that starts from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `len`, which is not 0. The bias of the multiply-shift is under len / 2^64.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        let product = u128::from(self.next_u64()) * (len as u128);
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_reference_implementation() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn indices_cover_the_range_evenly() {
        let mut random = SplitMix64::new(7);
        let mut counts = [0_u32; 8];
        for _ in 0..80_000 {
            counts[random.index(8)] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
