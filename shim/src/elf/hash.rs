//! The two hash functions of ELF symbol tables.

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

/// The hash of DT_HASH (System V gABI, "Hash Table").
pub(crate) const fn sysv(name: &[u8]) -> u32 {
    let mut hash: u32 = 0;
    let mut at = 0;
    while at < name.len() {
        hash = (hash << 4).wrapping_add(name[at] as u32);
        let top = hash & 0xf000_0000;
        hash ^= top >> 24;
        hash &= !top;
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
    fn sysv_hash_is_the_documented_one() {
        assert_eq!(sysv(b""), 0);
        assert_eq!(sysv(b"printf"), 0x077_905a6);
        assert_eq!(sysv(b"exit"), 0x0006_cf04);
    }
}
