//! Runs a workload on a card under the governor's own law, cell by cell, and says what came of each: the program of the
//! two experiments in `docs/experiments/`.
//!
//! ```text
//! card --workload NAME --kernels bench/kernels --own KERNELS.PTX [--truth LIBCUPTI] [--seconds 1.6]
//!      [--helper-us N] [--patient-helper] [--solo-bound] [--book-alone] [--learn-waits] [--book-at-most-us N] [--exact] CELL...
//! ```
//!
//! `--solo-bound`, `--book-alone`, `--learn-waits` and `--book-at-most-us` change the law ([`guest::Variant`]). `--helper-us` gives the
//! helper thread rounds of one length, `--patient-helper` has it leave a stream alone while a closed batch of it is on the GPU; `--exact`
//! has the program's own thread wake when it asked to, not up to 50 µs later.
//!
//! A cell is `off` (the driver alone), `sense:BATCH_US` (batches are measured, nobody is held back) or
//! `limit:PERIOD_MS:CAP_PERCENT:IN_FLIGHT_US:BATCH_US`. Each gives one line of JSON as soon as it has ended. It needs no
//! more of a machine than a driver; with the software GPU's libraries on the path it runs without a GPU.

mod clock;
mod cuda;
mod cupti;
mod guest;
mod loads;
mod progress;
mod truth;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use cuota_governor::batch::Close;
use cuota_governor::cap::{Cap, PERIOD_NS};

use cupti::Cupti;
use guest::{Guest, Helper, Law, Mode, Tally, Variant};
use loads::{Load, Op, Work};
use progress::Marks;

const MS: u64 = 1_000_000;
const WINDOW_NS: u64 = 100 * MS;
/// Cells begin at a multiple of this, ns: periods of all lengths begin there too.
const BEGINS_NS: u64 = 40 * MS;
/// Before anything is measured, ns, at least; and periods.
const WARM_UP_NS: u64 = 300 * MS;
const WARM_UP_PERIODS: u64 = 12;

struct Asked {
    workload: String,
    kernels: PathBuf,
    own: PathBuf,
    truth: Option<String>,
    seconds: f64,
    helper: Helper,
    variant: Variant,
    exact: bool,
    cells: Vec<String>,
}

impl Asked {
    fn from_arguments() -> Self {
        let mut asked = Self {
            workload: "5us".into(),
            kernels: "bench/kernels".into(),
            own: "crates/governor/examples/card/kernels.ptx".into(),
            truth: None,
            seconds: 1.6,
            helper: Helper { round_ns: None, patient: false },
            variant: Variant::NONE,
            exact: false,
            cells: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match word.as_str() {
                "--workload" => asked.workload = value(),
                "--kernels" => asked.kernels = value().into(),
                "--own" => asked.own = value().into(),
                "--truth" => asked.truth = Some(value()),
                "--seconds" => asked.seconds = value().parse().expect("a number of seconds"),
                "--helper-us" => {
                    asked.helper.round_ns =
                        Some(1_000 * value().parse::<u64>().expect("a number of microseconds"));
                }
                "--patient-helper" => asked.helper.patient = true,
                "--solo-bound" => asked.variant.solo_bound = true,
                "--book-alone" => asked.variant.book_alone = true,
                "--learn-waits" => asked.variant.learn_waits = true,
                "--book-at-most-us" => {
                    asked.variant.book_at_most_ns =
                        1_000 * value().parse::<u64>().expect("a number of microseconds");
                }
                "--exact" => asked.exact = true,
                _ => asked.cells.push(word),
            }
        }
        asked
    }
}

fn law_of(cell: &str) -> Law {
    let mut words = cell.split(':');
    let kind = words.next().unwrap_or_default();
    let numbers: Vec<u64> = words.map(|word| word.parse().expect("a whole number in a cell")).collect();
    match (kind, numbers.as_slice()) {
        ("off", []) => Law::OFF,
        ("sense", [batch_us]) => Law { mode: Mode::Sense, target_ns: batch_us * 1_000, ..Law::OFF },
        ("limit", [period_ms, percent, in_flight_us, batch_us]) => Law {
            mode: Mode::Limit,
            cap: Cap::from_ppm(u32::try_from(percent * 10_000).unwrap_or(0)).expect("a cap"),
            period_ns: period_ms * MS,
            in_flight_ns: in_flight_us * 1_000,
            target_ns: batch_us * 1_000,
        },
        _ => panic!("{cell} is no cell: off, sense:BATCH_US, limit:PERIOD_MS:CAP:IN_FLIGHT_US:BATCH_US"),
    }
}

