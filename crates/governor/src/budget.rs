//! The budget: a token bucket in GPU-ns that several processes share, in two words of 64 bits.
//!
//! A word holds no balance but a *horizon*: the time until which the clock has to run to pay for what was charged. A
//! charge of `c` GPU-ns moves the horizon `c ÷ cap` ahead. So nobody refills anything: the clock does, and whoever
//! looks sees it; the debt at any time is (horizon − now) × cap; and what waits in front of a launch is known when it
//! arrives, to the nanosecond, whoever launched it: a launch is booked once and told when it may go.
//!
//! Two horizons move together, each with its own rule:
//!
//! | | opens | credit | it is there because |
//! |---|---|---|---|
//! | [`Rule::Window`] | when the horizon is not ahead of now; where the tenant takes turns, not more than a period | one period | over *any* window the charge stays within cap × window + one quantum (with turns two) + the longest unit |
//! | [`Rule::Period`] | while the horizon is within this period | one period, and none once the window has refused | who is held back at all has one quantum in each period of 20 ms: at 90 % it runs 18 ms of 20, and not 180 of 200 |
//!
//! The window alone would be right on average and rough: whoever uses up its credit at 90 % runs nine periods and sleeps one.
//! The period alone would hold back a program that computes 8 ms and then waits 3, although it takes less than its
//! cap. So credit is kept until the window refuses for the first time; from then on, as long as the
//! tenant asks for more than its cap, each period stands for itself, in step with the clock. A tenant that takes turns with others has the GPU
//! early in one period and late in another: a window that lets in one quantum refused it half of the second (measured on an H100: 21.7 % under a cap of
//! 25 beside one of 50).
//!
//! Whoever is not let in at once is let in at the beginning of a period: to admit each launch as soon as a token is
//! there loses 5 to 45 % of the share of small kernels to bubbles in the pipeline (measured on an H100).
//!
//! The word carries the cap under which it was written, so that who first looks with another cap converts what is
//! owed: the debt in GPU-ns stays, the wait follows the new cap at once.
//!
//! ```text
//! 63        44 43                                   0
//! +-----------+--------------------------------------+
//! | cap, ppm  | horizon, 64 ns ticks, modulo 13 days |      0: nothing was charged yet
//! +-----------+--------------------------------------+
//! ```
//!
//! ```
//! use core::sync::atomic::{AtomicU64, Ordering::{AcqRel, Acquire}};
//! use cuota_governor::budget::{book_period, book_window, Look, Opening};
//! use cuota_governor::cap::Cap;
//!
//! # let clock_ns = || 1_000_000_000u64;
//! # let (window, period, mut last_ns) = (AtomicU64::new(0), AtomicU64::new(0), 0);
//! let cap = Cap::from_ppm(300_000)?;
//! // Loads, then reads the clock, then exchanges; again from the start where another process was faster.
//! let mut book = |word: &AtomicU64, rule: &dyn Fn(u64, Look) -> (u64, Opening)| loop {
//!     let seen = word.load(Acquire);
//!     let look = Look::after(last_ns, clock_ns(), cap);
//!     last_ns = look.now_ns;
//!     let (next, opening) = rule(seen, look);
//!     if word.compare_exchange(seen, next, AcqRel, Acquire).is_ok() {
//!         break opening;
//!     }
//! };
//! let opening = book(&window, &|word, look| book_window(word, look, 300_000));
//! let opening = book(&period, &|word, look| book_period(word, look, 300_000, opening));
//! assert_eq!(opening, Opening::Now { left_ns: 6_000_000 });
//! # Ok::<(), cuota_governor::cap::BadCap>(())
//! ```
//!
//! Words come from memory that any process of the tenant can write. None of the functions panics, loops, or believes
//! a horizon that lies further ahead than [`MAX_WAIT_NS`]: a word of random bits is a debt of at most ten minutes
//! with a probability of 0.05 %, and else nothing or one quantum.

use crate::cap::{Cap, MAX_WAIT_NS, PERIOD_NS};

const TICK_NS: u64 = 64;
const HORIZON_BITS: u32 = 44;
const HORIZON_MASK: u64 = (1 << HORIZON_BITS) - 1;
// 20 ms are 312,500 ticks: no remainder, so boundaries do not wander.
const PERIOD_TICKS: i64 = PERIOD_NS.cast_signed() / TICK_NS.cast_signed();
const MAX_WAIT_TICKS: i64 = MAX_WAIT_NS.cast_signed() / TICK_NS.cast_signed();

/// Somebody's look at the clock, under a cap.
///
/// Load the word *first*, then read the clock, and again after each failed exchange: then no word is ever from the
/// future, and what looks so is debt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Monotonic time, ns, the same for all processes of the tenant.
    pub now_ns: u64,
    /// The cap in force.
    pub cap: Cap,
    /// The clock is behind an earlier reading of this process (a restored checkpoint, another machine): what is
    /// owed was written by another clock and is forgiven.
    pub clock_went_back: bool,
    /// The tenant takes turns with others, so in one period its quantum comes early, in another late: [`Rule::Window`] lets in one more, and what was
    /// missed in a period is good in the next.
    pub takes_turns: bool,
}

