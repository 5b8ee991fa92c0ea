//! What the monitor, or anybody, writes to the file while programs run counts.

use std::process::{Command, Output};

use cuota_region::event::{Event, Problem};
use cuota_tests::build;
use cuota_tests::console::Arg::Is;
use cuota_tests::console::Console;
use cuota_tests::driver::OUT_OF_MEMORY;
use cuota_tests::machine::{MIB, skip};

use crate::monitor::Monitor;
use crate::settings::start_after;
use crate::{Container, QUOTA, QUOTA_BYTES, begin, eventually, finish_all, kernel, launch, start_all};

const MS: u64 = 1_000_000;

#[test]
fn memory_limit_that_is_lowered_or_raised_counts_for_the_next_call() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA]);
    let piece = console.alloc(512 * MIB).expect("it fits");
    container.monitor().set_limit(0, QUOTA_BYTES / 4);
    assert_eq!(console.memory(), (0, QUOTA_BYTES / 4));
    assert_eq!(console.alloc(2 * MIB), Err(OUT_OF_MEMORY));
    container.monitor().set_limit(0, 2 * QUOTA_BYTES);
    assert_eq!(console.total(), 2 * QUOTA_BYTES);
    let _ = console.alloc(QUOTA_BYTES).expect("it fits now");
    assert_eq!(console.free(piece), 0);
    console.finish();
}

#[test]
fn limit_of_the_file_counts_for_who_comes_later_whatever_its_variables_say() {
    let container = Container::new();
    container.start(&[QUOTA]).finish();
    container.monitor().set_limit(0, QUOTA_BYTES / 2);
    let mut later = container.start(&[("CUDA_DEVICE_MEMORY_LIMIT_0", "64g")]);
    assert_eq!(later.total(), QUOTA_BYTES / 2);
    later.finish();
    let overruled = Event::Setting { variable: 0, problem: Problem::Overruled, error: 1 };
    assert_eq!(container.complaints(), [overruled]);
}

#[test]
fn limit_that_the_first_process_did_not_have_holds_for_who_comes_with_it() {
    let container = Container::new();
    let mut first = container.start(&[("CUDA_DEVICE_SM_LIMIT", "30")]);
    let all = first.total();
    let mut later = container.start(&[QUOTA, ("CUDA_DEVICE_SM_LIMIT", "30")]);
    assert_eq!(later.total(), QUOTA_BYTES);
    assert_eq!(later.alloc(QUOTA_BYTES), Err(OUT_OF_MEMORY));
    assert!(all > QUOTA_BYTES && first.total() == QUOTA_BYTES, "it is the container's");
    assert_eq!(container.complaints(), []);
    // What somebody has taken away is not set again by the next.
    container.monitor().set_limit(0, u64::MAX);
    let mut last = container.start(&[QUOTA]);
    assert_eq!((last.total(), first.total()), (all, all));
    [first, later, last].into_iter().for_each(Console::finish);
}

#[test]
fn share_of_time_that_is_set_while_a_program_runs_counts() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA]);
    let kernel = kernel(&mut console, MS);
    launch(&mut console, kernel, 20);
    assert_eq!(container.throttled_ns(), 0);
    container.monitor().set_sm_limit(0, 10);
    // Each is a look at the file, and the file is compared every 10 ms.
    eventually("a launch has waited", || {
        launch(&mut console, kernel, 10);
        container.throttled_ns() > 0
    });
    container.monitor().set_sm_limit(0, 1);
    // At 1 % they would take 40 s; the limit is taken off while a launch waits.
    begin(&mut console, kernel, 400);
    container.monitor().set_sm_limit(0, 0);
    assert_eq!(console.hear().status, 0);
    console.finish();
}

#[test]
fn switch_of_the_monitor_turns_the_share_off_and_on_again() {
    let container = Container::new();
    let mut console = container.start(&[("CUDA_DEVICE_SM_LIMIT", "10")]);
    let kernel = kernel(&mut console, MS);
    launch(&mut console, kernel, 40);
    assert!(container.throttled_ns() > 0);
    container.monitor().set_switch(0);
    // What was booked before is waited for still; then nothing is.
    let mut throttled_ns = 0;
    eventually("nothing waits any more", || {
        launch(&mut console, kernel, 20);
        std::mem::replace(&mut throttled_ns, container.throttled_ns()) == throttled_ns
    });
    // While it is off the monitor still sees that the container works.
    container.monitor().set_recent_kernel(0);
    eventually("work is noted", || {
        launch(&mut console, kernel, 1);
        container.monitor().look().recent_kernel == 2
    });
    container.monitor().set_switch(1);
    eventually("a launch has waited again", || {
        launch(&mut console, kernel, 10);
        container.throttled_ns() > throttled_ns
    });
    console.finish();
}