struct Program {
    load: Load,
    guest: Arc<Guest>,
    marks: Arc<Marks>,
    round: u64,
    cpu_ns: u64,
}

impl Program {
    /// Goes through the cycle until the clock says so, then waits for the device.
    fn run_until(&mut self, end_ns: u64) {
        let cpu_ns = clock::thread_cpu_ns();
        while clock::now_ns() < end_ns {
            for at in 0..self.load.cycle.len() {
                self.step(at);
            }
        }
        self.cpu_ns += clock::thread_cpu_ns() - cpu_ns;
        self.load.streams.iter().for_each(|stream| stream.synchronize());
        self.guest.drain();
        self.marks.look();
    }

    fn step(&mut self, at: usize) {
        let streams = &self.load.streams;
        let flagged = |kernel: &cuda::Kernel| cuda::Kernel {
            arguments: [self.load.flags + 4 * (self.round % loads::ROUNDS); 9],
            ..kernel.clone()
        };
        match &self.load.cycle[at] {
            Op::Launch { stream, work, unit } => self.guest.launch(*stream, unit, || match work {
                Work::Kernel(kernel) => kernel.launch(streams[*stream]),
                Work::Graph(graph) => graph.launch(streams[*stream]),
                Work::Spin => flagged(&self.load.spin).launch(streams[*stream]),
                Work::Set => flagged(&self.load.set).launch(streams[*stream]),
            }),
            Op::Upload { stream } => {
                self.guest.close(*stream, Close::Wait);
                let (to, from, bytes) = self.load.upload;
                streams[*stream].upload(to, from, bytes);
            }
            Op::Sync { stream } => {
                self.guest.close(*stream, Close::Sync);
                streams[*stream].synchronize();
            }
            Op::Host(ns) => {
                let end_ns = clock::now_ns() + ns;
                while clock::now_ns() < end_ns {
                    std::hint::spin_loop();
                }
            }
            Op::Mark { stream, units } => {
                self.round += 1;
                self.marks.mark(streams[*stream], *units, self.load.mark_ns);
            }
        }
    }

    /// Runs a cell and gives its line of JSON.
    fn cell(&mut self, name: &str, seconds: f64, cupti: Option<Cupti>) -> String {
        let law = law_of(name);
        self.guest.begin(law);
        let warm_ns = WARM_UP_NS.max(WARM_UP_PERIODS * law.period_ns);
        self.cpu_ns = 0;
        // With the truth, what is measured begins and ends with an idle device, so that both sides see the same work.
        if cupti.is_some() {
            self.run_until(clock::now_ns() + warm_ns);
            cupti.map(Cupti::take);
            self.guest.take_tally();
            self.cpu_ns = 0;
        }
        let began_ns = clock::now_ns();
        let from_ns = (began_ns + if cupti.is_some() { 0 } else { warm_ns }).next_multiple_of(BEGINS_NS);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
        let to_ns = from_ns + ((seconds * 1e3) as u64 * MS).next_multiple_of(WINDOW_NS);
        let helper_before_ns = self.guest.helper_cpu_ns();
        self.run_until(to_ns);
        let drained_ns = clock::now_ns();
        let (tally, helper_ns) = (self.guest.take_tally(), self.guest.helper_cpu_ns());
        let mut line = Line::new(name, law);
        line.speed(&self.marks, [began_ns, from_ns, to_ns, drained_ns]);
        line.tally(&tally);
        line.number("program_cpu_ns", self.cpu_ns);
        line.number("helper_cpu_ns", helper_ns - helper_before_ns);
        if let Some(cupti) = cupti {
            line.truth(&cupti.take());
        }
        line.end()
    }
}

/// A line of JSON.
struct Line(String);

impl Line {
    fn new(cell: &str, law: Law) -> Self {
        let mut line = Self(format!("{{\"cell\": \"{cell}\""));
        line.number("period_ns", law.period_ns);
        line.number("cap_ppm", u64::from(law.cap.ppm()));
        line
    }

    fn number(&mut self, name: &str, value: u64) {
        write!(self.0, ", \"{name}\": {value}").expect("a string takes all");
    }

