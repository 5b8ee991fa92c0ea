//! Amounts of memory as people write them: `8GiB`, `8g`, `1.5G`, `500MB`, `50%`, `1073741824`.
//!
//! | suffix | is |
//! |---|---|
//! | none, `B` | bytes |
//! | `k m g t`, `Ki Mi Gi Ti`, `KiB MiB GiB TiB` | powers of 1024 |
//! | `KB MB GB TB` | powers of 1000 |
//! | `%` | a share of each GPU's memory |
//!
//! Upper and lower case are the same. A bare letter is binary, as it is for HAMi's and Docker's users.

use cuota_governor::physical::BLOCK_BYTES;
use std::fmt;

use cuota_region::policy::MemoryLimit;

const UNITS: [(&str, u64); 18] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Why a text is no amount of memory. Its text says what is so and what to do; what was asked stands beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BadSize {
    /// There is nothing.
    Empty,
    /// It is below zero.
    Negative,
    /// It does not begin with a number.
    NoNumber,
    /// Its suffix is no unit.
    Unit(String),
    /// It comes to nothing.
    Zero,
    /// It is less than a block of 2 MiB: most likely a number without its unit. Bytes.
    BelowBlock(u64),
    /// It is less than one part in a million of the GPU.
    ShareTooSmall,
    /// It is more than the whole GPU.
    ShareTooLarge,
    /// It does not fit 64 bits.
    TooLarge,
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadSize::Empty => f.write_str("no amount is given; write one, such as 8GiB or 50%"),
            BadSize::Negative => f.write_str(
                "an amount of memory cannot be negative; write a positive one, such as 8GiB, or leave --memory out for no quota",
            ),
            BadSize::NoNumber => f.write_str("an amount begins with a number; write 8GiB, 500MB, 50% or plain bytes"),
            BadSize::Unit(unit) => write!(
                f,
                "`{unit}` is no unit; use KiB MiB GiB TiB (or K M G T, the same), KB MB GB TB (powers of 1000) or %"
            ),
            BadSize::Zero => f.write_str(
                "a quota of nothing would refuse even the CUDA context (about 0.5 GiB); write a larger one, or hide \
                 the GPU with CUDA_VISIBLE_DEVICES= instead",
            ),
            BadSize::BelowBlock(bytes) => write!(
                f,
                "{bytes} bytes is less than the GPU's smallest block, 2 MiB; write the unit: 8GiB, 500MB or 50%"
            ),
            BadSize::ShareTooSmall => f.write_str("the smallest share is 0.0001%; write a larger one"),
            BadSize::ShareTooLarge => {
                f.write_str("a GPU has 100%; write at most that, or leave --memory out for no quota")
            }
            BadSize::TooLarge => {
                f.write_str("that is more than 64 bits can count; leave --memory out for no quota")
            }
        }
    }
}

impl std::error::Error for BadSize {}

/// A non-negative decimal number: `digits` ÷ 10^`decimals`.
struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// Splits the number off the front of `text`.
    fn split(text: &str) -> Result<(Decimal, &str), BadSize> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(BadSize::NoNumber);
        }
        // Beyond these nothing can come of it: 10^19 bytes is over 64 bits, 10^-15 of a tebibyte under a byte.
        let fraction = fraction.get(..15).unwrap_or(fraction);
        let whole = whole.trim_start_matches('0');
        if whole.len() > 20 {
            return Err(BadSize::TooLarge);
        }
        let digits = format!("0{whole}{fraction}").parse().map_err(|_| BadSize::TooLarge)?;
        let decimals = u32::try_from(fraction.len()).map_err(|_| BadSize::TooLarge)?;
        Ok((Decimal { digits, decimals }, rest))
    }

    /// The number times `factor`, rounded down. What fits 64 bits needs at most 1.8 × 10^19 × 10^15 on the way, which
    /// u128 holds; an overflow is an amount that is too large anyway.
    fn times(&self, factor: u64) -> Result<u64, BadSize> {
        let product = self.digits.checked_mul(u128::from(factor)).ok_or(BadSize::TooLarge)?;
        u64::try_from(product / 10_u128.pow(self.decimals)).map_err(|_| BadSize::TooLarge)
    }
}

