//! Time-slicing: which process has the GPU, and when. Pure arithmetic on given times; the shared file holds one
//! [`Turns`], and whoever looks moves it on, so there is no daemon.
//!
//! The rule, measured on an H100 with driver 580: processes that have work take turns in a circle, a turn is 2.09 ms, and
//! each switch takes 0.15 ms in which nobody runs. A process without work gives its turn back at once. A process
//! that finds another one at work waits for the end of the turn that then runs.

/// The length of a turn while more than one process has work.
pub const SLICE_NS: u64 = 2_090_000;
/// The time that a switch from one process to another takes.
pub const SWITCH_NS: u64 = 150_000;
/// The most processes that can share a device.
pub const SLOTS: usize = 64;
/// A process that has not looked for so long although it has turns is stopped or dead: it is passed over.
pub const STALE_NS: u64 = 100_000_000;

const NOBODY: u32 = u32::MAX;
const OPEN: u64 = u64::MAX;
const REMEMBERED: usize = 16;

/// A stretch of time in which one process had the GPU, in `CLOCK_MONOTONIC` nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// First nanosecond.
    pub start_ns: u64,
    /// One past the last nanosecond.
    pub end_ns: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Contender {
    wants: u32,
    next: u32,
    seen_ns: u64,
    past: [Interval; REMEMBERED],
}

/// What one process may use: finished turns, oldest first, and its present turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Finished turns that ended after the asker's time.
    pub past: Vec<Interval>,
    /// The present turn, where the asker has it: `end_ns` is `u64::MAX` while nobody else wants the GPU.
    pub present: Option<Interval>,
    /// When the present turn, whoever has it, ends at the latest.
    pub turn_ends_ns: u64,
}

/// The turns of one device. Part of the shared file's layout: plain numbers only.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    owner: u32,
    last_owner: u32,
    start_ns: u64,
    end_ns: u64,
    occupied_ns: u64,
    contenders: [Contender; SLOTS],
}

impl Default for Turns {
    fn default() -> Self {
        let idle = Contender { wants: 0, next: 0, seen_ns: 0, past: [Interval::default(); REMEMBERED] };
        Self {
            owner: NOBODY,
            last_owner: 0,
            start_ns: 0,
            end_ns: OPEN,
            occupied_ns: 0,
            contenders: [idle; SLOTS],
        }
    }
}

impl Turns {
    /// `slot` has work from `now_ns` on. Gives it the GPU where nobody has it.
    pub fn want(&mut self, slot: usize, now_ns: u64) {
        self.settle(now_ns);
        let Some(contender) = self.contenders.get_mut(slot) else { return };
        contender.seen_ns = now_ns;
        if contender.wants != 0 {
            return;
        }
        contender.wants = 1;
        if self.owner == NOBODY {
            self.grant(slot, now_ns);
        } else if self.end_ns == OPEN {
            // A turn without rivals is a row of slices: the newcomer waits for the end of the one that runs.
            let elapsed = now_ns.saturating_sub(self.start_ns);
            self.end_ns = self.start_ns + (elapsed / SLICE_NS + 1) * SLICE_NS;
        }
    }

    /// `slot` ran out of work at `at_ns`, which may lie in the past; the next one's turn begins from there.
    pub fn release(&mut self, slot: usize, at_ns: u64) {
        let Some(contender) = self.contenders.get_mut(slot) else { return };
        contender.wants = 0;
        if self.owner_slot() == Some(slot) {
            self.hand_over(at_ns.max(self.start_ns));
        }
    }

    /// `slot` is gone. Forgets its turns.
    pub fn remove(&mut self, slot: usize, now_ns: u64) {
        self.release(slot, now_ns.min(self.end_ns));
        if let Some(contender) = self.contenders.get_mut(slot) {
            contender.past = [Interval::default(); REMEMBERED];
        }
    }

    /// Ends each turn that was over before `now_ns` and begins the next.
    pub fn settle(&mut self, now_ns: u64) {
        if self.owner_slot().is_none() {
            // Nobody has the GPU though somebody wants it: a process was killed in the middle of a change.
            let last = usize::try_from(self.last_owner).unwrap_or(0);
            let next = self.next_after(last).or_else(|| Some(last).filter(|&slot| self.wants(slot)));
            if let Some(next) = next {
                self.grant(next, now_ns);
            }
        }
        while let Some(owner) = self.owner_slot() {
            if self.end_ns > now_ns {
                break;
            }
            if self.next_after(owner).is_none() {
                self.end_ns = OPEN;
                break;
            }
            self.hand_over(self.end_ns);
        }
    }

    /// What `slot` had and has since `since_ns`; also notes that it looked.
    pub fn grants(&mut self, slot: usize, since_ns: u64, now_ns: u64) -> Grants {
        self.contenders[slot].seen_ns = now_ns;
        let mut past: Vec<Interval> =
            self.contenders[slot].past.iter().copied().filter(|i| i.end_ns > since_ns).collect();
        past.sort_unstable_by_key(|i| i.start_ns);
        let present = (self.owner_slot() == Some(slot))
            .then_some(Interval { start_ns: self.start_ns, end_ns: self.end_ns });
        Grants { past, present, turn_ends_ns: self.end_ns }
    }

