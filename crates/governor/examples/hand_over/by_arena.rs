//! Turns by the rules and the file that `libcuota.so` is to use: what its gate and its helper will do, in this program.

use std::sync::MutexGuard;
use std::time::Duration;

use cuota_governor::arbiter::cycle_ns;
use cuota_governor::turn::LINGER_NS;
use cuota_region::seat::{Admission, Seat};

use crate::clock;
use crate::gate::{Gate, How, Law, Phase, State};

const US: u64 = 1_000;
/// How long one launches beside the turns of others before it looks again, ns.
const SHARES_NS: u64 = 20_000 * US;

impl Gate {
    fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("a tenant of the arena has a seat")
    }

    /// Between two batches: whether the turn is still this tenant's. It may have been taken, or it was over.
    pub(crate) fn still_has_it(&self, state: &mut State, now_ns: u64) -> bool {
        if state.shares {
            if now_ns >= state.deadline_ns || self.seat().is_below_holder(now_ns) {
                state.end_batch(self.stream);
                self.seat().note_shared(now_ns, state.turn_spent_ns);
                (state.phase, state.shares) = (Phase::Out, false);
            }
            return state.shares;
        }
        self.seat().touch(now_ns);
        if let Some(until_ns) = self.seat().look(now_ns) {
            state.deadline_ns = until_ns;
        } else if now_ns < state.deadline_ns {
            // Taken by a higher priority: what is in flight drains beside its first work.
            self.close(state, now_ns);
            state.phase = Phase::Out;
        }
        state.phase == Phase::In
    }

    /// A turn is over by the clock: whether the next is this tenant's again, without a pause.
    pub(crate) fn goes_on_in_arena(&self, state: &mut State, now_ns: u64) -> bool {
        if !matches!(state.law.how, How::Arena { .. }) || self.seat().askers() > 1 {
            return false;
        }
        match self.seat().release(now_ns, true) {
            Some(until_ns) => (state.deadline_ns, state.turn_spent_ns) = (until_ns, 0),
            None => return false,
        }
        true
    }

    /// What is in flight drains: hands over a little before it has. When to look again.
    pub(crate) fn hand_over_in_arena(
        &self,
        mut state: MutexGuard<'_, State>,
        now_ns: u64,
        drains_ns: u64,
        lead_ns: u64,
    ) -> Duration {
        let left_ns = drains_ns.saturating_sub(lead_ns).saturating_sub(now_ns);
        if !state.in_flight.is_empty() && left_ns > 0 {
            if now_ns > state.deadline_ns {
                self.seat().drain(now_ns);
            }
            return Duration::from_nanos(left_ns.clamp(20 * US, 300 * US));
        }
        let length_ns = state.deadline_ns.saturating_sub(state.granted_ns);
        state.habit = state.habit.after_turn(now_ns, state.turn_spent_ns, length_ns);
        state.phase = Phase::Out;
        if let Some(until_ns) = self.seat().release(now_ns, true) {
            state.begin(self.stream, now_ns, until_ns);
        }
        Duration::ZERO
    }

    /// Nothing was launched for a while and nothing is in flight: seen by the helper.
    pub(crate) fn give_up_in_arena(&self, state: &mut State, now_ns: u64) {
        if state.law.is_high && now_ns.saturating_sub(state.progress_ns) < LINGER_NS {
            return;
        }
        let length_ns = state.deadline_ns.saturating_sub(state.granted_ns);
        state.habit = state.habit.after_turn(now_ns, state.turn_spent_ns, length_ns);
        self.close(state, now_ns);
        self.seat().release(now_ns, false);
        state.phase = Phase::Out;
    }

    /// Waits for a turn, or launches beside those of others, as its habit is.
    pub(crate) fn take_in_arena(&self, law: Law) {
        let since_ns = clock::now_ns();
        let habit = self.state().habit;
        let [horizon_ns, entry_ns] = self.seat().note_shared(since_ns, 0);
        let may_share = !law.is_high && !self.seat().is_below_holder(since_ns);
        if may_share && !habit.takes_turns(since_ns, horizon_ns, entry_ns, cycle_ns(law.managed)) {
            self.seat().stand_aside(since_ns);
            return self.share(since_ns);
        }
        loop {
            let now_ns = clock::now_ns();
            if now_ns >= law.to_ns {
                return;
            }
            match self.seat().admit(now_ns, since_ns) {
                Admission::Go { until_ns } => return self.state().begin(self.stream, now_ns, until_ns),
                Admission::Wait { bell, until_ns } => self.seat().sleep(bell, until_ns.min(law.to_ns)),
                Admission::Aloof => return self.share(now_ns),
            }
        }
    }

    fn share(&self, now_ns: u64) {
        let mut state = self.state();
        (state.phase, state.shares, state.turn_spent_ns) = (Phase::In, true, 0);
        (state.granted_ns, state.progress_ns) = (now_ns, now_ns);
        state.deadline_ns = now_ns + SHARES_NS;
    }

    /// The cell is over.
    pub(crate) fn leave_arena(&self) {
        if let Some(seat) = &self.seat {
            seat.release(clock::now_ns(), false);
            seat.withdraw();
        }
    }
}
