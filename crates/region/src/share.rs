//! Memory that several processes of a tenant hold, and that counts once.
//!
//! Each holder books the whole object, and notes in entries of its own that it holds it. What a sum over the books counts too
//! often is the *credit*: for every object, its size times the holders less one. A credit is looked for only where a sum is over
//! the quota, or is shown to people; nothing here costs an allocation that fits.
//!
//! A holder books before it notes, and strikes its note out before it takes the booking back; so a sum can be too high for a
//! moment, never too low. Between the two it raises `unshared`: one who finds that number the same after a sum as before the credit
//! knows that no object of the credit has left the sum meanwhile. A process that dies leaves notes that count no longer than its
//! books do. So there is nothing to repair here either.

use core::num::NonZeroU64;

use crate::sync::Ordering;
use crate::tenant::{GpuIndex, PROCESSES, Share, Tenant};

/// How many notes a reader looks at: a tenant that fills its file with rubbish waits for it, and no longer than a few milliseconds.
const READ_AT_MOST: usize = 2048;

/// What goes from process to process, as a number: FNV-1a over a handle's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareKey(NonZeroU64);

impl ShareKey {
    /// The key as a number other than 0, to be kept in an atomic.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The key with this number; `None` for 0.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(ShareKey)
    }

    /// The key of a handle of 64 bytes, say `CUipcMemHandle`.
    #[must_use]
    pub fn of(handle: &[u8]) -> Self {
        let hash = handle.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ShareKey(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

fn what(gpu: usize, units: u64) -> u64 {
    (gpu as u64) << 32 | units.min(u64::from(u32::MAX))
}

fn gpu_of(share: &Share) -> usize {
    usize::try_from(share.what.load(Ordering::SeqCst) >> 32).unwrap_or(usize::MAX)
}

impl Tenant {
    /// A process's notes.
    fn shares(self, place: usize) -> &'static [Share] {
        &self.0.shares[place % PROCESSES]
    }

    /// Notes that the process in `place` holds an object and has booked it. `false`: it holds 128 others.
    pub(crate) fn share(self, place: usize, key: ShareKey, gpu: GpuIndex, units: u64) -> bool {
        let (shares, owner) = (self.shares(place), self.place(place));
        let free = |(index, share): &(usize, &Share)| {
            // Claimed by the size, so that the key comes last.
            *index < shares.len()
                && share
                    .what
                    .compare_exchange(0, what(gpu.0, units) | CLAIMED, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
        };
        let Some((index, share)) = shares.iter().enumerate().find(free) else { return false };
        owner.shares.fetch_max(u32::try_from(index + 1).unwrap_or(u32::MAX), Ordering::SeqCst);
        self.0.summary.sharing.store(1, Ordering::SeqCst);
        // One who slept while it struck out what stood here may have left a key.
        share.key.store(0, Ordering::SeqCst);
        share.what.store(what(gpu.0, units), Ordering::SeqCst);
        share.key.store(key.number(), Ordering::SeqCst);
        true
    }

    /// Strikes out the note of the process in `place`. To be done before what it booked is given back. `false`: there is none.
    #[inline(never)]
    pub(crate) fn unshare(self, place: usize, key: ShareKey) -> bool {
        self.shares(place).iter().any(|share| self.strike(share, key.number()))
    }

    /// Strikes out a note, if it is of this object.
    fn strike(self, share: &Share, key: u64) -> bool {
        // Who finds it gone must see where it has been moved to.
        let is_struck = share.key.compare_exchange(key, 0, Ordering::SeqCst, Ordering::Acquire).is_ok();
        if is_struck {
            self.0.summary.unshared.fetch_add(1, Ordering::SeqCst);
            share.what.store(0, Ordering::SeqCst);
        }
        is_struck
    }

    /// Moves the notes of the process in `place` to its place `to` of another file or of this one, once both have its bytes booked.
    pub(crate) fn move_shares(self, place: usize, to: (Tenant, usize)) {
        for share in self.shares(place) {
            let key = share.key.load(Ordering::SeqCst);
            let what = share.what.load(Ordering::SeqCst);
            let (Some(key), gpu) = (ShareKey::from_number(key), GpuIndex(gpu_of(share))) else { continue };
            // Noted anew first: whoever strikes it out meanwhile looks here first and there next.
            if to.0.share(to.1, key, gpu, what & u64::from(u32::MAX)) && !self.strike(share, key.number()) {
                to.0.unshare(to.1, key);
            }
        }
    }

    /// Strikes out all notes of the process in `place`, which is gone or has given the place up: those on one GPU, or all.
    pub(crate) fn forget_shares(self, place: usize, gpu: Option<usize>) {
        let (owner, shares) = (self.place(place), self.shares(place));
        if owner.shares.load(Ordering::SeqCst) == 0 {
            return;
        }
        for share in shares {
            let is_meant =
                share.what.load(Ordering::SeqCst) != 0 && gpu.is_none_or(|gpu| gpu_of(share) == gpu);
            if is_meant {
                share.key.store(0, Ordering::SeqCst);
                self.0.summary.unshared.fetch_add(1, Ordering::SeqCst);
                share.what.store(0, Ordering::SeqCst);
            }
        }
        if gpu.is_none() {
            owner.shares.store(0, Ordering::SeqCst);
        }
    }

    /// Whether any process has ever shared memory with another.
    #[inline]
    pub(crate) fn shares_memory(self) -> bool {
        self.0.summary.sharing.load(Ordering::Relaxed) != 0
    }

    /// Runs `sum` and returns what it gives, with the units on `gpu` that it counts too often. No credit where shares ended meanwhile,
    /// several times over.
    pub(crate) fn with_credit<T>(self, gpu: usize, sum: impl Fn() -> T) -> (T, u64) {
        const TRIES: u32 = 16;
        if self.0.summary.sharing.load(Ordering::SeqCst) == 0 {
            return (sum(), 0);
        }
        for _ in 0..TRIES {
            let before = self.0.summary.unshared.load(Ordering::SeqCst);
            let credit = self.credit(gpu);
            let summed = sum();
            if self.0.summary.unshared.load(Ordering::SeqCst) == before {
                return (summed, credit);
            }
        }
        (sum(), 0)
    }

    /// Calls `each` with the notes on `gpu` that count, key and size in units, until it returns `true`.
    #[inline(never)]
    fn each_note(self, gpu: usize, each: &mut dyn FnMut(u64, u64) -> bool) {
        let mut read = 0;
        for (number, place) in self.places() {
            let (line, shares) = (self.line(gpu, number), self.shares(number));
            let used = place.shares.load(Ordering::SeqCst) as usize;
            if used == 0 || line.life.load(Ordering::SeqCst) & 1 == 0 {
                continue;
            }
            for share in shares.iter().take(used) {
                let key = share.key.load(Ordering::SeqCst);
                let what = share.what.load(Ordering::SeqCst);
                if key == 0 || what >> 32 != gpu as u64 {
                    continue;
                }
                if read == READ_AT_MOST || each(key, what & u64::from(u32::MAX)) {
                    return;
                }
                read += 1;
            }
        }
    }

    /// Units on `gpu` that the books count too often.
    fn credit(self, gpu: usize) -> u64 {
        let (mut credit, mut index) = (0_u64, 0);
        self.each_note(gpu, &mut |key, units| {
            let mut earlier = 0..index;
            self.each_note(gpu, &mut |other, other_units| {
                let is_same = other == key;
                if earlier.next().is_some() && is_same {
                    // Two that differ in size have another opinion of it: the smaller is safe.
                    credit = credit.saturating_add(other_units.min(units));
                    return true;
                }
                earlier.is_empty()
            });
            index += 1;
            false
        });
        credit
    }
}

/// While a note is being written: a GPU that does not exist.
const CLAIMED: u64 = 1 << 63;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ledger::{Books, Refusal, UNIT_BYTES};
    use crate::name::GpuId;
    use crate::tenant::SHARES;
    use crate::testing::Bench;

    const U: u64 = UNIT_BYTES;

    fn three(bench: &Bench) -> (GpuIndex, [Books; 3]) {
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GpuId::from_words([1, 2])).unwrap();
        (gpu, [0, 1, 2].map(|place| Books::of(bench.member_at(tenant, place), gpu)))
    }

    fn key(n: u8) -> ShareKey {
        ShareKey::of(&[n; 64])
    }

    #[test]
    fn an_object_that_three_hold_counts_once() {
        let bench = Bench::new();
        let (_, [a, b, c]) = three(&bench);
        a.book(10 * U);
        a.share(key(1), 10 * U);
        for books in [b, c] {
            let reservation = books.reserve_shared(key(1), 10 * U, 12 * U).unwrap();
            books.commit(reservation, 10 * U);
        }
        assert_eq!(a.tenant_usage().booked, 10 * U);
        assert_eq!(a.reserve(3 * U, 12 * U), Err(Refusal::OverQuota { booked: 10 * U }));
        let granted = a.reserve(2 * U, 12 * U).unwrap();
        a.cancel(granted);
    }

    #[test]
    fn an_object_that_nobody_else_holds_must_fit() {
        let bench = Bench::new();
        let (_, [a, b, _]) = three(&bench);
        a.book(10 * U);
        a.share(key(1), 10 * U);
        assert_eq!(b.reserve_shared(key(2), 10 * U, 12 * U), Err(Refusal::OverQuota { booked: 10 * U }));
        assert_eq!(a.tenant_usage().booked, 10 * U);
    }

    #[test]
    fn it_stays_charged_until_the_last_holder_lets_go() {
        let bench = Bench::new();
        let (_, [a, b, _]) = three(&bench);
        a.book(10 * U);
        a.share(key(1), 10 * U);
        let reservation = b.reserve_shared(key(1), 10 * U, 12 * U).unwrap();
        b.commit(reservation, 10 * U);
        a.unshare(key(1));
        a.release(10 * U);
        assert_eq!(a.tenant_usage().booked, 10 * U);
        b.unshare(key(1));
        b.release(10 * U);
        assert_eq!(a.tenant_usage().booked, 0);
    }

    #[test]
    fn a_place_that_changes_hands_brings_no_notes_along() {
        let bench = Bench::new();
        let (_, [a, b, _]) = three(&bench);
        a.book(10 * U);
        a.share(key(1), 10 * U);
        b.book(10 * U);
        b.share(key(1), 10 * U);
        let next = bench.member_at(bench.tenant(), 1);
        let next = Books::of(next, GpuIndex::new(0).unwrap());
        next.book(5 * U);
        assert_eq!(a.tenant_usage().booked, 15 * U);
    }

    #[test]
    fn one_too_many_is_charged_to_each_holder() {
        let bench = Bench::new();
        let (_, [a, b, _]) = three(&bench);
        for n in 0..=u8::try_from(SHARES).unwrap() {
            for books in [a, b] {
                books.book(U);
                books.share(key(n), U);
            }
        }
        assert_eq!(a.tenant_usage().booked, (SHARES as u64 + 2) * U);
    }

    #[test]
    fn rubbish_in_the_notes_ends_every_reader() {
        let bench = Bench::new();
        let (_, [a, ..]) = three(&bench);
        a.book(7 * U);
        a.share(key(1), U);
        for (place, shares) in bench.tenant().0.places.iter().zip(&bench.tenant().0.shares) {
            place.shares.store(u32::MAX, Ordering::Relaxed);
            place.life.store(1, Ordering::Relaxed);
            for share in shares {
                share.key.store(7, Ordering::Relaxed);
                share.what.store(u64::from(u32::MAX), Ordering::Relaxed);
            }
        }
        let _ = a.tenant_usage();
        let _ = a.reserve(U, 8 * U);
    }
}
