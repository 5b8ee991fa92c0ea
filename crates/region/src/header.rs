//! The first 64 bytes of every file: what it is, which layout, how long.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys::Errno;

/// The layout's major version. It is part of the file's name too, so two versions can live side by side.
pub const MAJOR: u32 = 1;

const HEADER_BYTES: u32 = 64;
const _: () = assert!(size_of::<Header>() == HEADER_BYTES as usize);

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// The first eight bytes.
    pub magic: u64,
    /// A hash over sizes and offsets, so that a build with another layout is noticed.
    pub layout_hash: u64,
    /// The file's length.
    pub bytes: usize,
}

/// The header of a file. All fields are written once, before the file gets its name, except `epoch`.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct Header {
    /// The first eight bytes of the file say what it is. Stored last (release): load it first (acquire).
    magic: AtomicU64,
    /// The layout's major version.
    major: AtomicU32,
    /// This header's size, bytes.
    header_bytes: AtomicU32,
    /// A hash over sizes and offsets: another value is another layout, whatever the version says.
    layout_hash: AtomicU64,
    /// The file's length, bytes.
    file_bytes: AtomicU64,
    /// Raised by each change of the content; processes may sleep on it (futex).
    pub epoch: AtomicU32,
    reserved: [AtomicU32; 7],
}

/// See [`crate::abi`].
#[doc(hidden)]
pub const LAYOUTS: &[crate::abi::Layout] = &[crate::abi::layout!(
    Header as "cuota_header": magic, major, header_bytes, layout_hash, file_bytes, epoch, reserved
)];

/// Why a file cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// The system call that opens, maps or locks it failed.
    System(Errno),
    /// It is shorter than its layout: truncated, or not yet written.
    Short {
        /// What it lacks of the length needed, bytes; at most 2^32 − 1, so that an error is one word.
        lacks_bytes: u32,
    },
    /// It does not begin with the magic number.
    NotOurs,
    /// It was made by another major version.
    OtherVersion(u32),
    /// It has our version and another layout: built from other sources.
    OtherLayout,
    /// A path is longer than fits.
    PathTooLong,
    /// All places for processes are taken.
    Full,
}

impl Unusable {
    /// The file has so many bytes, and its layout needs more.
    pub(crate) fn short(bytes: u64, need: u64) -> Self {
        let lacks_bytes = u32::try_from(need.saturating_sub(bytes)).unwrap_or(u32::MAX);
        Unusable::Short { lacks_bytes }
    }
}

impl From<Errno> for Unusable {
    fn from(errno: Errno) -> Self {
        Unusable::System(errno)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::System(Errno(libc::ENOENT)) => f.write_str("it does not exist"),
            Unusable::System(Errno(libc::EACCES)) => f.write_str("permission denied"),
            Unusable::System(Errno(number)) => write!(f, "system error {number}"),
            Unusable::Short { lacks_bytes } => write!(f, "it is {lacks_bytes} bytes too short"),
            Unusable::NotOurs => f.write_str("it is not a file of cuota"),
            Unusable::OtherVersion(major) => {
                write!(f, "it has layout version {major}, this build reads version {MAJOR}")
            }
            Unusable::OtherLayout => f.write_str("it was made by a build with another layout"),
            Unusable::PathTooLong => f.write_str("its path is too long"),
            Unusable::Full => f.write_str("all its places for processes are taken"),
        }
    }
}

impl Header {
    /// Fills the header of a file that nobody else sees yet.
    pub fn write(&self, kind: Kind) {
        self.major.store(MAJOR, Ordering::Relaxed);
        self.header_bytes.store(HEADER_BYTES, Ordering::Relaxed);
        self.layout_hash.store(kind.layout_hash, Ordering::Relaxed);
        self.file_bytes.store(kind.bytes as u64, Ordering::Relaxed);
        self.magic.store(kind.magic, Ordering::Release);
    }

    /// Whether nobody has written it yet, or somebody who has not finished.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.magic.load(Ordering::Acquire) == 0
    }

    /// Checks that a file of `mapped` bytes is of this kind and layout.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub fn check(&self, kind: Kind, mapped: u64) -> Result<(), Unusable> {
        if self.magic.load(Ordering::Acquire) != kind.magic {
            return Err(Unusable::NotOurs);
        }
        let major = self.major.load(Ordering::Relaxed);
        if major != MAJOR {
            return Err(Unusable::OtherVersion(major));
        }
        let same = self.layout_hash.load(Ordering::Relaxed) == kind.layout_hash
            && self.header_bytes.load(Ordering::Relaxed) == HEADER_BYTES;
        if !same {
            return Err(Unusable::OtherLayout);
        }
        let need = (kind.bytes as u64).max(self.file_bytes.load(Ordering::Relaxed));
        if mapped < need { Err(Unusable::short(mapped, need)) } else { Ok(()) }
    }
}

/// FNV-1a over numbers (sizes, offsets, counts): the hash of a layout.
#[must_use]
pub const fn layout_hash(numbers: &[usize]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < numbers.len() {
        let bytes = (numbers[i] as u64).to_le_bytes();
        let mut b = 0;
        while b < 8 {
            hash = (hash ^ bytes[b] as u64).wrapping_mul(0x0100_0000_01b3);
            b += 1;
        }
        i += 1;
    }
    hash
}
