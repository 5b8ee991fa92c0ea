//! Processes that reserve against one quota.

use super::world::{World, explore};
use crate::ledger::Books;

/// Processes that have joined before the race, one by one.
fn joined<const N: usize>(world: &'static World, quota: u64) -> [(super::world::Process, Books); N] {
    std::array::from_fn(|number| {
        let process = world.process(number, quota);
        (process, process.join_at(number).unwrap())
    })
}

/// Races allocations of `units` under `quota`; `true` for those that were granted.
fn race<const N: usize>(world: &'static World, quota: u64, units: [u64; N]) -> [bool; N] {
    let racers: [_; N] = joined(world, quota);
    let mut wishes = units.into_iter();
    let threads = racers.map(|(process, books)| {
        let wish = wishes.next().unwrap();
        process.start(None, move |process| process.allocate(books, wish).is_ok())
    });
    let granted = threads.map(|thread| thread.join().unwrap().unwrap());
    let sum: u64 = units.iter().zip(granted).filter(|(_, granted)| *granted).map(|(units, _)| units).sum();
    assert_eq!(world.taken(), sum);
    assert_eq!(world.booked(), sum);
    for (units, granted) in units.iter().zip(granted) {
        assert!(granted || sum + units > quota, "{units} refused beside {sum} under {quota}");
    }
    granted
}

#[test]
fn of_two_that_fit_only_alone_exactly_one_is_granted() {
    let orders = explore(None, |world| {
        assert_eq!(race(world, 4, [3, 3]).iter().filter(|granted| **granted).count(), 1);
    });
    println!("{orders} orders");
}
