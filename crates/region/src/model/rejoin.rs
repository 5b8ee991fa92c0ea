//! Processes that live and are taken for dead, because the program closed the live file's descriptor.

use std::sync::{Arc, Mutex};

use super::death::{at_each_step, bury};
use super::sync::AtomicU32;
use super::world::{Process, World, explore};
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

/// The process's books as its calls find them: those of the place that is in force, once the second of them is.
type Current = Arc<(AtomicU32, Mutex<Vec<Books>>)>;

fn now(current: &Current) -> Books {
    let which = current.0.load(Ordering::SeqCst);
    current.1.lock().unwrap()[which as usize]
}

/// Moves the process's books from the place that it `lost` to place 2, as the guest does it. What it holds is known to it in case that the
/// place has become another's.
fn rejoin(again: Process, lost: Books, current: &Current, held: &AtomicU32) {
    let books = again.join_again_at(2, lost);
    if books.member().take_over(lost.member()).is_none() {
        books.book(u64::from(held.load(Ordering::SeqCst)) * UNIT_BYTES);
    }
    current.1.lock().unwrap().push(books);
    current.0.store(1, Ordering::SeqCst);
    lost.member().leave();
}

/// A call that takes two units, as the guest makes it: what it took is known before it is booked, and it books in the place that is in force
/// when the driver has answered.
fn fly(process: Process, current: &Current, held: &AtomicU32, is_taken: bool) -> bool {
    let Ok(reservation) = process.reserve(now(current), None, 2) else { return false };
    if !is_taken {
        now(current).cancel(reservation);
        return false;
    }
    process.take(2);
    assert!(process.world.taken() <= process.quota, "granted over the quota: {}", process.world.taken());
    held.fetch_add(2, Ordering::SeqCst);
    now(current).commit(reservation, 2 * UNIT_BYTES);
    true
}

/// A process at place 0 that has one unit and has lost its lock.
fn one_that_flies(world: &'static World) -> (Process, Books, Current, Arc<AtomicU32>) {
    world.set_now_ns(10 * MS);
    let process = world.process(0, 4);
    let lost = process.join_at(0).unwrap();
    process.allocate(lost, 1).unwrap();
    world.close_live(0);
    let held = AtomicU32::default();
    held.store(1, Ordering::SeqCst);
    (process, lost, Arc::new((AtomicU32::default(), Mutex::new(vec![lost]))), Arc::new(held))
}

#[test]
fn what_is_in_flight_at_a_rejoin_is_in_every_sum() {
    for is_taken in [true, false] {
        explore(Some(2), move |world| {
            let (process, lost, current, held) = one_that_flies(world);
            let other = world.process(1, 4);
            let others = other.join_at(1).unwrap();
            let (at, has) = (current.clone(), held.clone());
            let flight = process.start(None, move |process| fly(process, &at, &has, is_taken));
            let ask = other.start(None, move |other| other.allocate(others, 2).is_ok());
            rejoin(world.process(2, 4), lost, &current, &held);
            let (flown, granted) = (flight.join().unwrap().unwrap(), ask.join().unwrap().unwrap());
            assert!(!(flown && granted), "five units of four");
            assert_eq!(world.booked(), world.taken());
            assert_eq!(now(&current).own_pending(), 0);
        });
    }
}

#[test]
fn what_is_given_back_at_a_rejoin_is_given_back_once() {
    explore(Some(3), |world| {
        let (process, lost, current, held) = one_that_flies(world);
        let at = current.clone();
        let free = process.start(None, move |process| process.free(now(&at), 1));
        rejoin(world.process(2, 4), lost, &current, &held);
        free.join().unwrap();
        assert_eq!((world.booked(), world.taken()), (0, 0));
    });
}

#[test]
fn one_that_is_buried_while_it_joins_again_comes_with_all_that_it_holds() {
    explore(Some(3), |world| {
        let (process, lost, current, held) = one_that_flies(world);
        let sweeper = world.process(1, 4).join_at(1).unwrap();
        let reservation = process.reserve(lost, None, 2).unwrap();
        sweeper.member().sweep().unwrap();
        world.set_now_ns(world.now_ns() + HOLD_NS + MS);
        let sweep = world.process(1, 4).start(None, move |_| sweeper.member().sweep().unwrap());
        let (at, has) = (current.clone(), held.clone());
        let flight = process.start(None, move |process| {
            process.take(2);
            has.fetch_add(2, Ordering::SeqCst);
            now(&at).commit(reservation, 2 * UNIT_BYTES);
        });
        rejoin(world.process(2, 4), lost, &current, &held);
        sweep.join().unwrap();
        flight.join().unwrap();
        assert_eq!(world.booked(), world.taken());
        assert_eq!(now(&current).own_pending(), 0);
    });
}

