//! Booking memory: reserve, then commit or give back.
//!
//! *The only truth is `Line::booked`, written by its own process.* A reservation adds to the process's own line, then
//! sums the lines of the tenant's living processes; over the quota, it takes its addition back. Two processes that race
//! can never both be granted what only one can have, because each adds before it looks (sequentially consistent, so
//! that at least one of two sees the other). There is no total to repair, so a death at any point costs nothing.

use core::num::NonZeroU64;

use cuota_governor::quota::{self, Sum, Verdict};

use crate::death;
use crate::member::Member;
use crate::share::ShareKey;
use crate::sync::{self, Ordering};
use crate::tenant::{GPUS, GpuIndex, Line, PROCESSES};
use crate::word::{self, LARGEST_BYTES, read, units};

pub use crate::word::UNIT_BYTES;

/// How often a contended reservation is tried. Processes further down the table leave the first place to those
/// above them; with its pauses the last try comes about a millisecond after the first.
const TRIES: u32 = 48;

/// A process's books on one GPU.
#[derive(Clone, Copy)]
pub struct Books {
    member: &'static Member,
    gpu: GpuIndex,
}

/// Why a reservation was not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It does not fit the quota. `booked` is the tenant's sum without it, bytes.
    OverQuota {
        /// Bytes booked by the tenant.
        booked: u64,
    },
    /// This process has lost its place: join again, bring what is held, then ask again.
    Evicted,
}

/// Bytes that are booked, and may still be given back in part. Whoever drops it leaves it booked and pending.
///
/// One word, so that whoever has one keeps it in a register: the bytes, at most [`LARGEST_BYTES`], above them which place it was made in,
/// or which one that place took over, and a 1.
#[must_use = "commit it or cancel it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation(NonZeroU64);

const BYTES_BITS: u32 = LARGEST_BYTES.ilog2() + 1;
const TOP: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();

/// A reservation has room for a whole place, and for twelve bits of its life.
const PLACE_BITS: u32 = 10;
const _: () = assert!(PROCESSES <= 1 << PLACE_BITS);

/// As much of a life as a reservation holds, and its place, where it holds them: two places' lives can have the same number.
#[inline(always)]
pub(crate) fn root(place: usize, life: u64) -> u64 {
    ((life >> 1) << PLACE_BITS | place as u64) << BYTES_BITS & !TOP.get()
}

impl Reservation {
    #[inline(always)]
    fn new(bytes: u64, member: &Member) -> Self {
        Reservation(TOP | member.root | bytes)
    }

    /// The bytes reserved.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.get() % (1 << BYTES_BITS)
    }

    /// Whether it was made in this place, or in one whose books this one took over.
    #[inline(always)]
    fn is_of(&self, member: &Member) -> bool {
        self.0.get() ^ TOP.get() ^ member.root == self.bytes()
    }
}

/// What a tenant or process has booked on a GPU, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// All of it.
    pub booked: u64,
    /// Of it, contexts, modules and local memory.
    pub overhead: u64,
    /// Allocations refused.
    pub refused: u64,
}

/// Whether a line's bytes belong to the sum. Sequentially consistent like the words themselves: who adds first and looks later must
/// also see that a line counts that has just begun to.
#[inline(always)]
fn counts(line: &Line) -> bool {
    line.life.load(Ordering::SeqCst) & 1 != 0
}

impl Books {
    /// This process's books on `gpu`: begun when the member took its place, and not begun again by one that has lost it.
    #[inline(always)]
    #[must_use]
    pub fn of(member: &'static Member, gpu: GpuIndex) -> Self {
        Books { member, gpu }
    }

