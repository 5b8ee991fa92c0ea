//! The promises of the budget, over any time, any order and any number of processes.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use cuota_governor::budget::{Budget, Correction, Look, Opening, Rule, book_period, book_window};
use cuota_governor::cap::{Cap, MAX_WAIT_NS, PERIOD_NS};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const RULES: [Rule; 2] = [Rule::Window, Rule::Period];
/// Horizons are kept in ticks of this many ns, rounded up at each charge.
const TICK_NS: u64 = 64;

fn cap(ppm: u32) -> Cap {
    Cap::from_ppm(ppm).expect("a cap between 1 and 1,000,000")
}

fn look(now_ns: u64, cap: Cap) -> Look {
    Look { now_ns, cap, clock_went_back: false, takes_turns: false }
}

fn book(budget: &mut Budget, look: Look, gpu_ns: u64) -> Opening {
    let (window, opening) = book_window(budget.window, look, gpu_ns);
    let (period, opening) = book_period(budget.period, look, gpu_ns, opening);
    *budget = Budget { window, period };
    opening
}

/// One of the two words; for the period's, the window had no objection.
fn book_word(rule: Rule, word: u64, look: Look, gpu_ns: u64) -> (u64, Opening) {
    match rule {
        Rule::Window => book_window(word, look, gpu_ns),
        Rule::Period => book_period(word, look, gpu_ns, Opening::Now { left_ns: u64::MAX }),
    }
}

fn opens_ns(opening: Opening, now_ns: u64) -> u64 {
    match opening {
        Opening::Now { .. } => now_ns,
        Opening::At { opens_ns } => opens_ns,
    }
}

/// Something let in: when, and what it was charged.
type Admitted = (u64, u64);

/// The most that any window holds beyond cap × window, GPU-ns.
fn worst_excess(admitted: &[Admitted], cap: Cap) -> i128 {
    let mut sorted = admitted.to_vec();
    sorted.sort_unstable();
    let earned = |ns: u64| i128::from(ns) * i128::from(cap.ppm()) / 1_000_000;
    let (mut sum, mut lowest, mut worst) = (0i128, i128::MAX, i128::MIN);
    for (at_ns, gpu_ns) in sorted {
        lowest = lowest.min(sum - earned(at_ns));
        sum += i128::from(gpu_ns);
        worst = worst.max(sum - earned(at_ns) - lowest);
    }
    worst
}

/// Processes that each think for a while, book one unit, and wait until it opens; whether they take turns depends on when, and on which it is.
fn run(
    cap: Cap,
    start_ns: u64,
    plans: &[Vec<(u64, u64)>],
    takes_turns: impl Fn(u64, usize) -> bool,
) -> Vec<Admitted> {
    let mut budget = Budget::default();
    let mut admitted = Vec::new();
    let mut ready: Vec<_> =
        plans.iter().map(|plan| (start_ns + plan.first().map_or(0, |p| p.0), 0)).collect();
    loop {
        let next = ready.iter().zip(plans).enumerate().filter(|(_, ((_, step), plan))| *step < plan.len());
        let Some((who, ((now_ns, step), plan))) = next.min_by_key(|(_, ((at, _), _))| *at) else { break };
        let (now_ns, step, gpu_ns) = (*now_ns, *step, plan[*step].1);
        let look = look(now_ns, cap).taking_turns(takes_turns(now_ns, who));
        let goes_ns = opens_ns(book(&mut budget, look, gpu_ns), now_ns);
        admitted.push((goes_ns, gpu_ns));
        ready[who] = (goes_ns + plan.get(step + 1).map_or(0, |p| p.0), step + 1);
    }
    admitted
}

fn plans() -> impl Strategy<Value = Vec<Vec<(u64, u64)>>> {
    let think = prop_oneof![Just(0), 0..300_000u64, 0..60 * MS];
    let cost = prop_oneof![1..20_000u64, 100_000..1_000_000u64, 1..40 * MS];
    prop::collection::vec(prop::collection::vec((think, cost), 1..60), 1..9)
}