    /// Whether `slot` is known to have work.
    #[must_use]
    pub fn wants(&self, slot: usize) -> bool {
        self.contenders.get(slot).is_some_and(|c| c.wants != 0)
    }

    /// Who has the GPU.
    #[must_use]
    pub fn owner_slot(&self) -> Option<usize> {
        usize::try_from(self.owner).ok().filter(|&slot| slot < SLOTS)
    }

    /// Slots that have work but have not looked for [`STALE_NS`]: stopped or dead, to be released by the caller.
    #[must_use]
    pub fn stale(&self, now_ns: u64) -> Vec<usize> {
        (0..SLOTS).filter(|&s| self.wants(s) && self.contenders[s].seen_ns + STALE_NS < now_ns).collect()
    }

    /// The nanoseconds in which some process had the GPU, since the device was made.
    #[must_use]
    pub fn occupied_ns(&self, now_ns: u64) -> u64 {
        let running =
            if self.owner == NOBODY { 0 } else { now_ns.min(self.end_ns).saturating_sub(self.start_ns) };
        self.occupied_ns + running
    }

    fn hand_over(&mut self, at_ns: u64) {
        let Some(owner) = self.owner_slot() else { return };
        self.occupied_ns += at_ns - self.start_ns;
        let past = &mut self.contenders[owner];
        let place = past.next as usize % REMEMBERED;
        past.past[place] = Interval { start_ns: self.start_ns, end_ns: at_ns };
        past.next = past.next.wrapping_add(1) % 16;
        self.last_owner = self.owner;
        self.owner = NOBODY;
        self.end_ns = OPEN;
        if let Some(next) = self.next_after(owner) {
            self.grant(next, at_ns + SWITCH_NS);
        }
    }

    fn grant(&mut self, slot: usize, at_ns: u64) {
        self.owner = u32::try_from(slot).unwrap_or(NOBODY);
        self.start_ns = at_ns;
        self.end_ns = if self.next_after(slot).is_some() { at_ns + SLICE_NS } else { OPEN };
    }

    /// The next process with work after `slot` in the circle, `slot` itself not counted.
    fn next_after(&self, slot: usize) -> Option<usize> {
        (1..SLOTS).map(|step| (slot + step) % SLOTS).find(|&other| self.wants(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_process_alone_keeps_the_gpu() {
        let mut turns = Turns::default();
        turns.want(3, 10 * MS);
        turns.settle(900 * MS);
        let grants = turns.grants(3, 0, 900 * MS);
        assert_eq!(grants.present, Some(Interval { start_ns: 10 * MS, end_ns: OPEN }));
    }

    #[test]
    fn two_saturating_processes_get_46_percent_each() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 0);
        let mut had = [0, 0];
        for tick in 0..10_000 {
            let now = tick * 100_000;
            turns.settle(now);
            for (slot, sum) in had.iter_mut().enumerate() {
                let present = turns.grants(slot, now, now).present;
                *sum += u64::from(present.is_some_and(|i| i.start_ns <= now && now < i.end_ns));
            }
        }
        for sum in had {
            assert!((4_600..4_720).contains(&sum), "{sum} of 10,000 instants");
        }
    }

    #[test]
    fn a_short_step_beside_a_saturating_process_waits_one_foreign_turn() {
        let (mut turns, step_ns) = (Turns::default(), 126_000);
        turns.want(0, 0);
        turns.want(1, 0);
        turns.settle(SLICE_NS);
        let start = turns.grants(1, 0, SLICE_NS).present.expect("its turn came").start_ns;
        turns.release(1, start + step_ns);
        turns.want(1, start + step_ns);
        turns.settle(start + 3 * MS);
        let again = turns.grants(1, start + step_ns, start + 3 * MS).present.expect("its turn came again");
        assert_eq!(again.start_ns - start, step_ns + SLICE_NS + 2 * SWITCH_NS);
    }

    #[test]
    fn a_newcomer_waits_for_the_end_of_the_running_slice() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 5 * MS);
        assert_eq!(turns.grants(0, 0, 5 * MS).present.expect("it runs").end_ns, 3 * SLICE_NS);
    }

    #[test]
    fn a_process_that_runs_out_of_work_gives_its_turn_back_at_once() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 0);
        turns.release(0, MS);
        let present = turns.grants(1, 0, MS).present.expect("it is its turn");
        assert_eq!(present.start_ns, MS + SWITCH_NS);
        assert_eq!(turns.grants(0, 0, MS).past, [Interval { start_ns: 0, end_ns: MS }]);
    }

    #[test]
    fn a_removed_process_never_gets_a_turn_again() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 0);
        turns.remove(0, MS);
        turns.settle(100 * MS);
        assert_eq!(turns.owner_slot(), Some(1));
    }

    #[test]
    fn a_change_that_was_cut_short_is_put_right() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 0);
        turns.owner = NOBODY;
        turns.settle(MS);
        assert_eq!(turns.owner_slot(), Some(1));
    }

    #[test]
    fn a_process_that_never_looks_is_stale() {
        let mut turns = Turns::default();
        turns.want(0, 0);
        turns.want(1, 0);
        let now = 2 * STALE_NS;
        let _ = turns.grants(1, 0, now);
        assert_eq!(turns.stale(now), [0]);
    }
}
