//! How the dead are found, and when their books are closed.
//!
//! A dead process's lock is free at once, its memory a little later (20 GiB on an H100: 204 ms). So what it had stays booked
//! until somebody knows that the driver has let it go, and at most two seconds. Nothing here waits, and nobody is needed:
//! whoever looks next takes the next step, and every step can be taken twice.

use crate::event::Event;
use crate::member::{ALIVE, Blind, Member};
use crate::sync::{self, Ordering};
use crate::sys;
use crate::tenant::{GPUS, GpuIndex, Line, Place, Tenant};
use crate::word;

/// How often a tenant is swept for dead processes at most.
pub const SWEEP_INTERVAL_NS: u64 = 1_000_000;

/// How long a dead process's memory stays booked at most.
pub const HOLD_NS: u64 = 2_000_000_000;

/// The bit of a line's life that says that its process was found dead: it counts, and nobody's hand is on it.
const EVICTED: u64 = 1 << 63;

/// The bit of a line's GPU time in flight that says that it is a time since when.
pub(crate) const UNSEEN: u64 = 1 << 63;

/// What is charged at most, ns, for work of which nobody knows when its process has ended.
const MOST_UNSEEN_NS: u64 = 60_000_000_000;

/// The bit of a sweep's time that says that it has not ended.
const SWEEPING: u64 = 1;

const MS: u64 = 1_000_000;
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// The bit of a place's `pools` that says that others can open its process's pools.
pub(crate) const EXPORTS: u32 = 1 << 31;

/// A mark that `life` was found dead at `now_ns`.
fn mark(life: u64, now_ns: u64) -> u64 {
    (life >> 1) << TIME_BITS | (now_ns / MS) & TIME_MASK
}

/// When the holder of `life` was found dead, ms. `None`: it was not. A mark of another life means nothing: it was made by one who
/// slept while the place changed hands.
pub(crate) fn found_dead_ms(place: &Place, life: u64) -> Option<u64> {
    let died = place.died.load(Ordering::Acquire);
    (died != 0 && died >> TIME_BITS == mark(life, 0) >> TIME_BITS).then_some(died & TIME_MASK)
}

/// Marks the holder of `life` as dead, if it is not marked yet. `true`: its books may be closed, because two seconds have passed.
fn hold_is_over(place: &Place, life: u64, now_ns: u64) -> bool {
    let elapsed = found_dead_ms(place, life).and_then(|at| ((now_ns / MS) & TIME_MASK).checked_sub(at));
    if let Some(elapsed) = elapsed {
        return elapsed >= HOLD_NS / MS;
    }
    // Not marked, or marked with a time yet to come: rubbish, or another time namespace's.
    let old = place.died.load(Ordering::Relaxed);
    let _ = place.died.compare_exchange(old, mark(life, now_ns), Ordering::AcqRel, Ordering::Relaxed);
    false
}

/// Whether what the dead process of a place had may live on: a pool that it exported belongs to whoever has it open, and no
/// driver says whose pool that is. So it stays booked as long as any process of the tenant has a pool of another open.
#[inline(never)]
fn lives_on(tenant: Tenant, number: usize, place: &Place, now_ns: u64) -> bool {
    let has_open = |(other, at): (usize, &Place)| {
        let life = at.life.load(Ordering::Acquire);
        // Two of the dead must not keep each other.
        let died = || found_dead_ms(at, life).and_then(|died| ((now_ns / MS) & TIME_MASK).checked_sub(died));
        other != number
            && life & ALIVE != 0
            && at.pools.load(Ordering::SeqCst) & !EXPORTS != 0
            && (died().is_none_or(|ago| ago < HOLD_NS / MS) || lives_after_all(tenant, other, at))
    };
    place.pools.load(Ordering::SeqCst) & EXPORTS != 0 && tenant.places().any(has_open)
}

