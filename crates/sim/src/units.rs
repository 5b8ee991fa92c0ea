//! Sizes, and the one place where 64-bit numbers become indices.

/// One kibibyte in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte in bytes.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte in bytes.
pub const GIB: u64 = 1024 * MIB;
/// The driver's unit of physical memory: 2 MiB (measured on an H100, driver 580).
pub const BLOCK: u64 = 2 * MIB;

/// `bytes` as an index. The model runs on 64-bit machines only, so nothing is lost.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide where the model runs")]
pub const fn index(bytes: u64) -> usize {
    const { assert!(size_of::<usize>() == 8) };
    bytes as usize
}

/// `bytes` rounded up to a multiple of `unit`; `None` when that does not fit into 64 bits.
#[must_use]
pub fn round_up(bytes: u64, unit: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(unit)
}

/// A size as people write it: `16GiB`, `500MiB`, `4096`; the units are powers of 1,024.
/// `None` where it is no such size.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => GIB,
        "t" | "tb" | "tib" => 1024 * GIB,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut bytes = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if !fraction.is_empty() {
        let places = u32::try_from(fraction.len()).ok().filter(|&n| n <= 6)?;
        bytes = bytes.checked_add(fraction.parse::<u64>().ok()? * scale / 10_u64.pow(places))?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        assert_eq!(parse_bytes("80GiB"), Some(80 * GIB));
        assert_eq!(parse_bytes("1.5 g"), Some(3 * GIB / 2));
        assert_eq!(parse_bytes("4096"), Some(4096));
        assert_eq!(parse_bytes("12 parsec"), None);
        assert_eq!(parse_bytes(""), None);
    }
}
