//! Bringing the engine up to now: the turns that the process had are run, and the turn is given back when nothing is left.

use super::Gpu;
use super::world::RealWorld;
use crate::clock::now_ns;
use crate::engine::{Engine, POLL_NS};
use crate::error::Fault;
use crate::slice::{Grants, Interval};
use std::sync::atomic::Ordering;

/// The worker does not wake for each unit: it may be late by so much while somebody waits …
const LATE_AWAITED_NS: u64 = 20_000;
/// … and by so much while nobody does. The units' own times do not depend on it.
const LATE_NS: u64 = 100_000;

impl Gpu {
    /// Brings the engine up to now where a unit ended since it was last, or where the worker is late: who asks without a pause has the
    /// engine's lock nearly always, and the worker hardly ever.
    pub(super) fn pump_if_due(&self, engine: &mut Engine) {
        let now = now_ns();
        let is_late = self.sleeps_until_ns.load(Ordering::Acquire) <= now;
        if is_late || engine.next_end_ns().is_some_and(|end| end <= now) || engine.is_polling() {
            let wake = self.pump(engine);
            if is_late {
                // As if the worker had been here; it has woken by itself, and looks for itself when it has the lock.
                self.sleeps_until_ns.store(wake, Ordering::Release);
            }
        }
    }

    /// Brings the engine up to now. Gives the time until which the worker may sleep.
    pub(super) fn pump(&self, engine: &mut Engine) -> u64 {
        let Ok(slot) = self.join() else { return u64::MAX };
        let finished_before = engine.finished();
        let mut world = RealWorld { gpu: self };
        let now = now_ns();
        let mut wants = engine.wants_gpu(&mut world);
        let mut grants = self.shared.with(|d| {
            // A turn that the process has is run before the turns are moved on: it may have given it back long ago.
            if d.turns.owner_slot() != Some(slot) {
                d.turns.settle(now);
                d.pass_over_stale(now);
            }
            if wants && !d.turns.wants(slot) {
                d.turns.want(slot, now);
            }
            d.turns.grants(slot, engine.now_ns(), now)
        });
        loop {
            let progressed = run(engine, &grants, now, &mut world);
            wants = engine.wants_gpu(&mut world);
            let after = self.exchange(slot, wants, engine, now);
            let is_settled = !progressed && after == grants;
            grants = after;
            if is_settled {
                break;
            }
        }
        if let Some(fault) = engine.fault() {
            self.fault.store(fault.code(), Ordering::Release);
        }
        if engine.finished() != finished_before || engine.fault().is_some() {
            self.progress.notify_all();
        }
        self.next_wake_ns(engine, &grants, wants, now)
    }

    /// Tells the others whether the process still has work, and asks which turns it has.
    fn exchange(&self, slot: usize, wants: bool, engine: &Engine, now: u64) -> Grants {
        let (grants, next) = self.shared.with(|d| {
            let before = d.turns.owner_slot();
            if wants {
                d.turns.want(slot, now);
            } else {
                d.turns.release(slot, engine.last_done_ns());
            }
            d.turns.settle(now);
            d.pass_over_stale(now);
            let after = d.turns.owner_slot();
            (d.turns.grants(slot, engine.now_ns(), now), after.filter(|&s| after != before && s != slot))
        });
        if let Some(next) = next {
            self.shared.wake(next);
        }
        grants
    }

    fn next_wake_ns(&self, engine: &Engine, grants: &Grants, wants: bool, now: u64) -> u64 {
        let late = if self.waiters.load(Ordering::Acquire) > 0 { LATE_AWAITED_NS } else { LATE_NS };
        let mut wake = u64::MAX;
        if engine.is_polling() {
            wake = now + POLL_NS;
        }
        if wants {
            let next = match grants.present {
                Some(turn) if turn.start_ns > now => turn.start_ns,
                Some(turn) => turn.end_ns.min(engine.next_end_ns().unwrap_or(now).max(now + late)),
                // While another process has the GPU, its turn's end is the next thing that can happen.
                None => grants.turn_ends_ns,
            };
            wake = wake.min(next);
        }
        wake
    }

    /// The sticky error of the process on this device.
    pub(crate) fn check_fault(&self) -> Result<(), Fault> {
        if self.fault.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(Fault::IllegalAddress) }
    }

    /// Forgets the sticky error: the contexts that had it are gone.
    pub(crate) fn clear_fault(&self) {
        self.engine.lock().clear_fault();
        self.fault.store(0, Ordering::Release);
    }
}

/// Runs the engine over the process's turns up to `now`. False where that changed nothing.
fn run(engine: &mut Engine, grants: &Grants, now: u64, world: &mut RealWorld<'_>) -> bool {
    let before = (engine.now_ns(), engine.finished(), engine.next_end_ns());
    for Interval { start_ns, end_ns } in grants.past.iter().copied().chain(grants.present) {
        let end = end_ns.min(now);
        // A turn that begins just now has no length yet, but what may start in it must start.
        if end >= engine.now_ns() && end >= start_ns {
            engine.skip_to(start_ns.max(engine.now_ns()));
            engine.run_to(end, world);
        }
    }
    before != (engine.now_ns(), engine.finished(), engine.next_end_ns())
}
