//! One tenant of the experiment on handing turns over (`docs/experiments/hand_over.md`); the script starts several at once.
//!
//! ```text
//! hand_over --page FILE --slot N --tenants N [--managed N] --workload NAME --kernels bench/kernels --own KERNELS.PTX
//!           [--seconds 1] [--weight 100] [--guarantee PERCENT] [--priority high|normal|low] CELL...
//! ```
//!
//! A cell is `solo:SLOT` (that tenant alone, the others wait), `free` (the driver slices), `deadline:TURN_MS`,
//! `futex:TURN_MS:LEAD_US`, `write:TURN_MS`, `wait:TURN_MS` or `arena:LEAD_US` ([`gate::How`]). All tenants go through the same cells together. Tenants with
//! slots of `--managed` and above take no turns in any cell. Each cell gives one line of JSON.

mod by_arena;
#[path = "../card/clock.rs"]
mod clock;
#[path = "../card/cuda.rs"]
#[allow(dead_code, reason = "the other example needs the rest")]
mod cuda;
mod gate;
#[path = "../card/loads.rs"]
#[allow(dead_code, reason = "the other example needs the rest")]
mod loads;
mod memory_word;
mod page;
#[path = "../card/progress.rs"]
#[allow(dead_code, reason = "the other example needs the rest")]
mod progress;
mod ruler;

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cuota_governor::entitlement::{Entitlement, Priority};
use cuota_region::arena::Arena;
use cuota_region::name::GpuId;
use cuota_region::path::Directory;
use cuota_region::seat::Seat;

use gate::{Gate, How, Law};
use loads::{Load, Op, Work};
use page::Page;
use progress::Marks;
use ruler::{Anchor, Ruler};

const MS: u64 = 1_000_000;
const WARM_UP_NS: u64 = 250 * MS;

struct Asked {
    page: PathBuf,
    slot: usize,
    tenants: u32,
    managed: u32,
    workload: String,
    kernels: PathBuf,
    own: PathBuf,
    seconds: f64,
    entitlement: Entitlement,
    cells: Vec<String>,
}

impl Asked {
    fn from_arguments() -> Self {
        let mut asked = Self {
            page: PathBuf::new(),
            slot: 0,
            tenants: 1,
            managed: u32::MAX,
            workload: "100us".into(),
            kernels: "bench/kernels".into(),
            own: "crates/governor/examples/card/kernels.ptx".into(),
            seconds: 1.0,
            entitlement: Entitlement::USUAL,
            cells: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match word.as_str() {
                "--page" => asked.page = value().into(),
                "--slot" => asked.slot = value().parse().expect("a slot's number"),
                "--tenants" => asked.tenants = value().parse().expect("a number of tenants"),
                "--managed" => asked.managed = value().parse().expect("a number of tenants"),
                "--workload" => asked.workload = value(),
                "--kernels" => asked.kernels = value().into(),
                "--own" => asked.own = value().into(),
                "--seconds" => asked.seconds = value().parse().expect("a number of seconds"),
                "--weight" => asked.entitlement.weight = value().parse().expect("a weight"),
                "--guarantee" => {
                    asked.entitlement.guarantee_ppm =
                        10_000 * value().parse::<u32>().expect("a number of per cent");
                }
                "--priority" => {
                    asked.entitlement.priority = match value().as_str() {
                        "high" => Priority::High,
                        "low" => Priority::Low,
                        _ => Priority::Normal,
                    };
                }
                _ => asked.cells.push(word),
            }
        }
        asked.managed = asked.managed.min(asked.tenants);
        assert!(asked.tenants as usize <= page::TENANTS && asked.slot < page::TENANTS, "too many tenants");
        assert!(asked.cells.len() <= page::CELLS, "too many cells");
        asked
    }
}

