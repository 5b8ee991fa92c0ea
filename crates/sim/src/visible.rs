//! `CUDA_VISIBLE_DEVICES`: which devices CUDA shows a process, and in which order. The first entry says how all are read: as
//! numbers, or as UUIDs, which may be shortened while they stay unique. The first entry that names no device ends the list;
//! a device named twice leaves none.
//!
//! Of a device that is cut into MIG instances a process sees one instance and nothing else: that of the first `MIG-` UUID, or
//! the first one where the device comes first in the list. Where it comes later, it is left out, which is assumed.

use crate::config::Config;
use crate::mig;

const UUID_PREFIX: &str = "GPU-";
const MIG_PREFIX: &str = "MIG-";

/// The devices, of `count` in the machine, that the variable's `text` shows; all where it is not set. Device 0 is cut into
/// `instances`, 0 for a whole one.
#[must_use]
pub fn devices(text: Option<&str>, count: u32, instances: u32) -> Vec<u32> {
    if let Some(text) = text.filter(|text| text.trim_start().starts_with(MIG_PREFIX)) {
        let first = text.split(',').next().unwrap_or_default().trim();
        return by_uuid(first, MIG_PREFIX, (0..instances).map(mig::number)).into_iter().collect();
    }
    let mut shown = whole_devices(text, count);
    if instances == 0 {
        return shown;
    }
    if shown.first() == Some(&0) {
        return vec![mig::number(0)];
    }
    shown.retain(|&device| device != 0);
    shown
}

fn whole_devices(text: Option<&str>, count: u32) -> Vec<u32> {
    let Some(text) = text else { return (0..count).collect() };
    let entries = text.split(',').map(str::trim);
    let shown: Vec<u32> = if text.trim_start().starts_with(UUID_PREFIX) {
        entries.map_while(|entry| by_uuid(entry, UUID_PREFIX, 0..count)).collect()
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

fn by_uuid(entry: &str, prefix: &str, all: impl Iterator<Item = u32>) -> Option<u32> {
    if !entry.starts_with(prefix) {
        return None;
    }
    let asked = entry.to_ascii_lowercase();
    let mut found = all.filter(|&device| Config::uuid_text(device).to_ascii_lowercase().starts_with(&asked));
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_variable_shows_all_and_an_empty_one_none() {
        assert_eq!(devices(None, 3, 0), [0, 1, 2]);
        assert_eq!(devices(Some(""), 3, 0), []);
        assert_eq!(devices(Some("-1"), 3, 0), []);
        assert_eq!(devices(Some("NoDevFiles"), 3, 0), []);
    }

    #[test]
    fn numbers_reorder_and_the_first_unknown_one_ends_the_list() {
        assert_eq!(devices(Some("2, 0"), 3, 0), [2, 0]);
        assert_eq!(devices(Some("1,3,0"), 3, 0), [1]);
        assert_eq!(devices(Some("1,,0"), 3, 0), [1]);
        assert_eq!(devices(Some("1gpu"), 3, 0), [1]);
    }

    #[test]
    fn of_a_device_in_instances_one_is_shown_alone() {
        let (first, second) = (mig::number(0), mig::number(1));
        assert_eq!(devices(None, 3, 2), [first]);
        assert_eq!(devices(Some("0,1"), 3, 2), [first]);
        assert_eq!(devices(Some("2,0"), 3, 2), [2]);
        let (of_first, of_second) = (Config::uuid_text(first), Config::uuid_text(second));
        assert_eq!(devices(Some(&format!("{of_second},{of_first}")), 3, 2), [second]);
        assert_eq!(devices(Some(&Config::uuid_text(mig::number(2))), 3, 2), []);
        assert_eq!(devices(Some(&of_first), 3, 0), []);
    }

    #[test]
    fn a_device_named_twice_leaves_none() {
        assert_eq!(devices(Some("1,1"), 3, 0), []);
    }

    #[test]
    fn uuids_may_be_shortened_while_they_stay_unique() {
        let uuid = Config::uuid_text;
        assert_eq!(devices(Some(&format!("{},{}", uuid(2), uuid(0))), 3, 0), [2, 0]);
        assert_eq!(devices(Some(&uuid(1)[..40]), 3, 0), [1]);
        assert_eq!(devices(Some("GPU-63756f74"), 1, 0), [0]);
        assert_eq!(devices(Some("GPU-63756f74"), 2, 0), []);
        assert_eq!(devices(Some(&format!("{},0", uuid(2))), 3, 0), [2]);
        assert_eq!(devices(Some("GPU-ffff"), 3, 0), []);
    }
}
