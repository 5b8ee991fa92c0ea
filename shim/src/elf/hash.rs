//! The hash function of GNU symbol tables, and symbols' names as hashes.

/// The hash of DT_GNU_HASH (djb2), usable at compile time.
pub(crate) const fn gnu(name: &[u8]) -> u32 {
    let mut hash: u32 = 5381;
    let mut at = 0;
    while at < name.len() {
        hash = hash.wrapping_mul(33).wrapping_add(name[at] as u32);
        at += 1;
    }
    hash
}

/// A symbol's name as hashes: some 250 names as strings, with a relocation each, were a tenth of the library.
///
/// Two names are the same where the 64 bits of FNV-1a are: of all symbols that programs look up, a million say, the chance that any
/// is taken for one of ours is 10^-11.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    whole: u64,
    gnu: u32,
}

impl Name {
    /// The name with these hashes: [`fnv`] and [`gnu`].
    pub(crate) fn from_hashes(whole: u64, gnu: u32) -> Self {
        Name { whole, gnu }
    }

    pub(crate) const fn of(name: &[u8]) -> Self {
        Name { whole: fnv(name), gnu: gnu(name) }
    }

    /// Its hash in a DT_GNU_HASH.
    pub(super) fn gnu(self) -> u32 {
        self.gnu
    }

    /// Whether it is this text.
    pub(crate) fn is(self, text: &[u8]) -> bool {
        self.whole == fnv(text)
    }
}

/// FNV-1a, 64 bits.
pub(crate) const fn fnv(text: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < text.len() {
        hash = (hash ^ text[at] as u64).wrapping_mul(0x0100_0000_01b3);
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
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
        assert!(Name::of(b"cuInit").is(b"cuInit") && !Name::of(b"cuInit").is(b"cuInit2"));
    }
}
