//! The arena: two tenants, one of which may have two processes, on two seats.
//!
//! The clock stands still while processes race, unless a model says when each looks.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use cuota_governor::entitlement::Entitlement;
use cuota_governor::turn::{GRACE_NS, Turn};

use super::world::{World, explore};
use crate::arena::{Arena, File};
use crate::seat::{Admission, Seat};
use crate::sync::Ordering;

const MS: u64 = 1_000_000;
const NOW: u64 = 9_000_000 * MS;
/// All turns of before are over.
const LATER: u64 = NOW + 500 * MS;

/// Explores `body` with an arena in which nothing has happened.
fn arena(preemptions: usize, body: impl Fn(&'static World, Arena) + Sync + Send + 'static) {
    explore(Some(preemptions), move |world| {
        let file: &'static File = Box::leak(Box::default());
        body(world, Arena::of(file));
        // SAFETY: leaked above; the model's threads, the only others to know it, have been joined.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(file).cast_mut()) });
    });
}

fn seat(arena: Arena, tenant: u64) -> Seat {
    arena.seat(tenant, Entitlement::default(), NOW).unwrap()
}

fn goes(seat: &Seat, now_ns: u64) -> bool {
    matches!(seat.admit(now_ns, now_ns), Admission::Go { .. })
}

/// Sleeps on the bell until it has the turn.
fn wait_for_turn(seat: &Seat, now_ns: u64) {
    loop {
        match seat.admit(now_ns, now_ns) {
            Admission::Wait { bell, .. } => {
                while seat.bell() == bell {
                    loom::thread::yield_now();
                }
            }
            Admission::Go { .. } => return,
            Admission::Aloof => panic!("nobody writes rubbish here"),
        }
    }
}

#[test]
fn processes_of_a_tenant_that_join_at_once_have_one_seat_and_leave_the_other_free() {
    arena(5, |world, arena| {
        let joins = |number| world.process(number, 0).start(None, move |_| seat(arena, 7).index());
        let (a, b) = (joins(1), joins(2));
        let [a, b] = [a, b].map(|joined| joined.join().unwrap().unwrap());
        assert_eq!(a, b);
        assert_ne!(seat(arena, 8).index(), a);
    });
}

#[test]
fn two_tenants_never_have_the_turn_at_once_and_each_has_it_in_the_end() {
    arena(5, |world, arena| {
        let inside: &'static AtomicBool = Box::leak(Box::default());
        let takes = |number, tenant| {
            let own = seat(arena, tenant);
            world.process(number, 0).start(None, move |_| {
                wait_for_turn(&own, NOW);
                assert!(!inside.swap(true, Ordering::SeqCst), "both are in");
                inside.store(false, Ordering::SeqCst);
                own.release(NOW, false);
            })
        };
        let (a, b) = (takes(1, 1), takes(2, 2));
        a.join().unwrap();
        b.join().unwrap();
    });
}

#[test]
fn who_sleeps_is_woken_when_the_turn_is_its_own() {
    arena(5, |world, arena| {
        let (a, b) = (seat(arena, 1), seat(arena, 2));
        assert!(goes(&a, NOW));
        let hands = world.process(1, 0).start(None, move |_| a.release(NOW + 20 * MS, false));
        let waits = world.process(2, 0).start(None, move |_| wait_for_turn(&b, NOW + 20 * MS));
        hands.join().unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn a_turn_that_its_holder_and_a_waiter_end_at_once_is_charged_once() {
    arena(5, |world, arena| {
        let (a, b) = (seat(arena, 1), seat(arena, 2));
        assert!(goes(&a, NOW));
        let Admission::Go { until_ns } = a.admit(NOW, NOW) else { panic!() };
        let over_ns = until_ns + GRACE_NS;
        let hands = world.process(1, 0).start(None, move |_| a.release(over_ns, false));
        let ends = world.process(2, 0).start(None, move |_| goes(&b, over_ns));
        hands.join().unwrap();
        assert_eq!(ends.join().unwrap(), Some(true));
        // To its end: nothing ran on.
        assert_eq!(arena.held_ns()[0], until_ns - NOW / 8_192 * 8_192);
    });
}

#[test]
fn a_process_killed_at_any_step_of_a_turn_keeps_the_turn_from_nobody() {
    let most = AtomicUsize::new(0);
    for steps in 0..64 {
        let survived: &'static AtomicBool = Box::leak(Box::default());
        survived.store(true, Ordering::SeqCst);
        arena(5, move |world, arena| {
            let (a, b) = (seat(arena, 1), seat(arena, 2));
            let dies = world.process(1, 0).start(Some(steps), move |_| {
                goes(&a, NOW);
                a.drain(NOW + 19 * MS);
                a.release(NOW + 20 * MS, true);
            });
            let looks = world.process(2, 0).start(None, move |_| {
                goes(&b, NOW);
                b
            });
            if dies.join().unwrap().is_none() {
                survived.store(false, Ordering::SeqCst);
            }
            let b = looks.join().unwrap().unwrap();
            // Once what A was offered, or had, is over by the clock; and what it is offered then.
            assert!(goes(&b, LATER) || goes(&b, LATER + 50 * MS));
        });
        most.store(steps, Ordering::SeqCst);
        if survived.load(Ordering::SeqCst) {
            break;
        }
    }
    println!("{} steps", most.load(Ordering::SeqCst));
}

#[test]
fn a_process_that_asks_while_another_of_its_tenant_gives_up_is_heard() {
    arena(5, |world, arena| {
        let (a, also_a) = (seat(arena, 1), seat(arena, 1));
        assert!(goes(&a, NOW));
        let gives_up = world.process(1, 0).start(None, move |_| a.release(NOW + MS, false));
        let asks = world.process(2, 0).start(None, move |_| {
            let went = goes(&also_a, NOW + MS);
            went || also_a.askers() == 1
        });
        gives_up.join().unwrap();
        assert_eq!(asks.join().unwrap(), Some(true), "it sleeps and nobody knows");
    });
}

#[test]
fn rubbish_written_at_any_time_stops_nobody() {
    for word in [u64::MAX, 1 << 63, Turn::NOBODYS.next(NOW, Some((1, 40 * MS)), 1).to_word()] {
        arena(5, move |world, arena| {
            let (a, b) = (seat(arena, 1), seat(arena, 2));
            let scribbles = world.process(1, 0).start(None, move |_| {
                arena.scribble(word);
            });
            let takes = world.process(2, 0).start(None, move |_| {
                goes(&a, NOW);
                a.release(NOW + MS, false);
                a
            });
            scribbles.join().unwrap();
            let a = takes.join().unwrap().unwrap();
            for seat in [&a, &b] {
                assert!(goes(seat, LATER) || goes(seat, LATER + 50 * MS));
                seat.release(LATER + 51 * MS, false);
            }
        });
    }
}
