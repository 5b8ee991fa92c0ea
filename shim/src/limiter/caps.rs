//! Which cap is in force on a GPU, and the tenant's budget there.

use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use cuota_abi::nvml::nvmlProcessInfo_t;
use cuota_governor::admission::{Bound, Cause};
use cuota_governor::batch::{BELOW_TARGET_NS, Batch, Close, Settlement, TARGET_NS, UNCAPPED_TARGET_NS};
use cuota_governor::budget::{Budget, Correction, Look, Opening, book_period, book_window};
use cuota_governor::cap::Cap;
use cuota_governor::concurrency::Concurrency;
use cuota_governor::cost::{Costs, WAYS};
use cuota_governor::lease;
use cuota_governor::neighbours::{Arrears, Neighbours};
use cuota_governor::occupancy::SHORT_GAP_NS;
use cuota_region::policy::Found;
use cuota_region::sys;
use cuota_region::tenant::{GpuIndex, Meter};

use super::Limiter;
use super::stream::InFlight;
use super::turns::Turns;
use crate::process::device::Device;
use crate::process::nvml::Room;
use crate::process::{self, Process, driver};

/// Entries of a GPU's cost table.
const COSTS: usize = 512 * WAYS;

/// How long an answer to "is anybody else on the GPU?" is believed, ns: NVML takes some 40 µs for it.
const ALONE_NS: u64 = 100_000_000;

/// More memory than this that no process shows is a neighbour's whom NVML does not list: a context takes 500 MiB on an H100, on small cards
/// 100 to 300. What the driver takes beside what it reserves is some MiB.
const HIDDEN_BYTES: u64 = 128 << 20;

/// Since when nothing is on the GPU.
pub(super) const NEVER_NS: u64 = u64::MAX;

/// There are others of the tenant's.
const COMPANIONS: u32 = 1 << 31;

/// A GPU as the limiter sees it. All-zero is one that was never used. In its first line stands what each launch reads and a look does not
/// write while no launch has had to wait: threads that launch on a stream each would else wait for the line of whoever looks.
#[repr(C, align(64))]
pub(super) struct Gpu {
    /// The cap, parts per million; 0: not read yet.
    cap_ppm: AtomicU32,
    /// Others on the GPU when NVML was last asked: 0, none; else one more than those that are not the tenant's, and [`COMPANIONS`].
    shared_with: AtomicU32,
    concurrency: AtomicU64,
    /// Its number, and its books: see [`Ground::of`].
    ordinal: AtomicU32,
    /// How many looks nothing was spared for the last time.
    strictness: AtomicU32,
    meter: AtomicPtr<c_void>,
    /// When NVML was last asked, ns.
    asked_ns: AtomicU64,
    /// Whether work in flight is noted in the tenant's file.
    pub(super) in_flight: AtomicU32,
    /// Looks for which nothing is spared, since a launch has had to wait.
    strict: AtomicU32,
    _rest: [u64; 2],
    /// The last look at the clock, ns.
    looked_ns: AtomicU64,
    /// Until when the time was charged that no event measures, ns.
    timed_ns: AtomicU64,
    /// Until when the time would be covered since the process had nothing there, were what its contexts covered one behind another, ns.
    covered_until_ns: AtomicU64,
    /// When a batch of the process last ended here, or began where nothing was there, ns.
    pub(super) ended_ns: AtomicU64,
    /// GPU time that this process has used, as far as it was counted, ns.
    used_ns: AtomicU64,
    /// What the tenant's other processes had used when that was last looked at, ns.
    others_ns: AtomicU64,
    /// What it has had beside others and was not charged ([`Arrears`]).
    arrears: AtomicU64,
    _line: u64,
    pub(super) turns: Turns,
    costs: [AtomicU64; COSTS],
}

const _: () =
    assert!(core::mem::offset_of!(Gpu, looked_ns) == 64 && core::mem::offset_of!(Gpu, turns) == 128);

impl Gpu {
    /// Whether no other process was on it when NVML was last asked.
    pub(super) fn is_had_alone(&self) -> bool {
        self.shared_with.load(Ordering::Relaxed) == 0
    }

    pub(super) fn cap(&self) -> Cap {
        Cap::from_ppm(self.cap_ppm.load(Ordering::Relaxed)).unwrap_or(Cap::FULL)
    }

    /// Whether launches are counted: a cap binds, or others are there.
    pub(super) fn is_managed(&self) -> bool {
        self.cap().binds() || self.turns.is_on()
    }

