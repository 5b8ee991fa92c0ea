use std::time::Instant;

use cuota_tests::build;
use cuota_tests::machine::Machine;

use crate::{MS, Worker, assert_share, eventually, meter};

#[test]
fn processes_of_a_tenant_share_its_cap() {
    const COUNT: u64 = 150;
    let machine = Machine::new();
    let mut workers: Vec<Worker> = (0..2).map(|_| Worker::start(&machine, "t", "40%", MS)).collect();
    for worker in &mut workers {
        worker.launch(20);
        worker.synchronize();
    }
    assert_share(15.0, 45.0, || {
        let begin = Instant::now();
        workers.iter_mut().for_each(|worker| worker.begin(COUNT, worker.stream));
        workers.iter_mut().for_each(|worker| assert_eq!(worker.console.hear().status, 0));
        workers.iter_mut().for_each(Worker::synchronize);
        100.0 * (2 * COUNT * MS) as f64 / begin.elapsed().as_nanos() as f64
    });
    workers.into_iter().for_each(|worker| worker.console.finish());
}

#[test]
fn process_that_is_killed_while_it_waits_holds_nobody_back() {
    let machine = Machine::new();
    let mut first = Worker::start(&machine, "t", "20%", MS);
    first.begin(100_000, first.stream);
    eventually("a launch waits", || meter(&machine, "t").1 > 20 * MS);
    first.console.kill();
    let mut second = Worker::start(&machine, "t", "20%", MS);
    second.launch(60);
    second.synchronize();
    second.console.finish();
}

#[test]
fn child_made_by_fork_is_capped_by_itself() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "20%", MS);
    worker.launch(40);
    worker.synchronize();
    worker.console.fork();
    let _ = worker.console.ask("pid").ok();
    worker.console.end_child();
    worker.launch(10);
    worker.synchronize();
    worker.console.finish();
}

#[test]
fn helper_does_not_end_before_the_process() {
    let machine = Machine::new();
    let guest = build::program("exits");
    let mut program = machine.run(&guest, "t", &["--compute", "90%"]);
    let output = program.command().output().expect("the command runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!((said.as_ref(), output.status.code()), ("threads that ended: 0\n", Some(0)), "{output:?}");
}
