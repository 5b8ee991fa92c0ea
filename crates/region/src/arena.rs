//! The arena: where the tenants of a GPU take turns. One file a GPU, which all of them write.
//!
//! Quotas and caps never depend on it. Any tenant can write anything here; what makes no sense is counted, mended where that is one store,
//! and after some of it turns are left alone ([`cuota_governor::doubt`]). A tenant that writes what makes sense but is not so can take the turns of
//! others; a launch still waits no longer than [`crate::seat::LONGEST_WAIT_NS`].
//!
//! All-zero is an arena in which nothing has happened, so a maker has nothing to lay out but the header, in which every maker writes the same.
//! Somebody may cut the file short, and a page that is gone is a signal that ends a program: each look first asks how long the file is, and once
//! it was short nobody looks again. That leaves the half microsecond between the two.

use core::mem::offset_of;
use core::ptr::NonNull;

use crate::header::{Header, Kind, Unusable, layout_hash};
use crate::name::GpuId;
use crate::path::{Directory, Path};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{self, Fd};

/// How many tenants of a GPU can take turns.
#[cfg(not(loom))]
pub const SEATS: usize = 64;
#[cfg(not(loom))]
const _: () = assert!(SEATS == cuota_governor::arbiter::TENANTS);
#[cfg(loom)]
pub use crate::model::SEATS;

/// Whose turn it is, and what was noticed.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Desk {
    /// The turn: `cuota_governor::turn`. One word, so that one instruction hands it over.
    pub(crate) turn: AtomicU64,
    /// Turns that passed.
    pub(crate) passed: AtomicU64,
    /// Turns that others ended: not accepted, or not handed over in time.
    pub(crate) ended: AtomicU64,
    /// What made no sense.
    pub(crate) rubbish: AtomicU64,
    /// How often a tenant took a seat, or came back to one that it had not used for long: who was alone may not be so any more.
    pub(crate) comings: AtomicU64,
    /// When somebody last saw that turns are nothing here, ns: a process on the GPU that takes none, or MPS. 0: never.
    pub(crate) outsiders_ns: AtomicU64,
    reserved: [AtomicU64; 2],
}

/// A tenant's place in the circle.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct Place {
    /// A hash of the tenant's name; 0: free.
    pub(crate) tenant: AtomicU64,
    /// What it is entitled to: `cuota_governor::entitlement`, 0: nothing in particular.
    pub(crate) entitlement: AtomicU64,
    /// When it last asked for a turn, ns; 0: it does not want any.
    pub(crate) asks: AtomicU64,
    /// Until when it has had its share, ns: `cuota_governor::arbiter`.
    pub(crate) horizon: AtomicU64,
    /// How long it has had the turn in all, ns.
    pub(crate) held_ns: AtomicU64,
    /// When one of its processes was last here, ns.
    pub(crate) seen_ns: AtomicU64,
    /// Raised when it is offered a turn; its processes sleep on it (futex).
    pub(crate) bell: AtomicU32,
    /// Turns that others ended.
    pub(crate) ended: AtomicU32,
    reserved: AtomicU64,
}

/// `arena/GPU.v1`. Written by all tenants of the GPU: for each of them it is hostile input.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct File {
    header: Header,
    pub(crate) desk: Desk,
    pub(crate) places: [Place; SEATS],
}

/// See [`crate::abi`].
#[doc(hidden)]
pub const LAYOUTS: &[crate::abi::Layout] = &[
    crate::abi::layout!(Desk as "cuota_arena_desk": turn, passed, ended, rubbish, comings, outsiders_ns, reserved),
    crate::abi::layout!(Place as "cuota_arena_place":
        tenant, entitlement, asks, horizon, held_ns, seen_ns, bell, ended, reserved),
    crate::abi::layout!(File as "cuota_arena_file": header, desk, places),
];