/// What a cell wants of this tenant. `None`: it stands aside.
fn law_of(cell: &str, asked: &Asked) -> Option<Law> {
    let mut words = cell.split(':');
    let kind = words.next().unwrap_or_default();
    let numbers: Vec<u64> = words.map(|word| word.parse().expect("a whole number in a cell")).collect();
    let (how, turn_ms) = match (kind, numbers.as_slice()) {
        ("solo", [slot]) => return (*slot == asked.slot as u64).then_some(Law::FREE),
        ("free", []) => (How::Free, 0),
        ("deadline", [turn_ms]) => (How::Deadline, *turn_ms),
        ("futex", [turn_ms, lead_us]) => (How::Futex { lead_ns: lead_us * 1_000 }, *turn_ms),
        ("write", [turn_ms]) => (How::Write, *turn_ms),
        ("wait", [turn_ms]) => (How::Wait, *turn_ms),
        ("arena", [lead_us]) => (How::Arena { lead_ns: lead_us * 1_000 }, 20),
        _ => panic!(
            "{cell} is no cell: solo:SLOT, free, deadline:MS, futex:MS:US, write:MS, wait:MS, arena:US"
        ),
    };
    let how = if asked.slot < asked.managed as usize { how } else { How::Free };
    let is_high = asked.entitlement.priority == Priority::High;
    Some(Law { how, turn_ns: turn_ms * MS, managed: asked.managed, is_high, ..Law::FREE })
}

struct Tenant<'a> {
    asked: &'a Asked,
    load: Load,
    gate: &'a Gate,
    marks: &'a Marks,
    page: &'static Page,
    /// What a launch takes, ns: of a cell that it had alone.
    launch_ns: u64,
    steps_ns: Vec<u64>,
}

impl Tenant<'_> {
    fn run_until(&mut self, end_ns: u64) {
        let mut step_ns = clock::now_ns();
        while clock::now_ns() < end_ns {
            for op in &self.load.cycle {
                let streams = &self.load.streams;
                match op {
                    Op::Launch { stream, work, .. } => {
                        self.gate.before_launch();
                        match work {
                            Work::Kernel(kernel) => kernel.launch(streams[*stream]),
                            Work::Graph(graph) => graph.launch(streams[*stream]),
                            Work::Spin | Work::Set => panic!("no workload of this experiment"),
                        }
                    }
                    Op::Upload { stream } => {
                        let (to, from, bytes) = self.load.upload;
                        streams[*stream].upload(to, from, bytes);
                    }
                    Op::Sync { stream } => {
                        self.gate.before_wait();
                        streams[*stream].synchronize();
                        let now_ns = clock::now_ns();
                        self.steps_ns.push(now_ns - step_ns);
                        step_ns = now_ns;
                    }
                    Op::Host(ns) => {
                        let until_ns = clock::now_ns() + ns;
                        while clock::now_ns() < until_ns {
                            std::hint::spin_loop();
                        }
                    }
                    Op::Mark { stream, units } => {
                        self.marks.mark(streams[*stream], *units, self.load.mark_ns);
                    }
                }
            }
        }
        self.gate.release();
        self.load.streams.iter().for_each(|stream| stream.synchronize());
        self.marks.look();
    }

    /// Runs a cell and gives its line of JSON; `None`: it stood aside.
    fn cell(&mut self, index: usize, cell: &str) -> Option<String> {
        // One after the other, so that nobody's anchor waits for another's slice.
        let stream = self.load.streams[0];
        let anchor = |step: u64| {
            std::thread::sleep(std::time::Duration::from_millis(6 * step));
            Anchor::drop_on(stream)
        };
        let from = anchor(self.asked.slot as u64);
        let begins_ns = self.page.meet(index, self.asked.tenants);
        let measured_ns = std::time::Duration::from_secs_f64(self.asked.seconds).as_nanos();
        let from_ns = begins_ns + WARM_UP_NS;
        let to_ns = from_ns + u64::try_from(measured_ns).expect("seconds");
        let line = law_of(cell, self.asked).map(|law| {
            self.gate.begin(Law { to_ns, launch_ns: self.launch_ns, ..law });
            self.steps_ns.clear();
            let cpu_ns = clock::process_cpu_ns();
            std::thread::sleep(std::time::Duration::from_nanos(begins_ns.saturating_sub(clock::now_ns())));
            self.run_until(to_ns);
            (clock::process_cpu_ns() - cpu_ns, self.gate.end())
        });
        self.page.part(index, self.asked.tenants);
        let ruler = Ruler { from, to: anchor(self.asked.slot as u64) };
        let (cpu_ns, (launches, passed)) = line?;
        if cell.starts_with("solo") && !matches!(self.asked.workload.as_str(), "slow_cpu" | "training") {
            self.launch_ns = ((to_ns - begins_ns) / launches.max(1)).max(1_000);
        }
        let turns: Vec<String> = passed
            .iter()
            .filter(|turn| turn.granted_ns >= from_ns)
            .map(|turn| {
                let [first, last] = [turn.first, turn.last].map(|event| ruler.host_ns(event));
                let times =
                    [turn.granted_ns, turn.closed_ns, turn.deadline_ns.min(to_ns + 1_000 * MS), first, last];
                format!("{:?}", times.map(|ns| i128::from(ns) - i128::from(from_ns)))
            })
            .collect();
        self.gate.give_back(&passed);
        let log = self.marks.log();
        #[expect(clippy::cast_precision_loss, reason = "times of one run")]
        let units_per_s = (log.at(to_ns) - log.at(from_ns)) * 1e9 / (to_ns - from_ns) as f64;
        self.steps_ns.sort_unstable();
        let step = |part: usize| self.steps_ns.get(self.steps_ns.len() * part / 100).copied().unwrap_or(0);
        Some(format!(
            "{{\"cell\": \"{cell}\", \"slot\": {}, \"workload\": \"{}\", \"units_per_s\": {units_per_s}, \"launch_ns\": {}, \
             \"launches\": {launches}, \"wall_ns\": {}, \"cpu_ns\": {cpu_ns}, \"step_p50_ns\": {}, \"step_p99_ns\": {}, \"turns\": [{}]}}",
            self.asked.slot,
            self.asked.workload,
            self.launch_ns,
            to_ns - begins_ns,
            step(50),
            step(99),
            turns.join(", "),
        ))
    }
}

