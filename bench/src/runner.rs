//! Interleaved sampling: which system is asked when, what makes a sample void, and when there are enough.

use std::time::Duration;

use anyhow::Result;

use crate::stats::{FEWEST_PAIRS, median, median_interval};
use crate::worker::{Effort, NotMeasured, Series};

/// The samples of one system: one entry a turn, `Err` with the reason where it is void.
pub type Samples = Vec<Result<Series, String>>;

/// A system whose first samples are all void, so many of them, is not asked again.
const HOPELESS: usize = 3;
/// Turns that are added where void samples leave a system with fewer good ones than are judged.
const EXTRA: usize = 3;
/// How often a throttled sample is taken again in its turn.
const AGAIN: usize = 2;

/// How many turns a metric gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The fewest turns, unless time runs out.
    pub fewest: usize,
    /// The most.
    pub most: usize,
    /// The width of the 95 % interval, from its middle to an end, as a part of the value, that is narrow enough.
    pub precision: f64,
    /// When no further turn begins.
    pub budget: Duration,
    /// When no turn beyond the fewest begins: what is cheap gets more of them, by the time that they take and not by what they show.
    pub fill: Option<Duration>,
}

/// Turns with `--quick`, at most.
const QUICK_TURNS: usize = 2 * FEWEST_PAIRS;
/// The part of the time of a metric in which turns beyond the fewest are taken with `--quick`.
const FILLED_PART: u32 = 5;

impl Plan {
    /// The plan of an effort, for a metric that is judged from `fewest_samples` on: where these are few, a sample takes
    /// minutes.
    pub fn of(effort: Effort, budget: Duration, fewest_samples: usize) -> Self {
        let (fewest, most, precision, fill) = match effort {
            Effort::Quick => (FEWEST_PAIRS, QUICK_TURNS, 0.0, Some(budget / FILLED_PART)),
            Effort::Standard => (8, 24, 0.02, None),
            Effort::Full => (12, 48, 0.01, None),
        };
        match (fewest_samples < FEWEST_PAIRS, effort) {
            (false, _) => Self { fewest, most, precision, budget, fill },
            (true, Effort::Quick) => {
                Self { fewest: fewest_samples, most: fewest_samples, precision, budget, fill: None }
            }
            (true, _) => Self { fewest: fewest_samples, most, precision, budget, fill },
        }
    }
}

/// Why sampling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The intervals are narrow enough.
    Precision,
    /// The most turns were taken.
    Turns,
    /// The time was up.
    Time,
    /// The user ended it.
    Interrupted,
}

impl Stop {
    /// The words for it in results.
    pub fn text(self) -> &'static str {
        match self {
            Self::Precision => "precision reached",
            Self::Turns => "all turns taken",
            Self::Time => "time was up",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What the samples of a metric are taken from: tenants, or numbers in a test.
pub trait Bench {
    /// One sample of the system at `place`.
    fn sample(&mut self, turn: usize, place: usize) -> Result<Series>;
    /// The figure in a sample that precision is judged by.
    fn headline(&self, series: &Series) -> Option<f64>;
    /// Whether precision is judged by what the first system's value becomes under the others, or by each value itself.
    fn is_paired(&self) -> bool;
    /// Whether a first sample of each system is thrown away, since it fills the driver's and the file system's caches.
    fn warms_up(&self) -> bool;
    /// Why what was measured since the last call does not count, if the device was throttled meanwhile.
    fn throttled(&mut self) -> Option<String>;
    /// The time since sampling began.
    fn elapsed(&self) -> Duration;
    /// Whether the user asked for the end.
    fn is_interrupted(&self) -> bool;
    /// A sample was taken.
    fn progress(&mut self, _turn: usize, _place: usize, _is_good: bool) {}
}

/// What was collected of one system.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// One entry a turn.
    pub samples: Samples,
    /// Why the metric cannot be measured for it, if it cannot.
    pub not_measured: Option<String>,
    /// Samples that were thrown away because the device was throttled.
    pub throttled: usize,
}

impl Collected {
    fn is_hopeless(&self) -> bool {
        self.samples.len() >= HOPELESS && self.samples.iter().all(Result::is_err)
    }

