//! A line's word: what a process has booked on a GPU, what of it is pending, and which of the place's lives that is.
//!
//! One word, so that one instruction changes or sees all three. A process that was taken for dead while it slept between two
//! instructions, because its program has closed the live file's descriptor, finds the mark of another life when it wakes, and leaves
//! the newcomer's books alone.

use crate::sync::Ordering;
use crate::tenant::Line;

/// The unit of the books, bytes: what the driver takes is a multiple of it.
pub const UNIT_BYTES: u64 = 64 << 10;

/// The largest amount that is booked, 1 TiB: 31 threads that ask for it at once stay within a field.
pub(crate) const LARGEST_BYTES: u64 = UNIT_BYTES << 24;

/// Pending units are the lowest 29 bits, booked ones the next 29, and six of the life stand above.
const FIELD_BITS: u32 = 29;
const FIELD: u64 = (1 << FIELD_BITS) - 1;
const MARK_SHIFT: u32 = 2 * FIELD_BITS;

/// Says in the layout's hash how the word is divided.
pub(crate) const LAYOUT: usize = FIELD_BITS as usize;

/// An amount in units, rounded up.
#[inline]
pub(crate) fn units(bytes: u64) -> u64 {
    bytes.min(LARGEST_BYTES).div_ceil(UNIT_BYTES)
}

#[inline(always)]
fn mark(life: u64) -> u64 {
    (life >> 1) << MARK_SHIFT
}

/// Begins the word of `life`: nothing is booked.
pub(crate) fn begin(line: &Line, life: u64) {
    // A swap, since loom takes a store for one that may come before a change by one who was here earlier.
    line.booked.swap(mark(life), Ordering::SeqCst);
}

/// A line's booked and pending bytes.
#[inline(always)]
pub(crate) fn read(line: &Line) -> (u64, u64) {
    let (booked, pending) = fields(line.booked.load(Ordering::SeqCst));
    (booked * UNIT_BYTES, pending * UNIT_BYTES)
}

/// A line's booked bytes.
pub(crate) fn booked_bytes(line: &Line) -> u64 {
    read(line).0
}

/// Adds units to the word of `life`. `false`: the line is another's by now, and as it was.
///
/// Added first and looked at after, which saves 2 ns: another's books are too high for a moment, never too low.
#[inline(never)]
pub(crate) fn add(line: &Line, life: u64, booked: u64, pending: u64) -> bool {
    add_hot(line, life, booked, pending)
}

/// [`add`], for each allocation.
#[inline(always)]
pub(crate) fn add_hot(line: &Line, life: u64, booked: u64, pending: u64) -> bool {
    let word = line.booked.fetch_add((booked << FIELD_BITS) + pending, Ordering::SeqCst);
    is_of(word, life) || add_again(line, life, word, booked, pending)
}

/// Takes back what was added to `word`, which is of another life; and adds it to a word of this one, if somebody scribbled over that.
#[cold]
fn add_again(line: &Line, life: u64, word: u64, booked: u64, pending: u64) -> bool {
    let (units, others) = ((booked << FIELD_BITS) + pending, word >> MARK_SHIFT << 1);
    raise(line, others, units.wrapping_neg());
    raise(line, life, units)
}

#[inline(never)]
fn raise(line: &Line, life: u64, units: u64) -> bool {
    change(line, life, |word| word.wrapping_add(units))
}

#[inline(always)]
fn is_of(word: u64, life: u64) -> bool {
    (word ^ mark(life)) >> MARK_SHIFT == 0
}

/// Adds units to the booked ones of the word of `life`, and subtracts units from them and from the pending ones. `false`: the line is
/// another's by now, or its books have been moved. Books that another process scribbled over never wrap to "everything".
pub(crate) fn settle(line: &Line, life: u64, more: u64, booked: u64, pending: u64) -> bool {
    change(line, life, |word| {
        let (had, had_pending) = fields(word);
        let left = (had + more).saturating_sub(booked).min(FIELD);
        mark(life) | left << FIELD_BITS | had_pending.saturating_sub(pending)
    })
}

