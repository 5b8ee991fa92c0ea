//! What the monitor sees of the container's processes, while they work and when they end.

use std::time::{SystemTime, UNIX_EPOCH};

use cuota_tests::console::Arg::Is;
use cuota_tests::console::Console;
use cuota_tests::driver::uuid_text;
use cuota_tests::machine::MIB;

use crate::{Container, QUOTA, QUOTA_BYTES, begin, eventually, kernel, launch, start_all};

fn pid(console: &Console) -> i32 {
    i32::try_from(console.pid()).expect("a process's id")
}

#[test]
fn monitor_sees_the_devices_the_limits_and_the_priority() {
    let container = Container::new();
    let variables = [QUOTA, ("CUDA_DEVICE_SM_LIMIT", "30"), ("CUDA_TASK_PRIORITY", "0")];
    let mut console = container.start(&variables);
    let uuid = uuid_text("GPU", console.uuid(0));
    let view = container.monitor().look();
    assert_eq!((view.devices, &view.uuids), (view.uuids.len() as u64, &view.uuids));
    assert!(view.uuids.contains(&uuid), "{view:?}");
    assert_eq!((view.limit[0], view.limit[1]), (QUOTA_BYTES, 0));
    assert_eq!(view.sm_limit, [30; 16]);
    assert_eq!((view.priority, view.switch), (0, 1));
    console.finish();
}

#[test]
fn monitor_sees_each_allocation_and_each_free_at_once() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA]);
    let monitor = container.monitor();
    assert_eq!(monitor.look().total(0), container.books().booked, "a context");
    let piece = console.alloc(512 * MIB).expect("it fits");
    let view = monitor.look();
    assert_eq!((view.pids(), view.processes), (vec![pid(&console)], 1));
    let (books, memory) = (container.books(), view.slots[0].memory[0]);
    assert_eq!((memory.total, memory.context, memory.data), (books.booked, books.overhead, 512 * MIB));
    // The usual one, of a block or less, goes another way.
    let small = console.alloc(MIB).expect("it fits");
    assert_eq!(monitor.look().slots[0].memory[0].data, 514 * MIB);
    for (address, left) in [(small, 512 * MIB), (piece, 0)] {
        assert_eq!(console.free(address), 0);
        assert_eq!(monitor.look().slots[0].memory[0].data, left);
    }
    console.finish();
}

#[test]
fn monitor_sees_that_work_runs_and_how_much() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA, ("CUDA_DEVICE_SM_LIMIT", "50")]);
    let kernel = kernel(&mut console, 1_000_000);
    let monitor = container.monitor();
    monitor.set_recent_kernel(0);
    monitor.set_last_kernel_time(0);
    launch(&mut console, kernel, 1);
    let view = monitor.look();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs();
    assert_eq!(view.recent_kernel, 2);
    assert!(view.last_kernel_time.unsigned_abs().abs_diff(now) < 100, "{} at {now}", view.last_kernel_time);
    eventually("how busy it is", || {
        launch(&mut console, kernel, 50);
        let sm = monitor.look().slots[0].sm[0];
        assert!(sm <= 100);
        sm > 10
    });
    monitor.set_recent_kernel(1);
    eventually("work is noted again", || {
        launch(&mut console, kernel, 1);
        monitor.look().recent_kernel == 2
    });
    console.finish();
}

#[test]
fn process_that_ends_takes_its_slot_along() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA]);
    let _ = console.alloc(64 * MIB).expect("it fits");
    assert_eq!(container.monitor().look().slots.len(), 1);
    console.finish();
    let view = container.monitor().look();
    assert_eq!((view.slots, view.recent_kernel >= 0), (vec![], true));
}

#[test]
fn killed_process_s_slot_is_freed_by_a_sibling() {
    let container = Container::new();
    let mut sibling = container.start(&[QUOTA]);
    let mut victim = container.start(&[QUOTA]);
    let _ = victim.alloc(256 * MIB).expect("it fits");
    assert_eq!(container.monitor().look().pids(), [pid(&sibling), pid(&victim)]);
    victim.kill();
    eventually("one is left", || {
        let piece = sibling.alloc(2 * MIB).expect("it fits");
        assert_eq!(sibling.free(piece), 0);
        container.monitor().look().pids() == [pid(&sibling)]
    });
    assert_eq!(container.monitor().look().processes, 1);
    sibling.finish();
}

#[test]
fn killed_process_s_slot_is_taken_by_the_next() {
    let container = Container::new();
    let mut victim = container.start(&[QUOTA]);
    let _ = victim.alloc(256 * MIB).expect("it fits");
    victim.kill();
    let next = container.start(&[QUOTA]);
    let view = container.monitor().look();
    assert_eq!(view.pids(), [pid(&next)]);
    assert!(
        view.total(0) < container.books().booked,
        "what the dead one had is held until the driver has let it go"
    );
    next.finish();
}

#[test]
fn child_has_a_slot_of_its_own() {
    let container = Container::new();
    // A driver that was begun is of no use to a child.
    let mut console = container.program(&[QUOTA]).start();
    let parent = pid(&console);
    console.fork();
    console.use_primary_context();
    let child = i32::try_from(console.ask("pid").number(0)).expect("a process's id");
    assert_ne!(child, parent);
    assert_eq!(container.monitor().look().pids(), [child]);
    console.end_child();
    console.use_primary_context();
    assert_eq!(container.monitor().look().pids(), [parent]);
    console.fork();
    // It ends as the parent's copy, which has no slot to leave.
    console.end_child();
    assert_eq!(container.monitor().look().pids(), [parent]);
    console.finish();
}

#[test]
fn monitor_reads_a_whole_file_under_load_and_under_kills() {
    let container = Container::new();
    let limits = [("CUDA_DEVICE_MEMORY_LIMIT_0", "6g"), ("CUDA_DEVICE_SM_LIMIT", "60")];
    let mut watcher = container.start(&limits);
    let first = container.monitor().look();
    let mut seed = 0;
    for _ in 0..4 {
        let mut load = start_all([0; 3].map(|_| container.program(&limits)));
        for console in &mut load {
            seed += 1;
            console.tell(&format!("churn {seed}"));
        }
        for _ in 0..60 {
            let view = container.monitor().look();
            assert_eq!((view.devices, &view.uuids), (first.devices, &first.uuids));
            assert_eq!((&view.limit, &view.sm_limit), (&first.limit, &first.sm_limit));
            assert!(view.slots.len() <= 4 && view.slots.len() >= 3, "{view:?}");
            assert!(view.slots.iter().all(|slot| slot.memory[0].total <= 3 * QUOTA_BYTES), "{view:?}");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        load.into_iter().for_each(Console::kill);
        // It shares nothing with them but the file.
        eventually("the watcher alone is left", || {
            let piece = watcher.alloc(2 * MIB).expect("it fits");
            assert_eq!(watcher.free(piece), 0);
            container.monitor().look().pids() == [pid(&watcher)]
        });
    }
    let kernel = kernel(&mut watcher, 100_000);
    begin(&mut watcher, kernel, 10);
    assert_eq!(watcher.hear().status, 0);
    let _ = watcher.call("cuStreamSynchronize", &[Is(kernel[1])]).ok();
    watcher.finish();
}
