//! Samples from tenants, and what a person sees meanwhile: a bar on a terminal, a line a metric elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;
use crate::metrics::{Comparison, Metric};
use crate::runner::{Bench, Plan};
use crate::system::{Session, System};
use crate::worker::{Measure, Series};

/// The part of a sample's time that the device may have been slowed down, for heat and the like, before it does not count.
const THROTTLED_PART: f64 = 0.01;

/// The tenants of one metric.
pub struct Tenants<'a> {
    session: &'a Session,
    metric: &'static dyn Metric,
    systems: Vec<&'a System>,
    began: Instant,
    throttled_ns: Option<u64>,
    asked: Instant,
    bar: ProgressBar,
}

impl<'a> Tenants<'a> {
    /// Tenants of `systems` for `metric`, whose sampling begins now.
    pub fn new(
        session: &'a Session,
        metric: &'static dyn Metric,
        systems: Vec<&'a System>,
        plan: Plan,
    ) -> Self {
        let now = Instant::now();
        let throttled_ns = session.monitor.as_ref().and_then(|monitor| monitor.throttled_ns());
        let bar = bar(metric, &systems, plan);
        Self { session, metric, systems, began: now, throttled_ns, asked: now, bar }
    }

    /// Takes the bar away, and says in a line how it ended.
    pub fn finish(self, how: &str) {
        self.bar.finish_and_clear();
        let info = self.metric.info();
        eprintln!("{} {}: {how}, {:.0} s", info.id, info.name, self.began.elapsed().as_secs_f64());
    }
}

fn bar(metric: &dyn Metric, systems: &[&System], plan: Plan) -> ProgressBar {
    let steps = u64::try_from(plan.most * systems.len()).unwrap_or(u64::MAX);
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
    // A template of ours that does not parse leaves the plain bar.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {msg}, {elapsed} of at most {eta}") {
        bar.set_style(style.with_key(
            "eta",
            move |_: &indicatif::ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = write!(text, "{} s", plan.budget.as_secs());
            },
        ));
    }
    bar.set_prefix(format!("{} {}", metric.info().id, metric.info().name));
    bar.set_message("warming up");
    bar
}

impl Bench for Tenants<'_> {
    fn sample(&mut self, turn: usize, place: usize) -> Result<Series> {
        self.session.note_turn(turn);
        let launcher = self.session.launcher(self.systems[place]).on_cpu(self.session.cpu_of_turn(turn));
        let series = self.metric.sample(&launcher)?;
        for (name, measure) in &series {
            if let Some(why) = nonsense(measure) {
                bail!("{name} is {} {}: {why}", measure.value, measure.unit);
            }
        }
        match self.metric.impossible(&series, &self.session.device_info) {
            Some(why) => bail!("physically impossible: {why}"),
            None => Ok(series),
        }
    }

    fn headline(&self, series: &Series) -> Option<f64> {
        Some(self.metric.series(series).get(self.metric.info().headline)?.value)
    }

    fn is_paired(&self) -> bool {
        matches!(self.metric.info().comparison, Comparison::AddedToNative | Comparison::RatioToNative)
    }

    fn warms_up(&self) -> bool {
        self.metric.warms_up()
    }

    fn throttled(&mut self) -> Option<String> {
        let now_ns = self.session.monitor.as_ref()?.throttled_ns();
        let (before_ns, since) = (self.throttled_ns, self.asked.elapsed());
        self.throttled_ns = now_ns;
        self.asked = Instant::now();
        let slow = Duration::from_nanos(now_ns?.saturating_sub(before_ns?));
        (slow.as_secs_f64() > THROTTLED_PART * since.as_secs_f64()).then(|| {
            self.session.note_slowed();
            format!("for {:.3} of {:.3} s, by NVML's count", slow.as_secs_f64(), since.as_secs_f64())
        })
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn is_interrupted(&self) -> bool {
        interrupt::is_requested()
    }

    fn progress(&mut self, turn: usize, place: usize, is_good: bool) {
        let how = if is_good { "" } else { ", void" };
        self.bar.set_message(format!("turn {}, {}{how}", turn + 1, self.systems[place].label));
        self.bar.inc(1);
    }
}

/// The clock's cost is subtracted from what is timed, and it is known to some of its steps: so far below zero a time may be.
const CLOCK_NOISE_NS: f64 = 100.0;

/// Why a value cannot be one, whatever was measured.
fn nonsense(measure: &Measure) -> Option<&'static str> {
    const TIMES_NS: [(&str, f64); 4] = [("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
    if !measure.value.is_finite() {
        return Some("no number");
    }
    let (_, ns) = TIMES_NS.iter().find(|(unit, _)| *unit == measure.unit)?;
    (!measure.is_difference && measure.value * ns < -CLOCK_NOISE_NS).then_some("no time is below zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_are_void_and_nothing_is_clamped() {
        assert!(nonsense(&Measure::single(f64::NAN, "%")).is_some());
        assert!(nonsense(&Measure::single(f64::INFINITY, "µs")).is_some());
        assert!(nonsense(&Measure::single(-1.0, "µs")).is_some());
        assert!(nonsense(&Measure::difference(-1.0, "µs")).is_none());
        assert!(nonsense(&Measure::single(0.5, "ms")).is_none());
        assert!(nonsense(&Measure::single(-0.02, "µs")).is_none(), "the clock's own cost is that uncertain");
    }
}