#[test]
fn container_that_is_to_pause_gives_nothing_to_the_device_until_it_may() {
    let each = [QUOTA, ("CUDA_DEVICE_SM_LIMIT", "50"), ("GPU_CORE_UTILIZATION_POLICY", "disable")];
    let containers = each.map(|_| Container::new());
    let monitors = containers.each_ref().map(Container::monitor);
    let programs =
        containers.iter().zip(each).map(|(container, variable)| container.program(&[QUOTA, variable]));
    let mut consoles = start_all(programs);
    let kernels: Vec<[u64; 2]> = consoles.iter_mut().map(|console| kernel(console, MS)).collect();
    for ((console, kernel), monitor) in consoles.iter_mut().zip(&kernels).zip(&monitors) {
        monitor.set_recent_kernel(-1);
        monitor.set_last_kernel_time(0);
        begin(console, *kernel, 1);
    }
    let (has_waited, views, answers) = std::thread::scope(|scope| {
        let hear = |console| scope.spawn(|| Console::hear(console));
        let listeners: Vec<_> = consoles.iter_mut().map(hear).collect();
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        let has_waited: Vec<bool> = listeners.iter().map(|listener| !listener.is_finished()).collect();
        let views = monitors.each_ref().map(Monitor::look);
        // As the monitor does when nothing more urgent runs.
        monitors.iter().for_each(|monitor| monitor.set_recent_kernel(0));
        let answers = listeners.into_iter().map(|listener| listener.join().expect("it answers").status);
        (has_waited, views, answers.collect::<Vec<_>>())
    });
    assert_eq!(has_waited, [true; 3], "a launch went on in the pause");
    let noted = views.map(|view| (view.recent_kernel, view.last_kernel_time));
    assert_eq!(noted, [(-1, 0); 3], "it would be noted before it goes");
    assert_eq!(answers, [0; 3]);
    for ((console, kernel), monitor) in consoles.iter_mut().zip(&kernels).zip(&monitors) {
        eventually("work is noted", || {
            launch(console, *kernel, 1);
            let view = monitor.look();
            view.recent_kernel == 2 && view.last_kernel_time != 0
        });
        let _ = console.call("cuStreamSynchronize", &[Is(kernel[1])]).ok();
    }
    finish_all(consoles);
}

/// The command, as who looks at the container by its file.
fn cuota(container: &Container, arguments: &[&str]) -> Output {
    let mut command = Command::new(build::command());
    command.arg("--dir").arg(container.cache()).args(arguments).output().expect("the command runs")
}

#[test]
fn our_own_command_shows_and_changes_the_limits_of_the_file() {
    let container = Container::new();
    let mut console = container.start(&[QUOTA, ("CUDA_DEVICE_SM_LIMIT", "30")]);
    let listed = String::from_utf8(cuota(&container, &["ps"]).stdout).expect("text");
    assert!(listed.contains("2 GiB") && listed.contains("30%"), "{listed}");
    let changed = cuota(&container, &["set", "default", "--memory", "1GiB", "--compute", "50%"]);
    assert!(changed.status.success(), "{changed:?}");
    assert_eq!(console.total(), QUOTA_BYTES / 2);
    let view = container.monitor().look();
    assert_eq!((view.limit[0], view.sm_limit[0]), (QUOTA_BYTES / 2, 50));
    console.finish();
}

#[test]
fn our_own_command_finds_the_books_in_the_containers_own_memory() {
    let container = Container::new();
    let list = || String::from_utf8(cuota(&container, &["ps"]).stdout).expect("text");
    let Some(mut console) = start_after(&container, "mount -t tmpfs tmpfs /dev/shm") else {
        return skip("nothing can be mounted here");
    };
    let _ = console.alloc(512 * MIB).expect("it fits");
    assert!(list().contains(&format!(" {}", console.pid())), "{}", list());
    let events = cuota(&container, &["events", "default"]);
    assert!(events.status.success(), "{events:?}");
    console.finish();
    // With its last process the container's memory is gone.
    assert!(list().contains("No books of the container of"), "{}", list());
}

/// A link of the container's would lead into the node's own files.
#[test]
fn our_own_command_follows_no_link_of_a_container() {
    let (container, other) = (Container::new(), Container::new());
    other.start(&[QUOTA]).finish();
    for spoil in [
        "ln -s \"$2\" tenant",
        "mkdir tenant && mkfifo tenant/default.v1",
        "mkdir tenant && ln -s \"$2/default.v1\" tenant",
    ] {
        let Some(console) = start_after(&container, "mount -t tmpfs tmpfs /dev/shm") else {
            return skip("nothing can be mounted here");
        };
        let place = format!("/proc/{}/root{}", console.pid(), container.places()[0].display());
        let script = format!("cd \"$1\" && mv tenant old && {spoil}");
        let done = Command::new("sh")
            .args(["-c", &script, "sh", &place])
            .arg(other.places()[0].join("tenant"))
            .status();
        assert!(done.expect("there is a shell").success(), "{spoil}");
        let listed = cuota(&container, &["ps"]);
        let said = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(said.contains("No books of the container of"), "{spoil}: {listed:?}");
        console.finish();
    }
}

#[test]
fn our_own_command_refuses_what_the_file_cannot_hold_and_changes_nothing() {
    let container = Container::new();
    container.start(&[QUOTA]).finish();
    let before = container.monitor().look();
    for arguments in [
        &["set", "default", "--memory", "50%"][..],
        &["set", "default", "--memory", "1GiB", "--compute", "0.5%"],
        &["set", "default", "--memory", "1GiB", "--weight", "300"],
        &["set", "other", "--memory", "1GiB"],
        &["inject", "--cdi", "--tenant", "t", "--install"],
        &["set", "default", "--memory", "1GiB", "--gpu", "GPU-00000000-0000-0000-0000-000000000001"],
    ] {
        let refused = cuota(&container, arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).lines().count() >= 2, "{refused:?}");
    }
    assert_eq!(container.monitor().look(), before);
}