    fn float(&mut self, name: &str, value: f64) {
        let value = if value.is_finite() { value.to_string() } else { "null".to_owned() };
        write!(self.0, ", \"{name}\": {value}").expect("a string takes all");
    }

    #[expect(clippy::cast_precision_loss, reason = "times of one run")]
    fn speed(&mut self, marks: &Marks, [began_ns, from_ns, to_ns, drained_ns]: [u64; 4]) {
        let log = marks.log();
        let seconds = (to_ns - from_ns) as f64 / 1e9;
        self.float("units_per_s", (log.at(to_ns) - log.at(from_ns)) / seconds);
        let windows = log.windows(from_ns, to_ns, WINDOW_NS);
        self.float("cv_100ms", progress::variation(&windows));
        self.float("least_window", windows.iter().copied().fold(f64::INFINITY, f64::min));
        self.float("greatest_window", windows.iter().copied().fold(0.0, f64::max));
        self.float("units_all", log.at(drained_ns) - log.at(began_ns));
        self.number("wall_ns", drained_ns - began_ns);
    }

    fn tally(&mut self, tally: &Tally) {
        for (name, value) in [
            ("charged_ns", tally.charged_ns),
            ("brackets_ns", tally.brackets_ns),
            ("covered_ns", tally.covered_ns),
            ("estimated_ns", tally.estimated_ns),
            ("estimate_error_ns", tally.estimate_error_ns),
            ("batches", tally.batches),
            ("late_batches", tally.late_batches),
            ("boundaries", tally.boundaries),
            ("boundary_cpu_ns", tally.boundary_cpu_ns),
            ("looks", tally.looks),
            ("reap_cpu_ns", tally.reap_cpu_ns),
            ("waits_budget", tally.waits_budget),
            ("waits_bound", tally.waits_bound),
            ("waited_ns", tally.waited_ns),
            ("longest_wait_ns", tally.longest_wait_ns),
            ("stalled", tally.stalled),
            ("bound_timed_out", tally.bound_timed_out),
        ] {
            self.number(name, value);
        }
    }

    fn truth(&mut self, (records, dropped): &(Vec<cupti::Record>, u64)) {
        let all = truth::occupied(records.iter());
        let device = truth::occupied(records.iter().filter(|record| !record.host_copy));
        for (name, value) in [
            ("truth_records", records.len() as u64),
            ("truth_dropped", *dropped),
            ("truth_union_ns", device.union_ns),
            ("truth_union_short_gaps_ns", device.with_short_gaps_ns),
            ("truth_with_copies_ns", all.union_ns),
            ("truth_with_copies_short_gaps_ns", all.with_short_gaps_ns),
        ] {
            self.number(name, value);
        }
        let spreads: Vec<String> = truth::spreads(records)
            .iter()
            .map(|s| {
                let truth::Spread { count, median_ns, p5_ns, p95_ns, variation } = s;
                format!(
                    "{{\"count\": {count}, \"median_ns\": {median_ns}, \"p5_ns\": {p5_ns}, \"p95_ns\": {p95_ns}, \"cv\": {variation:.4}}}"
                )
            })
            .collect();
        write!(self.0, ", \"spreads\": [{}]", spreads.join(", ")).expect("a string takes all");
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads the results");
}

fn main() {
    let asked = Asked::from_arguments();
    asked.cells.iter().for_each(|cell| _ = law_of(cell));
    let cupti = asked.truth.as_deref().map(Cupti::start);
    let device = cuda::Device::open();
    let load = Load::new(&asked.workload, &device, &asked.kernels, &asked.own);
    let guest = Arc::new(Guest::new(&load.streams, asked.helper, asked.variant));
    let marks = Arc::new(Marks::default());
    if asked.exact {
        clock::wake_exactly();
    }
    say(&format!(
        "{{\"device\": \"{}\", \"driver\": {}, \"workload\": \"{}\", \"truth\": {}, \"governor_period_ns\": {PERIOD_NS}}}",
        device.name,
        device.driver,
        asked.workload,
        asked.truth.is_some()
    ));
    std::thread::scope(|threads| {
        threads.spawn(|| guest.help(&device));
        threads.spawn(|| marks.watch(&device));
        let mut program = Program { load, guest: guest.clone(), marks: marks.clone(), round: 1, cpu_ns: 0 };
        for cell in &asked.cells {
            say(&program.cell(cell, asked.seconds, cupti));
        }
        guest.stop();
        marks.stop();
    });
}
