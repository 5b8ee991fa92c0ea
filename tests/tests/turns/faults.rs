use cuota_tests::machine::Machine;
use cuota_tests::wait::eventually;

use crate::{ENDLESS, MS, Worker, arena_file};

#[test]
fn holder_that_is_killed_leaves_the_gpu_to_the_others() {
    let machine = Machine::new();
    let [mut first, mut second] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS));
    first.begin(ENDLESS);
    second.work(50);
    first.console.kill();
    second.work(200);
    second.console.finish();
}

#[test]
fn holder_that_is_stopped_leaves_the_gpu_to_the_others_and_comes_back() {
    let machine = Machine::new();
    let [mut first, mut second] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS));
    first.begin(ENDLESS);
    second.work(50);
    signal("-STOP", &first);
    second.work(200);
    let before = first.used_ns(&machine);
    signal("-CONT", &first);
    eventually("it goes on", || first.used_ns(&machine) > before + 50 * MS);
    first.console.kill();
    second.console.finish();
}

#[track_caller]
fn signal(which: &str, to: &Worker) {
    let status = std::process::Command::new("kill").args([which, &to.console.pid().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[test]
fn arena_that_is_cut_short_is_used_no_more() {
    // Who is at it in the very moment of the cut is ended by it: docs/turns.md. Who looked at it later would be each time.
    assert!((0..3).any(|_| std::panic::catch_unwind(go_on_without_the_arena).is_ok()));
}

fn go_on_without_the_arena() {
    let machine = Machine::new();
    let [mut first, mut second] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS));
    first.work(50);
    second.work(50);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(arena_file(&machine).expect("tenants have begun"))
        .unwrap();
    file.set_len(0).unwrap();
    first.begin(200);
    second.work(200);
    assert_eq!(first.console.hear().number(0), 200);
    [first, second].into_iter().for_each(|worker| worker.console.finish());
}

#[test]
fn arena_full_of_rubbish_holds_nobody_back() {
    let machine = Machine::new();
    let [mut first, mut second] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS));
    first.work(50);
    second.work(50);
    let path = arena_file(&machine).expect("tenants have begun");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(64).zip((0_u8..=255).cycle()).for_each(|(byte, n)| *byte = n.wrapping_mul(167));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    first.begin(200);
    second.work(200);
    assert_eq!(first.console.hear().number(0), 200);
    [first, second].into_iter().for_each(|worker| worker.console.finish());
}

#[test]
fn where_the_arena_cannot_be_made_programs_run_as_the_driver_slices() {
    let machine = Machine::new();
    let first = Worker::start(&machine, "a", &[], MS);
    first.console.finish();
    std::fs::remove_dir_all(machine.region().join("arena")).unwrap();
    std::fs::write(machine.region().join("arena"), "in the way").unwrap();
    let [mut first, mut second] = ["a", "b"].map(|name| Worker::start(&machine, name, &[], MS));
    first.begin(50);
    second.work(50);
    assert_eq!(first.console.hear().number(0), 50);
    [first, second].into_iter().for_each(|worker| worker.console.finish());
}
