//! Objects that several processes hold, and that count once.

use super::process;
use super::world::{Process, World, explore};
use crate::death::HOLD_NS;
use crate::ledger::Books;

const MS: u64 = 1_000_000;

/// Three processes, of which the first has made an object of two units under a quota of three.
fn three(world: &'static World) -> [(Process, Books); 3] {
    world.set_now_ns(10 * MS);
    let all = [0, 1, 2].map(|number| {
        let process = world.process(number, 3);
        (process, process.join_at(number).unwrap())
    });
    all[0].0.make_object(all[0].1, 2);
    all
}

#[test]
fn while_anyone_holds_an_object_it_is_in_every_sum() {
    explore(Some(2), |world| {
        let [(a, a_books), (b, b_books), (c, c_books)] = three(world);
        let opens = b.start(None, move |b| b.open_object(b_books));
        let closes = a.start(None, move |a| a.close_object(a_books));
        // Fits only when the object is gone: `allocate` holds it against the device.
        let takes = c.start(None, move |c| c.allocate(c_books, 2).is_ok());
        let opened = opens.join().unwrap().unwrap();
        closes.join().unwrap();
        takes.join().unwrap();
        assert_eq!(world.booked(), world.taken());
        if opened == Ok(true) {
            b.close_object(b_books);
        }
        assert_eq!(world.booked(), world.taken());
    });
}

#[test]
fn an_object_that_two_hold_is_in_every_sum_whoever_lets_it_go() {
    explore(Some(2), |world| {
        let [(a, a_books), (b, b_books), (c, c_books)] = three(world);
        assert_eq!(b.open_object(b_books), Ok(true));
        let closes = a.start(None, move |a| a.close_object(a_books));
        let also = b.start(None, move |b| b.close_object(b_books));
        let takes = c.start(None, move |c| c.allocate(c_books, 2).is_ok());
        closes.join().unwrap();
        also.join().unwrap();
        takes.join().unwrap();
        assert_eq!(world.booked(), world.taken());
    });
}

#[test]
fn a_holder_that_dies_at_any_step_takes_nothing_out_of_the_sum_that_another_holds() {
    for steps in 0..16 {
        explore(Some(2), move |world| {
            let [(a, a_books), (b, b_books), (c, c_books)] = three(world);
            assert_eq!(b.open_object(b_books), Ok(true));
            // B holds it all the time, so the device does. A dies where it lets it go, and is buried.
            process::run(world, 0, Some(steps), move || {
                a_books.unshare(super::world::object());
                a_books.release(2 * crate::ledger::UNIT_BYTES);
            });
            world.drop_locks(a.number);
            b_books.member().sweep().unwrap();
            world.set_now_ns(world.now_ns() + HOLD_NS + MS);
            let sweep = b.start(None, move |_| b_books.member().sweep().unwrap());
            let takes = c.start(None, move |c| c.allocate(c_books, 2).is_ok());
            sweep.join().unwrap();
            assert_eq!(takes.join().unwrap(), Some(false));
            assert_eq!((world.booked(), world.taken()), (2, 2));
        });
    }
}
