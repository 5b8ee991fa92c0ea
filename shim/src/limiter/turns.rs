//! Turns: where other tenants are on a GPU, a launch waits until it is its tenant's turn, too. The rules are `cuota_governor`'s, the file that
//! the tenants share is `cuota_region`'s ([`Seat`]).
//!
//! Alone nothing is counted, and no launch looks: the helper sleeps on the seat's bell, which whoever comes rings. With others there a launch
//! looks once in a batch, and it is the launch that waits for the next turn that hands this one over; the helper does where nobody
//! launches any more. All waiting is for the clock: [`cuota_governor::turn`].

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cuota_abi::nvml::nvmlProcessInfo_t;
use cuota_governor::admission::Scene;
use cuota_governor::arbiter::cycle_ns;
use cuota_governor::batch::Close;
use cuota_governor::entitlement::Entitlement;
use cuota_governor::habit::Habit;
use cuota_governor::turn::{DRAIN_NS, GRACE_NS, Inside, LINGER_NS, LONG_LINGER_NS, QUIET_NS, inside};
use cuota_region::arena::Arena;
use cuota_region::hami::file;
use cuota_region::seat::{Admission, Seat};
use cuota_region::sys;

use super::Limiter;
use super::caps::{Gpu, Ground};
use super::stream::Stream;
use crate::process::nvml::Room;
use crate::process::settings::Settings;
use crate::process::{self, driver};

/// A turn is handed over so long before what is in flight should have drained, ns: a sleep that ends late (60 µs on an H100's host) and the next
/// tenant's waking (55 µs) go by meanwhile, and the gap is the card's own switch of contexts.
const LEAD_NS: u64 = 200_000;

/// The bounds of a sleep in which what is in flight drains, ns.
const NAPS_NS: [u64; 2] = [50_000, 300_000];

/// How long a launch sleeps at most before it looks at the policy again, ns.
const LONGEST_NAP_NS: u64 = 20_000_000;

/// How often the helper says that the tenant is there, and looks whether the others are, ns.
const LOOKS_NS: u64 = 1_000_000_000;

/// The same with several GPUs, of which it sleeps on one's bell only, ns.
const LOOKS_AT_SEVERAL_NS: u64 = 20_000_000;

/// How often the helper looks during a turn at least, ns.
const HOLDS_NS: u64 = 1_000_000;

/// Until a turn begins: there is none to be given up.
pub(super) const UNHELD_NS: u64 = u64::MAX - 1;

/// What runs on after a turn has not begun: what was launched alone, or what the stream waits for, is before it.
const NOT_BEGUN: u64 = 1;

/// Nobody has looked for an arena.
const UNKNOWN: u32 = 0;
/// A thread takes a seat.
const SITTING: u32 = 1;
/// It has one, or had: [`Seat::is_mine`].
const SEATED: u32 = 2;
/// There is no arena that can be used, or no seat in it: the driver slices.
const NONE: u32 = 3;

/// A GPU's turns, as this process has them. All-zero: nobody has looked for them. Times are the arena's unless said otherwise.
#[repr(C)]
pub(super) struct Turns {
    standing: AtomicU32,
    /// 1 while others are there.
    on: AtomicU32,
    entitlement: AtomicU64,
    /// [`Seat::comings`] when it was last looked whether others are there.
    comings: AtomicU64,
    /// When that was, ns.
    looked_ns: AtomicU64,
    /// Until when this process has the turn; 0: it has none that it knows of, ns.
    until_ns: AtomicU64,
    /// The same, where nobody takes it away before: the tenant's priority is high, and it has one process.
    sure_until_ns: AtomicU64,
    /// Since when, ns, and since when by this time namespace's clock.
    since_ns: AtomicU64,
    local_since_ns: AtomicU64,
    /// The GPU time that the process had used when its last turn ended, or when it was last charged for what it takes beside turns, ns: what is seen
    /// to end between two turns counts for the second.
    used_ns: AtomicU64,
    habit: AtomicU64,
    /// How long launches have waited for room on the GPU since then, ns.
    wanted_ns: AtomicU64,
    /// When a launch last went, ns.
    went_ns: AtomicU64,
    /// How long a tenant of high priority keeps its turn when it has nothing on the GPU, ns.
    linger_ns: AtomicU64,
    /// Since when work of a turn that others have ended runs on, ns, or [`NOT_BEGUN`]; 0: none does.
    late_ns: AtomicU64,
    /// Launches that wait for a turn, or for room, or are about to be in the books. Far from the first words, which each launch reads.
    entering: AtomicU32,
    /// 1 while a tenant of higher priority is there.
    below: AtomicU32,
    seat: UnsafeCell<MaybeUninit<Seat>>,
}