/// Whether the process of a place lives although its lock is free: its program has closed the live file's descriptor, or somebody has
/// removed the file. Known within a PID namespace only; what such a process has stays booked until it ends. One that has begun in another
/// place, after `exec` or since it found out, has nothing here.
#[inline(never)]
fn lives_after_all(tenant: Tenant, number: usize, place: &Place) -> bool {
    let who = |place: &Place| {
        let words = [&place.started, &place.pid_namespace].map(|word| word.load(Ordering::Relaxed));
        (words, place.pid.load(Ordering::Relaxed))
    };
    let ([started, namespace], pid) = who(place);
    let is_same = |(other, at): (usize, &Place)| {
        let life = at.life.load(Ordering::Acquire);
        other != number && life & ALIVE != 0 && found_dead_ms(at, life).is_none() && who(at) == who(place)
    };
    started != 0
        && namespace != 0
        && sys::start_of(pid) == Some(started)
        && namespace == crate::member::pid_namespace()
        && !tenant.places().any(is_same)
}

/// Closes what may be closed of the books that the dead holder of `life` left. `true`: nothing of them is left, and the place is
/// free.
#[inline(never)]
pub(crate) fn bury(tenant: Tenant, number: usize, place: &Place, life: u64, now_ns: u64) -> bool {
    let is_over = hold_is_over(place, life, now_ns) && !lives_after_all(tenant, number, place);
    let lives_on = is_over && lives_on(tenant, number, place, now_ns);
    // Read first: once its lines have ended, the place may be another's.
    let pid = place.pid.load(Ordering::Relaxed);
    let lines = (0..GPUS).map(|gpu| (gpu, tenant.line(gpu, number)));
    let mut left = false;
    let mut closed = 0_u64;
    for (gpu, line) in lines.filter(|(_, line)| is_of(line, life)) {
        charge(tenant, gpu, line, now_ns);
        if lives_on {
            closed = closed.saturating_add(keep_pools(tenant, number, gpu, line, life));
        }
        let booked = word::booked_bytes(line);
        if is_over && !lives_on || booked == 0 {
            closed = closed.saturating_add(end_line(tenant, number, gpu, line, life));
        } else {
            // If it lives after all, because its program has closed the live file's descriptor, it finds itself evicted at its next
            // reservation, and comes back with its total before its books are closed.
            let _ = line.life.compare_exchange(life, life | EVICTED, Ordering::SeqCst, Ordering::Relaxed);
            left = true;
        }
    }
    log(tenant, pid, closed);
    if left {
        return false;
    }
    // Of two who are here at once, one frees the place; and one that has been taken since has another life.
    let _ = place.life.compare_exchange(life, life & !ALIVE, Ordering::AcqRel, Ordering::Relaxed);
    place.life.load(Ordering::Acquire) == life & !ALIVE
}

/// Charges what the dead process had on the GPU, once.
fn charge(tenant: Tenant, gpu: usize, line: &Line, now_ns: u64) {
    let [mut used_ns, mut owed_ns] =
        [&line.in_flight_ns, &line.owed_ns].map(|word| word.swap(0, Ordering::Relaxed));
    if used_ns & UNSEEN != 0 {
        used_ns = now_ns.saturating_sub(used_ns & !UNSEEN).min(MOST_UNSEEN_NS);
        owed_ns = used_ns.saturating_sub(owed_ns);
    }
    if used_ns != 0
        && let Some(meter) = tenant.meter(GpuIndex(gpu))
    {
        meter.charge_the_gone(used_ns, owed_ns);
    }
}

/// Takes out of a dead process's line all but what its pools hold; how many bytes.
fn keep_pools(tenant: Tenant, place: usize, gpu: usize, line: &Line, life: u64) -> u64 {
    // First what it shared: from here on whoever else has it is charged for it.
    tenant.forget_shares(place, Some(gpu));
    let (before, pools) = (word::booked_bytes(line), line.pools.load(Ordering::Relaxed));
    let shrank = word::shrink(line, life, word::units(pools));
    if shrank { before.saturating_sub(pools) } else { 0 }
}

fn log(tenant: Tenant, pid: u32, booked: u64) {
    if booked != 0 {
        tenant.events().add(sys::process_id(), Event::Reaped { pid, booked });
    }
}

