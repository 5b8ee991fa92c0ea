//! A tenant's seat in a GPU's arena: it asks for turns, has them, and hands them over.
//!
//! What is decided stands in `cuota_governor`; here it is read from the arena and written to it. The turn is one word, and whoever changes it is
//! the only one to charge the turn that ended, so a process that dies between any two steps leaves at most one turn uncharged, and a tenant that
//! is offered a turn which nobody accepts. All processes of a tenant have the same seat.
//!
//! Times are the arena's ([`Arena::common_ns`]).

use core::sync::atomic::{AtomicU64 as OwnWord, AtomicUsize as OwnIndex};

use cuota_governor::arbiter::{self, Bid, Shares};
use cuota_governor::doubt::Doubt;
use cuota_governor::entitlement::{Entitlement, Priority};
use cuota_governor::hand_over::{Change, Intent, Move, Scene};
use cuota_governor::turn::Turn;

use crate::arena::{Arena, Place, SEATS};
use crate::sync::{self, Ordering};

/// What has not been seen for so long, ns, and asks for nothing, gives its seat to a newcomer.
const STALE_NS: u64 = 10_000_000_000;

/// A tenant that was not here for so long, ns, is no company; when it comes, it says so.
pub const AWAY_NS: u64 = STALE_NS / 2;

/// For so long it counts that somebody has seen outsiders, ns: who sees them says so every second.
pub const OUTSIDERS_NS: u64 = 3_000_000_000;

/// How long a launch waits for a turn at most, ns. Then it goes; and a tenant that by its share has a turn at least every half of that time
/// ([`cuota_governor::arbiter::LEAST_PPM`]: one a second, below a higher priority) knows that somebody does not keep to the rules.
pub const LONGEST_WAIT_NS: u64 = 3_000_000_000;

/// How often a change is tried that others come before.
const TRIES: u32 = 8;

/// The shortest sleep, ns.
const NAP_NS: u64 = 50_000;

/// A tenant's seat, as one of its processes has it.
pub struct Seat {
    arena: Arena,
    number: OwnIndex,
    tenant: u64,
    doubt: OwnWord,
}

/// What a launch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The tenant has the turn, until then, ns.
    Go {
        /// See the variant.
        until_ns: u64,
    },
    /// Sleep on the bell while it is as it was ([`Seat::sleep`]), until then, ns, and ask again.
    Wait {
        /// The bell as it was before the arena was looked at.
        bell: u32,
        /// See the variant.
        until_ns: u64,
    },
    /// Launch, whoever has the turn: turns are left alone.
    Aloof,
}

impl Arena {
    /// A seat for the tenant whose name has this hash, which is not 0. `None`: all are taken.
    #[must_use]
    pub fn seat(self, tenant: u64, entitlement: Entitlement, now_ns: u64) -> Option<Seat> {
        let seat = self.no_seat(tenant);
        seat.take(entitlement.to_word(), now_ns).then_some(seat)
    }

    /// A tenant's seat before it has taken any.
    #[must_use]
    pub fn no_seat(self, tenant: u64) -> Seat {
        Seat { arena: self, number: OwnIndex::new(SEATS), tenant, doubt: OwnWord::new(0) }
    }

