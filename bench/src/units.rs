//! Amounts of memory and time, as people write and read them.

use std::fmt;
use std::str::FromStr;

/// The unit in which the CUDA driver takes device memory for plain allocations.
pub const BLOCK_BYTES: u64 = MIB << 1;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;

/// A memory limit as given by the user: an amount, or a part of the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// So many per cent of the device's memory, 0 < value <= 100.
    Percent(f64),
}

impl MemoryLimit {
    /// The limit in bytes on a device of `device_bytes`, rounded down to whole 2 MiB blocks.
    pub fn on_device(self, device_bytes: u64) -> u64 {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                // Parts per million are exact enough for a share that ends on a 2 MiB boundary.
                let parts = u64::try_from(parts_per_million(percent)).unwrap_or(0);
                let product = u128::from(device_bytes) * u128::from(parts) / 1_000_000;
                u64::try_from(product).unwrap_or(u64::MAX)
            }
        };
        bytes - bytes % BLOCK_BYTES
    }
}

/// A percentage in parts per million, through its decimal text so that no float is cast.
fn parts_per_million(percent: f64) -> u128 {
    format!("{:.0}", percent * 10_000.0).parse().unwrap_or(0)
}

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "`{text}` is not an amount of memory: give a number with MiB or GiB, as in 8GiB or 512MiB, \
                 or a part of the device, as in 50%"
            )
        };
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(help)?;
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().map_err(|_| help())?;
        if unit == "%" {
            return if number > 0.0 && number <= 100.0 {
                Ok(Self::Percent(number))
            } else {
                Err(format!("`{text}` is outside 0 to 100 %: ask for a part of the device, as in 50%"))
            };
        }
        let mib = match unit {
            "MiB" => 1.0,
            "GiB" => 1024.0,
            _ => return Err(help()),
        };
        let mib: u64 = format!("{:.0}", number * mib).parse().map_err(|_| help())?;
        match mib.checked_mul(MIB) {
            Some(bytes) if bytes > 0 => Ok(Self::Bytes(bytes)),
            _ => Err(help()),
        }
    }
}

/// A cap on GPU time in whole per cent, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeCap(pub u32);

impl FromStr for ComputeCap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!("`{text}` is not a part of the GPU's time: give 1% to 100% in whole per cent, as in 50%")
        };
        let number = text.strip_suffix('%').ok_or_else(help)?;
        match number.parse() {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(help()),
        }
    }
}

/// A change that does not matter, in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(pub f64);

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%').and_then(|number| number.parse().ok()) {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err(format!("`{text}` is not a tolerance: give 0% to 100%, as in 5%")),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&bytes_text(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `bytes` in the largest binary unit that divides it: `8 GiB`, `1536 MiB`, `64 KiB`, `256 B`.
pub fn bytes_text(bytes: u64) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

/// Bytes as a fraction of mebibytes.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// A measured value with as many digits as are worth reading: four significant ones.
pub fn value_text(value: f64) -> String {
    let magnitude = value.abs();
    let digits = match magnitude {
        m if m >= 1000.0 => 0,
        m if m >= 100.0 => 1,
        m if m >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_limits_are_amounts_with_a_binary_unit_or_parts_of_the_device() {
        assert_eq!("8GiB".parse(), Ok(MemoryLimit::Bytes(8 * GIB)));
        assert_eq!("1.5GiB".parse(), Ok(MemoryLimit::Bytes(1536 * MIB)));
        assert_eq!("512MiB".parse(), Ok(MemoryLimit::Bytes(512 * MIB)));
        assert_eq!("50%".parse(), Ok(MemoryLimit::Percent(50.0)));
    }

    #[test]
    fn a_wrong_unit_is_answered_with_what_to_write_instead() {
        for text in ["8GB", "8", "GiB", "", "-8GiB", "8 GiB", "0GiB", "1e30GiB"] {
            let error = text.parse::<MemoryLimit>().unwrap_err();
            assert!(error.contains(text) && error.contains("8GiB"), "{text}: {error}");
        }
        assert!("150%".parse::<MemoryLimit>().unwrap_err().contains("0 to 100"));
        assert!("0%".parse::<MemoryLimit>().is_err());
    }

    #[test]
    fn a_cap_on_time_is_a_percentage_and_says_so() {
        assert_eq!("50%".parse(), Ok(ComputeCap(50)));
        assert_eq!("100%".parse(), Ok(ComputeCap(100)));
        for text in ["50", "0%", "101%", "half", "33.3%", "-5%"] {
            let error = text.parse::<ComputeCap>().unwrap_err();
            assert!(error.contains(text) && error.contains("as in 50%"), "{text}: {error}");
        }
    }

    #[test]
    fn a_part_of_the_device_ends_on_a_block_boundary() {
        assert_eq!(MemoryLimit::Percent(50.0).on_device(16 * GIB), 8 * GIB);
        let limit = MemoryLimit::Percent(33.3).on_device(81_559 * MIB);
        assert_eq!(limit % BLOCK_BYTES, 0);
        assert!(limit > 27_156 * MIB && limit < 27_160 * MIB);
    }

    #[test]
    fn text_forms_are_short() {
        assert_eq!(bytes_text(8 * GIB), "8 GiB");
        assert_eq!(bytes_text(1536 * MIB), "1536 MiB");
        assert_eq!(bytes_text(65_536), "64 KiB");
        assert_eq!(bytes_text(256), "256 B");
        assert_eq!(value_text(0.93712), "0.937");
        assert_eq!(value_text(-12.345), "-12.35");
        assert_eq!(value_text(190_432.7), "190433");
    }
}
