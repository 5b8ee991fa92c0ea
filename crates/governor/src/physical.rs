//! How many bytes of the GPU an allocation really takes.
//!
//! Measured on an H100 with driver 580 (`docs/results/`): plain memory comes in blocks of 2 MiB. An allocation of up
//! to one block lies inside one block and may share it; a larger one has whole blocks to itself; a block whose last
//! allocation is freed goes back at once. A memory pool grows by multiples of 32 MiB.

/// The driver's unit of plain device memory, bytes.
pub const BLOCK_BYTES: u64 = 2 << 20;

/// The unit by which a memory pool grows, bytes.
pub const POOL_GROWTH_BYTES: u64 = 32 << 20;

/// The most that an allocation of `bytes` can add to what is taken: whole blocks, in bytes. `None` where the
/// rounding leaves 64 bits, which no device can grant.
#[must_use]
pub const fn worst_case(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(BLOCK_BYTES)
}

/// The most that a pool can grow to serve `bytes`. `None` where the rounding leaves 64 bits.
#[must_use]
pub const fn pool_worst_case(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(POOL_GROWTH_BYTES)
}

/// The share `ppm` (parts per million) of `total` bytes, rounded down to whole blocks.
#[must_use]
pub fn share_of(total: u64, ppm: u32) -> u64 {
    const WHOLE_PPM: u64 = 1_000_000;
    let ppm = u64::from(ppm).min(WHOLE_PPM);
    // 2^64 bytes × 10^6 needs 84 bits, and the guest has no division of more than 64: millions and the rest are shared apart.
    let share = total / WHOLE_PPM * ppm + total % WHOLE_PPM * ppm / WHOLE_PPM;
    share - share % BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_takes_whole_blocks() {
        assert_eq!(worst_case(1), Some(BLOCK_BYTES));
        assert_eq!(worst_case(3 << 19), Some(BLOCK_BYTES));
        assert_eq!(worst_case(BLOCK_BYTES), Some(BLOCK_BYTES));
        assert_eq!(worst_case(BLOCK_BYTES + 1), Some(2 * BLOCK_BYTES));
    }

    #[test]
    fn a_size_that_cannot_be_rounded_is_nobodys_size() {
        assert_eq!(worst_case(u64::MAX), None);
        assert_eq!(pool_worst_case(u64::MAX - 5), None);
    }

    #[test]
    fn half_of_a_device_is_half_of_it_in_whole_blocks() {
        assert_eq!(share_of(16 << 30, 500_000), 8 << 30);
        assert_eq!(share_of(BLOCK_BYTES * 3 + 7, 500_000), BLOCK_BYTES);
        assert_eq!(share_of(u64::MAX, 2_000_000), u64::MAX - u64::MAX % BLOCK_BYTES);
        assert_eq!(share_of(u64::MAX, 999_999), 18_446_725_626_963_427_328);
    }
}