    /// How much work a batch is to hold, ns: while a tenant of higher priority is there the next look must not be far.
    pub(super) fn target_ns(&self) -> u64 {
        match self.cap().binds() {
            _ if self.turns.is_below() => BELOW_TARGET_NS,
            true => TARGET_NS,
            false => UNCAPPED_TARGET_NS,
        }
    }

    /// Whether all that is on the GPU is the process's, and nothing but its turns is counted.
    pub(super) fn is_clocked(&self) -> bool {
        self.turns.is_held() && !self.cap().binds()
    }

    /// Whether no launch of the process has had to wait for long: then a batch more or less, and a boundary, decide nothing.
    pub(super) fn is_roomy(&self) -> bool {
        self.strict.load(Ordering::Relaxed) == 0
    }

    /// A launch has to wait: nothing is spared for some time. Whether it was before.
    pub(super) fn be_strict(&self, cause: Cause) -> bool {
        let was_roomy = self.is_roomy();
        let before = self.strictness.load(Ordering::Relaxed);
        let looks = lease::strict_for(before, was_roomy, cause);
        self.strictness.store(looks, Ordering::Relaxed);
        self.strict.store(looks, Ordering::Relaxed);
        was_roomy
    }

    /// A look: whether it spares anything.
    pub(super) fn note_look(&self) -> bool {
        let looks = self.strict.load(Ordering::Relaxed);
        if looks != 0 {
            self.strict.store(looks - 1, Ordering::Relaxed);
        }
        looks == 0
    }

    /// What may be in flight in front of a unit that was measured, or another: less while a tenant of higher priority is there, more where nobody is, as far as
    /// NVML and the arena tell.
    pub(super) fn bound(&self, is_learned: bool) -> Bound {
        match (self.turns.is_on(), self.cap().binds()) {
            _ if self.turns.is_below() => Bound::BESIDE_PRIORITY,
            (true, false) if self.turns.is_held() => Bound::ALONE,
            (true, false) => Bound::SLICED,
            (false, _) if self.is_had_alone() && self.is_roomy() && is_learned => Bound::ROOMY,
            (false, _) if self.is_had_alone() => Bound::ALONE,
            _ => Bound::USUAL,
        }
    }

    /// GPU time that this process has used, as far as it was counted, ns.
    pub(super) fn used_ns(&self) -> u64 {
        self.used_ns.load(Ordering::Relaxed)
    }

    /// The process has nothing on it: what it covers comes from now on. A short gap before it may count.
    pub(super) fn begin(&self, now_ns: u64) {
        self.covered_until_ns.store(now_ns.saturating_sub(SHORT_GAP_NS), Ordering::Relaxed);
    }

    /// Of what a batch adds to the union of its context, what the clock has room for: each context has a union of its own, and together
    /// they occupied the GPU no longer than time went by.
    #[inline(never)]
    pub(super) fn cover(&self, covered_ns: u64, now_ns: u64) -> u64 {
        let until_ns = self.covered_until_ns.load(Ordering::Relaxed);
        let covered_ns = covered_ns.min(now_ns.saturating_sub(until_ns));
        self.covered_until_ns.fetch_add(covered_ns, Ordering::Relaxed);
        covered_ns
    }

    fn is_known(&self) -> bool {
        self.cap_ppm.load(Ordering::Relaxed) != 0
    }

    pub(super) fn costs(&self) -> Costs<'_> {
        Costs::new(&self.costs)
    }

    #[inline(always)]
    pub(super) fn concurrency(&self) -> Concurrency {
        Concurrency::from_word(self.concurrency.load(Ordering::Relaxed))
    }

    /// What units that cost so much alone are believed to add to the occupied time, ns.
    #[inline(never)]
    pub(super) fn scale(&self, cost_ns: u64) -> u64 {
        self.scale_hot(cost_ns)
    }

    /// [`Self::scale`], for each launch.
    #[inline(always)]
    pub(super) fn scale_hot(&self, cost_ns: u64) -> u64 {
        self.concurrency().scale(cost_ns)
    }

    pub(super) fn set_concurrency(&self, concurrency: Concurrency) {
        if self.concurrency.load(Ordering::Relaxed) != concurrency.to_word() {
            self.concurrency.store(concurrency.to_word(), Ordering::Relaxed);
        }
    }
}

