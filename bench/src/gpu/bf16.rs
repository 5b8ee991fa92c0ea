//! Numbers in bf16 on the host: for checking what a GPU computed.

/// The number with these bits.
pub fn to_f64(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// The nearest number in bf16, ties to even; for finite values.
pub fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    u16::try_from(rounded >> 16).unwrap_or(0)
}

/// The number that the kernel `fill_bf16` puts in place `index`.
pub fn filled(index: u64, scale: f32, seed: u32) -> u16 {
    let mut x = (index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(seed).wrapping_mul(0xbf58_476d_1ce4_e5b9));
    x ^= x >> 31;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 29;
    // 24 bits are exact in f32.
    let high = u32::try_from(x >> 40).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "24 bits")]
    let unit = high as f32 * (1.0 / 8_388_608.0) - 1.0;
    from_f32(unit * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_go_to_even() {
        assert_eq!(from_f32(1.0), 0x3f80);
        assert_eq!(from_f32(f32::from_bits(0x3f80_8000)), 0x3f80); // a tie, down to even
        assert_eq!(from_f32(f32::from_bits(0x3f81_8000)), 0x3f82); // a tie, up to even
        assert_eq!(from_f32(f32::from_bits(0x3f80_8001)), 0x3f81);
        assert!((to_f64(from_f32(-2.5)) + 2.5).abs() < 1e-12);
    }

    #[test]
    fn filled_numbers_are_within_the_scale_and_differ_by_place_and_seed() {
        let values: Vec<f64> = (0..1_000).map(|index| to_f64(filled(index, 0.5, 7))).collect();
        assert!(values.iter().all(|value| value.abs() <= 0.5));
        let mean = values.iter().sum::<f64>() / 1_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert_ne!(filled(3, 0.5, 7), filled(4, 0.5, 7));
        assert_ne!(filled(3, 0.5, 7), filled(3, 0.5, 8));
    }
}
