//! The hash function of GNU symbol tables, and symbols' names as hashes.

/// The hash of DT_GNU_HASH (djb2), usable at compile time.
const fn gnu(name: &[u8]) -> u32 {
    let mut hash: u32 = 5381;
    let mut at = 0;
    while at < name.len() {
        hash = hash.wrapping_mul(33).wrapping_add(name[at] as u32);
        at += 1;
    }
    hash
}

/// A symbol's name as hashes, in one word: names as strings, with a relocation each, were a tenth of the library.
///
/// Two names are the same where the hash of DT_GNU_HASH and 32 bits of FNV-1a are: of all symbols that programs look up, a million
/// say, the chance that any is taken for one of ours is 10^-11, if the two hashes have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name(u64);

impl Name {
    pub(crate) const fn of(name: &[u8]) -> Self {
        Name((fnv(name) as u64) << 32 | gnu(name) as u64)
    }

    /// Its hash in a DT_GNU_HASH.
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    pub(super) fn gnu(self) -> u32 {
        self.0 as u32
    }

    /// Whether it is this text.
    pub(crate) fn is(self, text: &[u8]) -> bool {
        self == Name::of(text)
    }
}

/// FNV-1a, 32 bits.
const fn fnv(text: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < text.len() {
        hash = (hash ^ text[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gnu_hash_is_the_documented_one() {
        assert_eq!(gnu(b""), 0x1505);
        assert_eq!(gnu(b"printf"), 0x156b_2bb8);
        assert_eq!(gnu(b"flapenguin.me"), 0x8ae9_f18e);
    }

    #[test]
    fn fnv_is_the_documented_one() {
        assert_eq!(fnv(b""), 0x811c_9dc5);
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
        assert!(Name::of(b"cuInit").is(b"cuInit") && !Name::of(b"cuInit").is(b"cuInit2"));
    }

    #[test]
    fn no_two_functions_of_the_driver_have_the_same_hashes() {
        let lists = [
            include_str!("../../../crates/abi/functions/cuda-12.0.txt"),
            include_str!("../../../crates/abi/functions/cuda-12.9.txt"),
            include_str!("../../../crates/abi/functions/cuda-13.0.txt"),
            include_str!("../../../crates/abi/functions/cuda-13.5.txt"),
            include_str!("../../../crates/abi/functions/nvml-13.5.txt"),
        ];
        let names: std::collections::HashSet<&str> = lists.iter().flat_map(|list| list.lines()).collect();
        let hashes: std::collections::HashSet<u64> =
            names.iter().map(|name| Name::of(name.as_bytes()).0).collect();
        assert!(names.len() > 1000 && hashes.len() == names.len());
    }
}