impl Look {
    /// A look at `now_ns` by a process whose previous look was at `before_ns`.
    #[must_use]
    pub const fn after(before_ns: u64, now_ns: u64, cap: Cap) -> Self {
        Self { now_ns, cap, clock_went_back: now_ns < before_ns, takes_turns: false }
    }

    /// The same by a tenant that takes turns, or does not.
    #[must_use]
    pub const fn taking_turns(self, takes_turns: bool) -> Self {
        Self { takes_turns, ..self }
    }
}

/// When a launch may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// At once.
    Now {
        /// What is left of the budget, GPU-ns: take at most this in one go, or one unit.
        left_ns: u64,
    },
    /// When the clock says so.
    At {
        /// The time, ns.
        opens_ns: u64,
    },
}

impl Opening {
    /// What holds where both must allow it.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Now { left_ns: a }, Self::Now { left_ns: b }) => {
                Self::Now { left_ns: if a < b { a } else { b } }
            }
            (Self::At { opens_ns: a }, Self::At { opens_ns: b }) => {
                Self::At { opens_ns: if a > b { a } else { b } }
            }
            (Self::At { .. }, Self::Now { .. }) => self,
            (Self::Now { .. }, Self::At { .. }) => other,
        }
    }
}

/// What the end of a batch adds to, or takes from, what was booked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Correction {
    /// It cost as much as was booked.
    None,
    /// It cost more, GPU-ns.
    Owed(u64),
    /// It cost less, GPU-ns.
    Refund(u64),
}

impl Correction {
    /// From what was `booked` to what it `cost`, GPU-ns.
    #[must_use]
    pub const fn from(booked_ns: u64, cost_ns: u64) -> Self {
        if cost_ns > booked_ns {
            Self::Owed(cost_ns - booked_ns)
        } else if cost_ns < booked_ns {
            Self::Refund(booked_ns - cost_ns)
        } else {
            Self::None
        }
    }
}

/// The law that a word follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The bound over every window.
    Window,
    /// The quantum of each period.
    Period,
}

/// Where a rule draws its lines at one moment, as distances from now in ticks.
struct Lines {
    /// The most credit: no horizon counts as further back than this.
    floor: i64,
    /// The furthest horizon under which a launch goes at once.
    opening: i64,
}

impl Rule {
    const fn lines(self, look: Look) -> Lines {
        let into = (look.now_ns % PERIOD_NS / TICK_NS).cast_signed();
        match self {
            Self::Window if look.takes_turns => Lines { floor: -PERIOD_TICKS, opening: PERIOD_TICKS },
            Self::Window => Lines { floor: -PERIOD_TICKS, opening: 0 },
            Self::Period => Lines { floor: -into - PERIOD_TICKS, opening: PERIOD_TICKS - into - 1 },
        }
    }

    /// When a launch that arrives now may go, as the word stands.
    #[must_use]
    pub fn peek(self, word: u64, look: Look) -> Opening {
        let lines = self.lines(look);
        self.opening(distance(word, look, &lines), look, &lines)
    }

    /// Corrects what was booked, after a batch has ended: the new word.
    #[must_use]
    pub fn correct(self, word: u64, look: Look, correction: Correction) -> u64 {
        let lines = self.lines(look);
        let before = distance(word, look, &lines);
        let after = match correction {
            Correction::None => before,
            Correction::Owed(gpu_ns) => before + ticks_to_earn(look.cap, gpu_ns),
            Correction::Refund(gpu_ns) => before - ticks_to_earn(look.cap, gpu_ns),
        };
        encode(after.max(lines.floor), look)
    }

    /// When somebody who has booked `gpu_ns` already, and waits, may go as the word stands *now*: earlier than it was
    /// told where batches turned out cheaper than booked.
    #[must_use]
    pub fn peek_booked(self, word: u64, look: Look, gpu_ns: u64) -> Opening {
        self.peek(self.correct(word, look, Correction::Refund(gpu_ns)), look)
    }

    fn opening(self, distance: i64, look: Look, lines: &Lines) -> Opening {
        if distance <= lines.opening {
            let left_ticks = (lines.opening - distance).cast_unsigned();
            return Opening::Now { left_ns: look.cap.earned_in(left_ticks * TICK_NS) };
        }
        let paid_ns = look.now_ns.saturating_add(distance.cast_unsigned() * TICK_NS);
        let opens_ns = match self {
            Self::Window => {
                let open_ns = paid_ns.saturating_sub(lines.opening.cast_unsigned() * TICK_NS);
                open_ns.checked_next_multiple_of(PERIOD_NS).unwrap_or(u64::MAX)
            }
            // The period in which the horizon lies has some of its quantum left.
            Self::Period => paid_ns - paid_ns % PERIOD_NS,
        };
        Opening::At { opens_ns }
    }
}

