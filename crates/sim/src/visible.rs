//! `CUDA_VISIBLE_DEVICES`: which devices CUDA shows a process, and in which order. The first entry says how all are read: as
//! numbers, or as UUIDs, which may be shortened while they stay unique. The first entry that names no device ends the list;
//! a device named twice leaves none.

use crate::config::Config;

const UUID_PREFIX: &str = "GPU-";

/// The devices, of `count` in the machine, that the variable's `text` shows; all where it is not set.
#[must_use]
pub fn devices(text: Option<&str>, count: u32) -> Vec<u32> {
    let Some(text) = text else { return (0..count).collect() };
    let entries = text.split(',').map(str::trim);
    let shown: Vec<u32> = if text.trim_start().starts_with(UUID_PREFIX) {
        entries.map_while(|entry| by_uuid(entry, count)).collect()
    } else {
        entries.map_while(|entry| by_number(entry, count)).collect()
    };
    let is_repeated = shown.iter().enumerate().any(|(place, device)| shown[..place].contains(device));
    if is_repeated { Vec::new() } else { shown }
}

/// As `strtol` reads: leading digits count, whatever follows them does not.
fn by_number(entry: &str, count: u32) -> Option<u32> {
    let digits = entry.find(|c: char| !c.is_ascii_digit()).unwrap_or(entry.len());
    entry[..digits].parse().ok().filter(|&number| number < count)
}

fn by_uuid(entry: &str, count: u32) -> Option<u32> {
    if !entry.starts_with(UUID_PREFIX) {
        return None;
    }
    let asked = entry.to_ascii_lowercase();
    let mut found =
        (0..count).filter(|&device| Config::uuid_text(device).to_ascii_lowercase().starts_with(&asked));
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_variable_shows_all_and_an_empty_one_none() {
        assert_eq!(devices(None, 3), [0, 1, 2]);
        assert_eq!(devices(Some(""), 3), []);
        assert_eq!(devices(Some("-1"), 3), []);
        assert_eq!(devices(Some("NoDevFiles"), 3), []);
    }

    #[test]
    fn numbers_reorder_and_the_first_unknown_one_ends_the_list() {
        assert_eq!(devices(Some("2, 0"), 3), [2, 0]);
        assert_eq!(devices(Some("1,3,0"), 3), [1]);
        assert_eq!(devices(Some("1,,0"), 3), [1]);
        assert_eq!(devices(Some("1gpu"), 3), [1]);
    }

    #[test]
    fn a_device_named_twice_leaves_none() {
        assert_eq!(devices(Some("1,1"), 3), []);
    }

    #[test]
    fn uuids_may_be_shortened_while_they_stay_unique() {
        let uuid = Config::uuid_text;
        assert_eq!(devices(Some(&format!("{},{}", uuid(2), uuid(0))), 3), [2, 0]);
        assert_eq!(devices(Some(&uuid(1)[..40]), 3), [1]);
        assert_eq!(devices(Some("GPU-63756f74"), 1), [0]);
        assert_eq!(devices(Some("GPU-63756f74"), 2), []);
        assert_eq!(devices(Some(&format!("{},0", uuid(2))), 3), [2]);
        assert_eq!(devices(Some("GPU-ffff"), 3), []);
    }
}
