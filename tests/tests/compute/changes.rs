use std::process::Command;

use cuota_tests::build;
use cuota_tests::machine::Machine;

use crate::{MS, Worker, eventually, meter};

/// `cuota set` in the machine's directory.
pub(crate) fn set(machine: &Machine, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(build::command());
    command.env("CUOTA_DIR", machine.region()).arg("set").args(arguments);
    command.output().expect("the command runs")
}

#[test]
fn cap_is_taken_off_a_program_whose_launches_wait() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "1%", MS);
    // At 1 % they would take 40 s.
    worker.begin(400, worker.stream);
    eventually("a launch waits", || meter(&machine, "t").1 > 0);
    assert!(set(&machine, &["t", "--compute", "off"]).status.success());
    assert_eq!(worker.console.hear().status, 0);
    worker.synchronize();
    // What was in flight when the cap was taken off is settled still.
    let used_ns = meter(&machine, "t").0;
    worker.launch(200);
    worker.synchronize();
    assert!(meter(&machine, "t").0 <= used_ns + 50 * MS, "nothing is counted any more");
    worker.console.finish();
}

#[test]
fn cap_is_put_on_a_program_that_runs_without_one() {
    let machine = Machine::new();
    let mut worker = Worker::start(&machine, "t", "off", MS);
    worker.launch(20);
    assert!(set(&machine, &["t", "--compute", "10%"]).status.success());
    worker.launch(40);
    worker.synchronize();
    eventually("its launches have waited", || meter(&machine, "t").1 > 50 * MS);
    worker.console.finish();
}

#[test]
fn wrong_caps_and_unknown_tenants_are_refused_with_what_to_do() {
    let machine = Machine::new();
    Worker::start(&machine, "t", "50%", MS).console.finish();
    for (asked, says) in [("0", "larger"), ("101%", "100%"), ("abc", "30%"), ("30", "30%")] {
        let output = set(&machine, &["t", "--compute", asked]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{asked}: {text}");
        assert!(text.contains(asked) && text.contains(says), "{asked}: {text}");
    }
    let output = set(&machine, &["nobody", "--compute", "30%"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no tenant nobody") && text.contains("name one of t"), "{text}");
}