/// What an arena is.
pub const KIND: Kind = Kind {
    magic: u64::from_le_bytes(*b"cuotaARE"),
    layout_hash: layout_hash(&[
        size_of::<File>(),
        SEATS,
        offset_of!(File, desk),
        offset_of!(File, places),
        offset_of!(Desk, rubbish),
        offset_of!(Desk, comings),
        offset_of!(Place, horizon),
        offset_of!(Place, seen_ns),
        offset_of!(Place, bell),
    ]),
    bytes: size_of::<File>(),
};

/// The descriptor goes where the live file's does: above what most programs count on, below 64.
const HIGH_DESCRIPTOR: i32 = 50;

/// A process that takes part holds the record lock of one of so many bytes of the file: so it is told from one that does not.
pub const PROCESSES: u64 = 128;

/// A GPU's arena, mapped for the rest of the process's life.
#[derive(Clone, Copy)]
pub struct Arena {
    pub(crate) file: &'static File,
    /// This process's descriptor, and which file it was.
    number: i32,
    identity: (u64, u64),
    /// What the clocks of this time namespace are ahead of the machine's, ns.
    ahead_ns: i64,
}

impl Arena {
    /// Maps the arena of a GPU, which is made where it does not exist. `mode`: who may write the file, if it has to be made.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open_or_create(directory: &Directory, gpu: GpuId, mode: u32) -> Result<Self, Unusable> {
        Self::at(&directory.arena(gpu)?, mode)
    }

    /// Maps the arena at `path`, as [`Self::open_or_create`] does.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn at(path: &Path, mode: u32) -> Result<Self, Unusable> {
        // A link that another user has put there leads nowhere.
        let fd = path.open(libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW, mode)?;
        let need = KIND.bytes as u64;
        if sys::file_info(&fd)?.bytes < need {
            sys::take_space(&fd, KIND.bytes)?;
            // Whatever the process's umask. Of another user's file that is refused, and was done by that user.
            let _ = sys::set_mode(&fd, mode);
        }
        let info = sys::file_info(&fd)?;
        // A child is not its parent: it has no mapping, and opens the arena itself. Whoever holds an `Arena` keeps it in memory that a child
        // sees zeroed.
        let file: NonNull<File> = sys::map_here_alone(&fd, KIND.bytes)?.cast();
        // SAFETY: the mapping is page-aligned, as long as `File`, never unmapped while the reference is used, and `File` is
        // atomics throughout.
        let file = unsafe { file.as_ref() };
        if file.header.is_blank() {
            file.header.write(KIND);
        }
        file.header.check(KIND, info.bytes)?;
        let high = sys::duplicate_above(&fd, HIGH_DESCRIPTOR).ok();
        let number = high.unwrap_or(fd).into_number();
        Ok(Self { file, number, identity: info.identity, ahead_ns: sys::clock_ahead_ns() })
    }

    /// Whether the file is there as it was when it was opened. `false`: never look into it again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let fd = core::mem::ManuallyDrop::new(Fd::from_owned(self.number));
        sys::file_info(&fd)
            .is_ok_and(|info| info.identity == self.identity && info.bytes >= KIND.bytes as u64)
    }

    /// Says that this process takes part, for as long as it lives. `false`: too many do.
    #[must_use]
    pub fn sign_in(&self) -> bool {
        let fd = core::mem::ManuallyDrop::new(Fd::from_owned(self.number));
        (0..PROCESSES).any(|byte| sys::try_lock_byte(&fd, byte) == Ok(true))
    }

    /// Whether another process of this PID namespace takes part.
    #[must_use]
    pub fn has_signed(&self, pid: u32) -> bool {
        let fd = core::mem::ManuallyDrop::new(Fd::from_owned(self.number));
        (0..PROCESSES).any(|byte| sys::who_locks_byte(&fd, byte) == Ok(Some(pid)))
    }

    /// The time by which the tenants of all time namespaces agree, ns, when CLOCK_MONOTONIC here is `local_ns`.
    #[must_use]
    pub fn common_ns(&self, local_ns: u64) -> u64 {
        local_ns.wrapping_add_signed(-self.ahead_ns)
    }

    /// CLOCK_MONOTONIC of this time namespace, ns, at a common time.
    #[must_use]
    pub fn local_ns(&self, common_ns: u64) -> u64 {
        common_ns.wrapping_add_signed(self.ahead_ns)
    }

    /// Turns that passed, that others ended, and what made no sense, since the file was made.
    #[must_use]
    pub fn tally(&self) -> [u64; 3] {
        let desk = &self.file.desk;
        [&desk.passed, &desk.ended, &desk.rubbish].map(|count| count.load(Ordering::Relaxed))
    }

    #[cfg(loom)]
    pub(crate) fn held_ns(&self) -> [u64; SEATS] {
        self.file.places.each_ref().map(|place| place.held_ns.load(Ordering::SeqCst))
    }

    #[cfg(loom)]
    pub(crate) fn scribble(&self, word: u64) {
        self.file.desk.turn.swap(word, Ordering::SeqCst);
    }

    #[cfg(any(test, loom))]
    pub(crate) fn of(file: &'static File) -> Self {
        Self { file, number: -1, identity: (0, 0), ahead_ns: 0 }
    }
}

