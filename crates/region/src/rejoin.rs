//! How a process that has lost its place takes another, and its books along.
//!
//! It loses it where the program closes the live file's descriptor, or somebody removes the file. Its calls go on meanwhile: what they have
//! reserved, and what they give back, is moved line by line, and each finds its line in the old place or, once that is closed, in the next.
//! So the tenant's sum has all of it at each moment: the new line has what the old one had before that is closed, and whoever sums goes down
//! the table, to where a place that is taken again lies, as long as one is free there.

use core::ptr::{from_ref, with_exposed_provenance};

use crate::header::Unusable;
use crate::member::Member;
use crate::name::TenantName;
use crate::path::Directory;
use crate::sync::Ordering;
use crate::tenant::{GPUS, Line};
use crate::word;

impl Member {
    /// Takes another place for this process, which has lost this one. [`Member::take_over`] comes next.
    ///
    /// # Errors
    /// As [`Member::join`].
    pub fn join_again(&self, directory: &Directory, name: &TenantName) -> Result<Self, Unusable> {
        Member::join_after(directory, name, Some(self))
    }

    /// Makes this the place that is taken after `lost`, and books here what is booked there, if that is not another's by now.
    #[inline(never)]
    pub(crate) fn follow(&mut self, lost: &Member) {
        if let (Some(here), Some(there)) = (self.own_place(), lost.own_place()) {
            here.pools.store(there.pools.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        if self.numbers_gpus_as(lost) && (0..GPUS).all(|gpu| self.bring(lost, gpu).is_some()) {
            self.root = lost.root;
        } else {
            self.lines().for_each(|line| word::begin(line, self.life));
        }
    }

    /// Whether each GPU has the index here that it had there. Not so in a file that was made anew, where others came first; where nobody
    /// did, the GPUs get the same.
    fn numbers_gpus_as(&self, lost: &Member) -> bool {
        lost.tenant.gpus().all(|(index, gpu)| self.tenant.gpu_index(gpu) == Some(index))
    }

    /// Moves all that is booked in the place that was `lost` here, in flight or not, and what is shared. Returns the bytes that were
    /// booked; `None`: the place has become another's, or the GPUs have other indices here, so the caller books anew what the process
    /// holds. In both cases [`Member::settle_in`] ends it.
    pub fn take_over(&'static self, lost: &Member) -> Option<u64> {
        // From here on whoever finds a line closed, or another's, looks here. Whoever found so before has noted what it holds.
        lost.next.swap(from_ref(self).expose_provenance() as u64, Ordering::SeqCst);
        if self.root != lost.root {
            return None;
        }
        // While the bytes are booked in both places: nobody may take two notes for one that is booked once.
        lost.tenant.move_shares(lost.place, (self.tenant, self.place));
        for gpu in 0..GPUS {
            // What comes in between is brought, too; if the place becomes another's now, it has all been.
            while let Some(word) = self.bring(lost, gpu)
                && !word::close(lost.line(gpu), lost.life, word)
            {}
        }
        Some(self.lines().map(word::booked_bytes).sum())
    }

    /// Brings here what is booked on a GPU in the place that was `lost`. Its word as it was then; `None`: it is another's by now.
    #[inline(never)]
    fn bring(&self, lost: &Member, gpu: usize) -> Option<u64> {
        let (from, to) = (lost.line(gpu), self.line(gpu));
        // Known before it is needed: a process may die half way, and others have its pools open.
        to.pools.store(from.pools.load(Ordering::Relaxed), Ordering::Relaxed);
        word::bring(from, lost.life, (to, self.life))
    }

    /// Begins in this place, after the one that was `lost`, which is given up. Not before all that is held is booked here: then nobody
    /// need count the old place's any more.
    pub fn settle_in(&self, lost: &Member) {
        self.begin();
        lost.leave();
    }

    pub(crate) fn line(&self, gpu: usize) -> &'static Line {
        self.tenant.line(gpu, self.place)
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &'static Line> {
        (0..GPUS).map(|gpu| self.line(gpu))
    }

    /// Whether the books of this place are still this process's.
    pub(crate) fn has_books(&self) -> bool {
        self.lines().all(|line| word::is_whole(line, self.life))
    }

    /// The place that this process took after it lost this one.
    pub(crate) fn next(&self) -> Option<&'static Member> {
        let address = usize::try_from(self.next.load(Ordering::SeqCst)).unwrap_or(0);
        let next = with_exposed_provenance::<Member>(address);
        // SAFETY: null, or a member that lives as long as the process: `take_over` takes no other.
        unsafe { next.as_ref() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::death::{self, HOLD_NS};
    use crate::ledger::{Books, UNIT_BYTES};
    use crate::live::Live;
    use crate::name::GpuId;
    use crate::share::ShareKey;
    use crate::testing::Bench;

    const GPU: GpuId = GpuId::from_words([1, 2]);
    const QUOTA: u64 = 1000 * UNIT_BYTES;

    /// A member at `place` that has lost another.
    fn after(bench: &Bench, lost: &Member, place: usize) -> &'static Member {
        let mut member = Member::settle(bench.tenant(), place, Live::NONE, 0).unwrap();
        member.follow(lost);
        Box::leak(Box::new(member))
    }

    #[test]
    fn what_is_booked_and_in_flight_is_in_the_next_place_and_nowhere_else() {
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let lost = bench.member_at(bench.tenant(), 0);
        let before = Books::of(lost, gpu);
        before.book(7 * UNIT_BYTES);
        let [taken, refused] = [20, 30].map(|units| before.reserve(units * UNIT_BYTES, QUOTA).unwrap());
        let now = Books::of(after(&bench, lost, 1), gpu);
        assert_eq!(now.member().take_over(lost), Some(57 * UNIT_BYTES));
        assert_eq!((before.own_booked().0, before.own_pending()), (0, 0));
        assert_eq!((now.tenant_usage().booked, now.own_pending()), (57 * UNIT_BYTES, 50 * UNIT_BYTES));
        // A call finds the books that were in force when it began, or those that are.
        before.commit(taken, 19 * UNIT_BYTES);
        now.cancel(refused);
        before.release(6 * UNIT_BYTES);
        before.book(UNIT_BYTES);
        assert_eq!(before.reserve(UNIT_BYTES, QUOTA), Err(crate::ledger::Refusal::Evicted));
        now.member().settle_in(lost);
        assert_eq!((now.tenant_usage().booked, now.own_pending()), (21 * UNIT_BYTES, 0));
    }

    #[test]
    fn pools_that_others_have_open_stay_booked_where_their_owner_dies_while_it_moves() {
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let [lost, heir] = [0, 1].map(|place| bench.member_at(bench.tenant(), place));
        heir.note_pool_open(true);
        let before = Books::of(lost, gpu);
        before.book(9 * UNIT_BYTES);
        lost.note_pool_exported();
        before.note_pools(4 * UNIT_BYTES);
        let now = after(&bench, lost, 2);
        assert_eq!(now.take_over(lost), Some(9 * UNIT_BYTES));
        for now_ns in [HOLD_NS, 3 * HOLD_NS] {
            for member in [lost, now] {
                let place = &bench.tenant().0.places[member.place];
                death::bury(bench.tenant(), member.place, place, member.life, now_ns);
            }
        }
        assert_eq!(Books::of(heir, gpu).tenant_usage().booked, 4 * UNIT_BYTES);
    }

    #[test]
    fn what_is_shared_moves_along() {
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let key = ShareKey::of(b"object");
        let [lost, other] = [0, 1].map(|place| bench.member_at(bench.tenant(), place));
        let [before, others] = [lost, other].map(|member| Books::of(member, gpu));
        for books in [before, others] {
            books.book(9 * UNIT_BYTES);
            assert!(books.share(key, 9 * UNIT_BYTES));
        }
        let now = Books::of(after(&bench, lost, 2), gpu);
        assert!(now.member().take_over(lost).is_some());
        now.member().settle_in(lost);
        assert_eq!(now.tenant_usage().booked, 9 * UNIT_BYTES);
        before.unshare(key);
        before.release(9 * UNIT_BYTES);
        others.unshare(key);
        others.release(9 * UNIT_BYTES);
        assert_eq!(now.tenant_usage().booked, 0);
    }

    #[test]
    fn a_place_that_is_anothers_by_now_is_left_alone() {
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let lost = bench.member_at(bench.tenant(), 0);
        let reservation = Books::of(lost, gpu).reserve(20 * UNIT_BYTES, QUOTA).unwrap();
        let newcomer = Books::of(bench.member_at(bench.tenant(), 0), gpu);
        newcomer.book(5 * UNIT_BYTES);
        let now = Books::of(after(&bench, lost, 1), gpu);
        assert_eq!(now.member().take_over(lost), None);
        now.book(7 * UNIT_BYTES);
        Books::of(lost, gpu).commit(reservation, 19 * UNIT_BYTES);
        now.member().settle_in(lost);
        assert_eq!(
            [newcomer, now].map(|books| books.own_booked().0),
            [5, 26].map(|units| units * UNIT_BYTES)
        );
    }

    #[test]
    fn file_that_was_made_anew_numbers_the_gpus_as_before_where_nobody_came_first() {
        let [old, anew] = [Bench::new(), Bench::new()];
        let (gpu, other) = (old.tenant().gpu_index(GPU).unwrap(), GpuId::from_words([3, 4]));
        let lost = old.member_at(old.tenant(), 0);
        Books::of(lost, gpu).book(7 * UNIT_BYTES);
        let now = after(&anew, lost, 1);
        assert_eq!(now.take_over(lost), Some(7 * UNIT_BYTES));
        now.settle_in(lost);
        assert_ne!(anew.tenant().gpu_index(other), Some(gpu));
        assert_eq!(anew.tenant().usage(gpu).booked, 7 * UNIT_BYTES);
        assert_eq!(anew.tenant().gpus().next(), Some((gpu, GPU)));
    }

    #[test]
    fn books_are_not_moved_to_where_another_gpu_has_the_index() {
        let [old, anew] = [Bench::new(), Bench::new()];
        let (gpu, other) = (old.tenant().gpu_index(GPU).unwrap(), GpuId::from_words([3, 4]));
        let theirs = anew.tenant().gpu_index(other).unwrap();
        let lost = old.member_at(old.tenant(), 0);
        Books::of(lost, gpu).book(7 * UNIT_BYTES);
        let now = after(&anew, lost, 1);
        assert_eq!((gpu, now.take_over(lost)), (theirs, None));
        now.settle_in(lost);
        assert_eq!(anew.tenant().usage(theirs).booked, 0);
        assert_ne!(anew.tenant().gpu_index(GPU), Some(theirs));
    }

    #[test]
    fn nobody_takes_the_old_place_for_abandoned_before_its_books_are_in_the_next() {
        const LATE_NS: u64 = 2 * HOLD_NS;
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GPU).unwrap();
        let lost = bench.member_at(bench.tenant(), 0);
        lost.begin();
        Books::of(lost, gpu).book(7 * UNIT_BYTES);
        let bury = |now_ns| death::bury(bench.tenant(), 0, &bench.tenant().0.places[0], lost.life, now_ns);
        assert!(!bury(HOLD_NS / 2), "found dead");
        let now = after(&bench, lost, 1);
        assert!(!bury(LATE_NS), "it lives, and has nothing elsewhere yet");
        assert!(Books::of(now, gpu).tenant_usage().booked >= 7 * UNIT_BYTES);
        assert_eq!(now.take_over(lost), Some(7 * UNIT_BYTES));
        assert_eq!(Books::of(now, gpu).tenant_usage().booked, 7 * UNIT_BYTES);
        now.settle_in(lost);
        assert!(
            !bench
                .tenant()
                .events()
                .entries()
                .any(|entry| { matches!(entry.event, crate::event::Event::Reaped { .. }) })
        );
    }
}
