//! What a model's processes share: a tenant's file, the locks of its live file, a clock, and the device.
//!
//! The device is the truth that the books are held against: what each process has really taken, changed at one with the step that
//! its driver would take.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic;

use super::process::{self, step};
use super::sync::AtomicU32;
use crate::ledger::{Books, Refusal, Reservation, UNIT_BYTES};
use crate::live::Live;
use crate::member::Member;
use crate::share::ShareKey;
use crate::sync::Ordering;
use crate::tenant::{File, GpuIndex, PROCESSES, Tenant};

/// How many processes a model has at most, main included: as many as loom has threads.
pub(crate) const ACTORS: usize = loom::MAX_THREADS;

pub(crate) const GPU: GpuIndex = GpuIndex(0);

/// The key of the one object that processes share.
pub(crate) fn object() -> ShareKey {
    ShareKey::of(&[7; 64])
}

/// What a process is at, for the fairness of pauses.
const IDLE: u32 = 0;
const TRYING: u32 = 1;
const STANDING_ASIDE: u32 = 2;

/// See the module.
#[derive(Default)]
pub(crate) struct World {
    file: File,
    /// By place: the process that holds the lock, plus one; 0: nobody.
    locks: [AtomicU32; PROCESSES],
    /// By place: whether its process is at an attempt to reserve.
    stages: [atomic::AtomicU32; PROCESSES],
    has_closed: [atomic::AtomicBool; ACTORS],
    now_ns: atomic::AtomicU64,
    /// By process: units taken on the device.
    taken: [atomic::AtomicU64; ACTORS],
    /// How many processes hold the one object that may be shared, and its size in units.
    holders: atomic::AtomicU64,
    object: atomic::AtomicU64,
    /// Members, which live as long as the world.
    #[expect(clippy::vec_box, reason = "they stay where they are when the list grows")]
    members: Mutex<Vec<Box<Member>>>,
}

thread_local! {
    /// Loom runs all threads of a model on one thread of the machine.
    static CURRENT: Cell<Option<&'static World>> = const { Cell::new(None) };
}

