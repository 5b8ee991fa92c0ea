//! Processes that live and are taken for dead, because the program closed the live file's descriptor.

use std::sync::Arc;

use super::sync::AtomicU32;
use super::world::{World, explore};
use crate::death::HOLD_NS;
use crate::ledger::{Books, UNIT_BYTES};
use crate::sync::Ordering;

const MS: u64 = 1_000_000;

/// A process at place 0 that has two units and has lost its lock; one at place 1 that has found so, as long ago as the dead are held.
fn one_lost(world: &'static World) -> [Books; 2] {
    world.set_now_ns(10 * MS);
    let lost = world.process(0, 4).join_at(0).unwrap();
    world.process(0, 4).allocate(lost, 2).unwrap();
    let sweeper = world.process(1, 4).join_at(1).unwrap();
    world.close_live(0);
    sweeper.member().sweep().unwrap();
    world.set_now_ns(world.now_ns() + HOLD_NS + MS);
    [lost, sweeper]
}

#[test]
fn what_is_brought_is_in_every_sum_from_then_on_and_counts_once_in_the_end() {
    explore(Some(3), |world| {
        let brought = Arc::new(AtomicU32::default());
        let [lost, sweeper] = one_lost(world);
        let seen = brought.clone();
        // Its second descriptor: another holder of locks.
        let back = world.process(2, 4).start(None, move |again| {
            let books = again.join_at(2).unwrap();
            books.book(2 * UNIT_BYTES);
            brought.store(1, Ordering::SeqCst);
            lost.member().leave();
        });
        let sweep = world.process(1, 4).start(None, move |_| {
            sweeper.member().sweep().unwrap();
            if seen.load(Ordering::SeqCst) == 1 {
                assert!(world.booked() >= 2, "what was brought is missing");
            }
        });
        back.join().unwrap();
        sweep.join().unwrap();
        assert_eq!(world.booked(), 2);
        assert!(!lost.is_mine());
        assert_eq!(world.process(3, 4).join().map(|books| books.member().place), Some(0));
    });
}

#[test]
fn one_that_was_evicted_unawares_changes_no_books_of_the_next() {
    for act in [Books::release as fn(&Books, u64), Books::book] {
        explore(Some(3), move |world| {
            let [lost, sweeper] = one_lost(world);
            let late = world.process(0, 4).start(None, move |_| act(&lost, UNIT_BYTES));
            let next = world.process(3, 4).start(None, move |next| {
                sweeper.member().sweep().unwrap();
                let books = next.join()?;
                books.book(UNIT_BYTES);
                Some(books)
            });
            late.join().unwrap();
            let next = next.join().unwrap().unwrap();
            if next.is_some_and(|next| next.member().place == 0) {
                assert_eq!(world.booked(), 1, "the newcomer has one unit");
            }
        });
    }
}