/// A seat as it stood in an arena's file.
#[cfg(not(loom))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sitting {
    /// Whose: [`crate::member::identity_of`]; 0: nobody's.
    pub tenant: u64,
    /// How long the tenant has had the turn in all, ns.
    pub held_ns: u64,
    /// When one of its processes was last here, ns of the arena's time.
    pub seen_ns: u64,
}

/// What stood in an arena's file: for who looks without taking part, and without a mapping that somebody could cut short.
#[cfg(not(loom))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// Turns that passed.
    pub passed: u64,
    /// Turns that others ended.
    pub ended: u64,
    /// What made no sense.
    pub rubbish: u64,
    /// When somebody last said that turns are nothing here, ns of the arena's time; 0: never.
    pub outsiders_ns: u64,
    /// The seats.
    pub seats: [Sitting; SEATS],
}

#[cfg(not(loom))]
impl Sight {
    /// Of a file's content. `None`: it is no arena of this layout.
    #[must_use]
    pub fn of(content: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = content.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let desk = |field: usize| word(offset_of!(File, desk) + field);
        let seats = core::array::from_fn(|index| {
            let place = |field: usize| word(offset_of!(File, places) + index * size_of::<Place>() + field);
            Sitting {
                tenant: place(offset_of!(Place, tenant)),
                held_ns: place(offset_of!(Place, held_ns)),
                seen_ns: place(offset_of!(Place, seen_ns)),
            }
        });
        // The header's first word, and the third.
        let is_ours = [word(0), word(16)] == [KIND.magic, KIND.layout_hash] && content.len() >= KIND.bytes;
        is_ours.then(|| Sight {
            passed: desk(offset_of!(Desk, passed)),
            ended: desk(offset_of!(Desk, ended)),
            rubbish: desk(offset_of!(Desk, rubbish)),
            outsiders_ns: desk(offset_of!(Desk, outsiders_ns)),
            seats,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_two_time_namespaces_agree_in_the_arena() {
        // SAFETY: atomics throughout, for which zero is a value.
        let file: Box<File> = unsafe { Box::new_zeroed().assume_init() };
        let arena = Arena { ahead_ns: -5_000, ..Arena::of(Box::leak(file)) };
        assert_eq!((arena.common_ns(77_000), arena.local_ns(82_000)), (82_000, 77_000));
    }

    #[test]
    fn the_layout_is_the_one_that_version_1_has() {
        assert_eq!((size_of::<Desk>(), size_of::<Place>()), (64, 64));
        assert_eq!((offset_of!(File, desk), offset_of!(File, places)), (64, 128));
        assert_eq!(KIND.bytes, 128 + 64 * 64);
        assert_eq!(KIND.layout_hash, GOLDEN_LAYOUT_HASH, "the layout changed: raise header::MAJOR");
    }
    const GOLDEN_LAYOUT_HASH: u64 = 12_540_836_647_231_683_309;
}