    /// The lines of all of the tenant's processes.
    #[inline(always)]
    fn lines(&self) -> &'static [Line; PROCESSES] {
        // The remainder, here and below, is the number itself, and says so to the compiler.
        &self.member.tenant.0.books[self.gpu.0 % GPUS]
    }

    /// This process's line.
    #[inline(never)]
    fn own(&self) -> &'static Line {
        self.own_hot()
    }

    /// [`Self::own`], for each allocation and free.
    #[inline(always)]
    fn own_hot(&self) -> &'static Line {
        &self.lines()[self.member.place % PROCESSES]
    }

    /// This place's line, unless it is another process's by now.
    #[inline(never)]
    fn noted_line(&self) -> Option<&'static Line> {
        let line = self.own();
        death::is_of(line, self.member.life).then_some(line)
    }

    /// The place that these are the books of.
    #[must_use]
    pub fn member(&self) -> &'static Member {
        self.member
    }

    /// Whether these are still this process's books.
    #[inline(never)]
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.is_mine_hot()
    }

    /// [`Self::is_mine`], for each allocation.
    #[inline(always)]
    fn is_mine_hot(&self) -> bool {
        self.own_hot().life.load(Ordering::Acquire) == self.member.life
    }

    /// Sums the living lines, this process's included. `pending` leaves out `mine`.
    #[inline(never)]
    fn sum(&self, mine: u64) -> Sum {
        let (mut booked, mut pending, mut place) = (0_u64, 0_u64, 0);
        let (tenant, lines) = (self.member.tenant, self.lines());
        // Asked each time: what a line had may have moved to a new one further down.
        while place < tenant.places_in_use() {
            let line = &lines[place % PROCESSES];
            if counts(line) {
                // At most 1,024 lines of 45 bits: no overflow.
                let (line_booked, line_pending) = read(line);
                booked += line_booked;
                pending += line_pending;
            }
            place += 1;
        }
        Sum { booked, pending_elsewhere: pending.saturating_sub(mine) }
    }

    /// Reserves `bytes` under a quota in bytes. What is reserved is booked at once.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing is booked.
    #[inline]
    pub fn reserve(&self, bytes: u64, quota: u64) -> Result<Reservation, Refusal> {
        self.reserve_as(bytes, quota, None)
    }

    /// Reserves `bytes` where no question arises: with all that is booked, pending or not, the tenant stays `margin` bytes below a quota in
    /// bytes. `None`: nothing is booked, and [`Books::reserve`] knows more.
    ///
    /// A straight line: most allocations go this way and no further.
    #[inline(always)]
    #[must_use]
    pub fn reserve_at_once(&self, bytes: u64, quota: u64, margin: u64) -> Option<Reservation> {
        let (own, life, wish) = (self.own_hot(), self.member.life, units(bytes));
        if bytes > LARGEST_BYTES || !self.is_mine_hot() || !word::add_hot(own, life, wish, wish) {
            return None;
        }
        let (mut booked, mut place) = (0_u64, 0);
        let (tenant, lines) = (self.member.tenant, self.lines());
        // No iterator: at the guest's level of optimization it is a call for each line. As in `sum`.
        while place < tenant.places_in_use() {
            let line = &lines[place % PROCESSES];
            if counts(line) {
                booked += read(line).0;
            }
            place += 1;
        }
        // As in `reserve`: a line that was closed meanwhile was not in the sum.
        if booked.saturating_add(margin) <= quota && self.is_mine_hot() {
            return Some(Reservation::new(bytes, self.member));
        }
        self.settle(0, wish, wish);
        None
    }

    /// [`Books::commit`] of all that was reserved, or of nothing of it.
    #[inline(always)]
    pub fn settle_at_once(&self, reservation: Reservation, is_taken: bool) {
        let reserved = units(reservation.bytes());
        let is_settled = reservation.is_of(self.member) && {
            let back = if is_taken { 0 } else { reserved };
            word::settle_at_once(self.own_hot(), self.member.life, back, reserved)
        };
        if !is_settled {
            let taken = if is_taken { reservation.bytes() } else { 0 };
            self.commit(reservation, taken);
        }
    }

    /// Reserves `bytes` of an object that other processes of the tenant may hold too: where one does, it is booked in vain. What is
    /// committed must be as much; before it is given back, [`Books::unshare`].
    ///
    /// # Errors
    /// As [`Books::reserve`].
    pub fn reserve_shared(&self, key: ShareKey, bytes: u64, quota: u64) -> Result<Reservation, Refusal> {
        self.reserve_as(bytes, quota, Some(key))
    }

    fn reserve_as(&self, bytes: u64, quota: u64, key: Option<ShareKey>) -> Result<Reservation, Refusal> {
        let wish = units(bytes);
        let mut attempt = 0;
        loop {
            if !self.is_mine() {
                return Err(Refusal::Evicted);
            }
            if bytes > quota.min(LARGEST_BYTES) {
                return Err(Refusal::OverQuota { booked: self.sum(0).booked });
            }
            // Whoever sees them booked also sees that they may go again.
            if !word::add(self.own(), self.member.life, wish, wish) {
                return Err(Refusal::Evicted);
            }
            if let Some(key) = key {
                self.share(key, bytes);
            }
            let mut sum = self.sum(wish * UNIT_BYTES);
            let mut verdict = quota::judge(sum, quota);
            if verdict != Verdict::Granted && self.member.tenant.shares_memory() {
                sum = self.sum_less_credit(wish * UNIT_BYTES);
                verdict = quota::judge(sum, quota);
            }
            // A line that was closed meanwhile was not in the sum: the next turn finds out.
            if verdict == Verdict::Granted && self.is_mine() {
                return Ok(Reservation::new(bytes, self.member));
            }
            if let Some(key) = key {
                self.unshare(key);
            }
            self.settle(0, wish, wish);
            attempt += 1;
            if verdict == Verdict::Refused || attempt == TRIES {
                return Err(Refusal::OverQuota { booked: sum.booked.saturating_sub(bytes) });
            }
            sync::stand_aside(self.member.place, attempt);
        }
    }

    /// [`Books::sum`], less what it counts too often because several processes hold it.
    #[cold]
    fn sum_less_credit(&self, mine: u64) -> Sum {
        let (sum, credit) = self.member.tenant.with_credit(self.gpu.0, || self.sum(mine));
        Sum { booked: sum.booked.saturating_sub(credit * UNIT_BYTES), ..sum }
    }

    /// Notes that this process holds an object of `bytes` that it has booked, and that others may come to hold. `false`: it holds too
    /// many others, so whoever comes to hold it is charged for it again.
    #[inline(never)]
    pub fn share(&self, key: ShareKey, bytes: u64) -> bool {
        self.is_mine() && self.member.tenant.share(self.member.place, key, self.gpu, units(bytes))
    }

    /// Takes the note back: before the object's bytes are given back.
    pub fn unshare(&self, key: ShareKey) {
        let mut member = self.member;
        // Where the books have been moved, so has the note.
        while !(member.has_books() && member.tenant.unshare(member.place, key)) {
            let Some(next) = member.next() else { return };
            member = next;
        }
    }

    /// Adds units to what is booked, and subtracts units from it and from what is pending: in this place's line, or where that has been
    /// moved.
    #[inline(never)]
    fn settle(&self, more: u64, mut booked: u64, mut pending: u64) {
        let mut books = *self;
        while !word::settle(books.own_hot(), books.member.life, more, booked, pending) {
            let Some(next) = books.member.next() else { return };
            // What was reserved in a place whose books were lost went with them.
            if pending != 0 && next.root != books.member.root {
                (booked, pending) = (0, 0);
            }
            books.member = next;
        }
    }

    /// Turns a reservation into `taken` bytes; the rest is given back. More than was reserved is booked all the same:
    /// the books say what is, not what should be.
    #[inline(never)]
    pub fn commit(&self, reservation: Reservation, taken: u64) {
        // If it is not, it went with the line that it was made on.
        let reserved = if reservation.is_of(self.member) { units(reservation.bytes()) } else { 0 };
        self.settle(units(taken), reserved, reserved);
    }

    /// Gives all of a reservation back.
    pub fn cancel(&self, reservation: Reservation) {
        self.commit(reservation, 0);
    }

    /// Books `bytes` whatever the quota says: memory that is taken already.
    #[inline(never)]
    pub fn book(&self, bytes: u64) {
        self.settle(units(bytes), 0, 0);
    }

    /// Gives back `bytes` that were booked.
    #[inline(never)]
    pub fn release(&self, bytes: u64) {
        self.settle(0, units(bytes), 0);
    }

    /// Notes how much of what is booked is overhead (contexts, modules, local memory), bytes.
    #[inline(never)]
    pub fn note_overhead(&self, bytes: u64) {
        if let Some(line) = self.noted_line() {
            line.overhead.store(bytes, Ordering::Relaxed);
        }
    }

    /// Notes how much of what is booked is of memory pools that others can open, bytes.
    #[inline(never)]
    pub fn note_pools(&self, bytes: u64) {
        if let Some(line) = self.noted_line() {
            line.pools.store(bytes, Ordering::Relaxed);
        }
    }

    /// Counts a refused allocation.
    pub fn note_refusal(&self) {
        if let Some(line) = self.noted_line() {
            line.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes that this process has booked and may still take back.
    #[must_use]
    #[inline(never)]
    pub fn own_pending(&self) -> u64 {
        read(self.own()).1
    }

    /// What this process has booked, bytes, and what of it is overhead.
    #[must_use]
    pub fn own_booked(&self) -> (u64, u64) {
        (read(self.own()).0, self.own().overhead.load(Ordering::Relaxed))
    }

    /// Whether what the tenant holds for certain is within a quota in bytes.
    #[must_use]
    pub fn is_within(&self, quota: u64) -> bool {
        let sum = self.sum_less_credit(0);
        sum.booked.saturating_sub(sum.pending_elsewhere) <= quota
    }

    /// What the whole tenant has booked on this GPU.
    #[must_use]
    pub fn tenant_usage(&self) -> Usage {
        self.member.tenant.usage(self.gpu)
    }
}

fn usage<'a>(lines: impl Iterator<Item = &'a Line>) -> Usage {
    lines.filter(|line| counts(line)).fold(Usage::default(), |sum, line| Usage {
        booked: sum.booked + read(line).0,
        overhead: sum.overhead.saturating_add(line.overhead.load(Ordering::Relaxed)),
        refused: sum.refused.saturating_add(line.refused.load(Ordering::Relaxed)),
    })
}