    /// Whether there are as many good samples as are judged, or there is no hope of them.
    fn has_enough(&self, plan: Plan) -> bool {
        let good = self.samples.iter().filter(|sample| sample.is_ok()).count();
        !self.is_asked() || good >= plan.fewest.min(FEWEST_PAIRS)
    }

    /// Every reason that there is no sample.
    pub fn reasons(&mut self) -> impl Iterator<Item = &mut String> {
        self.samples.iter_mut().filter_map(|sample| sample.as_mut().err()).chain(&mut self.not_measured)
    }

    fn is_asked(&self) -> bool {
        self.not_measured.is_none() && !self.is_hopeless()
    }
}

/// Takes turns of all of `systems` systems, A B C, then C B A, and so on, so that what drifts meets all alike; after one
/// sample of each that is thrown away.
pub fn collect(systems: usize, plan: Plan, bench: &mut impl Bench) -> (Vec<Collected>, Stop) {
    let mut all = vec![Collected::default(); systems];
    let warmed_up = if bench.warms_up() { systems } else { 0 };
    for (place, collected) in all.iter_mut().enumerate().take(warmed_up) {
        if bench.elapsed() >= plan.budget {
            return (vec![Collected::default(); systems], Stop::Time);
        }
        if let Err(error) = bench.sample(0, place) {
            collected.not_measured = NotMeasured::in_error(&error);
        }
    }
    let _before = bench.throttled();
    let mut longest = bench.elapsed();
    for turn in 0..plan.most + EXTRA {
        let began = bench.elapsed();
        let is_filled = turn >= plan.fewest && plan.fill.is_some_and(|fill| began + longest > fill);
        if (turn >= plan.most || is_filled) && all.iter().all(|collected| collected.has_enough(plan)) {
            break;
        }
        if bench.is_interrupted() {
            return (all, Stop::Interrupted);
        }
        if began + longest > plan.budget {
            return (all, Stop::Time);
        }
        for place in order(systems, turn) {
            take(turn, place, &mut all[place], bench);
        }
        longest = longest.max(bench.elapsed() - began);
        if turn + 1 >= plan.fewest && is_precise(&all, plan, bench) {
            return (all, Stop::Precision);
        }
    }
    (all, Stop::Turns)
}

/// The order of a turn.
fn order(systems: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..systems).map(move |place| if turn.is_multiple_of(2) { place } else { systems - 1 - place })
}

fn take(turn: usize, place: usize, collected: &mut Collected, bench: &mut impl Bench) {
    if !collected.is_asked() {
        let why = format!("not tried again after {HOPELESS} failures");
        collected.samples.push(Err(why));
        return bench.progress(turn, place, false);
    }
    let mut result = Err("throttled".to_owned());
    for _ in 0..=AGAIN {
        let sample = bench.sample(turn, place);
        if let Some(why) = bench.throttled().filter(|_| sample.is_ok()) {
            collected.throttled += 1;
            result = Err(format!("the device was throttled: {why}"));
            continue;
        }
        if let Some(why) = sample.as_ref().err().and_then(NotMeasured::in_error) {
            collected.not_measured = Some(why);
        }
        result = sample.map_err(|error| format!("{error:#}"));
        break;
    }
    bench.progress(turn, place, result.is_ok());
    collected.samples.push(result);
}