/// Where a launch acts: a GPU, and the tenant's time on it. One word: it goes through many hands.
#[derive(Clone, Copy)]
pub(super) struct Ground {
    pub(super) gpu: &'static Gpu,
}

impl Limiter {
    /// GPU time that this process has used on a device, as far as it was counted, ns.
    pub(crate) fn used_ns(&self, ordinal: usize) -> u64 {
        self.gpus.get(ordinal).map_or(0, Gpu::used_ns)
    }

    /// Reads the caps of all devices, where the policy has changed since.
    pub(super) fn follow_policy(&self, process: &'static Process) {
        process.obey_monitor();
        let epoch = u64::from(process.policy().epoch()) + 1;
        if self.caps_epoch.load(Ordering::Acquire) != epoch {
            self.read_caps(process, epoch);
        }
    }

    #[cold]
    #[inline(never)]
    fn read_caps(&self, process: &'static Process, epoch: u64) {
        let member = process.member();
        let (mut may_bind, mut is_unwatched, mut epoch_read) = (false, false, epoch);
        // Before `cuInit` there is nothing to launch, and nothing to tell: whoever comes next reads them.
        let Some(devices) = driver::device_count() else { return };
        for ordinal in 0..devices {
            let (Some(gpu), Some(device)) =
                (self.gpus.get(ordinal as usize), process.devices.get(ordinal as usize))
            else {
                continue;
            };
            let found = device.index(member, ordinal).map(|_| process.limits(device.gpu()));
            match found {
                Some(Found::Limits(limits)) => {
                    gpu.cap_ppm.store(limits.compute.ppm(), Ordering::Relaxed);
                    gpu.turns.entitle(limits.entitlement);
                }
                // An entry that is gone lifts no limit: what was known stays.
                Some(Found::Nothing) if gpu.is_known() => {}
                Some(Found::Nothing) => gpu.cap_ppm.store(Cap::FULL.ppm(), Ordering::Relaxed),
                // What was known stays, and whoever comes next asks again.
                Some(Found::Unsettled) => (may_bind, epoch_read) = (true, 0),
                // Without a place in the tenant's books: nothing is launched there, for no context is granted. See `capped`.
                None => gpu.cap_ppm.store(0, Ordering::Relaxed),
            }
            if device.has_contexts() {
                self.arrive(ordinal);
            }
            is_unwatched |= gpu.turns.is_alone() && !self.has_helper();
            may_bind |= gpu.is_managed() || !gpu.is_known();
        }
        if !may_bind {
            // From here on nobody looks: what is open must not take what comes now for its own.
            self.close_all(Close::End);
        }
        self.caps_epoch.store(epoch_read, Ordering::Release);
        // HAMi's monitor is told of every launch, and may ask for a pause.
        let looks = may_bind || is_unwatched || process.hami.is_on();
        self.free_epoch.store(if looks { 0 } else { epoch_read }, Ordering::SeqCst);
        // Who has come meanwhile was seen by the helper before that store, perhaps.
        if self.gpus.iter().any(|gpu| gpu.turns.is_on()) {
            self.free_epoch.store(0, Ordering::SeqCst);
        }
    }

    /// The GPU with this ordinal, if launches are counted there. One that had no place in the books when the caps were read is asked for again.
    pub(super) fn capped(&'static self, process: &'static Process, ordinal: u32) -> Option<&'static Gpu> {
        let gpu = self.gpus.get(ordinal as usize)?;
        if !gpu.is_known() {
            self.read_caps(process, u64::from(process.policy().epoch()) + 1);
        }
        if gpu.turns.is_alone() && self.is_unwatched() {
            let _ = gpu.turns.watch(Ground::of(ordinal)?);
        }
        gpu.is_managed().then_some(gpu)
    }
}

impl Ground {
    /// The GPU with this ordinal. `None`: the tenant's books have no place for it.
    #[inline(never)]
    pub(super) fn of(ordinal: u32) -> Option<Self> {
        let process = process::managed();
        let (gpu, device) =
            (process.limiter.gpus.get(ordinal as usize)?, process.devices.get(ordinal as usize)?);
        let member = process.member();
        let meter = member.tenant().meter(device.index(member, ordinal)?)?;
        // A look first: they are in a line that each launch reads.
        if gpu.meter.load(Ordering::Acquire) != meter.as_ptr() {
            gpu.ordinal.store(ordinal, Ordering::Relaxed);
            gpu.meter.store(meter.as_ptr(), Ordering::Release);
        }
        Some(Ground { gpu })
    }