/// Reads a memory quota.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_limit(text: &str) -> Result<MemoryLimit, BadSize> {
    let text = text.trim();
    if text.is_empty() {
        return Err(BadSize::Empty);
    }
    if text.starts_with('-') {
        return Err(BadSize::Negative);
    }
    let (number, suffix) = Decimal::split(text.strip_prefix('+').unwrap_or(text))?;
    match suffix.trim_start() {
        "%" => share(&number),
        unit => bytes(&number, unit),
    }
}

fn share(percent: &Decimal) -> Result<MemoryLimit, BadSize> {
    let ppm = percent.times(10_000).map_err(|_| BadSize::ShareTooLarge)?;
    let exactly_100 = percent.digits == 100 * 10_u128.pow(percent.decimals);
    match u32::try_from(ppm) {
        Ok(0) if percent.digits == 0 => Err(BadSize::Zero),
        Ok(0) => Err(BadSize::ShareTooSmall),
        Ok(ppm) if ppm < 1_000_000 || exactly_100 => Ok(MemoryLimit::Share(ppm)),
        _ => Err(BadSize::ShareTooLarge),
    }
}

fn bytes(number: &Decimal, unit: &str) -> Result<MemoryLimit, BadSize> {
    let lower = unit.to_ascii_lowercase();
    let known = UNITS.into_iter().find(|(name, _)| *name == lower);
    let (_, factor) = known.ok_or_else(|| BadSize::Unit(unit.to_owned()))?;
    match number.times(factor)? {
        0 => Err(BadSize::Zero),
        bytes @ 1..BLOCK_BYTES => Err(BadSize::BelowBlock(bytes)),
        // The largest number means "no quota" in the policy file.
        u64::MAX => Err(BadSize::TooLarge),
        bytes => Ok(MemoryLimit::Bytes(bytes)),
    }
}

/// Bytes as people read them: exact in the largest binary unit that divides them, else with one decimal.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, unit)) = units.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