/// A process of a tenant as a reader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessUsage {
    /// Its place in the tenant's file: the byte of the live file that it holds locked while it lives.
    pub place: usize,
    /// Its id in its own PID namespace.
    pub pid: u32,
    /// That namespace, by inode number; 0: unknown.
    pub pid_namespace: u64,
    /// What it has booked.
    pub usage: Usage,
}

impl crate::tenant::Tenant {
    /// What the tenant has booked on `gpu`; what several of its processes hold, once.
    #[must_use]
    pub fn usage(&self, gpu: GpuIndex) -> Usage {
        let lines = || self.places().map(|(place, _)| self.line(gpu.0, place));
        let (usage, credit) = self.with_credit(gpu.0, || usage(lines()));
        Usage { booked: usage.booked.saturating_sub(credit * UNIT_BYTES), ..usage }
    }

    /// What each process of the tenant has booked on `gpu`.
    pub fn processes(&self, gpu: GpuIndex) -> impl Iterator<Item = ProcessUsage> + '_ {
        let book = self.0.books.get(gpu.0).into_iter().flatten();
        let lines = book.zip(self.0.places.iter()).enumerate().filter(|(_, (line, _))| counts(line));
        lines.map(|(number, (line, place))| ProcessUsage {
            place: number,
            pid: place.pid.load(Ordering::Relaxed),
            pid_namespace: place.pid_namespace.load(Ordering::Relaxed),
            usage: usage(core::iter::once(line)),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::name::GpuId;
    use crate::testing::Bench;

    const GPU: GpuId = GpuId::from_words([1, 2]);

    /// Amounts below are in units.
    const U: u64 = UNIT_BYTES;

    /// Several members of one process: each takes the next place by hand, since a process's own locks never collide.
    fn members(bench: &Bench, count: usize) -> Vec<Books> {
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GPU).unwrap();
        (0..count).map(|place| Books::of(bench.member_at(tenant, place), gpu)).collect()
    }

    #[test]
    fn a_reservation_counts_at_once_and_what_is_not_taken_comes_back() {
        let bench = Bench::new();
        let [books] = members(&bench, 1)[..] else { panic!() };
        let reservation = books.reserve(10 * U, 15 * U).unwrap();
        assert_eq!(books.reserve(6 * U, 15 * U), Err(Refusal::OverQuota { booked: 10 * U }));
        books.commit(reservation, 4 * U);
        assert_eq!(books.tenant_usage().booked, 4 * U);
        let rest = books.reserve(11 * U, 15 * U).unwrap();
        books.cancel(rest);
        books.release(4 * U);
        assert_eq!(books.tenant_usage().booked, 0);
    }

    #[test]
    fn a_straight_line_ends_before_the_margin_and_leaves_nothing_booked() {
        let bench = Bench::new();
        let [books, other] = members(&bench, 2)[..] else { panic!() };
        other.book(4 * U);
        for (margin, granted) in [(5 * U, true), (6 * U, false)] {
            let reservation = books.reserve_at_once(6 * U, 15 * U, margin);
            assert_eq!(reservation.is_some(), granted);
            if let Some(reservation) = reservation {
                assert_eq!((books.own_pending(), books.tenant_usage().booked), (6 * U, 10 * U));
                books.settle_at_once(reservation, false);
            }
            assert_eq!((books.own_pending(), books.tenant_usage().booked), (0, 4 * U));
        }
        assert!(books.reserve_at_once(LARGEST_BYTES + 1, quota::UNLIMITED, U).is_none());
        let reservation = books.reserve_at_once(6 * U, quota::UNLIMITED, U).unwrap();
        books.settle_at_once(reservation, true);
        assert_eq!((books.own_pending(), books.tenant_usage().booked), (0, 10 * U));
    }

    #[test]
    fn what_is_taken_beyond_a_reservation_is_booked_all_the_same() {
        let bench = Bench::new();
        let [books] = members(&bench, 1)[..] else { panic!() };
        let reservation = books.reserve(10 * U, 10 * U).unwrap();
        books.commit(reservation, 12 * U);
        assert_eq!(books.tenant_usage().booked, 12 * U);
    }

    #[test]
    fn an_amount_that_no_device_has_is_refused_and_leaves_the_books_as_they_are() {
        let bench = Bench::new();
        let [books] = members(&bench, 1)[..] else { panic!() };
        books.book(7 * U);
        for bytes in [LARGEST_BYTES + 1, 1 << 63, u64::MAX - 6, u64::MAX] {
            for quota in [15 * U, quota::UNLIMITED] {
                assert_eq!(books.reserve(bytes, quota), Err(Refusal::OverQuota { booked: 7 * U }));
                assert_eq!(books.tenant_usage().booked, 7 * U);
            }
        }
    }

    #[test]
    fn a_member_that_lost_its_place_does_not_begin_its_line_again() {
        let bench = Bench::new();
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GPU).unwrap();
        let lost = bench.member_at(tenant, 0);
        Books::of(lost, gpu).book(7 * U);
        let next = bench.member_at(tenant, 0);
        for _ in 0..2 {
            assert_eq!(Books::of(lost, gpu).reserve(U, 15 * U), Err(Refusal::Evicted));
        }
        let reservation = Books::of(next, gpu).reserve(U, 15 * U).unwrap();
        assert_eq!((reservation.bytes(), Books::of(next, gpu).tenant_usage().booked), (U, U));
    }

