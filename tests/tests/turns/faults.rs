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
    stop(&machine, &first);
    second.work(200);
    let before = first.used_ns(&machine);
    signal("-CONT", &first);
    eventually("it goes on", || first.used_ns(&machine) > before + 50 * MS);
    first.console.kill();
    second.console.finish();
}

/// Stops a program, outside the software GPU's own lock: a GPU has none that a stopped program could hold.
#[track_caller]
fn stop(machine: &Machine, worker: &Worker) {
    loop {
        signal("-STOP", worker);
        eventually("all its threads stand still", || threads_of(worker).all(|(_, state)| state == "T"));
        if !threads_of(worker).any(|(thread, _)| lock_holders(machine).contains(&thread)) {
            return;
        }
        signal("-CONT", worker);
    }
}

/// A program's threads, and in which state they are.
fn threads_of(worker: &Worker) -> impl Iterator<Item = (u32, String)> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", worker.console.pid())).unwrap();
    threads.map(|thread| {
        let thread = thread.unwrap();
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap();
        (thread.file_name().to_str().unwrap().parse().unwrap(), state.to_owned())
    })
}

/// The threads that hold the software GPU's locks: its devices' files begin with a number, and a mutex whose first word is its holder's.
fn lock_holders(machine: &Machine) -> Vec<u32> {
    const HOLDER: u32 = 0x3fff_ffff;
    let Ok(files) = std::fs::read_dir(machine.gpu_folder()) else { return Vec::new() };
    let devices = files.map(|file| file.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("device-") && !name.ends_with(".live")
    });
    let holder = |path: std::path::PathBuf| {
        let word = *std::fs::read(path).unwrap()[8..].first_chunk().expect("a device's file has a mutex");
        u32::from_ne_bytes(word) & HOLDER
    };
    devices.map(holder).collect()
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