// SAFETY: the seat's cell is written by the one thread that holds SITTING, before the release store that lets others read it; never again.
unsafe impl Sync for Turns {}

/// A launch that is about to go, or waits for something but its budget: while there is one, the helper gives no turn up.
pub(super) struct Entering(&'static Turns);

/// What a launch does that asks for its turn.
enum Entry {
    /// It goes, and what follows it into its batch as far as that fits the turn: so much in all, ns.
    Go { fits_ns: u64 },
    /// It sleeps while the bell is as it was, until then, ns.
    Sleep { bell: u32, until_ns: u64 },
}

impl Entering {
    fn to(turns: &'static Turns) -> Self {
        turns.entering.fetch_add(1, Ordering::Relaxed);
        Self(turns)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.0.entering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where no turn ends.
const ENDLESS: Entry = Entry::Go { fits_ns: u64::MAX };

/// Into a turn that ends at `until_ns`, ns: what fits behind what is in flight.
fn go(now_ns: u64, scene: &Scene, until_ns: u64) -> Entry {
    Entry::Go { fits_ns: until_ns.saturating_sub(now_ns).saturating_sub(scene.in_flight_ns) }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

impl Turns {
    /// Whether others are there, so that launches take turns.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst) != 0
    }

    /// Whether the helper is to watch for others.
    pub(super) fn is_alone(&self) -> bool {
        self.standing.load(Ordering::Acquire) == SEATED && !self.is_on()
    }

    /// The seat, if the arena is there as it was. Look each time: see [`Arena::is_whole`].
    fn seat(&self) -> Option<&Seat> {
        let seat = self.seat_unseen()?;
        if !seat.arena().is_whole() {
            self.leave_alone();
            return None;
        }
        Some(seat)
    }

    /// The seat. Its file is not to be looked into.
    fn seat_unseen(&self) -> Option<&Seat> {
        // SAFETY: SEATED, so it was written.
        (self.standing.load(Ordering::Acquire) == SEATED)
            .then(|| unsafe { (*self.seat.get()).assume_init_ref() })
    }

    /// Whether a launch goes without a look at the arena, in a turn that nobody takes away before its end. Half of what a step of 0.13 ms may
    /// take longer beside others is that look.
    pub(super) fn goes_on(&self) -> bool {
        let Some(seat) = self.seat_unseen() else { return false };
        let now_ns = seat.now_ns();
        self.went_ns.store(now_ns, Ordering::Relaxed);
        let until_ns = load(&self.until_ns);
        until_ns == load(&self.sure_until_ns) && now_ns < until_ns
    }

    /// No turns here any more.
    #[cold]
    fn leave_alone(&self) {
        self.standing.store(NONE, Ordering::Release);
        self.on.store(0, Ordering::SeqCst);
        self.below.store(0, Ordering::Relaxed);
    }

    /// Says what the tenant is entitled to.
    pub(super) fn entitle(&self, entitlement: Entitlement) {
        let word = entitlement.to_word();
        if self.entitlement.swap(word, Ordering::Relaxed) != word
            && let Some(seat) = self.seat()
        {
            seat.entitle(word);
        }
    }

    fn is_high(&self) -> bool {
        Entitlement::is_high(load(&self.entitlement))
    }

    /// Takes a seat in the GPU's arena, where it has none; again, where it was lost.
    #[cold]
    #[inline(never)]
    pub(super) fn sit(&self, on: Ground) {
        if let Some(seat) = self.seat() {
            if seat.is_mine() {
                // Others may have come since. The first launches of all do not wait for the helper's first look: a full queue of them would
                // run beside the others' turns.
                if !self.is_on() {
                    self.watch(on);
                }
                return;
            }
            self.until_ns.store(0, Ordering::Relaxed);
            if seat.take(load(&self.entitlement), seat.now_ns()) {
                self.look_around(seat, on);
            } else {
                self.leave_alone();
            }
            return;
        }
        let sitting = self.standing.compare_exchange(UNKNOWN, SITTING, Ordering::AcqRel, Ordering::Relaxed);
        if sitting.is_err() {
            return;
        }
        let seat = open(on).filter(Arena::sign_in).and_then(|arena| {
            let seat = arena.no_seat(on.process().member().identity());
            seat.take(load(&self.entitlement), seat.now_ns()).then_some(seat)
        });
        let mut standing = NONE;
        if let Some(seat) = seat {
            // SAFETY: this thread holds SITTING, and nobody reads the cell before SEATED.
            let seat = unsafe { (*self.seat.get()).write(seat) };
            self.look_around(seat, on);
            standing = SEATED;
        }
        self.standing.store(standing, Ordering::Release);
    }

    /// Whether others are there to take turns with.
    #[inline(never)]
    fn look_around(&self, seat: &Seat, on: Ground) -> bool {
        let now_ns = seat.now_ns();
        self.looked_ns.store(now_ns, Ordering::Relaxed);
        self.comings.store(seat.comings(), Ordering::Relaxed);
        let mut is_on = seat.has_company(now_ns);
        if is_on {
            if is_beside_outsiders(on, seat.arena()) || driver::is_under_mps(on.ordinal()) {
                seat.note_outsiders(now_ns);
            }
            is_on = !seat.is_beside_outsiders(now_ns);
        }
        self.below.store(u32::from(seat.is_below_another(now_ns)), Ordering::Relaxed);
        self.on.store(u32::from(is_on), Ordering::SeqCst);
        is_on
    }

    /// While it takes no turns: says that the tenant is there, and whether there are others to take them with.
    pub(super) fn watch(&self, on: Ground) -> bool {
        let Some(seat) = self.seat() else { return false };
        let now_ns = seat.now_ns();
        seat.touch(now_ns);
        self.is_due(seat, now_ns) && self.look_around(seat, on)
    }

    /// Whether somebody has come, or it is time to look who is there.
    #[inline(never)]
    fn is_due(&self, seat: &Seat, now_ns: u64) -> bool {
        seat.comings() != load(&self.comings) || now_ns.saturating_sub(load(&self.looked_ns)) > LOOKS_NS
    }

    /// Whether a tenant of higher priority is there.
    pub(super) fn is_below(&self) -> bool {
        self.below.load(Ordering::Relaxed) != 0
    }

    /// Whether the process has a turn, as far as it knows.
    pub(super) fn is_held(&self) -> bool {
        load(&self.until_ns) != 0
    }

    /// What ran on after others had ended its turn is done, or goes on in a turn of its own.
    fn is_not_late(&self, seat: &Seat, now_ns: u64) {
        let late_ns = self.late_ns.swap(0, Ordering::Relaxed);
        if late_ns > NOT_BEGUN {
            seat.note_late(now_ns, now_ns.saturating_sub(late_ns));
        }
    }

    fn begin(&self, seat: &Seat, now_ns: u64, until_ns: u64) {
        self.is_not_late(seat, now_ns);
        // Another thread may have begun it.
        let before_ns = self.until_ns.swap(until_ns, Ordering::Relaxed);
        if before_ns != until_ns {
            if before_ns == 0 {
                process::managed().limiter.turn_begins();
            }
            self.since_ns.store(now_ns, Ordering::Relaxed);
            self.local_since_ns.store(sys::monotonic_ns(), Ordering::Relaxed);
            // `goes_on` does not say that the tenant is there.
            seat.touch(now_ns);
            let is_sure = self.is_high() && process::managed().member().is_the_only_one();
            self.sure_until_ns.store(if is_sure { until_ns } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Whether all that was on the GPU from then on by this time namespace's clock, ns, was in the turn that this process has.
    pub(super) fn had_since(&self, local_ns: u64) -> bool {
        let Some(seat) = self.seat().filter(|_| load(&self.until_ns) != 0) else { return false };
        let now_ns = seat.now_ns();
        load(&self.local_since_ns) <= local_ns && seat.look(now_ns).is_some()
    }

    /// How long to sleep until what is in flight has nearly drained, ns. `None`: it has.
    fn drain_nap_ns(&self, seat: &Seat, scene: &Scene, now_ns: u64) -> Option<u64> {
        let began_ns = load(&self.local_since_ns).max(scene.progress_ns);
        let drains_ns = scene.in_flight_ns.saturating_add(seat.arena().common_ns(began_ns));
        let left_ns = drains_ns.saturating_sub(LEAD_NS).saturating_sub(now_ns);
        (scene.batches > 2 || scene.batches != 0 && left_ns != 0)
            .then(|| left_ns.clamp(NAPS_NS[0], NAPS_NS[1]))
    }

    /// The turn is over that this process had: how well it was filled. `held_ns`: how long it counts for.
    fn learn(&self, gpu: &Gpu, now_ns: u64, held_ns: u64) {
        if self.until_ns.swap(0, Ordering::Relaxed) == 0 || gpu.cap().binds() {
            return;
        }
        // While a launch waits for room the GPU has enough to do, or the program's CPU is late: it wants the turn.
        let wanted_ns = self.wanted_ns.swap(0, Ordering::Relaxed);
        let busy_ns = gpu.used_ns().saturating_sub(load(&self.used_ns)).max(wanted_ns);
        let habit = Habit::from_word(load(&self.habit)).after_turn(now_ns, busy_ns, held_ns);
        self.habit.store(habit.to_word(), Ordering::Relaxed);
        self.used_ns.store(gpu.used_ns(), Ordering::Relaxed);
    }

    /// Whether the tenant's habit is not to take turns.
    fn may_share(&self, now_ns: u64) -> bool {
        let habit = Habit::from_word(load(&self.habit));
        !habit.takes_turns(now_ns, 0, 0, 0) && !self.is_high()
    }

    /// A launch waits for its turn.
    fn sleep(&self, bell: u32, until_ns: u64) {
        if let Some(seat) = self.seat() {
            seat.sleep(bell, until_ns);
        }
    }

    /// A launch waits for room on the GPU until then by this time namespace's clock, ns, or until the policy changes.
    pub(super) fn wait_for_room(&'static self, on: Ground, epoch: u32, until_ns: u64) {
        let since_ns = sys::monotonic_ns();
        let _entering = Entering::to(self);
        on.process().policy().wait(epoch, until_ns);
        self.wanted_ns.fetch_add(sys::monotonic_ns().saturating_sub(since_ns), Ordering::Relaxed);
    }

    /// Whether a launch goes beside the turns of others.
    fn shares(&self, gpu: &Gpu, seat: &Seat, now_ns: u64) -> bool {
        if !self.may_share(now_ns) {
            return false;
        }
        let habit = Habit::from_word(load(&self.habit));
        let used_ns = gpu.used_ns();
        let taken_ns = used_ns.saturating_sub(self.used_ns.swap(used_ns, Ordering::Relaxed));
        let [horizon_ns, entry_ns] = seat.note_shared(now_ns, taken_ns);
        let tenants = u32::try_from(seat.askers()).unwrap_or(0) + 1;
        if habit.takes_turns(now_ns, horizon_ns, entry_ns, cycle_ns(tenants)) || seat.is_below_holder(now_ns)
        {
            return false;
        }
        // That it waited for room beside others does not fill the next turn.
        self.wanted_ns.store(0, Ordering::Relaxed);
        if process::managed().member().is_the_only_one() {
            seat.stand_aside(now_ns);
        } else {
            // Another process of the tenant may wait for the turn.
            seat.withdraw();
        }
        seat.touch(now_ns);
        true
    }
}

/// Whether NVML shows another process on the GPU that has not signed the arena. Where it does not say, none is there.
fn is_beside_outsiders(on: Ground, arena: &Arena) -> bool {
    let (me, mut room) = (sys::process_id(), Room::new());
    let is_outside = |info: &nvmlProcessInfo_t| info.pid != me && !arena.has_signed(info.pid);
    on.shown(&mut room).is_some_and(|shown| shown.iter().any(is_outside))
}

/// The arena of a GPU: in the directory of the tenants' files, or where HAMi's containers have one.
fn open(on: Ground) -> Option<Arena> {
    let (settings, is_hamis) = (Settings::get(), on.process().hami.is_on());
    let gpu = on.device()?.gpu();
    // All containers of the machine can write HAMi's, so there each says for itself that it wants to.
    if !settings.takes_turns(!is_hamis) {
        return None;
    }
    let path = if is_hamis { file::arena(gpu) } else { settings.directory()?.0.arena(gpu) };
    Arena::at(&path.ok()?, if is_hamis { 0o666 } else { 0o600 }).ok()
}

impl Limiter {
    /// The process is about to have a context on a device: who takes turns there is to know before NVML shows it.
    #[cold]
    #[inline(never)]
    pub(crate) fn arrive(&self, ordinal: u32) {
        if let Some(on) = Ground::of(ordinal) {
            on.gpu.turns.sit(on);
        }
    }

    /// Whether a unit of `unit_ns` may go that has its budget and room: it is its tenant's turn, or nobody's business; and how much its batch may hold, ns, to end
    /// in that turn. `None`: it has slept a while, and is to look at everything again. `since_ns`: since when it has waited, ns, 0 at first.
    pub(super) fn has_turn(
        &'static self,
        on: Ground,
        stream: &Stream,
        scene: &Scene,
        unit_ns: u64,
        since_ns: &mut u64,
    ) -> Option<(Entering, u64)> {
        let entering = Entering::to(&on.gpu.turns);
        let (bell, until_ns) = match self.may_enter(on, scene, unit_ns, since_ns) {
            Entry::Go { fits_ns } => return Some((entering, fits_ns)),
            Entry::Sleep { bell, until_ns } => (bell, until_ns),
        };
        // As for the budget: what waits elsewhere for this launch is dearer than it is. What is closed is seen to end.
        self.held.fetch_add(1, Ordering::Relaxed);
        stream.held.fetch_add(1, Ordering::Relaxed);
        self.close_all(Close::Held);
        on.gpu.turns.sleep(bell, until_ns);
        None
    }

    fn may_enter(&'static self, on: Ground, scene: &Scene, unit_ns: u64, since_ns: &mut u64) -> Entry {
        let turns = &on.gpu.turns;
        let Some(seat) = turns.seat().filter(|_| turns.is_on()) else { return ENDLESS };
        if !seat.is_mine() {
            // Away for long. Whoever reads the caps next takes another.
            self.forget_caps();
            return ENDLESS;
        }
        let now_ns = seat.now_ns();
        let went_ns = turns.went_ns.swap(now_ns, Ordering::Relaxed);
        if !turns.is_held() && *since_ns == 0 {
            let is_soon = now_ns.saturating_sub(went_ns) < LONG_LINGER_NS;
            turns.linger_ns.store(if is_soon { LONG_LINGER_NS } else { LINGER_NS }, Ordering::Relaxed);
        }
        if turns.shares(on.gpu, seat, now_ns) {
            return ENDLESS;
        }
        let until_ns = seat.look(now_ns);
        if let Some(until_ns) = until_ns {
            turns.begin(seat, now_ns, until_ns);
            let is_first = scene.batches == 0;
            if inside(now_ns, scene.in_flight_ns, unit_ns, until_ns, is_first) == Inside::Launch {
                seat.touch(now_ns);
                return go(now_ns, scene, until_ns);
            }
        } else if now_ns < load(&turns.until_ns) {
            // Taken by a higher priority, which says nothing about a habit.
            turns.until_ns.store(0, Ordering::Relaxed);
        }
        if load(&turns.until_ns) != 0 {
            return self.hand_over(on, seat, scene, now_ns);
        }
        if *since_ns == 0 {
            *since_ns = now_ns;
        }
        match seat.admit(now_ns, *since_ns) {
            Admission::Go { until_ns } => {
                turns.begin(seat, now_ns, until_ns);
                go(now_ns, scene, until_ns)
            }
            Admission::Aloof => ENDLESS,
            Admission::Wait { bell, until_ns } => {
                Entry::Sleep { bell, until_ns: until_ns.min(now_ns + LONGEST_NAP_NS) }
            }
        }
    }

    /// The turn is over, or too short for the next batch: lets what is in flight drain, and hands over a little before it has.
    fn hand_over(&'static self, on: Ground, seat: &Seat, scene: &Scene, now_ns: u64) -> Entry {
        let turns = &on.gpu.turns;
        let over_ns = load(&turns.until_ns);
        // Nobody else wants it: there is nothing to drain for.
        let nap_ns = turns.drain_nap_ns(seat, scene, now_ns).filter(|_| seat.askers() > 1);
        if let Some(nap_ns) = nap_ns.filter(|_| now_ns < over_ns + DRAIN_NS) {
            if now_ns > over_ns {
                seat.drain(now_ns);
            }
            turns.wanted_ns.fetch_add(nap_ns, Ordering::Relaxed);
            return Entry::Sleep { bell: seat.bell(), until_ns: now_ns + nap_ns };
        }
        self.note_late(turns, scene, now_ns, over_ns);
        turns.learn(on.gpu, now_ns, now_ns.saturating_sub(load(&turns.since_ns)));
        let Some(until_ns) = seat.release(now_ns, !turns.may_share(now_ns)) else {
            return Entry::Sleep { bell: seat.bell(), until_ns: now_ns };
        };
        turns.begin(seat, now_ns, until_ns);
        go(now_ns, scene, until_ns)
    }

    /// A launch waits for its budget: a turn is given up that others want, a little before what is in flight has drained. When to come back for that, by this
    /// time namespace's clock, ns.
    pub(super) fn give_up(&self, on: Ground, scene: &Scene) -> u64 {
        let turns = &on.gpu.turns;
        let Some(seat) = turns.seat().filter(|seat| turns.is_held() && seat.askers() > 1) else {
            return u64::MAX;
        };
        if turns.entering.load(Ordering::Relaxed) != 0 {
            // Another thread uses it.
            return u64::MAX;
        }
        let now_ns = seat.now_ns();
        let over_ns = load(&turns.until_ns);
        let nap_ns = turns.drain_nap_ns(seat, scene, now_ns).filter(|_| now_ns < over_ns + DRAIN_NS);
        // Another process of the tenant may.
        let in_use_ns = (seat.quiet_ns(now_ns) < QUIET_NS).then_some(QUIET_NS);
        if let Some(nap_ns) = nap_ns.or(in_use_ns) {
            return sys::monotonic_ns() + nap_ns;
        }
        self.note_late(turns, scene, now_ns, over_ns);
        turns.learn(on.gpu, now_ns, 0);
        seat.release(now_ns, false);
        u64::MAX
    }

    /// A turn is given up that was over at `over_ns`, ns: what is there for long after that runs in the turns of others.
    fn note_late(&self, turns: &Turns, scene: &Scene, now_ns: u64, over_ns: u64) {
        if scene.batches != 0 && now_ns > over_ns + GRACE_NS {
            turns.late_ns.store(NOT_BEGUN, Ordering::Relaxed);
            self.look_late(turns, now_ns);
        }
    }

    /// Work runs on after its turn. It is charged from when it has begun: what was launched alone was nobody's turn, however long it takes.
    fn look_late(&self, turns: &Turns, now_ns: u64) {
        if load(&turns.late_ns) == NOT_BEGUN && self.any_has_begun() {
            turns.late_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// The helper's part, in each of its rounds: gives up the turns that nobody uses any more, and looks whether there are others to take them
    /// with. When it is to look again at the latest, ns from now.
    pub(super) fn tend(&self) -> u64 {
        let mut nap_ns = u64::MAX;
        for (ordinal, gpu) in (0..).zip(&self.gpus) {
            let turns = &gpu.turns;
            let (Some(seat), Some(on)) = (turns.seat(), Ground::of(ordinal)) else { continue };
            if turns.is_on() {
                nap_ns = nap_ns.min(self.tend_on(on, seat));
            } else if turns.watch(on) {
                self.forget_caps();
            }
        }
        nap_ns
    }

    fn tend_on(&self, on: Ground, seat: &Seat) -> u64 {
        let turns = &on.gpu.turns;
        let now_ns = seat.now_ns();
        let quiet_ns = now_ns.saturating_sub(load(&turns.went_ns));
        if turns.is_due(seat, now_ns) && !turns.look_around(seat, on) {
            // None from here on.
            turns.until_ns.store(0, Ordering::Relaxed);
            seat.release(now_ns, false);
            self.forget_caps();
            return 0;
        }
        let busy_ns = self.busy_ns(on.ordinal());
        if busy_ns == 0 {
            turns.is_not_late(seat, now_ns);
        } else {
            self.look_late(turns, now_ns);
        }
        let over_ns = load(&turns.until_ns);
        // Who launches beside the turns of others launches all the time.
        let unheld_ns = if turns.may_share(now_ns) { u64::MAX } else { UNHELD_NS };
        if over_ns == 0 {
            return unheld_ns;
        }
        if turns.entering.load(Ordering::Relaxed) != 0 {
            return HOLDS_NS;
        }
        let may_ns = if turns.is_high() { load(&turns.linger_ns) } else { QUIET_NS };
        // From the end of its work on: between two steps of a program that waits for each nothing is there for a moment, and the last launch is a step ago.
        let idle_ns = sys::monotonic_ns().saturating_sub(load(&on.gpu.ended_ns));
        let pause_ns = if busy_ns == 0 { quiet_ns.min(seat.quiet_ns(now_ns)).min(idle_ns) } else { 0 };
        if pause_ns >= may_ns {
            // It could have had the rest, too.
            turns.learn(on.gpu, now_ns, over_ns.max(now_ns).saturating_sub(load(&turns.since_ns)));
            seat.release(now_ns, false);
            return unheld_ns;
        }
        if busy_ns != 0 && now_ns > over_ns {
            seat.drain(now_ns);
        }
        // When it would be quiet for long enough, if nothing came.
        (busy_ns + may_ns - pause_ns).min(HOLDS_NS)
    }

    /// Estimated work of this process on a GPU that has not ended, ns; 0 only where there is none.
    fn busy_ns(&self, ordinal: u32) -> u64 {
        let on = self.streams.busy().filter(|stream| stream.device() == ordinal);
        on.fold(0, |sum, stream| sum + stream.in_flight_ns() + u64::from(stream.batches()))
    }

    /// Sleeps while the tenant is alone on its GPUs, until somebody calls or comes. `false`: there is nobody to wait for.
    pub(super) fn sleep_alone(&self) -> bool {
        let mut alone = self.gpus.iter().map(|gpu| &gpu.turns).filter(|turns| turns.is_alone());
        let Some((first, seat)) = alone.next().and_then(|turns| Some((turns, turns.seat()?))) else {
            return false;
        };
        let is_one = alone.next().is_none();
        let bell = seat.bell();
        if !self.helper.is_called() && seat.comings() == load(&first.comings) {
            let now_ns = seat.now_ns();
            seat.sleep(bell, now_ns + if is_one { LOOKS_NS } else { LOOKS_AT_SEVERAL_NS });
        }
        true
    }

    /// Rings this tenant's own bells: the helper may sleep on one.
    pub(super) fn ring(&self) {
        for gpu in self.gpus.iter().filter(|gpu| gpu.turns.is_alone()) {
            if let Some(seat) = gpu.turns.seat() {
                seat.ring();
            }
        }
    }

    /// The process ends: others need not wait for it, nor count their launches any more.
    pub(super) fn leave_turns(&self) {
        for gpu in &self.gpus {
            if let Some(seat) = gpu.turns.seat().filter(|seat| seat.is_mine()) {
                let now_ns = seat.now_ns();
                seat.release(now_ns, false);
                if process::managed().member().is_the_only_one() {
                    seat.leave(now_ns);
                }
            }
        }
    }
}