/// Whether every system's interval is narrow enough; systems without samples to judge do not hold the others up.
fn is_precise(all: &[Collected], plan: Plan, bench: &impl Bench) -> bool {
    let values = |collected: &Collected| -> Vec<Option<f64>> {
        collected.samples.iter().map(|sample| bench.headline(sample.as_ref().ok()?)).collect()
    };
    let native = all.first().map(values).unwrap_or_default();
    let scale = median(&native.iter().flatten().copied().collect::<Vec<_>>()).unwrap_or(0.0);
    let paired = bench.is_paired() && all.len() > 1;
    all.iter().skip(usize::from(paired)).filter(|collected| collected.is_asked()).all(|collected| {
        let own = values(collected);
        // Differences as parts of native's median say what ratios do, and also where values are near zero.
        let judged: Vec<f64> = match paired {
            true => own
                .iter()
                .zip(&native)
                .filter_map(|(own, native)| Some(own.as_ref()? - native.as_ref()?))
                .collect(),
            false => own.iter().flatten().copied().collect(),
        };
        let scale = if paired { scale } else { median(&judged).unwrap_or(0.0) };
        median_interval(&judged).is_some_and(|interval| {
            judged.len() >= plan.fewest.min(FEWEST_PAIRS)
                && (interval.ci95[1] - interval.ci95[0]) / 2.0 <= plan.precision * scale.abs()
        })
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::worker::Measure;

    const PLAN: Plan =
        Plan { fewest: 8, most: 24, precision: 0.02, budget: Duration::from_secs(1_000), fill: None };

    /// Numbers instead of tenants, and a clock that a sample moves by a second.
    struct Numbers<F> {
        value: F,
        asked: Vec<(usize, usize)>,
        throttled: Vec<usize>,
        paired: bool,
    }

    impl<F: FnMut(usize, usize) -> Result<f64>> Bench for Numbers<F> {
        fn sample(&mut self, turn: usize, place: usize) -> Result<Series> {
            self.asked.push((turn, place));
            Ok(Series::from([("x".to_owned(), Measure::single((self.value)(turn, place)?, "µs"))]))
        }

        fn headline(&self, series: &Series) -> Option<f64> {
            Some(series.get("x")?.value)
        }

        fn is_paired(&self) -> bool {
            self.paired
        }

        fn warms_up(&self) -> bool {
            true
        }

        fn throttled(&mut self) -> Option<String> {
            self.throttled.contains(&self.asked.len()).then(|| "hot".to_owned())
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.asked.len() as u64)
        }

        fn is_interrupted(&self) -> bool {
            self.asked.len() > 1_000
        }
    }

    fn numbers<F: FnMut(usize, usize) -> Result<f64>>(value: F) -> Numbers<F> {
        Numbers { value, asked: Vec::new(), throttled: Vec::new(), paired: true }
    }

    #[test]
    fn systems_take_turns_forwards_and_backwards_after_one_sample_of_each_that_does_not_count() {
        let mut bench = numbers(|_, _| Ok(1.0));
        let (all, _) = collect(2, Plan { fewest: 2, most: 2, ..PLAN }, &mut bench);
        assert_eq!(bench.asked, [(0, 0), (0, 1), (0, 0), (0, 1), (1, 1), (1, 0)]);
        assert!(all.iter().all(|collected| collected.samples.len() == 2));
    }

    #[test]
    fn quiet_values_end_with_the_fewest_turns_and_loud_ones_with_the_most() {
        let (quiet, stop) = collect(2, PLAN, &mut numbers(|turn, _| Ok(100.0 + (turn % 2) as f64)));
        assert_eq!((quiet[1].samples.len(), stop), (8, Stop::Precision));
        let loud = |turn: usize, place: usize| Ok(100.0 + 60.0 * ((turn * 7 + place * 3) % 5) as f64);
        let (loud, stop) = collect(2, PLAN, &mut numbers(loud));
        assert_eq!((loud[1].samples.len(), stop), (24, Stop::Turns));
    }

    #[test]
    fn drift_that_all_share_does_not_keep_it_going() {
        let (all, stop) = collect(2, PLAN, &mut numbers(|turn, _| Ok(100.0 * (turn + 1) as f64)));
        assert_eq!((all[1].samples.len(), stop), (8, Stop::Precision));
    }

    #[test]
    fn no_turn_begins_that_would_end_after_the_time_is_up() {
        let plan = Plan { precision: -1.0, budget: Duration::from_secs(14), ..PLAN };
        let mut bench = numbers(|_, _| Ok(1.0));
        let (all, stop) = collect(2, plan, &mut bench);
        assert_eq!((all[0].samples.len(), stop), (6, Stop::Time));
        assert!(bench.elapsed() <= plan.budget);
    }

    #[test]
    fn what_is_cheap_gets_more_turns_while_a_part_of_the_time_lasts() {
        let turns = |seconds| {
            let plan = Plan::of(Effort::Quick, Duration::from_secs(seconds), FEWEST_PAIRS);
            let (all, stop) = collect(2, plan, &mut numbers(|turn, place| Ok((turn * (place + 1)) as f64)));
            assert_eq!(stop, Stop::Turns);
            all[0].samples.len()
        };
        // Two seconds a turn, and two of samples that are thrown away; the first fifth of the time is filled.
        assert_eq!([turns(20), turns(5 * 18), turns(5 * 26), turns(1_000)], [6, 8, 12, 12]);
    }

    #[test]
    fn samples_that_are_thrown_away_do_not_begin_after_the_time_is_up_either() {
        let mut bench = numbers(|_, _| Ok(1.0));
        let (all, stop) = collect(3, Plan { budget: Duration::from_secs(2), ..PLAN }, &mut bench);
        assert_eq!((bench.asked.len(), stop), (2, Stop::Time));
        assert!(all.iter().all(|collected| collected.samples.is_empty()) && all.len() == 3);
    }

    #[test]
    fn a_throttled_sample_is_thrown_away_counted_and_taken_again() {
        let mut bench = numbers(|_, _| Ok(1.0));
        bench.throttled = vec![3, 5, 6, 7];
        let (all, _) = collect(1, Plan { fewest: 3, most: 4, precision: -1.0, ..PLAN }, &mut bench);
        assert_eq!(all[0].throttled, 4);
        let good: Vec<bool> = all[0].samples.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, true, false, true], "{:?}", all[0].samples);
    }

    #[test]
    fn turns_are_added_for_void_samples_and_not_for_ever() {
        let plan = Plan { fewest: 6, most: 6, precision: 0.0, ..PLAN };
        let once = |turn: usize, place: usize| if (turn, place) == (2, 1) { bail!("no") } else { Ok(1.0) };
        let (all, _) = collect(2, plan, &mut numbers(once));
        assert_eq!(all[1].samples.iter().filter(|sample| sample.is_ok()).count(), 6);
        assert_eq!(all[0].samples.len(), 7);
        let often = |turn: usize, _| if turn % 2 == 1 { bail!("no") } else { Ok(1.0) };
        let (all, _) = collect(1, plan, &mut numbers(often));
        assert_eq!(all[0].samples.len(), 6 + EXTRA);
    }

    #[test]
    fn a_system_that_always_fails_is_not_asked_for_ever_and_does_not_hold_up_the_others() {
        let mut bench = numbers(|_, place| if place == 1 { bail!("no") } else { Ok(1.0) });
        let (all, _) = collect(2, PLAN, &mut bench);
        assert_eq!(bench.asked.iter().filter(|(_, place)| *place == 1).count(), 1 + HOPELESS);
        assert_eq!(all[1].samples.len(), 8);
    }

    #[test]
    fn a_metric_whose_samples_take_minutes_gets_as_few_as_it_is_judged_by() {
        let plan = |effort, fewest| Plan::of(effort, PLAN.budget, fewest);
        assert_eq!((plan(Effort::Quick, 2).fewest, plan(Effort::Quick, 2).most), (2, 2));
        assert_eq!((plan(Effort::Full, 2).fewest, plan(Effort::Full, 2).most), (2, 48));
        assert_eq!(plan(Effort::Quick, 2).fill, None);
    }

    #[test]
    fn what_cannot_be_measured_is_asked_once_and_its_reason_kept() {
        let mut bench = numbers(|_, _| Err(NotMeasured::because("one GPU").into()));
        let (all, _) = collect(1, PLAN, &mut bench);
        assert_eq!(all[0].not_measured.as_deref(), Some("one GPU"));
        assert_eq!(bench.asked.len(), 1);
    }
}