/// Whether a line counts for `life`, whose process may have been found dead.
pub(crate) fn is_of(line: &Line, life: u64) -> bool {
    line.life.load(Ordering::SeqCst) & !EVICTED == life
}

/// Ends one line of a life that is over; the bytes that were booked in it, where this is the one to do so.
#[inline(never)]
fn end_line(tenant: Tenant, place: usize, gpu: usize, line: &Line, life: u64) -> u64 {
    // First what it shared, so that nobody counts on it for another's memory.
    tenant.forget_shares(place, Some(gpu));
    // Read first: once it has ended, the place may be another's.
    let booked = word::booked_bytes(line);
    let end = |from| line.life.compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if end(life) || end(life | EVICTED) { booked } else { 0 }
}

/// Ends all lines of a life that its own process gives up.
pub(crate) fn end_lines(tenant: Tenant, place: usize, life: u64) {
    for gpu in 0..GPUS {
        end_line(tenant, place, gpu, tenant.line(gpu, place), life);
    }
}

impl Member {
    /// Looks for dead processes, at most once a millisecond for the whole tenant, and closes the books of those whose memory need
    /// not be held any longer. Returns how many were closed.
    ///
    /// # Errors
    /// [`Blind`], and nobody is taken for dead: this process has to join again.
    pub fn sweep(&self) -> Result<usize, Blind> {
        let (now, last) = (sync::monotonic_ns(), self.tenant.0.summary.swept_ns.load(Ordering::Relaxed));
        // A time in the future is rubbish, or another clock's: sweep, and put it right.
        if now.checked_sub(last).is_some_and(|ago| ago < SWEEP_INTERVAL_NS) {
            return Ok(0);
        }
        if !self.sees_the_living() {
            return Err(Blind);
        }
        let swept = &self.tenant.0.summary.swept_ns;
        let (began, ended) = (now | SWEEPING, now & !SWEEPING);
        if swept.compare_exchange(last, began, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(0);
        }
        let others = self.tenant.places().filter(|(number, _)| *number != self.place);
        let closed = others.filter(|(number, place)| self.reap(*number, place, now)).count();
        let _ = swept.compare_exchange(began, ended, Ordering::AcqRel, Ordering::Relaxed);
        Ok(closed)
    }

    /// Whether another process is at a sweep, or died at it less than a millisecond ago: what it will find is worth waiting for.
    #[must_use]
    pub fn is_being_swept(&self) -> bool {
        let last = self.tenant.0.summary.swept_ns.load(Ordering::Acquire);
        let ago = sync::monotonic_ns().checked_sub(last);
        last & SWEEPING != 0 && ago.is_some_and(|ago| ago < SWEEP_INTERVAL_NS)
    }

    fn reap(&self, number: usize, place: &Place, now_ns: u64) -> bool {
        let life = place.life.load(Ordering::Acquire);
        let is_dead = life & ALIVE != 0
            && (found_dead_ms(place, life).is_some() || self.is_locked_elsewhere(number) == Ok(false));
        is_dead && bury(self.tenant, number, place, life, now_ns)
    }

