//! SELF-001, `cuota-bench self-test`: the benchmark against itself. The same thing measured again must tie; slowdowns of 1, 5
//! and 20 % that are put in must be found where the samples have the power for it; and a library that does nothing must be
//! called *not enforced*.

mod work;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use work::work;

use crate::cli::{RunArguments, SelfTestArguments};
use crate::environment::{Environment, SystemRecord, now_utc};
use crate::interrupt;
use crate::judge;
use crate::metrics::{Comparison, Info, Metric, Presumes};
use crate::output;
use crate::prepare;
use crate::prove;
use crate::results::{MetricResult, Results, RunRecord, SCHEMA, SystemResult};
use crate::run::{INTERRUPTED, write_out};
use crate::runner::{self, Bench, Collected, Plan};
use crate::stats::{Direction, Scale, Verdict, correction, paired};
use crate::summary;
use crate::system::{Proof, Session, System};
use crate::units::value_text;
use crate::worker::{self, Series, Tenant, Work};

/// Slowdowns that are put in, in per cent; 0 is the same again.
const INJECTED: [(&str, f64); 7] = [
    ("same again 1", 0.0),
    ("same again 2", 0.0),
    ("same again 3", 0.0),
    ("same again 4", 0.0),
    ("1 % slower", 1.0),
    ("5 % slower", 5.0),
    ("20 % slower", 20.0),
];
/// A slowdown so many times the detectable one must be found: that is some 99 runs of 100.
const SURE: f64 = 1.6;
/// Comparisons in the file: each thing put in, in two ways.
const FAMILY: usize = 2 * INJECTED.len();
/// Of the same things again so many may be told apart: with the correction for the family, two are one run in hundreds.
const FALSE_CLAIMS: usize = 1;

static INFO: Info = Info {
    id: "SELF-001",
    name: "The benchmark against itself",
    unit: "µs",
    direction: Direction::Lower,
    headline: work::PAIR,
    in_process: &[work::IN_PROCESS],
    comparison: Comparison::AddedToNative,
    method: "native measured again four times, and with slowdowns of 1, 5 and 20 % put in, process against process and in alternating blocks of one process",
    presumes: Presumes::Nothing,
};

/// The metric, as far as summaries need it.
struct SelfTest;

impl Metric for SelfTest {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn work(&self, tenant: &Tenant<'_>) -> Result<Work> {
        work(tenant.request)
    }
}

/// Tenants of the self-test: all native, each with its slowdown.
struct Tenants<'a> {
    session: &'a Session,
    began: Instant,
}

impl Bench for Tenants<'_> {
    fn sample(&mut self, turn: usize, place: usize) -> Result<Series> {
        let launcher = self.session.launcher(&self.session.native).on_cpu(self.session.cpu_of_turn(turn));
        // Place 0 is native itself.
        let percent = place.checked_sub(1).map_or(0.0, |place| INJECTED[place].1);
        Ok(launcher.run(worker::SELF_TEST, &percent.to_string())?.series)
    }

    fn headline(&self, series: &Series) -> Option<f64> {
        Some(series.get(work::PAIR)?.value)
    }

    fn is_paired(&self) -> bool {
        true
    }

    fn warms_up(&self) -> bool {
        true
    }

    fn throttled(&mut self) -> Option<String> {
        None
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn is_interrupted(&self) -> bool {
        interrupt::is_requested()
    }
}

