//! Programs that launch short kernels now and then. Shorter gaps are for `cuota-governor`, on virtual time: from the launch of a short
//! kernel to its end the software GPU itself takes 0.1 ms and more.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cuota_tests::machine::Machine;

use crate::{Worker, meter};

/// What a program is charged of the clock that launches so many kernels of 5 µs at once, asynchronously, some 3 ms apart.
fn charged(helper: &str, at_once: u64) -> f64 {
    let machine = Machine::new();
    let console =
        machine.tenant_with("t", &["--compute", "99%"]).with("CUOTA_HELPER", helper).start_with_context();
    let mut worker = Worker::on(console, 5_000);
    worker.launch(20);
    worker.synchronize();
    let (begin, (before_ns, _)) = (Instant::now(), meter(&machine, "t"));
    for _ in 0..200 {
        worker.launch(at_once);
        sleep(Duration::from_millis(3));
    }
    worker.synchronize();
    let charged_ns = meter(&machine, "t").0 - before_ns;
    let share = charged_ns as f64 / begin.elapsed().as_nanos() as f64;
    worker.console.finish();
    share
}

#[test]
fn gaps_between_short_kernels_are_not_charged() {
    for helper in ["on", "off"] {
        let shares: Vec<f64> = (0..3).map(|_| charged(helper, 1)).collect();
        let best = shares.iter().copied().fold(1.0, f64::min);
        assert!(best <= 0.1, "{shares:?} of the clock for some 0.2 %, helper {helper}");
    }
}

/// Without a clock at the launches one batch would hold some twenty bursts, and the time between them.
#[test]
fn gaps_between_bursts_are_not_charged() {
    for helper in ["on", "off"] {
        let shares: Vec<f64> = (0..3).map(|_| charged(helper, 3)).collect();
        let best = shares.iter().copied().fold(1.0, f64::min);
        assert!(best <= 0.2, "{shares:?} of the clock for some 0.6 %, helper {helper}");
    }
}