    /// Calls `each` with the dead whose memory on `gpu` is still booked.
    #[inline(never)]
    fn each_dead(&self, gpu: GpuIndex, each: &mut dyn FnMut(Dead<'_>)) {
        for (number, place) in self.tenant.places() {
            let line = self.tenant.line(gpu.0, number);
            let life = place.life.load(Ordering::Acquire);
            let is_held = life & ALIVE != 0
                && is_of(line, life)
                && found_dead_ms(place, life).is_some()
                && !lives_after_all(self.tenant, number, place);
            if is_held {
                let lives_on = lives_on(self.tenant, number, place, sync::monotonic_ns());
                each(Dead { number, place, life, line, lives_on });
            }
        }
    }

    /// Bytes on `gpu` that are booked for processes that were found dead, and will be given back.
    #[must_use]
    pub fn held_for_the_dead(&self, gpu: GpuIndex) -> u64 {
        let mut held = 0_u64;
        self.each_dead(gpu, &mut |dead| {
            let kept = if dead.lives_on { dead.line.pools.load(Ordering::Relaxed) } else { 0 };
            held = held.saturating_add(word::booked_bytes(dead.line).saturating_sub(kept));
        });
        held
    }

    /// Closes the books on `gpu` of those processes found dead that `is_gone` knows the driver to have done with, by the id that
    /// they had in this process's PID namespace. Returns how many were closed.
    pub fn close_books_of_gone(&self, gpu: GpuIndex, mut is_gone: impl FnMut(u32) -> bool) -> usize {
        let here = self.entry().pid_namespace.load(Ordering::Relaxed);
        let mut closed = 0;
        self.each_dead(gpu, &mut |Dead { number, place, life, line, lives_on }| {
            let pid = place.pid.load(Ordering::Relaxed);
            let is_near = here != 0 && place.pid_namespace.load(Ordering::Relaxed) == here;
            if !is_near || !is_gone(pid) {
                return;
            }
            if lives_on {
                let freed = keep_pools(self.tenant, number, gpu.0, line, life);
                log(self.tenant, pid, freed);
                closed += usize::from(freed != 0);
            } else {
                log(self.tenant, pid, end_line(self.tenant, number, gpu.0, line, life));
                bury(self.tenant, number, place, life, sync::monotonic_ns());
                closed += 1;
            }
        });
        closed
    }
}

/// A dead process whose memory on a GPU is still booked.
struct Dead<'a> {
    number: usize,
    place: &'a Place,
    life: u64,
    line: &'a Line,
    /// Whether its pools stay.
    lives_on: bool,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ledger::Books;
    use crate::name::GpuId;
    use crate::testing::Bench;
    use cuota_governor::budget::{Budget, Look, book_period, book_window};
    use cuota_governor::cap::Cap;

    const GPU: GpuId = GpuId::from_words([1, 2]);
    const MIB: u64 = 1 << 20;

