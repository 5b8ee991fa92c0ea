//! Names that stand in shared memory as whole words: tenants and GPUs.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The longest tenant name, bytes.
pub const NAME_BYTES: usize = 31;

/// A tenant's name: 1 to 31 of the characters `a-z A-Z 0-9 . _ -`, not beginning with a dot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TenantName([u8; NAME_BYTES + 1]);

/// Why a text is no tenant name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// It is empty.
    Empty,
    /// It has more than 31 bytes.
    TooLong(usize),
    /// It has a byte that is not allowed, or begins with a dot.
    Character(u8),
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => f.write_str("a tenant's name cannot be empty"),
            BadName::TooLong(n) => write!(f, "a tenant's name has at most {NAME_BYTES} bytes, this one {n}"),
            BadName::Character(byte) => write!(
                f,
                "a tenant's name is made of a-z A-Z 0-9 . _ - and does not begin with a dot; it cannot have {:?}",
                char::from(*byte)
            ),
        }
    }
}

impl core::error::Error for BadName {}

impl TenantName {
    /// The entry that counts where a tenant has none of its own, and the tenant of a process that names none.
    pub const DEFAULT: TenantName = TenantName::literal("default");

    const fn literal(text: &str) -> Self {
        let mut bytes = [0; NAME_BYTES + 1];
        let mut i = 0;
        while i < text.len() {
            bytes[i] = text.as_bytes()[i];
            i += 1;
        }
        TenantName(bytes)
    }

    /// Reads a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > NAME_BYTES {
            return Err(BadName::TooLong(text.len()));
        }
        // The name becomes a file's name: no slash, no "..", nothing that a shell or a terminal acts on.
        let bad = |b: &&u8| !(b.is_ascii_alphanumeric() || matches!(**b, b'.' | b'_' | b'-'));
        if let Some(byte) = text.iter().find(bad).or(text.first().filter(|b| **b == b'.')) {
            return Err(BadName::Character(*byte));
        }
        let mut bytes = [0; NAME_BYTES + 1];
        bytes.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Ok(TenantName(bytes))
    }

    /// The name's bytes, without padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES);
        self.0.get(..len).unwrap_or(&[])
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// The name as it stands in shared memory.
    #[must_use]
    pub fn words(&self) -> [u64; 4] {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(self.0.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            *word = u64::from_le_bytes(eight);
        }
        words
    }

    /// The name that stands in `words`, where that is a name.
    #[must_use]
    pub fn from_words(words: [u64; 4]) -> Option<Self> {
        let mut bytes = [0; NAME_BYTES + 1];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let len = bytes.iter().position(|b| *b == 0)?;
        TenantName::parse(bytes.get(..len)?).ok()
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A GPU's (or MIG instance's) UUID as two words; [`GpuId::ANY`] stands for every GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct GpuId([u64; 2]);

impl GpuId {
    /// Every GPU.
    pub const ANY: GpuId = GpuId([0; 2]);

    /// The GPU with this UUID, as the driver gives it.
    #[must_use]
    pub fn from_uuid(uuid: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(uuid);
        let (high, low) = (value >> 64, value & u128::from(u64::MAX));
        GpuId([u64::try_from(high).unwrap_or(0), u64::try_from(low).unwrap_or(0)])
    }

    /// The UUID's bytes.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        ((u128::from(self.0[0]) << 64) | u128::from(self.0[1])).to_be_bytes()
    }

    /// The UUID's hexadecimal digits.
    #[inline(never)]
    #[must_use]
    pub fn digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        let [mut high, mut low] = self.0;
        for digit in &mut digits {
            let half = (high >> 60).to_le_bytes()[0];
            *digit = half + if half < 10 { b'0' } else { b'a' - 10 };
            (high, low) = (high << 4 | low >> 60, low << 4);
        }
        digits
    }

    /// The id as it stands in shared memory.
    #[must_use]
    pub fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The id that stands in `words`.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        GpuId(words)
    }
}

/// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, as `nvidia-smi -L` prints it.
impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU-")?;
        for (i, byte) in self.uuid().iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Reads words that another process may be writing; the caller checks what they say.
pub(crate) fn load<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    core::array::from_fn(|i| words.get(i).map_or(0, |word| word.load(Ordering::Relaxed)))
}

/// Writes words one by one; the caller publishes them with a later release store.
pub(crate) fn store<const N: usize>(words: &[AtomicU64; N], values: [u64; N]) {
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in ["../x", "a/b", ".", "..", ".hidden", "a\0b", "a b", "ä"] {
            assert!(TenantName::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_has_at_most_31_bytes() {
        assert!(TenantName::parse(&[b'a'; 31]).is_ok());
        assert_eq!(TenantName::parse(&[b'a'; 32]), Err(BadName::TooLong(32)));
        assert_eq!(TenantName::parse(b""), Err(BadName::Empty));
    }

    #[test]
    fn a_gpu_is_written_as_nvidia_smi_writes_it() {
        let uuid = core::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(GpuId::from_uuid(uuid).to_string(), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(GpuId::from_uuid(uuid).uuid(), uuid);
    }

    proptest! {
        #[test]
        fn a_name_survives_shared_memory(text in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,30}") {
            let name = TenantName::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(TenantName::from_words(name.words()), Some(name));
            prop_assert_eq!(name.as_str(), text);
        }

        #[test]
        fn rubbish_words_never_panic(words: [u64; 4]) {
            let _ = TenantName::from_words(words);
        }
    }
}
