//! Many processes that live, book, die and come again in a random order, held against a plain account of the same.

use proptest::prelude::*;

use crate::death::{self, HOLD_NS};
use crate::ledger::{Books, Refusal, Reservation, UNIT_BYTES};
use crate::live::Live;
use crate::member::Member;
use crate::name::GpuId;
use crate::tenant::{GpuIndex, Tenant};
use crate::testing::Bench;

const PLACES: usize = 12;
const QUOTA: u64 = 40;
const MS: u64 = 1_000_000;

/// What happens next; the first number says to whom, amounts are in units.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Join(usize),
    Reserve(usize, u64),
    /// Commits the oldest reservation; what was taken is so much of it, in quarters.
    Commit(usize, u64),
    Cancel(usize),
    /// Gives back so much of what is certain, in quarters.
    Release(usize, u64),
    /// Memory that is there already, whatever the quota.
    Book(usize, u64),
    Die(usize),
    /// Gives its place up, having nothing to bring elsewhere.
    Leave(usize),
    /// Time passes, ms, and somebody sweeps.
    Sweep(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    use Deed::{Book, Cancel, Commit, Die, Join, Leave, Release, Reserve, Sweep};
    let who = || 0..PLACES;
    prop_oneof![
        3 => who().prop_map(Join),
        6 => (who(), 1..16_u64).prop_map(|(who, units)| Reserve(who, units)),
        4 => (who(), 0..6_u64).prop_map(|(who, quarters)| Commit(who, quarters)),
        1 => who().prop_map(Cancel),
        3 => (who(), 0..5_u64).prop_map(|(who, quarters)| Release(who, quarters)),
        1 => (who(), 1..4_u64).prop_map(|(who, units)| Book(who, units)),
        2 => who().prop_map(Die),
        1 => who().prop_map(Leave),
        3 => (0..1500_u64).prop_map(Sweep),
    ]
}

/// Who lives or lies at a place.
#[derive(Default)]
struct Life {
    books: Option<Books>,
    /// Units.
    certain: u64,
    pending: Vec<Reservation>,
    is_dead: bool,
    found_dead_ms: Option<u64>,
}

impl Life {
    fn units(&self) -> u64 {
        self.certain + self.pending.iter().map(|reservation| reservation.bytes() / UNIT_BYTES).sum::<u64>()
    }

    /// Somebody looks at the place: who is dead is found to be, or buried when its time has come.
    fn look(&mut self, now_ms: u64) {
        if !self.is_dead {
            return;
        }
        let is_over = self.found_dead_ms.is_some_and(|at| now_ms - at >= HOLD_NS / MS);
        self.found_dead_ms.get_or_insert(now_ms);
        if is_over || self.units() == 0 {
            *self = Life::default();
        }
    }
}

struct World {
    tenant: Tenant,
    gpu: GpuIndex,
    now_ms: u64,
    lives: Vec<Life>,
}

impl World {
    fn new(bench: &Bench) -> Self {
        let tenant = bench.tenant();
        let gpu = tenant.gpu_index(GpuId::from_words([1, 2])).unwrap();
        World {
            tenant,
            gpu,
            now_ms: 1000,
            lives: std::iter::repeat_with(Life::default).take(PLACES).collect(),
        }
    }

    fn booked(&self) -> u64 {
        self.lives.iter().map(Life::units).sum()
    }

    /// The life at a place, if its process can act.
    fn living(&mut self, place: usize) -> Option<(&mut Life, Books)> {
        let life = self.lives.get_mut(place)?;
        let books = life.books.filter(|_| !life.is_dead)?;
        Some((life, books))
    }

    fn join(&mut self, place: usize) {
        let life = &mut self.lives[place];
        if life.books.is_some() && !life.is_dead {
            return; // Its lock is held.
        }
        life.look(self.now_ms);
        let member = Member::settle(self.tenant, place, Live::NONE, self.now_ms * MS);
        assert_eq!(member.is_some(), life.books.is_none(), "a place is taken when nobody is held for there");
        if let Some(member) = member {
            life.books = Some(Books::of(Box::leak(Box::new(member)), self.gpu));
        }
    }

    fn sweep(&mut self) {
        for (number, life) in self.lives.iter_mut().enumerate() {
            if let (Some(books), true) = (life.books, life.is_dead) {
                let place = &self.tenant.0.places[number];
                death::bury(self.tenant, number, place, books.member().life, self.now_ms * MS);
            }
            life.look(self.now_ms);
        }
    }

    fn reserve(&mut self, place: usize, units: u64) {
        let before = self.booked();
        let Some((life, books)) = self.living(place) else { return };
        match books.reserve(units * UNIT_BYTES, QUOTA * UNIT_BYTES) {
            Ok(reservation) => {
                assert!(before + units <= QUOTA, "{units} granted beside {before}");
                assert_eq!(books.tenant_usage().booked, (before + units) * UNIT_BYTES);
                life.pending.push(reservation);
            }
            Err(refusal) => {
                assert!(before + units > QUOTA, "{units} refused beside {before}");
                assert_eq!(refusal, Refusal::OverQuota { booked: before * UNIT_BYTES });
            }
        }
    }

    fn commit(&mut self, place: usize, quarters: u64) {
        let Some((life, books)) = self.living(place) else { return };
        if life.pending.is_empty() {
            return;
        }
        let reservation = life.pending.remove(0);
        let taken = reservation.bytes() / UNIT_BYTES * quarters / 4;
        life.certain += taken;
        books.commit(reservation, taken * UNIT_BYTES);
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Join(place) => self.join(place),
            Deed::Reserve(place, units) => self.reserve(place, units),
            Deed::Commit(place, quarters) => self.commit(place, quarters),
            Deed::Cancel(place) => self.commit(place, 0),
            Deed::Release(place, quarters) => {
                if let Some((life, books)) = self.living(place) {
                    let units = life.certain * quarters / 4;
                    life.certain -= units;
                    books.release(units * UNIT_BYTES);
                }
            }
            Deed::Book(place, units) => {
                if let Some((life, books)) = self.living(place) {
                    life.certain += units;
                    books.book(units * UNIT_BYTES);
                }
            }
            Deed::Die(place) => {
                if let Some((life, _)) = self.living(place) {
                    life.is_dead = true;
                }
            }
            Deed::Leave(place) => {
                if let Some((life, books)) = self.living(place) {
                    books.member().leave();
                    *life = Life::default();
                }
            }
            Deed::Sweep(after_ms) => {
                self.now_ms += after_ms;
                self.sweep();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_books_are_what_a_plain_account_says(deeds in proptest::collection::vec(deed(), 1..120)) {
        let bench = Bench::new();
        let mut world = World::new(&bench);
        for deed in deeds {
            world.act(deed);
            prop_assert_eq!(world.tenant.usage(world.gpu).booked, world.booked() * UNIT_BYTES, "after {:?}", deed);
        }
    }
}
