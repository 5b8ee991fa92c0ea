//! Processes that reserve against one quota.

use super::world::{Process, World, explore};
use crate::ledger::{Books, UNIT_BYTES};

/// Processes that have joined before the race, one by one.
fn joined<const N: usize>(world: &'static World, quota: u64) -> [(Process, Books); N] {
    std::array::from_fn(|number| {
        let process = world.process(number, quota);
        (process, process.join_at(number).unwrap())
    })
}

/// The books show what was granted, and none was refused what would have fitted.
fn settle_up(world: &'static World, quota: u64, units: &[u64], granted: &[bool]) {
    let sum: u64 = units.iter().zip(granted).filter(|(_, granted)| **granted).map(|(units, _)| units).sum();
    assert_eq!((world.taken(), world.booked()), (sum, sum));
    for (units, granted) in units.iter().zip(granted) {
        assert!(*granted || sum + units > quota, "{units} refused beside {sum} under {quota}");
    }
}

/// Races allocations of `units` under `quota` by processes that have joined.
fn race<const N: usize>(preemptions: Option<usize>, quota: u64, units: [u64; N]) {
    explore(preemptions, move |world| {
        let mut wishes = units.into_iter();
        let threads = joined::<N>(world, quota).map(|(process, books)| {
            let wish = wishes.next().unwrap();
            process.start(None, move |process| process.allocate(books, wish).is_ok())
        });
        let granted = threads.map(|thread| thread.join().unwrap().unwrap());
        settle_up(world, quota, &units, &granted);
    });
}

#[test]
fn of_two_that_fit_only_alone_exactly_one_is_granted() {
    race(None, 4, [3, 3]);
}

#[test]
fn of_two_that_fit_together_both_are_granted() {
    race(None, 4, [2, 2]);
}

#[test]
fn of_three_as_many_are_granted_as_fit() {
    race(Some(2), 5, [3, 3, 2]);
    race(Some(1), 4, [3, 3, 3]);
}

#[test]
fn who_reserves_in_a_straight_line_sees_and_is_seen_by_the_others() {
    for units in [[3, 3], [2, 2]] {
        for both in [false, true] {
            explore(None, move |world| {
                let [(a, a_books), (b, b_books)] = joined(world, 4);
                let first = a.start(None, move |a| a.allocate_at_once(a_books, units[0]).is_ok());
                let second = b.start(None, move |b| {
                    let how = if both { Process::allocate_at_once } else { Process::allocate };
                    how(b, b_books, units[1]).is_ok()
                });
                let granted = [first, second].map(|thread| thread.join().unwrap().unwrap());
                settle_up(world, 4, &units, &granted);
            });
        }
    }
}

#[test]
fn two_that_join_and_reserve_at_once_see_each_other() {
    explore(Some(3), |world| {
        let threads = [0, 1].map(|number| {
            world.process(number, 4).start(None, |process| {
                let books = process.join().unwrap();
                process.allocate(books, 3).is_ok()
            })
        });
        let granted = threads.map(|thread| thread.join().unwrap().unwrap());
        settle_up(world, 4, &[3, 3], &granted);
    });
}

#[test]
fn what_is_cancelled_and_given_back_leaves_the_sum_right_and_the_room_free() {
    explore(None, |world| {
        let [(a, a_books), (b, b_books)] = joined(world, 4);
        let other = b.start(None, move |b| {
            if b.allocate(b_books, 2).is_ok() {
                b.free(b_books, 1);
            }
        });
        let first = a.start(None, move |a| {
            if let Ok(reservation) = a_books.reserve(2 * UNIT_BYTES, 4 * UNIT_BYTES) {
                a_books.cancel(reservation);
            }
            a.allocate(a_books, 2)
        });
        let (first, other) = (first.join().unwrap().unwrap(), other.join().unwrap());
        assert_eq!((first, other), (Ok(()), Some(())), "all of it fits, whatever the order");
        assert_eq!((world.taken(), world.booked()), (3, 3));
        assert_eq!((a_books.own_pending(), b_books.own_pending()), (0, 0), "nothing is under way any more");
    });
}