    /// A member that has booked `mib` MiB and one that looks on.
    fn two(bench: &Bench, mib: u64) -> (&'static Member, Books, GpuIndex) {
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GPU).unwrap();
        let dead = bench.member_at(tenant, 0);
        Books::of(dead, gpu).book(mib * MIB);
        (dead, Books::of(bench.member_at(tenant, 1), gpu), gpu)
    }

    fn bury_at(member: &Member, now_ns: u64) -> bool {
        let place = &member.tenant.0.places[member.place];
        bury(member.tenant, member.place, place, member.life, now_ns)
    }

    #[test]
    fn what_the_dead_had_stays_booked_for_two_seconds() {
        let bench = Bench::new();
        let (dead, books, gpu) = two(&bench, 77);
        for now in [5 * MS, 6 * MS, HOLD_NS + 4 * MS] {
            assert!(!bury_at(dead, now));
            assert_eq!(books.tenant_usage().booked, 77 * MIB);
            assert_eq!(books.member().held_for_the_dead(gpu), 77 * MIB);
        }
        assert!(bury_at(dead, HOLD_NS + 5 * MS));
        assert_eq!(books.tenant_usage().booked, 0);
        assert_eq!(books.member().held_for_the_dead(gpu), 0);
        let logged: Vec<_> = dead.tenant.events().entries().map(|entry| entry.event).collect();
        assert_eq!(logged, [Event::Reaped { pid: sys::process_id(), booked: 77 * MIB }]);
    }

    #[test]
    fn work_of_the_dead_is_charged_once_and_under_the_cap_of_the_budgets_own_words() {
        let bench = Bench::new();
        let (dead, _, gpu) = two(&bench, 77);
        let meter = dead.tenant.meter(gpu).unwrap();
        let cap = Cap::from_ppm(100_000).unwrap();
        let look = Look { now_ns: sys::monotonic_ns(), cap, clock_went_back: false, takes_turns: false };
        let (window, opening) = book_window(0, look, 1000 * MS);
        meter.window().store(window, Ordering::Relaxed);
        meter.period().store(book_period(0, look, 1000 * MS, opening).0, Ordering::Relaxed);
        dead.note_in_flight(gpu, 50 * MS, 40 * MS);
        for now in [5 * MS, 6 * MS, HOLD_NS + 5 * MS] {
            bury_at(dead, now);
            assert_eq!(meter.used_ns(), 50 * MS);
        }
        let words = [meter.window(), meter.period()].map(|word| word.load(Ordering::Relaxed));
        let budget = Budget { window: words[0], period: words[1] };
        // As that look saw it: a quantum of 2 ms was credit.
        assert!((1036 * MS..=1042 * MS).contains(&budget.debt_ns(look)), "{}", budget.debt_ns(look));
    }

    #[test]
    fn work_that_nobody_looked_at_is_charged_until_its_process_is_found_dead_or_for_a_minute() {
        for (found_ns, charged_ns) in [(2005 * MS, 2000 * MS), (HOLD_NS * 1000, MOST_UNSEEN_NS)] {
            let bench = Bench::new();
            let (dead, _, gpu) = two(&bench, 77);
            dead.note_unseen(gpu, 5 * MS, 40 * MS);
            bury_at(dead, found_ns);
            assert_eq!(dead.tenant.meter(gpu).unwrap().used_ns(), charged_ns);
        }
    }

    #[test]
    fn work_of_the_dead_is_owed_by_nobody_where_nothing_was_booked() {
        let bench = Bench::new();
        let (dead, _, gpu) = two(&bench, 77);
        let meter = dead.tenant.meter(gpu).unwrap();
        dead.note_in_flight(gpu, 50 * MS, u64::MAX);
        bury_at(dead, 5 * MS);
        assert_eq!([meter.window(), meter.period()].map(|word| word.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn one_taken_for_dead_that_lives_finds_itself_evicted_while_its_books_still_count() {
        let bench = Bench::new();
        let (dead, books, _) = two(&bench, 77);
        bury_at(dead, 5 * MS);
        let own = Books::of(dead, GpuIndex(0));
        assert_eq!(own.reserve(MIB, 1000 * MIB), Err(crate::ledger::Refusal::Evicted));
        own.release(70 * MIB);
        assert_eq!(books.tenant_usage().booked, 7 * MIB, "what it gives back it has not any more");
        dead.leave();
        assert_eq!(books.tenant_usage().booked, 0);
    }

    #[test]
    fn the_books_of_one_who_had_nothing_are_closed_at_once() {
        let bench = Bench::new();
        let (dead, ..) = two(&bench, 0);
        assert!(bury_at(dead, 5 * MS));
    }

    #[test]
    fn the_drivers_word_closes_the_books_before_the_time_is_up() {
        let bench = Bench::new();
        let (dead, books, gpu) = two(&bench, 77);
        assert_eq!(books.member().close_books_of_gone(gpu, |_| true), 0, "nobody was found dead");
        bury_at(dead, sys::monotonic_ns());
        assert_eq!(books.member().close_books_of_gone(gpu, |_| false), 0);
        assert_eq!(books.member().close_books_of_gone(gpu, |pid| pid == sys::process_id()), 1);
        assert_eq!(books.tenant_usage().booked, 0);
        assert!(!dead.lives());
    }

    #[test]
    fn exported_pools_of_the_dead_stay_booked_as_long_as_anybody_has_a_pool_open() {
        [false, true].into_iter().for_each(pools_live_on);
    }

    fn pools_live_on(by_driver: bool) {
        let bench = Bench::new();
        let (dead, books, gpu) = two(&bench, 77);
        let heir = books.member();
        dead.note_pool_exported();
        Books::of(dead, gpu).note_pools(32 * MIB);
        assert!(heir.others_export_pools());
        heir.note_pool_open(true);
        assert!(!bury_at(dead, 5 * MS));
        assert_eq!(books.tenant_usage().booked, 77 * MIB);
        assert_eq!(heir.held_for_the_dead(gpu), 45 * MIB);
        if by_driver {
            assert_eq!(heir.close_books_of_gone(gpu, |_| true), 1);
        } else {
            assert!(!bury_at(dead, HOLD_NS + 5 * MS));
        }
        assert_eq!(books.tenant_usage().booked, 32 * MIB, "the rest has gone");
        assert_eq!(heir.close_books_of_gone(gpu, |_| true), 0);
        assert_eq!(heir.held_for_the_dead(gpu), 0, "nothing to wait for");
        heir.note_pool_open(false);
        assert!(bury_at(dead, HOLD_NS + 5 * MS));
        assert_eq!(books.tenant_usage().booked, 0);
        assert!(!heir.others_export_pools());
    }

    #[test]
    fn what_a_dead_exporter_of_pools_shared_is_charged_to_whoever_has_it() {
        let bench = Bench::new();
        let (dead, books, _) = two(&bench, 77);
        let (heir, key) = (books.member(), crate::share::ShareKey::of(b"memory"));
        let theirs = Books::of(dead, GpuIndex(0));
        theirs.share(key, 45 * MIB);
        theirs.note_pools(32 * MIB);
        dead.note_pool_exported();
        heir.note_pool_open(true);
        let reserved = books.reserve_shared(key, 45 * MIB, 1000 * MIB).unwrap();
        books.commit(reserved, 45 * MIB);
        assert_eq!(books.tenant_usage().booked, 77 * MIB);
        assert!(!bury_at(dead, 5 * MS) && !bury_at(dead, HOLD_NS + 5 * MS));
        assert_eq!(books.tenant_usage().booked, (45 + 32) * MIB);
    }

    #[test]
    fn two_dead_that_had_each_others_pools_do_not_keep_each_other() {
        let bench = Bench::new();
        let (one, books, _) = two(&bench, 77);
        let other = books.member();
        books.book(MIB);
        for member in [one, other] {
            Books::of(member, GpuIndex(0)).note_pools(MIB);
            member.bring_pools(true, 1);
            // This process lives, and would be told from the dead by this.
            member.tenant.0.places[member.place].started.store(0, Ordering::Relaxed);
        }
        for member in [one, other] {
            assert!(!bury_at(member, 5 * MS));
        }
        for member in [one, other] {
            assert!(bury_at(member, HOLD_NS + 5 * MS));
        }
    }

    #[test]
    fn nobodys_word_counts_across_pid_namespaces() {
        let bench = Bench::new();
        let (dead, books, gpu) = two(&bench, 77);
        bury_at(dead, sys::monotonic_ns());
        for other in [0, 1] {
            dead.tenant.0.places[0].pid_namespace.store(other, Ordering::Relaxed);
            assert_eq!(books.member().close_books_of_gone(gpu, |_| true), 0);
        }
        assert_eq!(books.tenant_usage().booked, 77 * MIB);
    }

    #[test]
    fn a_mark_of_a_life_that_ended_does_not_bury_the_next() {
        let bench = Bench::new();
        let (dead, ..) = two(&bench, 77);
        bury_at(dead, 5 * MS);
        let late = dead.tenant.0.places[0].died.load(Ordering::Relaxed);
        assert!(bury_at(dead, HOLD_NS + 5 * MS));
        let next = bench.member_at(bench.tenant(), 0);
        // One who slept since the first was found dead.
        next.tenant.0.places[0].died.store(late, Ordering::Relaxed);
        Books::of(next, GpuIndex(0)).book(MIB);
        assert!(!bury_at(next, 2 * HOLD_NS), "its own two seconds begin");
        assert!(next.lives());
    }

    #[test]
    fn a_time_yet_to_come_is_put_right() {
        let bench = Bench::new();
        let (dead, ..) = two(&bench, 77);
        bury_at(dead, 9 * HOLD_NS);
        assert!(!bury_at(dead, 5 * MS));
        assert!(bury_at(dead, HOLD_NS + 5 * MS));
    }
}