/// Subtracts units from the word of `life`, in one attempt. `false`: nothing is done, and [`settle`] knows more.
#[inline(always)]
pub(crate) fn settle_at_once(line: &Line, life: u64, booked: u64, pending: u64) -> bool {
    let word = line.booked.load(Ordering::Acquire);
    let (had, had_pending) = fields(word);
    is_of(word, life) && had >= booked && had_pending >= pending && {
        let left = word - (booked << FIELD_BITS) - pending;
        line.booked.compare_exchange(word, left, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

/// The booked and the pending units of a word.
#[inline(always)]
fn fields(word: u64) -> (u64, u64) {
    (word >> FIELD_BITS & FIELD, word & FIELD)
}

/// Whether what is booked in the word is still that of `life`: neither moved, nor taken away for dead, nor another's.
pub(crate) fn is_whole(line: &Line, life: u64) -> bool {
    is_of(line.booked.load(Ordering::SeqCst), life)
}

/// Brings the word of `to`, a line that nobody else changes yet and its life, up to what stands in the word of `life`. That word as it was
/// then; `None`: it is another's by now.
pub(crate) fn bring(line: &Line, life: u64, to: (&Line, u64)) -> Option<u64> {
    // First what is there: whoever finds the old line another's from now on changes the new one, and keeps what it changed.
    let is_there = to.0.booked.load(Ordering::Acquire) ^ mark(to.1) ^ mark(life);
    let now = line.booked.load(Ordering::SeqCst);
    is_of(now, life).then(|| {
        // As one number, both of whose fields end where they are to.
        add(to.0, to.1, 0, now.wrapping_sub(is_there));
        now
    })
}

/// Ends the word of `life`, if it is still `before`: from then on nobody changes it.
pub(crate) fn close(line: &Line, life: u64, before: u64) -> bool {
    line.booked.compare_exchange(before, closed(life), Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

/// A word of `life` whose content has been moved: nobody's. The mark is of neither the life before nor the next ones: whoever has added to it
/// unawares must not take that back from a newcomer.
fn closed(life: u64) -> u64 {
    mark(life.wrapping_add(64))
}

/// Leaves at most `booked` units in the word of `life`, whose process is dead, and nothing pending; if it lives after all, the word is its
/// own no longer. `true`: there was more.
pub(crate) fn shrink(line: &Line, life: u64, booked: u64) -> bool {
    let before = line.booked.load(Ordering::Acquire);
    let (had, pending) = fields(before);
    let left = closed(life) | had.min(booked) << FIELD_BITS;
    (had > booked || pending != 0)
        && is_of(before, life)
        && line.booked.compare_exchange(before, left, Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

#[inline(always)]
fn change(line: &Line, life: u64, new: impl Fn(u64) -> u64) -> bool {
    let mut word = line.booked.load(Ordering::Acquire);
    loop {
        let Some(before) = (if is_of(word, life) { Some(word) } else { begun_again(line, life, word) })
        else {
            return false;
        };
        match line.booked.compare_exchange_weak(word, new(before), Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => word = now,
        }
    }
}

/// What a word that is not of `life` is to be taken for. A newcomer ends the life before it begins its word: so where the life is still the
/// line's, somebody scribbled over the word, and nothing is booked; unless its books have been moved.
#[cold]
fn begun_again(line: &Line, life: u64, word: u64) -> Option<u64> {
    let is_scribbled = !is_of(word, life.wrapping_add(64)) && line.life.load(Ordering::Acquire) == life;
    is_scribbled.then(|| mark(life))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ledger::Books;
    use crate::name::GpuId;
    use crate::testing::Bench;

    #[test]
    fn what_was_added_to_a_closed_word_is_not_taken_back_from_a_newcomer() {
        let bench = Bench::new();
        let gpu = bench.tenant().gpu_index(GpuId::from_words([1, 2])).unwrap();
        let lost = bench.member_at(bench.tenant(), 0);
        let line = &bench.tenant().0.books[0][0];
        assert!(close(line, lost.life, line.booked.load(Ordering::SeqCst)));
        // A thread of the process that has moved comes late,
        let word = line.booked.fetch_add((100 << FIELD_BITS) + 100, Ordering::SeqCst);
        assert!(!is_of(word, lost.life));
        // and before it takes back what it added the place is another process's.
        lost.leave();
        let next = Books::of(bench.member_at(bench.tenant(), 0), gpu);
        next.book(64 << 20);
        assert!(!add_again(line, lost.life, word, 100, 100));
        assert_eq!((next.own_booked().0, next.own_pending()), (64 << 20, 0));
    }
}