proptest! {
    #[test]
    fn over_any_window_the_charge_stays_within_cap_times_window_plus_a_quantum_plus_the_longest_unit(
        ppm in 1_000..1_000_000u32, start in 0..u64::MAX / 2, plans in plans(),
    ) {
        let admitted = run(cap(ppm), start, &plans, |_, _| false);
        let longest = admitted.iter().map(|a| a.1).max().unwrap_or(0);
        // One tick: the clock is read in ns and kept in ticks.
        let bound = cap(ppm).quantum_ns() + longest + TICK_NS;
        prop_assert!(worst_excess(&admitted, cap(ppm)) <= i128::from(bound));
    }

    #[test]
    fn with_turns_that_come_and_go_it_is_two_quanta(
        ppm in 1_000..1_000_000u32, start in 0..u64::MAX / 2, plans in plans(), every in MS..200 * MS, odd: bool,
    ) {
        // In spells; with `odd` one process sees them while the next does not.
        let takes_turns = |now_ns: u64, who: usize| (now_ns / every + if odd { who as u64 } else { 0 }).is_multiple_of(2);
        let admitted = run(cap(ppm), start, &plans, takes_turns);
        let longest = admitted.iter().map(|a| a.1).max().unwrap_or(0);
        let bound = 2 * cap(ppm).quantum_ns() + longest + 2 * TICK_NS;
        prop_assert!(worst_excess(&admitted, cap(ppm)) <= i128::from(bound));
    }

    #[test]
    fn every_booking_opens_within_its_debt_at_arrival_divided_by_the_cap_plus_one_period(
        ppm in 1..1_000_000u32, now in 0..u64::MAX / 2,
        steps in prop::collection::vec((0..50 * MS, 0..100 * MS), 1..100),
    ) {
        let cap = cap(ppm);
        let (mut budget, mut now_ns) = (Budget::default(), now);
        for (wait_ns, gpu_ns) in steps {
            now_ns += wait_ns;
            let look = look(now_ns, cap);
            let debt_ns = budget.debt_ns(look);
            let opens = opens_ns(book(&mut budget, look, gpu_ns), now_ns);
            prop_assert!(opens - now_ns <= cap.time_to_earn(debt_ns + 1) + PERIOD_NS + TICK_NS);
        }
    }

    #[test]
    fn a_saturated_tenant_gets_its_share_of_every_period(ppm in 20_000..900_000u32, unit in 1_000..300_000u64) {
        let cap = cap(ppm);
        let (mut budget, mut now_ns) = (Budget::default(), 0);
        let mut charged = vec![0u64; 60];
        while now_ns < 50 * PERIOD_NS {
            // The GPU is busy with what was let in before the next is booked: it is a real one, of rate 1.
            now_ns = opens_ns(book(&mut budget, look(now_ns, cap), unit), now_ns);
            charged[usize::try_from(now_ns / PERIOD_NS).unwrap()] += unit;
            now_ns += unit;
        }
        // It first uses up what it was credited for the time before: nine periods at 90 %.
        for &period in charged.get(12..50).unwrap() {
            // Each booking rounds up to a tick: the larger the batches, the less it is.
            let rounding = (cap.quantum_ns() / unit + 1) * TICK_NS;
            // A unit at each end, and one that the period before had too much or too little.
            prop_assert!(period.abs_diff(cap.quantum_ns()) <= 3 * unit + rounding, "{period} of {cap:?}");
        }
    }

    #[test]
    fn a_debt_in_gpu_time_survives_a_change_of_the_cap(
        before in 10_000..1_000_000u32, after in 10_000..1_000_000u32, debt in 0..500 * MS, now in 0..u64::MAX / 2,
    ) {
        for rule in RULES {
            let (word, _) = book_word(rule, 0, look(now, cap(before)), debt);
            let budget = match rule {
                Rule::Window => Budget { window: word, period: 0 },
                Rule::Period => Budget { window: 0, period: word },
            };
            let (was, is) = (budget.debt_ns(look(now, cap(before))), budget.debt_ns(look(now, cap(after))));
            // A tick is 64 ns of the clock, so at most 64 ns of the GPU.
            prop_assert!(was.abs_diff(is) <= 2 * TICK_NS, "{was} became {is}");
        }
    }

    #[test]
    fn a_lowered_cap_leaves_at_most_its_own_quantum(before in 1..1_000_000u32, after in 1..1_000_000u32, now: u64) {
        let mut budget = Budget::default();
        let _ = book(&mut budget, look(now, cap(before)), 0);
        if let Opening::Now { left_ns } = budget.peek(look(now, cap(after))) {
            prop_assert!(left_ns <= cap(after).quantum_ns());
        }
    }

    #[test]
    fn a_charge_and_its_refund_leave_the_word_as_it_was(ppm in 1_000..1_000_000u32, now: u64, gpu_ns in 0..500 * MS) {
        for rule in RULES {
            let look = look(now, cap(ppm));
            let (base, _) = book_word(rule, 0, look, 3 * MS);
            let (word, _) = book_word(rule, base, look, gpu_ns);
            prop_assert_eq!(rule.correct(word, look, Correction::Refund(gpu_ns)), base);
        }
    }

    #[test]
    fn rubbish_in_the_words_gives_at_most_a_quantum_and_stops_nobody_for_longer_than_ten_minutes(
        window: u64, period: u64, now: u64, ppm in 1..1_000_000u32, gpu_ns: u64, back: bool,
    ) {
        let look = Look { clock_went_back: back, ..look(now, cap(ppm)) };
        let mut budget = Budget { window, period };
        match book(&mut budget, look, gpu_ns) {
            Opening::Now { left_ns } => prop_assert!(left_ns <= look.cap.quantum_ns()),
            Opening::At { opens_ns } => prop_assert!(opens_ns.saturating_sub(now) <= MAX_WAIT_NS + PERIOD_NS),
        }
        for (rule, word) in RULES.into_iter().zip([window, period]) {
            let _ = rule.correct(word, look, Correction::Owed(gpu_ns));
            let _ = rule.correct(word, look, Correction::Refund(gpu_ns));
            let _ = rule.peek_booked(word, look, gpu_ns);
        }
    }

    #[test]
    fn rubbish_in_one_word_is_bounded_by_the_other(
        rubbish: u64, now in 0..u64::MAX / 2, ppm in 1..1_000_000u32, costs in prop::collection::vec(1..MS, 1..50),
    ) {
        // The window's rule alone keeps the bound, whatever the period's word says at any time.
        let (mut budget, mut sum) = (Budget { window: 0, period: rubbish }, 0);
        for gpu_ns in costs {
            if let Opening::Now { .. } = book(&mut budget, look(now, cap(ppm)), gpu_ns) {
                prop_assert!(sum <= cap(ppm).quantum_ns());
                sum += gpu_ns;
            }
            budget.period = rubbish.rotate_left(7);
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_at_most_a_quantum_and_stops_nobody(
        ppm in 1_000..1_000_000u32, now in u64::MAX / 4..u64::MAX / 2, debt in 0..5_000 * MS,
        back in prop_oneof![1..600_000 * MS, 1..u64::MAX / 2],
    ) {
        let cap = cap(ppm);
        let mut budget = Budget::default();
        let _ = book(&mut budget, look(now, cap), debt);
        let back_at = now.saturating_sub(back);
        if back_at < now {
            let after = Look::after(now, back_at, cap);
            prop_assert!(after.clock_went_back);
            match book(&mut budget, after, MS) {
                Opening::Now { left_ns } => prop_assert!(left_ns <= cap.quantum_ns()),
                Opening::At { .. } => prop_assert!(false, "stopped by a clock that went back"),
            }
            // From then on the words are of the new clock.
            prop_assert!(budget.debt_ns(look(back_at, cap)) <= MS + TICK_NS);
        }
    }

    #[test]
    fn a_jump_ahead_gives_at_most_a_quantum(ppm in 1..1_000_000u32, now: u64, jump: u64, debt in 0..100 * MS) {
        let mut budget = Budget::default();
        let _ = book(&mut budget, look(now, cap(ppm)), debt);
        if let Opening::Now { left_ns } = budget.peek(look(now.saturating_add(jump), cap(ppm))) {
            prop_assert!(left_ns <= cap(ppm).quantum_ns());
        }
    }

    /// Each process loads, may be overtaken before it exchanges, and then starts again: as with hardware's
    /// compare-exchange, in an order that the test chooses.
    #[test]
    fn however_processes_interleave_no_charge_is_lost_and_none_counts_twice(
        ppm in 10_000..1_000_000u32, order in prop::collection::vec((0..6usize, 1..2 * MS), 1..400),
    ) {
        for rule in RULES {
            let look = look(40 * PERIOD_NS, cap(ppm));
            let (mut word, mut done) = (0u64, Vec::new());
            let mut held: [Option<(u64, u64)>; 6] = [None; 6];
            for &(who, gpu_ns) in &order {
                match held[who].take() {
                    None => held[who] = Some((word, gpu_ns)),
                    Some((loaded, gpu_ns)) if loaded == word => {
                        (word, _) = book_word(rule, loaded, look, gpu_ns);
                        done.push(gpu_ns);
                    }
                    Some(_) => {}
                }
            }
            done.sort_unstable();
            let one_by_one = done.iter().fold(0, |word, &gpu_ns| book_word(rule, word, look, gpu_ns).0);
            prop_assert_eq!(word, one_by_one);
        }
    }
}

#[test]
fn a_fresh_budget_has_one_quantum() {
    let Opening::Now { left_ns } = Budget::default().peek(look(5 * PERIOD_NS, cap(250_000))) else {
        panic!("closed at first")
    };
    assert_eq!(left_ns, 5 * MS);
}

#[test]
fn a_raised_cap_is_in_force_within_one_period() {
    let mut budget = Budget::default();
    let now_ns = 100 * PERIOD_NS;
    // One quantum and 18 ms of debt: nine periods at 10 %, one at 90 %.
    book(&mut budget, look(now_ns, cap(100_000)), 20 * MS);
    assert_eq!(budget.peek(look(now_ns, cap(100_000))), Opening::At { opens_ns: now_ns + 9 * PERIOD_NS });
    assert_eq!(budget.peek(look(now_ns, cap(900_000))), Opening::At { opens_ns: now_ns + PERIOD_NS });
}

#[test]
fn the_books_do_not_drift_in_a_simulated_week() {
    const WEEK_NS: u64 = 7 * 86_400 * 1_000 * MS;
    let cap = cap(333_333);
    let (mut budget, mut now_ns, mut charged) = (Budget::default(), 0, 0u128);
    while now_ns < WEEK_NS {
        let unit_ns = 31 * MS + now_ns % 7_919;
        now_ns = opens_ns(book(&mut budget, look(now_ns, cap), unit_ns), now_ns);
        charged += u128::from(unit_ns);
    }
    let earned = u128::from(now_ns) * 333_333 / 1_000_000;
    // Each charge rounds up to a tick: 64 ns in 93 ms, and never in the tenant's favour.
    let rounding = earned * u128::from(TICK_NS) / u128::from(31 * MS);
    assert!(charged <= earned + u128::from(cap.quantum_ns() + 32 * MS), "{charged} of {earned}");
    assert!(charged + rounding + u128::from(cap.quantum_ns()) >= earned, "{charged} of {earned}");
}

/// At two thirds a run of two whole periods follows one of waiting; nothing but the end of all credit ends that.
#[test]
fn a_refusal_puts_the_tenant_in_step_with_the_periods() {
    let (cap, unit) = (cap(665_821), 195_805);
    let (mut budget, mut now_ns) = (Budget::default(), 0);
    let mut charged = vec![0u64; 30];
    while now_ns < 25 * PERIOD_NS {
        now_ns = opens_ns(book(&mut budget, look(now_ns, cap), unit), now_ns);
        charged[usize::try_from(now_ns / PERIOD_NS).unwrap()] += unit;
        now_ns += unit;
    }
    for &period in charged.get(4..25).unwrap() {
        assert!(period.abs_diff(cap.quantum_ns()) <= 2 * unit, "{charged:?}");
    }
}

#[test]
fn a_tenant_that_comes_back_after_any_time_is_not_stopped() {
    let cap = cap(100_000);
    let mut budget = Budget::default();
    book(&mut budget, look(0, cap), 30 * MS);
    for days in [1, 6, 7, 12, 13, 14, 26, 400, 80_000] {
        let now_ns = days * 86_400 * 1_000 * MS + 7 * MS;
        assert!(matches!(budget.peek(look(now_ns, cap)), Opening::Now { .. }), "after {days} days");
    }
}

#[test]
fn threads_that_book_at_once_lose_nothing() {
    let cap = cap(500_000);
    let look = look(1_000 * PERIOD_NS, cap);
    let word = AtomicU64::new(0);
    let booking = |_| {
        for _ in 0..2_000 {
            let booked = word.fetch_update(SeqCst, SeqCst, |w| Some(book_window(w, look, 1_600).0));
            assert!(booked.is_ok(), "it always has a next word");
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|n| drop(scope.spawn(move || booking(n)))));
    // 16,000 × 1.6 µs, less the quantum of 10 ms that a fresh word has. 3.2 µs of the clock are whole ticks.
    let budget = Budget { window: word.load(SeqCst), period: 0 };
    assert_eq!(budget.debt_ns(look), 16_000 * 1_600 - 10 * MS);
}

/// GPU time that a tenant under a cap of 25 % is let in for that has the GPU from 10 ms into one period on, and from the beginning of the next, in turn.
fn early_and_late(takes_turns: bool) -> Vec<u64> {
    const UNIT_NS: u64 = MS / 10;
    let (cap, mut budget) = (cap(250_000), Budget::default());
    (50..70_u64)
        .map(|period| {
            let (begin_ns, end_ns) = (period * PERIOD_NS, (period + 1) * PERIOD_NS);
            let mut now_ns = begin_ns + period % 2 * 10 * MS;
            let mut had_ns = 0;
            while now_ns < end_ns {
                let look = look(now_ns, cap).taking_turns(takes_turns);
                if !matches!(budget.peek(look), Opening::Now { .. }) {
                    break;
                }
                book(&mut budget, look, UNIT_NS);
                (now_ns, had_ns) = (now_ns + UNIT_NS, had_ns + UNIT_NS);
            }
            had_ns
        })
        .collect()
}

#[test]
fn a_tenant_whose_turn_comes_late_in_one_period_and_early_in_the_next_has_its_quantum_in_both() {
    let quantum_ns = cap(250_000).quantum_ns();
    // After the first, which have what was saved.
    let had = early_and_late(true);
    assert!(had[4..].iter().all(|had_ns| had_ns.abs_diff(quantum_ns) <= MS / 5), "{had:?}");
    // A window of one quantum alone refuses it some of each second one.
    let without = early_and_late(false);
    assert!(without[4..].iter().sum::<u64>() < 15 * quantum_ns, "{without:?}");
}