#[test]
fn one_whose_place_is_anothers_by_now_leaves_the_newcomer_alone_and_is_booked_in_full() {
    explore(Some(3), |world| {
        let (process, lost, current, held) = one_that_flies(world);
        let sweeper = world.process(1, 4).join_at(1).unwrap();
        let reservation = process.reserve(lost, None, 2).unwrap();
        sweeper.member().sweep().unwrap();
        world.set_now_ns(world.now_ns() + HOLD_NS + MS);
        let newcomer = world.process(3, 4).start(None, |newcomer| {
            let books = newcomer.join()?;
            books.book(UNIT_BYTES);
            newcomer.take(1);
            Some(books)
        });
        let (at, has) = (current.clone(), held.clone());
        let flight = process.start(None, move |process| {
            process.take(2);
            has.fetch_add(2, Ordering::SeqCst);
            now(&at).commit(reservation, 2 * UNIT_BYTES);
        });
        rejoin(world.process(2, 4), lost, &current, &held);
        let next = newcomer.join().unwrap().unwrap();
        flight.join().unwrap();
        assert!(world.booked() >= world.taken(), "{} of {}", world.booked(), world.taken());
        if let Some(next) = next {
            assert_eq!(next.own_booked().0, UNIT_BYTES, "the newcomer has one unit");
        }
    });
}

#[test]
fn what_is_shared_counts_once_at_each_moment_of_a_rejoin() {
    explore(Some(2), |world| {
        let (_, lost, current, held) = one_that_flies(world);
        world.process(0, 4).make_object(lost, 1);
        let other = world.process(1, 4);
        let others = other.join_at(1).unwrap();
        assert_eq!(other.open_object(others), Ok(true));
        // One unit of its own, and one that both hold: two are left.
        let ask = other.start(None, move |other| other.allocate(others, 2).is_ok());
        let at = current.clone();
        let close = world.process(0, 4).start(None, move |process| process.close_object(now(&at)));
        rejoin(world.process(2, 4), lost, &current, &held);
        close.join().unwrap();
        ask.join().unwrap();
        assert_eq!(world.booked(), world.taken());
    });
}

#[test]
fn call_that_comes_too_late_leaves_the_newcomer_alone() {
    explore(Some(3), |world| {
        let (process, lost, current, held) = one_that_flies(world);
        let at = current.clone();
        let late = process.start(None, move |process| {
            if let Ok(reservation) = process.reserve(lost, None, 1) {
                now(&at).cancel(reservation);
            }
        });
        let newcomer = world.process(3, 4).start(None, |newcomer| {
            let books = newcomer.join()?;
            books.book(UNIT_BYTES);
            Some(books)
        });
        rejoin(world.process(2, 4), lost, &current, &held);
        late.join().unwrap();
        let next = newcomer.join().unwrap().unwrap();
        if let Some(next) = next {
            assert_eq!(
                (next.own_booked().0, next.own_pending()),
                (UNIT_BYTES, 0),
                "at {}",
                next.member().place
            );
        }
        assert_eq!(now(&current).own_booked().0, UNIT_BYTES);
        assert_eq!(now(&current).own_pending(), 0);
    });
}

#[test]
fn one_that_dies_at_any_step_of_its_move_costs_nothing_but_two_seconds() {
    at_each_step(Some(2), |world, steps| {
        let (_, lost, current, held) = one_that_flies(world);
        let other = world.process(1, 4);
        let others = other.join_at(1).unwrap();
        let mover = world.process(2, 4).start(Some(steps), move |again| rejoin(again, lost, &current, &held));
        let beside = other.start(None, move |other| {
            other.allocate(others, 2).unwrap();
            other.free(others, 1);
        });
        let lived = mover.join().unwrap().is_some();
        beside.join().unwrap();
        world.drop_locks(2);
        bury(world, 0, others);
        assert_eq!((world.booked(), world.taken()), (1, 1));
        for (number, place) in [(0, 0), (2, 2)] {
            assert!(world.process(number, 4).join_at(place).is_some(), "place {place} is free");
        }
        lived
    });
}

#[test]
fn pools_that_others_have_open_stay_booked_whenever_their_owner_dies() {
    at_each_step(Some(2), |world, steps| {
        let (_, lost, current, held) = one_that_flies(world);
        let heir = world.process(1, 4).join_at(1).unwrap();
        lost.member().note_pool_exported();
        lost.note_pools(UNIT_BYTES);
        heir.member().note_pool_open(true);
        let mover = world.process(2, 4).start(Some(steps), move |again| rejoin(again, lost, &current, &held));
        let sweep = world.process(1, 4).start(None, move |_| heir.member().sweep().unwrap());
        let lived = mover.join().unwrap().is_some();
        sweep.join().unwrap();
        world.drop_locks(2);
        for _ in 0..3 {
            world.set_now_ns(world.now_ns() + HOLD_NS + MS);
            heir.member().sweep().unwrap();
            assert!(world.booked() >= world.taken(), "the heir has it open");
        }
        // One that dies between the two lines leaves its pools in both.
        assert!(world.booked() <= 2);
        heir.member().note_pool_open(false);
        world.set_now_ns(world.now_ns() + MS);
        heir.member().sweep().unwrap();
        assert_eq!(world.booked(), 0);
        lived
    });
}