/// A quota as people read it.
pub(crate) fn show_limit(limit: MemoryLimit) -> String {
    match limit {
        MemoryLimit::Unlimited => "none".to_owned(),
        MemoryLimit::Bytes(bytes) => show_bytes(bytes),
        MemoryLimit::Share(ppm) if ppm % 10_000 == 0 => format!("{}%", ppm / 10_000),
        MemoryLimit::Share(ppm) => {
            let decimals = format!("{:04}", ppm % 10_000);
            format!("{}.{}%", ppm / 10_000, decimals.trim_end_matches('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(text: &str) -> u64 {
        match parse_limit(text) {
            Ok(MemoryLimit::Bytes(bytes)) => bytes,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_bare_letter_is_binary_and_a_b_after_it_decimal() {
        for text in ["8GiB", "8g", "8G", "8Gi", "8gib", " 8 GiB ", "8.0G", "+8G", "08G"] {
            assert_eq!(bytes_of(text), 8 << 30, "{text}");
        }
        assert_eq!(bytes_of("8GB"), 8_000_000_000);
        assert_eq!(bytes_of("1tb"), 1_000_000_000_000);
        assert_eq!(bytes_of("1024m"), 1 << 30);
        assert_eq!(bytes_of("1073741824"), 1 << 30);
        assert_eq!(bytes_of("1.5GiB"), 3 << 29);
    }

    #[test]
    fn a_share_is_kept_in_parts_per_million() {
        assert_eq!(parse_limit("50%"), Ok(MemoryLimit::Share(500_000)));
        assert_eq!(parse_limit("33.3333 %"), Ok(MemoryLimit::Share(333_333)));
        assert_eq!(parse_limit("100%"), Ok(MemoryLimit::Share(1_000_000)));
        assert_eq!(parse_limit("0.0001%"), Ok(MemoryLimit::Share(1)));
    }

    #[test]
    fn each_kind_of_nonsense_has_its_own_answer() {
        for (text, error) in [
            ("", BadSize::Empty),
            ("-8GiB", BadSize::Negative),
            ("abc", BadSize::NoNumber),
            (".", BadSize::NoNumber),
            ("1.2.3G", BadSize::NoNumber),
            ("8 apples", BadSize::Unit("apples".into())),
            ("8GiB/s", BadSize::Unit("GiB/s".into())),
            ("50%%", BadSize::Unit("%%".into())),
            ("0", BadSize::Zero),
            ("8", BadSize::BelowBlock(8)),
            ("1KiB", BadSize::BelowBlock(1024)),
            ("0%", BadSize::Zero),
            ("0.2", BadSize::Zero),
            ("0.00001%", BadSize::ShareTooSmall),
            ("101%", BadSize::ShareTooLarge),
            ("100.00001%", BadSize::ShareTooLarge),
            ("99999999999999999999999%", BadSize::TooLarge),
            ("18446744073709551615", BadSize::TooLarge),
            ("18000000000G", BadSize::TooLarge),
            ("99999999999999999999999999999999999999999", BadSize::TooLarge),
        ] {
            assert_eq!(parse_limit(text), Err(error), "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_short() {
        assert_eq!(show_bytes(8 << 30), "8 GiB");
        assert_eq!(show_bytes(3 << 29), "1.5 GiB");
        assert_eq!(show_bytes(506 << 20), "506 MiB");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_limit(MemoryLimit::Share(125_000)), "12.5%");
        assert_eq!(show_limit(MemoryLimit::Share(500_000)), "50%");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = parse_limit(&text);
        }

        #[test]
        fn no_number_like_text_makes_it_panic(text in "[-+0-9.]{0,45}[a-zA-Z%]{0,4}") {
            let _ = parse_limit(&text);
        }

        #[test]
        fn plain_bytes_are_themselves(bytes in BLOCK_BYTES..u64::MAX) {
            prop_assert_eq!(parse_limit(&bytes.to_string()), Ok(MemoryLimit::Bytes(bytes)));
            prop_assert_eq!(parse_limit(&format!("{bytes}B")), Ok(MemoryLimit::Bytes(bytes)));
        }

        #[test]
        fn whole_units_are_exact(count in 1_u64..8_000_000) {
            for (unit, bytes) in [("TiB", count << 40), ("k", count << 10), ("KB", count * 1000)] {
                let text = format!("{count}{unit}");
                let expected =
                    if bytes < BLOCK_BYTES { Err(BadSize::BelowBlock(bytes)) } else { Ok(MemoryLimit::Bytes(bytes)) };
                prop_assert_eq!(parse_limit(&text), expected, "{}", text);
            }
        }

        #[test]
        fn every_share_in_ppm_can_be_written_and_read(ppm in 1_u32..=1_000_000) {
            let text = show_limit(MemoryLimit::Share(ppm));
            prop_assert_eq!(parse_limit(&text), Ok(MemoryLimit::Share(ppm)));
        }

        #[test]
        fn what_is_read_is_never_nothing_and_never_unlimited(text in "[0-9]{1,25}(\\.[0-9]{0,20})?[kmgtKMGT]?(i?[bB])?%?") {
            match parse_limit(&text) {
                Ok(MemoryLimit::Bytes(bytes)) => prop_assert!(bytes > 0 && bytes < u64::MAX),
                Ok(MemoryLimit::Share(ppm)) => prop_assert!((1..=1_000_000).contains(&ppm)),
                Ok(MemoryLimit::Unlimited) => prop_assert!(false, "{text} read as no quota"),
                Err(_) => {}
            }
        }
    }
}
