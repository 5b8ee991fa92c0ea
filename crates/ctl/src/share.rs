//! Shares of GPU time as people write them: `30%`, `12.5%`, `off`.

use std::fmt;

use cuota_governor::cap::Cap;

/// Why a text is no share of GPU time. Its text says what is so and what to do; what was asked stands beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BadShare {
    /// There is nothing.
    Empty,
    /// It is no number.
    NoNumber,
    /// The per cent sign is missing.
    NoPercent,
    /// It comes to nothing.
    Zero,
    /// It is below a ten-thousandth of a per cent.
    TooSmall,
    /// It is more than the whole GPU.
    TooLarge,
}

impl fmt::Display for BadShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadShare::Empty => "no share is given; write one, such as 30%, or off for no limit",
            BadShare::NoNumber => "a share of GPU time is a number and a per cent sign; write one, such as 30%, or off for no limit",
            BadShare::NoPercent => "a share of GPU time is written with its sign; write 30%, or off for no limit",
            BadShare::Zero => {
                "with none of the GPU's time nothing would ever run; write a larger share, or hide the GPU with \
                 CUDA_VISIBLE_DEVICES= instead"
            }
            BadShare::TooSmall => "the smallest share is 0.0001%; write a larger one",
            BadShare::TooLarge => "a GPU has 100%; write at most that, or off for no limit",
        })
    }
}

impl std::error::Error for BadShare {}

/// Reads a cap on GPU time.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_cap(text: &str) -> Result<Cap, BadShare> {
    let text = text.trim();
    if text.is_empty() {
        return Err(BadShare::Empty);
    }
    if text.eq_ignore_ascii_case("off") {
        return Ok(Cap::FULL);
    }
    let (number, has_sign) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), true),
        None => (text, false),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_number(whole) || !is_number(fraction) {
        return Err(BadShare::NoNumber);
    }
    if !has_sign {
        return Err(if number.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
            BadShare::Zero
        } else {
            BadShare::NoPercent
        });
    }
    // In ten-thousandths of a per cent: four decimals count, and whatever follows tells 100 % from more.
    let digits: String = fraction.chars().chain("0000".chars()).take(4).collect();
    let ppm: u64 = format!("{whole}{digits}").parse().map_err(|_| BadShare::TooLarge)?;
    let has_rest = fraction.bytes().skip(4).any(|byte| byte != b'0');
    match u32::try_from(ppm) {
        Ok(0) if has_rest => Err(BadShare::TooSmall),
        Ok(0) => Err(BadShare::Zero),
        Ok(1_000_000) if has_rest => Err(BadShare::TooLarge),
        Ok(ppm) => Cap::from_ppm(ppm).map_err(|_| BadShare::TooLarge),
        Err(_) => Err(BadShare::TooLarge),
    }
}

/// Reads a guarantee, parts per million; `none` is none.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_guarantee(text: &str) -> Result<u32, BadShare> {
    match text.trim() {
        none if none.eq_ignore_ascii_case("none") || none.eq_ignore_ascii_case("off") => Ok(0),
        share => parse_cap(share).map(Cap::ppm),
    }
}

/// A share of so many parts per million as people read it.
pub(crate) fn show_share(ppm: u32) -> String {
    match (ppm / 10_000, ppm % 10_000) {
        (percent, 0) => format!("{percent}%"),
        (percent, rest) => format!("{percent}.{}%", format!("{rest:04}").trim_end_matches('0')),
    }
}

/// A cap as people read it.
pub(crate) fn show_cap(cap: Cap) -> String {
    if cap.binds() { show_share(cap.ppm()) } else { "off".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_share_is_kept_in_parts_per_million() {
        for (text, ppm) in
            [("30%", 300_000), ("12.5 %", 125_000), ("100%", 1_000_000), ("0.0001%", 1), (".5%", 5_000)]
        {
            assert_eq!(parse_cap(text).map(Cap::ppm), Ok(ppm), "{text}");
        }
        assert_eq!(parse_cap("OFF"), Ok(Cap::FULL));
    }

    #[test]
    fn no_guarantee_is_written_none() {
        for (text, ppm) in [("none", 0), ("Off", 0), ("20%", 200_000), ("100%", 1_000_000)] {
            assert_eq!(parse_guarantee(text), Ok(ppm), "{text}");
        }
        assert_eq!(parse_guarantee("0%"), Err(BadShare::Zero));
    }

    #[test]
    fn each_kind_of_nonsense_has_its_own_answer() {
        for (text, error) in [
            ("", BadShare::Empty),
            ("abc", BadShare::NoNumber),
            ("%", BadShare::NoNumber),
            ("-5%", BadShare::NoNumber),
            ("1.2.3%", BadShare::NoNumber),
            ("30", BadShare::NoPercent),
            ("0", BadShare::Zero),
            ("0%", BadShare::Zero),
            ("0.00001%", BadShare::TooSmall),
            ("101%", BadShare::TooLarge),
            ("100.00001%", BadShare::TooLarge),
            ("99999999999999999999999%", BadShare::TooLarge),
        ] {
            assert_eq!(parse_cap(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_cap_can_be_written_and_read(ppm in 1_u32..=1_000_000) {
            let cap = Cap::from_ppm(ppm).unwrap();
            prop_assert_eq!(parse_cap(&show_cap(cap)), Ok(cap));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,30}") {
            let _ = parse_cap(&text);
        }
    }
}