/// Books `gpu_ns` in the word of [`Rule::Window`]: the word to put in its place, and when what was booked may go.
/// [`book_period`] comes next.
///
/// Whoever books is in the queue: everything that is booked later comes after it. Exchange the word for the new
/// one; where that fails, load, read the clock and book again.
#[must_use]
pub fn book_window(word: u64, look: Look, gpu_ns: u64) -> (u64, Opening) {
    let lines = Rule::Window.lines(look);
    let before = distance(word, look, &lines);
    let after = before + ticks_to_earn(look.cap, gpu_ns);
    (encode(after, look), Rule::Window.opening(before, look, &lines))
}

/// Books the same in the word of [`Rule::Period`]. `window` is what [`book_window`] said; what comes back holds for
/// both. Who is refused by the window begins without credit in the period in which it opens.
#[must_use]
pub fn book_period(word: u64, look: Look, gpu_ns: u64, window: Opening) -> (u64, Opening) {
    let lines = Rule::Period.lines(look);
    let mut before = distance(word, look, &lines);
    if let Opening::At { opens_ns } = window
        && !look.takes_turns
    {
        before =
            before.max((opens_ns / TICK_NS - look.now_ns / TICK_NS).min(MAX_WAIT_NS / TICK_NS).cast_signed());
    }
    let after = before + ticks_to_earn(look.cap, gpu_ns);
    (encode(after, look), window.and(Rule::Period.opening(before, look, &lines)))
}

/// Both words as they were loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Follows [`Rule::Window`].
    pub window: u64,
    /// Follows [`Rule::Period`].
    pub period: u64,
}

impl Budget {
    /// When a launch that arrives now may go.
    #[must_use]
    pub fn peek(self, look: Look) -> Opening {
        Rule::Window.peek(self.window, look).and(Rule::Period.peek(self.period, look))
    }

    /// When somebody who has booked `gpu_ns` already, and waits, may go as the words stand now.
    #[must_use]
    pub fn peek_booked(self, look: Look, gpu_ns: u64) -> Opening {
        let window = Rule::Window.peek_booked(self.window, look, gpu_ns);
        window.and(Rule::Period.peek_booked(self.period, look, gpu_ns))
    }

    /// What is owed, GPU-ns: what the clock has yet to earn before a launch that arrives now may go.
    #[must_use]
    pub fn debt_ns(self, look: Look) -> u64 {
        let owed = |rule: Rule, word| {
            let lines = rule.lines(look);
            let ahead = distance(word, look, &lines) - lines.opening;
            look.cap.earned_in(ahead.max(0).cast_unsigned() * TICK_NS)
        };
        owed(Rule::Window, self.window).max(owed(Rule::Period, self.period))
    }
}

/// The cap under which a word was written. `None`: nothing was ever booked in it, or it is rubbish.
#[must_use]
pub fn written_under(word: u64) -> Option<Cap> {
    // 20 bits: the conversion cannot fail.
    Cap::from_ppm(u32::try_from(word >> HORIZON_BITS).unwrap_or(0)).ok()
}

fn ticks_to_earn(cap: Cap, gpu_ns: u64) -> i64 {
    cap.time_to_earn(gpu_ns).div_ceil(TICK_NS).cast_signed()
}

fn encode(distance: i64, look: Look) -> u64 {
    let distance = distance.min(MAX_WAIT_TICKS);
    let horizon = (look.now_ns / TICK_NS).wrapping_add_signed(distance) & HORIZON_MASK;
    u64::from(look.cap.ppm()) << HORIZON_BITS | horizon
}

/// How far the horizon lies ahead of now, ticks, between the rule's floor and the longest wait.
fn distance(word: u64, look: Look, lines: &Lines) -> i64 {
    if word == 0 {
        return lines.floor;
    }
    let Some(written_under) = written_under(word) else { return lines.opening };
    let apart = word.wrapping_sub(look.now_ns / TICK_NS) & HORIZON_MASK;
    // Shifted to the top and back: the 44 bits with their sign.
    let ahead = (apart << (64 - HORIZON_BITS)).cast_signed() >> (64 - HORIZON_BITS);
    if ahead > MAX_WAIT_TICKS || look.clock_went_back && ahead > lines.opening {
        return lines.opening;
    }
    let ahead = ahead.max(lines.floor);
    converted(ahead - lines.opening, written_under, look.cap)
        .saturating_add(lines.opening)
        .min(MAX_WAIT_TICKS)
        .max(lines.floor)
}

/// The same GPU-ns as a distance under another cap. What is owed rounds up.
const fn converted(ticks: i64, from: Cap, to: Cap) -> i64 {
    if from.ppm() == to.ppm() {
        return ticks;
    }
    // At most ten minutes of ticks (34 bits) × 10^6 (20 bits).
    let product = ticks * from.ppm() as i64;
    let to = to.ppm() as i64;
    if product > 0 { (product + to - 1) / to } else { product / to }
}
