//! What a tenant's own environment cannot change.

use cuota_region::event::{Event, Problem};
use cuota_region::hami::variables::HELPER;
use cuota_tests::console::Arg::Is;
use cuota_tests::machine::{Machine, Program, skip};

use crate::{MS, Worker, eventually, file, meter};

/// GPU time that a tenant is charged, ns, for a program that wants no helper, of which nobody sees that its 10 ms of work have ended: the
/// next process finds it dead a second later. (One without a helper is charged until then.)
#[track_caller]
fn charged_for(machine: &Machine, program: Program) -> u64 {
    let console = program.with("CUOTA_HELPER", "off").start_with_context();
    let mut worker = Worker::on(console, MS);
    worker.launch(10);
    eventually("the kernels have ended", || {
        worker.console.call("cuStreamQuery", &[Is(worker.stream)]).status == 0
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    worker.console.kill();
    Worker::start(machine, "t", "50%", MS).console.finish();
    meter(machine, "t").0
}

fn overruled(machine: &Machine) -> usize {
    let is_it = |event| matches!(event, Event::Setting { variable: HELPER, problem: Problem::Overruled, .. });
    file(machine, "t").events().entries().filter(|entry| is_it(entry.event)).count()
}

#[test]
fn helper_is_kept_away_only_by_who_can_change_the_policy() {
    let machine = Machine::new();
    // The operator's command writes the policy, and the file of the tenant is there.
    Worker::start(&machine, "t", "50%", MS).console.finish();
    let tenant = || machine.preloaded().with("CUOTA_DIR", machine.region()).with("CUOTA_TENANT", "t");
    let Some(contained) = tenant().with_read_only(&machine.policy()) else {
        return skip("no mount namespace can be made");
    };
    let charged_ns = charged_for(&machine, contained);
    assert!((9 * MS..500 * MS).contains(&charged_ns), "{charged_ns} ns");
    assert_eq!(overruled(&machine), 1);
    let more_ns = charged_for(&machine, tenant()) - charged_ns;
    assert!(more_ns >= 1000 * MS, "{more_ns} ns");
    assert_eq!(overruled(&machine), 1);
}