impl World {
    /// The world of the model that runs.
    pub(crate) fn current() -> &'static World {
        CURRENT.get().expect("a model runs")
    }

    /// Runs `body` in a fresh world, which ends with it.
    fn with(body: impl FnOnce(&'static World)) {
        let world: &'static World = Box::leak(Box::default());
        CURRENT.set(Some(world));
        body(world);
        CURRENT.set(None);
        // SAFETY: leaked above; the model's threads, the only others to know it, have been joined.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(world).cast_mut()) });
    }

    pub(crate) fn tenant(&'static self) -> Tenant {
        Tenant(&self.file)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn set_now_ns(&self, now_ns: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Units that the tenant's processes have taken on the device.
    pub(crate) fn taken(&self) -> u64 {
        let own: u64 = self.taken.iter().map(|taken| taken.load(Ordering::Relaxed)).sum();
        let is_there = self.holders.load(Ordering::Relaxed) != 0;
        own + if is_there { self.object.load(Ordering::Relaxed) } else { 0 }
    }

    /// The driver has let go what a dead process had.
    pub(crate) fn driver_frees(&self, process: usize) {
        self.taken[process].store(0, Ordering::Relaxed);
    }

    /// Units that the tenant's books show.
    pub(crate) fn booked(&'static self) -> u64 {
        self.tenant().usage(GPU).booked / UNIT_BYTES
    }
}

/// The live file.
impl World {
    pub(crate) fn live(&'static self, process: usize) -> Live {
        Live { world: self, process }
    }

    pub(crate) fn is_open(&self, process: usize) -> bool {
        !self.has_closed[process].load(Ordering::Relaxed)
    }

    /// The program closes the descriptor that it did not open: its locks are gone.
    pub(crate) fn close_live(&self, process: usize) {
        self.has_closed[process].store(true, Ordering::Relaxed);
        self.drop_locks(process);
    }

    pub(crate) fn try_lock(&self, process: usize, place: usize) -> bool {
        let me = u32::try_from(process + 1).unwrap();
        let answer = self.locks[place].compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire);
        answer == Ok(0) || answer == Err(me)
    }

    pub(crate) fn unlock(&self, process: usize, place: usize) {
        let me = u32::try_from(process + 1).unwrap();
        let _ = self.locks[place].compare_exchange(me, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What the kernel does when a process dies.
    pub(crate) fn drop_locks(&self, process: usize) {
        (0..PROCESSES).for_each(|place| self.unlock(process, place));
    }

    pub(crate) fn is_locked_elsewhere(&self, process: usize, place: usize) -> bool {
        let holder = self.locks[place].load(Ordering::Acquire) as usize;
        holder != 0 && holder != process + 1
    }
}

/// Pauses.
impl World {
    fn enter(&self, place: usize, stage: u32) {
        self.stages[place].store(stage, Ordering::Relaxed);
    }

    pub(crate) fn stand_aside(&self, place: usize) {
        self.enter(place, STANDING_ASIDE);
        let is_in_my_way = |other: usize| match self.stages[other].load(Ordering::Relaxed) {
            IDLE => false,
            STANDING_ASIDE => other < place,
            _ => other != place,
        };
        while (0..PROCESSES).any(is_in_my_way) {
            loom::thread::yield_now();
        }
        self.enter(place, TRYING);
    }
}

/// A process: which it is, and the quota in units that it holds itself to.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pub(crate) world: &'static World,
    pub(crate) number: usize,
    pub(crate) quota: u64,
}

impl Process {
    /// Takes the first place that is free now.
    pub(crate) fn join(self) -> Option<Books> {
        let live = self.world.live(self.number);
        let member = Member::take_a_place(self.world.tenant(), live, self.world.now_ns(), 0);
        self.open(member.unwrap()?)
    }

    /// Takes a certain place, whose lock nobody holds.
    pub(crate) fn join_at(self, place: usize) -> Option<Books> {
        let live = self.world.live(self.number);
        assert!(self.world.try_lock(self.number, place), "the place is locked");
        self.open(Member::settle(self.world.tenant(), place, live, self.world.now_ns())?)
    }

    /// Takes a certain place after another was `lost`: it holds nothing yet.
    pub(crate) fn join_again_at(self, place: usize, lost: Books) -> Books {
        let live = self.world.live(self.number);
        assert!(self.world.try_lock(self.number, place), "the place is locked");
        let mut member = Member::settle(self.world.tenant(), place, live, self.world.now_ns()).unwrap();
        member.follow(lost.member());
        self.open(member).unwrap()
    }

    fn open(self, member: Member) -> Option<Books> {
        let member = Box::new(member);
        // SAFETY: a box's content stays where it is, and the world keeps the box as long as it exists itself.
        let leaked: &'static Member = unsafe { &*std::ptr::from_ref(&*member) };
        self.world.members.lock().unwrap().push(member);
        Some(Books::of(leaked, GPU))
    }

    /// Takes units on the device after reserving them, and books what was taken.
    pub(crate) fn allocate(self, books: Books, units: u64) -> Result<(), Refusal> {
        let reservation = self.reserve(books, None, units)?;
        step();
        self.take(units);
        assert!(self.world.taken() <= self.quota, "granted over the quota: {}", self.world.taken());
        books.commit(reservation, units * UNIT_BYTES);
        Ok(())
    }

    /// [`Process::allocate`] as the guest does it: at once where that can be, else the long way.
    pub(crate) fn allocate_at_once(self, books: Books, units: u64) -> Result<(), Refusal> {
        let (bytes, quota) = (units * UNIT_BYTES, self.quota * UNIT_BYTES);
        self.world.enter(books.member().place, TRYING);
        let reserved = books.reserve_at_once(bytes, quota, 0);
        self.world.enter(books.member().place, IDLE);
        let Some(reservation) = reserved else { return self.allocate(books, units) };
        step();
        self.take(units);
        assert!(self.world.taken() <= self.quota, "granted over the quota: {}", self.world.taken());
        books.settle_at_once(reservation, true);
        Ok(())
    }

    /// Makes the one object that others may come to hold.
    pub(crate) fn make_object(self, books: Books, units: u64) {
        self.world.object.store(units, Ordering::Relaxed);
        self.world.holders.store(1, Ordering::Relaxed);
        books.book(units * UNIT_BYTES);
        assert!(books.share(object(), units * UNIT_BYTES));
    }

    /// Comes to hold the object too, if there still is one. `false`: there is none.
    pub(crate) fn open_object(self, books: Books) -> Result<bool, Refusal> {
        let units = self.world.object.load(Ordering::Relaxed);
        let reservation = self.reserve(books, Some(object()), units)?;
        step();
        let is_there = self.world.holders.load(Ordering::Relaxed) != 0;
        if is_there {
            self.world.holders.fetch_add(1, Ordering::Relaxed);
            books.commit(reservation, units * UNIT_BYTES);
        } else {
            books.unshare(object());
            books.cancel(reservation);
        }
        Ok(is_there)
    }

    /// Lets the object go: the driver first, then the books.
    pub(crate) fn close_object(self, books: Books) {
        self.world.holders.fetch_sub(1, Ordering::Relaxed);
        books.unshare(object());
        books.release(self.world.object.load(Ordering::Relaxed) * UNIT_BYTES);
    }

    pub(crate) fn reserve(
        self,
        books: Books,
        key: Option<ShareKey>,
        units: u64,
    ) -> Result<Reservation, Refusal> {
        let (bytes, quota) = (units * UNIT_BYTES, self.quota * UNIT_BYTES);
        self.world.enter(books.member().place, TRYING);
        let granted = match key {
            Some(key) => books.reserve_shared(key, bytes, quota),
            None => books.reserve(bytes, quota),
        };
        self.world.enter(books.member().place, IDLE);
        granted
    }

    /// Changes the device.
    pub(crate) fn take(self, units: u64) {
        self.world.taken[self.number].fetch_add(units, Ordering::Relaxed);
    }

    /// Gives units back: first on the device, then in the books.
    pub(crate) fn free(self, books: Books, units: u64) {
        self.world.taken[self.number].fetch_sub(units, Ordering::Relaxed);
        books.release(units * UNIT_BYTES);
    }

    /// Starts `life` as this process, which is killed after `steps` steps.
    pub(crate) fn start<T: 'static>(
        self,
        steps: Option<usize>,
        life: impl FnOnce(Process) -> T + 'static,
    ) -> loom::thread::JoinHandle<Option<T>> {
        loom::thread::spawn(move || process::run(self.world, self.number, steps, || life(self)))
    }
}

impl World {
    pub(crate) fn process(&'static self, number: usize, quota: u64) -> Process {
        Process { world: self, number, quota }
    }
}

/// Explores `body` under all orders of steps with at most `preemptions` switches away from a process that could have gone on;
/// `None`: under all. Returns how many orders there were.
pub(crate) fn explore(
    preemptions: Option<usize>,
    body: impl Fn(&'static World) + Sync + Send + 'static,
) -> usize {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    let orders = std::sync::Arc::new(atomic::AtomicUsize::new(0));
    let count = orders.clone();
    let begun = std::time::Instant::now();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        World::with(&body);
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders in {:.1} s", begun.elapsed().as_secs_f64());
    orders
}