/// The tenant's seat in an arena beside the page, where any cell wants one.
fn seat_of(asked: &Asked) -> Option<Seat> {
    if asked.slot >= asked.managed as usize || !asked.cells.iter().any(|cell| cell.starts_with("arena")) {
        return None;
    }
    let folder = asked.page.parent().expect("the page has a folder");
    _ = std::fs::create_dir(folder.join("arena"));
    let directory = Directory::at(folder.as_os_str().as_bytes()).expect("a short path");
    let arena = Arena::open_or_create(&directory, GpuId::from_words([1, 1]), 0o600);
    let arena = arena.unwrap_or_else(|why| panic!("the arena in {}: {why}", folder.display()));
    arena.seat(asked.slot as u64 + 1, asked.entitlement, clock::now_ns())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads the results");
}

fn main() {
    let asked = Asked::from_arguments();
    asked.cells.iter().for_each(|cell| _ = law_of(cell, &asked));
    let page = Page::map(&asked.page);
    let device = cuda::Device::open();
    let load = Load::new(&asked.workload, &device, &asked.kernels, &asked.own);
    let gate = Gate::new(page, asked.slot, load.streams[0], seat_of(&asked));
    let (marks, is_over) = (Marks::default(), AtomicBool::new(false));
    clock::wake_exactly();
    say(&format!(
        "{{\"device\": \"{}\", \"driver\": {}, \"slot\": {}, \"workload\": \"{}\"}}",
        device.name, device.driver, asked.slot, asked.workload
    ));
    std::thread::scope(|threads| {
        threads.spawn(|| gate.help(&device, || is_over.load(Ordering::Relaxed)));
        threads.spawn(|| marks.watch(&device));
        // Of those whose launches the GPU does not wait for: a kernel of 5 us, or a fifteenth of a step's 0.75 ms.
        let launch_ns = if asked.workload == "training" { 50_000 } else { 5_000 };
        let mut tenant =
            Tenant { asked: &asked, load, gate: &gate, marks: &marks, page, launch_ns, steps_ns: Vec::new() };
        for (index, cell) in asked.cells.iter().enumerate() {
            marks.is_alive();
            say(&tenant.cell(index, cell).unwrap_or_else(|| "{\"aside\": true}".to_owned()));
        }
        is_over.store(true, Ordering::Relaxed);
        marks.stop();
    });
}