    #[test]
    fn a_reservation_of_a_life_that_ended_is_booked_in_the_next_as_what_was_taken() {
        let bench = Bench::new();
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GPU).unwrap();
        let reservation = Books::of(bench.member_at(tenant, 0), gpu).reserve(10 * U, 15 * U).unwrap();
        let books = Books::of(bench.member_at(tenant, 0), gpu);
        books.commit(reservation, 4 * U);
        assert_eq!(books.tenant_usage().booked, 4 * U);
        let rest = books.reserve(11 * U, 15 * U).unwrap();
        books.cancel(rest);
    }

    #[test]
    fn a_reservation_made_in_another_place_is_booked_as_what_was_taken() {
        let bench = Bench::new();
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GPU).unwrap();
        let before = Books::of(bench.member_at(tenant, 0), gpu);
        let reservation = before.reserve(10 * U, 1000 * U).unwrap();
        // As one that joins again: in the next place, whose life has the same number.
        let after = Books::of(bench.member_at(tenant, 1), gpu);
        assert_eq!(after.member().life, before.member().life);
        after.book(100 * U);
        before.member().leave();
        after.commit(reservation, 10 * U);
        assert_eq!(after.tenant_usage().booked, 110 * U);
    }

    #[test]
    fn the_quota_is_the_tenants_not_the_processs() {
        let bench = Bench::new();
        let [a, b] = members(&bench, 2)[..] else { panic!() };
        let granted = a.reserve(7 * U, 10 * U).unwrap();
        a.commit(granted, 7 * U);
        assert_eq!(b.reserve(4 * U, 10 * U), Err(Refusal::OverQuota { booked: 7 * U }));
        assert!(b.reserve(3 * U, 10 * U).is_ok());
    }

    #[test]
    fn an_evicted_process_changes_no_books() {
        let bench = Bench::new();
        let [books] = members(&bench, 1)[..] else { panic!() };
        let granted = books.reserve(5 * U, 10 * U).unwrap();
        let next = bench.member_at(bench.tenant(), 0);
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let successor = Books::of(next, gpu);
        assert!(!books.member().has_its_place());
        assert_eq!(books.reserve(U, 10 * U), Err(Refusal::Evicted));
        books.commit(granted, 5 * U);
        books.release(5 * U);
        books.book(5 * U);
        books.note_overhead(5 * U);
        books.note_refusal();
        assert_eq!(successor.tenant_usage(), Usage::default());
    }

    #[test]
    fn an_evicted_process_says_nothing_of_the_pools_of_the_next() {
        let bench = Bench::new();
        let [books] = members(&bench, 1)[..] else { panic!() };
        let [next, onlooker] = [0, 1].map(|place| bench.member_at(bench.tenant(), place));
        next.note_pool_open(true);
        books.note_pools(5 * U);
        books.member().note_pool_exported();
        books.member().note_pool_open(false);
        books.member().bring_pools(true, 3);
        let file = bench.tenant().0;
        assert_eq!(file.places[0].pools.load(Ordering::SeqCst), 1);
        assert_eq!(file.books[0][0].pools.load(Ordering::SeqCst), 0);
        assert!(!onlooker.others_export_pools());
    }

    #[test]
    fn rubbish_in_a_line_never_wraps_to_a_grant() {
        let bench = Bench::new();
        let [a, b] = members(&bench, 2)[..] else { panic!() };
        a.own().booked.store(u64::MAX, Ordering::SeqCst);
        assert!(matches!(b.reserve(U, 10 * U), Err(Refusal::OverQuota { .. })));
        a.release(U);
        assert_eq!(read(a.own()), (0, 0), "a word of no life of its own is nothing");
        b.release(99 * U);
        assert_eq!(read(b.own()), (0, 0));
    }

    #[test]
    fn racing_processes_are_never_over_the_quota_together_and_none_is_refused_falsely() {
        const RACERS: usize = 8;
        const QUOTA: u64 = 4;
        let bench = Bench::new();
        let all = members(&bench, RACERS);
        for _ in 0..200 {
            let start = std::sync::Barrier::new(RACERS);
            let granted: Vec<bool> = std::thread::scope(|scope| {
                let racer = |books: Books| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        books.reserve(U, QUOTA * U).map(|r| books.commit(r, U)).is_ok()
                    })
                };
                let racers: Vec<_> = all.iter().copied().map(racer).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            assert_eq!(granted.iter().filter(|g| **g).count() as u64, QUOTA);
            all.iter().zip(granted).filter(|(_, granted)| *granted).for_each(|(books, _)| books.release(U));
            assert_eq!(all[0].tenant_usage().booked, 0);
        }
    }
}