/// Runs it. Exit status: 0 when the benchmark keeps its promises, 3 when it does not.
pub fn main(arguments: &SelfTestArguments) -> Result<ExitCode> {
    let arguments = arguments.as_run();
    prepare::refuse_own_preload()?;
    let simulator = prepare::simulator(arguments.device)?;
    prepare::prepare_folder(&arguments.out)?;
    interrupt::catch().context("Ctrl-C cannot be caught")?;
    let mut environment = Environment::of_machine(env::args().collect());
    environment.effort = Some(arguments.effort());
    let mut session =
        prepare::open_session(&arguments, simulator, &System::parse("native")?, &mut environment)?;
    environment.command = environment.command.iter().map(|word| session.shown().word(word)).collect();
    session.limit_bytes = prepare::limit_on(&arguments, &environment.device)?;
    environment.limit_bytes = session.limit_bytes;

    let nothing = library_that_does_nothing(&session)?;
    let results = measure(&session, &arguments, environment);
    results.write(&arguments.out.join("results.json"))?;
    let written = output::write_all(&results, &[], &arguments.out)?;
    let metric = results.metrics.first().context("nothing was measured")?;
    let (text, broken) = verdict(metric, nothing.as_ref());
    write_out(&text)?;
    eprintln!("written: {written}, beside results.json");
    if interrupt::is_requested() {
        eprintln!("cuota-bench: interrupted before all turns were taken");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    for promise in &broken {
        eprintln!("cuota-bench: {promise}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// What the proof says of a preloaded library that does nothing; `None` without a C compiler to make one.
fn library_that_does_nothing(session: &Session) -> Result<Option<Proof>> {
    let Some(library) = session.empty_library() else { return Ok(None) };
    let system = System::parse(&format!("hami={}", library.display()))?;
    let label = system.label.clone();
    let mut environment = Environment::default();
    environment.systems.insert(label.clone(), SystemRecord::default());
    prove::memory(session, &[session.native.clone(), system], &mut environment)?;
    Ok(environment.systems.remove(&label).and_then(|record| record.proof))
}

fn measure(session: &Session, arguments: &RunArguments, mut environment: Environment) -> Results {
    let labels: Vec<String> =
        std::iter::once("native").chain(INJECTED.map(|(label, _)| label)).map(str::to_owned).collect();
    for (order, label) in labels.iter().enumerate() {
        environment.systems.insert(label.clone(), SystemRecord { order, ..SystemRecord::default() });
    }
    // As many turns on each machine: what is judged is how the samples are judged, not how soon they suffice.
    let plan = Plan::of(arguments.effort(), arguments.budget(false), crate::stats::FEWEST_PAIRS);
    let plan = Plan { precision: -1.0, fill: plan.fill.map(|_| Duration::ZERO), ..plan };
    let mut tenants = Tenants { session, began: Instant::now() };
    let (collected, stop) = runner::collect(labels.len(), plan, &mut tenants);
    let collected: BTreeMap<usize, Collected> = collected.into_iter().enumerate().collect();
    let mut metric = summary::result_of(&SelfTest, &labels, &BTreeMap::new(), &collected);
    metric.simulated = environment.simulated;
    metric.run = RunRecord {
        date: now_utc(),
        seconds: tenants.began.elapsed().as_secs_f64().round(),
        stopped: stop.text().to_owned(),
        device: environment.device.uuid.clone(),
        effort: environment.effort,
    };
    let mut results = Results { schema: SCHEMA.to_owned(), environment, metrics: vec![metric] };
    judge::judge(&mut results);
    results
}

/// What was found, and which promises it breaks.
fn verdict(metric: &MetricResult, nothing: Option<&Proof>) -> (String, Vec<String>) {
    let simulated = if metric.simulated { " (simulated)" } else { "" };
    let mut text = format!(
        "| put in | found in process{simulated} | detectable | verdict | process against process{simulated} | detectable | verdict |\n|---|---|---|---|---|---|---|\n"
    );
    let mut broken = Vec::new();
    let mut false_claims = 0;
    for (label, percent) in INJECTED {
        let Some(found) = metric.systems.get(label).and_then(Found::of) else {
            broken.push(format!("`{label}` could not be measured: {}", reason(metric.systems.get(label))));
            continue;
        };
        let _ = writeln!(text, "| {label} | {} |", found.cells());
        let ways = [("in process", found.in_process), ("process against process", found.across)];
        for (how, way) in ways {
            if percent == 0.0 && way.verdict != Verdict::Tie {
                false_claims += 1;
            }
            let must = percent >= SURE * way.detectable_percent && percent > 0.0;
            if must && way.verdict != Verdict::Worse {
                broken.push(format!(
                    "{label}: not found {how} (found {} %), although {} % is detectable",
                    value_text(way.percent),
                    value_text(way.detectable_percent)
                ));
            }
            if percent > 0.0 && way.verdict == Verdict::Better {
                broken.push(format!("{label}: called better {how}"));
            }
        }
    }
    if false_claims > FALSE_CLAIMS {
        broken.push(format!("the same again was told apart {false_claims} times"));
    }
    let _ = writeln!(text, "\nA library that does nothing: {}", nothing_text(nothing));
    if !matches!(nothing, None | Some(Proof::NotEnforced(_))) {
        broken.push("a library that does nothing was not called `not enforced`".to_owned());
    }
    (text, broken)
}

fn nothing_text(nothing: Option<&Proof>) -> String {
    match nothing {
        None => "not tried, there is no C compiler to make one".to_owned(),
        Some(Proof::NotEnforced(why)) => format!("not enforced ({why})"),
        Some(other) => format!("{other:?}"),
    }
}

fn reason(system: Option<&SystemResult>) -> String {
    system.and_then(|system| system.reason.clone()).unwrap_or_else(|| "no result".to_owned())
}

/// What one way of measuring found, in per cent.
#[derive(Clone, Copy)]
struct Way {
    percent: f64,
    detectable_percent: f64,
    verdict: Verdict,
}

/// What both ways found.
struct Found {
    in_process: Way,
    across: Way,
}

impl Found {
    fn of(system: &SystemResult) -> Option<Self> {
        let series = system.series.get(work::IN_PROCESS)?;
        let against_nothing: Vec<(f64, f64)> = series.samples.iter().map(|sample| (0.0, *sample)).collect();
        let in_process = Way {
            percent: series.value.value,
            detectable_percent: paired(&against_nothing, Scale::Difference)?.detectable
                * correction(series.samples.len(), FAMILY),
            verdict: system.verdict_in_process?,
        };
        let across = Way {
            percent: 100.0 * (system.ratio?.value - 1.0),
            detectable_percent: system.detectable_in_family_percent?,
            verdict: system.verdict?,
        };
        Some(Self { in_process, across })
    }

    fn cells(&self) -> String {
        let way = |way: &Way| {
            format!(
                "{} % | {} % | {}",
                value_text(way.percent),
                value_text(way.detectable_percent),
                way.verdict.text()
            )
        };
        format!("{} | {}", way(&self.in_process), way(&self.across))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Measure;

    /// Samples whose process-to-process noise is `noise` per cent, slowed by what is put in.
    fn metric(noise: f64, works: bool) -> MetricResult {
        let sample = |turn: usize, place: usize| {
            let percent =
                place.checked_sub(1).map_or(0.0, |place| INJECTED[place].1) * f64::from(u8::from(works));
            let jitter = noise / 100.0 * (((turn * 7 + place * 5) % 11) as f64 / 5.0 - 1.0);
            Ok(Series::from([
                (work::PAIR.to_owned(), Measure::single((1.0 + percent / 100.0) * (1.0 + jitter), "µs")),
                (work::IN_PROCESS.to_owned(), Measure::difference(percent + jitter, "%")),
            ]))
        };
        let collected = (0..=INJECTED.len())
            .map(|place| {
                let samples = (0..12).map(|turn| sample(turn, place)).collect();
                (place, Collected { samples, ..Collected::default() })
            })
            .collect();
        let labels: Vec<String> =
            std::iter::once("native").chain(INJECTED.map(|(label, _)| label)).map(str::to_owned).collect();
        let metric = summary::result_of(&SelfTest, &labels, &BTreeMap::new(), &collected);
        let mut results =
            Results { schema: SCHEMA.to_owned(), environment: Environment::default(), metrics: vec![metric] };
        judge::judge(&mut results);
        results.metrics.remove(0)
    }

    #[test]
    fn slowdowns_that_are_there_and_detectable_keep_the_promise() {
        let loose = Proof::NotEnforced("granted".to_owned());
        let (text, broken) = verdict(&metric(0.5, true), Some(&loose));
        assert!(broken.is_empty(), "{broken:?}\n{text}");
        assert!(
            text.contains("| 20 % slower | 20.00 % |") && text.contains("not enforced (granted)"),
            "{text}"
        );
    }

    #[test]
    fn a_benchmark_that_does_not_see_them_breaks_it() {
        let (_, broken) = verdict(&metric(0.5, false), None);
        assert!(
            broken.iter().any(|promise| promise.starts_with("20 % slower: not found in process")),
            "{broken:?}"
        );
    }

    #[test]
    fn a_library_that_does_nothing_and_is_believed_breaks_it() {
        let believed = Proof::Enforced("all is well".to_owned());
        let (_, broken) = verdict(&metric(0.5, true), Some(&believed));
        assert_eq!(broken.len(), 1, "{broken:?}");
    }
}