    /// What stands in the arena for a seat; the remainder is the number itself, and says so to the compiler.
    fn place(self, number: usize) -> &'static Place {
        &self.file.places[number % SEATS]
    }

    fn find_seat(self, tenant: u64, now_ns: u64) -> Option<usize> {
        for _ in 0..TRIES {
            let mine = self.first_of(tenant);
            let (index, before) = match mine {
                Some(index) => return Some(index),
                None => self.free_seat(now_ns)?,
            };
            let place = self.place(index);
            let debt = place.horizon.load(Ordering::SeqCst);
            if place.tenant.compare_exchange(before, tenant, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            if debt > now_ns {
                // Another tenant's. A process of this one may be here already: what it wrote stays.
                let _ = place.horizon.compare_exchange(debt, now_ns, Ordering::SeqCst, Ordering::SeqCst);
            }
            place.seen_ns.store(now_ns, Ordering::SeqCst);
            self.announce();
            // Another process of the tenant may have taken another seat meanwhile. Each looks after it has taken its own, so one of them at
            // least sees both: the first seat counts.
            let first = self.first_of(tenant).unwrap_or(index);
            if first != index {
                let _ = place.tenant.compare_exchange(tenant, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
            return Some(first);
        }
        None
    }

    /// A tenant has come: who is alone may be asleep.
    #[cold]
    fn announce(self) {
        self.file.desk.comings.fetch_add(1, Ordering::SeqCst);
        let taken = self.file.places.iter().filter(|place| place.tenant.load(Ordering::SeqCst) != 0);
        taken.for_each(|place| sync::ring(&place.bell));
    }

    fn first_of(self, tenant: u64) -> Option<usize> {
        self.file.places.iter().position(|place| place.tenant.load(Ordering::SeqCst) == tenant)
    }

    /// A seat that nobody has, or that was left long ago, and what stands there.
    fn free_seat(self, now_ns: u64) -> Option<(usize, u64)> {
        let is_free = |(_, place): &(usize, &Place)| {
            let seen_ns = place.seen_ns.load(Ordering::SeqCst);
            let is_stale = now_ns.abs_diff(seen_ns) > STALE_NS && place.asks.load(Ordering::SeqCst) == 0;
            place.tenant.load(Ordering::SeqCst) == 0 || is_stale
        };
        let (index, place) = self.file.places.iter().enumerate().find(is_free)?;
        Some((index, place.tenant.load(Ordering::SeqCst)))
    }
}

impl Seat {
    /// What stands in the arena for it. Not before a seat was taken.
    fn place(&self) -> &'static Place {
        self.arena.place(self.index())
    }

    /// Which seat it is.
    #[inline(always)]
    pub(crate) fn index(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Takes a seat: the first, or another where the last was lost. `entitlement`: its word. `false`: all are taken.
    #[must_use]
    pub fn take(&self, entitlement: u64, now_ns: u64) -> bool {
        let Some(index) = self.arena.find_seat(self.tenant, now_ns) else { return false };
        self.number.store(index, Ordering::Relaxed);
        self.entitle(entitlement);
        true
    }

    /// The arena's time, ns.
    #[cfg(not(loom))]
    #[inline(never)]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.arena.common_ns(crate::sys::monotonic_ns())
    }

    /// The arena that it is in.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The bell, for [`Seat::sleep`]. Read it before what is to be waited for.
    #[must_use]
    pub fn bell(&self) -> u32 {
        self.place().bell.load(Ordering::SeqCst)
    }

    /// Wakes who sleeps on this tenant's bell.
    pub fn ring(&self) {
        sync::ring(&self.place().bell);
    }

    /// Whether the seat is still this tenant's: one that was away for long may have lost it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.place().tenant.load(Ordering::SeqCst) == self.tenant
    }

    /// Says what the tenant is entitled to, as a word: the policy was read again.
    pub fn entitle(&self, entitlement: u64) {
        self.place().entitlement.store(entitlement, Ordering::SeqCst);
    }

    /// Until when this tenant may launch, ns: one load. `None`: it has no turn.
    #[inline]
    #[must_use]
    pub fn look(&self, now_ns: u64) -> Option<u64> {
        let turn = Turn::from_word(self.arena.file.desk.turn.load(Ordering::Acquire), now_ns).ok()?;
        (turn.is_of(self.index()) && now_ns < turn.until_ns()).then_some(turn.until_ns())
    }

    /// Says that a process of the tenant is at work: between two batches of a turn, and now and then while it is alone.
    pub fn touch(&self, now_ns: u64) {
        let place = self.place();
        let seen_ns = place.seen_ns.load(Ordering::Relaxed);
        place.seen_ns.store(now_ns, Ordering::SeqCst);
        if now_ns.abs_diff(seen_ns) > AWAY_NS {
            self.arena.announce();
        }
    }

    /// The tenant's last process ends: it wants no turns, and is no company from now on. For five seconds more nobody else has its seat, and its debt
    /// waits for it there.
    pub fn leave(&self, now_ns: u64) {
        self.withdraw();
        self.place().seen_ns.store(now_ns.saturating_sub(AWAY_NS + 1), Ordering::SeqCst);
    }

    /// A number that changes when another tenant comes: one load. Read it before [`Seat::has_company`].
    #[inline]
    #[must_use]
    pub fn comings(&self) -> u64 {
        self.arena.file.desk.comings.load(Ordering::Acquire)
    }

    /// Whether another tenant was here within the last seconds. `false`: turns are nothing to this one until [`Seat::comings`] changes.
    #[must_use]
    pub fn has_company(&self, now_ns: u64) -> bool {
        (0..SEATS).any(|index| self.is_company(index, now_ns))
    }

    /// Whether another tenant has this seat, and was here within the last seconds.
    fn is_company(&self, index: usize, now_ns: u64) -> bool {
        let place = self.arena.place(index);
        index != self.index()
            && place.tenant.load(Ordering::SeqCst) != 0
            && now_ns.abs_diff(place.seen_ns.load(Ordering::SeqCst)) <= AWAY_NS
    }

    fn priority(&self, index: usize) -> Priority {
        let word = self.arena.place(index).entitlement.load(Ordering::Relaxed);
        Entitlement::from_word(word).unwrap_or_default().priority
    }

    /// Says that turns are nothing here: there is a process on the GPU that takes none, or MPS.
    pub fn note_outsiders(&self, now_ns: u64) {
        self.arena.file.desk.outsiders_ns.store(now_ns, Ordering::SeqCst);
    }

    /// Whether somebody has said so within the last seconds.
    #[must_use]
    pub fn is_beside_outsiders(&self, now_ns: u64) -> bool {
        now_ns.abs_diff(self.arena.file.desk.outsiders_ns.load(Ordering::SeqCst)) < OUTSIDERS_NS
    }

    /// Whether a tenant of higher priority was here within the last seconds.
    #[must_use]
    pub fn is_below_another(&self, now_ns: u64) -> bool {
        (0..SEATS)
            .any(|index| self.is_company(index, now_ns) && self.priority(index) > self.priority(self.index()))
    }

    /// For how long no process of the tenant has been at work, ns.
    #[must_use]
    pub fn quiet_ns(&self, now_ns: u64) -> u64 {
        let seen_ns = self.place().seen_ns.load(Ordering::Relaxed);
        now_ns.saturating_sub(seen_ns)
    }

    /// A launch wants to go, and has waited since then, ns.
    #[must_use]
    pub fn admit(&self, now_ns: u64, since_ns: u64) -> Admission {
        let doubt = Doubt::from_word(self.doubt.load(Ordering::Relaxed));
        if doubt.is_aloof(now_ns) {
            return Admission::Aloof;
        }
        let place = self.place();
        // Before anything else is looked at: who is offered a turn later than that does not sleep.
        let bell = place.bell.load(Ordering::SeqCst);
        self.ask(place, now_ns);
        match self.step(now_ns, Intent::Launch) {
            Move::Go { until_ns } => Admission::Go { until_ns },
            Move::Change(_) | Move::Wait { .. } if now_ns.saturating_sub(since_ns) >= LONGEST_WAIT_NS => {
                self.note_kept_out(now_ns);
                Admission::Aloof
            }
            Move::Wait { until_ns } => Admission::Wait { bell, until_ns: until_ns.max(now_ns + NAP_NS) },
            // Others come before it again and again.
            Move::Change(_) => Admission::Wait { bell, until_ns: now_ns + NAP_NS },
        }
    }

    /// Does what is to be done. [`Move::Change`]: the last change that it made, or did not get to make.
    fn step(&self, now_ns: u64, intent: Intent) -> Move {
        let mut last = Move::Wait { until_ns: now_ns };
        for _ in 0..TRIES {
            let (word, turn) = self.turn(now_ns);
            if intent != Intent::Launch && turn.holder != Some(self.index()) {
                // Who does not have the turn ends none: nobody's bids are asked for.
                break;
            }
            let mut bids = self.bids(now_ns);
            if intent == Intent::Launch {
                // Another process of the tenant may have given up meanwhile.
                bids[self.index() % SEATS].asks = true;
            }
            if intent == (Intent::Release { asks_on: false }) {
                // Before the turn is anybody's who might offer the next one to this tenant.
                self.withdraw();
            }
            let scene = Scene { bids: bids.as_mut_slice(), turn, me: self.index(), now_ns };
            last = scene.step(intent);
            let Move::Change(change) = last else { break };
            if self.change(word, change) && intent != Intent::Launch {
                break;
            }
        }
        last
    }

    /// Sleeps while the bell is as it was, until a time, ns.
    #[cfg(not(loom))]
    pub fn sleep(&self, bell: u32, until_ns: u64) {
        crate::sys::wait_until(&self.place().bell, bell, self.arena.local_ns(until_ns));
    }

    /// The tenant has launched its last in this turn, and that has not ended.
    pub fn drain(&self, now_ns: u64) {
        let _ = self.step(now_ns, Intent::Drain);
    }

    /// Ends the tenant's turn, if it has one: it wants another, or none for now. Until when it may launch, ns, where the next turn is its own again.
    pub fn release(&self, now_ns: u64, asks_on: bool) -> Option<u64> {
        let _ = self.step(now_ns, Intent::Release { asks_on });
        self.look(now_ns)
    }

    /// The tenant does not want turns for now.
    pub fn withdraw(&self) {
        self.place().asks.store(0, Ordering::SeqCst);
    }

    /// The tenant, of one process, does not want turns for now. One that it was offered meanwhile goes to the next: the others would wait for it until it is
    /// not accepted in time.
    pub fn stand_aside(&self, now_ns: u64) {
        self.withdraw();
        let _ = self.step(now_ns, Intent::Decline);
    }

    /// Charges work that ran on for so long, ns, after others had ended the turn: twice, since they have paid for that time too.
    pub fn note_late(&self, now_ns: u64, late_ns: u64) {
        let _ = self.note_shared(now_ns, late_ns.saturating_mul(2));
    }

    /// Charges work that ran without a turn, ns ([`cuota_governor::habit`]); the tenant's horizon after it, and that of the one furthest behind.
    pub fn note_shared(&self, now_ns: u64, used_ns: u64) -> [u64; 2] {
        let mut bids = self.bids(now_ns);
        let entry_ns = arbiter::entry_ns(&bids, now_ns);
        let (place, bid) = (self.place(), &mut bids[self.index() % SEATS]);
        // Its share is what it would be if it asked.
        bid.asks = true;
        let entitlement = bid.entitlement;
        let worth_ns = arbiter::worth_ns(used_ns, Shares::of(&bids).share_ppm(entitlement));
        place.horizon.fetch_max(entry_ns, Ordering::SeqCst);
        let before_ns = place.horizon.fetch_add(worth_ns, Ordering::SeqCst);
        [before_ns.saturating_add(worth_ns), entry_ns]
    }

    /// Whether one of higher priority has the turn: who shares the GPU with the turns of others stays out of this one too, and asks.
    #[must_use]
    pub fn is_below_holder(&self, now_ns: u64) -> bool {
        let word = self.arena.file.desk.turn.load(Ordering::Acquire);
        let Ok(Turn { holder: Some(holder), .. }) = Turn::from_word(word, now_ns) else { return false };
        self.priority(holder) > self.priority(self.index())
    }

    /// How many tenants want turns.
    #[must_use]
    pub fn askers(&self) -> usize {
        self.arena.file.places.iter().filter(|place| place.asks.load(Ordering::SeqCst) != 0).count()
    }

    fn ask(&self, place: &Place, now_ns: u64) {
        if place.asks.load(Ordering::SeqCst) == 0 {
            let entry_ns = arbiter::entry_ns(&self.bids(now_ns), now_ns);
            let word = place.horizon.load(Ordering::SeqCst);
            if arbiter::horizon_ns(word, now_ns) < word {
                place.horizon.store(entry_ns, Ordering::SeqCst);
            }
            place.horizon.fetch_max(entry_ns, Ordering::SeqCst);
        }
        place.asks.store(now_ns.max(1), Ordering::SeqCst);
        self.touch(now_ns);
    }

    /// The turn, and the word that says so. What makes no sense is nobody's turn.
    fn turn(&self, now_ns: u64) -> (u64, Turn) {
        let word = self.arena.file.desk.turn.load(Ordering::SeqCst);
        let turn = Turn::from_word(word, now_ns).ok().filter(|turn| {
            turn.holder.is_none_or(|holder| self.arena.place(holder).tenant.load(Ordering::SeqCst) != 0)
        });
        let turn = turn.unwrap_or_else(|| {
            self.note_rubbish(now_ns);
            Turn::NOBODYS
        });
        (word, turn)
    }

    #[cold]
    #[inline(never)]
    fn note_rubbish(&self, now_ns: u64) {
        self.arena.file.desk.rubbish.fetch_add(1, Ordering::Relaxed);
        let doubt = Doubt::from_word(self.doubt.load(Ordering::Relaxed)).after_rubbish(now_ns);
        self.doubt.store(doubt.to_word(), Ordering::Relaxed);
    }

    /// A launch has waited for as long as any does.
    #[cold]
    #[inline(never)]
    fn note_kept_out(&self, now_ns: u64) {
        let bids = self.bids(now_ns);
        let (shares, bid) = (Shares::of(&bids), bids[self.index() % SEATS]);
        if shares.period_ns(shares.share_ppm(bid.entitlement)) <= LONGEST_WAIT_NS / 2 {
            self.arena.file.desk.rubbish.fetch_add(1, Ordering::Relaxed);
            self.doubt.store(Doubt::certain(now_ns).to_word(), Ordering::Relaxed);
        }
    }

    fn bids(&self, now_ns: u64) -> [Bid; SEATS] {
        let mut bids = [Bid::default(); SEATS];
        for (bid, place) in bids.iter_mut().zip(&self.arena.file.places) {
            if place.tenant.load(Ordering::SeqCst) == 0 {
                continue;
            }
            bid.asks = place.asks.load(Ordering::SeqCst) != 0;
            bid.horizon_ns = arbiter::horizon_ns(place.horizon.load(Ordering::SeqCst), now_ns);
            let word = place.entitlement.load(Ordering::SeqCst);
            bid.entitlement = Entitlement::from_word(word).unwrap_or_default();
        }
        bids
    }

    /// Makes a change, unless another came before. Only who makes it charges the turn that ended and wakes the next tenant.
    fn change(&self, seen: u64, change: Change) -> bool {
        let desk = &self.arena.file.desk;
        let ended = change.ended.map(|ended| (ended, self.arena.place(ended.holder)));
        // As it was before the turn ended: who asks after that is heard.
        let asked = ended.map_or(0, |(_, place)| place.asks.load(Ordering::SeqCst));
        if desk
            .turn
            .compare_exchange(seen, change.turn.to_word(), Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return false;
        }
        if let Some((ended, place)) = ended {
            desk.passed.fetch_add(1, Ordering::Relaxed);
            place.horizon.fetch_add(ended.worth_ns, Ordering::SeqCst);
            place.held_ns.fetch_add(ended.used_ns, Ordering::Relaxed);
            if ended.is_out && ended.holder != self.index() {
                let _ = place.asks.compare_exchange(asked, 0, Ordering::SeqCst, Ordering::SeqCst);
                desk.ended.fetch_add(1, Ordering::Relaxed);
                place.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (index, place) in self.arena.file.places.iter().enumerate() {
            // Where nobody has it: who began to ask after the bids were read may have looked before the word was changed.
            let is_meant = match change.turn.holder {
                Some(next) => index == next,
                None => place.asks.load(Ordering::SeqCst) != 0,
            };
            if is_meant && index != self.index() {
                sync::ring(&place.bell);
            }
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::{File, KIND};
    use crate::header::Unusable;
    use crate::name::GpuId;
    use crate::path::Directory;
    use cuota_governor::turn::{ACCEPT_NS, GRACE_NS};
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    const MS: u64 = 1_000_000;
    const NOW: u64 = 90_000_000 * MS;
    const USUAL: Entitlement = Entitlement { guarantee_ppm: 0, weight: 100, priority: Priority::Normal };

    fn arena() -> Arena {
        // SAFETY: atomics throughout, for which zero is a value; a page of the allocator's.
        let file: Box<File> = unsafe { Box::new_zeroed().assume_init() };
        Arena::of(Box::leak(file))
    }

    fn go(seat: &Seat, now_ns: u64) -> Option<u64> {
        match seat.admit(now_ns, now_ns) {
            Admission::Go { until_ns } => Some(until_ns),
            Admission::Wait { .. } => None,
            Admission::Aloof => panic!("nobody writes rubbish here"),
        }
    }

    #[test]
    fn one_that_is_alone_has_the_turn_at_once_and_again() {
        let seat = arena().seat(7, USUAL, NOW).unwrap();
        let until_ns = go(&seat, NOW).unwrap();
        assert_eq!(seat.look(NOW), Some(until_ns));
        assert_eq!(seat.look(until_ns), None);
        assert!(go(&seat, until_ns).unwrap() > until_ns);
    }

    #[test]
    fn a_turn_goes_to_who_waits_and_comes_back() {
        let arena = arena();
        let [a, b] = [1, 2].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let until_ns = go(&a, NOW).unwrap();
        assert_eq!(go(&b, NOW + MS), None);
        let bell = b.place().bell.load(Ordering::SeqCst);
        assert_eq!(a.release(until_ns, true), None);
        assert_ne!(b.place().bell.load(Ordering::SeqCst), bell, "it was not woken");
        // Offered: not yet held.
        assert_eq!(b.look(until_ns), None);
        let until_ns = go(&b, until_ns + MS).unwrap();
        assert_eq!(go(&a, until_ns - MS), None);
        b.release(until_ns, false);
        let until_ns = go(&a, until_ns + MS).unwrap();
        assert!(a.release(until_ns, true).is_some(), "nobody else wants it");
    }

    #[test]
    fn processes_of_a_tenant_have_one_seat_and_one_turn() {
        let arena = arena();
        let [a, also_a] = [1, 1].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let b = arena.seat(2, USUAL, NOW).unwrap();
        assert_eq!(a.index(), also_a.index());
        assert!(go(&a, NOW).is_some() && go(&also_a, NOW + MS).is_some());
        assert_eq!(go(&b, NOW + MS), None);
    }

    #[test]
    fn a_holder_that_is_gone_costs_its_turn_and_is_not_asked_again() {
        let arena = arena();
        let [a, b] = [1, 2].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let until_ns = go(&a, NOW).unwrap();
        assert_eq!(go(&b, until_ns + GRACE_NS - MS), None);
        let mut now_ns = go(&b, until_ns + GRACE_NS).unwrap();
        for _ in 0..20 {
            now_ns = b.release(now_ns, true).expect("the other is out");
        }
        assert_eq!(arena.tally()[1], 1);
    }

    #[test]
    fn a_waiter_that_is_gone_costs_seven_milliseconds() {
        let arena = arena();
        let [a, b, c] = [1, 2, 3].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let until_ns = go(&a, NOW).unwrap();
        assert_eq!((go(&b, NOW), go(&c, NOW)), (None, None));
        a.release(until_ns, true);
        // B is offered the turn and does not come.
        assert_eq!(go(&c, until_ns + ACCEPT_NS / 2), None);
        assert!(go(&c, until_ns + ACCEPT_NS).is_some());
    }

    #[test]
    fn a_high_priority_has_the_turn_at_once_and_the_holder_finds_it_gone() {
        let arena = arena();
        let a = arena.seat(1, USUAL, NOW).unwrap();
        let high = Entitlement { priority: Priority::High, ..USUAL };
        let b = arena.seat(2, high, NOW).unwrap();
        assert!(go(&a, NOW).is_some());
        assert!(go(&b, NOW + 3 * MS).is_some());
        assert_eq!(a.look(NOW + 3 * MS), None);
        assert!(a.is_below_holder(NOW + 3 * MS) && !b.is_below_holder(NOW + 3 * MS));
        assert_eq!(go(&a, NOW + 4 * MS), None);
        b.release(NOW + 6 * MS, false);
        assert!(go(&a, NOW + 6 * MS).is_some());
    }

    #[test]
    fn one_that_stands_aside_passes_on_the_turn_that_it_was_offered_and_keeps_the_one_that_it_holds() {
        let arena = arena();
        let [a, b, c] = [1, 2, 3].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let until_ns = go(&a, NOW).unwrap();
        assert_eq!((go(&b, NOW), go(&c, NOW)), (None, None));
        a.release(until_ns, true);
        // B is offered it.
        assert_eq!(go(&c, until_ns), None);
        b.stand_aside(until_ns);
        let until_ns = go(&c, until_ns).expect("it is C's at once");
        c.stand_aside(until_ns - MS);
        assert_eq!(c.look(until_ns - MS), Some(until_ns));
    }

    #[test]
    fn a_turn_that_drains_is_waited_for_longer() {
        let arena = arena();
        let [a, b] = [1, 2].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        let until_ns = go(&a, NOW).unwrap();
        a.drain(until_ns);
        assert_eq!(a.look(NOW), None);
        assert_eq!(go(&b, until_ns + 20 * MS), None);
        a.release(until_ns + 20 * MS, true);
        assert!(go(&b, until_ns + 20 * MS).is_some());
    }

    #[test]
    fn a_seat_that_was_left_is_given_to_a_newcomer_and_its_first_tenant_notices() {
        let arena = arena();
        let seats: Vec<Seat> =
            (1..=SEATS as u64).map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap()).collect();
        assert!(arena.seat(99, USUAL, NOW).is_none());
        let later_ns = NOW + STALE_NS + 1;
        seats.iter().skip(1).for_each(|seat| seat.touch(later_ns));
        let newcomer = arena.seat(99, USUAL, later_ns).unwrap();
        assert_eq!(newcomer.index(), 0);
        assert!(!seats[0].is_mine() && newcomer.is_mine());
    }

    #[test]
    fn one_that_is_alone_learns_from_one_word_that_another_has_come() {
        let arena = arena();
        let a = arena.seat(1, USUAL, NOW).unwrap();
        let before = a.comings();
        assert!(!a.has_company(NOW));
        let b = arena.seat(2, USUAL, NOW).unwrap();
        assert_ne!(a.comings(), before);
        assert!(a.has_company(NOW) && b.has_company(NOW));
        // Gone for long, and back.
        let later_ns = NOW + 2 * AWAY_NS;
        a.touch(later_ns);
        let before = a.comings();
        assert!(!a.has_company(later_ns));
        b.touch(later_ns);
        assert_ne!(a.comings(), before);
        b.touch(later_ns + MS);
        assert_eq!(a.comings(), before + 1);
        assert!(a.has_company(later_ns + MS));
    }

    #[test]
    fn who_has_left_is_no_company_and_is_again_when_it_comes_back() {
        let arena = arena();
        let [a, b] = [1, 2].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        b.leave(NOW);
        assert!(!a.has_company(NOW));
        // Its seat, and what it owes, are its own for a while.
        assert_eq!(arena.seat(3, USUAL, NOW).unwrap().index(), 2);
        let before = a.comings();
        b.touch(NOW + MS);
        assert!(a.has_company(NOW + MS) && a.comings() != before);
    }

    #[test]
    fn rubbish_again_and_again_ends_the_turns_and_stops_nobody() {
        let arena = arena();
        let seat = arena.seat(1, USUAL, NOW).unwrap();
        let scribble = |step: u64| arena.file.desk.turn.store(u64::MAX - step, Ordering::SeqCst);
        let mut aloof = false;
        for step in 0..20 {
            scribble(step);
            match seat.admit(NOW + step, NOW) {
                Admission::Aloof => aloof = true,
                admitted => assert!(matches!(admitted, Admission::Go { .. }), "{admitted:?}"),
            }
        }
        assert!(aloof && arena.tally()[2] >= 8);
        assert!(matches!(seat.admit(NOW + 20_000 * MS, NOW + 20_000 * MS), Admission::Go { .. }));
    }

    #[test]
    fn one_that_is_kept_out_for_long_goes_all_the_same() {
        let arena = arena();
        let [a, b] = [1, 2].map(|tenant| arena.seat(tenant, USUAL, NOW).unwrap());
        // A writes its turn anew whenever it ends, without asking anybody.
        for step in 0..300 {
            let now_ns = NOW + step * 10 * MS;
            let turn = Turn::NOBODYS.next(now_ns, Some((a.index(), 40 * MS)), a.index());
            arena.file.desk.turn.store(turn.to_word(), Ordering::SeqCst);
            assert!(matches!(b.admit(now_ns, NOW), Admission::Wait { .. }));
        }
        assert_eq!(b.admit(NOW + LONGEST_WAIT_NS, NOW), Admission::Aloof);
        // And the launches after it, for a while.
        let later_ns = NOW + LONGEST_WAIT_NS + 9_000 * MS;
        assert_eq!(b.admit(later_ns, later_ns), Admission::Aloof);
    }

    #[test]
    fn one_whose_share_is_a_turn_in_a_minute_goes_every_three_seconds_and_blames_nobody() {
        let arena = arena();
        let a = arena.seat(1, Entitlement { weight: 10_000, ..USUAL }, NOW).unwrap();
        let b = arena.seat(2, Entitlement { weight: 1, ..USUAL }, NOW).unwrap();
        let mut until_ns = go(&a, NOW).unwrap();
        assert!(matches!(b.admit(NOW, NOW), Admission::Wait { .. }));
        while until_ns < NOW + LONGEST_WAIT_NS {
            until_ns = a.release(until_ns, true).expect("it is nobody else's for long");
        }
        assert_eq!(b.admit(until_ns, NOW), Admission::Aloof);
        assert!(matches!(b.admit(until_ns, until_ns), Admission::Wait { .. }));
        assert_eq!(arena.tally()[2], 0);
    }

    #[test]
    fn an_arena_is_made_where_there_is_none_and_refused_where_it_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("arena")).unwrap();
        let directory = Directory::at(dir.path().as_os_str().as_bytes()).unwrap();
        let gpu = GpuId::from_words([1, 2]);
        let [first, second] = [(); 2].map(|()| Arena::open_or_create(&directory, gpu, 0o600).unwrap());
        let seat = first.seat(5, USUAL, NOW).unwrap();
        assert!(seat.admit(NOW, NOW) != Admission::Aloof);
        assert_eq!(second.seat(6, USUAL, NOW).map(|seat| seat.index()), Some(1));
        assert!(first.is_whole());

        let path = dir.path().join("arena").join("00000000000000010000000000000002.v1");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(100).unwrap();
        assert!(!first.is_whole(), "a look would end the program");
        file.set_len(0).unwrap();
        std::fs::write(&path, vec![7; KIND.bytes]).unwrap();
        assert_eq!(Arena::open_or_create(&directory, gpu, 0o600).err(), Some(Unusable::NotOurs));
    }

    proptest! {
        #[test]
        fn whatever_stands_in_an_arena_a_look_ends_and_a_launch_waits_a_turn_at_most(
            words in proptest::collection::vec(any::<u64>(), 9 * 8), turn: u64, now_ns in NOW..2 * NOW,
        ) {
            let arena = arena();
            let seat = arena.seat(1, USUAL, now_ns).unwrap();
            arena.file.desk.turn.store(turn, Ordering::SeqCst);
            for (place, words) in arena.file.places.iter().skip(1).zip(words.chunks_exact(8)) {
                place.tenant.store(words[0], Ordering::SeqCst);
                place.entitlement.store(words[1], Ordering::SeqCst);
                place.asks.store(words[2], Ordering::SeqCst);
                place.horizon.store(words[3], Ordering::SeqCst);
                place.seen_ns.store(words[4], Ordering::SeqCst);
            }
            let _ = seat.look(now_ns);
            if let Admission::Wait { until_ns, .. } = seat.admit(now_ns, now_ns) {
                prop_assert!(until_ns <= now_ns + 100 * MS);
            }
            let _ = seat.release(now_ns + MS, true);
            seat.note_late(now_ns + MS, u64::MAX);
        }
    }
}