    /// The process.
    #[inline(always)]
    pub(super) fn process(self) -> &'static Process {
        process::managed()
    }

    /// The GPU's ordinal.
    #[inline(always)]
    pub(super) fn ordinal(self) -> u32 {
        self.gpu.ordinal.load(Ordering::Relaxed)
    }

    /// The tenant's time on it: in the books that the process has now.
    #[inline(always)]
    fn meter(self) -> Meter {
        // SAFETY: written by `of`, which made this.
        unsafe { Meter::from_ptr(self.gpu.meter.load(Ordering::Acquire)) }
    }

    /// Its number in these.
    fn index(self) -> Option<GpuIndex> {
        self.device()?.known_index()
    }

    /// Looks at the clock. Whatever word it is compared with was loaded before.
    pub(super) fn look(self) -> Look {
        let before_ns = self.gpu.looked_ns.load(Ordering::Acquire);
        let look =
            Look::after(before_ns, sys::monotonic_ns(), self.gpu.cap()).taking_turns(self.gpu.turns.is_on());
        self.gpu.looked_ns.fetch_max(look.now_ns, Ordering::AcqRel);
        look
    }

    /// Both words of the budget, and the time since when they stand so.
    pub(super) fn budget(self) -> (Budget, Look) {
        let budget = Budget {
            window: self.meter().window().load(Ordering::Acquire),
            period: self.meter().period().load(Ordering::Acquire),
        };
        (budget, self.look())
    }

    /// Books `gpu_ns` in a word of the budget: that of the window, or, with what that one said, that of the period.
    #[inline(never)]
    fn book_in(self, word: &AtomicU64, gpu_ns: u64, window: Option<Opening>) -> Opening {
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let look = self.look();
            let (next, result) = match window {
                None => book_window(seen, look, gpu_ns),
                Some(opening) => book_period(seen, look, gpu_ns, opening),
            };
            match word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return result,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether what is counted is taken from a budget. Who only takes turns has none.
    fn has_budget(self) -> bool {
        self.gpu.cap().binds()
    }

    /// Books `gpu_ns`: when what they are for may go.
    pub(super) fn book(self, gpu_ns: u64) -> Opening {
        if !self.has_budget() {
            return Opening::Now { left_ns: Cap::FULL.quantum_ns() };
        }
        let opening = self.book_in(self.meter().window(), gpu_ns, None);
        self.book_in(self.meter().period(), gpu_ns, Some(opening))
    }

    /// Corrects what was booked.
    pub(super) fn correct(self, correction: Correction) {
        if correction == Correction::None || !self.has_budget() {
            return;
        }
        self.meter().correct(correction, &|_| Some(self.look()));
    }

    /// Closes a batch, and gives back what was booked for it and is not its units' cost.
    #[inline(never)]
    pub(super) fn close(self, batch: &mut Batch) {
        self.correct(batch.close(self.gpu.concurrency()));
    }

    /// Charges work for the time since then: it was on the GPU until now at most. `booked_ns` were booked for it.
    pub(super) fn charge_since(self, since_ns: u64, booked_ns: u64) {
        let taken_ns = self.time_since(since_ns);
        self.note_used(taken_ns);
        self.correct(Correction::from(booked_ns, taken_ns));
    }

    /// The time since then that no other stream of the process was charged for, ns; to be charged now.
    pub(super) fn time_since(self, since_ns: u64) -> u64 {
        let now_ns = sys::monotonic_ns();
        let until_ns = if since_ns == NEVER_NS { 0 } else { now_ns };
        let timed_ns = self.gpu.timed_ns.fetch_max(until_ns, Ordering::Relaxed);
        now_ns.saturating_sub(timed_ns.max(since_ns))
    }

    /// Adds to the tenant's GPU time.
    pub(super) fn note_used(self, ns: u64) {
        self.gpu.used_ns.fetch_add(ns, Ordering::Relaxed);
        fence(Ordering::Release);
        self.meter().note_used(ns);
    }

    /// Notes what this process has in flight, for whoever finds it dead.
    pub(super) fn note_in_flight(self, left: InFlight) {
        let Some(index) = self.index() else { return };
        let since_ns = left.since_ns.max(self.gpu.timed_ns.load(Ordering::Relaxed));
        let (member, is_any) = (self.process().member(), left.since_ns != 0);
        if is_any && !self.process().limiter.helper.is_there() {
            return member.note_unseen(index, since_ns, left.booked_ns);
        }
        let taken_ns = if is_any { sys::monotonic_ns().saturating_sub(since_ns) } else { 0 };
        member.note_in_flight(index, taken_ns, taken_ns.saturating_sub(left.booked_ns));
    }

    /// Adds to the time that its launches have waited.
    pub(super) fn note_throttled(self, ns: u64) {
        self.meter().note_throttled(ns);
    }

    /// Charges a settled batch; beside others also what the process must have had beyond it.
    pub(super) fn charge(self, settled: &Settlement, strangers: Option<u32>) {
        self.note_used(settled.charge_ns);
        self.correct(settled.correction);
        let Some(strangers) = strangers else { return };
        let beside = Neighbours { strangers, companions_ns: self.companions_ns() };
        let word = &self.gpu.arrears;
        let mut seen = word.load(Ordering::Relaxed);
        let pays_ns = loop {
            let (next, pays_ns) =
                Arrears::from_word(seen).settle(settled.covered_ns, settled.charge_ns, beside);
            match word.compare_exchange(seen, next.to_word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break pays_ns,
                Err(now) => seen = now,
            }
        };
        if pays_ns != 0 {
            self.note_used(pays_ns);
            self.correct(Correction::Owed(pays_ns));
        }
    }

    /// What the tenant's other processes were charged since this was last asked, ns.
    pub(super) fn companions_ns(self) -> u64 {
        // What is ours is added there last, and read here last: what another thread is adding just now is never taken for theirs.
        let all_ns = self.meter().used_ns();
        fence(Ordering::Acquire);
        let others_ns = all_ns.saturating_sub(self.gpu.used_ns.load(Ordering::Relaxed));
        others_ns.saturating_sub(self.gpu.others_ns.fetch_max(others_ns, Ordering::Relaxed))
    }

    /// How many processes that are not the tenant's have a context on the GPU, as far as NVML lists them; of those that it does not list
    /// only that there are some. `None`: no other process at all has. NVML is asked, at most
    /// ten times a second. Where it does not say, others may be there, of which nothing is known: all is charged, and nothing learned. In a turn the tenant's own alone use it.
    pub(super) fn strangers(self, in_turn: bool) -> Option<u32> {
        let (now, asked) = (sys::coarse_ns(), self.gpu.asked_ns.load(Ordering::Relaxed));
        if asked == 0 || now.saturating_sub(asked) >= ALONE_NS {
            self.gpu.asked_ns.store(now.max(1), Ordering::Relaxed);
            self.gpu.shared_with.store(self.ask_who_is_there(), Ordering::Relaxed);
        }
        let with = self.gpu.shared_with.load(Ordering::Relaxed);
        let others = if in_turn { with >> 31 } else { with & !COMPANIONS };
        others.checked_sub(1)
    }

    /// As [`Gpu::shared_with`].
    #[cold]
    fn ask_who_is_there(self) -> u32 {
        const SOMEBODY: u32 = 1;
        let (me, mut room) = (sys::process_id(), Room::new());
        let (Some(device), Some(shown)) = (self.device(), self.shown(&mut room)) else { return SOMEBODY };
        let Some(index) = device.known_index() else { return SOMEBODY };
        let (mut with, mut is_shown) = (0, false);
        // Of the device's memory what no process shows: our own managed memory is some of it. A figure that is not available is all ones.
        let mut hidden_bytes = device.nvml.used_bytes().saturating_sub(device.unseen.load(Ordering::Relaxed));
        for info in shown {
            hidden_bytes = hidden_bytes.saturating_sub(info.usedGpuMemory);
            if info.pid == me {
                is_shown = true;
                continue;
            }
            let is_ours = self.process().member().booked_by(index, info.pid).is_some();
            with = if is_ours { with.max(1) | COMPANIONS } else { with.max(1) + 1 };
        }
        // Who is in a PID namespace that this process does not see is not shown; what it takes is counted.
        if is_shown && with & !COMPANIONS <= 1 && hidden_bytes > HIDDEN_BYTES {
            with = with.max(1) + 1;
        }
        with
    }

    /// What NVML shows on the GPU, if it says.
    pub(super) fn shown(self, room: &mut Room) -> Option<&[nvmlProcessInfo_t]> {
        let device = self.device()?;
        device.nvml.processes(device.gpu(), room).ok()
    }

    pub(super) fn device(self) -> Option<&'static Device> {
        self.process().devices.get(self.ordinal() as usize)
    }
}
